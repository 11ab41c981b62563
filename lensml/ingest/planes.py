"""One band of one object, in nJy, whatever its file called it; and the bands of an object put together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lensml import config
from lensml.imaging import psf_stamp, resample, units
from lensml.imaging.frames import Frame

NOISE_KINDS: Final = ("VAR", "RMS", "IVAR")
OUTSIDE: Final = 1 << 62  # a bit that no survey uses
_SAME_SCALE: Final = 1e-3  # relative: a WCS per band rounds
_ABOUT_AS_FINE: Final = 1.1  # of the finest pixel scale: what is within it is not worth another resampling
_SAME_NORTH_DEG: Final = 0.05  # a rotation that moves no pixel of a stamp
_LOST_WEIGHT_MAX: Final = 0.5  # of a resampled pixel's noise from bad pixels: beyond it, it is bad
_SAME_SENTINEL: Final = 1e-5  # relative: what single precision leaves of 1e16

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]
Image = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """One band.

    Attributes
    ----------
    flux : (y, x) nJy, NaN allowed
    bad : (y, x), True = do not use
    pixel_scale : arcsec
    variance : (y, x) nJy^2, not positive where there is no measurement; None where the file has no such plane
    saturated : (y, x) or None
    psf : (py, px) or None
    psf_fwhm : arcsec at half maximum by a survey's map; NaN unknown
    north_deg : from +y towards -x; NaN unknown
    mirrored : east is to the right of north
    offset : (y, x) of the stamp's first pixel in the grid that the object's bands share; None where none is known
    centre : (y, x) pixel of the object, where it is not the stamp's centre
    """

    flux: Float
    bad: Bool
    pixel_scale: float
    variance: Float | None = None
    saturated: Bool | None = None
    psf: Image | None = None
    psf_fwhm: float = np.nan
    north_deg: float = np.nan
    mirrored: bool = False
    offset: tuple[int, int] | None = None
    centre: tuple[float, float] | None = None


@dataclass(frozen=True)
class Cutout:
    """One object; see `lensml.imaging.cutouts.Cutouts` for the arrays, here without the object axis."""

    bands: tuple[str, ...]
    flux: Float
    variance: Float | None
    bad: Bool
    saturated: Bool | None
    psf: Float | None
    psf_fwhm: NDArray[np.float64]  # (band,)
    pixel_scale: float
    north_deg: float

    @property
    def form(self) -> tuple[object, ...]:
        """What objects must share to be of one batch."""
        return self.bands, self.flux.shape, self.variance is None, self.psf is None, self.saturated is None


def frame(header: Mapping[str, object], survey: config.Survey) -> dict[str, Any]:
    """A `Band`'s pixel_scale, north_deg and mirrored by its header's WCS; the survey's scale without one."""
    seen = units.north_and_parity(header)
    told = {} if seen is None else {"north_deg": seen[0], "mirrored": seen[1]}
    return {"pixel_scale": units.pixel_scale_arcsec(header, survey), **told}


def scaled(image: Image, factor: float) -> Float:
    """Pixel values to nJy; what overflows becomes infinite, hence bad."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(image * image.dtype.type(factor)).astype(np.float32)


def variance(plane: Image, kind: str, factor: float, sentinels: list[float]) -> Float:
    """A noise plane as a variance in nJy^2, 0 where it holds no measurement.

    Parameters
    ----------
    kind : of NOISE_KINDS: variance, sigma or inverse variance, in the image's unit
    factor : nJy per unit
    sentinels : sigmas or variances that mean: do not use
    """
    values = plane.astype(np.float64)
    usable = np.isfinite(values) & (values > 0)
    for sentinel in sentinels if kind != "IVAR" else []:
        usable &= ~np.isclose(values, sentinel, rtol=_SAME_SENTINEL, atol=0)
    values = np.where(usable, values, 1.0)
    with np.errstate(over="ignore"):
        power = {"VAR": values, "RMS": values**2, "IVAR": 1 / values}[kind]
        return np.where(usable, power * factor**2, 0.0).astype(np.float32)


def bits(mask: Image) -> NDArray[np.int64]:
    """A mask plane as integers; OUTSIDE where it is not finite, beyond the image's edge."""
    return np.where(np.isfinite(mask), np.nan_to_num(mask), OUTSIDE).astype(np.int64)


