"""What a survey makes of a scene: PSF, sky, photon and read noise, bad pixels; and how significant an arc is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from lensml.lensing import render
from lensml.lensing.population import EXTRA, HOST, Subject
from lensml.schema import ContractError

_GROUND_ARCSEC: Final = 0.4  # a broader PSF is the atmosphere's
_BETA_GROUND: Final = 3.5  # Moffat wings of seeing
_BETA_SPACE: Final = 2.5
_FWHM_SCATTER: Final = 0.05  # between objects, of ln FWHM; half of it again between an object's bands
_PSF_RADIUS_FWHM: Final = 3.5  # half side of a PSF stamp
_PIXEL_STEPS: Final = 5  # odd: a PSF stamp is summed over this many steps a pixel
_FINE_STEPS: Final = 3  # the same on the fine grid, unless
_WELL_SAMPLED: Final = 5.0  # fine pixels per FWHM make one step enough
_ATTEMPTS: Final = 60  # draws of an object whose arc is too faint
_HIT_SHARE: Final = 0.15  # objects with a cosmic ray or a bad column
_HIT_SIGMA: Final = 200.0  # what a hit adds, in sky sigma


@dataclass(frozen=True)
class Camera:
    """A survey as it observes the simulated stamps; per-band arrays follow `bands`."""

    bands: tuple[str, ...]
    pixels: int
    pixel_scale: float  # arcsec
    supersampling: int
    psf_fwhm: NDArray[np.float64]  # arcsec, typical
    sky_sigma: NDArray[np.float64]  # nJy per pixel
    electrons_per_nJy: float  # noqa: N815
    read_noise_electrons: float

    @property
    def background(self) -> NDArray[np.float64]:
        """Variance of a pixel without light, nJy^2: (band,)."""
        return np.asarray(self.sky_sigma**2 + (self.read_noise_electrons / self.electrons_per_nJy) ** 2)

    @property
    def psf_pixels(self) -> int:
        """Odd side of a PSF stamp."""
        return 2 * int(np.ceil(_PSF_RADIUS_FWHM * self.psf_fwhm.max() / self.pixel_scale)) + 1

    def psf(self, fwhm: NDArray[np.float64], supersampling: int = 1) -> torch.Tensor:
        """PSF stamps of measured widths (object, band): (object, band, k, k), k odd, unit sum."""
        beta = _BETA_GROUND if self.psf_fwhm.max() > _GROUND_ARCSEC else _BETA_SPACE
        side = self.psf_pixels if supersampling == 1 else 2 * (self.psf_pixels * supersampling // 2) + 1
        sampled = self.psf_fwhm.min() * supersampling > _WELL_SAMPLED * self.pixel_scale
        steps = _PIXEL_STEPS if supersampling == 1 else 1 if sampled else _FINE_STEPS
        return render.psf_stamps(fwhm, beta, self.pixel_scale / supersampling, side, steps)

    def draw_fwhm(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """One object's PSF widths: (band,) arcsec."""
        common = rng.normal(0, _FWHM_SCATTER)
        own = rng.normal(0, _FWHM_SCATTER / 2, len(self.bands))
        return np.asarray(self.psf_fwhm * np.exp(np.clip(common + own, -3 * _FWHM_SCATTER, 3 * _FWHM_SCATTER)))


@dataclass(frozen=True)
class Light:
    """Images without noise, nJy, and how they came about."""

    subjects: list[Subject]
    flux: NDArray[np.float64]  # (object, band, y, x) nJy
    flux_ratio: NDArray[np.float64]  # (object,) EXTRA over host and EXTRA, summed over bands; 0 without
    extra_snr: NDArray[np.float64]  # (object,) summed over bands and pixels


