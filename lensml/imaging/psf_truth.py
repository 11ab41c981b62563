"""Which PSF a band has, and how that is known: the file's stamp, stars in the image, a survey's map, or its table."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lensml import config
from lensml.imaging import noise, psf_stamp, stars

Float = NDArray[np.float32]
PerBand = NDArray[np.float64]  # (object, band)


@dataclass(frozen=True)
class Psfs:
    """Per (object, band).

    Attributes
    ----------
    stamp : (object, band, py, px), unit sum; all zero where there is none
    origin : one of schema.PSF_ORIGINS
    fwhm_halfmax : arcsec; of the stamp, else as the map or the table says
    fwhm_moment : arcsec; NaN without a stamp
    lost : share of the flux that cutting a file's stamp took; NaN where that stamp has no positive finite sum
    """

    stamp: Float
    origin: NDArray[np.str_]
    fwhm_halfmax: PerBand
    fwhm_moment: PerBand
    lost: PerBand


def of_file(
    psf: Float | None,
    mapped_fwhm: PerBand | None,
    bands: tuple[str, ...],
    pixel_scale: NDArray[np.float64],
    survey: config.Survey,
    psf_pixels_max: int,
) -> Psfs:
    """What the files say; the survey's table where they are silent.

    Parameters
    ----------
    psf : (object, band, py, px), any normalisation, all zero where a band has none; or None
    mapped_fwhm : (object, band) arcsec by a survey's map, NaN where there is none; or None
    pixel_scale : (object,) arcsec
    """
    shape = (len(pixel_scale), len(bands))
    typical = np.tile([survey.bands[band].psf_fwhm for band in bands], (shape[0], 1)).astype(np.float64)
    mapped = np.full(shape, np.nan) if mapped_fwhm is None else mapped_fwhm
    known = np.isfinite(mapped) & (mapped > 0)
    stamp = np.zeros((*shape, 1, 1), dtype=np.float32) if psf is None else psf_stamp.odd_square(psf)
    has = (stamp != 0).any(axis=(-2, -1))  # NaN is not 0: a broken stamp is one
    unit, lost = psf_stamp.normalise(psf_stamp.clean(stamp), psf_pixels_max)
    halfmax, moment = measured(unit, pixel_scale)
    return Psfs(
        stamp=unit,
        origin=np.where(has, "file", np.where(known, "map", "table")),
        fwhm_halfmax=np.where(has, halfmax, np.where(known, mapped, typical)),
        fwhm_moment=np.where(has, moment, np.nan),
        lost=np.where(has, lost, 0.0),
    )


def with_stars(
    known: Psfs,
    flux: Float,
    found: noise.Noise,
    bad: NDArray[np.bool_],
    pixel_scale: NDArray[np.float64],
    typical_fwhm: NDArray[np.float64],
    rules: config.StarRules,
) -> Psfs:
    """The same, with PSFs of stars in the image for bands that have no stamp.

    Parameters
    ----------
    flux, bad : (object, band, y, x)
    typical_fwhm : (band,) arcsec at half maximum, the survey's
    """
    lacking = known.origin != "file"
    rows = np.flatnonzero(lacking.any(axis=1))
    if not rows.size:
        return known
    sky = flux[rows] - found.level[rows].astype(np.float32)[..., None, None]
    psf, count = stars.psf_from_stars(sky, found.sky_sigma[rows], bad[rows], pixel_scale[rows], typical_fwhm, rules)
    seen = np.zeros(lacking.shape, dtype=bool)
    seen[rows] = (count > 0) & lacking[rows]
    if not seen.any():
        return known
    side = max(known.stamp.shape[-1], psf.shape[-1])
    stamp, own = psf_stamp.pad(known.stamp, side).copy(), np.zeros((*lacking.shape, side, side), dtype=np.float32)
    own[rows] = psf_stamp.pad(psf, side)
    stamp[seen] = own[seen]
    halfmax, moment = measured(stamp, pixel_scale)
    return Psfs(
        stamp=stamp,
        origin=np.where(seen, "stars", known.origin),
        fwhm_halfmax=np.where(seen, halfmax, known.fwhm_halfmax),
        fwhm_moment=np.where(seen, moment, known.fwhm_moment),
        lost=known.lost,
    )


def measured(stamp: Float, pixel_scale: NDArray[np.float64]) -> tuple[PerBand, PerBand]:
    """FWHM at half maximum and by moments, arcsec, of stamps (object, band, n, n); NaN where there is none."""
    scale = pixel_scale[:, None]
    halfmax = psf_stamp.fwhm_halfmax(stamp)
    with np.errstate(divide="ignore", invalid="ignore"):
        moment = psf_stamp.fwhm_moment(stamp)
    return halfmax * scale, moment * scale
