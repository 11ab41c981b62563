"""The ellipse of each host's light: from adaptive moments, then by least squares along a profile's own slopes."""

from typing import Final

import numpy as np

from lensml.imaging import isophotes
from lensml.imaging.host_profile import Drawn
from lensml.imaging.isophotes import Ellipses, Float, Values

_WINDOW_PIXELS: Final = 2.5  # sigma of the moments' first window
_WINDOW_MIN: Final = 1.0  # pixels
_WINDOW_MAX: Final = 0.15  # of the stamp's side
_MOMENT_STEPS: Final = 8
_E_MAX: Final = 0.6  # an axis ratio of 0.25: flatter is no elliptical
_CENTRE_MAX: Final = 0.15  # of the stamp's side: the host is the galaxy at the stamp's centre
_STEP_MAX: Final = np.array([0.5, 0.5, 0.1, 0.1])  # pixels, pixels, e1, e2
_DAMPING: Final = 1e-3
STRAY: Final = 0.05  # of the relief: a pixel further off the model counts less


def moments(image: Float) -> Ellipses:
    """Centre and shape of the Gaussian whose own weighted moments are the image's, (object, y, x), 0 where bad.

    Bernstein & Jarvis 2002, AJ 123, 583, section 3; the window is kept within a part of the stamp.
    """
    shape, side = (image.shape[1], image.shape[2]), min(image.shape[1:])
    zero = np.zeros(len(image))
    found, size2 = Ellipses(zero, zero, zero, zero), np.full(len(image), _WINDOW_PIXELS**2)
    for _ in range(_MOMENT_STEPS):
        half = (0.5 / size2).astype(np.float32)[:, None, None]
        light = image * np.exp(-isophotes.squared_radius(found, shape) * half)
        y, x = isophotes.places(found, shape)
        dx, dy, xx, yy, xy = _central(light, y[:, :, 0], x[:, 0, :])
        root = np.sqrt(np.maximum(xx * yy - xy**2, 0))
        norm = xx + yy + 2 * root
        norm = np.where(norm > 0, norm, np.inf)
        e1, e2 = (xx - yy) / norm, 2 * xy / norm
        found = _bounded(Ellipses(found.center_x + 2 * dx, found.center_y + 2 * dy, e1, e2), side)
        size2 = np.clip(2 * root, _WINDOW_MIN**2, (_WINDOW_MAX * side) ** 2)
    return found


def moved(
    ellipses: Ellipses, image: Float, variance: Float, light: Drawn, outlier_sigma: float, loose: float
) -> Ellipses:
    """One step of Gauss and Newton in centre and shape; a pixel off the model counts little (Cauchy's weight).

    Parameters
    ----------
    image, variance : (object, 1, y, x), infinite variance: not used
    light : the profiles along the ellipses, of the same shape
    outlier_sigma : sigmas off the model at which a pixel counts half
    loose : >= 1, by which pixels may be further off the model while the ellipse is
    """
    shape = (image.shape[2], image.shape[3])
    good = np.isfinite(variance)
    sigma2 = np.where(good, variance, np.float32(1)) + (np.float32(STRAY * loose) * relief(ellipses, light)) ** 2
    miss = np.where(good, image - light.value, np.float32(0))
    weight = (good / (sigma2 + (miss / np.float32(outlier_sigma)) ** 2)).reshape(len(image), 1, -1)
    gradient = (_gradient(ellipses, shape) * light.slope).reshape(len(image), 4, -1)
    weighted = gradient * weight
    matrix = (weighted @ gradient.transpose(0, 2, 1)).astype(np.float64)
    right = (weighted @ miss.reshape(len(image), -1, 1)).astype(np.float64)
    diagonal = np.einsum("oii->oi", matrix)
    matrix = matrix + np.eye(4) * np.where(diagonal > 0, _DAMPING * diagonal, 1)[:, None]
    step = np.clip(np.linalg.solve(matrix, right)[..., 0], -_STEP_MAX, _STEP_MAX)
    return _bounded(Ellipses(*(part + step[:, k] for k, part in enumerate(ellipses))), min(shape))


def relief(ellipses: Ellipses, light: Drawn) -> Float:
    """How much a profile falls over an e-fold of radius, (object, band, y, x)."""
    shape = (light.slope.shape[2], light.slope.shape[3])
    return -2 * light.slope * isophotes.squared_radius(ellipses, shape)[:, None]


def _central(light: Float, y: Float, x: Float) -> tuple[Values, Values, Values, Values, Values]:
    """Centroid x and y, and second moments xx, yy and xy about it; 0 without light."""
    rows, columns = light.sum(axis=2, dtype=np.float64), light.sum(axis=1, dtype=np.float64)
    total = rows.sum(axis=1)
    total = np.where(total > 0, total, np.inf)
    dx, dy = (columns * x).sum(axis=1) / total, (rows * y).sum(axis=1) / total
    xx, yy = (columns * x**2).sum(axis=1) / total - dx**2, (rows * y**2).sum(axis=1) / total - dy**2
    xy = ((light @ x[:, :, None])[..., 0] * y).sum(axis=1, dtype=np.float64) / total - dx * dy
    return dx, dy, xx, yy, xy


def _gradient(ellipses: Ellipses, shape: tuple[int, int]) -> Float:
    """Derivatives of the squared radius by centre x, y, e1 and e2, (object, 4, y, x)."""
    y, x = isophotes.places(ellipses, shape)
    e1, e2 = (part[:, None, None].astype(np.float32) for part in (ellipses.e1, ellipses.e2))
    e_squared = e1**2 + e2**2
    squared = isophotes.squared_radius(ellipses, shape)
    parts = (
        4 * e2 * y - 2 * (1 + e_squared - 2 * e1) * x,
        4 * e2 * x - 2 * (1 + e_squared + 2 * e1) * y,
        2 * (e1 - 1) * x**2 + 2 * (e1 + 1) * y**2 + 2 * e1 * squared,
        2 * e2 * (x**2 + y**2) - 4 * y * x + 2 * e2 * squared,
    )
    return np.stack(np.broadcast_arrays(*parts), axis=1) / (1 - e_squared)[:, None]


def _bounded(ellipses: Ellipses, side: int) -> Ellipses:
    """Near the stamp's centre, and no flatter than a galaxy."""
    x, y, e1, e2 = ellipses
    most = _CENTRE_MAX * side
    shrink = _E_MAX / np.maximum(np.hypot(e1, e2), _E_MAX)
    return Ellipses(np.clip(x, -most, most), np.clip(y, -most, most), e1 * shrink, e2 * shrink)
