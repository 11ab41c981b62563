"""CFHT Legacy Survey cutouts as YattaLens keeps them: <object>_<band>_{sci,rms,psf}.fits, rms in the image's counts.

<object>_mask.fits is left out: it covers the lensed arcs, which a fit of the lens's light must not see, and a network
must.
"""

import re
from pathlib import PurePosixPath
from typing import Final

import numpy as np

from lensml.imaging import units
from lensml.ingest import planes, survey_files
from lensml.ingest.layout import Context, Files, Layout, Place
from lensml.ingest.planes import Band

_LICENCE: Final = "CFHTLS, public; cite Hudelot et al. 2012 (VizieR II/317) and Sonnenfeld et al. 2018 (PASJ 70, S29)"
_NAME: Final = re.compile(r"(?P<object>.+?)_(?P<band>[ugriz])_(?P<plane>sci|rms|psf)\.fits(\.fz|\.gz)?")


def _place(name: str) -> Place | None:
    match = _NAME.fullmatch(PurePosixPath(name).name)
    return Place(match["object"], match["band"], match["plane"]) if match else None


def _bands(files: Files, context: Context) -> dict[str, Band]:
    return {name: _band(files, name, context) for name in context.known(files.having("sci"))}


def _band(files: Files, name: str, context: Context) -> Band:
    image, limit = files.one(name, "sci"), context.convert.max_pixels
    if image is None:
        raise ValueError(f"band {name} must have an image, got none.")
    factor = units.nanojansky_per_unit(image.header, context.survey)
    flux = planes.scaled(image.image(limit), factor)
    rms, psf = files.one(name, "rms"), files.one(name, "psf")
    sentinels = context.convert.noise_sentinels
    return Band(
        flux=flux,
        bad=np.zeros(flux.shape, dtype=bool),
        variance=None if rms is None else planes.variance(rms.image(limit), "RMS", factor, sentinels),
        saturated=planes.beyond(image.header, image.image(limit)),
        psf=None if psf is None else psf.image(limit),
        **planes.frame(image.header, context.survey),
    )


KIND: Final = survey_files.kind(Layout(_place, _bands, _LICENCE))
