"""The light of early-type galaxies: bulge, envelope, nuclear disc, dust lane; and what a catalogue would say of it.

    draw_light(rng, laws, radius_arcsec, axis_ratio, angle, flux, lever) -> Sersic components about the origin, nJy
    measure(components) -> half-light radius, axis ratio and Sersic index of the whole

A share of galaxies is one Sersic profile; the others have an envelope whose ellipticity, position angle and centre
differ a little (e.g. Huang et al. 2013, ApJ 766, 47): a single profile, however fitted, leaves residuals as it does of
real ones.
"""

import functools
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gamma as gamma_function
from scipy.special import gammainc

from lensml.config_population import Hosts
from lensml.lensing.geometry import ellipticity
from lensml.lensing.scene import Ring, Sersic

Float = NDArray[np.float64]

_LOG_RADII: Final = np.linspace(-6.0, 4.5, 96)  # ln of radii over the first component's, of the growth curve
_LEVELS: Final = (0.2, 0.5, 0.8)  # of the light: concentration is the ratio of the outer to the inner radius
_INDICES: Final = np.linspace(0.3, 8.0, 78)
_AXIS_RATIOS: Final = (0.25, 0.98)
_DUST_INDEX: Final = 0.5  # a Gaussian
_DUST_FLATTENING: Final = (0.12, 0.3)
_DUST_REDDENING: Final = -1.0  # power of wavelength of the light lost (roughly A_lambda of the Milky Way)


class Shape(NamedTuple):
    """As a pipeline would fit one Sersic profile."""

    half_light_radius_arcsec: float
    axis_ratio: float
    sersic_index: float


def draw_light(
    rng: np.random.Generator, laws: Hosts, radius_arcsec: float, axis_ratio: float, angle: float, flux: Float,
    lever: Float,
) -> tuple[tuple[Sersic, ...], Shape]:  # fmt: skip
    """Components that add up to `flux` with half of it within `radius_arcsec`, and their shape.

    Parameters
    ----------
    angle
        of the major axis, rad
    flux
        (band,) nJy
    lever
        (band,) ln of wavelength over 750 nm: envelopes are bluer
    """
    parts = [*_bulge_and_envelope(rng, laws, axis_ratio, angle)]
    if rng.uniform() < laws.nucleus_share:
        parts.append(_nucleus(rng, laws, axis_ratio, angle))
    found = measure(parts)
    scale = radius_arcsec / found.half_light_radius_arcsec
    parts = [_scaled(part, 1 / sum(p.flux for p in parts), scale) for part in parts]
    tilt = np.exp(rng.normal(*laws.gradient) * lever)
    colours = [flux * part.flux * (tilt if k == 1 and len(parts) > 1 else 1.0) for k, part in enumerate(parts)]
    whole = flux / np.sum(colours, axis=0)
    lights = [part._replace(flux=tuple((c * whole).tolist())) for part, c in zip(parts, colours, strict=True)]
    if rng.uniform() < laws.dust_share:
        lights.append(_dust(rng, laws, lights, radius_arcsec, axis_ratio, angle, lever))
    return tuple(lights), found._replace(half_light_radius_arcsec=radius_arcsec)


def measure(parts: Sequence[Sersic | Ring]) -> Shape:
    """Half-light radius, flux-weighted axis ratio, and the Sersic index that has the same concentration r80 / r20."""
    flux = np.array([np.sum(part.flux) for part in parts])
    weight = flux / flux.sum()
    radii = _radius(parts[0]) * np.exp(_LOG_RADII)
    grown = weight @ np.stack([_within(part, radii) for part in parts])
    inner, half, outer = np.exp(np.interp(_LEVELS, grown, np.log(radii)))
    e1, e2 = weight @ np.array([part.e1 for part in parts]), weight @ np.array([part.e2 for part in parts])
    e = float(np.hypot(e1, e2))
    index = np.interp(np.log(outer / inner), _concentrations(), _INDICES)
    return Shape(float(half), (1 - e) / (1 + e), float(index))


def sersic_b(n: Float | float) -> Float:
    """b_n of Ciotti & Bertin 1999 (A&A 352, 447), eq. 18."""
    n = np.asarray(n)
    return np.asarray(2 * n - 1 / 3 + 4 / 405 / n + 46 / 25515 / n**2 + 131 / 1148175 / n**3)


