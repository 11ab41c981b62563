"""The catalogue of a user's `cutouts` folder: catalogue.{csv,parquet,fits,vot}, checked row by row."""

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import polars as pl

from lensml import schema
from lensml.schema import ContractError

_NAMES: Final = ("catalogue.csv", "catalogue.parquet", "catalogue.fits", "catalogue.vot")
_OBJECT_ID: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.+=@,:~-]{0,89}$"  # a file name anywhere, and short enough for USTAR
_TEXTS: Final = ("object_id", "survey", "label", "label_source", "grade", "parent", "frame", "kind")
_RANGES: Final = {  # closed
    "ra": (0.0, 360.0),
    "dec": (-90.0, 90.0),
    "label_confidence": (0.0, 1.0),
    "flux_ratio": (0.0, 1.0),
    "theta_e_arcsec": (0.0, 3600.0),
    "z_lens": (0.0, 20.0),
    "z_phot": (-1.0, 20.0),  # -1: missing
    "z_spec": (-1.0, 20.0),
    "z_err": (-1.0, 20.0),
    "sersic_index": (0.0, 20.0),
    "half_light_radius": (0.0, 3600.0),
    "axis_ratio": (0.0, 1.0),
    "position_angle": (-360.0, 360.0),
    "seeing": (0.0, 60.0),
    "magnitude": (-5.0, 45.0),  # AB, of whichever band a table is matched in
}
METADATA: Final = (
    *("z_phot", "z_spec", "z_err", "ra", "dec", "sersic_index", "half_light_radius", "axis_ratio"),
    *("position_angle", "seeing"),
)
COLUMNS: Final[dict[str, Any]] = {name: pl.String for name in _TEXTS} | {name: pl.Float64 for name in _RANGES}


def read(folder: Path, surveys: Iterable[str]) -> pl.DataFrame:
    """The catalogue with all of COLUMNS (null where the user gives none), sorted by survey and object_id.

    Raises
    ------
    FileNotFoundError
        The folder or its catalogue does not exist.
    ContractError
        There are several catalogues, the file cannot be read, or it breaks the `cutouts` contract.
    """
    return read_file(find(folder), surveys)


def read_file(path: Path, surveys: Iterable[str], survey: str | None = None) -> pl.DataFrame:
    """As `read`, of one file; `survey` is that of every row where the table has no such column.

    Raises
    ------
    FileNotFoundError, ContractError
        As `read`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a table, got no such file. Correct the path")
    if path.suffix not in _READERS:
        raise ContractError(f"{path} must be one of {', '.join(_READERS)}, got another kind of file. Convert it.")
    try:
        table = _READERS[path.suffix](path)
    except (pl.exceptions.PolarsError, ValueError, TypeError, IndexError, KeyError) as error:
        words = " ".join(str(error).split())[:200]
        raise ContractError(f"{path} must be a readable {path.suffix[1:]} table, got: {words}.") from None
    if survey is not None and "survey" not in table.columns:
        table = table.with_columns(pl.lit(survey).alias("survey"))
    return checked(table, surveys, path)


def checked(table: pl.DataFrame, surveys: Iterable[str], where: Path) -> pl.DataFrame:
    """A table with any of COLUMNS held against their contract; see `read`."""
    return _checked(table, set(surveys), where).sort("survey", "object_id")


def find(folder: Path) -> Path:
    """The one catalogue of a folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} must be a folder of cutouts, got none. Correct the path")
    found = [folder / name for name in _NAMES if (folder / name).is_file()]
    if not found:
        raise FileNotFoundError(f"{folder} must hold one of {', '.join(_NAMES)}, got none. Write one")
    if len(found) > 1:
        raise ContractError(f"{folder} must hold one catalogue, got {', '.join(p.name for p in found)}. Remove one.")
    if not found[0].resolve().is_relative_to(folder.resolve()):
        raise ContractError(f"{found[0]} must not lead out of its folder, got a link to elsewhere. Copy the file.")
    return found[0]


def claims(source: str, objects: pl.DataFrame) -> pl.DataFrame:
    """What a table says of its objects, schema.EVIDENCE; an object without a label claims `unknown`.

    Parameters
    ----------
    objects : COLUMNS
    """
    known = pl.col("label").is_not_null() & (pl.col("label") != "unknown")
    placed = pl.col("ra").is_not_null() & pl.col("dec").is_not_null()
    table = objects.with_columns(
        pl.Series("object_id", [f"{source}.{name}" for name in objects["object_id"]], pl.String),
        pl.lit(source).alias("source"),
        pl.col("label").fill_null("unknown"),
        pl.col("label_source").fill_null(f"obs:{source}"),
        pl.col("label_confidence").fill_null(pl.when(known).then(1.0).otherwise(0.0)),
        pl.when(placed).then(pl.col("frame").fill_null("icrs")).otherwise(pl.lit("")).alias("frame"),
        *(pl.when(placed).then(name).alias(name) for name in ("ra", "dec")),
        *(pl.col(name).fill_null("") for name in ("grade", "parent", "kind")),
    )
    return schema.check(table, schema.EVIDENCE, f"evidence of {source}")


