"""Exports of SLED, the Strong LEns Database: confirmed lenses, candidates with scores, and confirmed contaminants."""

from typing import Any, Final

import polars as pl

from lensml.catalog import redshift_text, sky_catalogues
from lensml.ingest import sky_catalogue, text_table
from lensml.schema import SKY_CLAIMS, ContractError

_NEEDED: Final = ("name", "ra", "dec", "flag_confirmed", "flag_contaminant", "contaminant_type", "candidate_score")
_OPTIONAL: Final = ("lens_type", "z_lens", "z_source", "info")  # not every export has them
_TRUE, _FALSE = ("true", "t", "1", "1.0", "yes"), ("false", "f", "0", "0.0", "no", "", "none")
_LICENCE: Final = "none stated; cite SLED and the references it lists"


def claims(files: dict[str, bytes], params: dict[str, Any]) -> pl.DataFrame:
    """A claim per row: a confirmed lens, a contaminant (no lens, `obs:hard_negative`), or a candidate.

    What is flagged as both is a candidate. A candidate's grade tells its score.

    Raises
    ------
    ContractError
        The file is no such export, or a flag is neither true nor false.
    """
    name, content = text_table.one(files, (".csv",), "sled")
    table = text_table.comma_separated(content, _NEEDED, name)
    table = table.with_columns(pl.lit("").alias(column) for column in _OPTIONAL if column not in table.columns)
    table = table.with_columns(pl.col("name").str.replace_all(",", " |"))  # its names for one lens, joined as elsewhere
    ra, dec = text_table.positions(table, "ra", "dec", name)
    confirmed, refuted = (_flag(table, column, name) for column in ("flag_confirmed", "flag_contaminant"))
    lens, contaminant = confirmed & ~refuted, refuted & ~confirmed
    return table.select(
        sky_catalogues.entries(table["name"]),
        pl.col("name"),
        ra,
        dec,
        _choice(lens, "lens", contaminant, "nonlens", "unknown").alias("label"),
        _choice(contaminant, "obs:hard_negative", lens, "obs:sled", "obs:sled").alias("label_source"),
        (lens | contaminant).cast(pl.Float64).alias("label_confidence"),
        _grade(lens, contaminant, confirmed & refuted).alias("grade"),
        pl.when(contaminant).then("contaminant_type").otherwise("lens_type").str.to_lowercase().alias("kind"),
        redshift_text.read(table["z_lens"])["z"].alias("z_lens"),
        redshift_text.read(table["z_source"])["z"].alias("z_source"),
        pl.col("z_lens").alias("z_text"),
        pl.lit(None, pl.Float64).alias("theta_e_arcsec"),
        pl.col("info").alias("reference"),
    ).select(*SKY_CLAIMS)


def _flag(table: pl.DataFrame, column: str, where: str) -> pl.Series:
    text = table[column].str.to_lowercase()
    wrong = text.filter(~text.is_in([*_TRUE, *_FALSE]))
    if len(wrong):
        raise ContractError(f"{column} must be true or false, got {wrong[0]!r:.40} ({where}). Correct it.")
    return text.is_in(_TRUE)


def _grade(lens: pl.Series, contaminant: pl.Series, both: pl.Series) -> pl.Expr:
    score = pl.concat_str(pl.lit("score "), "candidate_score")
    candidate = pl.when(pl.col("candidate_score") == "").then(pl.lit("candidate")).otherwise(score)
    sure = pl.when(pl.lit(lens)).then(pl.lit("confirmed")).when(pl.lit(contaminant)).then(pl.lit("contaminant"))
    return sure.when(pl.lit(both)).then(pl.lit("confirmed and contaminant")).otherwise(candidate)


def _choice(one: pl.Series, first: str, other: pl.Series, second: str, else_: str) -> pl.Expr:
    return pl.when(pl.lit(one)).then(pl.lit(first)).when(pl.lit(other)).then(pl.lit(second)).otherwise(pl.lit(else_))


KIND: Final = sky_catalogue.kind(claims, _LICENCE)
