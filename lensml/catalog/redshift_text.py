"""Redshifts as catalogues write them: a number, several joined by "|", a guess with a question mark, words, nothing."""

from typing import Final

import polars as pl

NUMBER: Final = "a number"
AGREE: Final = "several that agree"
DIFFER: Final = "several that differ"
UNCERTAIN: Final = "uncertain"  # 0.3?, 0.55*, (0.42)
NOT_MEASURED: Final = "not measured"
WITHHELD: Final = "measured, not given"
NOTHING: Final = "nothing"
OTHER: Final = "something else"

AGREEMENT: Final = 0.01  # of 1 + z: two measurements of one galaxy
_MAX: Final = 20.0  # a larger number is no redshift of a galaxy
_NUMBER: Final = r"^\d{1,2}(\.\d*)?$|^\.\d+$"


def read(texts: pl.Series) -> pl.DataFrame:
    """What each text says.

    Returns
    -------
    columns `z` (null where the text gives no one number that is sure: several count when they agree within AGREEMENT,
    and then their median) and `kind`, one of the constants above; a row per text.
    """
    parts = texts.cast(pl.String).fill_null("").alias("text").to_frame().with_row_index("row")
    parts = parts.with_columns(pl.col("text").str.to_lowercase().str.split("|")).explode("text")
    parts = parts.with_columns(pl.col("text").str.strip_chars())
    number = pl.col("text").str.extract(f"({_NUMBER})").cast(pl.Float64)
    marked = pl.col("text").str.contains(r"\d") & pl.col("text").str.contains(r"[?*()~<>]")
    parts = parts.with_columns(pl.when((number > 0) & (number < _MAX)).then(number).alias("number"), marked=marked)
    told = parts.group_by("row", maintain_order=True).agg(
        pl.col("number").median().alias("z"),
        pl.col("number").count().alias("numbers"),
        (pl.col("number").max() - pl.col("number").min()).alias("spread"),
        pl.col("marked").any(),
        *((pl.col("text") == words).any().alias(words) for words in ("not measured", "measured", "observed")),
        pl.col("text").is_in(["", "-", "nan", "null", "none"]).all().alias("empty"),
    )
    kinds = told.with_columns(kind=_kind())
    return kinds.select(pl.when(pl.col("kind").is_in([NUMBER, AGREE])).then("z").alias("z"), "kind")


def _kind() -> pl.Expr:
    several = pl.when(pl.col("spread") <= AGREEMENT * (1 + pl.col("z"))).then(pl.lit(AGREE)).otherwise(pl.lit(DIFFER))
    silent = (
        pl.when("not measured")
        .then(pl.lit(NOT_MEASURED))
        .when(pl.col("measured") | pl.col("observed"))
        .then(pl.lit(WITHHELD))
        .when("empty")
        .then(pl.lit(NOTHING))
        .otherwise(pl.lit(OTHER))
    )
    given = pl.when(pl.col("numbers") > 1).then(several).when(pl.col("numbers") == 1).then(pl.lit(NUMBER))
    return pl.when("marked").then(pl.lit(UNCERTAIN)).otherwise(given.otherwise(silent))
