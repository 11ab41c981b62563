"""Example galaxies of ProFit: KiDS/ and SDSS/<galaxy>{fitim,sigma,mskim,psfim}.fits, one galaxy seen by two surveys.

r band in maggies, without headers: zero-points and pixel scales are facts of the published set (Robotham et al. 2017,
MNRAS 466, 1513). All are nearby galaxies of GAMA, none a lens. A galaxy is one object per survey, <galaxy>_KiDS and
<galaxy>_SDSS, with the galaxy as their parent; who gives a catalogue states the parent there. `segim` (whose pixels are
fitted) is left out.
"""

import re
from pathlib import PurePosixPath
from typing import Final

import numpy as np

from lensml.imaging import units
from lensml.ingest import planes, survey_files
from lensml.ingest.layout import Context, Files, Layout, Place
from lensml.ingest.planes import Band

_LICENCE: Final = "LGPL-3 (ProFit); cite Robotham et al. 2017 (MNRAS 466, 1513)"
_NAME: Final = re.compile(r"(?P<galaxy>.+)(?P<plane>fitim|sigma|mskim|psfim)\.fits")
_SCALES: Final = {"KiDS": 0.2, "SDSS": 0.339}  # arcsec; GAMA's SDSS frames are not on the survey's own 0.396
_BAND: Final = "r"
_MAGGIES: Final = {"MAGZERO": 0.0}
_NO_LENS: Final[dict[str, str | float]] = {  # none is known: nobody has searched
    "label": "nonlens",
    "label_source": "obs:profit",
    "label_confidence": 0.8,
}


def _place(name: str) -> Place | None:
    path = PurePosixPath(name)
    match, survey = _NAME.fullmatch(path.name), path.parent.name
    if not match or survey not in _SCALES:
        return None
    return Place(f"{match['galaxy']}_{survey}", _BAND, match["plane"], survey.lower())


def _told(name: str) -> dict[str, str | float]:
    return {"parent": name.rpartition("_")[0], **_NO_LENS}


def _bands(files: Files, context: Context) -> dict[str, Band]:
    image, limit = files.one(_BAND, "fitim"), context.convert.max_pixels
    if image is None:
        raise ValueError("object must have an image (fitim), got none.")
    factor = units.nanojansky_per_unit(_MAGGIES, context.survey)
    flux = planes.scaled(image.image(limit), factor)
    sigma, mask, psf = (files.one(_BAND, plane) for plane in ("sigma", "mskim", "psfim"))
    sentinels = context.convert.noise_sentinels
    return {
        _BAND: Band(
            flux=flux,
            bad=np.zeros(flux.shape, dtype=bool) if mask is None else planes.bits(mask.image(limit)) > 0,
            pixel_scale=_SCALES[context.object.rpartition("_")[2]],
            variance=None if sigma is None else planes.variance(sigma.image(limit), "RMS", factor, sentinels),
            psf=None if psf is None else psf.image(limit),
        )
    }


KIND: Final = survey_files.kind(Layout(_place, _bands, _LICENCE, by_name=_told))
