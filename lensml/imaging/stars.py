"""The PSF of a stamp from the stars in it, where its file brings none.

A star is a bright, round, symmetric source away from the stamp's centre, whose core falls like a PSF's, and no other
candidate of its stamp and band is narrower. The central object never is one: it is the galaxy that the stamp is of.
The stars' cut-outs are moved to their centroids by a quintic spline, and summed.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lensml import config
from lensml.imaging import psf_stamp
from lensml.imaging.psf_width import core_bend, fwhm_halfmax, fwhm_moment, moments

_PEAK_WINDOW: Final = 5  # pixels; a peak is the highest in it
_CORE: Final = 1.5  # FWHM from a star's centre within which every pixel must be good, and no other source is
_SIGMAS: Final = 5.0  # beyond which a difference is no noise
_NEIGHBOUR: Final = 3.0  # the same, for a mean over 3 x 3 pixels outside the core
_SMOOTH: Final = 3  # pixels
_CENTRE_MAX: Final = 1.0  # pixels between the highest pixel and the centroid
_WIDTH_NOISE: Final = 4.0  # 3 sigma of a width's relative error, times the S/N of the peak; measured
_BEND_NOISE: Final = 4.0  # 3 sigma of the bend's error, times the S/N of the peak; measured

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]
PerBand = NDArray[np.float64]
Places = NDArray[np.intp]


def psf_from_stars(
    flux: Float,
    sky_sigma: PerBand,
    bad: Bool,
    pixel_scale: PerBand,
    typical_fwhm_arcsec: PerBand,
    rules: config.StarRules,
) -> tuple[Float, NDArray[np.int64]]:
    """PSFs from the stars of every band of every stamp.

    Parameters
    ----------
    flux : (object, band, y, x), sky-subtracted, any unit; not read where bad
    sky_sigma : (object, band), in the flux's unit
    bad : (object, band, y, x), True = do not use; saturated pixels included where the survey tells
    pixel_scale : (object,), arcsec
    typical_fwhm_arcsec : (object, band) or (band,), the survey's half-maximum FWHM

    Returns
    -------
    psf : (object, band, n, n), unit sum, centred; zeros where there is no star
    count : (object, band), stars that it is made of
    """
    shape = flux.shape[:2]
    typical = np.broadcast_to(typical_fwhm_arcsec, shape) / pixel_scale[:, None]  # pixels
    place = _peaks(flux, sky_sigma, bad, pixel_scale, typical, rules)
    typical = typical[place[:, 0], place[:, 1]]
    cut, good = _cutouts(flux, bad, place, rules.psf_pixels)
    snr = cut[:, rules.psf_pixels // 2, rules.psf_pixels // 2] / sky_sigma[place[:, 0], place[:, 1]]
    chosen = np.flatnonzero(_plausible(cut, good, snr, typical, rules))
    whole = np.where(good[chosen], cut[chosen], cut[chosen, ::-1, ::-1])
    cut, alone = _centred(whole, snr[chosen], typical[chosen], rules)
    chosen, cut = chosen[alone], cut[alone]
    star = _narrowest(place[chosen], fwhm_moment(cut), fwhm_halfmax(cut) / typical[chosen], rules)
    return _stack(cut[star], place[chosen[star]], shape, rules)


def _peaks(
    flux: Float, sky_sigma: PerBand, bad: Bool, pixel_scale: PerBand, typical: PerBand, rules: config.StarRules
) -> Places:
    """(candidate, 4): object, band, y, x of bright local maxima away from the centre and the border."""
    limit = (rules.snr_min * sky_sigma).astype(np.float32)[..., None, None]
    with np.errstate(invalid="ignore"):
        bright = (flux >= limit) & (limit > 0) & ~bad
    rows = np.flatnonzero(bright.any(axis=(1, 2, 3)))  # of most stamps of a survey nothing is left but the centre
    side = np.array(flux.shape[-2:])
    y, x = np.ogrid[: side[0], : side[1]]
    from_centre = np.hypot(y - (side[0] - 1) / 2, x - (side[1] - 1) / 2)
    from_border = np.minimum(np.minimum(y, side[0] - 1 - y), np.minimum(x, side[1] - 1 - x))
    allowed = from_centre > (rules.exclude_radius_arcsec / pixel_scale[rows])[:, None, None]
    allowed = allowed[:, None] & (from_border >= _CORE * typical[rows][..., None, None])
    bright = bright[rows] & allowed
    some = np.flatnonzero(bright.any(axis=(1, 2, 3)))
    bright, rows = bright[some], rows[some]
    value = np.where(bad[rows], np.float32(-np.inf), flux[rows])
    window = (1, 1, _PEAK_WINDOW, _PEAK_WINDOW)
    found = np.argwhere(bright & (value >= ndimage.maximum_filter(value, window, mode="nearest")))
    found[:, 0] = rows[found[:, 0]]
    return found


def _cutouts(flux: Float, bad: Bool, place: Places, side: int) -> tuple[Float, Bool]:
    """(candidate, side, side) about the peaks, and which of their pixels are good; others are 0."""
    step = np.arange(side) - side // 2
    y, x = place[:, 2, None, None] + step[:, None], place[:, 3, None, None] + step
    inside = (y >= 0) & (y < flux.shape[-2]) & (x >= 0) & (x < flux.shape[-1])
    index = (place[:, 0, None, None], place[:, 1, None, None], np.where(inside, y, 0), np.where(inside, x, 0))
    good = inside & ~bad[index]
    return np.where(good, flux[index], np.float32(0)), good


def _plausible(cut: Float, good: Bool, snr: PerBand, typical: PerBand, rules: config.StarRules) -> Bool:
    """Whole, of a star's size, round, of a star's profile."""
    core = _within(cut.shape[-1], _CORE * typical)
    centre, _ = moments(cut)
    width, half = fwhm_moment(cut), fwhm_halfmax(cut)
    with np.errstate(invalid="ignore"):  # NaN is no star
        return np.asarray(
            (good | ~core).all(axis=(-2, -1))
            & (np.abs(centre).max(axis=-1) <= _CENTRE_MAX)
            & (half >= rules.fwhm_factor[0] * typical)
            & (half <= rules.fwhm_factor[1] * typical)
            & (width <= (rules.moment_ratio_max + _WIDTH_NOISE / snr) * half)
            & (core_bend(cut) >= rules.bend_min - _BEND_NOISE / snr)
            & (_ellipticity(cut, centre, width) <= rules.ellipticity_max)
        )


def _ellipticity(cut: Float, centre: PerBand, width: PerBand) -> PerBand:
    """1 - b / a from second moments under a round Gaussian of the source's own width, which halves their difference."""
    axis = np.arange(cut.shape[-1]) - cut.shape[-1] // 2
    y, x = np.moveaxis(axis - centre[..., None], -2, 0)
    y, x = y[..., :, None], x[..., None, :]
    weighted = cut * np.exp(-4 * np.log(2) * (x**2 + y**2) / width[..., None, None] ** 2)
    xx, yy, xy = (np.asarray((weighted * moment).sum(axis=(-2, -1))) for moment in (x * x, y * y, x * y))
    with np.errstate(invalid="ignore", divide="ignore"):
        e = np.minimum(2 * np.hypot(xx - yy, 2 * xy) / (xx + yy), 1.0)  # (a^2 - b^2) / (a^2 + b^2)
        return 1 - np.sqrt((1 - e) / (1 + e))


