"""Shapes of the light beside a host: lensed sources, and everything that imitates arcs without being one.

Every function takes the radius at which a lens of this host would show its arcs, so that imitators lie where arcs lie.
Fluxes sum to 1; positions and radii are arcsec from the host's centre.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from lensml.lensing.render import Element

Elements = tuple[Element, ...]

_CAUSTIC: Final = 0.35  # greatest offset of a source from the line of sight, in Einstein radii
_DISC: Final = 1.0  # Sersic index of discs and clumps


def ellipticity(rng: np.random.Generator, axis_ratio: float, angle: float | None = None) -> tuple[float, float]:
    """(e1, e2) of an axis ratio at a position angle, random unless given (rad)."""
    angle = rng.uniform(0, np.pi) if angle is None else angle
    e = (1 - axis_ratio) / (1 + axis_ratio)
    return e * np.cos(2 * angle), e * np.sin(2 * angle)


def _polar(radius: float, angle: float) -> tuple[float, float]:
    return radius * np.cos(angle), radius * np.sin(angle)


def _shares(rng: np.random.Generator, n: int) -> list[float]:
    return [float(share) for share in rng.dirichlet(np.full(n, 2.0))]


def source(rng: np.random.Generator, theta_e: float) -> Elements:
    """A young galaxy behind the lens: a disc with a few clumps."""
    x, y = _polar(_CAUSTIC * theta_e * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi))
    radius = theta_e * rng.uniform(0.08, 0.2)
    disc = Element(0.0, x, y, radius, *ellipticity(rng, rng.uniform(0.4, 0.95)), sersic=_DISC, lensed=True)
    clumps = [0.4 * share for share in _shares(rng, int(rng.integers(1, 4)))]
    knots = (
        disc._replace(
            flux=flux, x=x + rng.normal(0, 0.7 * radius), y=y + rng.normal(0, 0.7 * radius), radius=0.25 * radius
        )
        for flux in clumps
    )
    return (disc._replace(flux=1 - sum(clumps)), *knots)


def elliptical(rng: np.random.Generator, theta_e: float) -> Elements:
    """Nothing beside the host."""
    return ()


def spiral(rng: np.random.Generator, theta_e: float) -> Elements:
    """Arms in a disc about the host."""
    e1, e2 = ellipticity(rng, rng.uniform(0.45, 1.0))
    radius = theta_e * rng.uniform(0.7, 1.1)
    disc = Element(rng.uniform(0.2, 0.4), 0.0, 0.0, radius, e1, e2, sersic=_DISC)
    arms = disc._replace(
        flux=1 - disc.flux, width=0.45 * radius, arms=float(rng.integers(2, 4)), contrast=rng.uniform(1.5, 3.0),
        winding=rng.choice([-1, 1]) * rng.uniform(3.0, 6.0), phase=rng.uniform(0, 2 * np.pi),
    )  # fmt: skip
    return disc, arms


def ring(rng: np.random.Generator, theta_e: float) -> Elements:
    """A collisional ring: inclined, off-centre, knotty, filled faintly."""
    radius = theta_e * rng.uniform(0.8, 1.3)
    x, y = _polar(0.2 * radius * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi))
    e1, e2 = ellipticity(rng, rng.uniform(0.4, 0.75))
    fill = Element(rng.uniform(0.05, 0.25), x, y, 0.6 * radius, e1, e2, sersic=_DISC)
    body = fill._replace(
        flux=1 - fill.flux, radius=radius, width=radius * rng.uniform(0.1, 0.2), arms=float(rng.integers(5, 12)),
        contrast=rng.uniform(0.2, 0.8), phase=rng.uniform(0, 2 * np.pi),
    )  # fmt: skip
    return fill, body


def merger(rng: np.random.Generator, theta_e: float) -> Elements:
    """A companion falling in, and a tidal tail that winds outwards."""
    angle = rng.uniform(0, 2 * np.pi)
    x, y = _polar(theta_e * rng.uniform(0.5, 1.4), angle)
    size = theta_e * rng.uniform(0.15, 0.35)
    companion = Element(rng.uniform(0.4, 0.7), x, y, size, *ellipticity(rng, rng.uniform(0.4, 0.9)), sersic=2.0)
    radius = theta_e * rng.uniform(0.8, 1.3)
    winding = rng.choice([-1, 1]) * rng.uniform(1.5, 3.0)
    tail = Element(
        1 - companion.flux, 0.0, 0.0, radius, *ellipticity(rng, rng.uniform(0.5, 0.9)), width=0.4 * radius, arms=1.0,
        contrast=rng.uniform(3.0, 6.0), winding=winding, phase=-angle,
    )  # fmt: skip
    return companion, tail


def satellite(rng: np.random.Generator, theta_e: float) -> Elements:
    """One to four blue companions around the host, turned anyhow."""
    return tuple(
        Element(
            share, *_polar(theta_e * rng.uniform(0.6, 1.5), rng.uniform(0, 2 * np.pi)),
            theta_e * rng.uniform(0.08, 0.25), *ellipticity(rng, rng.uniform(0.4, 1.0)), sersic=_DISC,
        )
        for share in _shares(rng, int(rng.integers(1, 5)))
    )  # fmt: skip


def edge_on(rng: np.random.Generator, theta_e: float) -> Elements:
    """A disc seen from its side, across the host."""
    radius = theta_e * rng.uniform(0.4, 0.7)
    return (Element(1.0, 0.0, 0.0, radius, *ellipticity(rng, rng.uniform(0.1, 0.22)), sersic=_DISC),)


def chance(rng: np.random.Generator, theta_e: float) -> Elements:
    """A straight, elongated galaxy that happens to lie beside the host."""
    x, y = _polar(theta_e * rng.uniform(0.8, 1.5), rng.uniform(0, 2 * np.pi))
    shape = ellipticity(rng, rng.uniform(0.2, 0.5))
    return (Element(1.0, x, y, theta_e * rng.uniform(0.2, 0.4), *shape, sersic=_DISC),)


def neighbours(rng: np.random.Generator, width: float, theta_e: float) -> Elements:
    """Field galaxies outside the arcs, of either class alike; fluxes are relative to the host's."""
    found = []
    for _ in range(int(rng.poisson(0.8))):
        x, y = rng.uniform(-width / 2, width / 2, 2)
        size, flux = rng.uniform(0.15, 0.45), 10 ** (-0.4 * rng.uniform(2.0, 5.0))
        shape = ellipticity(rng, rng.uniform(0.3, 1.0))
        if np.hypot(x, y) > 2 * theta_e:
            found.append(Element(flux, float(x), float(y), size, *shape, sersic=_DISC))
    return tuple(found)


# What is no lens. Every kind but the first has as much blue light as a lens has.
KINDS: Final[dict[str, Callable[[np.random.Generator, float], Elements]]] = {
    "elliptical": elliptical,
    "spiral": spiral,
    "ring": ring,
    "merger": merger,
    "satellite": satellite,
    "edge_on": edge_on,
    "chance": chance,
}
