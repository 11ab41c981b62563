"""PSF stamps as files bring them, made odd and square, cleaned, and of unit sum.

Convention: on an odd axis the PSF's centre is pixel n // 2. On an even axis files differ: the centre is pixel n/2 - 1,
pixel n/2, or the corner between them. The core's centroid decides which; the corner case is resampled by half a pixel
(quintic spline), the others only padded.
"""

from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lensml.imaging.psf_width import fwhm_halfmax, fwhm_moment, moments, radius2

__all__ = ["clean", "fwhm_halfmax", "fwhm_moment", "normalise", "odd_square", "pad"]

_RINGS: Final = (0.7, 0.85, 1.0)  # edges of the two outermost rings, as shares of the PSF's half-width
_WING_POWER: Final = 2  # of the aureole around stars, King 1971 (PASP 83, 199)
_LANCZOS_REACH: Final = 3  # pixels, of the a = 3 kernel that SWarp resamples with
_SIGNIFICANT: Final = 3.0  # sigma
_CENTRE_TOLERANCE: Final = 1e-3  # pixels

Float = NDArray[np.float32]
Widths = NDArray[np.float64]


def odd_square(psf: NDArray[np.floating]) -> Float:
    """PSFs (..., py, px) on an odd, square stamp with their centre at pixel n // 2; nothing is cut off."""
    for axis in (-2, -1):
        if psf.shape[axis] % 2 == 0:
            psf = np.moveaxis(_odd(np.moveaxis(psf, axis, -1)), -1, axis)
    return pad(psf, max(psf.shape[-2:]))


