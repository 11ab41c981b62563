"""What imitates arcs: where it lies and how, in the terms of `lensml.lensing.scene` (oracle: plain geometry)."""

import itertools

import numpy as np
import pytest

from lensml.lensing import morphology
from lensml.lensing.morphology import BESIDE, INSTEAD, Imitation, Place
from lensml.lensing.scene import Light, Ring, Sersic

PLACE = Place(1.5, 0.7, 0.6)
KINDS = BESIDE | INSTEAD


def _drawn(kind: str, count: int = 60) -> list[Imitation]:
    return [KINDS[kind](np.random.default_rng(seed), PLACE) for seed in range(count)]


def _parts(drawn: Imitation) -> tuple[Light, ...]:
    return drawn.old + drawn.young


def _angle(part: Sersic | Ring) -> float:
    """Of the major axis, rad."""
    return float(np.arctan2(part.e2, part.e1) / 2)


def _between(first: float, second: float) -> float:
    """Of two axes, degrees, 0 to 90."""
    return float(np.rad2deg(np.abs((first - second + np.pi / 2) % np.pi - np.pi / 2)))


def _axis_ratio(part: Sersic | Ring) -> float:
    e = float(np.hypot(part.e1, part.e2))
    return (1 - e) / (1 + e)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_unit_flux_and_sizes(kind: str) -> None:
    for drawn in _drawn(kind):
        parts = _parts(drawn)
        assert sum(part.flux for part in parts) == pytest.approx(1)
        assert all(part.flux > 0 for part in parts)
        assert all((part.radius if isinstance(part, Ring) else part.r_sersic) > 0 for part in parts)
        assert all(np.hypot(part.e1, part.e2) < 1 for part in parts)


@pytest.mark.parametrize("kind", ["satellites", "chance", "chance_tangential"])
def test_companions_lie_where_arcs_lie(kind: str) -> None:
    for drawn in _drawn(kind):
        for part in _parts(drawn):
            assert 0.6 < np.hypot(part.center_x, part.center_y) / PLACE.radius < 1.5


@pytest.mark.parametrize("kind", ["polar_ring", "collisional_ring"])
def test_rings_lie_where_arcs_lie(kind: str) -> None:
    for drawn in _drawn(kind):
        ring = next(part for part in drawn.young if isinstance(part, Ring))
        assert 0.75 < ring.radius / np.sqrt(_axis_ratio(ring)) / PLACE.radius < 2.0


def test_tangential_galaxies_lie_along_circles_and_others_anyhow() -> None:
    def radial(kind: str) -> list[float]:
        parts = [part for drawn in _drawn(kind, 200) for part in _parts(drawn)]
        return [_between(_angle(p), np.arctan2(p.center_y, p.center_x)) for p in parts]

    assert np.median(radial("chance_tangential")) > 75
    assert 35 < np.median(radial("chance")) < 55


def test_polar_rings_cross_the_hosts_major_axis() -> None:
    rings = [part for drawn in _drawn("polar_ring") for part in drawn.young if isinstance(part, Ring)]
    assert np.median([_between(_angle(ring), PLACE.angle) for ring in rings]) > 70


def test_shells_are_arcs_on_both_sides_along_the_major_axis_in_the_hosts_colour() -> None:
    for drawn in _drawn("shells"):
        assert drawn.young == ()
        rings = [part for part in drawn.old if isinstance(part, Ring)]
        assert len(rings) >= 2
        phases = [round(ring.phase / np.pi) % 2 for ring in sorted(rings, key=lambda ring: ring.radius)]
        assert all(a != b for a, b in itertools.pairwise(phases))
        for ring in rings:
            assert _between(_angle(ring), PLACE.angle) < 1e-6
            assert (ring.arms, ring.winding) == (1.0, 0.0)
            assert ring.contrast >= 2


def test_a_tail_starts_at_the_companion() -> None:
    """At its own radius, the brightest azimuth of the tail is the companion's."""
    for drawn in _drawn("merger"):
        tail = next(part for part in _parts(drawn) if isinstance(part, Ring))
        companion = next(part for part in _parts(drawn) if isinstance(part, Sersic))
        angle = np.arctan2(companion.center_y, companion.center_x)
        assert np.cos(tail.arms * angle + tail.phase) == pytest.approx(1)


def test_knots_sit_on_the_crests_of_the_arms() -> None:
    seen = 0
    for drawn in _drawn("bulgeless_spiral"):
        arms = next(part for part in drawn.young if isinstance(part, Ring))
        q, angle = _axis_ratio(arms), _angle(arms)
        for knot in (part for part in drawn.young if isinstance(part, Sersic) and part.e1 == part.e2 == 0):
            u = (knot.center_x * np.cos(angle) + knot.center_y * np.sin(angle)) * np.sqrt(q)
            v = (knot.center_y * np.cos(angle) - knot.center_x * np.sin(angle)) / np.sqrt(q)
            wave = arms.arms * np.arctan2(v, u) + arms.winding * np.log(np.hypot(u, v) / arms.radius) + arms.phase
            assert np.cos(wave) == pytest.approx(1, abs=1e-6)
            seen += 1
    assert seen > 50


def test_spirals_have_red_bulges_unless_they_have_none() -> None:
    assert all(len(drawn.old) == 1 and drawn.old[0].n_sersic >= 2 for drawn in _drawn("spiral"))
    assert all(drawn.old == () for drawn in _drawn("bulgeless_spiral"))


def test_edge_on_discs_are_flat() -> None:
    assert all(_axis_ratio(drawn.young[0]) <= 0.25 for drawn in _drawn("edge_on"))


def test_kinds_beside_and_instead_are_apart() -> None:
    assert not set(BESIDE) & set(INSTEAD)
    assert morphology.shells is BESIDE["shells"]