def expose(
    first: Sequence[Subject],
    again: Callable[[int], Subject],
    fwhm: NDArray[np.float64],
    camera: Camera,
    snr_min: float,
) -> Light:
    """Render a batch; objects whose EXTRA light is fainter than `snr_min` are drawn again, their hosts kept.

    Parameters
    ----------
    first
        the subjects as first drawn
    again
        draws the subject of an index of `first` anew
    fwhm
        (object, band) arcsec

    Raises
    ------
    ContractError
        An object stays too faint however often it is drawn.
    """
    subjects = list(first)
    kernels = camera.psf(fwhm, camera.supersampling)
    psf = render.transfer(kernels, camera.pixels * camera.supersampling)
    rest = [s.scene._replace(groups=s.scene.groups[:EXTRA]) for s in subjects]
    base = _images(rest, np.stack([s.colours[:EXTRA] for s in subjects]), psf, camera)
    extra, ratio, snr = np.zeros_like(base), np.zeros(len(subjects)), np.zeros(len(subjects))
    todo = np.flatnonzero([s.flux_ratio > 0 for s in subjects])
    for _ in range(_ATTEMPTS):
        if len(todo) == 0:
            return Light(subjects, base + extra, ratio, snr)
        chosen = [subjects[i] for i in todo]
        extra[todo] = _extra(chosen, psf[todo], camera)
        ratio[todo] = [s.flux_ratio for s in chosen]
        snr[todo] = signal_to_noise(extra[todo], base[todo], camera)
        todo = todo[snr[todo] < snr_min]
        for i in todo:
            subjects[i] = again(int(i))
    raise ContractError(
        f"arc_snr_min must be within reach of the flux ratios and magnitudes, got {snr_min:g} (simulated). Lower it."
    )


def signal_to_noise(extra: NDArray[np.float64], base: NDArray[np.float64], camera: Camera) -> NDArray[np.float64]:
    """Matched-filter SNR of the extra light over sky, read and photon noise, all bands together: (object,)."""
    variance = camera.background[:, None, None] + np.clip(base + extra, 0, None) / camera.electrons_per_nJy
    return np.asarray(np.sqrt((extra**2 / variance).sum(axis=(1, 2, 3))))


def _images(
    scenes: list[render.Scene], colours: NDArray[np.float64], psf: torch.Tensor, camera: Camera
) -> NDArray[np.float64]:
    """(object, band, y, x) nJy of all groups together; colours are (object, group, band)."""
    maps = render.draw(scenes, render.grid(camera.pixels, camera.pixel_scale, camera.supersampling))
    coloured = torch.from_numpy(colours.astype(np.float32))
    return np.asarray(render.observe(maps, coloured, psf, camera.supersampling).numpy().astype(np.float64))


def _extra(subjects: list[Subject], psf: torch.Tensor, camera: Camera) -> NDArray[np.float64]:
    """Images of the EXTRA light, scaled so that its share of host and EXTRA light is each subject's flux ratio."""
    scenes = [s.scene._replace(groups=(s.scene.groups[EXTRA],)) for s in subjects]
    images = _images(scenes, np.stack([s.colours[EXTRA:] for s in subjects]), psf, camera)
    wanted = [s.colours[HOST].sum() * s.flux_ratio / (1 - s.flux_ratio) for s in subjects]
    return np.asarray(images * (np.array(wanted) / images.sum(axis=(1, 2, 3)))[:, None, None, None])


def add_noise(
    rng: np.random.Generator, light: NDArray[np.float64], camera: Camera
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """One object's pixels as recorded: flux nJy, variance nJy^2, bad; each (band, y, x)."""
    gain = camera.electrons_per_nJy
    mean = np.clip(light, 0, None)
    flux = rng.poisson(mean * gain) / gain + rng.normal(0, 1, light.shape) * np.sqrt(camera.background)[:, None, None]
    variance = camera.background[:, None, None] + mean / gain
    bad = np.zeros(light.shape, dtype=bool)
    if rng.uniform() < _HIT_SHARE:
        band, start = rng.integers(len(light)), rng.integers(0, camera.pixels, 2)
        length = int(rng.integers(2, camera.pixels // 4))
        step = rng.integers(-1, 2, 2) if rng.uniform() < 0.7 else np.array([1, 0])  # a cosmic ray, or a piece of column
        y, x = (np.clip(start + np.outer(np.arange(length), step), 0, camera.pixels - 1)).T
        bad[band, y, x] = True
        flux[bad] += _HIT_SIGMA * camera.sky_sigma[band]
    return flux, variance, bad
