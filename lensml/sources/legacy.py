"""DESI Legacy Imaging Surveys: bricks to cut stamps from, and cutouts of the sky viewer, in nanomaggies.

A brick is legacysurvey-<brick>-{image,invvar,psfsize}-<band>.fits.fz and legacysurvey-<brick>-maskbits.fits.fz. The
viewer's fits-cutout is one cube (BANDS, or BAND0, BAND1, ...), with INVVAR and MASKBITS behind it where they were asked
for; with `subimage` it is an image and an invvar extension per band and brick, uninterpolated. Any other file name is
the object's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

import numpy as np

from lensml.imaging import units
from lensml.ingest import planes, survey_files
from lensml.ingest.fits_images import Extension, Header
from lensml.ingest.layout import Context, Files, Layout, Place
from lensml.ingest.planes import Band, Image

_LICENCE: Final = "DESI Legacy Imaging Surveys, public; cite Dey et al. 2019 (AJ 157, 168)"
_BRICK: Final = re.compile(
    r"legacysurvey-(?P<object>[^-]+)-((?P<plane>image|invvar|psfsize)-(?P<band>[a-zA-Z])|maskbits)\.fits(\.fz|\.gz)?"
)
_CUTOUT: Final = re.compile(r"(?!legacysurvey-)(?P<object>.+?)\.fits(\.fz|\.gz)?")
# Bits of maskbits, https://www.legacysurvey.org/dr10/bitmasks/. Of the others NPRIMARY, MEDIUM, GALAXY, CLUSTER and
# SUB_BLOB leave pixels as good as they were, BAILOUT is about catalogues and WISEM about other images.
_BRIGHT: Final = 1 << 1  # within half the radius of a bright star
_SATURATED: Final = {"g": 1 << 2, "r": 1 << 3, "z": 1 << 4, "i": 1 << 14}  # in some exposure
_ALL_MASKED: Final = {"g": 1 << 5, "r": 1 << 6, "z": 1 << 7, "i": 1 << 15}  # in every exposure


@dataclass(frozen=True)
class _Planes:
    """One band's pixels in the file's units."""

    header: Header
    image: Image
    invvar: Image | None
    mask: Image | None
    psf_fwhm: float  # arcsec; NaN unknown


def _place(name: str) -> Place | None:
    file = PurePosixPath(name).name
    brick, cutout = _BRICK.fullmatch(file), _CUTOUT.fullmatch(file)
    if brick:
        return Place(brick["object"], brick["band"] or "", brick["plane"] or "maskbits")
    return Place(cutout["object"], "", "cutout") if cutout else None


def _bands(files: Files, context: Context) -> dict[str, Band]:
    limit = context.convert.max_pixels
    if "cutout" in files.planes.get("", ()):
        parts = [part for part in files.fits("", "cutout") if part.shape]
        found = _subimages(parts, limit) if any("BRICK" in part.header for part in parts) else _cube(parts, limit)
    else:
        found = {name: _brick(files, name, limit) for name, kinds in files.planes.items() if "image" in kinds}
    return {name: _band(found[name], name, context) for name in context.known(found)}


def _band(found: _Planes, name: str, context: Context) -> Band:
    factor = units.nanojansky_per_unit(found.header, context.survey)
    variance, bad, saturated = None, ~np.isfinite(found.image), None
    if found.invvar is not None:
        variance = planes.variance(found.invvar, "IVAR", factor, context.convert.noise_sentinels)
    if found.mask is not None:
        bits = planes.bits(found.mask)
        bad |= (bits & (_BRIGHT | _ALL_MASKED.get(name, 0) | planes.OUTSIDE)) != 0
        saturated = (bits & _SATURATED.get(name, 0)) != 0
    return Band(
        flux=planes.scaled(found.image, factor),
        bad=bad,
        variance=variance,
        saturated=saturated,
        psf_fwhm=found.psf_fwhm,
        **planes.frame(found.header, context.survey),
    )


def _brick(files: Files, name: str, limit: int) -> _Planes:
    image = files.one(name, "image")
    if image is None:
        raise ValueError(f"band {name} must have an image, got none.")
    invvar, mask, psf_size = (files.one(*key) for key in ((name, "invvar"), ("", "maskbits"), (name, "psfsize")))
    return _Planes(
        header=image.header,
        image=image.image(limit),
        invvar=None if invvar is None else invvar.image(limit),
        mask=None if mask is None else mask.image(limit),
        psf_fwhm=np.nan if psf_size is None else _central(psf_size.image(limit)),
    )


def _central(psf_size: Image) -> float:
    value = float(psf_size[psf_size.shape[0] // 2, psf_size.shape[1] // 2])
    return value if value > 0 else np.nan  # 0 where there is no exposure


def _cube(parts: list[Extension], limit: int) -> dict[str, _Planes]:
    """The viewer's cutout: IMAGE, INVVAR and MASKBITS by IMAGETYP, which older files do not have."""
    kinds = {str(part.header.get("IMAGETYP") or "IMAGE").strip().upper(): part for part in reversed(parts)}
    if "IMAGE" not in kinds:
        raise ValueError("a cutout must hold an image, got none (no overlap with the survey?). Ask for it again.")
    header = kinds["IMAGE"].header
    names = _names(header)
    images, weights = _layers(kinds["IMAGE"], len(names), limit), None
    if "INVVAR" in kinds:
        weights = _layers(kinds["INVVAR"], len(names), limit)
    mask = kinds["MASKBITS"].image(limit) if "MASKBITS" in kinds else None
    return {
        name: _Planes(header, image, None if weights is None else weights[number], mask, np.nan)
        for number, (name, image) in enumerate(zip(names, images, strict=True))
    }


def _names(header: Header) -> list[str]:
    numbered = [str(header[card]).strip() for n in range(99) if (card := f"BAND{n}") in header]
    names = numbered or list(str(header.get("BANDS") or header.get("BAND") or "").strip())
    if not names or len(set(names)) < len(names):
        raise ValueError(f"a cutout must name its bands, each once (BANDS), got {names or 'none'}. Get it anew.")
    return names


def _layers(part: Extension, count: int, limit: int) -> list[Image]:
    layers: list[Image] = [part.image(limit)] if len(part.shape) == 2 else list(part.cube(limit))
    if len(layers) != count:
        raise ValueError(f"a cutout must have a layer for each of {count} band(s), got {len(layers)}. Get it anew.")
    return layers


def _subimages(parts: list[Extension], limit: int) -> dict[str, _Planes]:
    """Of the bricks that the place lies near, the one that shows most of it."""
    bricks: dict[str, dict[tuple[str, str], Extension]] = {}
    for part in parts:
        key = (str(part.header.get("BAND", "")).strip(), str(part.header.get("IMAGETYP", "")).strip().lower())
        bricks.setdefault(str(part.header.get("BRICK", "")), {})[key] = part
    best = max(bricks.values(), key=lambda brick: max(int(np.prod(part.shape)) for part in brick.values()))
    return {band: _subimage(best, band, limit) for band, kind in best if kind == "image"}


def _subimage(brick: Mapping[tuple[str, str], Extension], band: str, limit: int) -> _Planes:
    image, invvar = brick[band, "image"], brick.get((band, "invvar"))
    weights = None if invvar is None else invvar.image(limit)
    return _Planes(image.header, image.image(limit), weights, None, np.nan)


KIND: Final = survey_files.kind(Layout(_place, _bands, _LICENCE))
