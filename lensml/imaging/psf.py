"""PSF matching: every band of a survey brought to one circular Gaussian PSF, with its noise, or refused in words.

Rules
-----
- The kernel is made from the PSF in the file; where there is none, from a Gaussian of the survey's typical FWHM.
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

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lensml import config
from lensml.imaging import psf_kernels as pk
from lensml.imaging import psf_pixels, psf_stamp
from lensml.store.stamps import Stamps

Rows = NDArray[np.int64]
PerBand = NDArray[np.float64]  # (object, band)
Refused = list[tuple[str, str]]  # (object_id, reason in words)

FWHM_PIXELS_MIN = 2.0  # Nyquist: a narrower Gaussian is not sampled
KERNEL_REACH = 2.0  # target FWHMs either way, where a PSF stamp is smaller
CORRELATION_MAX = 0.95  # more is no noise
CHUNK_PIXELS = 1 << 19  # of transforms at once: 2 MiB an array, what a cache holds


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

    has: NDArray[np.bool_]  # in the file
    fwhm_arcsec: PerBand
    centre: NDArray[np.float64]  # (object, band, (y, x)) pixels
    correlation: PerBand  # of neighbouring sky pixels
    target_pixels: NDArray[np.float64]  # (object,) FWHM


@dataclass(frozen=True)
class _Results:
    """Room for what matching makes of a batch, filled in part by part."""

    flux: NDArray[np.float32]
    variance: NDArray[np.float32]
    psf: NDArray[np.float32]
    residual: PerBand
    fwhm_arcsec: PerBand
    gain: PerBand  # the most that any frequency is amplified
    sky: PerBand  # sky sigma after over before
    neighbour: PerBand  # noise correlation along x

    @classmethod
    def like(cls, stamps: Stamps) -> "_Results":
        flux, variance, psf = (np.empty_like(plane) for plane in (stamps.flux, stamps.variance, stamps.psf))
        return cls(flux, variance, psf, *(np.zeros(stamps.flux.shape[:2]) for _ in range(5)))


def match(stamps: Stamps, survey: config.Survey, params: config.PsfMatch) -> tuple[Stamps, Refused]:
    """The batch with one PSF, and (object_id, reason) of what cannot have it. Order is kept.

    Raises
    ------
    ValueError
        A band without a PSF is not in the survey's table.
    """
    matched = match_measured(stamps, survey, params)
    return matched.stamps, matched.refused


def target_fwhm(survey: config.Survey, params: config.PsfMatch) -> float:
    """FWHM in arcsec that every band is brought to."""
    return params.common_target_fwhm if params.mode == "common" else survey.target_psf_fwhm


def match_measured(stamps: Stamps, survey: config.Survey, params: config.PsfMatch) -> Matched:
    """`match`, with residual and FWHM of each matched PSF."""
    none = np.zeros((0, len(stamps.bands)))
    if params.mode == "off" or not stamps.catalogue.height:
        return Matched(stamps, [], none, none)
    target = target_fwhm(survey, params)
    sources, results = _measure(stamps, survey, target), _Results.like(stamps)
    reasons = np.array(_before(stamps, sources, params, target), dtype=object)
    for half, rows in _chunks(stamps, sources, np.flatnonzero(reasons == "")):
        _convolve(stamps, sources, rows, half, params, results)
    kept = np.flatnonzero(reasons == "")
    reasons[kept] = _after(stamps.bands, results, kept, params, target)
    kept = np.flatnonzero(reasons == "")
    names = stamps.catalogue["object_id"]
    refused = [(name, str(reason)) for name, reason in zip(names, reasons, strict=True) if reason]
    return Matched(_stamps(stamps, results, kept, target), refused, results.residual[kept], results.fwhm_arcsec[kept])


def _measure(stamps: Stamps, survey: config.Survey, target: float) -> _Sources:
    has = (stamps.psf != 0).any(axis=(2, 3))
    pixels = target / stamps.pixel_scale
    centre = pk.centroids(_flat(stamps.psf), np.repeat(pixels, len(stamps.bands))).reshape(*has.shape, 2)
    measured = psf_stamp.fwhm_halfmax(stamps.psf) * stamps.pixel_scale[:, None]
    return _Sources(has, np.where(has, measured, _table(stamps, survey, has)), centre, _correlation(stamps), pixels)


def _table(stamps: Stamps, survey: config.Survey, has: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(band,) the survey's typical FWHM in arcsec of each band that some object has no PSF of."""
    lacking = [band for row, band in enumerate(stamps.bands) if not has[:, row].all()]
    unknown = [band for band in lacking if band not in survey.bands]
    if unknown:
        raise ValueError(
            f"surveys.{stamps.survey}.bands must state the psf_fwhm of {unknown[0]}, got none, and objects have no PSF "
            f"there ({stamps.catalogue['object_id'][0]} or a neighbour). Add the band."
        )
    return np.array([survey.bands[band].psf_fwhm if band in lacking else np.nan for band in stamps.bands])