def beyond(header: Mapping[str, object], image: Image) -> Bool | None:
    """Which pixels reach the card SATURATE, in the file's unit; None where the header has no such number."""
    limit = header.get("SATURATE")
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
        return None
    with np.errstate(invalid="ignore"):
        return np.asarray(image >= limit)


def grid_offset(header: Mapping[str, object]) -> tuple[int, int] | None:
    """(y, x) of a stamp's first pixel on its survey's grid, by CRPIX; None without."""
    cards = [header.get(card) for card in ("CRPIX2", "CRPIX1")]
    known = [card for card in cards if isinstance(card, int | float) and abs(card) < 2**31]
    numbers = [math.floor(0.5 - card) for card in known]  # a reference may lie between pixels: all rounded one way
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None


def assemble(given: dict[str, Band]) -> Cutout:
    """The bands of an object, in the order given, on one grid with east to the left of north.

    Bands on other pixels than the finest are resampled to these (`lensml.imaging.resample`): their noise is correlated
    then, which is measured like any other. Bands whose stamps begin elsewhere on one grid are cut to what they share.

    Raises
    ------
    ValueError
        There is no band, or only some have a noise plane, or they differ in a way that no resampling mends.
    """
    if not given:
        raise ValueError("an object must have an image in some band, got none.")
    bands = {name: _as_seen(band) for name, band in given.items()}
    _all_or_none([band.variance is None for band in bands.values()])
    bands = _shared(bands) if one_grid(list(bands.values())) else _on_finest(bands)
    shapes = {band.flux.shape for band in bands.values()}
    if len(shapes) > 1:
        raise ValueError(f"bands must have one shape, got {' and '.join(map(str, sorted(shapes)))}. Resample them.")
    return _stacked(bands)


def _stacked(bands: dict[str, Band]) -> Cutout:
    planes = list(bands.values())
    variances = [band.variance for band in planes if band.variance is not None]
    saturated = [np.zeros(b.bad.shape, dtype=bool) if b.saturated is None else b.saturated for b in planes]
    north = [band.north_deg for band in planes if np.isfinite(band.north_deg)]
    return Cutout(
        bands=tuple(bands),
        flux=np.stack([band.flux for band in planes]),
        variance=np.stack(variances) if variances else None,
        bad=np.stack([band.bad for band in planes]) | np.stack(saturated),
        saturated=np.stack(saturated) if any(band.saturated is not None for band in planes) else None,
        psf=_psfs([band.psf for band in planes]),
        psf_fwhm=np.array([band.psf_fwhm for band in planes], dtype=np.float64),
        pixel_scale=float(np.mean([band.pixel_scale for band in planes])),
        north_deg=north[0] if north else np.nan,
    )


def _as_seen(band: Band) -> Band:
    """East to the left of north: a mirrored image is turned back, which loses nothing."""
    for plane, what in ((band.bad, "mask"), (band.variance, "noise"), (band.saturated, "saturation")):
        if plane is not None and plane.shape != band.flux.shape:
            raise ValueError(f"a {what} plane must have its image's shape {band.flux.shape}, got {plane.shape}.")
    if not band.mirrored:
        return band
    begin = None if band.offset is None else (band.offset[0], -band.offset[1] - band.flux.shape[1])
    middle = None if band.centre is None else (band.centre[0], band.flux.shape[1] - 1 - band.centre[1])
    flipped: dict[str, Any] = {
        name: None if plane is None else np.ascontiguousarray(plane[:, ::-1])
        for name in ("flux", "bad", "variance", "saturated", "psf")
        for plane in [getattr(band, name)]
    }
    return replace(band, **flipped, north_deg=-band.north_deg, mirrored=False, offset=begin, centre=middle)


def _shared(bands: dict[str, Band]) -> dict[str, Band]:
    """Stamps cut to the pixels that all of them have, where all say where they begin."""
    offsets = {name: band.offset for name, band in bands.items() if band.offset is not None}
    if len(offsets) < len(bands):
        return bands
    begin = np.max(list(offsets.values()), axis=0)
    end = np.min([np.add(offset, bands[name].flux.shape) for name, offset in offsets.items()], axis=0)
    if (end <= begin).any():
        raise ValueError("bands must show one place in the sky, got stamps that do not overlap.")
    return {name: _window(bands[name], begin - offset, end - offset) for name, offset in offsets.items()}


