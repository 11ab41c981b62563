"""Hyper Suprime-Cam SSP cutouts (das_cutout) and PSFs (psf picker), as their services name them."""

import re
from pathlib import PurePosixPath
from typing import Final

from lensml.ingest import afw, survey_files
from lensml.ingest.layout import Context, Files, Layout, Place
from lensml.ingest.planes import Band

_LICENCE: Final = "HSC-SSP, public; cite Aihara et al. 2022 (PASJ 74, 247)"
_NAME: Final = re.compile(r"(?P<object>.+?)-(?P<plane>cutout|psf)-.*?(?P<band>HSC-[GRIZY]2?|NB\d+)(-.*)?\.fits")


def _place(name: str) -> Place | None:
    match = _NAME.fullmatch(PurePosixPath(name).name)
    if not match:
        return None
    band = match["band"].removeprefix("HSC-").removesuffix("2").lower()  # R2 and I2 are R and I on later glass
    return Place(match["object"], band, match["plane"])


def _bands(files: Files, context: Context) -> dict[str, Band]:
    return {name: _band(files, name, context) for name in context.known(files.having("cutout"))}


def _band(files: Files, name: str, context: Context) -> Band:
    psf = files.one(name, "psf")
    return afw.band(files.fits(name, "cutout"), None if psf is None else psf.image(context.convert.max_pixels), context)


KIND: Final = survey_files.kind(Layout(_place, _bands, _LICENCE))
