"""Hosts, arcs and rings of known flux, and the rules that the tests take them apart with."""

import numpy as np
from astropy.modeling.models import Sersic2D
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import gamma, gammaincinv

from lensml.imaging.host_light import HostRules

SIDE = 48
RULES = HostRules(
    quantile=0.4,
    ellipse_steps=6,
    profile_tolerance=0.015,
    stiffness=8.0,
    outlier_sigma=1.5,
    arc_sigma=3.0,
    arc_contrast=0.1,
)
PSF_SIGMA = 1.3  # pixels
_FINE = 5
Image = NDArray[np.float64]


def grid(side: int = SIDE) -> tuple[Image, Image]:
    y, x = np.indices((side, side)) - (side - 1) / 2
    return y, x


def sersic(flux: float, radius: float, n: float, q: float, angle: float, x: float = 0, y: float = 0) -> Image:
    """astropy's, of that total flux (closed form) on the infinite plane, through a Gaussian PSF; pixels."""
    b = gammaincinv(2 * n, 0.5)
    total = radius**2 * 2 * np.pi * n * np.exp(b) * b ** (-2 * n) * gamma(2 * n)
    major = radius / np.sqrt(q)  # our radius is of the circle of equal area
    model = Sersic2D(flux / total, major, n, x, y, 1 - q, angle)
    side = (SIDE + 20) * _FINE
    down, right = (np.indices((side, side)) - (side - 1) / 2) / _FINE
    blurred = ndimage.gaussian_filter(model(right, down), PSF_SIGMA * _FINE)
    return blurred.reshape(SIDE + 20, _FINE, SIDE + 20, _FINE).mean(axis=(1, 3))[10:-10, 10:-10]


def ring(flux: float, radius: float, width: float, contrast: float = 0.0, arms: int = 1) -> Image:
    """A round one; `contrast` makes arcs of it."""
    y, x = grid()
    image = np.exp(-0.5 * ((np.hypot(y, x) - radius) / width) ** 2 + contrast * np.cos(arms * np.arctan2(y, x)))
    return flux * image / image.sum()


def blob(flux: float, x: float, y: float, long: float, short: float, angle: float) -> Image:
    """A Gaussian of that total flux and those sigmas, its long axis turned from x."""
    down, right = grid()
    u = (right - x) * np.cos(angle) + (down - y) * np.sin(angle)
    v = (down - y) * np.cos(angle) - (right - x) * np.sin(angle)
    return flux / (2 * np.pi * long * short) * np.exp(-0.5 * ((u / long) ** 2 + (v / short) ** 2))


def noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> tuple[Image, float]:
    """Of unit variance through a Gaussian of that sigma, and its lag-1 correlation exp(-1 / 4 sigma^2)."""
    if sigma == 0:
        return rng.normal(size=shape), 0.0
    wide = rng.normal(size=(*shape[:-2], shape[-2] + 16, shape[-1] + 16))
    axis = ndimage.gaussian_filter1d(np.eye(33)[16], sigma)
    smooth = ndimage.gaussian_filter(wide, (0,) * (len(shape) - 2) + (sigma, sigma))[..., 8:-8, 8:-8]
    return smooth / (axis @ axis), float(np.exp(-1 / (4 * sigma**2)))
