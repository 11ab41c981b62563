"""Sky level and sky sigma over a field, on a mesh: SExtractor's estimator by photutils, for whole images.

Stamps are smaller than a mesh's box: their sky is `imaging.noise`'s.
"""

from typing import Final

import numpy as np
from astropy.stats import SigmaClip
from numpy.typing import NDArray
from photutils.background import Background2D, SExtractorBackground, StdBackgroundRMS

_CLIP_SIGMA: Final = 3.0  # Bertin & Arnouts 1996, A&AS 117, 393, section 3: to convergence at 3 sigma
_CLIP_STEPS: Final = 100
_BAD_MAX_PERCENT: Final = 50.0  # a box with more is filled from its neighbours, as SExtractor does

Float = NDArray[np.float32]


def mesh(image: Float, bad: NDArray[np.bool_], box_pixels: int, filter_pixels: int) -> tuple[Float, Float]:
    """Sky level and sky sigma of every pixel: mode and deviation of clipped boxes, median-filtered, interpolated.

    The level of a box is 2.5 median - 1.5 mean, or the median where these differ by 0.3 sigma and more.

    Parameters
    ----------
    image : (y, x), any unit; not read where bad or not finite
    bad : (y, x), True = do not use; sources need not be
    box_pixels : side of a box, many times a galaxy's
    filter_pixels : odd, boxes on a side of the median filter

    Returns
    -------
    level, sky_sigma : (y, x), in the image's unit

    Raises
    ------
    ValueError
        The filter is even, the box is larger than the image, or no box has enough good pixels.
    """
    if filter_pixels % 2 == 0:
        raise ValueError(f"filter_pixels must be odd, got {filter_pixels}. Take {filter_pixels + 1}.")
    if box_pixels > min(image.shape):
        raise ValueError(f"box_pixels must fit into the image, got {box_pixels} for {image.shape}. Take a smaller box.")
    bad = bad | ~np.isfinite(image)
    if bad.all():
        raise ValueError("image must have good pixels, got none. Look at its mask.")
    found = Background2D(
        np.where(bad, np.float32(0), image),
        box_pixels,
        mask=bad,
        exclude_percentile=_BAD_MAX_PERCENT,
        filter_size=filter_pixels,
        sigma_clip=SigmaClip(_CLIP_SIGMA, maxiters=_CLIP_STEPS),
        bkg_estimator=SExtractorBackground(sigma_clip=None),
        bkg_rms_estimator=StdBackgroundRMS(sigma_clip=None),
    )
    return found.background.astype(np.float32), found.background_rms.astype(np.float32)
