"""Galaxy Zoo vote tables: weak claims that a galaxy is no lens, and the rings, spirals and mergers that look like one.

GZ2 as in the tables for machine learning (`smooth-or-featured-gz2_smooth`, ...) or in that of Hart et al. 2016 (MNRAS
461, 3663; `t08_odd_feature_a19_ring_count`, ...), DECaLS (Walmsley et al. 2022, MNRAS 509, 3966), and the table of
rings. Which one a table is, its columns say. Known lenses among them are left to the cross-match of all claims.
"""

import io
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final

import polars as pl

from lensml.catalog import designations
from lensml.ingest import sky_catalogue
from lensml.schema import SKY_CLAIMS, ContractError

HARD_NEGATIVE: Final = "obs:hard_negative"
WEAK: Final = "weak:gzoo"
LENS_OR_ARC: Final = "gz lens or arc"  # grade of a candidate: the volunteers see an arc
CANDIDATE_CONFIDENCE: Final = 0.5  # of that; it labels nothing

_LICENCE: Final = "that of the Galaxy Zoo release; cite Willett et al. 2013 (GZ2), Walmsley et al. 2022 (DECaLS)"
_IDENTIFIERS: Final = ("iauname", "id_str", "dr7objid", "dr8_id", "objid")  # the first that is there
_J_NAMES: Final = ("iauname", "id_str")  # may hold the position: J000411.19+020924.0
_CAMPAIGNS: Final = ("-gz2", "-dr12", "-dr5", "-dr8", "")  # what a question's column names end on
_MERGING: Final = ("none", "minor-disturbance", "major-disturbance", "merger", "neither", "tidal-debris", "both")
_ODD: Final = {
    key: (f"t08_odd_feature_{answer}_count",)
    for key, answer in {
        "ring": "a19_ring", "lens": "a20_lens_or_arc", "disturbed": "a21_disturbed", "irregular": "a22_irregular",
        "other": "a23_other", "merger": "a24_merger", "dust": "a38_dust_lane",
    }.items()
}  # fmt: skip
_ALL_ODD: Final = tuple(column for columns in _ODD.values() for column in columns)

_Layout = Mapping[str, tuple[str, ...]]  # of _VOTES, the columns that are added up

_QUESTIONS: Final[_Layout] = {
    "smooth": ("smooth-or-featured{}_smooth",),
    "featured": ("smooth-or-featured{}_featured-or-disk",),
    "artifact": ("smooth-or-featured{}_artifact",),
    "spiral": ("has-spiral-arms{}_yes",),
    "spiral_all": ("has-spiral-arms{}_yes", "has-spiral-arms{}_no"),
    "odd": ("something-odd{}_yes",),
    "not_odd": ("something-odd{}_no",),
    "merger": ("merging{}_merger", "merging{}_both"),
    "merger_all": tuple(f"merging{{}}_{answer}" for answer in _MERGING),
}
_HART: Final[_Layout] = {
    "smooth": ("t01_smooth_or_features_a01_smooth_count",),
    "featured": ("t01_smooth_or_features_a02_features_or_disk_count",),
    "artifact": ("t01_smooth_or_features_a03_star_or_artifact_count",),
    "spiral": ("t04_spiral_a08_spiral_count",),
    "spiral_all": ("t04_spiral_a08_spiral_count", "t04_spiral_a09_no_spiral_count"),
    **_ODD,
    "ring_all": _ALL_ODD,
    "merger_all": _ALL_ODD,
}
_RINGS: Final[_Layout] = {"ring_is": ("ring",)}  # 0 or 1, as its authors decided: no votes
_VOTES: Final = tuple(dict.fromkeys([*_QUESTIONS, *_HART, "ring_is"]))
_VOTES_MAX: Final = 1e6
_FIRST: Final = ("smooth", "featured", "artifact")  # answers of the question that everybody is asked
_HARD: Final = ("ring", "merger", "spiral")  # where an object is several, the first is its kind