def _window(band: Band, begin: NDArray[np.int64], end: NDArray[np.int64]) -> Band:
    where = (slice(begin[0], end[0]), slice(begin[1], end[1]))
    planes = {name: getattr(band, name) for name in ("flux", "bad", "variance", "saturated")}
    cut: dict[str, Any] = {name: None if plane is None else plane[where] for name, plane in planes.items()}
    return replace(band, **cut)


def one_grid(bands: list[Band]) -> bool:
    """Whether the pixels of all bands lie on each other, but for whole pixels."""
    scales = [band.pixel_scale for band in bands]
    north = [band.north_deg for band in bands if np.isfinite(band.north_deg)]
    turned = max((abs((angle - north[0] + 180) % 360 - 180) for angle in north), default=0.0)
    centres = {band.centre for band in bands}
    parities = {band.mirrored for band in bands}
    alike = len(centres) == len(parities) == 1
    return alike and max(scales) - min(scales) <= _SAME_SCALE * min(scales) and turned <= _SAME_NORTH_DEG


def _on_finest(bands: dict[str, Band]) -> dict[str, Band]:
    """All on the pixels of one: of those about as fine as the finest, which most bands share, then the reddest."""
    finest = min(band.pixel_scale for band in bands.values())
    fine = [band for band in bands.values() if band.pixel_scale <= _ABOUT_AS_FINE * finest]
    shared = [sum(one_grid([band, other]) for other in bands.values()) for band in fine]
    chosen = fine[max(range(len(fine)), key=lambda k: (shared[k], k))]
    new = _frame(chosen)
    return {name: band if band is chosen else _resampled(band, new) for name, band in bands.items()}


def _frame(band: Band) -> Frame:
    """Of a band with east to the left of north; up is north where nothing is known."""
    height, width = band.flux.shape
    north = band.north_deg if np.isfinite(band.north_deg) else 0.0
    return Frame(height, width, band.pixel_scale, -north, False, band.centre)


def _resampled(band: Band, new: Frame) -> Band:
    through = resample.between(_frame(band), new)
    usable = ~band.bad & np.isfinite(band.flux)
    if band.variance is not None:
        usable &= np.isfinite(band.variance) & (band.variance > 0)
    plane = np.ones(band.flux.shape, np.float32) if band.variance is None else band.variance
    variance = np.where(usable, plane, np.float32(np.inf))
    found = resample.to_frame(band.flux, variance, through, _LOST_WEIGHT_MAX, band.saturated)
    psf = None if band.psf is None else psf_stamp.odd_square(band.psf)
    if psf is not None:
        side = 2 * int(np.ceil(psf.shape[-1] * band.pixel_scale / new.pixel_scale / 2)) + 1
        psf = resample.psf_to_frame(psf, through, side)
    return Band(
        flux=found.flux,
        bad=~np.isfinite(found.variance),
        pixel_scale=new.pixel_scale,
        variance=None if band.variance is None else found.variance,
        saturated=None if band.saturated is None else found.saturated,
        psf=psf,
        psf_fwhm=band.psf_fwhm,
        north_deg=-new.position_angle + 0.0,
    )


def _all_or_none(lacking: list[bool]) -> None:
    if any(lacking) and not all(lacking):
        given = len(lacking) - sum(lacking)
        raise ValueError(f"bands must all have a noise plane or none, got {given} of {len(lacking)}.")


def _psfs(psfs: list[Image | None]) -> Float | None:
    """PSF stamps of one odd side, zeros for a band without; None where no band has one."""
    if any(psf is not None and not psf.any() for psf in psfs):
        raise ValueError("a PSF must have a positive sum, got a stamp of zeros. Leave it out or get it anew.")
    odd = [None if psf is None else psf_stamp.odd_square(psf.astype(np.float64)) for psf in psfs]
    side = max((psf.shape[0] for psf in odd if psf is not None), default=0)
    if not side:
        return None
    none = np.zeros((side, side), dtype=np.float32)
    return np.stack([none if psf is None else psf_stamp.pad(psf, side) for psf in odd])
