"""The 16-bit code of pixels: arcsinh of flux over sky sigma, so that faint and bright both keep their precision."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Codes = NDArray[np.int16]

STEP: Final = 1e-3  # of arcsinh(flux / sky_sigma) and of ln(variance / sky_sigma^2)
BAD: Final = 32767  # variance code of a pixel that must not be used
FLUX_LIMIT: Final = 1e13  # |flux| / sky_sigma up to which the code holds
# A bad pixel's code as ln(variance / sky_sigma^2), a weight below 1e-14; in float32, so that `==` finds it
BAD_LOG_VARIANCE: Final = float(np.float32(BAD) * np.float32(STEP))
PSF_FLOOR: Final = 1e-4  # of the peak: below it the PSF's code is linear
PSF_STEPS: Final = 3000.0

_LOG_LIMIT: Final = (BAD - 1) * STEP
# What each code means, in the order of the code read as unsigned: a table is faster than sinh and exp.
_CODES: Final = np.arange(65536, dtype=np.uint16).view(np.int16)
_SINH: Final = np.sinh(_CODES * STEP).astype(np.float32)
_EXP: Final = np.where(_CODES == BAD, np.inf, np.exp(_CODES * STEP)).astype(np.float32)


def encode_flux(flux: Float, sky_sigma: NDArray[np.floating]) -> Codes:
    """Flux as int16 codes; the error is at most sky_sigma / 2000 for faint and 5e-4 of the flux for bright pixels.

    Parameters
    ----------
    flux : (object, band, y, x), nJy
    sky_sigma : (object, band), nJy per pixel, > 0

    Raises
    ------
    ValueError
        A flux is not finite or beyond `FLUX_LIMIT` sky sigmas, or a sky sigma is not positive: nothing is clipped.
    """
    ratio = flux / _per_pixel(sky_sigma)
    wrong = ~(np.abs(ratio) <= FLUX_LIMIT)  # NaN compares false
    if wrong.any():
        raise ValueError(
            f"flux must be finite and within {FLUX_LIMIT:g} sky sigmas, got {flux[wrong][0]:g} in {_place(wrong)}. "
            "Mark the pixel bad and set its flux to 0."
        )
    return np.rint(np.arcsinh(ratio.astype(np.float32)) / np.float32(STEP)).astype(np.int16)


def decode_flux(codes: Codes, sky_sigma: NDArray[np.floating]) -> Float:
    """Flux in nJy, float32, of codes (object, band, y, x) and sky_sigma (object, band)."""
    return np.take(_SINH, codes.view(np.uint16)) * _per_pixel(sky_sigma).astype(np.float32)


def encode_variance(variance: Float, sky_sigma: NDArray[np.floating]) -> Codes:
    """Variance as int16 codes; not finite becomes `BAD`, every other within 5e-4 of its value.

    Raises
    ------
    ValueError
        A variance is zero, negative or further than a factor 1e14 from sky_sigma^2.
    """
    ratio = variance / _per_pixel(sky_sigma) ** 2
    good = np.isfinite(ratio)
    with np.errstate(over="ignore", divide="ignore"):  # both are beyond the limit
        log = np.log(np.where(good & (ratio > 0), ratio, 1.0).astype(np.float32))
    wrong = good & ((ratio <= 0) | (np.abs(log) > _LOG_LIMIT))
    if wrong.any():
        raise ValueError(
            f"variance must be positive and near the sky's, got {variance[wrong][0]:g} in {_place(wrong)}. "
            "Mark the pixel bad: its variance is infinite."
        )
    return np.where(good, np.rint(log / np.float32(STEP)), BAD).astype(np.int16)


def decode_variance(codes: Codes, sky_sigma: NDArray[np.floating]) -> Float:
    """Variance in nJy^2, float32, infinite where the pixel is bad."""
    return np.take(_EXP, codes.view(np.uint16)) * (_per_pixel(sky_sigma) ** 2).astype(np.float32)


def encode_psf(psf: Float) -> Codes:
    """PSF (object, band, y, x) as int16 codes of its ratio to its peak; all zero where there is none.

    Raises
    ------
    ValueError
        A value is not finite.
    """
    if not np.isfinite(psf).all():
        raise ValueError(f"psf must be finite, got {psf[~np.isfinite(psf)][0]:g} in {_place(~np.isfinite(psf))}.")
    peak = np.abs(psf).max(axis=(-2, -1), keepdims=True).astype(np.float64)
    ratio = psf / np.where(peak > 0, peak, 1.0)
    return np.rint(np.arcsinh(ratio / PSF_FLOOR) * PSF_STEPS).astype(np.int16)


def decode_psf(codes: Codes) -> Float:
    """PSF of unit sum, float32; all zero where there is none."""
    shape = np.sinh(codes / PSF_STEPS)
    total = shape.sum(axis=(-2, -1), keepdims=True)
    return (shape / np.where(total > 0, total, 1.0)).astype(np.float32)


def _per_pixel(sky_sigma: NDArray[np.floating]) -> NDArray[np.float64]:
    """(object, band) -> (object, band, 1, 1)."""
    if not (np.isfinite(sky_sigma) & (sky_sigma > 0)).all():
        raise ValueError(
            f"sky_sigma must be positive and finite, got {np.asarray(sky_sigma).min():g}. Measure it again."
        )
    return np.asarray(sky_sigma, dtype=np.float64)[..., None, None]


def _place(where: NDArray[np.bool_]) -> str:
    return "(object, band, y, x) = " + str(tuple(int(i) for i in np.argwhere(where)[0]))
