"""The noise that the pixels have: sky sigma, lag-1 correlation and level of every band of every stamp at once.

Sky pixels are those whose 5 x 5 mean is near their surroundings', sigma comes from the median absolute deviation from
the sky pixels' mean over 15 x 15 (the halo of a galaxy that fills its stamp is no noise), the correlation from
neighbours along x. Pixels that were resampled have noise over many pixels, which such a mean takes for sky: where
neighbours are much alike and no halo is steep, the deviation is from the median of each of four rings instead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_WINDOW: Final = 5  # pixels
_NEAR: Final = 3.0  # sigmas of the 5 x 5 means
_SLOPE_WINDOW: Final = 15  # pixels; noise that is correlated over less keeps its sigma
_RINGS: Final = 4  # of equal area
_SLOW: Final = 0.4  # lag-1 correlation from which noise is slow
_STEEP: Final = 2.0  # sigmas between two rings: a galaxy fills the stamp, and its halo is steep within a ring too
_SIGMA_PER_MAD: Final = 1.482602218505602  # of a Gaussian
_FEWEST: Final = 25  # sky pixels; below it all good pixels are taken

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]
PerBand = NDArray[np.float64]


@dataclass(frozen=True)
class Noise:
    """Per (object, band).

    Attributes
    ----------
    level : the sky pixels' median, in the flux's unit
    sky_sigma : the sky pixels' standard deviation; 0 or NaN where there is none to measure
    correlation : of sky pixels and their right neighbours, in [-1, 1]
    sky : (object, band, y, x), True where a pixel is sky
    """

    level: PerBand
    sky_sigma: PerBand
    correlation: PerBand
    sky: Bool


def measure(flux: Float, bad: Bool) -> Noise:
    """Measure the noise of stamps.

    Parameters
    ----------
    flux : (object, band, y, x), any unit and scale; not read where bad
    bad : (object, band, y, x), True = do not use
    """
    good = ~bad
    level = _median(flux, good)
    offset = np.where(good, flux - _wide(np.nan_to_num(level)), np.float32(0))
    smooth = _mean(offset, _WINDOW)
    first = _near(smooth, good, good)
    found = _about(_background, offset, smooth, first, good)
    slow = found.correlation > _SLOW
    if slow.any():
        part = (slow, None)
        slow[slow] = (_steps(offset[part], first[part]) <= _STEEP)[:, 0]
    if slow.any():
        part = (slow, None)  # (plane, 1, y, x)
        about_rings = _about(_rings, offset[part], smooth[part], first[part], good[part])
        for name in ("level", "sky_sigma", "correlation", "sky"):
            getattr(found, name)[slow] = getattr(about_rings, name)[:, 0]
    return Noise(level + found.level, found.sky_sigma, found.correlation, found.sky)


def _about(background: Callable[[Float, Bool], Float], offset: Float, smooth: Float, sky: Bool, good: Bool) -> Noise:
    """The noise about a background made from the sky pixels so far."""
    sky = _near(smooth - background(offset, sky), sky, good)
    residual = np.where(sky, offset - background(offset, sky), np.float32(0))
    sky &= np.isfinite(residual)
    centre, sigma = _level_and_sigma(residual, sky)
    correlation = _correlation(residual - _wide(np.nan_to_num(centre)), sky, sigma)
    return Noise(_median(offset, sky), sigma, correlation, sky)


def _steps(offset: Float, sky: Bool) -> PerBand:
    """Between the highest and the lowest ring, in sigmas; infinite where a ring has no sky pixel."""
    level, sigma = _ring_medians(offset, sky), _level_and_sigma(offset, sky)[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        step = np.asarray(np.ptp(level, axis=-1) / sigma)
    return np.where(np.isfinite(step), step, np.inf)


def _rings(offset: Float, sky: Bool) -> Float:
    """Median of the sky pixels in the ring of each pixel, (object, band, y, x), NaN without any."""
    return _ring_medians(offset, sky)[..., _ring_of(offset.shape[-2], offset.shape[-1])]


def _ring_medians(offset: Float, sky: Bool) -> Float:
    """(object, band, ring), NaN where a ring has no sky pixel."""
    ring = _ring_of(offset.shape[-2], offset.shape[-1])
    found = [_median(offset[..., ring == k][..., None], sky[..., ring == k][..., None]) for k in range(_RINGS)]
    return np.stack(found, axis=-1).astype(np.float32)


@cache
def _ring_of(height: int, width: int) -> NDArray[np.int64]:
    """(y, x), which ring about the centre a pixel is of; all have the same area."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in (height, width))
    radius = np.hypot(y[:, None], x)
    edges = np.quantile(radius, np.arange(1, _RINGS) / _RINGS)
    return np.searchsorted(edges, radius.ravel(), side="right").reshape(height, width)


