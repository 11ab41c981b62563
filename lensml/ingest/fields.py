"""Stamps cut from fields (survey tiles, mosaics, frames) about the places of a catalogue."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Final

import numpy as np
import polars as pl
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import NDArray

from lensml.ingest import sky
from lensml.ingest.fits_images import Extension, Header
from lensml.ingest.layout import Context, Files, Layout
from lensml.ingest.planes import Cutout, Image, assemble
from lensml.schema import ContractError

PLACED: Final[dict[str, Any]] = {"object_id": pl.String, "field": pl.String}  # "" in no field
NO_FIELD: Final = "an object must lie in a field of the source, got a place in none."

Refused = list[tuple[str, str]]


@dataclass(frozen=True)
class Windowed:
    """A window of an image of a field, to be read like an `Extension`; what lies beyond the image is NaN.

    Attributes
    ----------
    origin : (y, x) of the window's first pixel in the image
    centre : (y, x) of the object in the window, whose middle pixel it is in
    """

    whole: Extension
    pixels: Callable[[], Image]
    origin: tuple[int, int]
    shape: tuple[int, int]
    centre: tuple[float, float]

    @property
    def header(self) -> Header:
        return self.whole.header

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def content(self) -> memoryview:
        return self.whole.content

    def image(self, max_pixels: int) -> Image:
        """(y, x); see `Extension.image`."""
        if max(self.shape) > max_pixels:
            raise ValueError(f"a stamp must have at most {max_pixels} pixels a side, got {max(self.shape)}.")
        pixels = self.pixels()
        out = np.full(self.shape, np.nan, dtype=pixels.dtype)
        begin = np.maximum(self.origin, 0)
        end = np.minimum(np.add(self.origin, self.shape), pixels.shape)
        if (end > begin).all():
            to = tuple(slice(b - o, e - o) for b, e, o in zip(begin, end, self.origin, strict=True))
            out[to] = pixels[begin[0] : end[0], begin[1] : end[1]]
        return out


class Field(Files):
    """The files of one field: parsed and decoded once, seen through a window about one object at a time."""

    def __init__(
        self, contents: Mapping[tuple[str, str], Callable[[], bytes]], max_bytes: int, max_pixels: int
    ) -> None:
        super().__init__(contents, max_bytes)
        self._max_pixels = max_pixels
        self._files: dict[tuple[str, str], list[Extension]] = {}  # no functools.cache of a method: a cycle, which
        self._images: dict[tuple[str, str, int], Image] = {}  # would keep the last fields' pixels in memory
        self._place: tuple[float, float, float] | None = None  # ra, dec in degrees, side in arcsec

    def about(self, ra: float, dec: float, side_arcsec: float) -> "Field":
        """This field, looked at about a place from now on."""
        self._place = (ra, dec, side_arcsec)
        return self

    def fits(self, band: str, plane: str) -> list[Extension]:
        """As `Files.fits`; images on the field's grid as windows."""
        return [self._seen(band, plane, number, part) for number, part in enumerate(self._parsed(band, plane))]

    @cached_property
    def reference(self) -> tuple[WCS, tuple[int, ...]]:
        """WCS and shape of the first image that has one.

        Raises
        ------
        ValueError
            None has.
        """
        for band, plane in self:
            for extension in self._parsed(band, plane):
                found = sky.wcs(extension.header) if len(extension.shape) == 2 else None
                if found is not None:
                    return found, extension.shape
        raise ValueError("a field must have an image with a WCS, got none.")

    def depth(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far within the field's nearest edge places (degrees) lie, in pixels; not positive outside."""
        wcs, shape = self.reference
        x, y = wcs.all_world2pix(ra, dec, 0, quiet=True)
        edges = np.stack([x + 0.5, shape[1] - 0.5 - x, y + 0.5, shape[0] - 0.5 - y])
        return np.nan_to_num(edges.min(axis=0), nan=-np.inf)

    def _seen(self, band: str, plane: str, number: int, part: Extension) -> Extension:
        own = sky.wcs(part.header) if len(part.shape) == 2 else None
        wcs = own if own is not None else self.reference[0] if part.shape == self.reference[1] else None
        if wcs is None or self._place is None:
            return part
        ra, dec, side_arcsec = self._place
        scale = float(np.mean(proj_plane_pixel_scales(wcs))) * 3600
        side = 2 * round((side_arcsec / scale - 1) / 2) + 1  # odd: the object's pixel is the middle one
        x, y = wcs.all_world2pix(ra, dec, 0, quiet=True)
        y, x = float(y), float(x)
        origin = (round(y) - side // 2, round(x) - side // 2)
        pixels = partial(self._decoded, band, plane, number)
        return Windowed(part, pixels, origin, (side, side), (y - origin[0], x - origin[1]))  # type: ignore[return-value]

    def _parsed(self, band: str, plane: str) -> list[Extension]:
        if (band, plane) not in self._files:
            self._files[band, plane] = super().fits(band, plane)
        return self._files[band, plane]

    def _decoded(self, band: str, plane: str, number: int) -> Image:
        if (band, plane, number) not in self._images:
            self._images[band, plane, number] = self._parsed(band, plane)[number].image(self._max_pixels)
        return self._images[band, plane, number]


def placed(objects: pl.DataFrame, fields: Iterable[tuple[str, Field]]) -> pl.DataFrame:
    """Which field each object of a table lies in, of several the one that it is furthest within: PLACED.

    Raises
    ------
    ContractError
        An object has no place in the sky.
    """
    lost = objects.filter(pl.col("ra").is_null() | pl.col("dec").is_null())
    if lost.height:
        raise ContractError(f"an object must have ra and dec to be cut out, got none for {lost['object_id'][0]}.")
    ra, dec = objects["ra"].to_numpy(), objects["dec"].to_numpy()
    names, best = np.full(objects.height, "", dtype=object), np.zeros(objects.height)
    for name, field in fields:
        depth = field.depth(ra, dec)
        names[depth > best], best = name, np.maximum(depth, best)
    return pl.DataFrame({"object_id": objects["object_id"], "field": names.tolist()}, schema=PLACED)


def cut(
    layout: Layout, field: Field, objects: pl.DataFrame, context: Context, side_arcsec: float
) -> tuple[dict[str, Cutout], Refused]:
    """Stamps of a field's objects (object_id, ra, dec)."""
    opened: dict[str, Cutout] = {}
    refused: Refused = []
    for row in objects.iter_rows(named=True):
        try:
            view = field.about(row["ra"], row["dec"], side_arcsec)
            bands = layout.bands(view, replace(context, object=row["object_id"]))
            opened[row["object_id"]] = assemble(bands)
        except (ValueError, OSError) as error:
            refused.append((row["object_id"], " ".join(str(error).split())))
    return opened, refused
