"""Arcs and images in what the host's light leaves of the stamps, found and measured inside the networks.

The bands are stacked by inverse variance and lightly smoothed; connected pixels above a threshold are a segment, and
nothing is taken apart: an arc broken in two is two segments, two images that touch are one. Noise is correlated after
PSF matching, and no host is an ellipse to the last photon: a band whose smoothed significance scatters by more than 1
has its variances raised by the square of that. `lensml/imaging/segments.py` is the truer one, with deblending and the
host model's errors, for photometry of single objects. Fluxes and variances are differentiable; who belongs is not.
"""

from functools import reduce
from typing import Final, NamedTuple

import torch
from torch import Tensor

from lensml.models.stretch import sinh
from lensml.store.quantisation import BAD_LOG_VARIANCE

_GOOD_SHARE: Final = 0.5  # of a segment's pixels, or the band is bad
_REACH: Final = 3.0  # sigmas of the Gaussian: a bad pixel nearer than that to good ones belongs to what they belong to
_STRIDE: Final = 3  # pixels: the scatter is taken of every third, smoothed neighbours say the same
_SIGMA_PER_MEDIAN: Final = 1.4826  # of |Gaussian|


class Rules(NamedTuple):
    """What is a segment."""

    threshold_sigma: float = 3.0  # of the smoothed stack, in units of its own scatter
    smoothing_pixels: float = 1.0  # sigma of the Gaussian
    pixels_min: int = 5  # above the threshold and connected
    per_object_max: int = 12  # the brightest
    radius_arcsec: float = 5.0  # of a segment's centroid from the stamp's centre
    host_pixels: float = 3.0  # about the centre nothing is looked for: the core is no ellipse and always stays


class Segments(NamedTuple):
    """The segments of all objects of a batch, by object and then by signal-to-noise, the greatest first."""

    owner: Tensor  # (S,) int64, the object
    x_arcsec: Tensor  # (S,) centroid of the stack's significance from the stamp's centre, x right, y up
    y_arcsec: Tensor  # (S,)
    flux: Tensor  # (S, C) nJy over the segment's good pixels, the host's light off; 0 where bad
    variance: Tensor  # (S, C) nJy^2 of it; infinite where bad
    bad: Tensor  # (S, C) bool: the band is not there, or has too few good pixels
    pixels: Tensor  # (S,) area
    snr: Tensor  # (S,) of the stack's flux over all its pixels
    moments: Tensor  # (S, 3) second moments xx, yy, xy of the significance about the centroid, arcsec^2


class Outlines(NamedTuple):
    """Which pixels belong to what: segments never share one."""

    segment: Tensor  # (P,) int64, row of the segments
    pixel: Tensor  # (P,) int64, index into the flattened (B, H, W)


class Planes(NamedTuple):
    """What fluxes are measured in."""

    images: Tensor  # (B, C, H, W) asinh(flux / sky_sigma)
    log_variance: Tensor  # (B, C, H, W) ln(variance / sky_sigma^2), BAD_LOG_VARIANCE where bad
    sky_sigma: Tensor  # (B, C) nJy per pixel, 0 where there is no such band
    raised: Tensor  # (B, C) >= 1, by which sigmas are greater than the log variance says


class _Stack(NamedTuple):
    signal: Tensor  # (B, H, W) sum of flux / variance over the bands
    precision: Tensor  # (B, H, W) sum of 1 / variance, 0 where all are bad
    significance: Tensor  # (B, H, W) of the smoothed flux, in sigmas; NaN where all about are bad
    scatter: Tensor  # (B,) by which errors of the stack are greater still


RULES: Final = Rules()


def detected(
    residual: Tensor, log_variance: Tensor, pixel_scale: Tensor, sky_sigma: Tensor, *, rules: Rules = RULES
) -> Segments:
    """The segments of a batch, on the device of the input; no row for an object that has none.

    Parameters
    ----------
    residual : (B, C, H, W) the second half of `host_light.views`: asinh((flux - host) / sky_sigma)
    log_variance : (B, C, H, W) ln(variance / sky_sigma^2), BAD_LOG_VARIANCE where bad
    pixel_scale : (B,) arcsec per pixel
    sky_sigma : (B, C) nJy per pixel, 0 in bands that are not there
    """
    return outlined(residual, log_variance, pixel_scale, sky_sigma, rules=rules)[0]