def brightness(part: Sersic, radius: float) -> Float:
    """Surface brightness at a product-averaged radius, flux per arcsec^2: (band,) or a number."""
    n, b = part.n_sersic, sersic_b(part.n_sersic)
    unit = 2 * np.pi * part.r_sersic**2 * n * b ** (-2 * n) * gamma_function(2 * n)
    return np.asarray(np.array(part.flux) / unit * np.exp(-b * (radius / part.r_sersic) ** (1 / n)))


def _bulge_and_envelope(rng: np.random.Generator, laws: Hosts, q: float, angle: float) -> list[Sersic]:
    core, single = rng.uniform() < laws.core_share, rng.uniform() < laws.single_share
    n = rng.uniform(*(laws.core_index if core and not single else laws.bulge_index))
    bulge = Sersic(1.0, 1.0, n, *ellipticity(q, angle), 0.0, 0.0)
    if single:
        return [bulge]
    light = rng.uniform(*laws.envelope_light)
    twist = angle + rng.normal(0, np.deg2rad(laws.twist_deg))
    q_out = float(np.clip(q + rng.normal(0, laws.axis_ratio_change), *_AXIS_RATIOS))
    x, y = rng.normal(0, laws.centre_offset, 2).tolist()
    radius, index = rng.uniform(*laws.envelope_radius), rng.uniform(*laws.envelope_index)
    envelope = Sersic(light, radius, index, *ellipticity(q_out, twist), x, y)
    return [bulge._replace(flux=1 - light), envelope]


def _nucleus(rng: np.random.Generator, laws: Hosts, q: float, angle: float) -> Sersic:
    """A disc of stars in the middle, flatter than the galaxy."""
    light, radius = rng.uniform(*laws.nucleus_light), rng.uniform(*laws.nucleus_radius)
    return Sersic(light, radius, 1.0, *ellipticity(q * rng.uniform(0.3, 0.8), angle), 0.0, 0.0)


def _dust(
    rng: np.random.Generator, laws: Hosts, lights: list[Sersic], radius_arcsec: float, q: float, angle: float,
    lever: Float,
) -> Sersic:  # fmt: skip
    """Light that is missing along a lane through the centre: negative, and nowhere more than there is."""
    flat, depth = rng.uniform(*_DUST_FLATTENING), rng.uniform(*laws.dust_depth)
    along = radius_arcsec * rng.uniform(*laws.dust_radius)
    mean = along * np.sqrt(flat)  # product-averaged radius of a lane that reaches this far
    dimmest = np.sum([brightness(light, along / np.sqrt(q)) for light in lights], axis=0)  # along the minor axis too
    lost = np.minimum(depth * np.exp(_DUST_REDDENING * lever), 0.95) * dimmest
    flux = lost * np.pi * mean**2 / np.log(2)
    lane = angle + rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.2)
    return Sersic(tuple((-flux).tolist()), mean, _DUST_INDEX, *ellipticity(flat, lane), 0.0, 0.0)


def _scaled(part: Sersic, flux: float, size: float) -> Sersic:
    x, y = part.center_x * size, part.center_y * size
    return part._replace(flux=part.flux * flux, r_sersic=part.r_sersic * size, center_x=x, center_y=y)


def _radius(part: Sersic | Ring) -> float:
    return float(part.r_sersic if isinstance(part, Sersic) else part.radius)


def _within(part: Sersic | Ring, radii: Float) -> Float:
    """The share of a component's light within product-averaged radii."""
    if isinstance(part, Ring):
        return np.asarray(np.clip((radii - part.radius) / (2.5 * part.width) + 0.5, 0, 1))
    n = part.n_sersic
    return np.asarray(gammainc(2 * n, sersic_b(n) * (radii / part.r_sersic) ** (1 / n)))


@functools.cache
def _concentrations() -> Float:
    """ln r80 / r20 of single profiles of `_INDICES`."""
    radii = np.exp(np.linspace(-9, 6, 600))
    found = []
    for n in _INDICES:
        grown = gammainc(2 * n, sersic_b(n) * radii ** (1 / n))
        rising = np.concatenate([[True], np.diff(grown) > 0])
        inner, outer = np.interp((_LEVELS[0], _LEVELS[2]), grown[rising], np.log(radii[rising]))
        found.append(outer - inner)
    return np.array(found)