def _read_csv(path: Path) -> pl.DataFrame:
    return pl.read_csv(path, infer_schema=False, comment_prefix="#")  # all text: 000123 keeps its zeros


def _read_parquet(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path, memory_map=False)


def _read_fits(path: Path) -> pl.DataFrame:
    content = path.read_bytes()
    if not content.startswith(b"SIMPLE  ="):  # astropy would look for compression and unpack it
        raise ValueError("content without the card SIMPLE")
    return _from_astropy(content, "fits")


def _read_vot(path: Path) -> pl.DataFrame:
    content = path.read_bytes()
    if not content.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        raise ValueError("content that is no XML")
    if re.search(rb"<(\w+:)?STREAM[^>]*href|<!ENTITY", content, re.IGNORECASE):  # astropy would open the address
        raise ValueError("a reference to another file")
    return _from_astropy(content, "votable")


_READERS: Final = {".csv": _read_csv, ".parquet": _read_parquet, ".fits": _read_fits, ".vot": _read_vot}


def _from_astropy(content: bytes, form: str) -> pl.DataFrame:
    from astropy.table import Table

    table = Table.read(io.BytesIO(content), format=form)
    table.convert_bytestring_to_unicode()
    known = [name for name in table.colnames if name in COLUMNS]
    return pl.DataFrame({name: table[name].tolist() for name in known}, strict=False, nan_to_null=True)


def _checked(table: pl.DataFrame, surveys: set[str], path: Path) -> pl.DataFrame:
    missing = [name for name in ("object_id", "survey") if name not in table.columns]
    if missing:
        raise ContractError(
            f"{path} must have the column(s) {', '.join(missing)}, got {', '.join(table.columns)[:200]}."
        )
    table = table.select(
        _column(table, name, kind, path) if name in table.columns else pl.lit(None, dtype=kind).alias(name)
        for name, kind in COLUMNS.items()
    )
    if not table.height:
        raise ContractError(f"{path} must have a row per object, got none. Add them.")
    ids = pl.col("object_id")
    _refuse(
        table,
        ids.is_null() | ~ids.str.contains(_OBJECT_ID),
        "object_id",
        "be a plain name of 1 to 90 letters, digits and _.+=@,:~-",
        path,
    )
    _refuse(table, ids.is_duplicated(), "object_id", "be unique", path)
    survey = pl.col("survey")
    _refuse(
        table,
        survey.is_null() | ~survey.is_in(sorted(surveys)),
        "survey",
        f"be one of {', '.join(sorted(surveys))}",
        path,
    )
    label = pl.col("label")
    _refuse(table, ~label.is_in(list(schema.LABELS)), "label", f"be one of {', '.join(schema.LABELS)} or empty", path)
    for name, (low, high) in _RANGES.items():
        _refuse(table, ~pl.col(name).is_between(low, high), name, f"lie in [{low:g}, {high:g}] or be empty", path)
    return table


def _column(table: pl.DataFrame, name: str, kind: Any, path: Path) -> pl.Series:
    """A column in the contract's type; empty text and NaN are null."""
    column = table[name]
    if kind == pl.String:
        text = column.cast(pl.String).str.strip_chars()
        return text.set(text == "", None).alias(name)
    if column.dtype == pl.String:
        column = column.str.strip_chars()
        column = column.set(column == "", None)
    number = column.cast(pl.Float64, strict=False)
    wrong = column.filter(number.is_null() & column.is_not_null())
    if len(wrong):
        raise ContractError(f"{name} must be a number or empty, got {wrong[0]!r:.40} ({path}). Correct the row.")
    return number.fill_nan(None).alias(name)


def _refuse(table: pl.DataFrame, wrong: pl.Expr, name: str, rule: str, path: Path) -> None:
    rows = table.filter(wrong.fill_null(False))
    if rows.height:
        row = rows.row(0, named=True)
        of = "" if name == "object_id" else f" for object {row['object_id']}"
        raise ContractError(
            f"{name} must {rule}, got {row[name]!r:.120}{of} ({path}, {rows.height} such row(s)). Correct it."
        )