def _before(stamps: Stamps, sources: _Sources, params: config.PsfMatch, target: float) -> list[str]:
    """Per object why its PSFs cannot be matched, or ""."""
    coarse = [
        f"target PSF must span {FWHM_PIXELS_MIN:g} pixels, got {target:g} arcsec on pixels of {pixel:.3g} arcsec"
        if target * (1 + params.fwhm_tolerance) < FWHM_PIXELS_MIN * pixel
        else ""
        for pixel in stamps.pixel_scale
    ]
    off = np.hypot(sources.centre[..., 0], sources.centre[..., 1])
    centred = f"PSF in band {{}} must be within {params.off_centre_max:g} pixels of its stamp's centre, got {{:.3g}}"
    narrow = f"PSF in band {{}} must be narrower than the target of {target:g} arcsec, got FWHM {{:.4g}} arcsec"
    aside = _worst(stamps.bands, off, params.off_centre_max, centred)
    broad = _worst(stamps.bands, sources.fwhm_arcsec, target * (1 + params.fwhm_tolerance), narrow)
    return [a or b or c for a, b, c in zip(coarse, aside, broad, strict=True)]


def _after(bands: tuple[str, ...], results: _Results, rows: Rows, params: config.PsfMatch, target: float) -> list[str]:
    """Per object why its matched PSFs are not good enough, or ""."""
    quiet = (
        f"PSF in band {{}} must reach {target:g} arcsec amplifying nothing over {params.gain_max:g} times, got {{:.3g}}"
    )
    near = f"matched PSF in band {{}} must be within {params.residual_max:g} of its target, got {{:.3g}}"
    loud = _worst(bands, results.gain[rows], params.gain_max, quiet)
    far = _worst(bands, results.residual[rows], params.residual_max, near)
    return [a or b for a, b in zip(loud, far, strict=True)]


def _worst(bands: tuple[str, ...], values: PerBand, limit: float, words: str) -> list[str]:
    """Per object `words` with the worst band and its value, or "" within the limit; NaN is not within."""
    rows = zip(values.argmax(axis=1), values.max(axis=1), strict=True)
    return [words.format(bands[band], value) if not value <= limit else "" for band, value in rows]


