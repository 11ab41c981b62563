"""DVC hashes and moves files, so their number must not grow with objects: at most one per 512, all stages together."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lensml import config, schema
from lensml.store.shards import ShardWriter
from lensml.store.stamps import Stamps, StampWriter
from tests import graph
from tests.test_store_shards import pixels, rows

ROOT = Path(__file__).parents[1]
OBJECTS = 300_000


def count(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def stamps(first: int, objects: int) -> Stamps:
    """The smallest stamps there are."""
    row = {name: None for name in schema.CATALOGUE} | {
        "source": "s",
        "survey": "hsc",
        "bands": ["r"],
        "sky_sigma": [1.0],
    }
    table = pl.DataFrame([row | {"object_id": f"s.{first + i}"} for i in range(objects)], schema=schema.CATALOGUE)
    one = np.ones((objects, 1, 1, 1), np.float32)
    return Stamps(table, one, one, one)


def stack_files(folder: Path, objects: int, params: config.Params) -> int:
    with StampWriter(folder, params.convert.objects_per_stack) as writer:
        for first in range(0, objects, 4096):
            writer.append(stamps(first, 4096))
    return count(folder)


@pytest.mark.graph
@pytest.mark.xdist_group("graph")
def test_files_of_a_survey_of_300_000_objects(graph_done: Path, tmp_path: Path) -> None:
    params = config.load(ROOT / "params.yaml")
    fixed = sum(o.get("nfiles", 1) for stage in graph.lock(graph_done).values() for o in stage["outs"])
    few, many = (stack_files(tmp_path / str(n), n, params) for n in (8192, 32768))
    per_object = 2 * (many - few) / (32768 - 8192)  # convert and psf_match
    per_object += (
        1 / params.shard.objects_per_shard + 1 / 8192
    )  # a shard, and an archive of the folder that it came from
    assert fixed + per_object * OBJECTS <= OBJECTS / 512


def test_a_shard_holds_as_many_objects_as_it_may(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "train", 512) as writer:
        for first in range(0, 1100, 100):
            writer.append(rows(100, first=first), *pixels(100))
    assert len(list((tmp_path / "train").glob("*.tar"))) == 3
