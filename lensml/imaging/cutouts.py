"""Cutouts as a survey delivers them, and their calibration into stamps: noise measured, masks applied, PSF cleaned."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lensml import config, schema
from lensml.imaging import noise, photometry, psf_truth, quality
from lensml.imaging.units import AB_NANOJANSKY
from lensml.store.quantisation import BAD_LOG_VARIANCE, FLUX_LIMIT
from lensml.store.stamps import Stamps

Refused = list[tuple[str, str]]  # (object_id, reason in words)
PerBand = NDArray[np.float64]  # (object, band)

_REDSHIFTS: Final = ("z_phot", "z_spec", "z_err")
_GIVEN: Final = ("ra", "dec", "sersic_index", "position_angle", "half_light_radius", "axis_ratio", "seeing")


@dataclass(frozen=True)
class Cutouts:
    """A batch as read from a survey's files, in nJy, before any measurement: one survey, same bands and shape.

    Attributes
    ----------
    object_id : list of str
    flux : (object, band, y, x) nJy, NaN allowed
    variance : (object, band, y, x) nJy^2, or None where the files have no such plane
    bad : (object, band, y, x), True = do not use
    psf : (object, band, py, px), or None; any normalisation, all zero where a band has none
    pixel_scale : (object,) arcsec
    metadata : object_id and any of the catalogue's scalar columns that the source knows
    saturated : (object, band, y, x), True = beyond the detector's range (bad too), or None where nothing says so
    psf_fwhm : (object, band) arcsec at half maximum, from a survey's map, NaN where there is none; or None
    north_deg : (object,) where north is, from +y towards -x (east is 90 deg further), NaN unknown; or None
    """

    object_id: list[str]
    source: str
    survey: str
    bands: tuple[str, ...]
    flux: NDArray[np.float32]
    variance: NDArray[np.float32] | None
    bad: NDArray[np.bool_]
    psf: NDArray[np.float32] | None
    pixel_scale: NDArray[np.float64]
    metadata: pl.DataFrame
    saturated: NDArray[np.bool_] | None = None
    psf_fwhm: NDArray[np.float64] | None = None
    north_deg: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class _Measured:
    """What was measured of a batch; the arrays lead with the object, PerBand is (object, band)."""

    noise: noise.Noise
    over_plane: PerBand | None
    variance: NDArray[np.float32]
    variance_scale: PerBand  # what the file's plane was multiplied by; NaN without a plane
    psf: psf_truth.Psfs
    good_fraction: PerBand


def calibrate(cutouts: Cutouts, survey: config.Survey, convert: config.Convert) -> tuple[Stamps, Refused]:
    """Stamps of the objects that can be used, and the others with the reason.

    A pixel is bad where the file says so, where flux or variance is not finite, or where the variance is not positive.
    Without a variance plane the variance is the measured sky sigma squared. A plane whose sky sigma is off the measured
    one by more than `variance_tolerance` is wrong and is rescaled to it (Euclid's, of resampled pixels, by factors of 2
    to 25); ratio and factor go into the catalogue. The sky level is not subtracted: cutouts are of sky-subtracted
    images.

    Raises
    ------
    ValueError
        A band has no entry in the survey's table.
    """
    unknown = [band for band in cutouts.bands if band not in survey.bands]
    if unknown:
        raise ValueError(
            f"bands of {cutouts.survey} must be among {', '.join(survey.bands)}, got {', '.join(unknown)}. "
            f"Add them to params.yaml: surveys.{cutouts.survey}.bands."
        )
    cutouts = _masked(cutouts)
    measured = _measure(cutouts, survey, convert)
    reasons = _reasons(cutouts, measured, convert)
    keep = np.array([not reason for reason in reasons], dtype=bool)
    refused = [(name, reason) for name, reason in zip(cutouts.object_id, reasons, strict=True) if reason]
    flux = np.where(cutouts.bad, np.float32(0), cutouts.flux)
    catalogue = _catalogue(cutouts, measured, survey, flux, convert)
    if keep.all():
        return Stamps(catalogue, flux, measured.variance, measured.psf.stamp), refused
    bands = slice(len(cutouts.bands) if keep.any() else 0)  # a batch of no objects has no bands
    planes = (plane[keep][:, bands] for plane in (flux, measured.variance, measured.psf.stamp))
    return Stamps(catalogue.filter(keep), *planes), refused


def _masked(cutouts: Cutouts) -> Cutouts:
    bad = cutouts.bad | ~np.isfinite(cutouts.flux)
    if cutouts.variance is not None:
        bad |= ~(np.isfinite(cutouts.variance) & (cutouts.variance > 0))
    return replace(cutouts, bad=bad)


def _measure(cutouts: Cutouts, survey: config.Survey, convert: config.Convert) -> _Measured:
    found = noise.measure(cutouts.flux, cutouts.bad)
    sigma2 = (found.sky_sigma**2).astype(np.float32)[..., None, None]
    plane = cutouts.variance if cutouts.variance is not None else sigma2
    variance = np.where(cutouts.bad, np.float32(np.inf), plane)
    over_plane, scale = None, np.full(found.sky_sigma.shape, np.nan)
    if cutouts.variance is not None:
        over_plane = noise.over_plane(found, variance)
        scale = noise.plane_factor(over_plane, convert.variance_tolerance)
        variance = (variance * scale[..., None, None]).astype(np.float32)
    psf = psf_truth.of_file(
        cutouts.psf, cutouts.psf_fwhm, cutouts.bands, cutouts.pixel_scale, survey, convert.psf_pixels_max
    )
    typical = np.array([survey.bands[band].psf_fwhm for band in cutouts.bands])
    psf = psf_truth.with_stars(psf, cutouts.flux, found, cutouts.bad, cutouts.pixel_scale, typical, convert.stars)
    return _Measured(found, over_plane, variance, scale, psf, 1 - cutouts.bad.mean(axis=(-2, -1)))


def _reasons(cutouts: Cutouts, measured: _Measured, convert: config.Convert) -> list[str]:
    """Per object why it cannot be used, "" where it can: the first finding of its first such band."""
    limit = convert.good_fraction_min
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        brightest = np.where(cutouts.bad, 0, np.abs(cutouts.flux)).max(axis=(-2, -1)) / measured.noise.sky_sigma
    plane = np.zeros(brightest.shape, dtype=bool)
    if cutouts.variance is not None:
        plane = np.asarray(~(cutouts.variance > 0).any(axis=(-2, -1)))
    findings: list[tuple[NDArray[np.bool_], str]] = [
        (np.asarray(~np.isfinite(cutouts.flux).any(axis=(-2, -1))), "image must have finite pixels, got none"),
        (plane, "variance must be positive somewhere, got none"),
        (measured.good_fraction < limit, f"good pixels must be at least {limit:.0%}, got fewer"),
        (~(measured.noise.sky_sigma > 0), "sky noise must be positive, got 0 (a constant image?)"),
        (brightest > FLUX_LIMIT, f"flux must be within {FLUX_LIMIT:g} sky sigmas, got more (an unmasked sentinel?)"),
        (_beyond_code(measured), "variance must be near the sky's, got a factor above 1e14 (an unmasked sentinel?)"),
        (~np.isfinite(measured.psf.lost), "PSF must be finite with a positive sum, got none such"),
        (measured.psf.lost > convert.psf_lost_max, f"PSF must fit into {convert.psf_pixels_max} pixels, got a wider"),
        (~np.isfinite(measured.psf.fwhm_halfmax), "PSF must fall to half of its central pixel, got none such"),
    ]
    reasons = [""] * len(cutouts.object_id)
    for found, words in reversed(findings):
        for row in np.flatnonzero(found.any(axis=1)):
            reasons[row] = f"band {cutouts.bands[int(np.argmax(found[row]))]}: {words}"
    return reasons


def _beyond_code(measured: _Measured) -> NDArray[np.bool_]:
    """(object, band), True where a good pixel's variance has no 16-bit code."""
    with np.errstate(invalid="ignore", divide="ignore"):
        sky = measured.noise.sky_sigma**2
        largest = np.where(np.isfinite(measured.variance), measured.variance, 0).max(axis=(-2, -1)) / sky
        smallest = measured.variance.min(axis=(-2, -1)) / sky
    limit = np.exp(BAD_LOG_VARIANCE - 0.1)
    return np.asarray((largest > limit) | (smallest < 1 / limit))


