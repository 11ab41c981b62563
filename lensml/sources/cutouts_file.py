"""One object's multi-extension FITS of the `cutouts` contract, as arrays in nJy."""

import numpy as np

from lensml import config
from lensml.imaging import units
from lensml.ingest import fits_images, planes
from lensml.ingest.fits_images import Extension
from lensml.ingest.planes import Band, Cutout, Float

_KINDS = ("SCI", "MASK", "PSF", *planes.NOISE_KINDS)


def parse(content: bytes, survey: config.Survey, convert: config.Convert) -> Cutout:
    """Read a file's bytes.

    Raises
    ------
    ValueError
        The file is no plain, whole FITS file or breaks the `cutouts` contract; the message says how.
    """
    found = _planes(content, survey)
    bands = [band for band in survey.bands if "SCI" in found.get(band, {})]
    if not bands:
        raise ValueError(f"file must have an extension <BAND>_SCI of {', '.join(survey.bands)}, got none.")
    orphans = [f"{band}_{kind}" for band, kinds in found.items() if band not in bands for kind in kinds]
    if orphans:
        raise ValueError(f"file must have a <BAND>_SCI for every plane, got {orphans[0]} without.")
    return planes.assemble({band: _band(found[band], survey, convert) for band in bands})


def _band(found: dict[str, Extension], survey: config.Survey, convert: config.Convert) -> Band:
    header, limit = found["SCI"].header, convert.max_pixels
    factor = units.nanojansky_per_unit(header, survey)
    flux = planes.scaled(found["SCI"].image(limit), factor)
    return Band(
        flux=flux,
        bad=found["MASK"].image(limit) != 0 if "MASK" in found else np.zeros(flux.shape, dtype=bool),
        variance=_variance(found, factor, convert),
        psf=found["PSF"].image(limit) if "PSF" in found else None,
        **planes.frame(header, survey),
    )


def _planes(content: bytes, survey: config.Survey) -> dict[str, dict[str, Extension]]:
    """Band -> kind -> extension. Names are compared without case where that is unambiguous: FITS writers raise it."""
    exact = {band: band for band in survey.bands}
    folded = {band.upper(): band for band in survey.bands}
    ambiguous = len(folded) < len(exact)
    found: dict[str, dict[str, Extension]] = {}
    for extension in fits_images.extensions(content):
        given, _, kind = str(extension.header.get("EXTNAME") or "").strip().rpartition("_")
        if kind.upper() not in _KINDS or not given:
            continue
        band = exact.get(given) or (None if ambiguous else folded.get(given.upper()))
        if band is None:
            raise ValueError(f"bands must be among {', '.join(exact)} (params.yaml: surveys), got {given:.40}. Add it.")
        if found.setdefault(band, {}).setdefault(kind.upper(), extension) is not extension:
            raise ValueError(f"file must have every extension once, got {given:.40}_{kind} twice.")
    return found


def _variance(found: dict[str, Extension], factor: float, convert: config.Convert) -> Float | None:
    given = [kind for kind in planes.NOISE_KINDS if kind in found]
    if len(given) > 1:
        raise ValueError(f"a band must have one noise plane, got {' and '.join(given)}. Remove one.")
    if not given:
        return None
    return planes.variance(found[given[0]].image(convert.max_pixels), given[0], factor, convert.noise_sentinels)
