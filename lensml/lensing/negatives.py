"""Who is no lens, beside the twins: what imitates arcs about a host or in its place, and galaxies of the field.

draw_negative(rng, laws, view, host, kind=None) -> Subject    about a host of its own, drawn as a lens's is
draw_galaxy(rng, laws, view, kind=None) -> Subject            any galaxy, of any type
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from lensml.config_population import Population
from lensml.lensing import cosmology, deflectors, early_types, galaxies, morphology, sed
from lensml.lensing.deflectors import View
from lensml.lensing.galaxies import njy
from lensml.lensing.geometry import ellipticity, painted, polar
from lensml.lensing.morphology import Imitation, Place
from lensml.lensing.population import Host, Subject, early_type, neighbours_of, source_scale, unlensed
from lensml.lensing.scene import Light, Ring, Sersic
from lensml.schema import ContractError

ARTEFACTS: Final = {"star_spikes": "star", "ghost": "ghost", "cosmic_ray": "cosmic_ray"}  # of lensml.lensing.artefacts
_COMPACT: Final = (0.3, 0.6)  # radius over a disc's
_COMPACT_INDEX: Final = (1.5, 5.0)
_OLD_SHARE: Final = 0.5  # of compact galaxies


def draw_negative(
    rng: np.random.Generator, laws: Population, view: View, host: Host, kind: str | None = None
) -> Subject:
    """Something that looks like a lens, or a galaxy of the field; drawn by the weights in `laws` unless named.

    Raises
    ------
    ContractError
        The kind is unknown.
    """
    kind = _choice(rng, laws.negatives.kinds) if kind is None else kind
    if kind in morphology.BESIDE:
        return _beside(rng, laws, view, host, kind)
    if kind in morphology.INSTEAD:
        return _instead(rng, laws, view, host, kind)
    if kind in ARTEFACTS:
        at = polar(host.theta_e_arcsec * rng.uniform(*laws.negatives.radius), rng.uniform(0, 2 * np.pi))
        return dataclasses.replace(unlensed(kind, host, (), 0.0), artefact=ARTEFACTS[kind], artefact_at=at)
    return draw_galaxy(rng, laws, view, kind)


def draw_galaxy(rng: np.random.Generator, laws: Population, view: View, kind: str | None = None) -> Subject:
    """Any galaxy, of the survey's magnitudes and a little fainter; drawn by the weights in `laws` unless named.

    Raises
    ------
    ContractError
        The kind is unknown.
    """
    kind = _choice(rng, laws.galaxies.kinds) if kind is None else kind
    bright, faint = view.host_magnitude
    seen = view._replace(host_magnitude=(bright, faint + laws.galaxies.fainter_mag))
    if kind == "early":
        host = early_type(rng, laws, view, deflectors.draw_deflector(rng, laws, seen, lensing=False))
    elif kind in _FIELD:
        host = _late_type(rng, laws, seen, kind)
    else:
        raise ContractError(f"kind must be of {', '.join(['early', *_FIELD])}, got {kind} (galaxies). Choose another.")
    host = dataclasses.replace(host, neighbours=neighbours_of(rng, laws, view, host))
    return unlensed(kind, host, (), 0.0)


def _beside(rng: np.random.Generator, laws: Population, view: View, host: Host, kind: str) -> Subject:
    """The host, and light that imitates arcs about it, with a lens's flux ratios."""
    own = laws.negatives
    light = morphology.BESIDE[kind](rng, _place(rng, laws, host))
    if kind == "satellites" and rng.uniform() < own.red_satellites:
        light = Imitation(light.young, light.old)
    ratio = float(np.exp(rng.uniform(*np.log(own.flux_ratio))))
    unscaled = _coloured(rng, laws, view, host.redshift, light)
    scale = source_scale(ratio, np.sum([part.flux for part in unscaled]), host.flux.sum())
    extra = tuple(part._replace(flux=tuple((float(scale) * np.array(part.flux)).tolist())) for part in unscaled)
    return unlensed(kind, host, extra, ratio)


def _instead(rng: np.random.Generator, laws: Population, view: View, host: Host, kind: str) -> Subject:
    """A galaxy as bright and far as the host, whose arms or ring lie where the host's arcs would."""
    unit = _coloured(rng, laws, view, host.redshift, morphology.INSTEAD[kind](rng, _place(rng, laws, host)))
    light = tuple(part._replace(flux=tuple((njy(host.magnitude) * np.array(part.flux)).tolist())) for part in unit)
    galaxy = _galaxy(rng, laws, host.redshift, host.magnitude, light)
    return unlensed(kind, dataclasses.replace(galaxy, neighbours=host.neighbours), (), 0.0)