def claims(files: dict[str, bytes], params: dict[str, Any]) -> pl.DataFrame:
    """A claim per object that has votes, of every CSV and Parquet table.

    A ring, spiral or merger by at least `fraction_min` of at least `votes_min` answers to its question is no lens
    (`obs:hard_negative`), unless most see a "lens or arc", or something odd in a table that does not say what. An arc
    by at least `votes_min` answers is a candidate: unknown, with a grade. Everything else is a weak claim.

    Raises
    ------
    ContractError
        There is no table, a table is none of Galaxy Zoo, a value is impossible, or an object stands twice.
    """
    tables = [name for name in sorted(files) if _suffix(name) in (".csv", ".parquet")]
    parts = [part for name in tables for part in _claims(name, files[name], params)]
    found = pl.concat(parts) if parts else pl.DataFrame(schema=SKY_CLAIMS)
    if found.is_empty():
        got = ", ".join(tables or sorted(files))[:200]
        raise ContractError(f"galaxy_zoo must hold CSV or Parquet tables with votes, got none in {got}. Correct it.")
    twice = found.filter(pl.col("entry").is_duplicated())["entry"]
    if len(twice):
        raise ContractError(f"an object of a Galaxy Zoo table must stand once, got {twice[0]} twice. Drop one.")
    return found


def _claims(name: str, content: bytes, params: dict[str, Any]) -> list[pl.DataFrame]:
    """The claims of one table, per campaign that it has votes of."""
    try:
        columns = _columns(name, content)
        layouts = _layouts(columns)
        identifier = next((column for column in _IDENTIFIERS if column in columns), "")
        if not layouts or not identifier:
            rule = "have Galaxy Zoo's columns of votes and one of " + ", ".join(_IDENTIFIERS)
            raise ContractError(f"{name} must {rule}, got {', '.join(columns)[:200]}. Remove or correct it.")
        table = _read(name, content, _wanted(columns, layouts)).with_columns(name=pl.col(identifier).cast(pl.String))
        placed = _placed(name, table)
        parts = {c: _voted(placed, layout) for c, layout in layouts.items()}
    except pl.exceptions.PolarsError as error:
        raise ContractError(f"{name} must be a readable table, got: {str(error).splitlines()[0][:200]}.") from None
    label = PurePosixPath(name).with_suffix("").as_posix().replace("/", ".")
    return [
        _judged(_checked(name, votes), params)
        .with_columns(entry=pl.concat_str(pl.lit(f"{label}{campaign}."), "name"), reference=pl.lit(name))
        .select(*SKY_CLAIMS)
        for campaign, votes in parts.items()
    ]


def _layouts(columns: list[str]) -> dict[str, _Layout]:
    """What the table has votes of, by the campaign."""
    if _HART["smooth"][0] in columns:
        return {"-gz2": _HART}
    asked = {c: {key: tuple(a.format(c) for a in answers) for key, answers in _QUESTIONS.items()} for c in _CAMPAIGNS}
    found: dict[str, _Layout] = {c: layout for c, layout in asked.items() if layout["smooth"][0] in columns}
    return found or ({"": _RINGS} if "ring" in columns else {})


def _wanted(columns: list[str], layouts: Mapping[str, _Layout]) -> list[str]:
    votes = {column for layout in layouts.values() for names in layout.values() for column in names}
    return [column for column in columns if column in votes or column in (*_IDENTIFIERS, "ra", "dec")]


def _suffix(name: str) -> str:
    return PurePosixPath(name.lower()).suffix


def _columns(name: str, content: bytes) -> list[str]:
    if _suffix(name) == ".csv":
        return pl.read_csv(content, n_rows=0, infer_schema=False).columns
    return list(pl.read_parquet_schema(io.BytesIO(content)))


def _read(name: str, content: bytes, columns: list[str]) -> pl.DataFrame:
    """Identifiers as they are, everything else as numbers; NaN is null."""
    if _suffix(name) == ".csv":  # all text: identifiers keep their digits
        table = pl.read_csv(content, columns=columns, infer_schema=False)
    else:
        table = pl.read_parquet(io.BytesIO(content), columns=columns)
    return table.with_columns(pl.exclude(*_IDENTIFIERS).cast(pl.Float64).fill_nan(None))


