"""Cutouts as a survey delivers them, and their calibration into stamps: noise measured, masks applied, PSF cleaned."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray


@dataclass(frozen=True)
class Cutouts:
    """A batch as read from a survey's files, in nJy, before any measurement: one survey, same bands and shape.

    Attributes
    ----------
    object_id : list of str
    flux : (object, band, y, x) nJy, NaN allowed
    variance : (object, band, y, x) nJy^2, or None where the files have no such plane
    bad : (object, band, y, x), True = do not use
    psf : (object, band, py, px), or None; any normalisation
    pixel_scale : (object,) arcsec
    metadata : object_id and any of the catalogue's scalar columns that the source knows
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
