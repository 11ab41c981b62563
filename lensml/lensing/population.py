"""Who lenses whom: hosts, lenses and their twins. Who is no lens beside these is drawn in negatives.py.

    draw_host(rng, laws, view) -> Host          an early type that the survey would find lensing, and what surrounds it
    draw_lens(rng, laws, view, host) -> Subject     a source behind it; drawn again where the arc is too faint
    draw_twin(host) -> Subject                      the same without mass and source
    source_scale(flux_ratio, lensed_flux, host_flux), with_source_scaled(subject, scale)

A lens and its twin share one Host, drawn from the host's own random numbers: they differ by the arc alone. A source's
flux is what makes the arc `flux_ratio` of the light; how much lensing magnifies it is known once it is rendered.
"""

import dataclasses
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lensml.config_population import Population, Sources
from lensml.lensing import cosmology, deflectors, early_types, galaxies, sed
from lensml.lensing.deflectors import Deflector, View
from lensml.lensing.early_types import Shape
from lensml.lensing.galaxies import magnitude_of, njy
from lensml.lensing.geometry import ellipticity, moved, painted, polar
from lensml.lensing.scene import Light, Mass, Scene, Sersic
from lensml.schema import ContractError

Float = NDArray[np.float64]

LENS, TWIN = "lens", "twin"
_COMPANIONS_WITHIN_ARCSEC: Final = 10.0
_SATELLITE_LIGHT: Final = 2.0  # power of theta_E: L ~ sigma^4 (Faber & Jackson 1976), theta_E ~ sigma^2
_MAGNIFICATION: Final = 2.0  # of a point over its impact parameter in Einstein radii: 2 / beta (isothermal sphere)
_LEAST_IMPACT: Final = 0.15  # below which an extended source is magnified no more


@dataclass(frozen=True)
class Host:
    """A galaxy and what surrounds it, whether or not something is lensed behind it. Light is in nJy per band."""

    redshift: float
    sigma_v_km_s: float  # 0: a galaxy that deflects nothing, the same below
    source_redshift: float
    theta_e_arcsec: float
    magnitude: float  # AB at 750 nm
    mass: tuple[Mass, ...]  # about the host's centre, as the light and the neighbours
    light: tuple[Light, ...]
    neighbours: tuple[Light, ...]
    shape: Shape  # as a pipeline would measure it
    angle: float  # of the major axis, rad
    centre_arcsec: tuple[float, float]  # in the stamp

    @property
    def flux(self) -> Float:
        """Of the galaxy without its neighbours, nJy: (band,)."""
        return np.asarray(np.sum([light.flux for light in self.light], axis=0))

    @property
    def magnitudes(self) -> Float:
        """AB, of the galaxy: (band,)."""
        return np.asarray(galaxies.ZERO_POINT - 2.5 * np.log10(self.flux))

    @property
    def half_light_radius_arcsec(self) -> float:
        return self.shape.half_light_radius_arcsec

    @property
    def axis_ratio(self) -> float:
        return self.shape.axis_ratio

    @property
    def sersic_index(self) -> float:
        return self.shape.sersic_index


@dataclass(frozen=True)
class Subject:
    """One object to render."""

    kind: str  # LENS, TWIN, or a kind of negative or galaxy
    host: Host
    scene: Scene
    extra: tuple[Light, ...]  # what a lens has beside its twin (unlensed), or imitates it: the last of `lens_light`
    flux_ratio: float  # of the extra light over it and the host's, summed over bands; 0 without
    z_source: float | None  # of what is lensed, the same below
    source_magnitude: float | None  # AB at 750 nm, unlensed
    artefact: str | None = None  # that the camera is to add, of lensml.lensing.artefacts.KINDS
    artefact_at: tuple[float, float] | None = None  # x, y arcsec


def draw_host(rng: np.random.Generator, laws: Population, view: View) -> Host:
    """An early type that lenses so that the survey finds it, its mass, its light, and its neighbours."""
    found = deflectors.draw_deflector(rng, laws, view)
    host = early_type(rng, laws, view, found)
    mass = deflectors.draw_mass(rng, laws.deflectors, found.theta_e_arcsec, host.axis_ratio, host.angle)
    host = dataclasses.replace(host, mass=mass, neighbours=neighbours_of(rng, laws, view, host))
    return _with_satellite(rng, laws, view, host) if rng.uniform() < laws.deflectors.satellite_share else host


