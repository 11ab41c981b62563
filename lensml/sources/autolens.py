"""Data sets for PyAutoLens: <object>/{data or image,noise_map,psf}.fits, or <object>/<band>/ of Euclid MER cutouts.

Headers say next to nothing: the pixel scale is PIXSCALE or the survey's, and the band of <object>/data.fits is the
source's `bands`, which then names one. Files beside them (mask_extra_galaxies, ...) say where a modeller does not look,
not where pixels are bad, and are left out. That somebody models an object is no claim that it is a lens: without a
catalogue of the user's its label is unknown.
"""

from pathlib import PurePosixPath
from typing import Final

import numpy as np

from lensml.imaging import units
from lensml.ingest import planes, survey_files
from lensml.ingest.fits_images import Extension
from lensml.ingest.layout import Context, Files, Layout, Place
from lensml.ingest.planes import Band

_LICENCE: Final = "of the survey's pixels; layout of PyAutoLens (Nightingale et al. 2021, JOSS 6, 2825)"
_PLANES: Final = {"data": "image", "image": "image", "noise_map": "noise", "psf": "psf"}
_MER: Final = {  # folder: band, and the zero-point of its pixels, MAGZERO of the Q1 MER cutouts that they come from
    "vis": ("VIS", 24.6),
    "nir_y": ("NIR_Y", 29.8),
    "nir_j": ("NIR_J", 30.0),
    "nir_h": ("NIR_H", 29.9),
}
_ZERO_POINTS: Final = dict(_MER.values())


def _place(name: str) -> Place | None:
    path = PurePosixPath(name)
    folders = path.parts[:-1]
    if path.suffix != ".fits" or path.stem not in _PLANES or not folders:
        return None
    plane = _PLANES[path.stem]
    if folders[-1].lower() not in _MER:
        return Place(folders[-1], "", plane)
    return Place(folders[-2], _MER[folders[-1].lower()][0], plane) if len(folders) > 1 else None


def _bands(files: Files, context: Context) -> dict[str, Band]:
    found = {_stated(context) if band == "" else band: band for band, kinds in files.planes.items() if "image" in kinds}
    return {name: _band(files, found[name], context) for name in context.known(found)}


def _stated(context: Context) -> str:
    if context.bands is None or len(context.bands) != 1:
        got = "none" if context.bands is None else ", ".join(context.bands)
        raise ValueError(f"bands must name the one band of data.fits, got {got}. State the source's `bands`.")
    return context.bands[0]


def _band(files: Files, name: str, context: Context) -> Band:
    limit, image = context.convert.max_pixels, files.one(name, "image")
    if image is None:
        raise ValueError(f"band {name} must have an image, got none.")
    told = {"MAGZERO": _ZERO_POINTS[name]} if name in _ZERO_POINTS and "MAGZERO" not in image.header else {}
    factor = units.nanojansky_per_unit({**image.header, **told}, context.survey)
    flux = planes.scaled(image.image(limit), factor)
    noise, psf = files.one(name, "noise"), files.one(name, "psf")
    rms = None if noise is None else noise.image(limit)
    return Band(
        flux=flux,
        bad=np.zeros(flux.shape, dtype=bool),
        variance=None if rms is None else planes.variance(rms, "RMS", factor, context.convert.noise_sentinels),
        psf=None if psf is None else psf.image(limit),
        **planes.frame(image.header, context.survey) | _scale(image),
    )


def _scale(image: Extension) -> dict[str, float]:
    scale = image.header.get("PIXSCALE")
    if scale is None or "CTYPE1" in image.header:
        return {}
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 1e-4 < scale < 60:
        raise ValueError(f"PIXSCALE must lie between 0.0001 and 60 arcsec, got {scale!r:.40}. Correct the header.")
    return {"pixel_scale": float(scale)}


KIND: Final = survey_files.kind(Layout(_place, _bands, _LICENCE))
