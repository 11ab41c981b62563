"""The light of star-forming galaxies: discs with clumps, arms and companions; lensed sources, neighbours, the field.

    draw_disc(rng, laws, radius_arcsec, clump_scale, x, y) -> components with shares of the flux
    draw_colour(rng, laws, bands, redshift) -> f_nu relative to 750 nm
    radius_arcsec(rng, laws, magnitude, redshift) -> half-light radius
    field_redshift(rng, magnitude) -> redshift of a galaxy of this magnitude
    draw_neighbours(rng, laws, view) -> lights in nJy

Sizes are those of van der Wel et al. 2014 (ApJ 788, 28): late types of 5e10 Msun have 8.9 kpc (1 + z)^-0.75, and the
power 0.22 of their mass, which stands here for luminosity.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lensml.config_population import Discs, Surroundings
from lensml.lensing import cosmology, sed
from lensml.lensing.deflectors import View
from lensml.lensing.geometry import ellipticity, moved, painted, polar, shared
from lensml.lensing.scene import Light, Point, Ring, Sersic

Float = NDArray[np.float64]

ZERO_POINT: Final = 31.4  # AB magnitude of 1 nJy
_SCALE_LENGTH: Final = 1.678  # half-light radius of an exponential disc over its scale length
_EVOLVES_TO: Final = 2.0  # redshift up to which discs brighten
_BETA_RANGE: Final = (-2.8, 1.5)
_SMALLEST_ARCSEC: Final = 0.02
_FIELD_Z0: Final = (0.0417, -0.744)  # n(z | i) ~ z^2 exp(-z / z0), z0 linear in i (LSST Science Book 2009, eq. 3.8)
_FIELD_Z0_LEAST: Final = 0.04
_FIELD_Z: Final = (0.02, 5.0)
_CLUMP_INDEX: Final = 1.0
_ARM_WIDTH: Final = 0.45  # over the radius
_STAR_SLOPE: Final = (0.8, 1.0)  # of f_nu: mean, scatter
_STAR_FAINTEST: Final = 24.0
_ARCSEC2_PER_ARCMIN2: Final = 3600.0


def njy(magnitude: float) -> float:
    """Flux of an AB magnitude."""
    return float(10 ** (0.4 * (ZERO_POINT - magnitude)))


def magnitude_of(flux_njy: float) -> float:
    """AB magnitude of a flux above 0."""
    return float(ZERO_POINT - 2.5 * np.log10(flux_njy))


def radius_arcsec(rng: np.random.Generator, laws: Discs, magnitude: float, redshift: float) -> float:
    """Half-light radius of a star-forming galaxy of an apparent magnitude at 750 nm, along its major axis."""
    absolute = magnitude - cosmology.distance_modulus(redshift) + 2.5 * np.log10(1 + redshift)
    pivot = laws.pivot_magnitude - laws.pivot_evolution_mag * min(redshift, _EVOLVES_TO)
    dex = -0.4 * laws.radius_slope * (absolute - pivot) + rng.normal(0, laws.radius_scatter_dex)
    kpc = laws.radius_kpc * (1 + redshift) ** laws.radius_evolution * 10**dex
    return float(max(kpc / cosmology.kpc_per_arcsec(redshift), _SMALLEST_ARCSEC))


def draw_colour(rng: np.random.Generator, laws: Discs, bands: Sequence[str], redshift: float) -> Float:
    """f_nu relative to 750 nm: blue, with some red; and old stars, of which there are fewer at high redshift."""
    law = laws.red_beta_uv if rng.uniform() < laws.red_share else laws.beta_uv
    young = sed.young(bands, redshift, float(np.clip(rng.normal(*law), *_BETA_RANGE)))
    old = rng.uniform(*laws.old_light) * np.exp(-redshift / laws.old_light_fades)
    return np.asarray((1 - old) * young + old * sed.passive(bands, redshift))


def field_redshift(rng: np.random.Generator, magnitude: float) -> float:
    """Of a galaxy of the field with a magnitude at 750 nm."""
    slope, zero = _FIELD_Z0
    z0 = max(slope * magnitude + zero, _FIELD_Z0_LEAST)
    return float(np.clip(rng.gamma(3.0, z0), *_FIELD_Z))


def draw_disc(
    rng: np.random.Generator, laws: Discs, radius: float, arcsec_per_kpc: float, x: float = 0.0, y: float = 0.0
) -> tuple[Light, ...]:
    """A galaxy of unit flux: a disc, and at times clumps, spiral arms, pieces off centre, a companion.

    Parameters
    ----------
    radius
        half-light radius of the disc along its major axis, arcsec
    x, y
        its centre, arcsec
    """
    q, angle = rng.uniform(*laws.axis_ratio), rng.uniform(0, np.pi)
    index = float(np.clip(rng.normal(*laws.index), *laws.index_range))
    disc = Sersic(1.0, radius * np.sqrt(q), index, *ellipticity(q, angle), 0.0, 0.0)
    parts: tuple[Light, ...] = _clumps(rng, laws, disc, q, angle, arcsec_per_kpc)
    if rng.uniform() < laws.arms_share:
        parts += shared([spiral_arms(rng, disc.r_sersic, disc.e1, disc.e2)], rng.uniform(*laws.arms_light))
    if rng.uniform() < laws.irregular_share:
        parts += _pieces(rng, laws, disc)
    if rng.uniform() < laws.pair_share:
        parts += _companion(rng, laws, disc)
    return moved(shared([disc, *parts]), x, y)


def spiral_arms(rng: np.random.Generator, radius: float, e1: float, e2: float) -> Ring:
    """Two or three arms of unit flux, at about this radius."""
    arms, sense = float(rng.integers(2, 4)), rng.choice([-1.0, 1.0])
    contrast, winding, phase = rng.uniform(0.7, 2.2), sense * rng.uniform(3.0, 6.0), rng.uniform(0, 2 * np.pi)
    return Ring(1.0, radius, _ARM_WIDTH * radius, e1, e2, 0.0, 0.0, arms, contrast, winding, phase)


def draw_neighbours(rng: np.random.Generator, laws: Surroundings, discs: Discs, view: View) -> tuple[Light, ...]:
    """Galaxies and stars of the field on a stamp, nJy; they know nothing of what is in its middle."""
    area = view.side_arcsec**2 / _ARCSEC2_PER_ARCMIN2
    found: list[Light] = []
    for _ in range(rng.poisson(laws.galaxies_per_arcmin2 * area)):
        x, y = rng.uniform(-0.5, 0.5, 2) * view.side_arcsec
        found += _field_galaxy(rng, discs, _magnitude(rng, laws), view, float(x), float(y))
    for _ in range(rng.poisson(laws.stars_per_arcmin2 * area)):
        x, y = rng.uniform(-0.5, 0.5, 2) * view.side_arcsec
        found.append(_star(rng, laws, view, float(x), float(y)))
    return tuple(found)


def _magnitude(rng: np.random.Generator, laws: Surroundings) -> float:
    """By number counts of dN / dm ~ 10^(slope m)."""
    low, high = (10 ** (laws.counts_slope * (m - laws.magnitude[1])) for m in laws.magnitude)
    return float(laws.magnitude[1] + np.log10(rng.uniform(low, high)) / laws.counts_slope)


def _field_galaxy(
    rng: np.random.Generator, discs: Discs, magnitude: float, view: View, x: float, y: float
) -> tuple[Light, ...]:
    """Smooth: most are faint and small."""
    z = field_redshift(rng, magnitude)
    index = float(np.clip(rng.normal(*discs.index), *discs.index_range))
    q = rng.uniform(*discs.axis_ratio)
    radius = radius_arcsec(rng, discs, magnitude, z) * np.sqrt(q)
    light = (Sersic(1.0, radius, index, *ellipticity(q, rng.uniform(0, np.pi)), x, y),)
    return painted(light, njy(magnitude) * draw_colour(rng, discs, view.bands, z))


def _star(rng: np.random.Generator, laws: Surroundings, view: View, x: float, y: float) -> Point:
    flux = njy(rng.uniform(laws.magnitude[0], _STAR_FAINTEST)) * sed.power_law(view.bands, rng.normal(*_STAR_SLOPE))
    return Point(tuple(flux.tolist()), x, y)


def _clumps(
    rng: np.random.Generator, laws: Discs, disc: Sersic, q: float, angle: float, arcsec_per_kpc: float
) -> tuple[Sersic, ...]:
    """Star-forming regions in the disc with a power-law luminosity function (e.g. Guo et al. 2015, ApJ 800, 39)."""
    count = int(rng.integers(0, laws.clumps_max + 1))
    if count == 0:
        return ()
    luminosity = _power_law(rng, laws.clump_slope, laws.clump_range, count)
    share = luminosity * rng.uniform(*laws.clump_light) / luminosity.sum()
    low, high = np.log(laws.clump_radius_kpc)
    radii = np.maximum(np.exp(rng.uniform(low, high, count)) * arcsec_per_kpc, _SMALLEST_ARCSEC / 2)
    distance = rng.gamma(2.0, disc.r_sersic / _SCALE_LENGTH, count)
    turn = rng.uniform(0, 2 * np.pi, count)
    u, v = distance * np.cos(turn) * np.sqrt(1 / q), distance * np.sin(turn) * np.sqrt(q)
    x, y = u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)
    places = zip(share.tolist(), radii.tolist(), x.tolist(), y.tolist(), strict=True)
    return tuple(Sersic(s, r, _CLUMP_INDEX, 0.0, 0.0, cx, cy) for s, r, cx, cy in places)


def _power_law(rng: np.random.Generator, slope: float, ratio: float, count: int) -> Float:
    """dN / dL ~ L^-slope from 1 to `ratio`."""
    power = 1 - slope
    return np.asarray((1 + rng.uniform(size=count) * (ratio**power - 1)) ** (1 / power))


def _pieces(rng: np.random.Generator, laws: Discs, disc: Sersic) -> tuple[Sersic, ...]:
    """One or two parts of an irregular galaxy, off its centre."""
    light = rng.uniform(*laws.irregular_light)
    found = []
    for _ in range(int(rng.integers(1, 3))):
        x, y = polar(disc.r_sersic * rng.uniform(0.5, 1.4), rng.uniform(0, 2 * np.pi))
        shape = ellipticity(rng.uniform(0.3, 0.9), rng.uniform(0, np.pi))
        found.append(Sersic(light, disc.r_sersic * rng.uniform(0.25, 0.7), 1.0, *shape, x, y))
    return tuple(found)


def _companion(rng: np.random.Generator, laws: Discs, disc: Sersic) -> tuple[Sersic, ...]:
    """A second galaxy beside the first."""
    x, y = polar(disc.r_sersic * rng.uniform(1.5, 4.0), rng.uniform(0, 2 * np.pi))
    shape = ellipticity(rng.uniform(*laws.axis_ratio), rng.uniform(0, np.pi))
    return (Sersic(rng.uniform(*laws.pair_light), disc.r_sersic * rng.uniform(0.4, 1.0), disc.n_sersic, *shape, x, y),)
