"""Early-type galaxies that deflect: velocity dispersion, redshift, luminosity and size of those that a survey finds.

    draw_deflector(rng, laws, view, lensing=True) -> Deflector
    draw_mass(rng, laws, theta_e_arcsec, axis_ratio, angle) -> profiles about the origin

Candidates come from the velocity-dispersion function and the comoving volume, weighted by the cross-section theta_E^2
of a source behind them, and are rejected until one is as bright, and its images as far apart, as the survey asks for.
"""

import functools
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lensml.config_population import Deflectors, Hosts, Population
from lensml.lensing import cosmology, sed
from lensml.lensing.geometry import ellipticity
from lensml.lensing.scene import Epl, Mass, Shear, Sie
from lensml.schema import ContractError

Float = NDArray[np.float64]

_CANDIDATES: Final = 1024
_ROUNDS: Final = 400
_ROWS: Final = 2001  # of the tables that are inverted
_CROSS_SECTION_POWER: Final = 4.0  # of the velocity dispersion in theta_E^2
_ANGLE_PIVOT: Final = 0.8  # axis ratio at which the scatter of the mass's angle is quoted
_ROUNDEST: Final = 0.98
_MU_KPC: Final = 36.5721  # mu - M - 2.5 log 2 pi R^2 of R in kpc: 5 log (206265 pc / 10 pc) + 15


class View(NamedTuple):
    """What a survey sees, and whom it selects."""

    bands: tuple[str, ...]
    side_arcsec: float  # of a stamp
    psf_fwhm_arcsec: float  # of the sharpest band
    host_magnitude: tuple[float, float]  # AB at 750 nm
    theta_e_arcsec: tuple[float, float]


class Deflector(NamedTuple):
    """An early-type galaxy and what would be behind it, floats; or many, arrays."""

    sigma_v_km_s: Any
    redshift: Any
    source_redshift: Any
    theta_e_arcsec: Any  # of the singular isothermal sphere
    absolute_magnitude: Any  # rest-frame r, as at redshift 0
    magnitude: Any  # AB at 750 nm
    radius_kpc: Any  # half-light
    radius_arcsec: Any


def draw_deflector(rng: np.random.Generator, laws: Population, view: View, lensing: bool = True) -> Deflector:
    """The first candidate that the survey would select; without `lensing`, any early type of its magnitudes.

    Raises
    ------
    ContractError
        No galaxy is as bright as the survey asks for with Einstein radii as it asks for.
    """
    for _ in range(_ROUNDS):
        pool = candidates(rng, laws, _CANDIDATES, lensing)
        chosen = np.flatnonzero(_selected(rng, pool, laws.deflectors, view, lensing))
        if len(chosen):
            return Deflector(*(float(values[chosen[0]]) for values in pool))
    raise ContractError(
        f"theta_e_arcsec and host_magnitude must be those that a galaxy can have, got {list(view.theta_e_arcsec)} and "
        f"{list(view.host_magnitude)} (simulated). Widen them."
    )


def candidates(rng: np.random.Generator, laws: Population, count: int, lensing: bool = True) -> Deflector:
    """Early types of all magnitudes: arrays (count,); with `lensing`, as often as their velocity dispersion lenses."""
    own, sources = laws.deflectors, laws.sources
    power = _CROSS_SECTION_POWER if lensing else 0.0
    sigma = np.interp(rng.uniform(size=count), *_dispersions(*_vdf(own), power))
    redshift = np.interp(rng.uniform(size=count), *_volume(*own.redshift))
    source = np.interp(rng.uniform(size=count), *_source_redshifts(sources.redshift_scale, sources.redshift_max))
    theta_e = cosmology.distance_ratio(redshift, source) * cosmology.theta_e_arcsec(sigma, 0.0, 1.0)
    absolute, radius = luminosity_and_size(rng, laws.hosts, sigma)
    apparent = absolute + cosmology.distance_modulus(redshift) + sed.passive_k_correction(redshift)
    magnitude = apparent - laws.hosts.evolution_mag * redshift
    arcsec = radius / cosmology.kpc_per_arcsec(redshift)
    return Deflector(sigma, redshift, source, theta_e, absolute, magnitude, radius, arcsec)


def luminosity_and_size(rng: np.random.Generator, laws: Hosts, sigma_v_km_s: Float) -> tuple[Float, Float]:
    """Absolute rest-frame r magnitude at redshift 0 and half-light radius in kpc, for velocity dispersions.

    The size follows from the velocity dispersion (Hyde & Bernardi 2009, MNRAS 394, 1978), the luminosity from both by
    the fundamental plane (2009, MNRAS 396, 1171, table 2, r band): log R = a log sigma + b mu + c, mu the mean
    surface brightness within R without its dimming, mag / arcsec^2.
    """
    v = np.log10(sigma_v_km_s)
    c0, c1, c2 = laws.size_of_sigma
    log_r = c0 + (c1 + c2 * v) * v + rng.normal(0, laws.size_scatter_dex, v.shape)
    a, b, c = laws.fundamental_plane
    mu = (log_r - a * v - c + rng.normal(0, laws.fundamental_plane_scatter_dex, v.shape)) / b
    return mu - _MU_KPC - 2.5 * np.log10(2 * np.pi) - 5 * log_r, 10**log_r


