"""Why a PSF is not matched, in words: before, from what was observed, and after, from what became of it."""

import numpy as np
from numpy.typing import NDArray

from lensml import config

FWHM_PIXELS_MIN = 2.0  # Nyquist: a narrower PSF is not sampled

PerBand = NDArray[np.float64]  # (object, band)


def before(
    bands: tuple[str, ...],
    pixel_scale: NDArray[np.float64],
    centre: NDArray[np.float64],
    fwhm_arcsec: PerBand,
    params: config.PsfMatch,
    target: float,
) -> list[str]:
    """Per object why its PSFs cannot be brought to `target` (FWHM in arcsec), or "".

    Parameters
    ----------
    pixel_scale : (object,) arcsec
    centre : (object, band, (y, x)) pixels from the stamp's centre
    """
    coarse = [
        f"target PSF must span {FWHM_PIXELS_MIN:g} pixels, got {target:g} arcsec on pixels of {pixel:.3g} arcsec"
        if target * (1 + params.fwhm_tolerance) < FWHM_PIXELS_MIN * pixel
        else ""
        for pixel in pixel_scale
    ]
    off = np.hypot(centre[..., 0], centre[..., 1])
    centred = f"PSF in band {{}} must be within {params.off_centre_max:g} pixels of its stamp's centre, got {{:.3g}}"
    narrow = f"PSF in band {{}} must be narrower than the target of {target:g} arcsec, got FWHM {{:.4g}} arcsec"
    aside = _worst(bands, off, params.off_centre_max, centred)
    broad = _worst(bands, fwhm_arcsec, target * (1 + params.fwhm_tolerance), narrow)
    return [a or b or c for a, b, c in zip(coarse, aside, broad, strict=True)]


def after(
    bands: tuple[str, ...], gain: PerBand, residual: PerBand, params: config.PsfMatch, target: float
) -> list[str]:
    """Per object why its matched PSFs are not good enough, or ""."""
    quiet = (
        f"PSF in band {{}} must reach {target:g} arcsec amplifying nothing over {params.gain_max:g} times, got {{:.3g}}"
    )
    near = f"matched PSF in band {{}} must be within {params.residual_max:g} of its target, got {{:.3g}}"
    loud = _worst(bands, gain, params.gain_max, quiet)
    far = _worst(bands, residual, params.residual_max, near)
    return [a or b for a, b in zip(loud, far, strict=True)]


def _worst(bands: tuple[str, ...], values: PerBand, limit: float, words: str) -> list[str]:
    """Per object `words` with the worst band and its value, or "" within the limit; NaN is not within."""
    rows = zip(values.argmax(axis=1), values.max(axis=1), strict=True)
    return [words.format(bands[band], value) if not value <= limit else "" for band, value in rows]
