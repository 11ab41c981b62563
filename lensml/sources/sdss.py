"""SDSS corrected frames, frame-<band>-<run>-<camcol>-<field>.fits(.bz2): whole, or fields that stamps are cut from.

A frame is sky-subtracted, in nanomaggies, and holds no variance but what it follows from (SDSS data model of `frame`):
counts = image / calibration + sky, variance = (counts / gain + dark variance) calibration^2. Bleed trails and bad
columns stand in fpM files, and the PSF in psField files, in formats of their own that are not read.
"""

import io
import re
from pathlib import PurePosixPath
from typing import Final

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage

from lensml.imaging import units
from lensml.ingest import alignment, fits_images, planes, survey_files
from lensml.ingest.fits_images import Extension, Header
from lensml.ingest.layout import Context, Files, Layout, Place
from lensml.ingest.planes import Band, Image

_LICENCE: Final = "SDSS, public; cite Abdurro'uf et al. 2022 (ApJS 259, 35)"
_NAME: Final = re.compile(r"frame-(?P<band>[ugriz])-(?P<object>\d{6}-[1-6]-\d{4})\.fits(\.bz2|\.gz|\.fz)?")
_BLOCK: Final = 2880  # bytes of FITS
_SKY: Final = ("ALLSKY", "XINTERP", "YINTERP")  # counts in bins, and where in them the columns and rows are
# Of each chip, by camcol 1 to 6; where it was changed, (band, camcol): the run after which, and the later value.
# https://data.sdss.org/datamodel/files/BOSS_PHOTOOBJ/frames/RERUN/RUN/CAMCOL/frame.html
_GAIN: Final = {  # electrons per count
    "u": (1.62, 1.595, 1.59, 1.6, 1.47, 2.17),
    "g": (3.32, 3.855, 3.845, 3.995, 4.05, 4.035),
    "r": (4.71, 4.6, 4.72, 4.76, 4.725, 4.895),
    "i": (5.165, 6.565, 4.86, 4.885, 4.64, 4.76),
    "z": (4.745, 5.155, 4.885, 4.775, 3.48, 4.69),
}
_GAIN_LATER: Final = {("u", 2): (1100, 1.825)}
_DARK_VARIANCE: Final = {  # counts^2, of read-out and dark current
    "u": (9.61, 12.6025, 8.7025, 12.6025, 9.3025, 7.0225),
    "g": (15.6025, 1.44, 1.3225, 1.96, 1.1025, 1.8225),
    "r": (1.8225, 1.0, 1.3225, 1.3225, 0.81, 0.9025),
    "i": (7.84, 5.76, 4.6225, 6.25, 7.84, 5.0625),
    "z": (0.81, 1.0, 1.0, 9.61, 1.8225, 1.21),
}
_DARK_VARIANCE_LATER: Final = {
    ("i", 2): (1500, 6.25),
    ("i", 4): (1500, 7.5625),
    ("z", 4): (1500, 12.6025),
    ("z", 5): (1500, 2.1025),
}

Values = NDArray[np.float64]


def gain_and_dark_variance(band: str, camcol: int, run: int) -> tuple[float, float]:
    """Electrons per count, and counts^2.

    Raises
    ------
    ValueError
        There is no such camera column.
    """
    if not 1 <= camcol <= 6:
        raise ValueError(f"CAMCOL must be 1 to 6, got {camcol}. Get the frame anew.")
    gain, dark = _GAIN[band][camcol - 1], _DARK_VARIANCE[band][camcol - 1]
    later_gain = _GAIN_LATER.get((band, camcol), (run, gain))
    later_dark = _DARK_VARIANCE_LATER.get((band, camcol), (run, dark))
    return (later_gain[1] if run > later_gain[0] else gain), (later_dark[1] if run > later_dark[0] else dark)


def _place(name: str) -> Place | None:
    match = _NAME.fullmatch(PurePosixPath(name).name)
    return Place(match["object"], match["band"], "frame") if match else None