def _catalogue(
    cutouts: Cutouts, measured: _Measured, survey: config.Survey, flux: NDArray[np.float32], convert: config.Convert
) -> pl.DataFrame:
    """schema.CATALOGUE without stack and row."""
    count = len(cutouts.object_id)
    constants = {
        "source": cutouts.source,
        "survey": cutouts.survey,
        "instrument": survey.instrument,
        "variance_map_available": cutouts.variance is not None,
        "psf_matched": False,
        "target_psf_fwhm": None,
        "psf_residual": None,
    }
    light, shape = _photometry(cutouts, measured, flux, convert)
    psf, none = measured.psf, np.full(measured.good_fraction.shape, np.nan)
    typical = np.array([survey.bands[band].sky_sigma_nJy for band in cutouts.bands])
    shallowness = measured.noise.sky_sigma / typical
    scores = quality.score(cutouts.bad, cutouts.saturated, shallowness, cutouts.pixel_scale, convert.quality)
    columns: dict[str, object] = {
        "object_id": cutouts.object_id,
        "bands": [list(cutouts.bands)] * count,
        "pixel_scale": cutouts.pixel_scale,
        "psf_fwhm": np.median(psf.fwhm_halfmax, axis=1),
        "psf_origin": psf.origin.tolist(),
        "fwhm_halfmax": _lists(psf.fwhm_halfmax),
        "fwhm_moment": _lists(psf.fwhm_moment),
        "sky_sigma": _lists(measured.noise.sky_sigma),
        "sky_sigma_over_plane": _lists(none if measured.over_plane is None else measured.over_plane),
        "variance_scale": _lists(measured.variance_scale),
        "noise_correlation": _lists(measured.noise.correlation),
        "north_deg": np.full(count, np.nan) if cutouts.north_deg is None else cutouts.north_deg,
        "quality": scores.quality,
        "quality_limit": scores.limit,
        **{name: [value] * count for name, value in constants.items()},
        **light,
        **_metadata(cutouts, {"seeing": psf.fwhm_halfmax.max(axis=1)} | shape),
    }
    kinds = {name: kind for name, kind in schema.CATALOGUE.items() if name in columns}
    return pl.DataFrame({name: columns[name] for name in kinds}, schema=kinds, nan_to_null=True, strict=False)


