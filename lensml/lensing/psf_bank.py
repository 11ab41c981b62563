"""A survey's PSFs, drawn once: sets of one PSF per band, of which every object has one; simulated, or from files."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from astropy.io import fits

from lensml import config_camera
from lensml.lensing import optics
from lensml.lensing.optics import Float, Stamps
from lensml.schema import ContractError

_CLIP: Final = 3.0  # standard deviations at which scatter ends
_REACH_MAX: Final = 255  # samples: a larger measured PSF is an image
_ZERNIKES: Final = 5

Sampler = Callable[[int, int], Stamps]  # supersampling, side: (entry, band, side, side)


class PsfGrid(NamedTuple):
    """The pixels that PSFs are wanted on."""

    pixel_scale: float  # arcsec, of the survey
    supersampling: int  # fine pixels of the render per pixel, along each axis
    pixels: int  # side of a stamp, which no PSF may exceed


class PsfBank(NamedTuple):
    """PSFs of odd side and unit sum."""

    fine: Stamps  # (entry, band, k, k) on the render's fine grid
    stamp: Stamps  # (entry, band, n, n) on the survey's pixels, as a survey delivers it
    fwhm: Float  # (entry, band) arcsec, of `fine`


def draw(
    rng: np.random.Generator,
    observing: config_camera.Observing,
    bands: Sequence[str],
    typical_fwhm: Float,
    grid: PsfGrid,
) -> PsfBank:
    """Draw a survey's PSFs. The bands of an instrument share seeing, or wavefront and roll, as one pointing has them.

    Parameters
    ----------
    typical_fwhm
        (band,) arcsec: what seeing scatters about, and what `psf_radius_fwhm` counts in

    Raises
    ------
    ContractError, FileNotFoundError
        The PSFs are larger than the stamp, or a file of measured ones is not there or cannot be used.
    ValueError
        A band is no instrument's.
    """
    side = 2 * int(np.ceil(observing.psf_radius_fwhm * typical_fwhm.max() / grid.pixel_scale)) + 1
    if side > grid.pixels:
        raise ContractError(
            f"psf_radius_fwhm must keep PSFs within the stamp's {grid.pixels} pixels, got {side} pixels (observing). "
            "Lower it, or raise stamp_pixels."
        )
    fine_side = 2 * (side * grid.supersampling // 2) + 1
    fine = np.zeros((observing.psfs, len(bands), fine_side, fine_side), dtype=np.float32)
    stamp = np.zeros((observing.psfs, len(bands), side, side), dtype=np.float32)
    takers = [observing.instrument(band) for band in bands]
    for instrument in observing.instruments:
        own = [i for i, taker in enumerate(takers) if taker is instrument]
        if not own:
            continue
        names = [bands[i] for i in own]
        sampler = _sampler(rng, instrument.psf, names, typical_fwhm[own], observing.psfs, grid)
        fine[:, own], stamp[:, own] = sampler(grid.supersampling, fine_side), sampler(1, side)
    return PsfBank(fine, stamp, optics.fwhm(fine, grid.pixel_scale / grid.supersampling))


def _sampler(
    rng: np.random.Generator, model: config_camera.PsfModel, bands: list[str], typical: Float, count: int, grid: PsfGrid
) -> Sampler:
    """What is drawn at random is drawn here, so that both samplings show the same PSFs."""
    if isinstance(model, config_camera.Seeing):
        return partial(_moffat, _seeing(rng, model, typical, count), grid.pixel_scale)
    if isinstance(model, config_camera.Telescope):
        return partial(_diffraction, model, bands, _wavefront(rng, model, count), grid.pixel_scale)
    return partial(_measured, model, _chosen(rng, model, bands, count, grid), grid)


def _seeing(rng: np.random.Generator, model: config_camera.Seeing, typical: Float, count: int) -> optics.Seeing:
    def scatter(width: float, bands: int) -> Float:
        return width * np.clip(rng.normal(size=(count, bands)), -_CLIP, _CLIP)

    every = len(typical)
    width = typical * np.exp(scatter(model.fwhm_scatter, 1) + scatter(model.band_scatter, every))
    beta = _uniform(rng, model.beta, (count, every))
    return optics.Seeing(width, beta, *(scatter(model.ellipticity_scatter, every) for _ in range(2)))


def _wavefront(rng: np.random.Generator, model: config_camera.Telescope, count: int) -> optics.Wavefront:
    """A random direction among the Zernikes, of a random length, at a random roll."""
    direction = rng.normal(size=(count, _ZERNIKES))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = 1e-3 * _uniform(rng, model.wavefront_nm, (count, 1))
    roll = rng.uniform(0, 2 * np.pi, count)
    return optics.Wavefront(roll, length * direction, _uniform(rng, model.blur_arcsec, (count,)))


def _uniform(rng: np.random.Generator, ends: list[float], shape: tuple[int, ...]) -> Float:
    low, high = ends
    return rng.uniform(low, high, shape)


def _moffat(seeing: optics.Seeing, pixel_scale: float, supersampling: int, side: int) -> Stamps:
    rows = [optics.moffat(optics.Seeing(*row), pixel_scale / supersampling, side) for row in zip(*seeing, strict=True)]
    return np.stack(rows)


def _diffraction(
    model: config_camera.Telescope,
    bands: list[str],
    wavefront: optics.Wavefront,
    pixel_scale: float,
    supersampling: int,
    side: int,
) -> Stamps:
    one = [optics.diffraction(model, band, wavefront, pixel_scale / supersampling, side) for band in bands]
    return np.stack(one, axis=1)


def _measured(
    model: config_camera.Measured, chosen: list[Float], grid: PsfGrid, supersampling: int, side: int
) -> Stamps:
    sampling, scale = model.sampling_arcsec, grid.pixel_scale
    one = [optics.resampled(psf, sampling, scale, supersampling, side) for psf in chosen]
    return np.stack(one, axis=1)


def _chosen(
    rng: np.random.Generator, model: config_camera.Measured, bands: list[str], count: int, grid: PsfGrid
) -> list[Float]:
    """(entry, k, k) of each band, drawn band by band: files do not say which stamps belong together."""
    found = [read_psfs(Path(model.path), band, model.sampling_arcsec, grid) for band in bands]
    return [psfs[rng.integers(len(psfs), size=count)] for psfs in found]


def read_psfs(folder: Path, band: str, sampling_arcsec: float, grid: PsfGrid) -> Float:
    """Measured PSFs of a band, of unit sum: (stamp, k, k), k odd.

    Parameters
    ----------
    folder
        holds <band>.fits (the first image in it) or <band>.npy, (k, k) or (stamp, k, k), peak in the middle

    Raises
    ------
    FileNotFoundError
        There is no file of the band.
    ContractError
        What it holds is no image, is not odd and square, is larger than the stamp, or cannot be normalised.
    """
    path = _file(folder, band)
    psfs = _array(path)
    where = f"(measured PSFs, {path.name})"
    if psfs.ndim not in (2, 3) or psfs.shape[-1] != psfs.shape[-2] or psfs.shape[-1] % 2 == 0 or not psfs.size:
        raise ContractError(f"psf must be (k, k) or (stamp, k, k) with k odd, got {psfs.shape} {where}. Cut or pad it.")
    psfs = psfs.reshape(-1, *psfs.shape[-2:])
    side = psfs.shape[-1]
    if side > _REACH_MAX or side * sampling_arcsec > grid.pixels * grid.pixel_scale:
        raise ContractError(
            f"psf must be no larger than the stamp of {grid.pixels * grid.pixel_scale:g} arcsec, got {side} x "
            f"{sampling_arcsec:g} arcsec {where}. Cut it about its middle."
        )
    if not np.isfinite(psfs).all():
        raise ContractError(f"psf must be finite, got {int((~np.isfinite(psfs)).sum())} NaN or infinite {where}.")
    total = psfs.sum(axis=(-2, -1), keepdims=True)
    if (total <= 0).any() or (np.abs(psfs).sum(axis=(-2, -1), keepdims=True) > 2 * total).any():
        raise ContractError(
            f"psf must have a positive sum, its negative part less than half of it, got {total.min():g} {where}. "
            "Subtract its background, or leave it out."
        )
    return psfs / total


def _file(folder: Path, band: str) -> Path:
    for path in (folder / f"{band}.fits", folder / f"{band}.npy"):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"path must hold {band}.fits or {band}.npy, got {folder} (measured PSFs). Put it there, or name another folder."
    )


def _array(path: Path) -> Float:
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
        with fits.open(path, memmap=False) as units:
            images = [np.asarray(u.data, dtype=np.float64) for u in units if u.is_image and u.data is not None]
    except (OSError, ValueError, TypeError) as error:
        raise ContractError(
            f"psf must be an array of numbers, got {' '.join(str(error).split())} (measured PSFs, {path.name}). "
            "Write it again."
        ) from None
    if not images:
        raise ContractError(f"psf must be an image, got none (measured PSFs, {path.name}). Write one.")
    return images[0]
