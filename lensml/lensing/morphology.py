"""What imitates arcs without being lensed: shapes beside an early-type host, and galaxies that stand in its place.

Every function takes the radius (arcsec) at which the host would show its arcs, and the host's axis ratio and position
angle (rad), so that imitators lie where arcs lie. It returns light about the origin in two colours, `old` as the host's
stars and `young` as a star-forming galaxy's; fluxes are shares that add up to 1.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lensml.lensing.galaxies import spiral_arms
from lensml.lensing.geometry import ellipticity, polar, shared, within
from lensml.lensing.scene import Light, Ring, Sersic

Float = NDArray[np.float64]


class Place(NamedTuple):
    """Where arcs would be, and how the host lies."""

    radius: float  # arcsec
    axis_ratio: float
    angle: float  # rad


class Imitation(NamedTuple):
    """Light by colour; the shares of both add up to 1."""

    old: tuple[Light, ...]
    young: tuple[Light, ...]


Draw = Callable[[np.random.Generator, Place], Imitation]

_DISC: Final = 1.0  # Sersic index of discs and knots
_KNOTS: Final = 10  # at most


def polar_ring(rng: np.random.Generator, place: Place) -> Imitation:
    """A ring seen at a slant, about across the host's major axis."""
    tilt = place.angle + np.pi / 2 + rng.normal(0, np.deg2rad(20))
    q = rng.uniform(0.12, 0.5)
    radius = place.radius * rng.uniform(0.9, 1.5) * np.sqrt(q)  # product-averaged
    ring = Ring(1.0, radius, radius * rng.uniform(0.08, 0.2), *ellipticity(q, tilt), 0.0, 0.0, *_uneven(rng))
    return Imitation((), _knotted(rng, ring))


def merger(rng: np.random.Generator, place: Place) -> Imitation:
    """A companion falling in, and a tidal tail that winds outwards from it."""
    angle = rng.uniform(0, 2 * np.pi)
    x, y = polar(place.radius * rng.uniform(0.6, 1.4), angle)
    shape = ellipticity(rng.uniform(0.4, 0.9), rng.uniform(0, np.pi))
    companion = Sersic(rng.uniform(0.4, 0.7), place.radius * rng.uniform(0.12, 0.3), 2.0, *shape, x, y)
    tail = _tail(rng, place, 1 - companion.flux, angle)
    old = rng.uniform() < 0.5
    return Imitation((companion, tail), ()) if old else Imitation((companion,), (tail,))


def tidal_tails(rng: np.random.Generator, place: Place) -> Imitation:
    """Two tails on opposite sides, of the host's own stars."""
    angle, share = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.7)
    first = _tail(rng, place, share, angle)
    second = _tail(rng, place, 1 - share, angle + np.pi + rng.normal(0, 0.4))
    return Imitation((first, second._replace(winding=np.sign(first.winding) * abs(second.winding))), ())


def shells(rng: np.random.Generator, place: Place) -> Imitation:
    """Concentric arcs on alternate sides along the host's major axis, in its colour (Malin & Carter 1983)."""
    count, side = int(rng.integers(2, 6)), int(rng.integers(0, 2))
    radii = place.radius * np.sort(rng.uniform(0.7, 2.2, count))
    e1, e2 = ellipticity(min(place.axis_ratio + 0.1, 0.98), place.angle)
    found = []
    for k, radius in enumerate(radii.tolist()):
        phase, width = np.pi * ((k + side) % 2), radius * rng.uniform(0.04, 0.1)
        found.append(Ring(rng.uniform(0.3, 1.0), radius, width, e1, e2, 0.0, 0.0, 1.0, rng.uniform(2, 6), 0.0, phase))
    return Imitation(shared(found), ())


def satellites(rng: np.random.Generator, place: Place) -> Imitation:
    """One to four companions at the arcs' radius, turned anyhow; all red or all blue is decided by the caller."""
    found = []
    for _ in range(int(rng.integers(1, 5))):
        x, y = polar(place.radius * rng.uniform(0.7, 1.4), rng.uniform(0, 2 * np.pi))
        shape = ellipticity(rng.uniform(0.4, 1.0), rng.uniform(0, np.pi))
        found.append(Sersic(rng.uniform(0.2, 1.0), place.radius * rng.uniform(0.06, 0.22), 1.5, *shape, x, y))
    return Imitation((), shared(found))