def draw_axis_ratio(rng: np.random.Generator, laws: Hosts, sigma_v_km_s: float) -> float:
    """Of the light: 1 - q is Rayleigh and narrows with the velocity dispersion (Collett 2015, ApJ 811, 20)."""
    at_zero, per_km_s = laws.flattening
    scale = max(at_zero + per_km_s * sigma_v_km_s, 0.0)
    ceiling = -np.expm1(-0.5 * ((1 - laws.axis_ratio_min) / scale) ** 2) if scale > 0 else 0.0
    flattening = scale * np.sqrt(-2 * np.log1p(-ceiling * rng.uniform()))
    return float(min(1 - flattening, _ROUNDEST))


def draw_mass(
    rng: np.random.Generator, laws: Deflectors, theta_e: float, axis_ratio: float, angle: float
) -> tuple[Mass, ...]:
    """An isothermal or power-law ellipsoid that roughly follows the light, and external shear; about the origin.

    Parameters
    ----------
    theta_e
        arcsec, > 0
    axis_ratio, angle
        of the light; rad

    Raises
    ------
    ContractError
        The Einstein radius is not above 0, or the axis ratio not within 0 and 1.
    """
    if not theta_e > 0:
        raise ContractError(f"theta_e must be above 0 arcsec, got {theta_e:g} (deflector). Leave the object out.")
    if not 0 < axis_ratio <= 1:
        raise ContractError(f"axis_ratio must be within 0 and 1, got {axis_ratio:g} (deflector). Leave the object out.")
    q = np.clip(axis_ratio * (1 + rng.normal(0, laws.axis_ratio_scatter)), axis_ratio / 2, _ROUNDEST)
    scatter = np.deg2rad(laws.angle_scatter_deg) * (1 - _ANGLE_PIVOT) / max(1 - axis_ratio, 1 - _ROUNDEST)
    e1, e2 = ellipticity(float(q), angle + rng.normal(0, scatter))
    return _ellipsoid(rng, laws, theta_e, e1, e2), _shear(rng, laws)


def draw_satellite_mass(rng: np.random.Generator, laws: Deflectors, theta_e: float, x: float, y: float) -> Sie:
    """A galaxy beside the lens that deflects too; round."""
    return Sie(theta_e * rng.uniform(*laws.satellite_theta_e), 0.0, 0.0, x, y, laws.core_arcsec)


def _ellipsoid(rng: np.random.Generator, laws: Deflectors, theta_e: float, e1: float, e2: float) -> Mass:
    isothermal, gamma = rng.uniform() < laws.sie_share, rng.normal(*laws.density_slope)
    if isothermal:
        return Sie(theta_e, e1, e2, 0.0, 0.0, laws.core_arcsec)
    return Epl(theta_e, float(np.clip(gamma, *laws.density_slope_range)), e1, e2, 0.0, 0.0, laws.core_arcsec)


def _shear(rng: np.random.Generator, laws: Deflectors) -> Shear:
    median, dex = laws.shear
    strength, angle = median * 10 ** rng.normal(0, dex), rng.uniform(0, 2 * np.pi)
    return Shear(float(strength * np.cos(angle)), float(strength * np.sin(angle)), 0.0, 0.0)


def _selected(
    rng: np.random.Generator, pool: Deflector, laws: Deflectors, view: View, lensing: bool
) -> NDArray[np.bool_]:
    """By magnitude, Einstein radius and chance: the cross-section's rest, (D_ls / D_s)^2, and the follow-up."""
    magnitude, theta_e = np.asarray(pool.magnitude), np.asarray(pool.theta_e_arcsec)
    faintest, brightest = view.host_magnitude[1], view.host_magnitude[0]
    kept = (magnitude >= brightest) & (magnitude <= faintest)
    if not lensing:
        return kept
    least = max(view.theta_e_arcsec[0], laws.theta_e_over_fwhm_min * view.psf_fwhm_arcsec)
    kept &= (theta_e >= least) & (theta_e <= view.theta_e_arcsec[1])
    ratio = theta_e / cosmology.theta_e_arcsec(pool.sigma_v_km_s, 0.0, 1.0)
    chance = ratio**2 * 10 ** (-laws.brightness_tilt * np.maximum(magnitude - brightest, 0))
    return np.asarray(kept & (rng.uniform(size=len(kept)) < chance))


def _vdf(laws: Deflectors) -> tuple[float, float, float, float, float]:
    return laws.sigma_star_km_s, laws.alpha, laws.beta, *laws.sigma_v_km_s


@functools.cache
def _dispersions(star: float, alpha: float, beta: float, low: float, high: float, power: float) -> tuple[Float, Float]:
    """The inverse distribution of the modified Schechter function (Sheth et al. 2003; Choi et al. 2007), weighted."""
    sigma = np.linspace(low, high, _ROWS)
    x = sigma / star
    return _inverse(sigma, x ** (alpha - 1 + power) * np.exp(-(x**beta)))


@functools.cache
def _volume(low: float, high: float) -> tuple[Float, Float]:
    z = np.linspace(low, high, _ROWS)
    return _inverse(z, cosmology.volume_density(z))


@functools.cache
def _source_redshifts(scale: float, highest: float) -> tuple[Float, Float]:
    """n(z) ~ z^2 exp(-(z / scale)^1.5) (Smail et al. 1994)."""
    z = np.linspace(0, highest, _ROWS)
    return _inverse(z, z**2 * np.exp(-((z / scale) ** 1.5)))


def _inverse(values: Float, density: Float) -> tuple[Float, Float]:
    steps = (density[1:] + density[:-1]) / 2 * np.diff(values)
    grown = np.concatenate([[0.0], np.cumsum(steps)])
    return grown / grown[-1], values
