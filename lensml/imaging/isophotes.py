"""Elliptical isophotes of many stamps at once: pixels in rings from the centre outwards, and robust levels of these.

Rings have equal numbers of pixels in all objects, whatever their ellipses, so that one sort serves all bands and every
step works on all objects at once.
"""

import math
from functools import cache
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

_RING_GROWTH: Final = 0.08  # of a ring's radius to its width, where that is more than a pixel
_SAMPLES: Final = 4  # radii in a ring that stand for its pixels
_LOWER: Final = 0.158655  # of a Gaussian lies below its mean less one sigma
_FEWEST: Final = 0.3  # share of a ring's pixels: a level of fewer is none
_MEDIAN_EXCESS: Final = math.pi / 2  # variance of a median over a mean's
_KEYS: Final = 65535  # of a radix sort

Values = NDArray[np.float64]
Float = NDArray[np.float32]


class Ellipses(NamedTuple):
    """Of each object, (object,): e1 and e2 as lensing/scene.py has them, the centre in pixels from the stamp's."""

    center_x: Values
    center_y: Values
    e1: Values
    e2: Values


class Rings(NamedTuple):
    """The pixels of each object in the order of their elliptical radius: ring k is from edges[k] to edges[k + 1]."""

    radius: Float  # (object, y, x), pixels
    order: NDArray[np.int64]  # (object, pixel)
    sample: Values  # (object, ring, sample), pixels: radii that stand for the ring's pixels
    edges: tuple[int, ...]


class Levels(NamedTuple):
    """Of each ring of each band, (object, band, ring)."""

    value: Values  # a quantile of the good pixels, freed of what noise alone takes off it
    error: Values  # infinite where too few pixels are good
    below: Values  # how far the pixels at minus one sigma of their order are below the guess, >= 0
    noise: Values  # sigma that the variance gives them
    pixels: Values  # good ones


def places(ellipses: Ellipses, shape: tuple[int, int]) -> tuple[Float, Float]:
    """y (object, y, 1) and x (object, 1, x) from the ellipse's centre, in pixels."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    down, right = y - ellipses.center_y[:, None], x - ellipses.center_x[:, None]
    return down[:, :, None].astype(np.float32), right[:, None, :].astype(np.float32)


def squared_radius(ellipses: Ellipses, shape: tuple[int, int]) -> Float:
    """q x^2 + y^2 / q along the axes, of axis ratio q, (object, y, x) in square pixels."""
    y, x = places(ellipses, shape)
    e1, e2 = (part[:, None, None].astype(np.float32) for part in (ellipses.e1, ellipses.e2))
    e_squared = e1**2 + e2**2
    form = ((1 + e_squared - 2 * e1) * x**2, (1 + e_squared + 2 * e1) * y**2)
    return np.maximum((form[0] + form[1] - (4 * e2 * y) * x) / (1 - e_squared), 0)


def rings(ellipses: Ellipses, shape: tuple[int, int]) -> Rings:
    """The pixels in order of their radius; those alike to 1 in 65,535 of the largest in array order."""
    radius = np.sqrt(squared_radius(ellipses, shape))
    flat = radius.reshape(len(radius), -1)
    largest = flat.max(axis=1, keepdims=True, initial=1)
    order = np.argsort((flat * (_KEYS / largest)).astype(np.uint16), axis=1, kind="stable")
    edges = ring_edges(flat.shape[1])
    at = [
        begin + (end - begin) * (2 * k + 1) // (2 * _SAMPLES) for begin, end in pairwise(edges) for k in range(_SAMPLES)
    ]
    sample = np.take_along_axis(flat, order[:, at], axis=1).astype(np.float64)
    return Rings(radius, order, sample.reshape(len(flat), -1, _SAMPLES), edges)


@cache
def ring_edges(pixels: int) -> tuple[int, ...]:
    """A pixel wide, and wider from where a share of the radius is more; the last ring takes what is left."""
    found, radius = [0], 0.0
    while found[-1] < pixels:
        radius += max(1.0, _RING_GROWTH * radius)
        found.append(round(math.pi * radius**2))
    return (*(found[:-2] or [0]), pixels)


def levels(rings: Rings, flux: Float, variance: Float, guess: Float, quantile: float, patch: Values) -> Levels:
    """A quantile of each ring's good pixels.

    Parameters
    ----------
    flux, variance : (object, band, y, x), bad where the variance is infinite
    guess : the same, of the profile: the quantile is taken above it, so that a steep slope within a ring is no scatter
    quantile : (0, 1), 0.5 is the median; less is safer from arcs, and noisier
    patch : (object, band), variance of a sum of many pixels over that of independent ones
    """
    good = np.isfinite(variance)
    above = _ordered(rings, np.where(good, flux - guess, np.float32(np.inf)))
    count = _sums(rings, _ordered(rings, good))
    level, median, lower = _quantiles(rings, above, count, (quantile, 0.5, _LOWER))
    some = np.maximum(count, 1)
    noise = np.sqrt(_sums(rings, _ordered(rings, np.where(good, variance, np.float32(0)))) / some)
    mean = _sums(rings, _ordered(rings, np.where(good, guess, np.float32(0)))) / some
    known = count >= np.maximum(_FEWEST * np.diff(rings.edges), 1)
    scatter = np.where(known, median - lower, 0.0)
    random = np.minimum(scatter, noise)  # a variance that says too much moves nothing
    value = np.where(known, level + mean - float(ndtri(quantile)) * random, 0.0)
    spread = np.maximum(scatter, noise) * np.sqrt(_MEDIAN_EXCESS * patch[..., None] / some)
    below = np.where(known, np.maximum(-lower, 0), 0.0)
    return Levels(value, np.where(known, spread, np.inf), below, noise, count)


def _ordered(rings: Rings, values: NDArray[Any]) -> NDArray[Any]:
    """(object, band, y, x) -> (object, band, pixel) from the centre outwards."""
    flat = values.reshape(*values.shape[:2], -1)
    return np.take_along_axis(flat, rings.order[:, None], axis=-1)


def _sums(rings: Rings, ordered: NDArray[Any]) -> Values:
    return np.add.reduceat(ordered, rings.edges[:-1], axis=-1, dtype=np.float64)


def _quantiles(rings: Rings, ordered: Float, count: Values, shares: tuple[float, ...]) -> Values:
    """Quantiles of each ring's finite pixels, (share, object, band, ring), interpolated linearly; 0 without any."""
    found = np.zeros((*count.shape, len(shares)))
    for ring, (begin, end) in enumerate(pairwise(rings.edges)):
        values = np.sort(ordered[..., begin:end], axis=-1)  # what is bad is infinite: last
        last = np.maximum(count[..., ring] - 1, 0)[..., None]
        at = last * np.array(shares)
        low = at.astype(np.int64)
        pair = np.take_along_axis(values, np.concatenate([low, np.minimum(low + 1, last.astype(np.int64))], -1), -1)
        lower, upper = np.split(np.where(count[..., ring, None] > 0, pair, 0), 2, axis=-1)
        found[..., ring, :] = lower + (at - low) * (upper - lower)
    return np.moveaxis(found, -1, 0)


def means(rings: Rings, values: Float) -> Values:
    """Of all pixels of each ring, (object, band, ring)."""
    return _sums(rings, _ordered(rings, values)) / np.diff(rings.edges)
