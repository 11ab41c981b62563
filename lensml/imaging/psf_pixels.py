"""Pixels through matching kernels: what is missing filled in, the border mirrored, bad where too much was missing.

Every array is (plane, y, x), a plane being one band of one object.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from lensml.imaging import psf_kernels as pk

SEEN_MIN = 1e-3  # weight of good pixels below which a hole is too wide to be filled: sky


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
    height, width = flux.shape[1:]
    good = np.isfinite(variance)
    flux, variance = fill(np.where(good, flux, 0), good, fwhm), fill(np.where(good, variance, 0), good, fwhm)
    rows, columns = _around(height, kernel.shape[-1]), _around(width, kernel.shape[-1])
    out = pk.convolve(flux[:, rows[:, None], columns], spectra)[:, :height, :width]
    squared = kernel**2
    weight = squared.sum(axis=(1, 2))[:, None, None]
    squared_spectra = fft.rfft2(squared, workers=1)
    out_variance = pk.convolve(variance[:, rows[:, None], columns], squared_spectra)[:, :height, :width]
    seen = _seen(good, squared_spectra) / weight
    # a transform's rounding must not make a negative variance: no average is below its smallest member
    least = variance.min(axis=(1, 2))[:, None, None] * weight
    bad = seen < 1 - lost_weight_max
    return np.where(bad, 0, out), np.where(bad, np.inf, np.maximum(out_variance, least))


def _seen(good: NDArray[np.bool_], spectra: pk.Spectra) -> pk.Planes:
    """Squared kernel weight on good pixels inside the border."""
    (height, width), side = good.shape[1:], spectra.shape[1]
    whole = good.all(axis=(1, 2))
    masks = np.zeros((int((~whole).sum()) + 1, side, side))  # the last one serves all planes without a bad pixel
    masks[:-1, :height, :width] = good[~whole]
    masks[-1, :height, :width] = 1
    which = np.full(len(good), len(masks) - 1)
    which[~whole] = np.arange(len(masks) - 1)
    seen: pk.Planes = fft.irfft2(fft.rfft2(masks, workers=1)[which] * spectra, (side, side), workers=1)
    return seen[:, :height, :width]


def _around(pixels: int, side: int) -> NDArray[np.int64]:
    """Which pixel stands where on a transform: the stamp from 0 on, and both its borders mirrored into the rest."""
    before = (side - pixels) // 2
    index = np.pad(np.arange(pixels), (before, side - pixels - before), mode="symmetric")
    return np.roll(index, -before)


def fill(values: pk.Planes, good: NDArray[np.bool_], fwhm: pk.PerPlane) -> pk.Planes:
    """Values with those that are not good replaced by the Gaussian mean (`fwhm` in pixels) of the good ones around."""
    holed = ~good.all(axis=(1, 2))
    if not holed.any():
        return values
    seen, sigma = good[holed].astype(np.float64), fwhm[holed] * pk.SIGMA_PER_FWHM
    rows, columns = _smoothing(values.shape[1], sigma), _smoothing(values.shape[2], sigma)
    total = rows @ (values[holed] * seen) @ columns
    weight = rows @ seen @ columns
    filled = values.copy()
    # too far from any good pixel: the plane's median, sky in a flux
    far = _medians(values[holed], good[holed])[:, None, None]
    mean = np.where(weight > SEEN_MIN, total / np.maximum(weight, SEEN_MIN), far)
    filled[holed] = np.where(good[holed], values[holed], mean)
    return filled


def _smoothing(pixels: int, sigma: pk.PerPlane) -> pk.Planes:
    """Gaussian smoothing along one axis as a symmetric matrix (plane, pixel, pixel)."""
    apart = np.subtract.outer(np.arange(pixels), np.arange(pixels))
    matrix: pk.Planes = np.exp(-0.5 * (apart / sigma[:, None, None]) ** 2)
    return matrix / (sigma[:, None, None] * np.sqrt(2 * np.pi))


def _medians(values: pk.Planes, good: NDArray[np.bool_]) -> pk.PerPlane:
    """(plane,) median of the good values, 0 where there is none."""
    medians = [float(np.median(v[g])) if g.any() else 0.0 for v, g in zip(values, good, strict=True)]
    return np.array(medians)