def _centred(cut: Float, snr: PerBand, typical: PerBand, rules: config.StarRules) -> tuple[Float, Bool]:
    """Cut-outs on their centroids, brighter mirror points replaced, and whether the core is like its mirror image."""
    centre, _ = moments(cut)
    moved = [ndimage.shift(c, -p, order=5, mode="nearest") for c, p in zip(cut, centre, strict=True)]
    cut = np.stack(moved) if moved else cut
    mirror = cut[..., ::-1, ::-1]
    middle = cut.shape[-1] // 2
    peak = cut[:, middle, middle][:, None, None]
    noise = np.sqrt(2) * _SIGMAS * peak / snr[:, None, None]
    core = _within(cut.shape[-1], _CORE * typical)
    lopsided = core & (np.abs(cut - mirror) > np.maximum(rules.blend_max * peak, noise))
    excess = ndimage.uniform_filter(cut - mirror, (0, _SMOOTH, _SMOOTH), mode="nearest")
    neighbour = ~core & (excess > _NEIGHBOUR * np.sqrt(2) * peak / snr[:, None, None] / _SMOOTH)
    return np.where(neighbour, mirror, cut), np.asarray(~lopsided.any(axis=(-2, -1)))


def _narrowest(place: Places, width: PerBand, factor: PerBand, rules: config.StarRules) -> Bool:
    """The candidates that share the least size of their stamp and band: stars repeat it, galaxies are broader."""
    if not len(place):
        return np.zeros(0, dtype=bool)
    _, group = np.unique(place[:, :2], axis=0, return_inverse=True)
    least = np.full(group.max() + 1, np.inf)
    np.minimum.at(least, group, width)
    locus = width <= (1 + rules.locus_width) * least[group]
    repeated = np.bincount(group, weights=locus)[group] >= rules.repeated_min
    low, high = rules.lone_fwhm_factor
    return np.asarray(locus & (repeated | ((factor >= low) & (factor <= high))))


def _stack(
    cut: Float, place: Places, shape: tuple[int, int], rules: config.StarRules
) -> tuple[Float, NDArray[np.int64]]:
    """The sum of every stamp's and band's stars, cleaned and normalised."""
    count = np.zeros(shape, dtype=np.int64)
    np.add.at(count, (place[:, 0], place[:, 1]), 1)
    total = np.zeros((*shape, rules.psf_pixels, rules.psf_pixels), dtype=np.float32)
    np.add.at(total, (place[:, 0], place[:, 1]), cut)
    some = count >= rules.stars_min
    psf, _ = psf_stamp.normalise(_smooth_wings(psf_stamp.clean(total[some])), rules.psf_pixels)
    some[some] = usable = np.isfinite(fwhm_halfmax(psf))
    total[some] = psf[usable]
    return np.where(some[..., None, None], total, np.float32(0)), np.where(some, count, 0)


def _smooth_wings(psf: Float) -> Float:
    """Beyond the core the mean of each ring, a pixel wide: there a star's pixel holds more noise than light."""
    n = psf.shape[-1]
    axis = np.arange(n) - n // 2
    radius = np.hypot(axis[:, None], axis)
    ring = np.rint(radius).astype(np.intp)
    mean = np.stack([ndimage.mean(p, ring, np.arange(ring.max() + 1)) for p in psf]) if len(psf) else psf[:, 0]
    return np.where(radius > _CORE * fwhm_halfmax(psf)[:, None, None], mean[:, ring], psf).astype(np.float32)


def _within(side: int, radius: PerBand) -> Bool:
    """(n, side, side), True within the radius (n,) of the middle."""
    axis = np.arange(side) - side // 2
    return np.asarray(np.hypot(axis[:, None], axis) <= radius[:, None, None])
