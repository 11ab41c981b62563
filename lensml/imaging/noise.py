"""The noise that the pixels have: sky sigma, lag-1 correlation and level of every band of every stamp at once.

Sky pixels are those whose 5 x 5 mean is near their surroundings', sigma comes from the median absolute deviation from
the sky pixels' mean over 15 x 15 (a halo's slope is no noise), the correlation from neighbours along x.

Where a galaxy fills its stamp, neighbours are alike because of its halo. The difference from the stamp turned by half a
turn has no such halo, whatever its profile and ellipses, and the noise of both: where neighbours are much less alike in
it, the noise is measured there. What has no mirror image, a bright star at the edge, is taken off by a narrower mean.

Pixels that were resampled have noise over many pixels, which such means take for sky: where neighbours are much alike
for no halo, and none is steep, the deviation is from the median of each of four rings instead.
"""

import math
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
_ALIKE: Final = 0.3  # lag-1 correlation from which a halo may be what neighbours share
_STILL_ALIKE: Final = 0.5  # the same where the mirror image has not helped
_SHARED: Final = 0.1  # of the variance: less than this that neighbours share is no halo's
_SLOWEST: Final = 0.6  # lag-1 correlation: so narrow a mean takes too much of slower noise,
_MOST_LOST: Final = 0.5  # but never this share of its sigma
_FINE_WINDOW: Final = 9  # pixels, of the mean where a halo was
_FINE_STEPS: Final = 4  # of finding sky and its mean in turn
_LOW: Final = 0.25  # quantile: up to half of the pixels may be companions and arcs
_LOW_SIGMAS: Final = 0.3186393639643752  # of a Gaussian's magnitudes
_LIKEST: Final = 0.9  # correlation beyond which the sum of the correlations is not known
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
    level : the sky pixels' median, in the flux's unit; with what a halo has there
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
    halo = _without_halo(found, offset, good)
    slow = (found.correlation > _SLOW) & ~halo
    if slow.any():
        part = (slow, None)
        slow[slow] = (_steps(offset[part], first[part]) <= _STEEP)[:, 0]
    if slow.any():
        part = (slow, None)  # (plane, 1, y, x)
        _put(_about(_rings, offset[part], smooth[part], first[part], good[part]), found, slow)
    return Noise(level + found.level, found.sky_sigma, found.correlation, found.sky)


def _put(planes: Noise, found: Noise, where: Bool) -> None:
    """What was measured of some planes, (plane, 1), into its places."""
    for name in ("level", "sky_sigma", "correlation", "sky"):
        getattr(found, name)[where] = getattr(planes, name)[:, 0]


def _without_halo(found: Noise, offset: Float, good: Bool) -> Bool:
    """Measure alike neighbours anew, keep it where a halo was what they shared, and say where: (object, band)."""
    halo = np.zeros(found.correlation.shape, dtype=bool)
    for measured_anew, alike in ((_mirrored, _ALIKE), (_fine, _STILL_ALIKE)):
        tried = found.correlation > alike
        if not tried.any():
            continue
        anew = measured_anew(offset[tried, None], good[tried, None])
        sigma, correlation = found.sky_sigma[tried, None], found.correlation[tried, None]
        better = anew.correlation * anew.sky_sigma**2 < (correlation - _SHARED) * sigma**2
        better &= (anew.correlation < _SLOWEST) | (anew.sky_sigma < _MOST_LOST * sigma)
        tried[tried] = better[:, 0]
        _put(Noise(*(values[better[:, 0]] for values in vars(anew).values())), found, tried)
        halo |= tried
    return halo


def _mirrored(offset: Float, good: Bool) -> Noise:
    """Of the difference from the stamp turned by half a turn; only the upper rows, the others are the same again."""
    rows = offset.shape[-2] // 2
    turned, both = offset[..., ::-1, ::-1], good & good[..., ::-1, ::-1]
    difference = np.where(both, offset - turned, np.float32(0)) * np.float32(math.sqrt(0.5))
    upper = _fine(difference[..., :rows, :], both[..., :rows, :])
    sky = np.zeros_like(good)
    sky[..., :rows, :] = upper.sky
    sky |= sky[..., ::-1, ::-1]
    return Noise(_median(offset, sky), upper.sky_sigma, upper.correlation, sky)


def _fine(values: Float, good: Bool) -> Noise:
    """About the sky pixels' mean over 9 x 9, found in turn with the sky pixels.

    So narrow a mean takes S / 81 of the variance, S the sum of the correlations over both axes, which is made good: of
    pixels that a tent has spread, S = (1 + rho)^2 / (1 - rho) within 20 % for lag-1 correlations of 0 to 0.85.
    """
    smooth, sky = _mean(values, _WINDOW), good
    for _ in range(_FINE_STEPS):
        sky = _low(smooth - _background(values, sky, _FINE_WINDOW), sky, good)
    residual = np.where(sky, values - _background(values, sky, _FINE_WINDOW), np.float32(0))
    sigma = _SIGMA_PER_MAD * _median(np.abs(residual), sky)
    correlation = _correlation(residual, sky, sigma)
    lost = (1 + correlation) ** 2 / (1 - np.minimum(correlation, _LIKEST)) / _FINE_WINDOW**2
    return Noise(_median(values, sky), sigma * np.sqrt(1 + lost), correlation + lost * (1 - correlation), sky)


def _low(smooth: Float, sky: Bool, good: Bool) -> Bool:
    """As `_near`, about 0, with the spread of the sky pixels' lowest quarter: most of the others may be no sky."""
    values, chosen = _thinned(np.abs(smooth), sky)
    ordered = np.where(chosen, values, np.float32(np.inf)).reshape(*values.shape[:2], -1)
    ordered.sort(axis=-1)
    at = (_LOW * chosen.sum(axis=(-2, -1), keepdims=True)[..., 0]).astype(np.int64)
    spread = np.take_along_axis(ordered, np.minimum(at, ordered.shape[-1] - 1), axis=-1)[..., 0] / _LOW_SIGMAS
    return _enough(np.abs(smooth) <= _wide(_NEAR * spread), good)


def _enough(near: Bool, good: Bool) -> Bool:
    """Good pixels that are near; all good ones if they are few."""
    near = near & good
    return np.where((near.sum(axis=(-2, -1)) >= _FEWEST)[..., None, None], near, good)


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
        near = np.abs(smooth - _wide(centre)) <= _wide(_NEAR * spread)
    return _enough(near, good)


def _thinned(values: Float, chosen: Bool) -> tuple[Float, Bool]:
    """Every second pixel either way, of what is alike from pixel to pixel: a quarter of the sorting."""
    return values[..., ::2, ::2], chosen[..., ::2, ::2]


def _background(offset: Float, sky: Bool, window: int = _SLOPE_WINDOW) -> Float:
    """Mean of the sky pixels in the window around each pixel, NaN without any: a halo is a slope, not noise."""
    share = _mean(sky.astype(np.float32), window)
    total = _mean(np.where(sky, offset, np.float32(0)), window)
    known = share > 0.5 / window**2
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
