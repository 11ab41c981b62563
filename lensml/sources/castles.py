"""CASTLES, the CfA-Arizona Space Telescope Lens Survey (Kochanek, Falco, Impey, Lehar, McLeod, Rix): its HTML tables.

Positive only: a grade says how sure a lens is, and nothing here is known to be none.
"""

import re
from html.parser import HTMLParser
from pathlib import PurePosixPath
from typing import Any, Final

import polars as pl
from astropy.coordinates import Angle

from lensml.catalog import redshift_text
from lensml.ingest import sky_catalogue
from lensml.schema import SKY_CLAIMS, ContractError

CONFIDENCE: Final = {"A": 1.0, "B": 0.8, "C": 0.5}  # of a certain lens, a likely one, a candidate
_LENSES: Final = ("A", "B")
_LICENCE: Final = "none stated; cite the CASTLES survey (C.S. Kochanek et al.)"
_SUFFIXES: Final = (".html", ".htm")
_HEADERS: Final = {  # of the letters and digits of a header's text, small
    "name": r"(lens)?name|lens|system|lenssystem",
    "grade": r"g|grade",
    "ra": r"ra(j?2000)?",
    "dec": r"dec(l|lination)?(j?2000)?",
    "z_lens": r"z(l|d|lens)",
    "z_source": r"z(s|src|source)",
}
_NEEDED: Final = ("name", "grade", "ra", "dec")
_PAGE_MAX: Final = 2**22  # bytes of a page
_SPAN_MAX: Final = 100  # columns of one cell
_COMMENT: Final = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_NO_TAG: Final = re.compile(r"<(?!/?[A-Za-z][^<>]{0,2000}>)")
_PARTS: Final = r"[:hd ]\s?[0-5]?\d[:m ]\s?[0-5]?\d(\.\d*)?s?"  # minutes and seconds
_SEXAGESIMAL: Final = {"hourangle": rf"([01]?\d|2[0-3]){_PARTS}", "deg": rf"[+-]?\d{{1,2}}{_PARTS}"}
_DASHES: Final = {0x2212: "-", 0x2013: "-"}  # minus sign, en dash
_ROW: Final[dict[str, Any]] = {
    **dict.fromkeys((*_HEADERS, "reference"), pl.String),
    "ra": pl.Float64,
    "dec": pl.Float64,
}


def claims(files: dict[str, bytes], params: dict[str, Any]) -> pl.DataFrame:
    """A claim per row of the tables that have a lens name, a grade, RA and Dec.

    Grade A and B are lenses, anything else is a candidate. A row without a readable position keeps null. The second
    row of a name is the entry `<name>#2`.

    Raises
    ------
    ContractError
        No page has such a table, none of its rows a name and a position, or a page is too large.
    """
    pages = [name for name in sorted(files) if PurePosixPath(name.lower()).suffix in _SUFFIXES]
    rows = [row | {"reference": page} for page in pages for row in _rows(page, files[page])]
    if not rows:
        rule = "a table with the columns lens name, G (grade), RA and Dec"
        raise ContractError(f"castles must hold {rule}, got none in {', '.join(pages) or 'no HTML page'}. Correct it.")
    table = pl.DataFrame([row | _place(row) for row in rows], schema=_ROW)
    if table["ra"].null_count() == table.height:
        raise ContractError(
            f"castles must give RA and Dec as hh:mm:ss and dd:mm:ss, got {rows[0]['ra']!r:.40} and "
            f"{rows[0]['dec']!r:.40} ({rows[0]['reference']}, {table.height} rows, none readable)."
        )
    return table.select(**_columns(table)).select(*SKY_CLAIMS)


def _columns(table: pl.DataFrame) -> dict[str, pl.Expr | pl.Series]:
    grade, again = pl.col("grade"), pl.int_range(1, pl.len() + 1).over("name")
    return {
        **{name: pl.col(name) for name in ("name", "ra", "dec", "reference")},
        "entry": pl.when(again > 1).then(pl.concat_str("name", pl.lit("#"), again)).otherwise("name"),
        "label": pl.when(grade.is_in(_LENSES)).then(pl.lit("lens")).otherwise(pl.lit("unknown")),
        "label_source": pl.lit("obs:castles"),
        "label_confidence": grade.replace_strict(CONFIDENCE, default=CONFIDENCE["C"], return_dtype=pl.Float64),
        "grade": pl.when(grade == "").then(pl.lit("ungraded")).otherwise(grade),
        "kind": pl.lit(""),
        "z_lens": redshift_text.read(table["z_lens"])["z"],
        "z_source": redshift_text.read(table["z_source"])["z"],
        "z_text": pl.col("z_lens"),
        "theta_e_arcsec": pl.lit(None, pl.Float64),
    }


