"""Aperture flux and shape at the stamp's centre."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_DETECTED: Final = 2.0  # sky sigmas: a fainter pixel does not count for the shape

Float = NDArray[np.float32]
PerBand = NDArray[np.float64]
PerObject = NDArray[np.float64]


def aperture(shape: tuple[int, int], radius_pixels: PerObject) -> Float:
    """Weights (object, y, x) of a round aperture at the stamp's centre ((n - 1) / 2); the edge falls over one pixel."""
    distance = _distance(shape)
    return np.clip(radius_pixels[:, None, None] - distance + 0.5, 0, 1).astype(np.float32)


def aperture_flux(flux: Float, variance: Float, weight: Float) -> tuple[PerBand, PerBand]:
    """Flux and its error (object, band) in an aperture (object, y, x); a bad pixel (infinite variance) adds nothing."""
    total = np.einsum("obyx,oyx->ob", flux, weight, dtype=np.float64)
    known = np.where(np.isfinite(variance), variance, np.float32(0))
    error2 = np.einsum("obyx,oyx->ob", known, weight, dtype=np.float64)
    return total, np.sqrt(error2)


def half_light_radius(image: Float, weight: Float) -> PerObject:
    """Radius in pixels of the circle with half of the aperture's flux, (object,); NaN where the flux is not positive.

    Parameters
    ----------
    image : (object, y, x)
    weight : (object, y, x), the aperture
    """
    distance = _distance((image.shape[-2], image.shape[-1])).ravel()
    order = np.argsort(distance, kind="stable")
    growth = np.cumsum((image * weight).reshape(len(image), -1)[:, order], axis=1, dtype=np.float64)
    index = np.argmax(growth >= growth[:, -1:] / 2, axis=1)
    return np.where(growth[:, -1] > 0, distance[order][index], np.nan)


def axis_ratio(image: Float, sky_sigma: PerObject, weight: Float) -> PerObject:
    """Square root of the ratio of the second moments' eigenvalues, (object,), in (0, 1]; NaN where nothing is seen."""
    light = np.where(image > _DETECTED * sky_sigma[:, None, None], image, 0).astype(np.float64) * weight
    total = light.sum(axis=(1, 2))
    seen = total > 0
    light /= np.where(seen, total, 1.0)[:, None, None]
    y, x = (np.arange(n, dtype=np.float64) for n in image.shape[1:])
    rows, columns = light.sum(axis=2), light.sum(axis=1)
    y0, x0 = rows @ y, columns @ x
    yy, xx = rows @ y**2 - y0**2, columns @ x**2 - x0**2
    xy = np.einsum("oyx,y,x->o", light, y, x) - y0 * x0
    spread = np.hypot(xx - yy, 2 * xy)
    minor, major = xx + yy - spread, xx + yy + spread
    return np.where(seen & (minor > 0), np.sqrt(np.maximum(minor, 0) / np.where(major > 0, major, 1.0)), np.nan)


def _distance(shape: tuple[int, int]) -> NDArray[np.float64]:
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    return np.hypot(y[:, None], x[None, :])
