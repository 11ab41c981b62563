"""Shards: every split as tar files on the network's grid, with an index and train-only statistics."""

import contextlib
from pathlib import Path
from typing import Annotated, Final

import polars as pl
import typer
from tqdm import tqdm

from lensml import config, paths, schema
from lensml.catalog import placing, statistics
from lensml.imaging import grid
from lensml.store import shards, stamps, tables
from stages import In, Out, Param, main, stage

READ_OBJECTS: Final = 128  # decoded at a time: bounds the memory, changes no result


@stage
def shard(
    matched: Annotated[dict[str, Path], In(paths.MATCHED, each="source")],
    labels: Annotated[Path, In(paths.LABELS)],
    splits: Annotated[Path, In(paths.SPLITS)],
    params: Annotated[config.Shard, Param("shard")],
    pretrain: Annotated[Path, Out(paths.SHARDS.format(split="pretrain"))],
    train: Annotated[Path, Out(paths.SHARDS.format(split="train"))],
    val: Annotated[Path, Out(paths.SHARDS.format(split="val"))],
    test: Annotated[Path, Out(paths.SHARDS.format(split="test"))],
    fitted: Annotated[Path, Out(paths.STATISTICS)],
    report: Annotated[Path, Out(paths.SHARD_REPORT)],
) -> None:
    """Write the shards of all splits, and the train split's statistics."""
    told = tables.read_parquet(labels, schema.LABEL_TABLE), tables.read_parquet(splits, schema.SPLIT_TABLE)
    folders, left = {"pretrain": pretrain, "train": train, "val": val, "test": test}, []
    with contextlib.ExitStack() as stack:
        opened = {name: shards.ShardWriter(folder, params.objects_per_shard) for name, folder in folders.items()}
        writers = {name: stack.enter_context(writer) for name, writer in opened.items()}
        for source in sorted(matched):
            rows, out = placing.place(stamps.read_catalogue(matched[source]), *told, source)
            batches = stamps.read(matched[source], rows, READ_OBJECTS)
            left += [out, *(_write(batch, params, writers) for batch in tqdm(batches, desc=source, unit="batch"))]
    index = {name: shards.read_index(folder) for name, folder in folders.items()}
    facts = statistics.fit(index["train"], params) | {"data_hash": shards.digest(train)}
    tables.write_json(facts, fitted)
    tables.write_json(placing.summary(index, pl.concat(left), told[1]), report)
    typer.echo(" ".join(f"{name}: {table.height}" for name, table in index.items()))


def _write(batch: stamps.Stamps, params: config.Shard, writers: dict[str, shards.ShardWriter]) -> pl.DataFrame:
    """Put a batch on the grid and into its splits; returns (object_id, reason) of what cannot be."""
    shown, left = grid.usable(
        batch,
        params.bands,
        params.stamp_pixels,
        params.pixel_scale_min,
        params.psf_pixels,
        params.common_pixel_scale,
    )
    for (split,), part in shown.catalogue.with_row_index("at").group_by("split", maintain_order=True):
        chosen = part["at"].to_numpy()
        writers[str(split)].append(part, shown.flux[chosen], shown.variance[chosen], shown.psf[chosen])
    return left


if __name__ == "__main__":
    main(shard)