def over_plane(noise: Noise, variance: Float) -> PerBand:
    """Measured sky sigma over the median sigma that the variance plane gives the same pixels, (object, band)."""
    median = _median(*_thinned(variance, noise.sky & np.isfinite(variance)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return noise.sky_sigma / np.sqrt(median)


def plane_factor(over_plane: PerBand, tolerance: float) -> PerBand:
    """What a variance plane is to be multiplied by so that it gives the sky the sigma that it has, (object, band).

    1 where the plane's sigma is right to the share `tolerance` either way, or where there is nothing to compare.
    """
    wrong = (over_plane > 1 + tolerance) | (over_plane < 1 / (1 + tolerance))
    return np.where(wrong & (over_plane > 0) & np.isfinite(over_plane), over_plane, 1.0) ** 2


def _level_and_sigma(values: Float, chosen: Bool) -> tuple[PerBand, PerBand]:
    level = _median(values, chosen)
    return level, _SIGMA_PER_MAD * _median(np.abs(values - _wide(level)), chosen)


def _median(values: Float, chosen: Bool) -> PerBand:
    """Median over (y, x) of the chosen pixels, NaN where there is none; one sort for all bands of all objects."""
    ordered = np.where(chosen, values, np.float32(np.inf)).reshape(*values.shape[:2], -1)
    ordered.sort(axis=-1)
    count = chosen.sum(axis=(-2, -1))
    low, high = (np.maximum(count - 1, 0) // 2)[..., None], (count // 2)[..., None]
    high = np.minimum(high, ordered.shape[-1] - 1)
    pair = np.concatenate([np.take_along_axis(ordered, k, -1) for k in (low, high)], axis=-1)
    return np.where(count > 0, pair.mean(axis=-1, dtype=np.float64), np.nan)


def _near(smooth: Float, sky: Bool, good: Bool) -> Bool:
    """Good pixels whose local mean is near that of the pixels so far taken for sky; all good ones if they are few."""
    centre, spread = _level_and_sigma(*_thinned(smooth, sky))
    with np.errstate(invalid="ignore"):  # NaN where there is no background
        near = good & (np.abs(smooth - _wide(centre)) <= _wide(_NEAR * spread))
    enough = near.sum(axis=(-2, -1)) >= _FEWEST
    return np.where(enough[..., None, None], near, good)


def _thinned(values: Float, chosen: Bool) -> tuple[Float, Bool]:
    """Every second pixel either way, of what is alike from pixel to pixel: a quarter of the sorting."""
    return values[..., ::2, ::2], chosen[..., ::2, ::2]


def _background(offset: Float, sky: Bool) -> Float:
    """Mean of the sky pixels in the window around each pixel, NaN without any: a halo is a slope, not noise."""
    share = _mean(sky.astype(np.float32), _SLOPE_WINDOW)
    total = _mean(np.where(sky, offset, np.float32(0)), _SLOPE_WINDOW)
    known = share > 0.5 / _SLOPE_WINDOW**2
    return np.where(known, total / np.where(known, share, np.float32(1)), np.float32(np.nan))


def _mean(values: Float, window: int) -> Float:
    for axis in (-2, -1):
        values = ndimage.uniform_filter1d(values, window, axis=axis, mode="reflect")
    return values


def _correlation(residual: Float, sky: Bool, sigma: PerBand) -> PerBand:
    """Lag-1 correlation along x; values beyond 5 sigma (cosmic rays) are pulled in."""
    limit = _wide(5 * np.nan_to_num(sigma))
    value = np.clip(residual, -limit, limit)
    pair = sky[..., :-1] & sky[..., 1:]
    left, right = value[..., :-1] * pair, value[..., 1:] * pair
    product = np.einsum("obyx,obyx->ob", left, right)
    power = (np.einsum("obyx,obyx->ob", left, left) + np.einsum("obyx,obyx->ob", right, right)) / 2
    return np.where(power > 0, product / np.where(power > 0, power, 1.0), 0.0).astype(np.float64)


def _wide(per_band: PerBand) -> Float:
    """(object, band) -> (object, band, 1, 1), float32."""
    return per_band.astype(np.float32)[..., None, None]
