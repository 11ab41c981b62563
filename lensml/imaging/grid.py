"""The network's grid: stamps of any survey brought to one size in pixels.

Either fine pixels are binned by whole factors, and each survey keeps a pixel scale of its own; or, where a common pixel
scale is asked for, every survey is resampled to exactly that.
"""

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lensml.imaging import resample
from lensml.imaging.frames import Frame
from lensml.store.stamps import Stamps

Float = NDArray[np.float32]

SCALE_TOLERANCE: Final = 0.01  # a WCS's pixel scale strays this far over a field; it must not change the factor
GOOD_SHARE_MIN: Final = 0.5  # of a new pixel: with less good it is bad
_RATIO_DIGITS: Final = 5  # of new over old pixel scale: the border of 100 pixels moves by less than 0.01


def on_grid(
    stamps: Stamps, stamp_pixels: int, pixel_scale_min: float, common_pixel_scale: float | None = None
) -> tuple[pl.DataFrame, Float, Float]:
    """Stamps on the network's grid: catalogue with its pixel_scale and sky_sigma, flux, variance.

    Noise of neighbouring pixels that is correlated (drizzling, PSF matching) adds up to more than its variances:
    sky_sigma and variance grow by `binned_noise` of the catalogue's noise_correlation, or by `resample.noise`.

    Parameters
    ----------
    stamp_pixels : side of the grid
    pixel_scale_min : arcsec; see `binning_factor`; unused with a common scale
    common_pixel_scale : arcsec that every survey is resampled to, a coarser one too; None: each is binned. The stamp's
        centre stays the centre, but where the scale is a whole number of old pixels these are binned as `to_grid` does.
        noise_correlation becomes that of the new pixels.

    Returns
    -------
    catalogue, flux (object, band, stamp_pixels, stamp_pixels) nJy, variance likewise nJy^2, infinite where bad
    """
    if common_pixel_scale is not None:
        return _resampled(stamps, stamp_pixels, common_pixel_scale)
    flux, variance, pixel_scale = to_grid(
        stamps.flux, stamps.variance, stamps.pixel_scale, stamp_pixels, pixel_scale_min
    )
    factor = np.rint(pixel_scale / stamps.pixel_scale).astype(int)
    excess = binned_noise(_correlation(stamps), factor[:, None])  # (object, band)
    sky_sigma = stamps.sky_sigma * factor[:, None] * excess
    catalogue = stamps.catalogue.with_columns(
        pl.Series("pixel_scale", pixel_scale), pl.Series("sky_sigma", sky_sigma.tolist(), dtype=pl.List(pl.Float64))
    )
    return catalogue, flux, (variance * excess[..., None, None] ** 2).astype(np.float32)


def psf_on_grid(
    stamps: Stamps,
    stamp_pixels: int,
    pixel_scale_min: float,
    psf_pixels: int,
    common_pixel_scale: float | None = None,
) -> Float:
    """The PSFs that `on_grid` leaves: of a point source at the centre of the new grid's central pixel, its side // 2.

    With an even binning factor that source falls between old pixels; see `resample.psf_to_frame`.

    Parameters
    ----------
    psf_pixels : odd side
    stamp_pixels, pixel_scale_min, common_pixel_scale : as of `on_grid`

    Returns
    -------
    (object, band, psf_pixels, psf_pixels), unit sum, zeros where a band has no PSF

    Raises
    ------
    ValueError
        psf_pixels is even, or too few to hold half of a PSF.
    """
    if common_pixel_scale is None:
        ratio = np.array([binning_factor(scale, pixel_scale_min) for scale in stamps.pixel_scale.tolist()], np.float64)
    else:
        ratio = common_pixel_scale / stamps.pixel_scale
    psf = np.zeros((*stamps.psf.shape[:2], psf_pixels, psf_pixels), np.float32)
    for rows, through in _maps(stamps, stamp_pixels, ratio):
        psf[rows] = resample.psf_to_frame(stamps.psf[rows], through, psf_pixels)
    return psf


def usable(
    stamps: Stamps,
    bands: list[str],
    stamp_pixels: int,
    pixel_scale_min: float,
    psf_pixels: int,
    common_pixel_scale: float | None = None,
) -> tuple[Stamps, pl.DataFrame]:
    """What a network can be shown of a batch: `known_bands` of it `on_grid`, with `psf_on_grid`.

    Returns
    -------
    stamps, and (object_id, reason) of the objects that cannot be shown
    """
    chosen = known_bands(stamps, bands)
    catalogue, flux, variance = on_grid(chosen, stamp_pixels, pixel_scale_min, common_pixel_scale)
    psf = psf_on_grid(chosen, stamp_pixels, pixel_scale_min, psf_pixels, common_pixel_scale)
    good, left = _good(stamps, chosen, variance)
    some = slice(None if good.any() else 0)  # an empty batch has no bands
    return Stamps(catalogue.filter(good), *(plane[good][:, some] for plane in (flux, variance, psf))), left


