"""GalaxiesML (Do et al. 2024, arXiv:2410.00271): 286,401 HSC galaxies in grizy with redshifts and shapes, as HDF5.

It has no lens labels: it is for pretraining. The files are read where they are, a slice at a time.
"""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lensml import config
from lensml.imaging.cutouts import Cutouts
from lensml.imaging.units import AB_NANOJANSKY
from lensml.ingest import bring
from lensml.ingest.kind import Read, SourceKind
from lensml.schema import EVIDENCE, MISSING_REDSHIFT, ContractError
from lensml.sources import galaxiesml_file
from lensml.sources.galaxiesml_file import BANDS
from lensml.store import tables

LABEL_SOURCE: Final = "pretrain:galaxiesml"
OBJECTS: Final = {  # one row per galaxy, by file and row
    "object_id": pl.String,  # as in the file; the second one of a number has the suffix -2
    "number": pl.Int64,  # as in the file
    "file": pl.String,
    "row": pl.Int64,
    "ra": pl.Float64,  # deg
    "dec": pl.Float64,
}

_TABLE: Final = "objects.parquet"
_LICENCE: Final = "that of Zenodo 10.5281/zenodo.11117528; cite Do et al. 2024 (arXiv:2410.00271)"
_Z_MAX: Final = 20.0


class Slice(NamedTuple):
    """Consecutive galaxies of one file."""

    file: str
    start: int
    stop: int


def fetch(params: config.GalaxiesmlSource, surveys: dict[str, config.Survey], out: Path) -> None:
    """Bring the HDF5 files as they are, and check that they are what they should be.

    Raises
    ------
    ValueError, ConnectionError, OSError
        There is no such data, it is damaged, or a checksum is another.
    ContractError
        The survey or a band is not in the parameters, or a file is not as documented.
    """
    _check_survey(params.survey, surveys)
    copies = bring.plain(params, _LICENCE, out, survey=params.survey)
    files = sorted(path for path in copies if path.suffix in galaxiesml_file.SUFFIXES)
    if not files:
        raise ContractError(f"galaxiesml must hold HDF5 files, got {', '.join(p.name for p in copies)[:200]}.")
    sides = {path.name: galaxiesml_file.check(path) for path in files}
    if len(set(sides.values())) > 1:
        words = ", ".join(f"{name} of {side} pixels" for name, side in sides.items())
        raise ContractError(f"stamps must have one size, got {words}: the same galaxies twice. Make them two sources.")
    tables.write_parquet(_objects(files), OBJECTS, out / _TABLE)


def evidence(source: str, raw: Path) -> pl.DataFrame:
    """A claim per galaxy that says nothing of lensing. Galaxies of one number are each other's parents."""
    table = tables.read_parquet(raw / _TABLE, OBJECTS)
    nothing = pl.lit(None, pl.Float64)
    parent = pl.when(pl.col("number").is_duplicated()).then(f"{source}." + pl.col("number").cast(pl.String))
    return table.select(
        object_id=f"{source}." + pl.col("object_id"), source=pl.lit(source), survey=pl.lit(_survey(raw)),
        label=pl.lit("unknown"), label_source=pl.lit(LABEL_SOURCE), label_confidence=pl.lit(0.0), grade=pl.lit(""),
        parent=parent.otherwise(pl.lit("")), frame=pl.lit("icrs"), ra="ra", dec="dec", kind=pl.lit(""),
        flux_ratio=nothing, theta_e_arcsec=nothing, z_lens=nothing,
    ).select(*EVIDENCE)  # fmt: skip


def batches(source: str, raw: Path, convert: config.Convert) -> list[Slice]:
    """Slices of the files."""
    counts = tables.read_parquet(raw / _TABLE, OBJECTS).group_by("file", maintain_order=True).len().rows()
    size = convert.objects_per_batch
    return [Slice(file, start, min(start + size, n)) for file, n in counts for start in range(0, n, size)]


def read(source: str, raw: Path, unit: Slice, surveys: dict[str, config.Survey], convert: config.Convert) -> Read:
    """One slice in nJy; there is no variance plane and no PSF.

    Raises
    ------
    ContractError
        The file is damaged there.
    """
    table = tables.read_parquet(raw / _TABLE, OBJECTS).filter(pl.col("file") == unit.file)[unit.start : unit.stop]
    name = _survey(raw)
    pixels, columns = galaxiesml_file.read(raw / unit.file, unit.start, unit.stop)
    flux = pixels * np.float32(10 ** (0.4 * (AB_NANOJANSKY - surveys[name].zero_point)))
    identifiers = [f"{source}.{number}" for number in table["object_id"]]
    cutouts = Cutouts(
        object_id=identifiers,
        source=source,
        survey=name,
        bands=BANDS,
        flux=flux,
        variance=None,
        bad=~np.isfinite(flux),
        psf=None,
        pixel_scale=np.full(len(identifiers), surveys[name].pixel_scale),
        metadata=_metadata(identifiers, columns, surveys[name].pixel_scale),
    )
    return Read([cutouts], [])


KIND: Final = SourceKind(fetch, evidence, batches, read)


def _metadata(identifiers: list[str], columns: dict[str, NDArray[np.float64]], pixel_scale: float) -> pl.DataFrame:
    """Columns of the catalogue; what is impossible is missing.

    Position angles are left out: the data set does not say from where, and in which sense, they are counted.
    """
    secure = columns["specz_flag_homogeneous"] != 0
    redshift = _between(columns["specz_redshift"], 0, _Z_MAX, secure)
    error = _between(columns["specz_redshift_err"], 0, _Z_MAX, secure)
    return pl.DataFrame(
        {
            "object_id": identifiers,
            "z_spec": np.where(np.isnan(redshift), MISSING_REDSHIFT, redshift),
            "z_err": np.where(np.isnan(error), MISSING_REDSHIFT, error),
            "ra": columns["ra"],
            "dec": columns["dec"],
            "sersic_index": _between(columns["i_sersic_index"], 1e-3, 20),
            "half_light_radius": _between(columns["i_half_light_radius"], 1e-3, np.inf) * pixel_scale,
            "axis_ratio": _between(1 - columns["i_ellipticity"], 1e-3, 1),
        },
        nan_to_null=True,
    )


def _between(
    values: NDArray[np.float64], low: float, high: float, good: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    inside = (values >= low) & (values <= high) & np.isfinite(values)
    return np.where(inside if good is None else inside & good, values, np.nan)


def _objects(files: list[Path]) -> pl.DataFrame:
    """OBJECTS; galaxies of one number, which have two spectra, are told apart by a suffix."""
    parts = [
        pl.DataFrame(galaxiesml_file.places(path)).with_columns(file=pl.lit(path.name)).with_row_index("row")
        for path in files
    ]
    table = pl.concat(parts)
    again = pl.int_range(1, pl.len() + 1).over("number")
    number = pl.col("number").cast(pl.String)
    return table.with_columns(
        pl.when(again > 1).then(pl.concat_str(number, pl.lit("-"), again)).otherwise(number).alias("object_id")
    )


def _check_survey(name: str, surveys: dict[str, config.Survey]) -> None:
    if name not in surveys:
        raise ContractError(f"surveys must hold {name}, got {', '.join(surveys)} (galaxiesml). Add it to params.yaml.")
    missing = [band for band in BANDS if band not in surveys[name].bands]
    if missing:
        known = ", ".join(surveys[name].bands)
        raise ContractError(f"surveys.{name}.bands must hold {', '.join(missing)}, got {known} (galaxiesml). Add them.")


def _survey(raw: Path) -> str:
    return str(bring.facts(raw)["survey"])