def draw_lens(rng: np.random.Generator, laws: Population, view: View, host: Host) -> Subject:
    """A star-forming galaxy behind the host, with the light that a drawn flux ratio asks for, within bounds.

    Raises
    ------
    ContractError
        The host deflects nothing, or nothing is behind it.
    """
    _check_lens(host)
    own, z = laws.sources, host.source_redshift
    colour = galaxies.draw_colour(rng, laws.discs, view.bands, z)
    impact = own.impact_max * rng.uniform() ** (1 / (2 - 2.5 * own.counts_slope))
    x, y = polar(impact * host.theta_e_arcsec, rng.uniform(0, 2 * np.pi))
    magnified = _MAGNIFICATION / max(impact, _LEAST_IMPACT)
    wanted = _flux_ratio(rng, own, njy(own.magnitude[0]) * colour.sum() * magnified, host.flux.sum())
    flux = source_scale(wanted, colour.sum() * magnified, host.flux.sum())
    magnitude = float(min(magnitude_of(float(flux)), own.magnitude[1]))
    arcs = njy(magnitude) * colour.sum() * magnified
    radius = galaxies.radius_arcsec(rng, laws.discs, magnitude, z)
    light = galaxies.draw_disc(rng, laws.discs, radius, 1 / float(cosmology.kpc_per_arcsec(z)), x, y)
    source = painted(light, njy(magnitude) * colour)
    return _lens(host, source, float(arcs / (arcs + host.flux.sum())), z, magnitude)


def draw_twin(host: Host) -> Subject:
    """The lens's host and neighbours without anything behind them."""
    return unlensed(TWIN, host, (), 0.0)


def source_scale(flux_ratio: ArrayLike, lensed_flux: ArrayLike, host_flux: ArrayLike) -> Float:
    """By what a source's flux is to be multiplied so that its images are `flux_ratio` of them and the host's light.

    Raises
    ------
    ContractError
        A ratio is not within 0 and 1, or a source has no light on the stamp.
    """
    ratio, lensed = np.asarray(flux_ratio, dtype=np.float64), np.asarray(lensed_flux, dtype=np.float64)
    if not ((ratio > 0) & (ratio < 1)).all():
        raise ContractError(f"flux_ratio must be within 0 and 1, got {np.ravel(ratio)[0]:g} (lensed source).")
    if not (lensed > 0).all():
        raise ContractError("lensed_flux must be above 0, got an image without light (lensed source). Draw it again.")
    return np.asarray(np.asarray(host_flux) * ratio / (1 - ratio) / lensed)


def with_source_scaled(subject: Subject, scale: float) -> Subject:
    """The lens with its source's flux multiplied.

    Raises
    ------
    ContractError
        The subject is no lens.
    """
    source = tuple(p._replace(flux=tuple(scale * f for f in p.flux)) for p in subject.scene.source_light)
    if subject.source_magnitude is None:
        raise ContractError(f"subject must be a lens, got {subject.kind} (source flux). Leave it out.")
    magnitude = subject.source_magnitude - 2.5 * float(np.log10(scale))
    scene = subject.scene._replace(source_light=source)
    return dataclasses.replace(subject, scene=scene, extra=source, source_magnitude=magnitude)


def early_type(rng: np.random.Generator, laws: Population, view: View, found: Deflector) -> Host:
    """The galaxy with its light, without mass and neighbours."""
    q, angle = deflectors.draw_axis_ratio(rng, laws.hosts, found.sigma_v_km_s), rng.uniform(0, np.pi)
    tilt = rng.normal(0, laws.hosts.colour_scatter)
    flux = njy(found.magnitude) * sed.passive(view.bands, found.redshift, tilt)
    lever = np.log(sed.wavelengths(view.bands) / sed.REFERENCE_NM)
    light, shape = early_types.draw_light(rng, laws.hosts, found.radius_arcsec, q, angle, flux, lever)
    x, y = rng.normal(0, laws.surroundings.centring_arcsec, 2).tolist()
    return Host(
        found.redshift, found.sigma_v_km_s, found.source_redshift, found.theta_e_arcsec, found.magnitude, (), light, (),
        shape, angle, (x, y),
    )  # fmt: skip


