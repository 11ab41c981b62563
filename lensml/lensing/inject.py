"""Lensed sources to be painted into stamps of real galaxies: what deflects, what is behind it, its arcs.

    host = Host(flux_njy, redshift, axis_ratio, angle, centre_arcsec, theta_e_arcsec)
    lens = draw(rng, laws, host, bands, "light", (0.7, 3.0))
    lens, arcs = rendered([lens], Stamp(pixels, pixel_scale, supersampling), psf)

The host's own light is in the stamp already: a scene here is mass and source alone. A host's velocity dispersion and
redshift are those of an early type of the population with its magnitude, hence of the fundamental plane; the mass
follows its light.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lensml.config_population import Population
from lensml.lensing import cosmology, deflectors, optics, population, scene, sed
from lensml.lensing.deflectors import Deflector, View
from lensml.lensing.early_types import Shape
from lensml.lensing.galaxies import magnitude_of
from lensml.lensing.geometry import moved
from lensml.lensing.population import Subject
from lensml.lensing.render import Grid, Psf, render_batch
from lensml.lensing.scene import Scene, Sersic
from lensml.schema import ContractError

Float = NDArray[np.float64]
Stamps = NDArray[np.float32]

_POOL: Final = 8192  # early types among which a host's like is looked for
_MAGNITUDE_ERROR: Final = 0.1  # of a host's light in an aperture
_MAGNITUDE_STRAY: Final = 0.5  # of a host's with a given Einstein radius: its redshift should not look wrong
_THETA_E_ERROR: Final = 0.05  # relative, of a given Einstein radius: its redshifts are those of lenses like it
_LIKE_MIN: Final = 1e-3  # of summed weights: less is a host that no galaxy is like
_TINY: Final = 1e-9
_REDSHIFTS: Final = 65  # of the table of colours


@dataclass(frozen=True)
class Host:
    """A real galaxy, as measured."""

    flux: Float  # (band,) nJy
    redshift: float  # NaN: unknown
    axis_ratio: float
    angle: float  # of the major axis, rad counter-clockwise from x
    centre_arcsec: tuple[float, float]  # x, y from the stamp's centre
    theta_e_arcsec: float  # of a catalogue; NaN: unknown


@dataclass(frozen=True)
class Injection:
    """A lens that the host is to be made into."""

    scene: Scene  # no `lens_light`
    host_flux: float  # nJy, all bands
    flux_ratio: float  # of the arcs on the stamp over them and the host, once rendered
    theta_e_arcsec: float
    z_lens: float
    z_source: float
    source_magnitude: float  # AB at 750 nm, not lensed


class Stamp(NamedTuple):
    """The pixels of a stamp, which need not be square."""

    shape: tuple[int, int]
    pixel_scale: float  # arcsec
    supersampling: int


def draw(
    rng: np.random.Generator,
    laws: Population,
    host: Host,
    bands: Sequence[str],
    theta_e_from: Literal["light", "catalogue"],
    theta_e_arcsec: tuple[float, float],
) -> Injection:
    """Mass and source for a host.

    Parameters
    ----------
    theta_e_from
        `light`: an Einstein radius that the host's magnitude allows, within the range; `catalogue`: the host's own,
        one of the range where it has none

    Raises
    ------
    ContractError
        The host has no light, or no galaxy of its magnitude and redshift has such an Einstein radius.
    """
    _check(host)
    given = host.theta_e_arcsec if np.isfinite(host.theta_e_arcsec) else rng.uniform(*theta_e_arcsec)
    found = _deflector(rng, laws, host, bands, None if theta_e_from == "light" else float(given), theta_e_arcsec)
    subject = _subject(rng, laws, host, bands, found)
    magnitude = subject.source_magnitude
    if magnitude is None:
        raise ContractError(f"subject must be a lens, got {subject.kind} (injection).")
    return Injection(
        subject.scene._replace(lens_light=()), float(host.flux.sum()), subject.flux_ratio, found.theta_e_arcsec,
        found.redshift, found.source_redshift, magnitude,
    )  # fmt: skip


def rendered(lenses: Sequence[Injection], stamp: Stamp, psf: Stamps) -> tuple[list[Injection], Stamps]:
    """The lenses with the source flux that their flux ratio asks for, and their arcs: nJy (object, band, y, x).

    Parameters
    ----------
    psf
        of `fine_psf`: (object, band, k, k)

    Raises
    ------
    ValueError
        The PSF is larger than the stamp.
    ContractError
        A source has no light on the stamp.
    """
    image = render([lens.scene for lens in lenses], stamp, psf)
    ratio, host = np.array([lens.flux_ratio for lens in lenses]), np.array([lens.host_flux for lens in lenses])
    scale = population.source_scale(ratio, image.sum(axis=(1, 2, 3), dtype=np.float64), host)
    scaled = [_scaled(lens, float(factor)) for lens, factor in zip(lenses, scale, strict=True)]
    return scaled, (image * scale[:, None, None, None]).astype(np.float32)


def render(scenes: Sequence[Scene], stamp: Stamp, psf: Stamps) -> Stamps:
    """Images (object, band, y, x) of scenes about the centres of stamps that need not be square."""
    side = max(stamp.shape)
    grid = Grid(side, stamp.pixel_scale, stamp.supersampling)
    (top, left), (down, right) = zip(*(_cut(side, n) for n in stamp.shape), strict=True)
    x, y = right * stamp.pixel_scale, down * stamp.pixel_scale
    placed = [
        Scene(moved(one.mass, x, y), moved(one.lens_light, x, y), moved(one.source_light, x, y)) for one in scenes
    ]
    kernels = Psf(torch.from_numpy(np.ascontiguousarray(psf)))
    image = render_batch(scene.collate(placed), grid, kernels).numpy()
    return np.asarray(image[..., top : top + stamp.shape[0], left : left + stamp.shape[1]])


def fine_psf(psf: Stamps, fwhm_arcsec: Float, stamp: Stamp, moffat_beta: float) -> Stamps:
    """PSFs on the fine grid, (object, band, k, k): the measured ones, a Moffat where there is none.

    Parameters
    ----------
    psf
        (object, band, n, n), n odd, on the stamp's pixels; all zero where there is none
    fwhm_arcsec
        (object, band)

    Raises
    ------
    ValueError
        The PSF is larger than the stamp.
    """
    most, known = min(stamp.shape), (psf != 0).any(axis=(-2, -1))
    if psf.shape[-1] > most:
        raise ValueError(f"PSF must not exceed the stamp's {most} pixels, got {psf.shape[-1]} (injection). Cut it.")
    step = stamp.supersampling
    side = min(psf.shape[-1] * step, most * step - 1) | 1
    if not known.all():  # a Moffat needs its wings
        side = _odd_below(most * step)
    found = np.zeros((*known.shape, side, side), dtype=np.float32)
    if known.any():
        found[known] = optics.resampled(psf[known].astype(np.float64), stamp.pixel_scale, stamp.pixel_scale, step, side)
    if not known.all():
        width, zero = fwhm_arcsec[~known], np.zeros((~known).sum())
        seeing = optics.Seeing(width, np.full_like(width, moffat_beta), zero, zero)
        found[~known] = optics.moffat(seeing, stamp.pixel_scale / step, side)
    return found


def _odd_below(most: int) -> int:
    return most if most % 2 else most - 1


def _cut(side: int, pixels: int) -> tuple[int, float]:
    """First pixel of a part of a side, and how far the part's centre is from the whole's, in pixels."""
    first = (side - pixels) // 2
    return first, first + (pixels - side) / 2


def _check(host: Host) -> None:
    if not (np.isfinite(host.flux).all() and host.flux.sum() > 0):
        raise ContractError(
            f"host must have light in the aperture, got {host.flux.sum():g} nJy (injection). Leave it out."
        )


def _deflector(
    rng: np.random.Generator, laws: Population, host: Host, bands: Sequence[str], theta_e: float | None,
    within: tuple[float, float],
) -> Deflector:  # fmt: skip
    """An early type of the host's redshift, and of its magnitude or given Einstein radius, as likely as it lenses."""
    pool = _at_redshift(deflectors.candidates(rng, laws, _POOL), laws, host.redshift)
    chance = (pool.theta_e_arcsec > 0) * cosmology.distance_ratio(pool.redshift, pool.source_redshift) ** 2
    miss = pool.magnitude - _magnitudes(host, bands, pool.redshift)
    if theta_e is None:
        like = chance * _normal(miss, _MAGNITUDE_ERROR)
        like = like * ((pool.theta_e_arcsec >= within[0]) & (pool.theta_e_arcsec <= within[1]))
        if like.sum() < _LIKE_MIN:
            bright = np.median(_magnitudes(host, bands, pool.redshift))
            raise ContractError(
                f"theta_e_arcsec must be what a galaxy of the host's {bright:.1f} mag can have, got {within[0]:.3g} to "
                f"{within[1]:.3g} (injection). Widen it, or leave the host out."
            )
        return _chosen(rng, pool, like)
    like = chance * _normal(np.log(np.maximum(pool.theta_e_arcsec, _TINY) / theta_e), _THETA_E_ERROR)
    weights = [like * _normal(miss, _MAGNITUDE_STRAY), like, chance]
    found = _chosen(rng, pool, next((w for w in weights if w.sum() >= _LIKE_MIN), chance))
    sigma_v = float(cosmology.sigma_v_km_s(theta_e, found.redshift, found.source_redshift))
    return found._replace(theta_e_arcsec=float(theta_e), sigma_v_km_s=sigma_v)


