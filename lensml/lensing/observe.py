"""What a survey makes of a scene's light: depth, photon and sky noise that is correlated, sky residue, bad pixels.

The noise is Gaussian of the variance of all light and sky: a sky-limited pixel holds many electrons. Drizzling,
coadding and resampling spread a detector's pixel over the survey's with a tent, whose noise, over all sub-pixel phases,
has the autocorrelation of a cubic B-spline along each axis: one number, the lag-1 correlation, says how wide it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lensml import config_camera
from lensml.lensing import artefacts
from lensml.schema import ContractError

_CORRELATION_MAX: Final = 0.95
_TABLE: Final = 4096  # widths of the spline at which its correlation is tabulated
_CLIP_SIGMA: Final = 3.0  # brighter pixels are left out where a survey estimates its sky
_FEWEST: Final = 0.05  # of a mesh: with less left there is no estimate
_NODES: Final = 9  # of a mesh's mean along an axis of the stamp

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Camera:
    """A survey as it observes the simulated stamps; per-band arrays follow `bands`."""

    bands: tuple[str, ...]
    pixels: int
    pixel_scale: float  # arcsec
    sky_sigma: Float  # (band,) nJy per pixel, typical
    observing: config_camera.Observing

    @property
    def electrons_per_nJy(self) -> Float:  # noqa: N802
        """(band,) at the typical depth."""
        return np.array([self.observing.instrument(band).electrons_per_nJy for band in self.bands])

    @property
    def background(self) -> Float:
        """Variance of a pixel without light at the typical depth, nJy^2: (band,)."""
        read = np.array([self.observing.instrument(band).read_noise_electrons for band in self.bands])
        return np.asarray(self.sky_sigma**2 + (read / self.electrons_per_nJy) ** 2)


class Exposure(NamedTuple):
    """How deep and how correlated an object's bands are, (band,); or of many objects, (object, band)."""

    background: Float  # variance of a pixel without light, nJy^2
    electrons_per_nJy: Float  # noqa: N815
    correlation: Float  # of a pixel's noise and its neighbour's


class Record(NamedTuple):
    """One object's pixels, each (band, y, x)."""

    flux: Float  # nJy
    variance: Float  # nJy^2
    bad: Bool  # do not use


def expose(rng: np.random.Generator, camera: Camera) -> Exposure:
    """Draw an object's exposure: the time is as 1 / depth^2, and the variances of sky and of photons as its inverse."""
    observing = camera.observing
    low, high = np.log(observing.depth)
    own = rng.normal(0, observing.band_depth_scatter, len(camera.bands))
    depth2 = np.exp(2 * (rng.uniform(low, high) + own))
    ranges = np.array([observing.instrument(band).noise_correlation for band in camera.bands])
    correlation = rng.uniform(ranges[:, 0], ranges[:, 1])
    return Exposure(camera.background * depth2, camera.electrons_per_nJy / depth2, correlation)


def stack(exposures: Sequence[Exposure]) -> Exposure:
    """Of many objects, (object, band)."""
    return Exposure(*(np.stack(values) for values in zip(*exposures, strict=True)))


def variance_of(light: Float, exposure: Exposure) -> Float:
    """Sky and photon variance of (..., band, y, x) nJy, nJy^2."""
    wide = exposure.background[..., None, None], exposure.electrons_per_nJy[..., None, None]
    return np.asarray(wide[0] + np.maximum(light, 0) / wide[1])


def signal_to_noise(extra: Float, base: Float, exposure: Exposure) -> Float:
    """Matched-filter SNR of the extra light over sky and photon noise, all bands together: (object,).

    Of independent pixels, as SNRs are quoted; neighbours that are correlated lower it.
    """
    return np.asarray(np.sqrt((extra**2 / variance_of(base + extra, exposure)).sum(axis=(1, 2, 3))))


def record(
    rng: np.random.Generator,
    light: Float,
    psf: Float,
    exposure: Exposure,
    camera: Camera,
    wanted: tuple[str, artefacts.Place] | None = None,
) -> Record:
    """One object's pixels as a survey would deliver them.

    Nothing here knows what the object is: artefacts and residue by chance are those of lenses and non-lenses alike.

    Parameters
    ----------
    light
        (band, y, x) nJy, without noise
    psf
        (band, k, k), on the survey's pixels: the star beside the object has it too
    wanted
        an artefact, of `artefacts.KINDS`, that a hard negative has at a place, x and y in arcsec from the centre
    """
    observing = camera.observing
    sigma = np.sqrt(exposure.background)
    frame = artefacts.Frame(camera.pixels, camera.pixel_scale, psf, sigma, observing.artefacts.star_arms)
    spoilt = artefacts.draw(rng, frame, observing.artefacts, wanted)
    seen = light + spoilt.light
    variance = variance_of(seen, exposure)
    noise = np.sqrt(variance) * correlated(rng, exposure.correlation, camera.pixels)
    residue = observing.residue_sigma * sigma[:, None, None] * sky_residue(rng, len(sigma), camera.pixels)
    low, high = observing.over_subtraction
    taken = rng.uniform(low, high)
    sky = taken * mesh_sky(seen, sigma, observing.sky_mesh_arcsec / camera.pixel_scale) if taken else 0.0
    return Record(seen + noise + spoilt.pixels + residue - sky, variance, spoilt.bad)