def pad(psf: NDArray[np.floating], side: int) -> Float:
    """PSFs of odd sides on a stamp of `side` (odd, not smaller) pixels, zeros around."""
    around = [((side - n) // 2, (side - n) // 2) for n in psf.shape[-2:]]
    if not any(low for low, _ in around):
        return psf.astype(np.float32, copy=False)
    return np.pad(psf, [(0, 0)] * (psf.ndim - 2) + around).astype(np.float32)


def normalise(psf: Float, pixels_max: int) -> tuple[Float, Widths]:
    """PSFs of unit sum, cut to `pixels_max` (odd), and the share of the flux that the cut took.

    Parameters
    ----------
    psf : (..., n, n), n odd

    Returns
    -------
    psf : (..., m, m), m <= pixels_max
    lost : (...), NaN where the PSF has no positive finite sum; such a PSF is returned as zeros
    """
    finite = np.asarray(np.isfinite(psf).all(axis=(-2, -1)))
    psf = np.where(finite[..., None, None], psf, np.float32(0))
    total = psf.sum(axis=(-2, -1), dtype=np.float64)
    low = max(0, (psf.shape[-1] - pixels_max) // 2)
    inner = psf[..., low : psf.shape[-2] - low, low : psf.shape[-1] - low]
    kept = inner.sum(axis=(-2, -1), dtype=np.float64)
    usable = finite & (total > 0) & (kept > 0)
    lost = np.abs(1 - kept / np.where(usable, total, np.nan))
    unit = inner / np.where(usable, kept, 1.0)[..., None, None]
    return np.where(usable[..., None, None], unit, 0.0).astype(np.float32), lost


def clean(psf: NDArray[np.floating]) -> Float:
    """PSFs as files bring them without what is not theirs; what is left of a clean PSF is the PSF.

    In this order: a border row or column of one constant value (padding, a fill value, NaN) becomes zero; a pixel that
    is not finite takes the value of its mirror point; a pedestal is subtracted; the outskirts are zero from where
    the azimuthal mean is no longer above the noise. The pedestal is what the two outermost rings have beyond a wing
    that falls like r^-2, as slowly as any star's (diffraction: r^-3), so that wings are not taken for one.
    Negative values are kept to half a FWHM and 3 pixels from the centre, as far as the lobes of a Lanczos-3
    resampling reach: beyond, negative wings are a sky that was subtracted too high.

    Parameters
    ----------
    psf : (..., n, n), n odd, centred within a pixel or so; any normalisation

    Returns
    -------
    (..., n, n), not normalised; pixels without a finite mirror point stay as they are
    """
    psf = _mirrored(_unframed(psf.astype(np.float32, copy=False)))
    psf = np.where(psf != 0, psf - _pedestal(psf)[..., None, None], np.float32(0)).astype(np.float32)
    centre, _ = moments(psf, _CENTRE_TOLERANCE)
    radius = np.sqrt(radius2(psf.shape[-1], np.nan_to_num(centre)))
    return np.where(radius < _extent(psf, radius)[..., None, None], psf, np.float32(0))


def _odd(psf: NDArray[np.floating]) -> NDArray[np.floating]:
    """One more pixel along the last, even axis, so that the core's centre is a pixel's centre at n // 2."""
    n = psf.shape[-1]
    core = psf.sum(axis=-2)
    core = np.maximum(core - core.max(axis=-1, keepdims=True) / 2, 0.0)
    weight = core.sum(axis=-1)
    centroid = (core * np.arange(n)).sum(axis=-1) / np.where(weight > 0, weight, 1.0)
    side = np.clip(np.rint(2 * (np.nan_to_num(centroid) - (n - 1) / 2)), -1, 1)[..., None, None]
    zero = np.zeros((*psf.shape[:-1], 1), dtype=psf.dtype)
    behind, before = np.concatenate([psf, zero], axis=-1), np.concatenate([zero, psf], axis=-1)
    if (side != 0).all():
        return np.where(side > 0, behind, before)
    between = ndimage.shift(behind.astype(np.float64), [0.0] * (psf.ndim - 1) + [0.5], order=5)
    return np.where(side > 0, behind, np.where(side < 0, before, between))


def _unframed(psf: Float) -> Float:
    """Border rows and columns of one constant value, or none finite, as zeros."""
    return np.where(_framing(psf, -1)[..., :, None] | _framing(psf, -2)[..., None, :], np.float32(0), psf)


def _framing(psf: Float, axis: int) -> NDArray[np.bool_]:
    """(..., n), True from the border on for rows (axis -1) or columns (axis -2) that are constant along the axis."""
    value = np.where(np.isfinite(psf), psf, np.float32(np.nan))
    constant = ~(np.fmin.reduce(value, axis=axis) < np.fmax.reduce(value, axis=axis))
    behind = np.logical_and.accumulate(constant[..., ::-1], axis=-1)[..., ::-1]
    return np.asarray(np.logical_and.accumulate(constant, axis=-1) | behind)


def _mirrored(psf: Float) -> Float:
    return np.where(np.isfinite(psf), psf, psf[..., ::-1, ::-1])


def _pedestal(psf: Float) -> Widths:
    """(...), what the outermost rings have in common beyond a falling wing; between 0 and their level."""
    radius = np.sqrt(radius2(psf.shape[-1]))
    reach = _reach(psf)[..., None, None]
    rings = [(radius > low * reach) & (radius <= high * reach) for low, high in pairwise(_RINGS)]
    inner, outer = (_mean(psf, ring) for ring in rings)
    near, far = (_mean(np.broadcast_to(radius, psf.shape), ring) ** _WING_POWER for ring in rings)
    with np.errstate(invalid="ignore", divide="ignore"):
        level = (outer * far - inner * near) / (far - near)
    return np.nan_to_num(np.clip(level, np.minimum(outer, 0), np.maximum(outer, 0)))


def _extent(psf: Float, radius: Widths) -> Widths:
    """(...), radius of the first ring beyond the core whose mean is not above the noise of the outermost ring."""
    n = psf.shape[-1]
    ring = np.minimum(np.rint(radius), n).astype(np.intp).reshape(-1, n * n)
    flat = psf.reshape(-1, n * n).astype(np.float64)
    index = ring + (n + 1) * np.arange(len(ring))[:, None]
    used = flat != 0
    count, total = (_binned(index, values, n + 1) for values in (used, np.where(used, flat, 0)))
    mean = total / np.maximum(count, 1)
    reach = _reach(psf).reshape(-1, 1)
    outermost = used & (ring > _RINGS[1] * reach) & (ring <= reach)
    residual2 = np.where(outermost, (flat - np.take_along_axis(mean, ring, -1)) ** 2, 0).sum(axis=-1)
    noise = np.sqrt(residual2 / np.maximum(outermost.sum(axis=-1), 1))[:, None]
    core = np.nan_to_num(fwhm_halfmax(psf), nan=n).reshape(-1, 1) / 2 + _LANCZOS_REACH
    ended = (mean <= _SIGNIFICANT * noise / np.sqrt(np.maximum(count, 1))) & (np.arange(n + 1) > core)
    first = np.where(ended.any(axis=-1), np.argmax(ended, axis=-1), n + 1)
    return (first - 0.5).reshape(psf.shape[:-2])


def _binned(index: NDArray[np.intp], values: NDArray[np.generic], bins: int) -> Widths:
    total = np.bincount(index.ravel(), weights=values.ravel(), minlength=len(index) * bins)
    return total.reshape(len(index), bins).astype(np.float64)


def _reach(psf: Float) -> NDArray[np.intp]:
    """(...), half-width in pixels of the part that is not padding: the lesser of both axes'."""
    n = psf.shape[-1]
    distance = np.abs(np.arange(n) - n // 2)
    return np.minimum(*(np.where((psf != 0).any(axis=axis), distance, 0).max(axis=-1) for axis in (-1, -2)))


def _mean(psf: NDArray[np.floating], ring: NDArray[np.bool_]) -> Widths:
    """Over the ring's pixels that are not padding; NaN where there is none."""
    chosen = ring & (psf != 0)
    count = chosen.sum(axis=(-2, -1))
    total = np.where(chosen, psf, 0).sum(axis=(-2, -1), dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
