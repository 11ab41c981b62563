"""Euclid MER cutouts (Q1): <BAND>_FLUX or <BAND>_BGSUB, <BAND>_RMS and <BAND>_PSF in one file, MAGZERO in the image."""

from pathlib import PurePosixPath
from typing import Final

import numpy as np

from lensml.imaging import units
from lensml.ingest import planes, survey_files
from lensml.ingest.fits_images import Extension
from lensml.ingest.layout import Context, Files, Layout, Place
from lensml.ingest.planes import Band

_LICENCE: Final = "ESA/Euclid Q1, public; cite the Euclid Consortium"
_OTHERS: Final = ("data", "image", "noise_map", "psf")  # single planes that modellers keep beside a cutout
_IMAGES: Final = ("FLUX", "BGSUB")  # both names occur
_INSTRUMENTS: Final = ("HSC", "MEGACAM", "DES", "DECAM", "LSST", "WISHES", "JEDIS", "PANSTARRS")  # on the ground


def _place(name: str) -> Place | None:
    path = PurePosixPath(name)
    other = path.stem in _OTHERS or path.stem.startswith("mask")
    return Place(path.stem) if path.suffix == ".fits" and not other else None


def _bands(files: Files, context: Context) -> dict[str, Band]:
    found: dict[str, dict[str, Extension]] = {}
    for extension in files.fits("", ""):
        given, _, plane = extension.name.rpartition("_")
        if plane in (*_IMAGES, "RMS", "PSF"):
            kind = "IMAGE" if plane in _IMAGES else plane
            if found.setdefault(_band_name(given), {}).setdefault(kind, extension) is not extension:
                raise ValueError(f"file must have every plane once, got {extension.name} and another. Remove one.")
    return {
        name: _band(found[name], context)
        for name in context.known([name for name, planes_of in found.items() if "IMAGE" in planes_of])
    }


def _band_name(given: str) -> str:
    """VIS, NIR_Y, and of the instruments on the ground the filter alone: MEGACAM_u is u."""
    instrument, _, band = given.rpartition("_")
    return band.lower() if instrument in _INSTRUMENTS else given


def _band(found: dict[str, Extension], context: Context) -> Band:
    header, convert = found["IMAGE"].header, context.convert
    factor = units.nanojansky_per_unit(header, context.survey)
    flux = planes.scaled(found["IMAGE"].image(convert.max_pixels), factor)
    rms = found["RMS"].image(convert.max_pixels) if "RMS" in found else None
    return Band(
        flux=flux,
        bad=np.zeros(flux.shape, dtype=bool),
        variance=None if rms is None else planes.variance(rms, "RMS", factor, convert.noise_sentinels),
        psf=found["PSF"].image(convert.max_pixels) if "PSF" in found else None,
        **planes.frame(header, context.survey),
    )


KIND: Final = survey_files.kind(Layout(_place, _bands, _LICENCE))
