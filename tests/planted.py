"""Images with a star at a known place of the sky, written as surveys lay them out; and what a source kind reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from lensml import config
from lensml.ingest.kind import SourceKind
from tests.cutouts_folder import gaussian, wcs

PARAMS = config.load(Path("params.yaml"))
RA, DEC = 150.1, 2.2


@dataclass(frozen=True)
class Found:
    """One object as a source kind reads it: (band, y, x), nJy."""

    bands: tuple[str, ...]
    flux: NDArray[np.float32]
    variance: NDArray[np.float32] | None
    bad: NDArray[np.bool_]
    saturated: NDArray[np.bool_] | None
    psf: NDArray[np.float32] | None
    psf_fwhm: NDArray[np.float64]
    pixel_scale: float
    north_deg: float
    metadata: dict[str, Any]

    def magnitude(self, band: str) -> float:
        """AB, of all that is good."""
        row = self.bands.index(band)
        return float(31.4 - 2.5 * np.log10(self.flux[row][~self.bad[row]].sum(dtype=np.float64)))


def header(
    shape: tuple[int, int],
    scale: float,
    *,
    angle_deg: float = 30.0,
    mirrored: bool = False,
    at: tuple[float, float] = (RA, DEC),
    shift: tuple[float, float] = (0.0, 0.0),
) -> fits.Header:
    """A TAN WCS whose reference, `at`, is the image's centre moved by `shift` (x, y)."""
    cards: dict[str, Any] = wcs(scale, angle_deg)
    if mirrored:
        cards |= {name: -float(cards[name]) for name in ("CD1_1", "CD2_1")}
    cards |= {"CRVAL1": at[0], "CRVAL2": at[1]}
    cards |= {"CRPIX1": (shape[1] + 1) / 2 + shift[0], "CRPIX2": (shape[0] + 1) / 2 + shift[1]}
    return fits.Header(cards)


def place(head: fits.Header, x: float, y: float) -> tuple[float, float]:
    """ra, dec of a pixel, by astropy."""
    ra, dec = WCS(head).all_pix2world(x, y, 0)
    return float(ra), float(dec)


def star(shape: tuple[int, int], x: float, y: float, flux: float, fwhm: float = 4.0) -> NDArray[np.float32]:
    """A star of a flux."""
    return flux * gaussian(shape, fwhm, (y, x))


def catalogue(path: Path, places: dict[str, tuple[float, float]]) -> str:
    """A user's table of objects to cut out."""
    rows = {"object_id": list(places), "ra": [p[0] for p in places.values()], "dec": [p[1] for p in places.values()]}
    pl.DataFrame(rows).write_csv(path)
    return str(path)


def params(kind: str, folder: Path, **given: Any) -> config.SurveySource:
    """Of a source of survey files."""
    plain: dict[str, Any] = {"downloads": [], "catalogue": None, "bands": None, "stamp_arcsec": None, "survey": kind}
    return config.SurveySource.model_validate({"kind": kind, "path": str(folder), **plain, **given})


def opened(kind: SourceKind, source: Any, raw: Path) -> tuple[dict[str, Found], dict[str, str]]:
    """Fetch a source and read all of it: what is there, and why the rest is refused."""
    kind.fetch(source, PARAMS.surveys, raw)
    return read(kind, raw)


def read(kind: SourceKind, raw: Path) -> tuple[dict[str, Found], dict[str, str]]:
    """What a raw folder holds, by the objects' own names."""
    found: dict[str, Found] = {}
    refused: dict[str, str] = {}
    for unit in kind.batches("s", raw, PARAMS.convert):
        told = kind.read("s", raw, unit, PARAMS.surveys, PARAMS.convert)
        refused |= {name.removeprefix("s."): words for name, words in told.refused}
        for batch in told.cutouts:
            for row, name in enumerate(batch.object_id):
                found[name.removeprefix("s.")] = Found(
                    batch.bands, batch.flux[row], None if batch.variance is None else batch.variance[row],
                    batch.bad[row], None if batch.saturated is None else batch.saturated[row],
                    None if batch.psf is None else batch.psf[row],
                    np.full(len(batch.bands), np.nan) if batch.psf_fwhm is None else batch.psf_fwhm[row],
                    float(batch.pixel_scale[row]), np.nan if batch.north_deg is None else float(batch.north_deg[row]),
                    batch.metadata.row(by_predicate=pl.col("object_id") == name, named=True),
                )  # fmt: skip
    return found, refused
