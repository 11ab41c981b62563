"""`python -m benchmarks.memory`: peak memory of `convert` and `psf_match` against the number of objects.

Resident memory of the process that gathers and writes, and of all processes together, workers included, every tenth of
a second; what processes share is counted in each.
"""

import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import psutil
import typer

from benchmarks.folder import in_processes, ours, write_folder
from benchmarks.psf_match import stage
from lensml import config
from lensml.sources import SOURCES, cutouts
from lensml.store import tables

FILES = 64  # the objects share so many files: what grows is their number, not the disk
MIB = 2**20


def multiply(raw: Path, objects: int) -> None:
    """A fetched folder whose rows are repeated under new names until there are that many."""
    few = pl.read_parquet(raw / cutouts.CATALOGUE)
    many = pl.concat([few] * -(-objects // few.height))[:objects]
    names = [f"o{number:07d}" for number in range(objects)]
    many = many.with_columns(pl.Series("object_id", names))
    tables.write_parquet(many, dict(many.schema), raw / cutouts.CATALOGUE)


def peak(work: Callable[..., None], *arguments: Any) -> tuple[int, int]:
    """Most MiB of this process, and of it and its children, while it works."""
    me, over, most = psutil.Process(), threading.Event(), [0, 0]

    def watch() -> None:
        while not over.wait(0.1):
            own, all_of_us = me.memory_info().rss, me.memory_info().rss
            for child in me.children(recursive=True):
                try:
                    all_of_us += child.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            most[:] = max(most[0], own), max(most[1], all_of_us)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work(*arguments)
    over.set()
    watcher.join()
    return most[0] // MIB, most[1] // MIB


def prepared(here: Path, objects: int, pixels: int, params: config.Params) -> None:
    write_folder(here / "in", FILES, pixels)
    source = config.CutoutsSource(kind="cutouts", path=str(here / "in"), files_per_archive=4096)
    SOURCES["cutouts"].fetch(source, params.surveys, here / "raw")
    multiply(here / "raw", objects)


def one(step: str, here: Path, objects: int, pixels: int, jobs: int) -> None:
    """One step of the work, in a process of its own, so that nobody's memory is another's."""
    params = in_processes(config.load(Path("params.yaml")), jobs)
    if step == "prepare":
        prepared(here, objects, pixels, params)
        return
    if step == "convert":
        own, everyone = peak(ours, here / "raw", here / "stamps", params)
    else:
        own, everyone = peak(stage, here / "stamps", here / "matched", params, jobs)
    print(f"{step:<10}{objects:8d} objects: {own:5d} MiB, with its workers {everyone:5d} MiB", flush=True)


def main(
    objects: Annotated[list[int], typer.Option(min=FILES)] = [1_000, 10_000, 50_000],  # noqa: B006
    pixels: Annotated[int, typer.Option(min=16)] = 32,
    jobs: Annotated[int, typer.Option(min=1)] = 2,
    only: Annotated[str, typer.Option(help="a step, in this process")] = "",
    folder: Annotated[Path, typer.Option()] = Path(),
) -> None:
    """Each number and stage in a process of its own."""
    if only:
        one(only, folder, objects[0], pixels, jobs)
        return
    for number in objects:
        with tempfile.TemporaryDirectory() as temporary:
            for step in ("prepare", "convert", "psf_match"):
                words = ["--only", step, "--folder", temporary, "--objects", str(number), "--pixels", str(pixels)]
                command = [sys.executable, "-m", "benchmarks.memory", *words, "--jobs", str(jobs)]
                subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    typer.run(main)
