"""Whole images of one field that begin elsewhere in each band: where they lie on each other."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lensml.ingest import sky
from lensml.ingest.fits_images import Extension
from lensml.ingest.planes import Band, one_grid


def aligned(bands: dict[str, Band], images: Mapping[str, Extension]) -> dict[str, Band]:
    """The bands with where they lie by the images' WCS: their offset, to the nearest pixel, on the finest band's
    pixels, or where pixels differ in size the place in each of them that is the finest band's central pixel.

    Windows about an object know where it is in them; and where an image has no WCS, all are taken as they are.

    Raises
    ------
    ValueError
        A WCS cannot be understood.
    """
    windows = {name: image for name, image in images.items() if hasattr(image, "centre")}
    if windows:
        return bands if one_grid(list(bands.values())) else _centred(bands, windows)
    found = {name: sky.wcs(images[name].header) for name in bands}
    known = {name: wcs for name, wcs in found.items() if wcs is not None}
    if len(known) < len(bands):
        return bands
    finest = min(bands, key=lambda name: bands[name].pixel_scale)
    height, width = bands[finest].flux.shape
    place = known[finest].all_pix2world((width - 1) // 2, (height - 1) // 2, 0)  # whole: not to be rounded either way
    centres = {name: wcs.all_world2pix(*place, 0, quiet=True) for name, wcs in known.items()}
    same = one_grid(list(bands.values()))
    return {name: _at(band, float(centres[name][0]), float(centres[name][1]), same) for name, band in bands.items()}


def _centred(bands: dict[str, Band], windows: Mapping[str, Any]) -> dict[str, Band]:
    """Windows begin at whole pixels, which differ from band to band where the pixels do."""
    return {
        name: replace(band, centre=windows[name].centre) if name in windows else band for name, band in bands.items()
    }


def _at(band: Band, x: float, y: float, same: bool) -> Band:
    return replace(band, offset=(-round(y), -round(x))) if same else replace(band, centre=(y, x))
