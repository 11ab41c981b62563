"""What is in an image and is no light of the scene: stars' spikes and bleeding, ghosts, trails, cosmic rays, columns.

Each kind is a function of the same arguments, flux (band, y, x) in the unit of the sky sigma, so that a hard negative
may ask for one by name at the place where an arc would be; `draw` spoils an object by chance, whatever it is.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lensml import config_camera

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
Place = tuple[float, float]  # x, y: arcsec from the stamp's centre

# Surface brightness of a star over its central pixel's, at the distances where the power laws begin.
_HALO: Final = (0.01, 2.0, 1.25)  # share, radius in FWHM, power of 1 + (r / radius)^2: scattered light falls as r^-2.5
_SPIKE: Final = (0.03, 2.0, 1.0)  # the same along an arm: diffraction at a straight edge falls as r^-2
_SPIKE_WIDTH: Final = (0.4, 0.01)  # sigma: in FWHM, and of the distance (an arm is a spectrum)
_STAR_DISTANCE: Final = (0.35, 0.9)  # of a star from the centre, over the stamp's side
_GHOST_RADIUS: Final = (0.08, 0.5)  # over the stamp's side
_GHOST_HOLE: Final = (0.2, 0.9)  # the shadow of the secondary mirror, over the ghost's radius
_RAY_LENGTH: Final = 6.0  # pixels, mean
_RAY_SIGMA: Final = 0.45  # pixels: no optics broadens it
_RAYS: Final = 3  # at most, of one object
_COLOUR: Final = 0.3  # scatter of a star's or ghost's ln flux from the first band to the last


class Frame(NamedTuple):
    """The stamp that is spoilt."""

    pixels: int
    pixel_scale: float  # arcsec
    psf: Float  # (band, k, k) on these pixels, k odd
    sky_sigma: Float  # (band,)
    star_arms: int


class Spoilt(NamedTuple):
    """Each (band, y, x)."""

    light: Float  # that has photon noise
    pixels: Float  # that has none
    bad: Bool


def star_spikes(rng: np.random.Generator, frame: Frame, peak_sigma: float, at: Place | None = None) -> Float:
    """A star near the stamp's border or beyond it: PSF, halo and spikes, one of which runs through `at`.

    peak_sigma is its central pixel's brightness over the geometric mean of the sky sigmas; not saturated.
    """
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(*_STAR_DISTANCE) * frame.pixels
    x, y = _offsets(frame, (distance * np.cos(angle), distance * np.sin(angle)))
    roll = rng.uniform(0, 2 * np.pi)
    if at is not None:
        ax, ay = np.array(at) / frame.pixel_scale
        roll = np.arctan2(ay - distance * np.sin(angle), ax - distance * np.cos(angle))
    light = np.stack([_star(x, y, psf, roll, frame.star_arms) for psf in frame.psf])
    return light * (peak_sigma * _coloured(rng, frame))[:, None, None]


def _star(x: Float, y: Float, psf: Float, roll: float, arms: int) -> Float:
    """Over the central pixel's brightness; x and y (pixel) from the star."""
    width = _width(psf)
    share, radius, power = _HALO
    light = share * (1 + (x**2 + y**2) / (radius * width) ** 2) ** -power
    share, radius, power = _SPIKE
    for arm in roll + 2 * np.pi * np.arange(arms) / max(arms, 1):
        along, beside = x * np.cos(arm) + y * np.sin(arm), y * np.cos(arm) - x * np.sin(arm)
        sigma = _SPIKE_WIDTH[0] * width + _SPIKE_WIDTH[1] * np.abs(along)
        falling = (1 + (along / (radius * width)) ** 2) ** -power
        light += share * falling * np.exp(-0.5 * (beside / sigma) ** 2) * (along > 0)
    half = psf.shape[-1] // 2
    column, row = np.rint(x + half).astype(int), np.rint(y + half).astype(int)
    inside = (np.minimum(column, row) >= 0) & (np.maximum(column, row) <= 2 * half)
    light[inside] += psf[row[inside], column[inside]] / psf.max()
    return light


