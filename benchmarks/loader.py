"""Stamps per second from shards: this project's reader against webdataset's own iterator, on the same shards.

Run `python -m benchmarks.loader`: one process, 5 bands of 64 x 64 with variance, in random order, as training asks.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import webdataset

from lensml import schema
from lensml.store import quantisation, shards

BANDS = ("g", "r", "i", "z", "y")
PIXELS, OBJECTS, PER_SHARD, BATCH, REPEATS = 64, 4096, 1024, 64, 5


def make(folder: Path) -> None:
    """Shards of noise with a galaxy's worth of flux."""
    rng = np.random.default_rng(1)
    row = {name: None for name in schema.SHARD_INDEX} | {"bands": list(BANDS), "sky_sigma": [1.0] * len(BANDS)}
    with shards.ShardWriter(folder, PER_SHARD) as writer:
        for begin in range(0, OBJECTS, 256):
            ids = [f"object-{i}" for i in range(begin, begin + 256)]
            columns = {name: [value] * 256 for name, value in row.items()} | {"object_id": ids}
            index = pl.DataFrame(columns, schema=schema.SHARD_INDEX).drop(shards.PLACED)
            flux = rng.normal(0, 20, (256, len(BANDS), PIXELS, PIXELS)).astype(np.float32)
            writer.append(index, flux, np.ones_like(flux))


def ours(reader: shards.ShardReader) -> Iterator[int]:
    """Batches of float32 flux and variance in random order."""
    rows = np.random.default_rng(2).permutation(len(reader))
    for begin in range(0, len(rows), BATCH):
        flux, variance = reader.stamps(rows[begin : begin + BATCH], variance=True)
        yield len(flux) if variance is not None else 0


def theirs(folder: Path) -> Iterator[int]:
    """The same batches as webdataset makes them: decoded, to float32, stacked."""
    paths = [str(path) for path in sorted(folder.glob("*.tar"))]
    step = np.float32(quantisation.STEP)
    samples = webdataset.WebDataset(
        paths, shardshuffle=False, empty_check=False, select_files=lambda name: ".psf." not in name
    ).decode()
    for flux, variance in samples.to_tuple("flux.npy", "variance.npy").batched(BATCH):
        yield min(len(np.multiply(flux, step, dtype=np.float32)), len(np.multiply(variance, step, dtype=np.float32)))


def rate(loader: Callable[[], Iterator[int]]) -> float:
    """Stamps per second of one epoch."""
    begin = time.perf_counter()
    count = sum(loader())
    return count / (time.perf_counter() - begin)


def main() -> None:
    """Measure both in turns, so that what else the machine does meets both, and print the best of each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "shards"
        make(folder)
        reader = shards.ShardReader(folder, BANDS)  # opened once, as training does
        turns = [(rate(lambda: ours(reader)), rate(lambda: theirs(folder))) for _ in range(REPEATS)]
        mine, other = (max(rates) for rates in zip(*turns, strict=True))
    print(f"{len(BANDS)} x {PIXELS} x {PIXELS} with variance, one process, best of {REPEATS}")
    print(f"ours        {mine:10.0f} stamps/s")
    print(f"webdataset  {other:10.0f} stamps/s")
    print(f"ratio       {mine / other:10.1f}")
    sys.exit(0 if mine >= 20_000 and mine >= 10 * other else 1)


if __name__ == "__main__":
    main()
