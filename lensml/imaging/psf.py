"""PSF matching: every band of a survey brought to one PSF, a circular Gaussian or a measured one, or refused in words.

Rules
-----
- The kernel is made from the PSF's stamp; where there is none, from a Gaussian of the FWHM that the catalogue states.
- Broad is never made narrow, and a PSF that is off its stamp's centre is not trusted. The target sits where the PSF's
  own centroid is, so that nothing moves.
- A bad pixel, and what lies beyond the border, is filled from its neighbours (a Gaussian mean of the good ones; the
  border mirrored), and a matched pixel is bad where more than `lost_weight_max` of its kernel's squared weight, that is
  of its noise, falls on such pixels.
- Variance goes through the squared kernel. Sky noise that was correlated before averages down less than white noise:
  `sky_sigma`, `noise_correlation` and the variance follow in closed form from the correlation measured before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lensml import config
from lensml.imaging import fourier, psf_pixels, psf_refusals, psf_stamp, quality
from lensml.imaging import psf_kernels as pk
from lensml.imaging.fourier import Planes
from lensml.store.stamps import Stamps

Rows = NDArray[np.int64]
PerBand = NDArray[np.float64]  # (object, band)
Refused = list[tuple[str, str]]  # (object_id, reason in words)

KERNEL_REACH = 2.0  # target FWHMs either way, where a PSF stamp is smaller
CORRELATION_MAX = 0.95  # more is no noise
UNIT_SUM_SLACK = 1e-3
CORE = 1.5  # target FWHMs from the centre, beyond which neither definition of the width sees anything
CHUNK_PIXELS = 1 << 18  # of transforms at once: 1 MiB an array, what a cache holds


@dataclass(frozen=True)
class _Target:
    """What every PSF of a batch is brought to."""

    fwhm_arcsec: float
    psf: Planes | None  # (1, n, n); None: a circular Gaussian


@dataclass(frozen=True)
class Matched:
    """Stamps after matching, what was refused, and what was measured on the matched PSFs of all that were not."""

    stamps: Stamps
    refused: Refused
    residual: PerBand  # sum |matched - target| / sum target
    fwhm_arcsec: PerBand


@dataclass(frozen=True)
class _Sources:
    """PSFs as observed; per object and band unless said otherwise."""

    has: NDArray[np.bool_]  # a stamp
    fwhm_arcsec: PerBand
    centre: NDArray[np.float64]  # (object, band, (y, x)) pixels, where the target is to be
    correlation: PerBand  # of neighbouring sky pixels; white where it is unknown
    target_pixels: NDArray[np.float64]  # (object,) FWHM


@dataclass(frozen=True)
class _Results:
    """Room for what matching makes of a batch, filled in part by part."""

    flux: NDArray[np.float32]
    variance: NDArray[np.float32]
    psf: NDArray[np.float32]
    core: NDArray[np.float32]  # of the matched PSF
    residual: PerBand
    gain: PerBand  # the most that any frequency is amplified
    sky: PerBand  # sky sigma after over before
    neighbour: PerBand  # noise correlation along x

    @classmethod
    def like(cls, stamps: Stamps, core: int) -> "_Results":
        """Room for stamps like these, and for cores of that many pixels either way."""
        flux, variance, psf = (np.empty_like(plane) for plane in (stamps.flux, stamps.variance, stamps.psf))
        cores = np.zeros((*flux.shape[:2], 2 * core + 1, 2 * core + 1), dtype=np.float32)
        return cls(flux, variance, psf, cores, *(np.zeros(flux.shape[:2]) for _ in range(4)))


@dataclass(frozen=True)
class _Widths:
    """FWHM of matched PSFs in arcsec, by both definitions; by moments NaN where there is no PSF."""

    halfmax: PerBand
    moment: PerBand


def match(stamps: Stamps, survey: config.Survey, params: config.PsfMatch) -> tuple[Stamps, Refused]:
    """The batch with one PSF, and (object_id, reason) of what cannot have it. Order is kept."""
    matched = match_measured(stamps, survey, params)
    return matched.stamps, matched.refused


def target_fwhm(survey: config.Survey, params: config.PsfMatch) -> float:
    """FWHM in arcsec that every band is brought to."""
    return params.common_target_fwhm if params.mode == "common" else survey.target_psf_fwhm


def match_measured(stamps: Stamps, survey: config.Survey, params: config.PsfMatch) -> Matched:
    """`match`, with residual and FWHM of each matched PSF."""
    if params.mode == "off" or not stamps.catalogue.height:
        none = np.zeros((0, len(stamps.bands)))
        return Matched(stamps, [], none, none)
    return _matched(stamps, params, _Target(target_fwhm(survey, params), None))


def match_to(stamps: Stamps, psf: Planes, params: config.PsfMatch) -> Matched:
    """The batch with the PSF of another image, say of another survey's of the same galaxy.

    Parameters
    ----------
    psf : (n, n), n odd, of unit sum and on the stamps' pixels; where in its stamp it is centred does not matter

    Raises
    ------
    ValueError
        `psf` is no such stamp, or the objects have several pixel scales.
    """
    if psf.ndim != 2 or psf.shape[0] != psf.shape[1] or psf.shape[0] % 2 == 0 or abs(psf.sum() - 1) > UNIT_SUM_SLACK:
        raise ValueError(f"psf must be an odd square of unit sum, got {psf.shape} and sum {psf.sum():g}. Normalise it.")
    scales = np.unique(stamps.pixel_scale)
    if len(scales) > 1:
        raise ValueError(f"stamps must have the pixel scale of the target PSF, got {scales.tolist()}. Split them.")
    return _matched(stamps, params, _Target(float(psf_stamp.fwhm_halfmax(psf) * scales[0]), psf[None]))


def _matched(stamps: Stamps, params: config.PsfMatch, target: _Target) -> Matched:
    sources = _measure(stamps, target)
    results = _Results.like(stamps, int(np.ceil(CORE * sources.target_pixels.max(initial=1))))
    bands, fwhm = stamps.bands, target.fwhm_arcsec
    before = psf_refusals.before(bands, stamps.pixel_scale, sources.centre, sources.fwhm_arcsec, params, fwhm)
    reasons = np.array(before, dtype=object)
    for half, rows in _chunks(stamps, sources, target, np.flatnonzero(reasons == "")):
        _convolve(stamps, sources, target, rows, half, params, results)
    kept = np.flatnonzero(reasons == "")
    reasons[kept] = psf_refusals.after(bands, results.gain[kept], results.residual[kept], params, fwhm)
    kept = np.flatnonzero(reasons == "")
    names = stamps.catalogue["object_id"]
    refused = [(name, str(reason)) for name, reason in zip(names, reasons, strict=True) if reason]
    widths = _widths(stamps, sources, results, kept)
    return Matched(_stamps(stamps, results, widths, kept, fwhm), refused, results.residual[kept], widths.halfmax)


def _measure(stamps: Stamps, target: _Target) -> _Sources:
    has = (stamps.psf != 0).any(axis=(2, 3))
    pixels = target.fwhm_arcsec / stamps.pixel_scale
    centre = pk.centroids(_flat(stamps.psf), np.repeat(pixels, len(stamps.bands))).reshape(*has.shape, 2)
    fwhm = _per_band(stamps, "fwhm_halfmax", np.nan)
    correlation = np.clip(_per_band(stamps, "noise_correlation", 0.0), 0, CORRELATION_MAX)
    return _Sources(has, fwhm, centre, correlation, pixels)


def _per_band(stamps: Stamps, column: str, unknown: float) -> PerBand:
    values = stamps.catalogue[column].explode().fill_null(unknown).to_numpy().astype(np.float64)
    return values.reshape(-1, len(stamps.bands))


def _chunks(stamps: Stamps, sources: _Sources, target: _Target, rows: Rows) -> Iterator[tuple[int, Rows]]:
    """Parts that fit a cache, and the reach of their kernels in pixels: an object's own, whatever the batch."""
    least = max(stamps.psf.shape[-1], 0 if target.psf is None else target.psf.shape[-1]) // 2
    reach = np.maximum(least, np.ceil(KERNEL_REACH * sources.target_pixels[rows])).astype(np.int64)
    for half in np.unique(reach).tolist():
        alike = rows[reach == half]
        side = fourier.padded_side(max(stamps.flux.shape[2:]), half)
        size = max(1, CHUNK_PIXELS // (side**2 * len(stamps.bands)))
        for begin in range(0, len(alike), size):
            yield half, alike[begin : begin + size]


def _convolve(
    stamps: Stamps,
    sources: _Sources,
    target: _Target,
    rows: Rows,
    half: int,
    params: config.PsfMatch,
    results: _Results,
) -> None:
    """Some objects through their kernels, measured."""
    shape, side = (len(rows), len(stamps.bands)), fourier.padded_side(max(stamps.flux.shape[2:]), half)
    where, fwhm = _run(rows), np.repeat(sources.target_pixels[rows], shape[1])
    pixel = stamps.psf.shape[-1] // 2 + half
    matched = _spectra(stamps, sources, where, side)
    aim = _aim(target, sources.centre[where].reshape(-1, 2), fwhm, pixel, side)
    kernel = pk.kernels(matched, aim, params.regularisation, half)
    through = fourier.transform(kernel, side)
    noise = pk.noise(through, sources.correlation[where].reshape(-1))
    kernels = psf_pixels.Kernels(kernel, through, noise.variance / noise.white)
    pixels = _flat(stamps.flux[where]), _flat(stamps.variance[where])
    flux, variance = psf_pixels.convolve(*pixels, kernels, fwhm, params.lost_weight_max)
    matched *= through
    _keep(flux, results.flux, where)
    _keep(variance, results.variance, where)
    _keep(noise.gain, results.gain, where)
    _keep(np.sqrt(noise.variance), results.sky, where)
    _keep(noise.neighbour, results.neighbour, where)
    _keep_psf(fourier.back(matched), aim, pixel, where, results)
    results.psf[where] *= sources.has[where, :, None, None]


def _keep(planes: NDArray[Any], room: NDArray[Any], where: Rows | slice) -> None:
    """(plane, ...) to their objects and bands."""
    room[where] = planes.reshape(-1, *room.shape[1:])


def _run(rows: Rows) -> Rows | slice:
    """Rows that follow each other as a slice, which is not copied."""
    begin, end = int(rows[0]), int(rows[-1]) + 1
    return slice(begin, end) if end - begin == len(rows) else rows


def _aim(target: _Target, centre: pk.Places, fwhm: pk.PerPlane, pixel: int, side: int) -> pk.Target:
    """The target of each plane, where the source's own centroid is."""
    if target.psf is None:
        return pk.Gaussians.at(fwhm, pixel, centre, side)
    return pk.Shapes.at(target.psf, pixel, centre - pk.centroids(target.psf, fwhm[:1]), side)


def _keep_psf(matched: Planes, aim: pk.Target, pixel: int, where: Rows | slice, results: _Results) -> None:
    """Matched PSFs, centred on `pixel`, as stamps and cores, and how far from their target they are; used up."""
    for room in (results.psf, results.core):
        _keep(fourier.around(matched, pixel, room.shape[-1] // 2), room, where)
    matched -= aim.planes()
    _keep(np.abs(matched).sum(axis=(1, 2)), results.residual, where)


def _widths(stamps: Stamps, sources: _Sources, results: _Results, rows: Rows) -> _Widths:
    core, scale = results.core[rows], stamps.pixel_scale[rows, None]
    moment = np.where(sources.has[rows], psf_stamp.fwhm_moment(core), np.nan)
    return _Widths(psf_stamp.fwhm_halfmax(core) * scale, moment * scale)


def _spectra(stamps: Stamps, sources: _Sources, where: Rows | slice, side: int) -> fourier.Spectra:
    """Transforms of the PSFs; of Gaussians of their FWHM where there are none."""
    psf = _flat(stamps.psf[where])
    missing = ~sources.has[where].reshape(-1)
    total = np.where(missing, 1, psf.sum(axis=(1, 2))).astype(np.float32)
    spectra = fourier.transform(psf / total[:, None, None], side)
    if missing.any():
        fwhm = (sources.fwhm_arcsec[where] / stamps.pixel_scale[where, None]).reshape(-1)[missing]
        typical = pk.Gaussians.at(fwhm, psf.shape[-1] // 2, np.zeros((len(fwhm), 2)), side)
        spectra[missing] = fourier.transform(typical.planes(), side)
    return spectra


def _stamps(stamps: Stamps, results: _Results, widths: _Widths, rows: Rows, target: float) -> Stamps:
    """The batch of what has been matched."""
    where, bands = _run(rows) if len(rows) else rows, slice(None if len(rows) else 0)  # an empty batch has no bands
    planes = [plane[where][:, bands] for plane in (results.flux, results.variance, results.psf)]
    good = pl.lit(pl.Series(np.isfinite(planes[1]).mean(axis=(2, 3)).min(axis=1, initial=1.0)))
    catalogue = stamps.catalogue if len(rows) == stamps.catalogue.height else stamps.catalogue[rows.tolist()]
    matched = catalogue.with_columns(
        pl.Series("psf_fwhm", np.median(widths.halfmax, axis=1)),
        _lists("fwhm_halfmax", widths.halfmax),
        _lists("fwhm_moment", widths.moment),
        pl.lit(True).alias("psf_matched"),
        pl.lit(target).alias("target_psf_fwhm"),
        pl.Series("psf_residual", results.residual[rows].max(axis=1)),
        _lists("sky_sigma", (stamps.sky_sigma * results.sky)[rows]),
        _lists("noise_correlation", results.neighbour[rows]),
        pl.min_horizontal("quality", good).alias("quality"),
        pl.when(good < pl.col("quality"))
        .then(pl.lit(quality.WORDS[0]))
        .otherwise("quality_limit")
        .alias("quality_limit"),
    )
    return Stamps(matched, *planes)


def _lists(name: str, values: PerBand) -> pl.Series:
    """A column of lists; NaN is unknown."""
    known = pl.Series(name, values.reshape(-1)).fill_nan(None)
    return known.reshape(values.shape).arr.to_list() if len(values) else pl.Series(name, [], pl.List(pl.Float64))


def _flat(array: NDArray[np.float32]) -> Planes:
    return array.reshape(-1, *array.shape[2:])
