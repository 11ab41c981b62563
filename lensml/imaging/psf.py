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
from scipy import fft

from lensml import config
from lensml.imaging import psf_kernels as pk
from lensml.imaging import psf_pixels, psf_stamp
from lensml.store.stamps import PLANES, Stamps

Rows = NDArray[np.int64]
PerBand = NDArray[np.float64]  # (object, band)
Refused = list[tuple[str, str]]  # (object_id, reason in words)

FWHM_PIXELS_MIN = 2.0  # Nyquist: a narrower Gaussian is not sampled
KERNEL_REACH = 2.0  # target FWHMs either way, where a PSF stamp is smaller
CORRELATION_MAX = 0.95  # more is no noise
CHUNK_PIXELS = 1 << 19  # of transforms at once: what stays in a core's cache


@dataclass(frozen=True)
class Matched:
    """Stamps after matching, what was refused, and what was measured on the matched PSFs of all that were not."""

    stamps: Stamps
    refused: Refused
    residual: PerBand  # sum |matched - target| / sum target
    fwhm_arcsec: PerBand


@dataclass(frozen=True)
class _Sources:
    """Measured PSFs of a batch, one plane per object and band, laid out for the transforms."""

    planes: pk.Planes
    centre: NDArray[np.float64]  # (plane, (y, x)) pixels
    target: pk.PerPlane  # FWHM, pixels
    half: int  # reach of the kernels, pixels

    def of(self, rows: Rows, bands: int) -> "_Sources":
        """Those of some objects."""
        planes = (rows[:, None] * bands + np.arange(bands)).reshape(-1)
        return _Sources(self.planes[planes], self.centre[planes], self.target[planes], self.half)


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
    if params.mode == "off" or not stamps.catalogue.height:
        none = np.zeros((0, len(stamps.bands)))
        return Matched(stamps, [], none, none)
    target = target_fwhm(survey, params)
    parts = [_match_chunk(chunk, survey, params, target, half) for half, chunk in _chunks(stamps, target)]
    place = {name: row for row, name in enumerate(stamps.catalogue["object_id"])}
    joined = _joined([part.stamps for part in parts])
    order = np.argsort([place[name] for name in joined.catalogue["object_id"]], kind="stable").astype(np.int64)
    return Matched(
        _rows(joined, order),
        sorted((entry for part in parts for entry in part.refused), key=lambda entry: place[entry[0]]),
        np.concatenate([part.residual for part in parts])[order],
        np.concatenate([part.fwhm_arcsec for part in parts])[order],
    )


