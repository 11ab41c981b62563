"""Arcs and images around lens galaxies, found in what the galaxy's light leaves (`host_light`), measured in all bands.

A pixel's significance is the sum over bands of residual / sigma, over the root of their number; sigma holds the noise,
the host model's error and what no ellipse follows. Segments are found and taken apart by photutils. Their colours are
those of one place only where all bands have one PSF: stamps should come from psf-match. Neighbouring segments share no
pixel, but light through the PSF; errors that segments share with each other (the host's) are not kept. An isophote
follows the noise: it makes a faint segment brighter, by half a sigma near the threshold.
"""

import math
import warnings
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from photutils.segmentation import deblend_sources, detect_sources
from photutils.utils.exceptions import NoDetectionsWarning
from scipy import ndimage

from lensml.config_types import Arcsec, OpenFraction, Positive, PositiveFloat, Section
from lensml.imaging import segment_photometry
from lensml.imaging.host_light import HostLight, check
from lensml.imaging.isophotes import Float, Values
from lensml.imaging.segment_photometry import Bool, Planes

_CORRELATION_MAX: Final = 0.95  # more is no noise
_MARGIN: Final = 2.0  # radii: segments are looked for so far out, lest one is cut at the radius
_MAGNITUDE: Final = 2.5 / math.log(10)
_SIGMA_PER_FWHM: Final = 1 / math.sqrt(8 * math.log(2))

Rows = NDArray[np.int64]


class SegmentRules(Section):
    """What is a segment; see lensml/imaging/segments.py."""

    threshold_sigma: PositiveFloat  # of the smoothed significance
    smoothing_fwhm_arcsec: Arcsec  # of a Gaussian
    pixels_min: Positive  # above the threshold and connected
    deblend_levels: Positive  # between a segment's threshold and its peak
    deblend_contrast: OpenFraction  # share of a segment's significance that a part of its own has
    radius_arcsec: Arcsec  # of a segment's centroid from the host's centre


class Segments(NamedTuple):
    """Segments of all objects, by object and then by signal-to-noise, the greatest first.

    Attributes
    ----------
    objects : how many there were; one without a segment has no row
    owner : (segment,) the object
    flux : (segment, band), in the stamps' unit, the lens galaxy's light off; 0 where bad
    covariance : (segment, band, band), in its square; infinite variances where bad
    bad : (segment, band), True = not measured
    x_arcsec, y_arcsec : (segment,) centroid from the stamp's centre, x right, y up, as lensing/scene.py has them
    radius_arcsec : (segment,) centroid from the host's centre
    alignment : (segment,) rad in [0, pi / 2], between the long axis and the tangent: 0 is an arc, pi / 2 a spoke
    elongation : (segment,) long over short axis, >= 1
    area_arcsec2 : (segment,)
    snr : (segment,) of the flux, summed over bands as the significance is
    label : (object, y, x) int32, the segment's row, -1 where there is none
    """

    objects: int
    owner: Rows
    flux: Values
    covariance: Values
    bad: Bool
    x_arcsec: Values
    y_arcsec: Values
    radius_arcsec: Values
    alignment: Values
    elongation: Values
    area_arcsec2: Values
    snr: Values
    label: NDArray[np.int32]

    @property
    def per_object(self) -> Rows:
        """(object,) how many segments each has; 0 where nothing was found."""
        return np.bincount(self.owner, minlength=self.objects).astype(np.int64)


class _Found(NamedTuple):
    """A segment's columns, and its pixels."""

    flux: Values
    covariance: Values
    bad: Bool
    x_arcsec: float
    y_arcsec: float
    radius_arcsec: float
    alignment: float
    elongation: float
    area_arcsec2: float
    snr: float
    inside: Bool  # (y, x)


def segment(
    host: HostLight, variance: Float, correlation: Values, pixel_scale: Values, rules: SegmentRules
) -> Segments:
    """Find and measure the segments around each host.

    Parameters
    ----------
    host : what `host_light.subtract` makes of the stamps
    variance : (object, band, y, x), the stamps'; bad where infinite
    correlation : (object, band), of neighbouring pixels' noise, the catalogue's noise_correlation; NaN: unknown, 0
    pixel_scale : (object,) arcsec

    Raises
    ------
    ValueError
        A shape is another, a good pixel has no finite residual or no positive variance, or a pixel scale is not
        positive.
    """
    check(host.residual, variance, correlation)
    if pixel_scale.shape != variance.shape[:1] or not (np.isfinite(pixel_scale) & (pixel_scale > 0)).all():
        raise ValueError(
            f"pixel_scale must be positive, one per object ({len(variance)}), got {pixel_scale.tolist()}. "
            "Take the catalogue's."
        )
    rho = np.clip(np.nan_to_num(correlation), 0, _CORRELATION_MAX)
    owner: list[int] = []
    found: list[_Found] = []
    for index in np.flatnonzero(host.fitted).tolist():
        planes = Planes(host.residual[index], variance[index], host.error[index], host.mismatch[index], rho[index])
        centre = (float(host.ellipses.center_y[index]), float(host.ellipses.center_x[index]))
        segments = _segments(planes, centre, float(pixel_scale[index]), rules)
        owner += [index] * len(segments)
        found += segments
    return _table(found, np.array(owner, np.int64), variance.shape)


