"""Kilo-Degree Survey coadds and cutouts: <name>_<band>_{sci,wei,msk}.fits in maggies, wei an inverse variance.

Layout of KiDS-ESO-DR4 (Kuijken et al. 2019, A&A 625, A2); a file without one of these words is the image.
"""

import re
from pathlib import PurePosixPath
from typing import Final

import numpy as np

from lensml.imaging import units
from lensml.ingest import planes, survey_files
from lensml.ingest.layout import Context, Files, Layout, Place
from lensml.ingest.planes import Band

_LICENCE: Final = "KiDS, public; cite Kuijken et al. 2019 (A&A 625, A2)"
_NAME: Final = re.compile(r"(?P<object>.+?)_(?P<band>[ugri]|i1|i2)(_(?P<plane>sci|wei|msk|psf))?\.fits(\.fz|\.gz)?")
_BANDS: Final = {"i1": "i", "i2": "i"}  # the two passes of DR5


def _place(name: str) -> Place | None:
    match = _NAME.fullmatch(PurePosixPath(name).name)
    if not match:
        return None
    return Place(match["object"], _BANDS.get(match["band"], match["band"]), match["plane"] or "sci")


def _bands(files: Files, context: Context) -> dict[str, Band]:
    return {name: _band(files, name, context) for name in context.known(files.having("sci"))}


def _band(files: Files, name: str, context: Context) -> Band:
    image, limit = files.one(name, "sci"), context.convert.max_pixels
    if image is None:
        raise ValueError(f"band {name} must have an image, got none.")
    factor = units.nanojansky_per_unit(image.header, context.survey)
    flux = planes.scaled(image.image(limit), factor)
    weight, mask, psf = (files.one(name, plane) for plane in ("wei", "msk", "psf"))
    sentinels = context.convert.noise_sentinels
    return Band(
        flux=flux,
        bad=np.zeros(flux.shape, dtype=bool) if mask is None else planes.bits(mask.image(limit)) != 0,
        variance=None if weight is None else planes.variance(weight.image(limit), "IVAR", factor, sentinels),
        saturated=planes.beyond(image.header, image.image(limit)),
        psf=None if psf is None else psf.image(limit),
        **planes.frame(image.header, context.survey),
    )


KIND: Final = survey_files.kind(Layout(_place, _bands, _LICENCE))