def _at_redshift(pool: Deflector, laws: Population, redshift: float) -> Deflector:
    """The same galaxies at a host's redshift, where it is known."""
    if not redshift > 0:
        return pool
    z = np.full(_POOL, redshift)
    theta_e = cosmology.distance_ratio(z, pool.source_redshift) * cosmology.theta_e_arcsec(pool.sigma_v_km_s, 0.0, 1.0)
    apparent = pool.absolute_magnitude + cosmology.distance_modulus(z) + sed.passive_k_correction(z)
    magnitude = apparent - laws.hosts.evolution_mag * z
    radius = pool.radius_kpc / cosmology.kpc_per_arcsec(z)
    return pool._replace(redshift=z, theta_e_arcsec=theta_e, magnitude=magnitude, radius_arcsec=radius)


def _chosen(rng: np.random.Generator, pool: Deflector, weight: Float) -> Deflector:
    if not weight.sum() > 0:
        raise ContractError("redshift of a host must be before some source, got one beyond all (injection). Leave out.")
    row = int(rng.choice(_POOL, p=weight / weight.sum()))
    return Deflector(*(float(values[row]) for values in pool))


def _magnitudes(host: Host, bands: Sequence[str], redshift: Float) -> Float:
    """AB of the host at 750 nm were it an old galaxy of these redshifts, by its nearest band that shows it."""
    off = np.abs(np.log(sed.wavelengths(bands) / sed.REFERENCE_NM))
    band = int(np.argmin(np.where(host.flux > 0, off, np.inf)))
    z, dex = _colours(bands[band])
    return np.asarray(magnitude_of(float(host.flux[band])) + 2.5 * np.interp(redshift, z, dex))