def _chunks(stamps: Stamps, sources: _Sources, rows: Rows) -> Iterator[tuple[int, Rows]]:
    """Parts that fit a cache, and the reach of their kernels in pixels: an object's own, whatever the batch."""
    reach = np.maximum(stamps.psf.shape[-1] // 2, np.ceil(KERNEL_REACH * sources.target_pixels[rows])).astype(np.int64)
    for half in np.unique(reach).tolist():
        alike = rows[reach == half]
        side = pk.padded_side(max(stamps.flux.shape[2:]), half)
        size = max(1, CHUNK_PIXELS // (side**2 * len(stamps.bands)))
        for begin in range(0, len(alike), size):
            yield half, alike[begin : begin + size]


def _convolve(
    stamps: Stamps, sources: _Sources, rows: Rows, half: int, params: config.PsfMatch, results: _Results
) -> None:
    """Some objects through their kernels, measured."""
    shape, side = (len(rows), len(stamps.bands)), pk.padded_side(max(stamps.flux.shape[2:]), half)
    fwhm, pixel = np.repeat(sources.target_pixels[rows], shape[1]), stamps.psf.shape[-1] // 2
    spectra = _spectra(stamps, sources, rows, side)
    target = pk.Gaussians.at(fwhm, pixel + half, sources.centre[rows].reshape(-1, 2), side)
    kernel = pk.kernels(spectra, target, params.regularisation, half)
    through = pk.transform(kernel, side)
    noise = pk.noise(through, sources.correlation[rows].reshape(-1))
    flux, variance = psf_pixels.convolve(
        _flat(stamps.flux[rows]), _flat(stamps.variance[rows]), kernel, through, fwhm, params.lost_weight_max
    )
    matched = pk.back(spectra * through)
    core = pk.around(matched, pixel + half, int(np.ceil(fwhm.max())))  # reaches well beyond the half maximum
    results.flux[rows] = flux.reshape(*shape, *flux.shape[1:])
    results.variance[rows] = variance.reshape(*shape, *flux.shape[1:])
    results.variance[rows] *= (noise.variance / noise.white).astype(np.float32).reshape(*shape, 1, 1)
    results.psf[rows] = pk.around(matched, pixel + half, pixel).reshape(*shape, *stamps.psf.shape[2:])
    results.psf[rows] *= sources.has[rows, :, None, None]
    results.fwhm_arcsec[rows] = psf_stamp.fwhm_halfmax(core).reshape(shape) * stamps.pixel_scale[rows, None]
    matched -= target.planes()
    results.residual[rows] = np.abs(matched).sum(axis=(1, 2)).reshape(shape)
    results.gain[rows] = noise.gain.reshape(shape)
    results.sky[rows] = np.sqrt(noise.variance).reshape(shape)
    results.neighbour[rows] = noise.neighbour.reshape(shape)


def _spectra(stamps: Stamps, sources: _Sources, rows: Rows, side: int) -> pk.Spectra:
    """Transforms of the PSFs; of Gaussians of the survey's typical FWHM where the file has none."""
    psf = _flat(stamps.psf[rows])
    missing = ~sources.has[rows].reshape(-1)
    total = np.where(missing, 1, psf.sum(axis=(1, 2))).astype(np.float32)
    spectra = pk.transform(psf / total[:, None, None], side)
    if missing.any():
        table = (sources.fwhm_arcsec[rows] / stamps.pixel_scale[rows, None]).reshape(-1)[missing]
        typical = pk.Gaussians.at(table, psf.shape[-1] // 2, np.zeros((len(table), 2)), side)
        spectra[missing] = pk.transform(typical.planes(), side)
    return spectra


def _correlation(stamps: Stamps) -> PerBand:
    """Of neighbouring sky pixels before matching; white where it is unknown."""
    values = stamps.catalogue["noise_correlation"].explode().fill_null(0.0).to_numpy().astype(np.float64)
    return np.clip(values, 0, CORRELATION_MAX).reshape(-1, len(stamps.bands))


def _stamps(stamps: Stamps, results: _Results, rows: Rows, target: float) -> Stamps:
    """The batch of what has been matched."""
    bands = slice(None if len(rows) else 0)  # an empty batch has no bands
    planes = [plane[rows][:, bands] for plane in (results.flux, results.variance, results.psf)]
    good = np.isfinite(planes[1]).mean(axis=(2, 3))
    lists = pl.List(pl.Float64)
    catalogue = stamps.catalogue[rows.tolist()].with_columns(
        pl.Series("psf_fwhm", np.median(results.fwhm_arcsec[rows], axis=1)),
        pl.lit(True).alias("psf_matched"),
        pl.lit(target).alias("target_psf_fwhm"),
        pl.Series("psf_residual", results.residual[rows].max(axis=1)),
        pl.Series("sky_sigma", (stamps.sky_sigma * results.sky)[rows].tolist(), dtype=lists),
        pl.Series("noise_correlation", results.neighbour[rows].tolist(), dtype=lists),
        pl.Series("quality", good.min(axis=1, initial=1.0)),
    )
    return Stamps(catalogue, *planes)


def _flat(array: NDArray[np.float32]) -> pk.Planes:
    return array.reshape(-1, *array.shape[2:])