def _photometry(
    cutouts: Cutouts, measured: _Measured, flux: NDArray[np.float32], convert: config.Convert
) -> tuple[dict[str, object], dict[str, NDArray[np.float64]]]:
    """Columns of the aperture, and half-light radius (arcsec) and axis ratio in the band of the highest S/N."""
    weight = photometry.aperture(flux.shape[-2:], convert.aperture_arcsec / cutouts.pixel_scale)
    total, error = photometry.aperture_flux(flux, measured.variance, weight)
    with np.errstate(divide="ignore", invalid="ignore"):
        magnitude = np.where(total > 0, AB_NANOJANSKY - 2.5 * np.log10(total), np.nan)
        snr = np.where(error > 0, total / error, np.nan)
    rows, best = np.arange(len(snr)), np.argmax(np.nan_to_num(snr), axis=1)
    image = flux[rows, best]
    shape = {
        "half_light_radius": photometry.half_light_radius(image, weight) * cutouts.pixel_scale,
        "axis_ratio": photometry.axis_ratio(image, measured.noise.sky_sigma[rows, best], weight),
    }
    return {"flux": _lists(total), "magnitude": _lists(magnitude), "snr": _lists(snr)}, shape


def _metadata(cutouts: Cutouts, measured: dict[str, NDArray[np.float64]]) -> dict[str, object]:
    """The source's columns in the cutouts' order; what it does not give is measured, -1 (redshifts) or missing."""
    given = pl.DataFrame({"object_id": cutouts.object_id}).join(
        cutouts.metadata, on="object_id", how="left", maintain_order="left", validate="1:1"
    )
    columns: dict[str, object] = {}
    for name in (*_REDSHIFTS, *_GIVEN):
        missing = schema.MISSING_REDSHIFT if name in _REDSHIFTS else np.nan
        fallback = measured.get(name, np.full(len(cutouts.object_id), missing))
        value = np.full(len(fallback), np.nan) if name not in given.columns else given[name].cast(pl.Float64).to_numpy()
        columns[name] = np.where(np.isfinite(value), value, fallback)
    return columns


def _lists(values: NDArray[np.float64]) -> list[list[float | None]]:
    """(object, band) as lists, NaN as null."""
    return [[x if np.isfinite(x) else None for x in row] for row in values.tolist()]