def _width(psf: Float) -> float:
    """FWHM, pixels, of the Gaussian with this peak and a sum of one."""
    return float(np.sqrt(4 * np.log(2) / np.pi / psf.max()))


def ghost(rng: np.random.Generator, frame: Frame, peak_sigma: float, at: Place | None = None) -> Float:
    """The image of the pupil by a star outside, out of focus: an annulus, whose rim runs through `at`."""
    radius = rng.uniform(*_GHOST_RADIUS) * frame.pixels
    hole, angle = rng.uniform(*_GHOST_HOLE) * radius, rng.uniform(0, 2 * np.pi)
    place = _place(rng, frame, at)
    middle = (radius + hole) / 2
    x, y = _offsets(frame, (place[0] + middle * np.cos(angle), place[1] + middle * np.sin(angle)))
    r = np.hypot(x, y)
    edge = _width(frame.psf.mean(axis=0)) / 2
    light = (np.tanh((radius - r) / edge) + 1) * (np.tanh((r - hole) / edge) + 1) / 4
    return light / light.max() * (peak_sigma * _coloured(rng, frame))[:, None, None]


def satellite_trail(rng: np.random.Generator, frame: Frame, peak_sigma: float, at: Place | None = None) -> Float:
    """A straight line through `at`, as broad as the PSF, in one band."""
    angle = rng.uniform(0, np.pi)
    x, y = _offsets(frame, _place(rng, frame, at))
    band = int(rng.integers(len(frame.psf)))
    sigma = _width(frame.psf[band]) / np.sqrt(8 * np.log(2))
    return _in_band(frame, band, peak_sigma, np.exp(-0.5 * ((y * np.cos(angle) - x * np.sin(angle)) / sigma) ** 2))


def cosmic_ray(rng: np.random.Generator, frame: Frame, peak_sigma: float, at: Place | None = None) -> Float:
    """One to three tracks in one band, the first through `at`: thinner than the PSF, uneven, mostly short."""
    band, light = int(rng.integers(len(frame.psf))), np.zeros((frame.pixels, frame.pixels))
    for k in range(rng.integers(1, _RAYS + 1)):
        x, y = _offsets(frame, _place(rng, frame, at if k == 0 else None))
        angle, length = rng.uniform(0, 2 * np.pi), rng.exponential(_RAY_LENGTH)
        along, beside = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        apart = np.maximum(np.abs(along) - length / 2, 0) ** 2 + beside**2
        near = apart < (6 * _RAY_SIGMA) ** 2
        uneven = 1 + 0.5 * np.sin(rng.uniform(0.5, 2.0) * along[near] + rng.uniform(0, 2 * np.pi))
        strength = rng.uniform(0.1, 1.0) if k else 1.0
        light[near] += strength * uneven * np.exp(-0.5 * apart[near] / _RAY_SIGMA**2)
    return _in_band(frame, band, peak_sigma, light / max(light.max(), 1e-300))


def bad_column(rng: np.random.Generator, frame: Frame, peak_sigma: float, at: Place | None = None) -> Float:
    """A piece of a column, or all of it, that is bright or dark in one band; through `at`."""
    place = _place(rng, frame, at)
    x, y = _offsets(frame, place)
    column = (x >= -0.5) & (x < 0.5)
    if rng.uniform() < 0.5:
        column &= np.abs(y) < rng.uniform(0.1, 0.5) * frame.pixels
    sign = 1.0 if rng.uniform() < 0.5 else -1.0
    return _in_band(frame, int(rng.integers(len(frame.psf))), sign * peak_sigma, column.astype(np.float64))