def chance(rng: np.random.Generator, place: Place) -> Imitation:
    """One or two blue galaxies beside the host that lie anyhow."""
    return Imitation((), shared(_beside(rng, place, tangential=False) for _ in range(int(rng.integers(1, 3)))))


def chance_tangential(rng: np.random.Generator, place: Place) -> Imitation:
    """One to three blue, elongated galaxies that lie as arcs would, but are straight."""
    return Imitation((), shared(_beside(rng, place, tangential=True) for _ in range(int(rng.integers(1, 4)))))


def collisional_ring(rng: np.random.Generator, place: Place) -> Imitation:
    """A knotty ring with an old nucleus off its centre (Appleton & Struck-Marcell 1996)."""
    radius = place.radius * rng.uniform(0.8, 1.3)
    e1, e2 = ellipticity(rng.uniform(0.5, 1.0), rng.uniform(0, np.pi))
    x, y = within(rng, 0.3 * radius)
    body = Ring(rng.uniform(0.3, 0.6), radius, radius * rng.uniform(0.08, 0.22), e1, e2, x, y, *_uneven(rng))
    fill = Sersic(rng.uniform(0.05, 0.2), 0.7 * radius, _DISC, e1, e2, x, y)
    shape = ellipticity(rng.uniform(0.6, 1.0), rng.uniform(0, np.pi))
    nucleus = Sersic(1 - body.flux - fill.flux, radius * rng.uniform(0.15, 0.4), rng.uniform(1, 4), *shape, 0.0, 0.0)
    return Imitation((nucleus,), (*_knotted(rng, body), fill))


def spiral(rng: np.random.Generator, place: Place) -> Imitation:
    """Blue arms in a disc about a red bulge, nearly face on."""
    bulge = rng.uniform(0.15, 0.6)
    radius = place.radius * rng.uniform(0.7, 1.2)
    nucleus = Sersic(bulge, radius * rng.uniform(0.15, 0.4), rng.uniform(2, 4), *_face_on(rng), 0.0, 0.0)
    return Imitation((nucleus,), _disc_with_arms(rng, radius, 1 - bulge, _face_on(rng)))


def bulgeless_spiral(rng: np.random.Generator, place: Place) -> Imitation:
    """Blue arms in a disc, and no bulge."""
    radius = place.radius * rng.uniform(0.6, 1.1)
    return Imitation((), _disc_with_arms(rng, radius, 1.0, _face_on(rng)))


def edge_on(rng: np.random.Generator, place: Place) -> Imitation:
    """A disc from its side, with a bulge or without; its dusty middle is old."""
    q, angle = rng.uniform(0.08, 0.25), rng.uniform(0, np.pi)
    bulge = rng.uniform(0.0, 0.45)
    along = place.radius * rng.uniform(0.4, 0.9)
    disc = Sersic((1 - bulge) * 0.6, along * np.sqrt(q), _DISC, *ellipticity(q, angle), 0.0, 0.0)
    thick = disc._replace(flux=(1 - bulge) * 0.4, r_sersic=1.1 * disc.r_sersic)
    shape = ellipticity(rng.uniform(0.6, 0.9), angle)
    nucleus = Sersic(bulge, along * rng.uniform(0.1, 0.3), rng.uniform(1.5, 4), *shape, 0.0, 0.0)
    return Imitation((thick, nucleus) if bulge > 0 else (thick,), (disc,))


def _tail(rng: np.random.Generator, place: Place, flux: float, angle: float) -> Ring:
    """One arm that starts at an angle and winds outwards."""
    radius = place.radius * rng.uniform(0.8, 1.4)
    winding = rng.choice([-1.0, 1.0]) * rng.uniform(1.0, 3.0)
    width, contrast = radius * rng.uniform(0.2, 0.4), rng.uniform(3.0, 7.0)
    return Ring(flux, radius, width, 0.0, 0.0, 0.0, 0.0, 1.0, contrast, winding, -angle)


