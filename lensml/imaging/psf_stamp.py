"""PSF stamps as files bring them, made odd, square and of unit sum, and the two definitions of their width.

Convention: on an odd axis the PSF's centre is pixel n // 2. On an even axis files differ: the centre is pixel n/2 - 1,
pixel n/2, or the corner between them. The core's centroid decides which; the corner case is resampled by half a pixel
(quintic spline), the others only padded.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_MOMENT_STEPS: Final = 40
_FWHM_PER_SIGMA: Final = 2 * np.sqrt(2 * np.log(2))

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


def fwhm_halfmax(psf: Float) -> Widths:
    """FWHM in pixels: twice the radius at which the azimuthal mean falls to half of the central pixel.

    Between two radii ln(PSF) is taken linear in r^2, which is exact for a Gaussian however coarse its pixels.

    Parameters
    ----------
    psf : (..., n, n), n odd, centred

    Returns
    -------
    (...), NaN where there is no half maximum
    """
    radius2, profile = _profile(psf)
    below = profile < profile[..., :1] / 2
    index = np.argmax(below, axis=-1)
    found = below.any(axis=-1) & (profile[..., 0] > 0)
    inner = np.take_along_axis(profile, np.maximum(index - 1, 0)[..., None], -1)[..., 0]
    outer = np.take_along_axis(profile, index[..., None], -1)[..., 0]
    peak = np.where(found, profile[..., 0], 1.0)
    step = np.log(np.where(found, inner, 1.0) / np.maximum(np.where(found, outer, 0.5), 1e-3 * peak))
    along = np.log(np.where(found, inner, 1.0) / (peak / 2)) / np.where(step > 0, step, 1.0)
    low, high = radius2[np.maximum(index - 1, 0)], radius2[index]
    return np.where(found, 2 * np.sqrt(np.maximum(low + along * (high - low), 0.0)), np.nan)


def fwhm_moment(psf: Float) -> Widths:
    """FWHM in pixels of the Gaussian whose weighted second moment the PSF has (adaptive, round moments).

    Reads 2 to 20 % above `fwhm_halfmax` on real PSFs, which have wings. NaN where the moments do not converge.
    """
    radius2 = _radius2(psf.shape[-1])
    variance = (fwhm_halfmax(psf) / _FWHM_PER_SIGMA) ** 2  # pixel^2
    for _ in range(_MOMENT_STEPS):
        weighted = psf * np.exp(-radius2 / (2 * variance[..., None, None]))
        second = (weighted * radius2).sum(axis=(-2, -1)) / (2 * weighted.sum(axis=(-2, -1)))
        variance = np.where(second > 0, 2 * second, np.nan)  # a Gaussian under its own weight has half its variance
    return np.sqrt(variance) * _FWHM_PER_SIGMA


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


def _profile(psf: Float) -> tuple[Widths, Widths]:
    """Squared radii (k,) and the azimuthal means (..., k) at them."""
    radius2 = _radius2(psf.shape[-1]).ravel()
    order = np.argsort(radius2, kind="stable")
    values, starts, counts = np.unique(radius2[order], return_index=True, return_counts=True)
    flat = psf.reshape(*psf.shape[:-2], -1)[..., order].astype(np.float64)
    return values, np.add.reduceat(flat, starts, axis=-1) / counts


def _radius2(n: int) -> Widths:
    axis = np.arange(n, dtype=np.float64) - n // 2
    return axis[:, None] ** 2 + axis[None, :] ** 2