def _placed(name: str, table: pl.DataFrame) -> pl.DataFrame:
    """With ra and dec (deg) from the columns of these names, else from the J name."""
    j_name = next((column for column in _J_NAMES if column in table.columns), None)
    if not {"ra", "dec"} <= set(table.columns) and j_name is not None:
        table = _placed_by_name(table, j_name)
    if not {"ra", "dec"} <= set(table.columns) or not table.select(pl.col("ra", "dec").count()).row(0)[0]:
        raise ContractError(f"{name} must give positions as ra and dec or as J names, got none. Add the columns.")
    off = table.filter(~(pl.col("ra").is_between(0, 360) & pl.col("dec").is_between(-90, 90)))
    if off.height:
        got = f"{off['ra'][0]}, {off['dec'][0]} of {off['name'][0]}"
        raise ContractError(f"ra and dec must be in [0, 360] and [-90, 90], got {got} ({name}). Correct it.")
    whole = pl.col("ra").is_not_null() & pl.col("dec").is_not_null()
    return table.with_columns(pl.when(whole).then(column).alias(column) for column in ("ra", "dec"))


def _placed_by_name(table: pl.DataFrame, column: str) -> pl.DataFrame:
    """With ra and dec of the names that tell one place."""
    places = designations.places(table[column].cast(pl.String)).select("row", "ra", "dec")
    one = places.filter(~pl.col("row").is_duplicated())
    rows = table.drop("ra", "dec", strict=False).with_row_index("row")
    return rows.join(one, on="row", how="left", maintain_order="left").drop("row")


def _voted(table: pl.DataFrame, layout: _Layout) -> pl.DataFrame:
    """name, ra, dec and _VOTES (0 where nobody was asked) of the objects that this campaign has votes of."""
    there = {key: [c for c in layout.get(key, ()) if c in table.columns] for key in _VOTES}
    votes = table.select("name", "ra", "dec", **{k: pl.sum_horizontal(pl.lit(0.0), *c) for k, c in there.items()})
    return votes if layout is _RINGS else votes.filter(pl.any_horizontal(pl.col(*_FIRST) != 0))


def _checked(name: str, votes: pl.DataFrame) -> pl.DataFrame:
    """As they are, if they are votes."""
    nameless = votes["name"].null_count()
    good = pl.all_horizontal(pl.col(*_VOTES).is_between(0, _VOTES_MAX)) & pl.col("ring_is").is_in([0.0, 1.0])
    wrong = votes.filter(~good)
    if nameless or wrong.height:
        rule = f"have a name and votes of 0 to {_VOTES_MAX:g} (0 or 1 in a table of rings)"
        got = f"{nameless} without a name" if nameless else f"others of {wrong['name'][0]}"
        raise ContractError(f"objects must {rule}, got {got} ({name}). Correct it.")
    return votes


def _judged(votes: pl.DataFrame, params: dict[str, Any]) -> pl.DataFrame:
    """SKY_CLAIMS without entry and reference."""
    many, share = params["votes_min"], params["fraction_min"]
    arc = (pl.col("lens") > 0) & (pl.col("lens") >= pl.max_horizontal(*_ODD))
    candidate = arc & (pl.col("ring_all") >= many)
    untold = (pl.col("ring_all") == 0) & (pl.col("odd") > pl.col("not_odd"))  # odd, and the table does not say what
    odd = arc | untold
    is_kind = {k: (pl.col(f"{k}_all") >= many) & (pl.col(k) >= share * pl.col(f"{k}_all")) for k in _HARD}
    is_kind["ring"] |= pl.col("ring_is") > 0
    hard = pl.any_horizontal(*is_kind.values()) & ~odd
    most = pl.max_horizontal(*_FIRST)
    kinds = {"odd": odd, **is_kind, **{name: (pl.col(name) == most) & (most > 0) for name in _FIRST}}
    sure = pl.when(hard).then(params["hard_negative_confidence"]).otherwise(params["weak_confidence"])
    nothing = pl.lit(None, pl.Float64)
    return votes.select(
        "name", "ra", "dec",
        label=_either(candidate, "unknown", "nonlens"),
        label_source=_either(hard, HARD_NEGATIVE, WEAK),
        label_confidence=pl.when(candidate).then(CANDIDATE_CONFIDENCE).otherwise(sure),
        grade=_either(candidate, LENS_OR_ARC, ""),
        kind=pl.coalesce(*(pl.when(is_it).then(pl.lit(name)) for name, is_it in kinds.items()), pl.lit("")),
        z_lens=nothing, z_source=nothing, z_text=pl.lit(""), theta_e_arcsec=nothing,
    )  # fmt: skip


def _either(condition: pl.Expr, then: str, otherwise: str) -> pl.Expr:
    return pl.when(condition).then(pl.lit(then)).otherwise(pl.lit(otherwise))


KIND: Final = sky_catalogue.kind(claims, _LICENCE)
