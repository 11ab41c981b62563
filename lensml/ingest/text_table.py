"""Tables that others publish as text: every cell as it is written, and columns of numbers that must be numbers."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from lensml.schema import ContractError


def one(files: Mapping[str, bytes], endings: Sequence[str], source: str) -> tuple[str, bytes]:
    """Name and bytes of the one file with one of the endings.

    Raises
    ------
    ContractError
        There is none, or there are several.
    """
    found = sorted(name for name in files if name.lower().endswith(tuple(endings)))
    if len(found) != 1:
        got = ", ".join(found) or f"none among {', '.join(sorted(files))[:200] or 'no files'}"
        raise ContractError(f"{source} must be one file ending on {' or '.join(endings)}, got {got}. Name the file.")
    return found[0], files[found[0]]


def comma_separated(content: bytes, columns: Iterable[str], where: str) -> pl.DataFrame:
    """A CSV's cells as text, stripped; its first row names the columns. A quote within a cell is a letter.

    Raises
    ------
    ContractError
        It is no UTF-8, lacks one of `columns`, or has a row of another length.
    """
    try:
        rows = list(csv.reader(io.StringIO(_text(content, where), newline="")))
    except csv.Error as error:
        raise ContractError(f"{where} must be CSV, got: {error}. Correct it.") from None
    return _table(rows, columns, where)


def space_separated(content: bytes, columns: Iterable[str], where: str) -> pl.DataFrame:
    """The cells of a table with spaces between columns; its first line, perhaps after `#`, names them.

    Raises
    ------
    ContractError
        As `comma_separated`.
    """
    lines = _text(content, where).splitlines()
    header = [lines[0].lstrip("#").split()] if lines else []
    return _table(header + [line.split() for line in lines[1:] if not line.startswith("#")], columns, where)


def numbers(table: pl.DataFrame, column: str, where: str) -> pl.Series:
    """A column's numbers; empty and NaN are null.

    Raises
    ------
    ContractError
        A cell is something else.
    """
    text = table[column]
    found = text.cast(pl.Float64, strict=False)
    wrong = table.filter(found.is_null() & ~text.str.to_lowercase().is_in(["", "nan", "none", "null"]))
    if wrong.height:
        got = f"{wrong[column][0]!r:.40} ({where}, {wrong.height} such row(s))"
        raise ContractError(f"{column} must be a number or empty, got {got}. Correct it.")
    return pl.select(pl.when(found.is_finite()).then(found)).to_series().alias(column)


def positions(table: pl.DataFrame, ra: str, dec: str, where: str) -> list[pl.Series]:
    """Columns `ra` and `dec` (deg): both null where one is missing or off the sphere.

    Raises
    ------
    ContractError
        A cell is no number.
    """
    place = pl.DataFrame({"ra": numbers(table, ra, where), "dec": numbers(table, dec, where)})
    whole = pl.col("ra").is_between(0, 360) & pl.col("dec").is_between(-90, 90)
    return place.select(pl.when(whole).then(name).alias(name) for name in ("ra", "dec")).get_columns()


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ContractError(f"{where} must be UTF-8, got {error.reason} at byte {error.start}. Convert it.") from None


def _table(rows: list[list[str]], columns: Iterable[str], where: str) -> pl.DataFrame:
    names, *cells = [[cell.strip() for cell in row] for row in rows if row] or [[]]
    missing = [name for name in columns if name not in names]
    if missing:
        got = ", ".join(names)[:200] or "nothing"
        raise ContractError(f"{where} must have the column(s) {', '.join(missing)}, got {got}. Add or rename them.")
    if len(set(names)) < len(names):
        raise ContractError(f"{where} must name each column once, got {', '.join(names)[:200]}. Rename one.")
    ragged = next((number for number, row in enumerate(cells, start=2) if len(row) != len(names)), None)
    if ragged is not None:
        got = f"{len(cells[ragged - 2])} in row {ragged}"
        raise ContractError(f"{where} must have {len(names)} cells in every row, got {got}. Correct it.")
    return pl.DataFrame(cells, schema=dict.fromkeys(names, pl.String), orient="row")