def correlated(rng: np.random.Generator, correlation: Float, pixels: int) -> Float:
    """Gaussian noise of unit variance in every pixel, correlated with its neighbours: (band, y, x).

    White noise through the zero-phase root of the spline's spectrum, along each axis, on a torus that is wider than the
    stamp by the spline's reach: variance and correlation are exact, border included.

    Parameters
    ----------
    correlation
        (band,) of direct neighbours, along x and y alike; diagonal ones have its square

    Raises
    ------
    ContractError
        A correlation is not within [0, 0.95].
    """
    if not ((correlation >= 0) & (correlation <= _CORRELATION_MAX)).all():
        raise ContractError(
            f"noise_correlation must be within 0 and {_CORRELATION_MAX}, got {np.max(np.abs(correlation)):g} (noise)."
        )
    width = spline_width(correlation)
    around = pixels + int(np.ceil(2 * width.max()))
    lag = np.minimum(np.arange(around), around - np.arange(around))
    power = np.fft.rfft(_spline(lag / width[:, None]) / 4)
    root = np.fft.irfft(np.sqrt(np.maximum(power.real, 0)), around)  # (band, lag)
    apart = (np.arange(pixels)[:, None] - np.arange(around)) % around
    mix = root[:, apart].astype(np.float32)  # (band, pixel, around)
    white = rng.standard_normal((len(width), around, around), dtype=np.float32)
    return (mix @ white @ mix.transpose(0, 2, 1)).astype(np.float64)


def spline_width(correlation: Float) -> Float:
    """Side of the resampled pixels over the survey's, at which direct neighbours have this correlation; 1/2 where 0.

    1 is drizzling with whole drops (0.25), 3 the infrared detector of Euclid on the pixels of its visible one (0.86).
    """
    inverse, known = _correlations()
    return 1 / np.interp(correlation, known[::-1], inverse[::-1])


@cache
def _correlations() -> tuple[Float, Float]:
    inverse = np.linspace(2.0, 1 / _TABLE, _TABLE)[::-1]
    return inverse, _spline(inverse) / 4


def _spline(distance: Float) -> Float:
    """The centred cubic B-spline, times 6: 4 in its middle."""
    d = np.abs(distance)
    return np.where(d < 1, 4 - 6 * d**2 + 3 * d**3, np.maximum(2 - d, 0) ** 3)


def sky_residue(rng: np.random.Generator, bands: int, pixels: int) -> Float:
    """A level, a slope and a bend of the sky, of unit rms over draws and pixels, half of it the level: (band, y, x)."""
    basis = _planes(pixels)
    weight = np.sqrt([0.5, 0.15, 0.15, 0.2 / 3, 0.2 / 3, 0.2 / 3])
    return np.asarray(np.tensordot(rng.normal(size=(bands, len(basis))) * weight, basis, axes=1))


@cache
def _planes(pixels: int) -> Float:
    """Orthogonal polynomials of unit rms over the stamp: 1, x, y, x y, x^2, y^2, (6, y, x)."""
    t = np.linspace(-1, 1, pixels)
    bend = t**2 - (t**2).mean()
    slope, bend, one = t / t.std(), bend / bend.std(), np.ones(pixels)
    pairs = [(one, one), (one, slope), (slope, one), (slope, slope), (one, bend), (bend, one)]
    return np.stack([np.outer(y, x) for y, x in pairs])


def mesh_sky(light: Float, sigma: Float, mesh_pixels: float) -> Float:
    """What a survey takes for sky: the mean over a mesh of the light that is too faint to be masked, (band, y, x).

    There is no light beyond the stamp. The mean is taken about a few nodes and is linear between them.
    """
    kept = (light < _CLIP_SIGMA * sigma[:, None, None]).astype(np.float64)
    square, between = _mesh(light.shape[-1], mesh_pixels)
    covered = square.sum(axis=1)
    share = square @ kept @ square.T + (1 - np.outer(covered, covered))
    faint = square @ (light * kept) @ square.T
    return np.asarray(between @ np.where(share > _FEWEST, faint / np.maximum(share, _FEWEST), 0.0) @ between.T)


@cache
def _mesh(pixels: int, side: float) -> tuple[Float, Float]:
    """(node, pixel): each pixel's share of the side about each node; (pixel, node): interpolation between nodes."""
    nodes, pixel = np.linspace(0, pixels - 1, _NODES), np.arange(pixels)
    low, high = (np.clip(nodes[:, None] + sign * side / 2, pixel - 0.5, pixel + 0.5) for sign in (-1, 1))
    between = [np.interp(pixel, nodes, one) for one in np.eye(_NODES)]
    return (high - low) / side, np.stack(between, axis=1)
