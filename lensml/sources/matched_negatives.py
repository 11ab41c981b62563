"""Non-lenses drawn from a folder of galaxies so that they are as bright, large, distant and sharp as given lenses."""

from pathlib import Path
from typing import Final

import polars as pl
import typer

from lensml import config
from lensml.catalog import balance, propensity
from lensml.ingest import object_table
from lensml.ingest.kind import SourceKind
from lensml.sources import cutouts
from lensml.store import tables

BALANCE: Final = "balance.json"
_BALANCED: Final = 0.1  # standardised mean difference (Austin 2011)
LABEL_SOURCE: Final = "obs:hard_negative"


def fetch(params: config.MatchedNegativesSource, surveys: dict[str, config.Survey], out: Path) -> None:
    """Draw the galaxies, and pack their files alone, with how alike they are (balance.json).

    Raises
    ------
    FileNotFoundError, ContractError
        A table breaks its contract as a whole.
    ValueError
        A column is missing, or nothing can be matched; see `lensml.catalog.propensity.match`.
    """
    folder = Path(params.path)
    parents = cutouts.open_folder(folder, surveys).filter(
        (pl.col("label").fill_null("") != "lens") & (pl.col("grade").fill_null("") == "")  # a candidate has a grade
    )
    matched = propensity.match(
        _described(_table(params.positives, surveys)),
        _described(parents),
        params.columns,
        params.ratio,
        params.caliper,
        params.exclude_arcsec,
        params.seed,
        None if params.known_lenses is None else _table(params.known_lenses, surveys),
    )
    drawn = parents[matched.rows].with_columns(
        pl.lit("nonlens").alias("label"),
        pl.lit(LABEL_SOURCE).alias("label_source"),
        pl.lit(params.label_confidence).alias("label_confidence"),
    )
    cutouts.pack(folder, drawn, params.files_per_archive, "matched_negatives", out)
    told = balance.report(matched.balance)
    tables.write_json(told, out / BALANCE)
    for column, row in told["columns"].items():
        if row["smd_all"] is not None and abs(row["smd_all"]) > _BALANCED:
            typer.echo(f"{column}: the non-lenses still differ from the lenses by {row['smd_all']:.2f} deviations")


def _table(path: str, surveys: dict[str, config.Survey]) -> pl.DataFrame:
    """A table in the contract of a cutouts folder's catalogue; its survey does not matter here."""
    return object_table.read_file(Path(path), surveys, next(iter(surveys)))


def _described(table: pl.DataFrame) -> pl.DataFrame:
    """With `redshift`: the spectroscopic one, else the photometric."""
    known = (pl.when(pl.col(name) >= 0).then(name) for name in ("z_spec", "z_phot"))
    return table.with_columns(pl.coalesce(known).alias("redshift"))


KIND: Final = SourceKind(fetch, cutouts.evidence, cutouts.batches, cutouts.read)
