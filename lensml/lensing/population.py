"""Who lenses whom: hosts drawn alike for lenses and non-lenses, their Einstein radii, and what shines beside them.

A lens and its non-lens twin share one host, its neighbours and the radius at which the arc, or the light that imitates
one, lies; so neither brightness nor size nor colour tells them apart, only the shape of what surrounds the host.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lensml import config
from lensml.lensing import morphology, sed
from lensml.lensing.render import Element, Lens, Scene
from lensml.schema import ContractError

HOST, NEIGHBOURS, EXTRA = range(3)  # the colour groups of a scene
LENS, GALAXY = "lens", "galaxy"

# The hosts: massive early-type galaxies. Relations as observed, rounded (e.g. Bolton et al. 2008, SLACS).
_REDSHIFT: Final = (0.15, 0.65)
_FAINTER_COMMONER: Final = 0.6  # power of a uniform draw across the magnitude range
_RADIUS_ARCSEC: Final = 0.8  # effective radius at _PIVOT_MAGNITUDE
_RADIUS_SLOPE: Final = -0.12  # dex per magnitude
_RADIUS_SCATTER: Final = 0.12  # dex
_PIVOT_MAGNITUDE: Final = 18.5
_INDEX: Final = (4.0, 0.8, 2.0, 6.0)  # Sersic: mean, scatter, least, greatest
_AXIS_RATIO: Final = (0.8, 0.1, 0.5, 0.97)
_DISPERSION_KM_S: Final = (260.0, 50.0)  # velocity dispersion: mean, scatter
_SOURCE_BEHIND: Final = (0.3, 2.0, 0.6)  # z_source - z_lens: least, and shape and scale of a gamma above it
_CANDIDATES: Final = 2000  # (dispersion, source redshift) pairs tried for a host
_BLUE_SLOPE: Final = (0.35, 0.35)  # of f_nu of arcs and of what imitates them: mean, scatter
_MASS_SCATTER: Final = 0.03  # of the mass's ellipticity about the light's
_SHEAR: Final = 0.04  # scatter of each component
_SPEED_OF_LIGHT_KM_S: Final = 299792.458
_ARCSEC_PER_RAD: Final = 206264.806


@dataclass(frozen=True)
class Host:
    """A galaxy and what is known of the line of sight, whether or not something is lensed behind it."""

    redshift: float
    magnitude: float  # AB at 750 nm
    light: Element  # unit flux
    neighbours: tuple[Element, ...]  # flux relative to the host's at 750 nm
    neighbour_slope: float
    theta_e: float  # arcsec: of the arc, or where the light that imitates one lies
    dispersion_km_s: float
    source_redshift: float

    @property
    def axis_ratio(self) -> float:
        """Minor over major axis."""
        e = float(np.hypot(self.light.e1, self.light.e2))
        return (1 - e) / (1 + e)


@dataclass(frozen=True)
class Subject:
    """One object to render: its scene, and each group's flux per band."""

    kind: str
    host: Host
    scene: Scene  # groups HOST, NEIGHBOURS, EXTRA; unit fluxes
    colours: NDArray[np.float64]  # (group, band) nJy; EXTRA relative: the flux ratio scales it
    flux_ratio: float  # EXTRA over all light of host and EXTRA; 0 without