def known_bands(stamps: Stamps, bands: list[str]) -> Stamps:
    """The stamps in those of their bands that are among `bands`, in the order of `bands`; perhaps in none."""
    chosen = [stamps.bands.index(band) for band in bands if band in stamps.bands]
    lists = [name for name, kind in stamps.catalogue.schema.items() if isinstance(kind, pl.List)]
    at = pl.lit(pl.Series(chosen, dtype=pl.UInt32)).implode()  # typed: there may be none
    catalogue = stamps.catalogue.with_columns(pl.col(name).list.gather(at) for name in lists)
    return Stamps(catalogue, stamps.flux[:, chosen], stamps.variance[:, chosen], stamps.psf[:, chosen])


def to_grid(
    flux: Float, variance: Float, pixel_scale: NDArray[np.float64], stamp_pixels: int, pixel_scale_min: float
) -> tuple[Float, Float, NDArray[np.float64]]:
    """Crop or pad about the centre, then bin by a whole factor.

    The centre of the old frame is the centre of the new one; where their sides differ by an odd number of pixels it is
    half an old pixel further up, so that pixel n // 2 of an odd stamp goes to pixel m // 2 of an even one. What is
    padded is bad.

    Parameters
    ----------
    flux, variance : (object, band, y, x), nJy and nJy^2, variance infinite where bad
    pixel_scale : (object,), arcsec

    Returns
    -------
    flux, variance : (object, band, stamp_pixels, stamp_pixels)
    pixel_scale : (object,), of the binned pixels
    """
    factors = np.array([binning_factor(float(scale), pixel_scale_min) for scale in pixel_scale], dtype=int)
    shape = (*flux.shape[:2], stamp_pixels, stamp_pixels)
    new_flux, new_variance = np.zeros(shape, np.float32), np.full(shape, np.inf, np.float32)
    for factor in np.unique(factors):
        chosen, side = factors == factor, int(factor) * stamp_pixels
        new_flux[chosen], new_variance[chosen] = bin_pixels(
            frame(flux[chosen], side, 0.0), frame(variance[chosen], side, math.inf), int(factor)
        )
    return new_flux, new_variance, pixel_scale * factors


def binning_factor(pixel_scale: float, pixel_scale_min: float) -> int:
    """The smallest whole number of pixels (>= 1) that is at least pixel_scale_min, to 1 %.

    Raises
    ------
    ValueError
        The pixel scale is not positive.
    """
    if not pixel_scale > 0:
        raise ValueError(f"pixel_scale must be positive, got {pixel_scale:g} arcsec. Mend the WCS.")
    return max(1, math.ceil(pixel_scale_min * (1 - SCALE_TOLERANCE) / pixel_scale))


def frame(image: Float, side: int, outside: float) -> Float:
    """The central (..., side, side) of an image (..., y, x), with `outside` where the image ends."""
    framed = np.full((*image.shape[:-2], side, side), outside, dtype=image.dtype)
    (to_y, from_y), (to_x, from_x) = (_overlap(length, side) for length in image.shape[-2:])
    framed[..., to_y, to_x] = image[..., from_y, from_x]
    return framed


def bin_pixels(flux: Float, variance: Float, factor: int) -> tuple[Float, Float]:
    """Sum flux and variance over factor x factor pixels.

    Of a binned pixel at least half of which is good, the good part's sum is scaled up to the whole, and its variance
    with the square; with less it is bad: flux 0, variance infinite.
    """
    good = np.isfinite(variance)
    if factor == 1:
        return np.where(good, flux, np.float32(0)), variance
    share = _sum(good.astype(np.float32), factor) / factor**2
    usable = share >= GOOD_SHARE_MIN
    scale = np.where(usable, 1 / np.where(usable, share, 1), 0).astype(np.float32)
    total = _sum(np.where(good, variance, 0), factor) * scale**2
    return _sum(np.where(good, flux, 0), factor) * scale, np.where(usable, total, np.inf).astype(np.float32)


