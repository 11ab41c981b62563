"""The light of simulated objects, before noise: hosts and what is behind or beside them, through the survey's PSFs."""

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lensml import config
from lensml.lensing import observe, population, psf_bank
from lensml.lensing.observe import Camera
from lensml.lensing.population import Subject
from lensml.lensing.psf_bank import PsfBank
from lensml.lensing.render import Grid, Psf, render_batch
from lensml.lensing.scene import Scene, collate
from lensml.schema import ContractError
from lensml.sources.simulated_objects import Drawn

_ATTEMPTS: Final = 60  # draws of an object whose arc is too faint
_MARGIN: Final = 8  # pixels beyond the border whose light the PSF may bring in
_PSFS: Final = 2  # the stream of random numbers that PSFs are drawn from, beside those of simulated_objects

Float = NDArray[np.float64]
Chosen = NDArray[np.int_]


class Seen(NamedTuple):
    """Images without noise, and how the extra light, an arc or what imitates one, stands out."""

    flux: Float  # (object, band, y, x) nJy
    flux_ratio: Float  # (object,) of the extra light over it and the host's, summed over bands; 0 without
    snr: Float  # (object,) of the extra light, all bands and pixels together


def expose(drawn: Sequence[Drawn], bank: PsfBank, camera: Camera, supersampling: int, snr_min: float) -> Seen:
    """Render the objects; those whose extra light is fainter than `snr_min` are drawn again, their hosts kept.

    Raises
    ------
    ContractError
        An object stays too faint however often it is drawn.
    """
    grid = Grid(camera.pixels, camera.pixel_scale, supersampling, margin=min(bank.stamp.shape[-1] // 2, _MARGIN))
    everyone = np.arange(len(drawn))
    flux = _images([_base(d.subject) for d in drawn], bank, [d.psf for d in drawn], grid)
    ratio, snr = np.zeros(len(drawn)), np.zeros(len(drawn))
    todo: Chosen = everyone[[d.subject.flux_ratio > 0 for d in drawn]]
    for _ in range(_ATTEMPTS):
        if len(todo) == 0:
            return Seen(flux, ratio, snr)
        chosen = [drawn[i] for i in todo]
        extra = _extra_images(chosen, bank, grid)
        snr[todo] = observe.signal_to_noise(extra, flux[todo], observe.stack([d.exposure for d in chosen]))
        ratio[todo] = [d.subject.flux_ratio for d in chosen]
        bright = snr[todo] >= snr_min
        flux[todo[bright]] += extra[bright]
        todo = todo[~bright]
        for i in todo:
            drawn[i].again()
    raise ContractError(
        f"arc_snr_min must be within reach of the flux ratios and magnitudes, got {snr_min:g} (simulated). Lower it."
    )


def psf_bank_of(params: config.SimulatedSource, name: str, survey: config.Survey) -> PsfBank:
    """A survey's PSFs, drawn once in a process."""
    own = params.surveys[name]
    return _bank(params.seed, params.supersampling, name, own.model_dump_json(), survey.model_dump_json())


@lru_cache(maxsize=8)
def _bank(seed: int, supersampling: int, name: str, own: str, constants: str) -> PsfBank:
    """The sections as JSON, by which they are looked up."""
    survey = config.SimulatedSurvey.model_validate_json(own)
    known = config.Survey.model_validate_json(constants)
    grid = psf_bank.PsfGrid(known.pixel_scale, supersampling, survey.stamp_pixels)
    fwhm = np.array([known.bands[band].psf_fwhm for band in survey.bands])
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), _PSFS])
    return psf_bank.draw(rng, survey.observing, survey.bands, fwhm, grid)


def _extra_images(drawn: Sequence[Drawn], bank: PsfBank, grid: Grid) -> Float:
    """With a lensed source's flux as its ratio asks for: how much it is magnified is known only once it is rendered."""
    images = _images([_extra(d.subject) for d in drawn], bank, [d.psf for d in drawn], grid)
    for draw, image in zip(drawn, images, strict=True):
        subject = draw.subject
        if subject.z_source is not None and image.sum() > 0:
            scale = float(population.source_scale(subject.flux_ratio, image.sum(), subject.host.flux.sum()))
            draw.subject = population.with_source_scaled(subject, scale)
            image *= scale
    return images


def _base(subject: Subject) -> Scene:
    """Without the extra light."""
    light = subject.scene.lens_light
    beside = 0 if subject.scene.source_light else len(subject.extra)
    return Scene((), light[: len(light) - beside], ())


def _extra(subject: Subject) -> Scene:
    source = subject.scene.source_light
    return Scene(subject.scene.mass, (), source) if source else Scene((), subject.extra, ())


def _images(scenes: list[Scene], bank: PsfBank, entries: list[int], grid: Grid) -> Float:
    """(object, band, y, x) nJy."""
    psf = Psf(torch.from_numpy(bank.fine[entries]))
    with torch.inference_mode():
        images = render_batch(collate(scenes), grid, psf)
    return np.asarray(images.numpy().astype(np.float64))
