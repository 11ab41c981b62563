"""Pixels through matching kernels: what is missing filled in, the border mirrored, bad where too much was missing.

Every array is (plane, y, x), a plane being one band of one object.
"""

import numpy as np
from numpy.typing import NDArray

from lensml.imaging import psf_kernels as pk

SEEN_MIN = 1e-3  # weight of good pixels below which a hole is too wide to be filled


def convolve(
    flux: pk.Planes,
    variance: pk.Planes,
    kernel: pk.Planes,
    spectra: pk.Spectra,
    fwhm: pk.PerPlane,
    lost_weight_max: float,
) -> tuple[pk.Planes, pk.Planes]:
    """Flux through kernels of unit sum, and variance through their squares.

    Parameters
    ----------
    flux, variance : nJy, nJy^2; bad where the variance is infinite
    kernel, spectra : kernels at pixel (0, 0) of the transform, and their transforms
    fwhm : (plane,) pixels, of the Gaussian mean that fills bad pixels
    lost_weight_max : a pixel is bad where more of its kernel's squared weight falls on bad pixels or beyond the border

    Returns
    -------
    flux, variance : 0 and infinite where bad
    """
    (height, width), side = flux.shape[1:], kernel.shape[-1]
    good = np.isfinite(variance)
    if not good.all():
        flux, variance = fill(flux, good, fwhm), fill(variance, good, fwhm)
    squared = kernel**2
    weight = squared.sum(axis=(1, 2))[:, None, None]
    squared_spectra = pk.transform(squared)
    bad = pk.back(_masks(good, side) * squared_spectra, height, width) < (1 - lost_weight_max) * weight
    out = pk.back(_through(flux, spectra, side), height, width)
    spread = pk.back(_through(variance, squared_spectra, side), height, width)
    # a transform's rounding must not make a negative variance: no average is below its smallest member
    spread = np.maximum(spread, variance.min(axis=(1, 2))[:, None, None] * weight)
    np.copyto(out, 0, where=bad)
    np.copyto(spread, np.inf, where=bad)
    return out, spread


def _through(planes: pk.Planes, kernel: pk.Spectra, side: int) -> pk.Spectra:
    spectra = pk.transform(_mirrored(planes, side))
    spectra *= kernel
    return spectra


def _masks(good: NDArray[np.bool_], side: int) -> pk.Spectra:
    """Transforms of what is good and inside the border; a single one where every plane is whole."""
    planes = np.zeros((1 if good.all() else len(good), side, side), dtype=np.float32)
    planes[:, : good.shape[1], : good.shape[2]] = good[: len(planes)]
    return pk.transform(planes)


def _mirrored(planes: pk.Planes, side: int) -> pk.Planes:
    """Stamps on transforms: from pixel 0 on, and both borders mirrored into the rest."""
    height, width = planes.shape[1:]
    out = np.empty((len(planes), side, side), dtype=np.float32)
    out[:, :height, :width] = planes
    out[:, :height, width:] = planes[:, :, _beyond(width, side)]
    out[:, height:] = out[:, _beyond(height, side)]
    return out


def _beyond(pixels: int, side: int) -> NDArray[np.int64]:
    """Which pixel stands behind a stamp's last one, up to the transform's end, where the stamp begins again."""
    before = (side - pixels) // 2
    index = np.pad(np.arange(pixels), (before, side - pixels - before), mode="symmetric")
    return np.roll(index, -before)[pixels:]


def fill(values: pk.Planes, good: NDArray[np.bool_], fwhm: pk.PerPlane) -> pk.Planes:
    """Values with those that are not good replaced by the Gaussian mean (`fwhm` in pixels) of the good ones around.

    Where no good pixel is near, the plane's median: such a pixel ends up bad, and must only do no harm around.
    """
    holed = ~good.all(axis=(1, 2))
    seen, sigma = good[holed].astype(np.float64), fwhm[holed] * pk.SIGMA_PER_FWHM
    known = np.where(good[holed], values[holed], 0.0)
    rows, columns = _smoothing(values.shape[1], sigma), _smoothing(values.shape[2], sigma)
    weight = rows @ seen @ columns
    mean = rows @ known @ columns / np.maximum(weight, SEEN_MIN)
    far = _medians(values[holed], good[holed])[:, None, None]
    filled = values.copy()
    filled[holed] = np.where(good[holed], known, np.where(weight > SEEN_MIN, mean, far))
    return filled


def _smoothing(pixels: int, sigma: pk.PerPlane) -> NDArray[np.float64]:
    """Gaussian smoothing along one axis as a symmetric matrix (plane, pixel, pixel)."""
    apart = np.subtract.outer(np.arange(pixels), np.arange(pixels))
    width = sigma[:, None, None]
    return np.exp(-0.5 * (apart / width) ** 2) / (width * np.sqrt(2 * np.pi))


def _medians(values: pk.Planes, good: NDArray[np.bool_]) -> pk.PerPlane:
    """(plane,) median of the good values, 0 where there is none."""
    return np.array([float(np.median(v[g])) if g.any() else 0.0 for v, g in zip(values, good, strict=True)])