Kind = Callable[[np.random.Generator, Frame, float, Place | None], Float]
KINDS: Final[dict[str, Kind]] = {
    "star": star_spikes,
    "ghost": ghost,
    "satellite": satellite_trail,
    "cosmic_ray": cosmic_ray,
    "bad_column": bad_column,
}
_LIGHT: Final = ("star", "ghost", "satellite")  # have photon noise


def draw(
    rng: np.random.Generator, frame: Frame, params: config_camera.Artefacts, wanted: tuple[str, Place] | None = None
) -> Spoilt:
    """Spoil an object by chance: each kind in its share of objects, marked bad in its share of these.

    Parameters
    ----------
    wanted
        a kind that is there for certain, and where: of a hard negative
    """
    shape = (len(frame.psf), frame.pixels, frame.pixels)
    found = Spoilt(np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=bool))
    name, place = wanted or ("", None)
    for kind, chances in zip(KINDS, rng.uniform(size=(len(KINDS), 3)).tolist(), strict=True):
        if kind == name or chances[0] < getattr(params, kind).share:
            _spoil(found, rng, frame, params, kind, chances[1:], place if kind == name else None)
    return found


def _spoil(
    found: Spoilt,
    rng: np.random.Generator,
    frame: Frame,
    params: config_camera.Artefacts,
    kind: str,
    chances: list[float],
    at: Place | None,
) -> None:
    """Add one artefact; chances: that it is flagged, and where in its range it peaks."""
    own: config_camera.Artefact = getattr(params, kind)
    low, high = own.peak_sigma
    flux, limit = KINDS[kind](rng, frame, low * (high / low) ** chances[1], at), params.flag_sigma
    if kind == "star":  # no survey masks all of a halo
        flux, limit = bleed(flux, params.saturation_sigma * frame.sky_sigma), 0.999 * params.saturation_sigma
    if chances[0] < own.flagged:
        found.bad[...] |= np.abs(flux) > limit * frame.sky_sigma[:, None, None]
    (found.light if kind in _LIGHT else found.pixels)[...] += flux


def bleed(flux: Float, full: Float) -> Float:
    """Cut at the full well, (band,), and pour each column's excess over as many of its pixels up and down."""
    full = full[:, None, None]
    row = np.arange(flux.shape[-2])[:, None]
    excess = (np.maximum(flux - full, 0) / full).sum(axis=-2, keepdims=True)
    half = ((flux > full).sum(axis=-2, keepdims=True) + excess) / 2
    middle = flux.argmax(axis=-2, keepdims=True)
    return np.where((half > 0) & (np.abs(row - middle) <= half), full, np.minimum(flux, full))


def _place(rng: np.random.Generator, frame: Frame, at: Place | None) -> Place:
    """Pixels from the stamp's centre: `at`, or anywhere."""
    x, y = rng.uniform(-0.5, 0.5, 2) * frame.pixels if at is None else np.array(at) / frame.pixel_scale
    return float(x), float(y)


def _offsets(frame: Frame, place: Place) -> tuple[Float, Float]:
    """x and y (pixel) of every pixel from a place, (y, x) both."""
    axis = np.arange(frame.pixels) - (frame.pixels - 1) / 2
    y, x = np.meshgrid(axis - place[1], axis - place[0], indexing="ij")
    return x, y


def _coloured(rng: np.random.Generator, frame: Frame) -> Float:
    """(band,) flux of a source about as bright in all bands, the geometric mean of the sky sigmas."""
    slope = np.linspace(-0.5, 0.5, len(frame.sky_sigma)) if len(frame.sky_sigma) > 1 else np.zeros(1)
    return np.exp(np.log(frame.sky_sigma).mean() + rng.normal(0, _COLOUR) * slope)


def _in_band(frame: Frame, band: int, peak_sigma: float, light: Float) -> Float:
    flux = np.zeros((len(frame.psf), frame.pixels, frame.pixels))
    flux[band] = peak_sigma * frame.sky_sigma[band] * light
    return flux