def neighbours_of(rng: np.random.Generator, laws: Population, view: View, host: Host) -> tuple[Light, ...]:
    """Of the field, and the host's own."""
    own = laws.surroundings
    found = galaxies.draw_neighbours(rng, own, laws.discs, view)
    for _ in range(rng.poisson(own.companions)):
        x, y = polar(_COMPANIONS_WITHIN_ARCSEC * rng.uniform(), rng.uniform(0, 2 * np.pi))  # density ~ 1 / radius
        found += (_companion(rng, view, host, host.magnitude + rng.uniform(*own.companion_magnitude), x, y),)
    return found


def _companion(rng: np.random.Generator, view: View, host: Host, magnitude: float, x: float, y: float) -> Sersic:
    """A small early type at the host's redshift, sizes as luminosity^0.5 (Shen et al. 2003, MNRAS 343, 978)."""
    size = host.half_light_radius_arcsec * 10 ** (-0.2 * (magnitude - host.magnitude) + rng.normal(0, 0.1))
    flux = njy(magnitude) * sed.passive(view.bands, host.redshift, rng.normal(-0.2, 0.3))
    shape = ellipticity(rng.uniform(0.4, 1.0), rng.uniform(0, np.pi))
    return Sersic(tuple(flux.tolist()), size, rng.uniform(1.0, 4.0), *shape, x, y)


def _with_satellite(rng: np.random.Generator, laws: Population, view: View, host: Host) -> Host:
    """A companion that deflects too; its light is among the neighbours, for the twin has it as well."""
    x, y = polar(host.theta_e_arcsec * rng.uniform(*laws.deflectors.satellite_distance), rng.uniform(0, 2 * np.pi))
    mass = deflectors.draw_satellite_mass(rng, laws.deflectors, host.theta_e_arcsec, x, y)
    fainter = -2.5 * _SATELLITE_LIGHT * np.log10(mass.theta_e / host.theta_e_arcsec)
    light = _companion(rng, view, host, host.magnitude + float(fainter), x, y)
    return dataclasses.replace(host, mass=(*host.mass, mass), neighbours=(*host.neighbours, light))


def _flux_ratio(rng: np.random.Generator, laws: Sources, brightest: float, host_flux: float) -> float:
    """Log-uniform, up to what the brightest source would have behind this host."""
    least, most = laws.flux_ratio
    most = min(most, brightest / (brightest + host_flux))
    return float(np.exp(rng.uniform(np.log(min(least, most)), np.log(most))))


def _lens(host: Host, source: tuple[Light, ...], ratio: float, z: float, magnitude: float) -> Subject:
    mass, light = moved(host.mass, *host.centre_arcsec), moved(host.light + host.neighbours, *host.centre_arcsec)
    source = moved(source, *host.centre_arcsec)
    return Subject(LENS, host, Scene(mass, light, source), source, ratio, z, magnitude)


def unlensed(kind: str, host: Host, extra: tuple[Light, ...], ratio: float) -> Subject:
    """The host and its neighbours, and light beside them, with nothing deflected."""
    light = moved(host.light + host.neighbours, *host.centre_arcsec)
    extra = moved(extra, *host.centre_arcsec)
    return Subject(kind, host, Scene((), light + extra, ()), extra, ratio, None, None)


def _check_lens(host: Host) -> None:
    if not (host.mass and host.theta_e_arcsec > 0):
        raise ContractError(f"theta_e_arcsec must be above 0, got {host.theta_e_arcsec:g} (lens). Draw another host.")
    if not host.source_redshift > host.redshift:
        raise ContractError(
            f"z_source must be beyond the lens at {host.redshift:g}, got {host.source_redshift:g} (lens). "
            "A source in front is not lensed: draw another."
        )