def _chunks(stamps: Stamps, target: float) -> Iterator[tuple[int, Stamps]]:
    """Parts that fit a core's cache, and the reach of their kernels in pixels: an object's own, whatever the batch."""
    reach = np.maximum(stamps.psf.shape[-1] // 2, np.ceil(KERNEL_REACH * target / stamps.pixel_scale)).astype(np.int64)
    for half in np.unique(reach).tolist():
        rows = np.flatnonzero(reach == half)
        side = pk.padded_side(max(stamps.flux.shape[2:]), half)
        size = max(1, CHUNK_PIXELS // (side**2 * len(stamps.bands)))
        for begin in range(0, len(rows), size):
            yield half, _rows(stamps, rows[begin : begin + size])


def _match_chunk(stamps: Stamps, survey: config.Survey, params: config.PsfMatch, target: float, half: int) -> Matched:
    sources = _sources(stamps, survey, target, half)
    reasons = _before(stamps, sources, params, target)
    kept = np.flatnonzero([not reason for reason in reasons])
    none = np.zeros((0, len(stamps.bands)))
    if not len(kept):
        return Matched(_rows(stamps, kept), list(zip(stamps.catalogue["object_id"], reasons, strict=True)), none, none)
    matched, gain = _convolve(_rows(stamps, kept), sources.of(kept, len(stamps.bands)), params, target)
    late = _after(matched, gain, params, target)
    good = np.flatnonzero([not reason for reason in late])
    for row, reason in zip(kept, late, strict=True):
        reasons[row] = reason
    refused = [(name, reason) for name, reason in zip(stamps.catalogue["object_id"], reasons, strict=True) if reason]
    return Matched(_rows(matched.stamps, good), refused, matched.residual[good], matched.fwhm_arcsec[good])


def _sources(stamps: Stamps, survey: config.Survey, target: float, half: int) -> _Sources:
    side = pk.padded_side(max(stamps.flux.shape[2:]), half)
    scale = np.repeat(stamps.pixel_scale, len(stamps.bands))
    has = (stamps.psf != 0).any(axis=(2, 3))
    table = np.tile(_table(stamps, survey, has), stamps.catalogue.height) / scale
    measured = has.reshape(-1)
    planes = np.empty((len(scale), side, side))
    planes[measured] = pk.at_origin(_flat(stamps.psf)[measured], side)
    planes[~measured] = pk.gaussians(table[~measured], np.zeros((int((~measured).sum()), 2)), side)
    return _Sources(planes, pk.centroids(planes, target / scale), target / scale, half)


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
    off = np.hypot(*sources.centre.T).reshape(-1, len(stamps.bands))
    fwhm = _fwhm(sources.planes, stamps, sources.half)
    coarse = [
        f"target PSF must span {FWHM_PIXELS_MIN:g} pixels, got {target:g} arcsec on pixels of {pixel:.3g} arcsec"
        if target / pixel < FWHM_PIXELS_MIN
        else ""
        for pixel in stamps.pixel_scale
    ]
    centred = f"PSF in band {{}} must be within {params.off_centre_max:g} pixels of its stamp's centre, got {{:.3g}}"
    narrow = f"PSF in band {{}} must be narrower than the target of {target:g} arcsec, got FWHM {{:.4g}} arcsec"
    aside = _worst(stamps, off, params.off_centre_max, centred)
    broad = _worst(stamps, fwhm, target * (1 + params.fwhm_tolerance), narrow)
    return [a or b or c for a, b, c in zip(coarse, aside, broad, strict=True)]


def _after(matched: Matched, gain: PerBand, params: config.PsfMatch, target: float) -> list[str]:
    """Per object why its matched PSFs are not good enough, or ""."""
    quiet = (
        f"PSF in band {{}} must reach {target:g} arcsec amplifying nothing over {params.gain_max:g} times, got {{:.3g}}"
    )
    near = f"matched PSF in band {{}} must be within {params.residual_max:g} of its target, got {{:.3g}}"
    loud = _worst(matched.stamps, gain, params.gain_max, quiet)
    far = _worst(matched.stamps, matched.residual, params.residual_max, near)
    return [a or b for a, b in zip(loud, far, strict=True)]


def _worst(stamps: Stamps, values: PerBand, limit: float, words: str) -> list[str]:
    """Per object `words` with the worst band and its value, or "" within the limit."""
    rows = zip(values.argmax(axis=1), values.max(axis=1), strict=True)
    return [words.format(stamps.bands[band], value) if not value <= limit else "" for band, value in rows]


def _convolve(stamps: Stamps, sources: _Sources, params: config.PsfMatch, target: float) -> tuple[Matched, PerBand]:
    """The stamps through their kernels, measured; and the most that each kernel amplifies a frequency."""
    shape, side = (stamps.catalogue.height, len(stamps.bands)), sources.planes.shape[-1]
    spectra = fft.rfft2(sources.planes, workers=1)
    wanted = pk.gaussians(sources.target, sources.centre, side)
    kernel = pk.kernels(spectra, fft.rfft2(wanted, workers=1), params.regularisation, sources.half)
    through = fft.rfft2(kernel, workers=1)
    white, sky, near = pk.noise_gain(through, _correlation(stamps))
    flux, variance = psf_pixels.convolve(
        _flat(stamps.flux), _flat(stamps.variance), kernel, through, sources.target, params.lost_weight_max
    )
    variance *= (sky / white)[:, None, None]
    psf = fft.irfft2(spectra * through, (side, side), workers=1)
    residual = np.abs(psf - wanted).sum(axis=(1, 2)).reshape(shape)
    fwhm = _fwhm(psf, stamps, sources.half)
    has = (stamps.psf != 0).any(axis=(2, 3), keepdims=True)
    quality = np.isfinite(variance).reshape(*shape, -1).mean(axis=2).min(axis=1)
    catalogue = _catalogue(stamps, target, residual, fwhm, np.sqrt(sky).reshape(shape), near.reshape(shape))
    after = Stamps(
        catalogue.with_columns(pl.Series("quality", quality)),
        flux.astype(np.float32).reshape(stamps.flux.shape),
        variance.astype(np.float32).reshape(stamps.flux.shape),
        (pk.stamp(psf, stamps.psf.shape[-1]).reshape(stamps.psf.shape) * has).astype(np.float32),
    )
    return Matched(after, [], residual, fwhm), np.abs(through).max(axis=(1, 2)).reshape(shape)


def _catalogue(
    stamps: Stamps, goal: float, residual: PerBand, fwhm: PerBand, sky: PerBand, near: PerBand
) -> pl.DataFrame:
    return stamps.catalogue.with_columns(
        pl.Series("psf_fwhm", np.median(fwhm, axis=1)),
        pl.lit(True).alias("psf_matched"),
        pl.lit(goal).alias("target_psf_fwhm"),
        pl.Series("psf_residual", residual.max(axis=1)),
        pl.Series("sky_sigma", (stamps.sky_sigma * sky).tolist(), dtype=pl.List(pl.Float64)),
        pl.Series("noise_correlation", near.tolist(), dtype=pl.List(pl.Float64)),
    )


def _correlation(stamps: Stamps) -> pk.PerPlane:
    """(plane,) of neighbouring sky pixels before matching; white where it is unknown."""
    values = stamps.catalogue["noise_correlation"].explode().fill_null(0.0).to_numpy()
    return np.clip(values.astype(np.float64), 0, CORRELATION_MAX)


def _fwhm(planes: pk.Planes, stamps: Stamps, half: int) -> PerBand:
    """Half-maximum FWHM in arcsec."""
    pixels = psf_stamp.fwhm_halfmax(pk.stamp(planes, 2 * half + 1).astype(np.float32))
    return pixels.reshape(-1, len(stamps.bands)) * stamps.pixel_scale[:, None]


def _flat(array: NDArray[np.float32]) -> pk.Planes:
    return array.reshape(-1, *array.shape[2:]).astype(np.float64)


def _rows(stamps: Stamps, rows: Rows) -> Stamps:
    bands = slice(None if len(rows) else 0)  # an empty batch has no bands
    planes = (getattr(stamps, plane)[rows][:, bands] for plane in PLANES)
    return Stamps(stamps.catalogue[rows.tolist()] if len(rows) else stamps.catalogue.clear(), *planes)


def _joined(parts: list[Stamps]) -> Stamps:
    full = [part for part in parts if part.catalogue.height] or parts[:1]
    planes = (np.concatenate([getattr(part, plane) for part in full]) for plane in PLANES)
    return Stamps(pl.concat([part.catalogue for part in full]), *planes)
