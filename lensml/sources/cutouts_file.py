"""One object's multi-extension FITS of the `cutouts` contract, as arrays in nJy."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lensml import config
from lensml.imaging import psf_stamp, units
from lensml.sources import fits_images
from lensml.sources.fits_images import Extension

_NOISE: Final = ("VAR", "RMS", "IVAR")
_KINDS: Final = ("SCI", "MASK", "PSF", *_NOISE)
_SAME_SCALE: Final = 1e-3  # relative: a WCS per band rounds

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Cutout:
    """One object; see `lensml.imaging.cutouts.Cutouts` for the arrays, here without the object axis."""

    bands: tuple[str, ...]
    flux: Float
    variance: Float | None
    bad: NDArray[np.bool_]
    psf: Float | None
    pixel_scale: float

    @property
    def form(self) -> tuple[object, ...]:
        """What objects must share to be of one batch."""
        psf = None if self.psf is None else self.psf.shape
        return self.bands, self.flux.shape, self.variance is None, psf


def parse(content: bytes, survey: config.Survey, max_pixels: int) -> Cutout:
    """Read a file's bytes.

    Raises
    ------
    ValueError
        The file is no plain, whole FITS file or breaks the `cutouts` contract; the message says how.
    """
    planes = _planes(content, survey)
    bands = tuple(band for band in survey.bands if "SCI" in planes.get(band, {}))
    if not bands:
        raise ValueError(f"file must have an extension <BAND>_SCI of {', '.join(survey.bands)}, got none.")
    orphans = [f"{band}_{kind}" for band, found in planes.items() if band not in bands for kind in found]
    if orphans:
        raise ValueError(f"file must have a <BAND>_SCI for every plane, got {orphans[0]} without.")
    scales = [units.pixel_scale_arcsec(planes[band]["SCI"].header, survey) for band in bands]
    if max(scales) - min(scales) > _SAME_SCALE * min(scales):
        raise ValueError(f"bands must have one pixel scale, got {min(scales):.4g} to {max(scales):.4g} arcsec.")
    factors = [units.nanojansky_per_unit(planes[band]["SCI"].header, survey) for band in bands]
    flux = [_scaled(planes[b]["SCI"].image(max_pixels), f) for b, f in zip(bands, factors, strict=True)]
    shapes = {image.shape for image in flux}
    if len(shapes) > 1:
        raise ValueError(f"bands must have one shape, got {' and '.join(map(str, sorted(shapes)))}. Resample them.")
    variance = _all_or_none([_variance(planes[b], f, max_pixels) for b, f in zip(bands, factors, strict=True)], "noise")
    psf = _all_or_none([_psf(planes[band], max_pixels) for band in bands], "PSF")
    side = max((p.shape[0] for p in psf), default=0)
    bad = np.stack([_bad(planes[band], flux[0].shape, max_pixels) for band in bands])
    return Cutout(
        bands,
        np.stack(flux),
        np.stack([_same(v, flux[0].shape, "noise") for v in variance]) if variance else None,
        bad,
        np.stack([psf_stamp.pad(p, side) for p in psf]) if psf else None,
        float(np.mean(scales)),
    )


def _planes(content: bytes, survey: config.Survey) -> dict[str, dict[str, Extension]]:
    """Band -> kind -> extension. Names are compared without case where that is unambiguous: FITS writers raise it."""
    exact = {band: band for band in survey.bands}
    folded = {band.upper(): band for band in survey.bands}
    ambiguous = len(folded) < len(exact)
    planes: dict[str, dict[str, Extension]] = {}
    for extension in fits_images.extensions(content):
        given, _, kind = str(extension.header.get("EXTNAME") or "").strip().rpartition("_")
        if kind.upper() not in _KINDS or not given:
            continue
        band = exact.get(given) or (None if ambiguous else folded.get(given.upper()))
        if band is None:
            raise ValueError(f"bands must be among {', '.join(exact)} (params.yaml: surveys), got {given:.40}. Add it.")
        if planes.setdefault(band, {}).setdefault(kind.upper(), extension) is not extension:
            raise ValueError(f"file must have every extension once, got {given:.40}_{kind} twice.")
    return planes


def _scaled(image: NDArray[np.floating], factor: float) -> Float:
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes infinite, hence bad
        return (image * image.dtype.type(factor)).astype(np.float32)


def _variance(planes: dict[str, Extension], factor: float, max_pixels: int) -> Float | None:
    given = [kind for kind in _NOISE if kind in planes]
    if not given:
        return None
    if len(given) > 1:
        raise ValueError(f"a band must have one noise plane, got {' and '.join(given)}. Remove one.")
    plane = planes[given[0]].image(max_pixels).astype(np.float64)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if given[0] == "RMS":
            plane = np.where(plane > 0, plane, 0.0) ** 2
        elif given[0] == "IVAR":
            plane = np.where(plane > 0, 1 / plane, 0.0)
        return (plane * factor**2).astype(np.float32)


def _psf(planes: dict[str, Extension], max_pixels: int) -> Float | None:
    if "PSF" not in planes:
        return None
    return psf_stamp.odd_square(planes["PSF"].image(max_pixels).astype(np.float64))


def _bad(planes: dict[str, Extension], shape: tuple[int, ...], max_pixels: int) -> NDArray[np.bool_]:
    if "MASK" not in planes:
        return np.zeros(shape, dtype=bool)
    return _same(planes["MASK"].image(max_pixels), shape, "mask") != 0


def _all_or_none(planes: list[Float | None], what: str) -> list[Float]:
    given = [plane for plane in planes if plane is not None]
    if given and len(given) < len(planes):
        raise ValueError(f"bands must all have a {what} plane or none, got {len(given)} of {len(planes)}.")
    return given


def _same(plane: NDArray[np.floating], shape: tuple[int, ...], what: str) -> NDArray[np.floating]:
    if plane.shape != shape:
        raise ValueError(f"a {what} plane must have its image's shape {shape}, got {plane.shape}.")
    return plane