def _bands(files: Files, context: Context) -> dict[str, Band]:
    known = context.known(files.having("frame"))
    parts = {name: files.fits(name, "frame") for name in known}
    bands = {name: _band(parts[name], name, context) for name in known}
    return alignment.aligned(bands, {name: part[0] for name, part in parts.items()})


def _band(parts: list[Extension], name: str, context: Context) -> Band:
    if len(parts) < 3:
        raise ValueError(f"a frame must have image, calibration and sky, got {len(parts)} HDU(s). Get it anew.")
    header = parts[0].header
    pixels = parts[0].image(context.convert.max_pixels)
    factor = units.nanojansky_per_unit(header, context.survey)
    variance = _variance(parts, pixels, name)
    return Band(
        flux=planes.scaled(pixels, factor),
        bad=~np.isfinite(pixels),
        variance=planes.variance(variance, "VAR", factor, context.convert.noise_sentinels),
        **planes.frame(header, context.survey),
    )


def _variance(parts: list[Extension], pixels: Image, band: str) -> Values:
    """(y, x) nanomaggies^2 of a frame, or of a window of it."""
    header = parts[0].header
    gain, dark_variance = gain_and_dark_variance(band, _card(header, "CAMCOL"), _card(header, "RUN"))
    rows, columns = _in_frame(parts[0], pixels.shape)
    calibration = _calibration(parts[1], _card(header, "NAXIS1"))[columns]
    with np.errstate(divide="ignore", invalid="ignore"):
        counts = pixels / calibration + _sky(parts[2], rows, columns)
    return np.asarray((counts / gain + dark_variance) * calibration**2, dtype=np.float64)


def _in_frame(image: Extension, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the frame that the pixels are; beyond its edge the nearest one."""
    origin = getattr(image, "origin", (0, 0))
    sides = (_card(image.header, "NAXIS2"), _card(image.header, "NAXIS1"))
    rows, columns = (np.clip(o + np.arange(n), 0, side - 1) for o, n, side in zip(origin, shape, sides, strict=True))
    return rows, columns


def _calibration(part: Extension, width: int) -> Values:
    """(x,) nanomaggies per count."""
    if part.shape != (width,) or part.header.get("BITPIX") != -32:
        raise ValueError(f"calibration must be {width} numbers of 32 bit, got the shape {part.shape}. Get it anew.")
    return np.frombuffer(part.content, dtype=">f4").astype(np.float64)


def _sky(part: Extension, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Values:
    """(y, x) counts, bilinear between the binned values, constant beyond them."""
    sky, x, y = _sky_columns(part)
    if sky.ndim != 2 or len(x) <= columns.max() or len(y) <= rows.max():
        raise ValueError(f"the sky of a frame must reach over it, got {len(y)} x {len(x)} pixels. Get it anew.")
    grid = np.meshgrid(y[rows], x[columns], indexing="ij")
    return np.asarray(ndimage.map_coordinates(sky, grid, order=1, mode="nearest"))


def _sky_columns(part: Extension) -> list[Values]:
    """The one row of the sky's table, by astropy."""
    if part.header.get("XTENSION") != "BINTABLE":
        raise ValueError("the sky of a frame must be a table, got an image. Get it anew.")
    head = fits.PrimaryHDU().header.tostring().encode("latin-1")
    own = (part.header.text + f"{'END':80}").encode("latin-1")
    body = bytes(part.content)
    content = head + own + b" " * (-len(own) % _BLOCK) + body + bytes(-len(body) % _BLOCK)
    with fits.open(io.BytesIO(content), memmap=False) as found:
        try:
            return [np.array(found[1].data[name][0], dtype=np.float64) for name in _SKY]
        except fits_images.DAMAGE as error:
            raise ValueError(f"the sky of a frame must have {', '.join(_SKY)}, got: {error}. Get it anew.") from None


def _card(header: Header, name: str) -> int:
    value = header.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be an integer, got {value!r:.40}. Get the frame anew.")
    return value


KIND: Final = survey_files.kind(Layout(_place, _bands, _LICENCE))
