"""A host's brightness along its radius: a robust fit through the levels of its isophotes, of many hosts at once.

The profile is exp(g) + flat, where g falls ever more steeply with the logarithm of the radius, as it does in every
Sersic profile, blurred or not; `flat` >= 0 is what a halo larger than the stamp and a sky left in have in common. So a
profile falls from the centre outwards and has no shoulder, and a bend costs: what an Einstein ring adds stays above it,
and a ring of pixels that is too bright for its place counts the less the brighter it is.
"""

import math
from functools import cache
from typing import Final, NamedTuple

import numpy as np
from scipy.optimize import nnls

from lensml.imaging.isophotes import Float, Levels, Rings, Values

_CORE: Final = 0.35  # pixels: the profile is flat within
_KNOT_RATIO: Final = 1.5  # of one knot's radius to the next
_SOFT: Final = 4.0  # pixels: a bend further in costs less, for there the PSF bends
_BEND_COST: Final = 1e-3  # the least cost of a bend; keeps the equations regular
_DAMPING: Final = 0.3  # Levenberg's, on the level and on what is flat
_FAINTEST: Final = 1e-7  # of the brightest level: exp(g) is not followed below
_PARTS: Final = (1.0, 0.4, 0.1, 0.0)  # of a step that are tried
_STEP: Final = 0.125  # pixels between the radii that a profile is interpolated from
_STARTED: Final = 50.0  # largest weight of a level's logarithm, for a start that outliers do not pull


class Profiles(NamedTuple):
    """Of each object and band: (scale, in the flux's unit) times (exp(g) + flat)."""

    scale: Values  # (object, band)
    terms: Values  # (object, band, term) >= 0: the logarithm of the centre over `_FAINTEST`, flat, bends at the knots
    knots: Values  # (knot,), log of pixels


class Drawn(NamedTuple):
    """Profiles at pixels, (object, band, y, x)."""

    value: Float
    slope: Float  # by the squared radius in pixels


def fit(
    rings: Rings, levels: Levels, tolerance: float, outlier_sigma: float, stiffness: float, steps: int,
    start: Profiles | None = None,
) -> tuple[Profiles, Values]:  # fmt: skip
    """The profiles, and their errors (object, band, ring).

    Parameters
    ----------
    tolerance : share of a level that is added to its error: galaxies are no smoother
    outlier_sigma : errors at which a ring that is too bright counts half (Cauchy's weight, of that side alone)
    stiffness : errors that a bend of 1 in the logarithmic slope, at one knot, costs
    steps : of Gauss and Newton, and of reweighting
    """
    scale = np.maximum(np.abs(levels.value).max(axis=-1), np.finfo(np.float32).tiny)
    value, error = levels.value / scale[..., None], levels.error / scale[..., None]
    inverse = _inverse(np.hypot(error, tolerance * np.abs(value)))
    knots = _knots((rings.radius.shape[1], rings.radius.shape[2]))
    hinges = _hinges(rings.sample, knots)  # (object, ring, sample, knot)
    cost = np.concatenate([[_DAMPING, _DAMPING], stiffness * np.minimum(1, np.exp(2 * knots) / _SOFT**2) + _BEND_COST])
    terms = _first(hinges.mean(axis=2), value, inverse, cost) if start is None else start.terms
    terms = np.broadcast_to(terms, (*value.shape[:2], len(cost)))
    fall = _Fall(hinges, value, inverse, outlier_sigma)
    for _ in range(steps):
        terms, jacobian, factor = fall.step(terms, _costs(cost, terms))
    spread = np.linalg.solve(factor, np.swapaxes(jacobian, -1, -2))
    return Profiles(scale, terms, knots), np.sqrt((spread**2).sum(axis=-2)) * scale[..., None]


class _Fall(NamedTuple):
    """The least squares of some levels."""

    hinges: Values  # (object, ring, sample, knot)
    value: Values  # (object, band, ring), the brightest is 1
    inverse: Values  # of the errors
    outlier_sigma: float

    def step(self, terms: Values, cost: Values) -> tuple[Values, Values, Values]:
        """Terms after the part of a step of Gauss and Newton that goes down most, derivatives, and their factor."""
        model, jacobian = _linearised(self.hinges, terms)
        miss = (self.value - model) * self.inverse
        weight = self.inverse / np.sqrt(1 + np.maximum(miss / self.outlier_sigma, 0) ** 2)
        full, factor = _step(jacobian, self.value - model, weight, terms, cost)
        tried = [terms + part * (full - terms) for part in _PARTS]
        height = np.stack([self.height(one, cost) for one in tried])
        return np.take_along_axis(np.stack(tried), height.argmin(axis=0)[None, ..., None], 0)[0], jacobian, factor

    def height(self, terms: Values, cost: Values) -> Values:
        """What is made least, (object, band)."""
        miss = (self.value - _level(self.hinges, terms)[0]) * self.inverse
        above = self.outlier_sigma**2 * np.log1p((np.maximum(miss, 0) / self.outlier_sigma) ** 2)
        bends = np.where(np.arange(cost.shape[-1]) < 2, 0, cost * terms)
        return np.asarray((above + np.minimum(miss, 0) ** 2).sum(axis=-1) + (bends**2).sum(axis=-1))


def _costs(cost: Values, terms: Values) -> Values:
    """Of the terms (object, band, term): where the profile is steep already a bend is as dear as its share of that."""
    bends = terms[..., 2:]
    steep = np.maximum(np.cumsum(bends, axis=-1) - bends, 1)
    return np.concatenate([np.broadcast_to(cost[:2], (*bends.shape[:2], 2)), cost[2:] / steep], axis=-1)


