"""`lensml look`: stamps of a source on one sheet, with what is known of them."""

from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import typer
from tqdm import tqdm

from lensml import config, paths, schema
from lensml.errors import one_line_errors
from lensml.evaluation import gallery
from lensml.store import stamps, tables

Contract = dict[str, pl.DataType | type[pl.DataType]]


def look(
    source: Annotated[str, typer.Argument(help="A source of params.yaml.")],
    out: Annotated[Path | None, typer.Option(help="The PNG to write; look-SOURCE.png if not given.")] = None,
    count: Annotated[int | None, typer.Option(help="How many stamps; evaluate.gallery_stamps if not given.")] = None,
    label: Annotated[str | None, typer.Option(help="Only lens, nonlens or unknown.")] = None,
) -> None:
    """Show stamps of a source on one sheet: label, survey, and the score where there is one."""
    with one_line_errors():
        params = config.load(Path(paths.PARAMS))
        number = params.evaluate.gallery_stamps if count is None else count
        path = Path(f"look-{source}.png") if out is None else out
        _check(source, number, label, params)
        shown = choose(known(source), number, label)
        tiles = draw(Path(paths.STAMPS.format(source=source)), shown)
        gallery.sheet(tiles, f"{source}: {len(tiles)} of its stamps", path)
        typer.echo(f"{len(tiles)} stamps in {path}")


def _check(source: str, count: int, label: str | None, params: config.Params) -> None:
    if source not in params.sources:
        raise ValueError(
            f"SOURCE must be one of {', '.join(params.sources)}, got {source}. See sources in params.yaml."
        )
    if count < 1:
        raise ValueError(f"--count must be at least 1, got {count}.")
    if label is not None and label not in schema.LABELS:
        raise ValueError(f"--label must be one of {', '.join(schema.LABELS)}, got {label}.")


def known(source: str) -> pl.DataFrame:
    """The source's catalogue with label, label_source and, where the object was in the test set, its probability.

    Raises
    ------
    FileNotFoundError
        The source was not converted yet.
    """
    folder = Path(paths.STAMPS.format(source=source))
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} must exist, got none. Run `dvc repro convert@{source}`")
    table = stamps.read_catalogue(folder)
    table = _joined(table, Path(paths.LABELS), schema.LABEL_TABLE, ["label", "label_source"])
    return _joined(table, Path(paths.TEST_SCORES), schema.TEST_SCORES, ["probability"])


def _joined(table: pl.DataFrame, path: Path, contract: Contract, columns: list[str]) -> pl.DataFrame:
    """With columns of another table by object_id; null where the file or the object is not there."""
    if not path.exists():
        return table.with_columns(pl.lit(None, contract[name]).alias(name) for name in columns)
    other = tables.read_parquet(path, contract).select("object_id", *columns)
    return table.join(other, on="object_id", how="left", maintain_order="left")


def choose(table: pl.DataFrame, count: int, label: str | None) -> pl.DataFrame:
    """That many rows, spread evenly over the catalogue so that every survey is seen.

    Raises
    ------
    ValueError
        No object has the label.
    """
    wanted = table if label is None else table.filter(pl.col("label").fill_null("unknown") == label)
    if not wanted.height:
        raise ValueError(f"no object is labelled {label}. Leave out --label, or run `dvc repro label_provenance`.")
    rows = np.linspace(0, wanted.height - 1, min(count, wanted.height)).round().astype(np.int64)
    return wanted[rows]


def draw(folder: Path, shown: pl.DataFrame) -> list[gallery.Tile]:
    """A tile per row, read from the source's stacks."""
    tiles = []
    with tqdm(total=shown.height, desc="look", unit="stamp", disable=None, leave=False) as bar:
        for batch in stamps.read(folder, shown):
            for row, flux, sky in zip(batch.catalogue.iter_rows(named=True), batch.flux, batch.sky_sigma, strict=True):
                label, told = row["label"] or "unknown", row["label_source"] or "no label"
                lines = gallery.lines(row["object_id"], label, told, row["survey"], row["probability"])
                tiles.append(gallery.Tile(gallery.composite(flux, sky, batch.bands), lines, label))
            bar.update(batch.catalogue.height)
    return tiles