def einstein_radius_arcsec(
    dispersion_km_s: NDArray[np.float64], z_lens: float, z_source: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Einstein radius of a singular isothermal sphere, arcsec; flat universe, H0 = 70, Omega_m = 0.3."""
    redshifts, distances = _comoving()
    lens, source = np.interp(z_lens, redshifts, distances), np.interp(z_source, redshifts, distances)
    ratio = np.clip((source - lens) / source, 0, None)  # D_ls / D_s: flat, so comoving distances add
    return np.asarray(4 * np.pi * (dispersion_km_s / _SPEED_OF_LIGHT_KM_S) ** 2 * ratio * _ARCSEC_PER_RAD)


@functools.cache
def _comoving() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from astropy.cosmology import FlatLambdaCDM

    redshifts = np.linspace(0, 20, 4001)
    return redshifts, np.asarray(FlatLambdaCDM(H0=70, Om0=0.3).comoving_distance(redshifts).value)


def draw_host(rng: np.random.Generator, survey: config.SimulatedSurvey, width: float, galaxy: bool = False) -> Host:
    """Draw a host with its neighbours; a `galaxy` is of any shape, not an early type.

    Parameters
    ----------
    width
        the stamp's side, arcsec
    """
    redshift = rng.uniform(*_REDSHIFT)
    low, high = survey.host_magnitude
    magnitude = low + (high - low) * rng.uniform() ** _FAINTER_COMMONER
    dex = _RADIUS_SLOPE * (magnitude - _PIVOT_MAGNITUDE) + rng.normal(0, _RADIUS_SCATTER)
    index = rng.uniform(0.6, 6.0) if galaxy else _clipped(rng, _INDEX)
    ratio = rng.uniform(0.2, 1.0) if galaxy else _clipped(rng, _AXIS_RATIO)
    light = Element(1.0, 0.0, 0.0, _RADIUS_ARCSEC * 10**dex, *morphology.ellipticity(rng, ratio), sersic=index)
    dispersion, source, theta_e = _line_of_sight(rng, redshift, survey.theta_e_arcsec)
    neighbours = morphology.neighbours(rng, width, theta_e)
    slope = rng.normal(1.0, 0.4)
    return Host(redshift, magnitude, light, neighbours, slope, theta_e, dispersion, source)


def _clipped(rng: np.random.Generator, law: tuple[float, float, float, float]) -> float:
    return float(np.clip(rng.normal(law[0], law[1]), law[2], law[3]))


def _line_of_sight(rng: np.random.Generator, redshift: float, allowed: Sequence[float]) -> tuple[float, float, float]:
    """Velocity dispersion, source redshift and Einstein radius: the first drawn whose radius is allowed."""
    dispersion = np.abs(rng.normal(*_DISPERSION_KM_S, _CANDIDATES))
    least, shape, scale = _SOURCE_BEHIND
    source = redshift + least + rng.gamma(shape, scale, _CANDIDATES)
    theta_e = einstein_radius_arcsec(dispersion, redshift, source)
    chosen = np.flatnonzero((theta_e >= allowed[0]) & (theta_e <= allowed[1]))
    if len(chosen) == 0:
        raise ContractError(
            f"theta_e_arcsec must hold an Einstein radius that a galaxy can have, got {list(allowed)} (simulated). "
            "Widen it."
        )
    first = chosen[0]
    return float(dispersion[first]), float(source[first]), float(theta_e[first])


def draw_subject(
    rng: np.random.Generator, kind: str, host: Host, bands: Sequence[str], flux_ratio: Sequence[float]
) -> Subject:
    """Draw what shines beside a host: a lensed source, or one of `morphology.KINDS`, of the same light."""
    flux = 10 ** (0.4 * (31.4 - host.magnitude))
    low, high = np.log(flux_ratio)
    ratio = float(np.exp(rng.uniform(low, high)))
    blue = sed.power_law(bands, rng.normal(*_BLUE_SLOPE))
    if kind == LENS:
        lens, extra = _mass(rng, host), morphology.source(rng, host.theta_e)
    else:
        lens, extra = (
            Lens(0.0, 0.0, 0.0, 0.0, 0.0),
            morphology.KINDS.get(kind, morphology.elliptical)(rng, host.theta_e),
        )
    neighbours = sed.power_law(bands, host.neighbour_slope)
    colours = np.stack([flux * sed.passive(bands, host.redshift), flux * neighbours, flux * blue])
    scene = Scene(lens, ((host.light,), host.neighbours, extra))
    return Subject(kind, host, scene, colours, ratio if extra else 0.0)


def _mass(rng: np.random.Generator, host: Host) -> Lens:
    e1, e2 = np.array([host.light.e1, host.light.e2]) + rng.normal(0, _MASS_SCATTER, 2)
    return Lens(host.theta_e, float(e1), float(e2), *rng.normal(0, _SHEAR, 2).tolist())