def drawn(profiles: Profiles, radius: Float) -> Drawn:
    """The profiles at radii in pixels, (object, y, x)."""
    nodes = _STEP * np.arange(math.ceil(float(radius.max(initial=0)) / _STEP) + 2, dtype=np.float64)
    hinges = _hinges(nodes, profiles.knots)  # (node, knot)
    light = _falling(profiles.terms, hinges)
    steep = profiles.terms[..., 2:] @ (hinges > 0).T  # -d g / d log radius
    scale, flat = profiles.scale[..., None], profiles.terms[..., 1:2]
    slope = -light * steep / (2 * np.maximum(nodes, _CORE) ** 2)
    index = (radius / np.float32(_STEP)).reshape(len(radius), 1, -1)
    shape = (*profiles.scale.shape, *radius.shape[1:])
    return Drawn(*(_between(part * scale, index).reshape(shape) for part in (light + flat, slope)))


def at_rings(rings: Rings, per_ring: Values) -> Float:
    """A value of each ring (object, band, ring) at all its pixels, (object, band, y, x)."""
    flat = np.repeat(per_ring.astype(np.float32), np.diff(rings.edges), axis=-1)
    found = np.empty_like(flat)
    np.put_along_axis(found, np.broadcast_to(rings.order[:, None], flat.shape), flat, axis=-1)
    return found.reshape(*per_ring.shape[:2], *rings.radius.shape[1:])


@cache
def _knots(shape: tuple[int, int]) -> Values:
    last = math.hypot(*shape) / 2
    return np.log(np.geomspace(_CORE, last, 1 + math.ceil(math.log(last / _CORE) / math.log(_KNOT_RATIO))))


def _hinges(radius: Values, knots: Values) -> Values:
    """How far a radius is beyond each knot, in its logarithm, (..., knot)."""
    return np.maximum(np.log(np.maximum(radius, _CORE))[..., None] - knots, 0)


def _falling(terms: Values, hinges: Values) -> Values:
    """exp(g) at nodes, (object, band, node)."""
    return _FAINTEST * np.exp(terms[..., :1] - terms[..., 2:] @ hinges.T)


def _first(hinges: Values, value: Values, inverse: Values, cost: Values) -> Values:
    """Terms by least squares of the levels' logarithms."""
    level = np.maximum(value, 10 * _FAINTEST)
    target = np.log(level / _FAINTEST)
    weight = np.minimum(inverse * level, _STARTED)
    ones, nothing = np.ones((*hinges.shape[:2], 1)), np.zeros((*hinges.shape[:2], 1))
    jacobian = np.concatenate([ones, nothing, -hinges], axis=-1)[:, None]
    return _step(
        jacobian,
        target,
        weight,
        np.zeros((*value.shape[:2], len(cost))),
        np.broadcast_to(np.r_[0.01 * cost[:1], cost[1:2], cost[2:]], (*value.shape[:2], len(cost))),
    )[0]


def _level(hinges: Values, terms: Values) -> tuple[Values, Values]:
    """The profile (object, band, ring), and what falls of it at the samples (object, band, ring, sample)."""
    bent = hinges.reshape(len(hinges), -1, hinges.shape[-1]) @ np.swapaxes(terms[..., 2:], -1, -2)
    bent = np.swapaxes(bent, -1, -2).reshape(*terms.shape[:2], *hinges.shape[1:3])
    light = _FAINTEST * np.exp(terms[..., :1, None] - bent)
    return light.mean(axis=-1) + terms[..., 1:2], light


def _linearised(hinges: Values, terms: Values) -> tuple[Values, Values]:
    """The profile and its derivatives by its terms (object, band, ring, term)."""
    level, light = _level(hinges, terms)
    mean = light.mean(axis=-1)
    bends = -(light[..., None, :] @ hinges[:, None])[..., 0, :] / light.shape[-1]
    return level, np.concatenate([mean[..., None], np.ones_like(mean)[..., None], bends], axis=-1)


def _step(jacobian: Values, miss: Values, weight: Values, terms: Values, cost: Values) -> tuple[Values, Values]:
    """Non-negative terms of the linearised least squares, and their covariance without that bound."""
    weighted = jacobian * weight[..., None]
    prior = np.where(np.arange(cost.shape[-1]) < 2, cost**2, 0) * terms  # bends are drawn to none, the others stay
    matrix = np.swapaxes(weighted, -1, -2) @ weighted + cost[..., None] ** 2 * np.eye(cost.shape[-1])
    right = np.einsum("obrt,obr->obt", weighted, (miss + np.einsum("obrt,obt->obr", jacobian, terms)) * weight) + prior
    factor = np.linalg.cholesky(matrix)
    target = np.linalg.solve(factor, right[..., None])[..., 0]
    found = np.empty(right.shape)
    for place in np.ndindex(*right.shape[:2]):
        found[place] = nnls(factor[place].T, target[place])[0]
    return found, np.asarray(factor, np.float64)


def _inverse(error: Values) -> Values:
    known = np.isfinite(error) & (error > 0)
    return np.where(known, 1 / np.where(known, error, 1), 0)


def _between(nodes: Values, index: Float) -> Float:
    """Columns (object, band, node) at fractional indices (object, 1, pixel)."""
    low = index.astype(np.int64)
    part = index - low.astype(np.float32)
    place = low + np.arange(nodes.size, step=nodes.shape[-1]).reshape(*nodes.shape[:2], 1)
    flat = nodes.astype(np.float32).ravel()
    step = np.diff(flat, append=np.float32(0))
    return np.take(flat, place, mode="clip") + part * np.take(step, place, mode="clip")
