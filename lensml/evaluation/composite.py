"""Colour composites of stamps: which bands are shown, with which weight and stretch, and where pixels are bad."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Picture = NDArray[np.uint8]  # (y, x, 3)

NOISY_BANDS: Final = ("u",)  # galaxies are faint and lenses fainter
NOISY_FACTOR: Final = 2.5  # over the median sky sigma of the bands, nJy: noise that would be all that is seen
BLURRED_FACTOR: Final = 3.0  # over the sharpest band's FWHM: rings of false colour around every source
# Of fluxes in nJy, blue first, by the number of bands: wavelength^-2 of g, r, i, with old galaxies orange, young blue
WEIGHTS: Final = {1: (1.0,), 2: (1.6, 1.0), 3: (2.5, 1.5, 1.0)}
BLACK_SIGMA: Final = -1.0  # what is black, in sky sigmas, as the next two: the noise stays to be seen
SOFTENING_SIGMA: Final = 3.0  # about linear below, logarithmic above
WHITE_SIGMA_MIN: Final = 100.0  # the least that is as bright as a picture gets
WHITE_PERCENTILE: Final = 99.8  # of a picture's pixels, where this is more: cores keep their shape
BAD_TINT: Final = (112, 74, 118)  # a mauve that no sky and no galaxy has
_PSF_FWHM: Final = 8.0  # side of a PSF's picture
_PSF_PIXELS_MIN: Final = 7
_PSF_SOFTENING: Final = 0.01  # of the peak: wings and spikes are seen


def shown_bands(
    bands: Sequence[str], sky_sigma: ArrayLike, fwhm_arcsec: Sequence[float | None] | None = None
) -> tuple[int, ...]:
    """Indices of the bands that a composite is made of, blue first: one, two or three.

    Of more than three the shortest, the middle and the longest. A band that is `u`, or much noisier than the others, or
    much more blurred than the sharpest, is taken only where fewer than three others are there: Euclid is VIS, Y and H,
    not the ground's g and z with them.

    Parameters
    ----------
    bands : in order of wavelength
    sky_sigma : (band,) nJy
    fwhm_arcsec : (band,), None unknown
    """
    sigma = np.asarray(sky_sigma, float)
    widths = [np.nan] * len(bands) if fwhm_arcsec is None else [np.nan if w is None else w for w in fwhm_arcsec]
    sharpest = min((width for width in widths if width > 0), default=np.inf)
    faults = np.array([band in NOISY_BANDS for band in bands], dtype=int)
    faults += sigma > NOISY_FACTOR * np.median(sigma)
    faults += np.array(widths) > BLURRED_FACTOR * sharpest
    tolerated = np.sort(faults)[min(2, len(faults) - 1)]
    wanted = np.flatnonzero(faults <= tolerated).tolist()
    return tuple(wanted) if len(wanted) <= 3 else (wanted[0], wanted[(len(wanted) - 1) // 2], wanted[-1])


def composite(flux: ArrayLike, sky_sigma: ArrayLike, bad: ArrayLike | None = None) -> Picture:
    """The picture of one to three bands, blue first: (y, x, 3). Of two, green is their mean; one is grey.

    Fluxes are weighted by `WEIGHTS`, which make old galaxies orange and lensed arcs blue at any depth, and the stretch
    is that of Lupton et al. (2004, PASP 116, 133) by the brightest channel, which keeps colours up to the core. White
    is at least `WHITE_SIGMA_MIN` times the bands' mean noise, and the brightest of the picture where that is more.

    Parameters
    ----------
    flux : (band, y, x) nJy
    sky_sigma : (band,) nJy
    bad : (band, y, x), True = do not use: painted over with `BAD_TINT` where any of the bands is
    """
    sigma = np.asarray(sky_sigma, float)
    weight = np.array(WEIGHTS[len(sigma)])
    noise = np.exp(np.log(weight * sigma).mean())
    images = np.asarray(flux, float) * (weight / noise)[:, None, None] - BLACK_SIGMA
    green = images.mean(axis=0) if len(images) == 2 else images[len(images) // 2]
    channels = np.maximum([images[-1], green, images[0]], 0)
    brightest = channels.max(axis=0)
    white = max(WHITE_SIGMA_MIN, float(np.percentile(brightest, WHITE_PERCENTILE)))
    level = np.arcsinh(brightest / SOFTENING_SIGMA) / np.arcsinh(white / SOFTENING_SIGMA)
    picture = channels / np.where(brightest > 0, brightest, 1) * np.minimum(level, 1)
    shown = (np.moveaxis(picture, 0, -1) * 255).round().astype(np.uint8)
    if bad is not None:
        shown[np.asarray(bad, bool).any(axis=0)] = BAD_TINT
    return shown


def psf_picture(psf: ArrayLike, fwhm_pixels: float) -> Picture | None:
    """A PSF stamp's middle, a few widths of it, with an asinh stretch: (y, x, 3); None where the stamp is zeros.

    Parameters
    ----------
    psf : (py, px), odd
    """
    stamp = np.asarray(psf, float)
    if not stamp.max() > 0:
        return None
    middle = stamp.shape[0] // 2
    half = min(middle, max(_PSF_PIXELS_MIN, round(_PSF_FWHM * fwhm_pixels)) // 2)
    shown = stamp[middle - half : middle + half + 1, middle - half : middle + half + 1] / stamp.max()
    level = np.arcsinh(shown / _PSF_SOFTENING) / np.arcsinh(1 / _PSF_SOFTENING)
    grey = (np.clip(level, 0, 1) * 255).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
