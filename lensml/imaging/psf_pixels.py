"""Pixels through matching kernels: what is missing filled in, the border mirrored, bad where too much was missing.

Every array is (plane, y, x), a plane being one band of one object.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lensml.imaging import fourier
from lensml.imaging import psf_kernels as pk
from lensml.imaging.fourier import Planes, Spectra

SEEN_MIN = 1e-3  # weight of good pixels below which a hole is too wide to be filled


@dataclass(frozen=True)
class Kernels:
    """Kernels of unit sum; each (plane, ...)."""

    planes: Planes  # (plane, 2 h + 1, 2 h + 1)
    spectra: Spectra
    colour: pk.PerPlane  # variance after over what it were, had the noise been white


def convolve(
    flux: Planes, variance: Planes, kernels: Kernels, fwhm: pk.PerPlane, lost_weight_max: float
) -> tuple[Planes, Planes]:
    """Flux through kernels, and variance through their squares.

    Parameters
    ----------
    flux, variance : nJy, nJy^2; bad where the variance is infinite
    fwhm : (plane,) pixels, of the Gaussian mean that fills bad pixels
    lost_weight_max : a pixel is bad where more of its kernel's squared weight falls on bad pixels or beyond the border

    Returns
    -------
    flux, variance : 0 and infinite where bad
    """
    half = kernels.planes.shape[-1] // 2
    good = np.isfinite(variance)
    if not good.all():
        flux, variance = fill(flux, good, fwhm), fill(variance, good, fwhm)
    squared = kernels.planes**2
    weight = squared.sum(axis=(1, 2))[:, None, None]
    squared_spectra = fourier.transform(squared, kernels.spectra.shape[1])
    bad = _seen(good, squared, squared_spectra) < (1 - lost_weight_max) * weight
    out = _through(flux, kernels.spectra, half)
    spread = _through(variance, squared_spectra, half)
    # a transform's rounding must not make a negative variance: no average is below its smallest member
    np.maximum(spread, variance.min(axis=(1, 2))[:, None, None] * weight, out=spread)
    spread *= kernels.colour.astype(np.float32)[:, None, None]
    np.copyto(out, 0, where=bad)
    np.copyto(spread, np.inf, where=bad)
    return out, spread


def _through(planes: Planes, spectra: Spectra, half: int) -> Planes:
    """Stamps convolved, their borders mirrored."""
    product = fourier.transform_mirrored(planes, spectra.shape[1])
    product *= spectra
    return fourier.back(product, half, *planes.shape[1:])


def _seen(good: NDArray[np.bool_], squared: Planes, spectra: Spectra) -> Planes:
    """How much of each pixel's squared kernel falls on good pixels; a plain sum where a plane has no bad one."""
    pixels, (height, width) = squared.shape[-1], good.shape[1:]
    seen: Planes = np.matmul(np.matmul(_inside(height, pixels), squared), _inside(width, pixels).T)
    holed = ~good.all(axis=(1, 2))
    if holed.any():
        product = fourier.transform(good[holed].astype(np.float32), spectra.shape[1])
        product *= spectra[holed]
        seen[holed] = fourier.back(product, pixels // 2, height, width)
    return seen


@lru_cache(maxsize=64)
def _inside(stamp: int, kernel: int) -> Planes:
    """(pixel of the stamp, pixel of the kernel): 1 where what that pixel of the kernel reaches is in the stamp."""
    reached = np.arange(stamp)[:, None] + kernel // 2 - np.arange(kernel)
    return ((reached >= 0) & (reached < stamp)).astype(np.float32)


def fill(values: Planes, good: NDArray[np.bool_], fwhm: pk.PerPlane) -> Planes:
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


def _medians(values: Planes, good: NDArray[np.bool_]) -> pk.PerPlane:
    """(plane,) median of the good values, 0 where there is none."""
    return np.array([float(np.median(v[g])) if g.any() else 0.0 for v, g in zip(values, good, strict=True)])