def _beside(rng: np.random.Generator, place: Place, tangential: bool) -> Sersic:
    angle = rng.uniform(0, 2 * np.pi)
    x, y = polar(place.radius * rng.uniform(0.8, 1.4), angle)
    turn = angle + np.pi / 2 + rng.normal(0, np.deg2rad(12)) if tangential else rng.uniform(0, np.pi)
    q = rng.uniform(0.15, 0.45) if tangential else rng.uniform(0.3, 0.9)
    return Sersic(rng.uniform(0.3, 1.0), place.radius * rng.uniform(0.12, 0.3), _DISC, *ellipticity(q, turn), x, y)


def _face_on(rng: np.random.Generator) -> tuple[float, float]:
    return ellipticity(rng.uniform(0.6, 1.0), rng.uniform(0, np.pi))


def _disc_with_arms(
    rng: np.random.Generator, radius: float, flux: float, shape: tuple[float, float]
) -> tuple[Light, ...]:
    even = rng.uniform(0.35, 0.75)
    disc = Sersic(flux * even, radius, _DISC, *shape, 0.0, 0.0)
    arms = spiral_arms(rng, radius, *shape)._replace(flux=flux * (1 - even))
    return disc, *_knotted(rng, arms)


def _uneven(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """How a ring's brightness varies in azimuth: arms, contrast, winding, phase."""
    return float(rng.integers(1, 4)), rng.uniform(0.0, 1.0), 0.0, rng.uniform(0, 2 * np.pi)


def _knotted(rng: np.random.Generator, ring: Ring) -> tuple[Light, ...]:
    """The ring or the arms, with a part of the light in star-forming knots on its crests."""
    count, light = int(rng.integers(0, _KNOTS + 1)), rng.uniform(0.02, 0.25)
    if count == 0:
        return (ring,)
    r = ring.radius + np.clip(rng.normal(0, ring.width, count), -0.8 * ring.radius, None)
    turn = rng.uniform(0, 2 * np.pi, count)
    if ring.winding != 0:  # spiral arms: where arms * turn + winding ln r + phase is a whole turn
        whole = 2 * np.pi * rng.integers(0, int(ring.arms), count)
        turn = (whole - ring.phase - ring.winding * np.log(r / ring.radius)) / ring.arms
    x, y = _on_ellipse(ring, r, turn)
    share = rng.dirichlet(np.ones(count)) * light * ring.flux
    size = ring.radius * rng.uniform(0.03, 0.12, count)
    places = zip(share.tolist(), size.tolist(), x.tolist(), y.tolist(), strict=True)
    knots = tuple(Sersic(s, c, _DISC, 0.0, 0.0, ring.center_x + a, ring.center_y + b) for s, c, a, b in places)
    return ring._replace(flux=ring.flux * (1 - light)), *knots


def _on_ellipse(ring: Ring, r: Float, turn: Float) -> tuple[Float, Float]:
    """x and y from the ring's centre, of product-averaged radii and angles from its major axis."""
    e, angle = np.hypot(ring.e1, ring.e2), np.arctan2(ring.e2, ring.e1) / 2
    q = (1 - e) / (1 + e)
    u, v = r * np.cos(turn) / np.sqrt(q), r * np.sin(turn) * np.sqrt(q)
    return u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)


BESIDE: Final[dict[str, Draw]] = {  # an early-type host, with these
    "polar_ring": polar_ring,
    "merger": merger,
    "tidal_tails": tidal_tails,
    "shells": shells,
    "satellites": satellites,
    "chance": chance,
    "chance_tangential": chance_tangential,
}
INSTEAD: Final[dict[str, Draw]] = {  # of a host, these
    "collisional_ring": collisional_ring,
    "spiral": spiral,
    "bulgeless_spiral": bulgeless_spiral,
    "edge_on": edge_on,
}