@functools.cache
def _colours(band: str) -> tuple[Float, Float]:
    """Redshifts, and log10 of an old galaxy's flux in a band over that at 750 nm."""
    z = np.linspace(0, cosmology.REDSHIFT_MAX, _REDSHIFTS) ** 2 / cosmology.REDSHIFT_MAX
    return z, np.array([np.log10(sed.passive([band], float(value))[0]) for value in z])


def _normal(miss: Float, sigma: float) -> Float:
    return np.asarray(np.exp(-0.5 * (miss / sigma) ** 2))


def _subject(rng: np.random.Generator, laws: Population, host: Host, bands: Sequence[str], found: Deflector) -> Subject:
    """As the population draws what is behind a host of its own."""
    mass = deflectors.draw_mass(rng, laws.deflectors, found.theta_e_arcsec, host.axis_ratio, host.angle)
    light = (Sersic(tuple(host.flux.tolist()), found.radius_arcsec, 4.0, 0.0, 0.0, 0.0, 0.0),)  # for its flux alone
    own = population.Host(
        found.redshift, found.sigma_v_km_s, found.source_redshift, found.theta_e_arcsec, found.magnitude, mass, light,
        (), Shape(found.radius_arcsec, host.axis_ratio, 4.0), host.angle, host.centre_arcsec,
    )  # fmt: skip
    return population.draw_lens(rng, laws, View(tuple(bands), 0.0, 0.0, (0.0, 0.0), (0.0, 0.0)), own)


def _scaled(lens: Injection, factor: float) -> Injection:
    source = tuple(p._replace(flux=tuple(factor * f for f in p.flux)) for p in lens.scene.source_light)
    magnitude = lens.source_magnitude - 2.5 * float(np.log10(factor))
    return dataclasses.replace(lens, scene=lens.scene._replace(source_light=source), source_magnitude=magnitude)
