"""How a data set names its files and what is in them: what one file of lensml/sources has to say of a survey."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from lensml import config
from lensml.ingest import fits_images
from lensml.ingest.fits_images import Extension
from lensml.ingest.planes import Band


@dataclass(frozen=True)
class Place:
    """Whose file this is, by its name."""

    object: str  # the object's, or the field's, own name; "" for a file that all objects share
    band: str = ""  # "" for a file of several bands
    plane: str = ""  # the layout's own word: image, mask, psf, ...
    survey: str = ""  # "" for the source's


@dataclass(frozen=True)
class Context:
    """What a layout may need beside the files."""

    survey: config.Survey
    convert: config.Convert
    bands: list[str] | None  # to take, in the order of a file's extensions where its headers do not tell; None: all
    object: str = ""  # its own name, as in Place

    def known(self, names: Collection[str]) -> list[str]:
        """Those of an object's bands that are to be taken, in the survey's order.

        Raises
        ------
        ValueError
            It has none of them.
        """
        wanted = [name for name in self.survey.bands if self.bands is None or name in self.bands]
        taken = [name for name in wanted if name in names]
        if not taken:
            got = ", ".join(sorted(names)) or "none"
            these = ", ".join(wanted or self.survey.bands)
            raise ValueError(f"object must have images in some of {these}, got {got}.")
        return taken


class Files(Mapping[tuple[str, str], bytes]):
    """The files of one object by (band, plane), read and parsed when they are asked for."""

    def __init__(self, contents: Mapping[tuple[str, str], Callable[[], bytes]], max_bytes: int) -> None:
        self._contents, self._max_bytes = contents, max_bytes

    def __getitem__(self, key: tuple[str, str]) -> bytes:
        return self._contents[key]()

    def __contains__(self, key: object) -> bool:
        """Mapping's own would read the file."""
        return key in self._contents

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._contents)

    def __len__(self) -> int:
        return len(self._contents)

    def fits(self, band: str, plane: str) -> list[Extension]:
        """Headers and data of a FITS file; of none where there is no such file.

        Raises
        ------
        ValueError
            The file is no whole FITS file.
        """
        if (band, plane) not in self:
            return []
        return fits_images.extensions(fits_images.uncompressed(self[band, plane], self._max_bytes))

    @cached_property
    def planes(self) -> dict[str, set[str]]:
        """Which planes each band has."""
        found: dict[str, set[str]] = {}
        for band, plane in self:
            found.setdefault(band, set()).add(plane)
        return found

    def having(self, plane: str) -> list[str]:
        """The bands that have a plane."""
        return [band for band, kinds in self.planes.items() if plane in kinds]

    def one(self, band: str, plane: str) -> Extension | None:
        """The first extension of a file that holds data; None where there is no such file.

        Raises
        ------
        ValueError
            No extension holds data.
        """
        if (band, plane) not in self:
            return None
        found = [extension for extension in self.fits(band, plane) if extension.shape]
        if not found:
            raise ValueError(f"the {plane} file of band {band} must hold an image, got none. Get it anew.")
        return found[0]


@dataclass(frozen=True)
class Layout:
    """A data set's files.

    Attributes
    ----------
    place : whose file a name (relative to the folder, or in the archive) is; None for a file that is not wanted
    bands : the bands of an object from its files and those of the place "", in the survey's order; raises ValueError
        in words
    licence : for the manifest
    table : columns of lensml.ingest.object_table.COLUMNS by object_id from the files of the place "", or None
    by_name : what an object's name alone tells (parent, label, ...) where no table has a row of it, or None
    """

    place: Callable[[str], Place | None]
    bands: Callable[[Files, Context], dict[str, Band]]
    licence: str
    table: Callable[[Files], pl.DataFrame] | None = None
    by_name: Callable[[str], Mapping[str, str | float]] | None = None
