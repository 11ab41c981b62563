"""Pixels through matching kernels: what is missing filled in, the border mirrored, bad where too much was missing.

Every array is (plane, y, x), a plane being one band of one object.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import fft

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
    kernel, spectra : kernels as stamps, and their transforms
    fwhm : (plane,) pixels, of the Gaussian mean that fills bad pixels
    lost_weight_max : a pixel is bad where more of its kernel's squared weight falls on bad pixels or beyond the border

    Returns
    -------
    flux, variance : 0 and infinite where bad
    """
    side, half = spectra.shape[1], kernel.shape[-1] // 2
    good = np.isfinite(variance)
    if not good.all():
        flux, variance = fill(flux, good, fwhm), fill(variance, good, fwhm)
    squared = kernel**2
    weight = squared.sum(axis=(1, 2))[:, None, None]
    squared_spectra = pk.transform(squared, side)
    # one transform serves all planes where each is whole
    inside = pk.transform(good[: 1 if good.all() else None].astype(np.float32), side)
    bad = pk.back(inside * squared_spectra, half, *flux.shape[1:]) < (1 - lost_weight_max) * weight
    out = pk.back(_mirrored(flux, side) * spectra, half, *flux.shape[1:])
    spread = pk.back(_mirrored(variance, side) * squared_spectra, half, *flux.shape[1:])
    # a transform's rounding must not make a negative variance: no average is below its smallest member
    spread = np.maximum(spread, variance.min(axis=(1, 2))[:, None, None] * weight)
    np.copyto(out, 0, where=bad)
    np.copyto(spread, np.inf, where=bad)
    return out, spread


def _mirrored(planes: pk.Planes, side: int) -> pk.Spectra:
    """Transforms of stamps in the first corner, both borders mirrored into the rest."""
    height, width = planes.shape[1:]
    wide = np.empty((len(planes), height, side), dtype=np.float32)
    wide[:, :, :width] = planes
    wide[:, :, width:] = planes[:, :, _beyond(width, side)]
    columns = fft.rfft(wide, axis=2, workers=1)
    spectra = np.empty((len(planes), side, columns.shape[2]), dtype=np.complex64)
    spectra[:, :height] = columns
    spectra[:, height:] = columns[:, _beyond(height, side)]
    whole: pk.Spectra = fft.fft(spectra, axis=1, workers=1, overwrite_x=True)
    return whole


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
