"""The noise that the pixels have: sky sigma, lag-1 correlation and level of every band of every stamp at once.

Sky pixels are those whose 5 x 5 mean is near their surroundings', sigma comes from the median absolute deviation from
the sky pixels' mean over 15 x 15 (the halo of a galaxy that fills its stamp is no noise), the correlation from
neighbours along x.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_WINDOW: Final = 5  # pixels
_NEAR: Final = 3.0  # sigmas of the 5 x 5 means
_SLOPE_WINDOW: Final = 15  # pixels; noise that is correlated over less keeps its sigma
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
    sky = _near(smooth, good, good)
    sky = _near(smooth - _background(offset, sky), sky, good)
    residual = np.where(sky, offset - _background(offset, sky), np.float32(0))
    sky &= np.isfinite(residual)
    centre, sigma = _level_and_sigma(residual, sky)
    level = level + _median(offset, sky)
    return Noise(level, sigma, _correlation(residual - _wide(np.nan_to_num(centre)), sky, sigma), sky)


def over_plane(noise: Noise, variance: Float) -> PerBand:
    """Measured sky sigma over the median sigma that the variance plane gives the same pixels, (object, band)."""
    median = _median(variance, noise.sky & np.isfinite(variance))
    with np.errstate(divide="ignore", invalid="ignore"):
        return noise.sky_sigma / np.sqrt(median)


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
    centre, spread = _level_and_sigma(smooth, sky)
    with np.errstate(invalid="ignore"):  # NaN where there is no background
        near = good & (np.abs(smooth - _wide(centre)) <= _wide(_NEAR * spread))
    enough = near.sum(axis=(-2, -1)) >= _FEWEST
    return np.where(enough[..., None, None], near, good)


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
