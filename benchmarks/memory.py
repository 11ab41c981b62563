"""`python -m benchmarks.memory`: peak memory of `convert` against the number of objects."""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from benchmarks.convert import ours, write_folder
from lensml import config
from lensml.sources import SOURCES, cutouts
from lensml.store import tables

FILES = 64  # the objects share so many files: what grows is their number, not the disk


def multiply(raw: Path, objects: int) -> None:
    """A fetched folder whose rows are repeated under new names until there are that many."""
    few = tables.read_parquet(raw / cutouts.CATALOGUE, cutouts.INDEX)
    many = pl.concat([few] * -(-objects // few.height))[:objects]
    names = [f"o{number:07d}" for number in range(objects)]
    tables.write_parquet(many.with_columns(pl.Series("object_id", names)), cutouts.INDEX, raw / cutouts.CATALOGUE)


def one(objects: int, pixels: int) -> None:
    """Convert that many, and print the peak resident memory of the process that gathers and writes, in MiB."""
    params = config.load(Path("params.yaml"))
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        write_folder(here / "in", FILES, pixels, 21)
        source = config.CutoutsSource(kind="cutouts", path=str(here / "in"), files_per_archive=4096)
        SOURCES["cutouts"].fetch(source, params.surveys, here / "raw")
        multiply(here / "raw", objects)
        ours(here / "raw", here / "out", params)
    print(f"{objects} objects: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


def main(
    objects: Annotated[list[int], typer.Option(min=FILES)] = [1_000, 10_000, 100_000],  # noqa: B006
    pixels: Annotated[int, typer.Option(min=16)] = 32,
    only: Annotated[int, typer.Option(help="convert so many in this process")] = 0,
) -> None:
    """Each number in a process of its own."""
    if only:
        one(only, pixels)
        return
    for number in objects:
        words = [sys.executable, "-m", "benchmarks.memory", "--only", str(number), "--pixels", str(pixels)]
        subprocess.run(words, check=True)


if __name__ == "__main__":
    typer.run(main)
