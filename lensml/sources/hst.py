"""Drizzled Hubble images: *_drz.fits or *_drc.fits with SCI, WHT and CTX, or a file each (`_drz`, `_wht`, `_rms`).

The filter stands in the name (`<object>_<filter>_..._drz.fits`, as high-level products have it) or in the header. WHT
is an inverse variance up to a factor, or an exposure time, by how the image was drizzled: what it is worth is measured
when the cutouts are calibrated, and the plane rescaled. Noise of drizzled pixels is correlated.
"""

import re
from pathlib import PurePosixPath
from typing import Final

import numpy as np

from lensml.imaging import units
from lensml.ingest import alignment, planes, survey_files
from lensml.ingest.fits_images import Extension
from lensml.ingest.layout import Context, Files, Layout, Place
from lensml.ingest.planes import Band

_LICENCE: Final = "NASA/ESA Hubble, public; cite the programme"
_NAME: Final = re.compile(r"(?P<stem>.+?)_(?P<plane>drz|drc|wht|rms|psf)\.fits(\.gz|\.fz)?")
_PRODUCT: Final = re.compile(r"hlsp_[^_]+_hst_[^_]+_(?P<object>[^_]+)_(?P<filter>[^_]+)_.+")  # MAST's naming of HLSP
_FILTER: Final = re.compile(r"(?:^|[_-])(f\d{3,4}[a-z]{1,2})(?=[_-]|$)", re.IGNORECASE)
_ZERO_POINTS: Final = ("PHOTFLAM", "MAGZERO", "FLUXMAG0")
_TOTALS: Final = ("electrons", "counts")  # BUNIT of an image that was not divided by its exposure time


def place(name: str) -> Place | None:
    """Object, filter and plane (drz, wht, rms, psf) of a file; the filter "" where only the header tells."""
    path = PurePosixPath(name)
    match = _NAME.fullmatch(path.name)
    if not match:
        return None
    plane = "drz" if match["plane"] == "drc" else match["plane"]
    product, found = _PRODUCT.fullmatch(match["stem"] + "_"), _FILTER.search(match["stem"])
    if product:  # without a filter it is a sum of filters, for detection
        return Place(product["object"], product["filter"].upper(), plane) if found else None
    if not found:
        return Place(match["stem"], "", plane)
    return Place(match["stem"][: found.start()] or path.parent.name or "image", found[1].upper(), plane)


def bands(files: Files, context: Context) -> dict[str, Band]:
    """The filters of an object.

    Raises
    ------
    ValueError
        There are none that the survey has, a filter stands in two files, or a file is not as documented.
    """
    keys: dict[str, str] = {}
    for key in (key for key, kinds in files.planes.items() if "drz" in kinds):
        name = key or _filter(files.fits(key, "drz"))
        if keys.setdefault(name, key) != key:
            raise ValueError(f"object must have one image in {name}, got two. Remove one.")
    known = context.known(keys)
    found = {name: _band(files, keys[name], context) for name in known}
    return alignment.aligned(found, {name: image(files, keys[name]) for name in known})


def image(files: Files, key: str) -> Extension:
    """The extension SCI of a file, or where none is named so the first image."""
    images = [part for part in files.fits(key, "drz") if len(part.shape) == 2]
    if not images:
        raise ValueError("file must have an image (SCI), got none. Get it anew.")
    return next((part for part in images if part.name == "SCI"), images[0])


def _band(files: Files, key: str, context: Context) -> Band:
    parts, science, limit = files.fits(key, "drz"), image(files, key), context.convert.max_pixels
    factor = _factor(parts, science, context)
    pixels = science.image(limit)
    named = {part.name: part for part in parts if len(part.shape) == 2}
    error = named.get("ERR") or files.one(key, "rms")
    weight = named.get("WHT") or files.one(key, "wht")
    noise, kind = (error, "RMS") if error is not None else (weight, "IVAR")
    sentinels, psf = context.convert.noise_sentinels, files.one(key, "psf")
    return Band(
        flux=planes.scaled(pixels, factor),
        bad=~np.isfinite(pixels),
        variance=None if noise is None else planes.variance(noise.image(limit), kind, factor, sentinels),
        psf=None if psf is None else psf.image(limit),
        **planes.frame(science.header, context.survey),
    )


def _factor(parts: list[Extension], science: Extension, context: Context) -> float:
    """nJy per unit; the cards of the photometry stand in the primary header, in the image's, or in both."""
    header = {**parts[0].header, **science.header}
    if not any(card in header for card in _ZERO_POINTS):
        raise ValueError(f"header must have a zero-point ({', '.join(_ZERO_POINTS)}), got none. Add it.")
    factor = units.nanojansky_per_unit(header, context.survey)
    if str(header.get("BUNIT", "")).strip().lower() not in _TOTALS or "PHOTFLAM" not in header:
        return factor
    exposure = header.get("EXPTIME")
    if isinstance(exposure, bool) or not isinstance(exposure, int | float) or not exposure > 0:
        raise ValueError(f"EXPTIME must be positive for an image in {header['BUNIT']}, got {exposure!r:.40}. Add it.")
    return factor / exposure


def _filter(parts: list[Extension]) -> str:
    """FILTER, or of the two wheels of ACS the one that is not clear."""
    header = {**parts[0].header, **(parts[1].header if len(parts) > 1 else {})}
    cards = ("FILTER",) if "FILTER" in header else ("FILTER1", "FILTER2")
    names = [str(header[card]).strip().upper() for card in cards if card in header]
    names = [name for name in names if name and not name.startswith("CLEAR")]
    if len(names) != 1:
        raise ValueError(f"FILTER, or FILTER1 and FILTER2, must name one filter, got {names or 'none'}. Name the file.")
    return names[0]


KIND: Final = survey_files.kind(Layout(place, bands, _LICENCE))