def binned_noise(correlation: NDArray[np.float64], factor: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sigma of a sum of factor x factor correlated pixels over that of independent ones, >= 0.

    For the correlation rho^|dx| rho^|dy| of pixels (dx, dy) apart; exact for factor 2 and any separable correlation:
    1 + 2 sum_d (1 - d / factor) rho^d along each axis, hence the square root of its square.
    """
    correlation, factor = np.broadcast_arrays(correlation, factor)
    excess = np.ones(correlation.shape)
    for lag in range(1, int(factor.max(initial=1))):
        excess += 2 * np.clip(1 - lag / factor, 0, None) * correlation**lag
    return excess


def _resampled(stamps: Stamps, stamp_pixels: int, pixel_scale: float) -> tuple[pl.DataFrame, Float, Float]:
    """`on_grid` with a common pixel scale in arcsec."""
    shape = (*stamps.flux.shape[:2], stamp_pixels, stamp_pixels)
    flux, variance = np.zeros(shape, np.float32), np.full(shape, np.inf, np.float32)
    sky_sigma, correlation = stamps.sky_sigma.copy(), _correlation(stamps)
    for rows, through in _maps(stamps, stamp_pixels, pixel_scale / stamps.pixel_scale):
        new = resample.to_frame(stamps.flux[rows], stamps.variance[rows], through, 1 - GOOD_SHARE_MIN)
        noise = resample.noise(through, correlation[rows])
        flux[rows] = new.flux
        variance[rows] = new.variance * (noise.variance / noise.white).astype(np.float32)[..., None, None]
        sky_sigma[rows] *= np.sqrt(noise.variance)
        correlation[rows] = noise.neighbour
    lists = pl.List(pl.Float64)
    catalogue = stamps.catalogue.with_columns(
        pl.lit(float(pixel_scale)).alias("pixel_scale"),
        pl.Series("sky_sigma", sky_sigma.tolist(), dtype=lists),
        pl.Series("noise_correlation", correlation.tolist(), dtype=lists),
    )
    return catalogue, flux, variance


def _maps(
    stamps: Stamps, stamp_pixels: int, ratio: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.int64], resample.Resampling]]:
    """Rows of a batch that have one `ratio` (object,) of new over old pixel scale, and the map that they share."""
    rounded = np.array([float(f"{one:.{_RATIO_DIGITS}g}") for one in ratio.tolist()])
    height, width = stamps.flux.shape[2:]
    for one in np.unique(rounded).tolist():
        centre = (_centre(height, stamp_pixels, one), _centre(width, stamp_pixels, one))
        old, new = Frame(height, width, 1.0, centre=centre), Frame(stamp_pixels, stamp_pixels, one)
        yield np.flatnonzero(rounded == one), resample.between(old, new)


def _centre(length: int, side: int, ratio: float) -> float:
    """Which pixel of an old axis is the centre of the new one: its own, or where whole pixels are binned `frame`'s."""
    if not ratio.is_integer():
        return (length - 1) / 2
    return length // 2 - int(ratio) * side // 2 + (int(ratio) * side - 1) / 2


def _good(stamps: Stamps, chosen: Stamps, variance: Float) -> tuple[NDArray[np.bool_], pl.DataFrame]:
    """(object,) which of the chosen have a good pixel on the grid, and (object_id, reason) of the others."""
    good: NDArray[np.bool_] = np.asarray(np.isfinite(variance).any(axis=(1, 2, 3)))
    nothing = "no good pixel on the network's grid"
    reason = nothing if chosen.bands else f"none of its bands ({', '.join(stamps.bands)}) is one of the network's"
    return good, chosen.catalogue.filter(~good).select("object_id", pl.lit(reason, pl.String).alias("reason"))


def _sum(image: Float, factor: int) -> Float:
    """(..., y, x) -> (..., y / factor, x / factor)."""
    y, x = image.shape[-2] // factor, image.shape[-1] // factor
    return image.reshape(*image.shape[:-2], y, factor, x, factor).sum(axis=(-3, -1))


def _overlap(length: int, side: int) -> tuple[slice, slice]:
    """Where in the frame and where in the image, along one axis."""
    begin = length // 2 - side // 2  # of the frame, in the image's pixels
    return slice(max(0, -begin), min(side, length - begin)), slice(max(0, begin), min(length, begin + side))


def _correlation(stamps: Stamps) -> NDArray[np.float64]:
    """(object, band), 0 where it was not measured; between 0 and 1, as a sum's noise must stay positive."""
    lists = stamps.catalogue["noise_correlation"]
    empty = [None] * len(stamps.bands)
    values = np.array([row if row is not None else empty for row in lists.to_list()], dtype=np.float64)
    return np.clip(np.nan_to_num(values, nan=0.0), 0, 1).reshape(len(lists), len(stamps.bands))
