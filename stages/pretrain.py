"""Pretrain: one architecture's backbone, on galaxies whose redshift or shape is known and whose label is not needed."""

from pathlib import Path
from typing import Annotated

import typer

from lensml import config, paths
from lensml.store import tables
from lensml.training import checkpoint, member
from stages import In, Out, Param, main, stage


@stage
def pretrain(
    arch: str,
    shards: Annotated[Path, In(paths.SHARDS.format(split="pretrain"))],
    statistics: Annotated[Path, In(paths.STATISTICS)],
    params: Annotated[config.Pretrain, Param("pretrain")],
    size: Annotated[str, Param("train.fit.size")],
    threads: Annotated[int, Param("train.fit.threads")],
    backbone: Annotated[Path, Out(paths.BACKBONE)],
    log: Annotated[Path, Out(paths.PRETRAIN_LOG)],
) -> None:
    """Teach a network's backbone redshift and shape before it learns what a lens is."""
    resume = Path(paths.RESUME.format(arch=arch)) / "pretrain.ckpt"
    made = member.pretrained(arch, size, threads, shards, tables.read_json(statistics), params, log, resume)
    checkpoint.save(made, backbone / "backbone.pt")
    done = f"pretrained on {made.objects} objects" if made.objects else "nothing to pretrain on: weights as drawn"
    typer.echo(f"{arch}: {done}")


if __name__ == "__main__":
    main(pretrain)
