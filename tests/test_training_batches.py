"""Batches: the right object's pixels, label and weight in every row; the epoch alone decides order and turns."""

import numpy as np
import polars as pl
import pytest
import torch
from test_store_shards import pixels, rows, written

from lensml import config, schema
from lensml.catalog import statistics
from lensml.store.shards import read_index
from lensml.training.batches import Batches, turned

BANDS = ["g", "r", "i", "VIS"]


@pytest.fixture
def split(tmp_path):
    labels = pl.Series("label", ["lens", "nonlens", "lens"] * 7)
    one = rows(21, z_phot=0.3).with_columns(labels)
    two = rows(2, ("VIS",), "euclid", label="unknown", label_source="pretrain:x", label_confidence=0.0)
    folder = written(tmp_path / "train", (one, *pixels(21)), (two, *pixels(2, 1, seed=4)), per_shard=8)
    index = read_index(folder)
    params = {"objects_per_shard": 512, "stamp_pixels": 16, "pixel_scale_min": 0.1, "bands": BANDS}
    facts = statistics.fit(index, config.Shard(features=["z_phot", "pixel_scale"], **params))
    return folder, index, facts | {"stamp_pixels": 8}


def test_every_object_once_an_epoch_with_its_own_values(split):
    folder, index, facts = split
    batches = Batches(folder, facts, 8, seed=3)
    seen = list(batches.epoch(0))
    assert [len(b["row"]) for b in seen] == [8, 8, 7]
    assert len(batches) == 3
    got = torch.cat([b["row"] for b in seen])
    assert sorted(got.tolist()) == list(range(23))
    labels = torch.cat([b["label"] for b in seen])
    expected = [{"lens": 1.0, "nonlens": 0.0, "unknown": np.nan}[index["label"][i]] for i in got.tolist()]
    np.testing.assert_array_equal(labels, expected)
    weights = torch.cat([b["weight"] for b in seen])
    cell = {"lens": 21 / (2 * 14), "nonlens": 21 / (2 * 7), "unknown": 0.0}
    np.testing.assert_allclose(weights, [cell[index["label"][i]] for i in got.tolist()])
    assert all(b["metadata"].shape[1] == 4 + 2 * 2 for b in seen)
    flags = torch.cat([b["metadata"] for b in seen])[got.argsort()][:, :4]
    np.testing.assert_array_equal(flags, [[1, 1, 1, 0]] * 21 + [[0, 0, 0, 1]] * 2)
    assert batches.object_ids == index["object_id"].to_list()


def test_pixels_belong_to_their_row_up_to_a_turn_which_flux_and_variance_share(split):
    folder, _, facts = split
    plain = next(iter(Batches(folder, facts, 23, seed=None, variance=True).epoch(5)))
    np.testing.assert_array_equal(plain["row"], np.arange(23))
    for batch in Batches(folder, facts, 8, seed=3, variance=True).epoch(1):
        for n, row in enumerate(batch["row"].tolist()):
            pairs = [
                (torch.rot90(plain[name][row], k, (1, 2)), torch.rot90(plain[name][row], k, (1, 2)).flip(2))
                for name in ("stamps", "log_variance")
                for k in range(4)
            ]
            ways = [way for pair in pairs for way in pair]
            flux = [torch.equal(batch["stamps"][n], way) for way in ways[:8]]
            variance = [torch.equal(batch["log_variance"][n], way) for way in ways[8:]]
            assert sum(flux) == 1
            assert flux == variance


def test_the_epoch_decides_and_nothing_else(split):
    folder, _, facts = split
    one, two = Batches(folder, facts, 8, seed=0), Batches(folder, facts, 8, seed=0)
    list(two.epoch(0))  # what came before does not matter
    for a, b in zip(one.epoch(1), two.epoch(1), strict=True):
        assert all(torch.equal(a[name].nan_to_num(), b[name].nan_to_num()) for name in a)
    first = [
        next(iter(Batches(folder, facts, 8, seed).epoch(epoch)))["row"] for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_the_eight_turns_are_the_symmetries_of_a_square_equally_often():
    image = torch.arange(9.0).reshape(1, 1, 3, 3).expand(8000, 1, 3, 3)
    out = turned({"stamps": image}, torch.Generator().manual_seed(1))["stamps"]
    ways, counts = torch.unique(out.reshape(8000, 9), dim=0, return_counts=True)
    square = image[0, 0]
    expected = {tuple(torch.rot90(s, k).flatten().tolist()) for s in (square, square.flip(1)) for k in range(4)}
    assert {tuple(way.tolist()) for way in ways} == expected
    assert counts.min() > 880  # 1000 +- 4 sigma


def test_a_split_of_another_size_is_refused_and_an_empty_one_has_no_batches(split, tmp_path):
    folder, _, facts = split
    with pytest.raises(schema.ContractError, match="stamps of 16 pixels, got 8"):
        Batches(folder, facts | {"stamp_pixels": 16}, 8, seed=0)
    empty = Batches(written(tmp_path / "pretrain"), facts, 8, seed=0)
    assert len(empty) == 0
    assert list(empty.epoch(0)) == []