def outlined(
    residual: Tensor, log_variance: Tensor, pixel_scale: Tensor, sky_sigma: Tensor, *, rules: Rules = RULES
) -> tuple[Segments, Outlines]:
    """`detected`, and the pixels of each."""
    with torch.no_grad():
        outside = _outside(residual, rules.host_pixels)
        raised, stack = _stacked(residual, log_variance, sky_sigma, rules.smoothing_pixels, outside)
        pixel, part = components((stack.significance > rules.threshold_sigma) & outside)
        owner, found = _shapes(stack, pixel, part, pixel_scale)
        order = _kept(owner, found, rules)
        row = torch.full_like(owner, -1)
        row[order] = torch.arange(len(order), device=order.device)
        inside = row[part] >= 0
        outlines = Outlines(row[part][inside], pixel[inside])
    owner, (area, snr, x, y, xx, yy, xy) = owner[order], found[order].T
    flux, variance, bad = photometry(Planes(residual, log_variance, sky_sigma, raised), outlines, owner)
    return Segments(owner, x, y, flux, variance, bad, area, snr, torch.stack([xx, yy, xy], dim=1)), outlines


def photometry(planes: Planes, outlines: Outlines, owner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Flux in nJy and its variance in nJy^2 within outlines of the objects `owner`, and where bad; (S, C) each."""
    height, width = planes.images.shape[-2:]
    at = outlines.pixel // (height * width), slice(None), outlines.pixel // width % height, outlines.pixel % width
    sky = planes.sky_sigma[at[0]]
    good = (planes.log_variance[at] < BAD_LOG_VARIANCE) & (sky > 0)
    flux = torch.where(good, sinh(planes.images[at]) * sky, 0.0)
    variance = torch.where(good, torch.exp(planes.log_variance[at]) * (planes.raised[at[0]] * sky) ** 2, 0.0)
    flux, variance, number = (_summed(values, outlines.segment, len(owner)) for values in (flux, variance, good * 1.0))
    area = torch.bincount(outlines.segment, minlength=len(owner))
    bad = number < (_GOOD_SHARE * area).clamp(min=1)[:, None]
    return torch.where(bad, 0.0, flux), torch.where(bad, torch.inf, variance), bad


def components(above: Tensor) -> tuple[Tensor, Tensor]:
    """The 8-connected parts of masks (B, H, W): their pixels, and the part of each, numbered by their first pixels.

    Every pixel points to one of its part, at first to itself. Whom a pixel points to is pointed to the lowest that any
    neighbour of the pixel points to, and pointers are shortened, until nothing changes (Shiloach & Vishkin 1982,
    J. Algorithms 3, 57): a handful of passes however long an arc is.

    Returns
    -------
    (P,) int64 each; pixels index the flattened masks and ascend
    """
    pixel = above.flatten().nonzero().squeeze(1)
    near = _neighbours(above.shape, pixel)
    rows = torch.arange(len(pixel), device=pixel.device)
    label, last = rows, rows - 1
    while not torch.equal(label, last):
        last = label
        lowest = reduce(torch.minimum, label.index_select(0, near.flatten()).view_as(near))
        label = label.scatter_reduce(0, label, lowest, "amin")
        label = label[label]
    return pixel, ((label == rows).cumsum(0) - 1)[label]


def _neighbours(shape: torch.Size, pixel: Tensor) -> Tensor:
    """(8, P) rows of the pixels about each one, its own where there is none."""
    objects, height, width = shape
    wide = width + 2
    place = (pixel // (height * width) * (height + 2) + pixel // width % height + 1) * wide + pixel % width + 1
    rows = torch.arange(len(pixel), device=pixel.device)
    table = torch.full((objects * (height + 2) * wide,), -1, device=pixel.device)
    table[place] = rows
    step = torch.tensor([y * wide + x for y in (-1, 0, 1) for x in (-1, 0, 1) if x or y], device=pixel.device)
    near = table[step[:, None] + place]
    return torch.where(near < 0, rows, near)


def _stacked(
    residual: Tensor, log_variance: Tensor, sky_sigma: Tensor, smoothing_pixels: float, outside: Tensor
) -> tuple[Tensor, _Stack]:
    """By how much sigmas are raised, (B, C), and the stack."""
    owner, band = torch.nonzero(sky_sigma > 0, as_tuple=True)
    log_weight = log_variance[owner, band]
    weight = torch.where(log_weight < BAD_LOG_VARIANCE, torch.exp(-log_weight), 0.0)
    signal = sinh(residual[owner, band]) * weight
    scatter = _scatter(_significance(signal, weight, smoothing_pixels))
    sigma = (sky_sigma[owner, band] * scatter)[:, None, None]
    signal = signal * (sky_sigma[owner, band][:, None, None] / sigma**2)
    signal, precision = (_summed(image, owner, len(residual)) * outside for image in (signal, weight / sigma**2))
    significance = _significance(signal, precision, smoothing_pixels)
    raised = torch.ones_like(sky_sigma).index_put((owner, band), scatter)
    scatter = _scatter(significance)
    return raised, _Stack(signal, precision, significance / scatter[:, None, None], scatter)


def _significance(signal: Tensor, precision: Tensor, smoothing_pixels: float) -> Tensor:
    """Smoothed flux / variance over its error: of unit variance where noise is white; NaN where all about are bad."""
    rows, columns = (_gaussian(n, smoothing_pixels).to(signal) for n in signal.shape[-2:])
    return rows @ signal @ columns.T / torch.sqrt(rows**2 @ precision @ (columns**2).T)


def _gaussian(pixels: int, sigma: float) -> Tensor:
    """The matrix that smooths a column of pixels; beyond the edge there is nothing."""
    axis = torch.arange(pixels)
    far = (axis[:, None] - axis) / sigma
    return torch.where(far.abs() <= _REACH, torch.exp(-0.5 * far**2), 0.0)


def _scatter(significance: Tensor) -> Tensor:
    """By the median of its size, (B,), at least 1; pixels without data do not count."""
    sample = significance[:, ::_STRIDE, ::_STRIDE].flatten(1).abs().nan_to_num(torch.inf).sort(dim=1).values
    middle = torch.isfinite(sample).sum(dim=1, keepdim=True) // 2
    return (_SIGMA_PER_MEDIAN * sample.gather(1, middle).squeeze(1)).nan_to_num(posinf=1.0).clamp(min=1)


def _shapes(stack: _Stack, pixel: Tensor, part: Tensor, pixel_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Of each part the object and area, S/N, centroid and moments, (parts, 7)."""
    height, width = stack.signal.shape[-2:]
    parts = int(part.max()) + 1 if len(part) else 0
    scale = pixel_scale[pixel // (height * width)]
    x, y = (pixel % width - (width - 1) / 2) * scale, (pixel // width % height - (height - 1) / 2) * scale
    signal, precision, light = (image.flatten()[pixel] for image in stack[:3])
    columns = [torch.ones_like(x), signal, precision, *(light * by for by in (1, x, y, x * x, y * y, x * y))]
    area, signal, precision, light, *sums = _summed(torch.stack(columns, dim=1), part, parts).T
    x, y, xx, yy, xy = (one / light for one in sums)
    owner = torch.zeros(parts, dtype=torch.int64, device=part.device).index_put((part,), pixel // (height * width))
    snr = signal / torch.sqrt(precision.clamp(min=torch.finfo(precision.dtype).tiny)) / stack.scatter[owner]
    return owner, torch.stack([area, snr, x, y, xx - x * x, yy - y * y, xy - x * y], dim=1)


def _kept(owner: Tensor, found: Tensor, rules: Rules) -> Tensor:
    """Rows of the parts that are segments, by object and then by S/N."""
    area, snr, x, y = found.T[:4]
    rows = ((area >= rules.pixels_min) & (torch.hypot(x, y) <= rules.radius_arcsec)).nonzero().squeeze(1)
    rows = rows[snr[rows].argsort(descending=True, stable=True)]
    rows = rows[owner[rows].argsort(stable=True)]
    return rows[rank(owner[rows]) < rules.per_object_max]


def rank(owner: Tensor) -> Tensor:
    """(S,) 0 for the first row of each object, 1 for the next; `owner` ascends."""
    return torch.arange(len(owner), device=owner.device) - torch.searchsorted(owner, owner)


def _outside(images: Tensor, pixels: float) -> Tensor:
    """(H, W) what lies so many pixels from the centre at least."""
    y, x = (torch.arange(n, device=images.device) - (n - 1) / 2 for n in images.shape[-2:])
    return torch.hypot(y[:, None], x) >= pixels


def _summed(values: Tensor, row: Tensor, rows: int) -> Tensor:
    return values.new_zeros(rows, *values.shape[1:]).index_add(0, row, values)