def colours(segments: Segments) -> tuple[Values, Values]:
    """Magnitude of each band less that of the next, (segment, band - 1), and the covariance, to first order.

    NaN where a flux is not measured or not positive; for faint ones take the fluxes and their covariance instead.
    """
    flux = np.where(~segments.bad & (segments.flux > 0), segments.flux, np.nan)
    magnitude = -_MAGNITUDE * np.log(flux)  # without a zero-point
    slope = -_MAGNITUDE / flux
    spread = np.where(np.isfinite(segments.covariance), segments.covariance, np.nan)
    spread = slope[:, :, None] * spread * slope[:, None, :]
    rows = spread[:, :-1] - spread[:, 1:]
    return magnitude[:, :-1] - magnitude[:, 1:], rows[:, :, :-1] - rows[:, :, 1:]


def _segments(planes: Planes, centre: tuple[float, float], scale: float, rules: SegmentRules) -> list[_Found]:
    """Those of one object, the greatest signal-to-noise first."""
    image = _significance(planes, scale, rules)
    y, x = ((n - 1) / 2 for n in image.shape)
    far = np.hypot(np.arange(image.shape[0])[:, None] - y - centre[0], np.arange(image.shape[1]) - x - centre[1])
    parts = _parts(image, far * scale > _MARGIN * rules.radius_arcsec, rules)
    found = [_measured(planes, image, inside, centre, scale, rules) for inside in parts]
    kept = [one for one in found if one.radius_arcsec <= rules.radius_arcsec and not one.bad.all()]
    return sorted(kept, key=lambda one: -one.snr)


def _significance(planes: Planes, scale: float, rules: SegmentRules) -> Values:
    """The bands' sum in sigmas, smoothed, (y, x); of unit variance where there is noise alone, 0 where all are bad."""
    good = np.isfinite(planes.variance)
    sigma2 = np.where(good, planes.variance, 1) + planes.error**2 + planes.mismatch**2
    value = np.where(good, planes.residual / np.sqrt(sigma2), 0).astype(np.float64)
    width = rules.smoothing_fwhm_arcsec / scale * _SIGMA_PER_FWHM
    smooth = ndimage.gaussian_filter(value, (0, width, width), mode="constant", truncate=4.0)
    noise = [segment_photometry.smoothed_noise(width, float(rho)) for rho in planes.correlation]
    bands = good.sum(axis=0)
    return np.where(bands > 0, (smooth / np.reshape(noise, (-1, 1, 1))).sum(axis=0) / np.sqrt(np.maximum(bands, 1)), 0)


def _parts(image: Values, outside: Bool, rules: SegmentRules) -> list[Bool]:
    """The pixels of each segment, (y, x)."""
    if outside.all():
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)  # an object without a segment is an answer
        whole = detect_sources(image, rules.threshold_sigma, rules.pixels_min, mask=outside)
    if whole is None:
        return []
    levels, contrast = rules.deblend_levels, rules.deblend_contrast
    parts = deblend_sources(image, whole, rules.pixels_min, n_levels=levels, contrast=contrast, progress_bar=False)
    return [parts.data == label for label in parts.labels]


def _measured(
    planes: Planes, image: Values, inside: Bool, centre: tuple[float, float], scale: float, rules: SegmentRules
) -> _Found:
    flux, covariance, bad = segment_photometry.measured(planes, inside)
    shape = segment_photometry.shape(image, inside)
    y, x = shape.y - (image.shape[0] - 1) / 2, shape.x - (image.shape[1] - 1) / 2
    radial = math.atan2(y - centre[0], x - centre[1])
    sigma = np.sqrt(np.diagonal(covariance))
    snr = np.where(bad, 0, flux / sigma).sum() / math.sqrt(max(1, int((~bad).sum())))
    return _Found(
        flux,
        covariance,
        bad,
        x_arcsec=x * scale,
        y_arcsec=y * scale,
        radius_arcsec=math.hypot(y - centre[0], x - centre[1]) * scale,
        alignment=math.acos(min(1.0, abs(math.sin(shape.angle - radial)))),
        elongation=shape.elongation,
        area_arcsec2=float(inside.sum()) * scale**2,
        snr=float(snr),
        inside=inside,
    )


def _table(found: list[_Found], owner: Rows, shape: tuple[int, ...]) -> Segments:
    objects, bands, *stamp = shape
    label = np.full((objects, *stamp), -1, np.int32)
    for row, (index, one) in enumerate(zip(owner, found, strict=True)):
        label[index][one.inside] = row
    x, y, radius, alignment, elongation, area, snr = np.array([one[3:-1] for one in found], np.float64).reshape(-1, 7).T
    return Segments(
        objects,
        owner,
        np.array([one.flux for one in found], np.float64).reshape(-1, bands),
        np.array([one.covariance for one in found], np.float64).reshape(-1, bands, bands),
        np.array([one.bad for one in found], np.bool_).reshape(-1, bands),
        x,
        y,
        radius,
        alignment,
        elongation,
        area,
        snr,
        label,
    )