def _place(row: dict[str, str]) -> dict[str, float | None]:
    """ra and dec in degrees; both null where one is not readable."""
    ra, dec = _degrees(row["ra"], "hourangle"), _degrees(row["dec"], "deg")
    good = ra is not None and dec is not None and abs(dec) <= 90
    return {"ra": ra, "dec": dec} if good else {"ra": None, "dec": None}


def _degrees(text: str, unit: str) -> float | None:
    plain = text.translate(_DASHES)
    return float(Angle(plain, unit).degree) if re.fullmatch(_SEXAGESIMAL[unit], plain) else None


def _rows(page: str, content: bytes) -> list[dict[str, str]]:
    """The named rows of every table of a page that has the columns, as text by our names of the columns."""
    if len(content) > _PAGE_MAX:
        raise ContractError(f"{page} must be a page of at most {_PAGE_MAX} bytes, got {len(content)}. Get it anew.")
    tables = _Tables()
    tables.feed(_tags_only(content.decode("utf-8", errors="replace")))
    tables.close()
    return [row for table in tables.finished() for row in _named(table)]


def _tags_only(html: str) -> str:
    """Without comments and declarations: html.parser needs quadratic time for unfinished ones, or fails."""
    return _NO_TAG.sub("&lt;", _COMMENT.sub("", html))


def _named(table: list[list[str]]) -> list[dict[str, str]]:
    for place, cells in enumerate(table):
        columns = _columns_of(cells)
        if all(name in columns for name in _NEEDED):
            rows = [{name: _cell(row, columns.get(name)) for name in _HEADERS} for row in table[place + 1 :]]
            return [row for row in rows if row["name"] and not set(_NEEDED) <= set(_columns_of(list(row.values())))]
    return []


def _columns_of(cells: list[str]) -> dict[str, int]:
    """Where a header row has each of our columns; the first of a name counts."""
    words = [re.sub(r"[^a-z0-9]", "", cell.lower()) for cell in cells]
    found = {name: [i for i, w in enumerate(words) if re.fullmatch(form, w)] for name, form in _HEADERS.items()}
    return {name: places[0] for name, places in found.items() if places}


def _cell(row: list[str], column: int | None) -> str:
    return row[column] if column is not None and column < len(row) else ""


class _Tables(HTMLParser):
    """The text of every table, row and cell; end tags may be missing, as in pages of the 1990s, and tables nest."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[list[list[str]]] = []  # tables, each its rows of cells; the innermost last
        self._done: list[list[list[str]]] = []
        self._spans: list[int] = []  # of the cell being read in each open table; 0 between cells

    def finished(self) -> list[list[list[str]]]:
        """All tables, those that the page leaves open too."""
        while self._open:
            self.handle_endtag("table")
        return [[[" ".join(cell.split()) for cell in row] for row in table] for table in self._done]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._open.append([])
            self._spans.append(0)
        elif self._open and tag == "tr":
            self._end_cell()
            self._open[-1].append([])
        elif self._open and tag in ("td", "th"):
            self._end_cell()
            self._start_cell(dict(attrs).get("colspan") or "1")

    def handle_endtag(self, tag: str) -> None:
        if self._open and tag in ("td", "th", "tr", "table"):
            self._end_cell()
        if self._open and tag == "table":
            self._done.append(self._open.pop())
            self._spans.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._spans[-1]:
            self._open[-1][-1][-1] += data

    def _start_cell(self, span: str) -> None:
        if not self._open[-1]:
            self._open[-1].append([])
        self._open[-1][-1].append("")
        self._spans[-1] = min(int(span[:4]), _SPAN_MAX) if span.isdecimal() and int(span[:4]) else 1

    def _end_cell(self) -> None:
        """Close the cell; what it spans beyond one column is empty, so that the columns after it keep their place."""
        if self._spans[-1]:
            self._open[-1][-1] += [""] * (self._spans[-1] - 1)
            self._spans[-1] = 0


KIND: Final = sky_catalogue.kind(claims, _LICENCE)
