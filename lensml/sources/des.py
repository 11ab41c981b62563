"""Dark Energy Survey cutouts of coadds: SCI, WGT (inverse variance) and MSK, and PSF stamps in files of their own.

One file per band (`<object>_<band>.fits`) or one file of all bands, whose SCI extensions then come in the order of the
bands. Some cutout tools copy one band's header to all of them: then FILTER does not tell the bands apart, and the order
has to be stated (`bands` of the source).
"""

import re
from pathlib import PurePosixPath
from typing import Final

import numpy as np

from lensml.imaging import units
from lensml.ingest import planes, survey_files
from lensml.ingest.fits_images import Extension
from lensml.ingest.layout import Context, Files, Layout, Place
from lensml.ingest.planes import Band

_LICENCE: Final = "DES DR2, public; cite Abbott et al. 2021 (ApJS 255, 20)"
_NAME: Final = re.compile(r"(?P<psf>DES_PSF|PSF_)?(?P<object>.+?)(_(?P<band>[ugrizY]))?\.fits(\.fz|\.gz)?")
_SATURATED: Final = 0x2  # BADPIX_SATURATE of the DESDM mask (Morganson et al. 2018, PASP 130, 074501)


def _place(name: str) -> Place | None:
    path = PurePosixPath(name)
    match = _NAME.fullmatch(path.name)
    if not match:
        return None
    plane, band = ("psf" if match["psf"] else "image"), match["band"] or ""
    return Place(match["object"].removeprefix("DES_"), band, plane)


def _bands(files: Files, context: Context) -> dict[str, Band]:
    found = _per_band(files, "image", context)
    psfs = _per_band(files, "psf", context)
    return {name: _band(found[name], psfs.get(name), context) for name in context.known(found)}


def _per_band(files: Files, plane: str, context: Context) -> dict[str, dict[str, Extension]]:
    """Band -> SCI, WGT, MSK."""
    found: dict[str, dict[str, Extension]] = {}
    for band in sorted(name for name, kinds in files.planes.items() if plane in kinds):
        stacks = _stacks(files.fits(band, plane))
        names = [band] if band else _names([stack["SCI"] for stack in stacks], context)
        if len(names) != len(stacks):
            raise ValueError(f"file must have an image for each of {', '.join(names)}, got {len(stacks)}.")
        found |= dict(zip(names, stacks, strict=True))
    return found


def _stacks(extensions: list[Extension]) -> list[dict[str, Extension]]:
    """Each image with the weight and the mask that follow it."""
    stacks: list[dict[str, Extension]] = []
    for extension in (part for part in extensions if len(part.shape) == 2):
        kind = extension.name if extension.name in ("WGT", "MSK") else "SCI"
        if kind == "SCI":
            stacks.append({})
        if not stacks:
            raise ValueError(f"file must have an image before its {kind}, got none.")
        stacks[-1][kind] = extension
    return stacks


def _names(images: list[Extension], context: Context) -> list[str]:
    """The bands of a file's images: as stated, else by FILTER, if it tells them apart."""
    if context.bands is not None:
        return context.bands
    names = [str(image.header.get("FILTER") or image.header.get("BAND") or "").split(" ")[0] for image in images]
    if len(set(names)) < len(names) or not all(names):
        got = ", ".join(name or "nothing" for name in names)
        raise ValueError(f"FILTER must tell the {len(names)} images apart, got {got}. State the source's `bands`.")
    return names


def _band(found: dict[str, Extension], psf: dict[str, Extension] | None, context: Context) -> Band:
    header, limit = found["SCI"].header, context.convert.max_pixels
    factor = units.nanojansky_per_unit(header, context.survey)
    flux = planes.scaled(found["SCI"].image(limit), factor)
    mask = planes.bits(found["MSK"].image(limit)) if "MSK" in found else np.zeros(flux.shape, dtype=np.int64)
    variance = None
    if "WGT" in found:
        variance = planes.variance(found["WGT"].image(limit), "IVAR", factor, context.convert.noise_sentinels)
    return Band(
        flux=flux,
        bad=mask != 0,
        variance=variance,
        saturated=(mask & _SATURATED) > 0 if "MSK" in found else planes.beyond(header, found["SCI"].image(limit)),
        psf=None if psf is None else psf["SCI"].image(limit),
        **planes.frame(header, context.survey),
    )


KIND: Final = survey_files.kind(Layout(_place, _bands, _LICENCE))