def _coloured(
    rng: np.random.Generator, laws: Population, view: View, redshift: float, light: Imitation
) -> tuple[Light, ...]:
    young, old = galaxies.draw_colour(rng, laws.discs, view.bands, redshift), sed.passive(view.bands, redshift)
    return painted(light.old, old) + painted(light.young, young)


def _place(rng: np.random.Generator, laws: Population, host: Host) -> Place:
    return Place(host.theta_e_arcsec * rng.uniform(*laws.negatives.radius), host.axis_ratio, host.angle)


def _late_type(rng: np.random.Generator, laws: Population, view: View, kind: str) -> Host:
    """A star-forming galaxy, its magnitude by number counts."""
    slope, (bright, faint) = laws.surroundings.counts_slope, view.host_magnitude
    magnitude = faint + np.log10(rng.uniform(10 ** (slope * (bright - faint)), 1)) / slope
    z = galaxies.field_redshift(rng, magnitude)
    radius = galaxies.radius_arcsec(rng, laws.discs, magnitude, z)
    light = _FIELD[kind](rng, laws, radius, 1 / float(cosmology.kpc_per_arcsec(z)))
    young, old = galaxies.draw_colour(rng, laws.discs, view.bands, z), sed.passive(view.bands, z)
    painting = painted(light.old, njy(magnitude) * old) + painted(light.young, njy(magnitude) * young)
    return _galaxy(rng, laws, z, magnitude, painting)


def _galaxy(
    rng: np.random.Generator, laws: Population, redshift: float, magnitude: float, light: tuple[Light, ...]
) -> Host:
    """A galaxy that deflects nothing."""
    shaped = [part for part in light if isinstance(part, Sersic | Ring)]
    shape = early_types.measure(shaped)
    x, y = rng.normal(0, laws.surroundings.centring_arcsec, 2).tolist()
    e1, e2 = np.mean([(part.e1, part.e2) for part in shaped], axis=0)
    angle = float(np.arctan2(e2, e1) / 2)
    return Host(redshift, 0.0, 0.0, 0.0, magnitude, (), light, (), shape, angle, (x, y))


def _disc(
    rng: np.random.Generator, laws: Population, radius: float, arcsec_per_kpc: float, pair: float = 0
) -> Imitation:
    calm = {"clump_light": laws.galaxies.clump_light, "irregular_share": 0.0, "pair_share": pair}
    return Imitation((), galaxies.draw_disc(rng, laws.discs.model_copy(update=calm), radius, arcsec_per_kpc))


def _pair(rng: np.random.Generator, laws: Population, radius: float, arcsec_per_kpc: float) -> Imitation:
    return _disc(rng, laws, radius, arcsec_per_kpc, pair=1.0)


def _irregular(rng: np.random.Generator, laws: Population, radius: float, arcsec_per_kpc: float) -> Imitation:
    torn = {"irregular_share": 1.0, "arms_share": 0.0, "pair_share": 0.0}
    return Imitation((), galaxies.draw_disc(rng, laws.discs.model_copy(update=torn), radius, arcsec_per_kpc))


def _compact(rng: np.random.Generator, laws: Population, radius: float, arcsec_per_kpc: float) -> Imitation:
    shape = ellipticity(rng.uniform(0.5, 1.0), rng.uniform(0, np.pi))
    light = (Sersic(1.0, radius * rng.uniform(*_COMPACT), rng.uniform(*_COMPACT_INDEX), *shape, 0.0, 0.0),)
    return Imitation(light, ()) if rng.uniform() < _OLD_SHARE else Imitation((), light)


def _spiral(rng: np.random.Generator, laws: Population, radius: float, arcsec_per_kpc: float) -> Imitation:
    return morphology.spiral(rng, Place(radius, 1.0, 0.0))


def _edge_on(rng: np.random.Generator, laws: Population, radius: float, arcsec_per_kpc: float) -> Imitation:
    return morphology.edge_on(rng, Place(radius, 1.0, 0.0))


_FIELD: Final[dict[str, Callable[[np.random.Generator, Population, float, float], Imitation]]] = {
    "spiral": _spiral, "edge_on": _edge_on, "disc": _disc, "irregular": _irregular, "compact": _compact, "pair": _pair,
}  # fmt: skip


def _choice(rng: np.random.Generator, weights: Mapping[Any, float]) -> str:
    names = sorted(weights)
    share = np.array([weights[name] for name in names], dtype=np.float64)
    return str(names[int(np.searchsorted(np.cumsum(share) / share.sum(), rng.uniform(), side="right"))])
