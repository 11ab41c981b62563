"""Split the objects into training, validation and test by group, and audit the split for leaks."""

from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from lensml import config, paths, schema
from lensml.catalog import leaks
from lensml.catalog import split as splitting
from lensml.store import stamps, tables
from stages import In, Out, Param, main, stage


@stage
def split(
    labels: Annotated[Path, In(paths.LABELS)],
    converted: Annotated[dict[str, Path], In(paths.STAMPS, each="source")],
    params: Annotated[config.Split, Param("split")],
    splits: Annotated[Path, Out(paths.SPLITS)],
    report: Annotated[Path, Out(paths.SPLIT_REPORT)],
) -> None:
    """Split the objects into training, validation and test by group, and audit the split for leaks."""
    table = tables.read_parquet(labels, schema.LABEL_TABLE)
    catalogue = pl.concat([stamps.read_catalogue(converted[name]) for name in sorted(converted)])
    made = splitting.make(table, catalogue, params)
    audited = leaks.audit(made, table, params.same_sky_arcsec)
    tables.write_parquet(made, schema.SPLIT_TABLE, splits)
    tables.write_json({**splitting.report(made, table), "audit": {"passed": True, "compared": audited}}, report)
    counts = made["split"].value_counts(sort=True)
    typer.echo("objects: " + ", ".join(f"{count} {name or 'left out'}" for name, count in counts.iter_rows()))


if __name__ == "__main__":
    main(split)
