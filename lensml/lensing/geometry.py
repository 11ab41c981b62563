"""Ellipticities, places and paint of profiles: what every drawing of galaxies needs."""

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lensml.lensing.scene import Light

Profile = TypeVar("Profile", bound=Any)


def ellipticity(axis_ratio: float, angle: float) -> tuple[float, float]:
    """(e1, e2) of an axis ratio in (0, 1] at a position angle, rad counter-clockwise from x."""
    e = (1 - axis_ratio) / (1 + axis_ratio)
    return float(e * np.cos(2 * angle)), float(e * np.sin(2 * angle))


def polar(radius: float, angle: float) -> tuple[float, float]:
    """x and y."""
    return float(radius * np.cos(angle)), float(radius * np.sin(angle))


def within(rng: np.random.Generator, radius: float) -> tuple[float, float]:
    """A place, uniform over the disc of this radius."""
    return polar(radius * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi))


def moved(profiles: Iterable[Profile], x: float, y: float) -> tuple[Profile, ...]:
    """The profiles with their centres moved by (x, y) arcsec."""
    return tuple(p._replace(center_x=p.center_x + x, center_y=p.center_y + y) for p in profiles)


def painted(lights: Iterable[Light], flux: NDArray[np.float64]) -> tuple[Light, ...]:
    """The lights with `flux` (band,) times the share that each has for its flux."""
    return tuple(light._replace(flux=tuple((light.flux * flux).tolist())) for light in lights)


def shared(lights: Iterable[Light], total: float = 1.0) -> tuple[Light, ...]:
    """The lights with their fluxes scaled to a total."""
    kept = tuple(lights)
    whole = sum(light.flux for light in kept)
    return tuple(light._replace(flux=light.flux * total / whole) for light in kept)
