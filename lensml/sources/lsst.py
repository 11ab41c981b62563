"""Rubin LSST cutouts of deep_coadd: <object>_<band>.fits with IMAGE, MASK and VARIANCE in nJy.

The PSF is a file <object>_<band>_psf.fits. The one within an exposure is an object of the science pipelines, which
alone can draw it.
"""

import re
from pathlib import PurePosixPath
from typing import Final

from lensml.ingest import afw, survey_files
from lensml.ingest.layout import Context, Files, Layout, Place
from lensml.ingest.planes import Band

_LICENCE: Final = "Rubin Observatory, for holders of data rights; cite NSF-DOE Vera C. Rubin Observatory 2025 (DP1)"
_NAME: Final = re.compile(r"(?P<object>.+?)_(?P<band>[ugrizy])(_(?P<plane>psf))?\.fits(\.fz|\.gz)?")


def _place(name: str) -> Place | None:
    match = _NAME.fullmatch(PurePosixPath(name).name)
    return Place(match["object"], match["band"], match["plane"] or "coadd") if match else None


def _bands(files: Files, context: Context) -> dict[str, Band]:
    return {name: _band(files, name, context) for name in context.known(files.having("coadd"))}


def _band(files: Files, name: str, context: Context) -> Band:
    psf = files.one(name, "psf")
    return afw.band(files.fits(name, "coadd"), None if psf is None else psf.image(context.convert.max_pixels), context)


KIND: Final = survey_files.kind(Layout(_place, _bands, _LICENCE))
