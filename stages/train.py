"""Train: one architecture on the labelled shards, stopped by its validation AUPRC."""

from pathlib import Path
from typing import Annotated

import typer

from lensml import config, paths, schema
from lensml.store import tables
from lensml.training import checkpoint, member
from stages import In, Out, Param, main, stage


@stage
def train(
    arch: str,
    shards: Annotated[Path, In(paths.SHARDS.format(split="train"))],
    val: Annotated[Path, In(paths.SHARDS.format(split="val"))],
    statistics: Annotated[Path, In(paths.STATISTICS)],
    backbone: Annotated[Path, In(paths.BACKBONE)],
    params: Annotated[config.Fit, Param("train.fit")],
    model: Annotated[Path, Out(paths.MODEL)],
    log: Annotated[Path, Out(paths.TRAIN_LOG)],
) -> None:
    """Train a network to tell lenses from what looks like them."""
    resume = Path(paths.RESUME.format(arch=arch)) / "train.ckpt"
    told, weights = tables.read_json(statistics), backbone / "backbone.pt"
    made, scores, pace = member.trained(arch, shards, val, told, weights, params, log, resume)
    checkpoint.save(made, model / "model.ckpt")
    tables.write_parquet(scores, schema.SCORES, model / "val_scores.parquet")
    best = tables.read_json(log / "metrics.json")["best_val_auprc"]
    typer.echo(f"{arch}: {best:.4f} AUPRC in validation, trained at {pace:.0f} stamps/s")


if __name__ == "__main__":
    main(train)
