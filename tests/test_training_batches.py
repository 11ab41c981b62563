"""Batches: the right object's pixels, label and weight in every row; the epoch alone decides order and turns."""

import numpy as np
import polars as pl
import pytest
import torch
from scipy.signal import convolve2d
from test_store_shards import pixels, psfs, rows, written

from lensml import config, schema
from lensml.catalog import statistics
from lensml.store.shards import read_index
from lensml.training.augment import Augmented
from lensml.training.batches import DRAWS, Batches, turned_by_draw
from tests.fitting import AUGMENT

BANDS = ["g", "r", "i", "VIS"]


@pytest.fixture
def split(tmp_path):
    labels = pl.Series("label", ["lens", "nonlens", "lens"] * 7)
    one = rows(21, z_phot=0.3).with_columns(labels)
    two = rows(2, ("VIS",), "euclid", label="unknown", label_source="pretrain:x", label_confidence=0.0)
    parts = (one, *pixels(21), psfs(21)), (two, *pixels(2, 1, seed=4), psfs(2, 1, seed=4))
    folder = written(tmp_path / "train", *parts, per_shard=8)
    index = read_index(folder)
    params = {"objects_per_shard": 512, "stamp_pixels": 16, "pixel_scale_min": 0.1, "bands": BANDS}
    params |= {"common_pixel_scale": None, "psf_pixels": 7}
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


def test_pixels_belong_to_their_row_up_to_a_turn_which_flux_variance_and_psf_share(split):
    folder, _, facts = split
    names = ("stamps", "log_variance", "psf")
    plain = next(iter(Batches(folder, facts, 23, seed=None, beside=("log_variance", "psf")).epoch(5)))
    np.testing.assert_array_equal(plain["row"], np.arange(23))
    assert plain["psf"].shape == (23, 4, 5, 5)
    assert torch.equal(plain["psf"].sum(dim=(2, 3))[1:21].round(decimals=5), torch.tensor([[1.0, 1, 1, 0]] * 20))
    for batch in Batches(folder, facts, 8, seed=3, beside=("log_variance", "psf")).epoch(1):
        for n, row in enumerate(batch["row"].tolist()):
            same = {name: [torch.equal(batch[name][n], way) for way in eight(plain[name][row])] for name in names}
            assert sum(same["stamps"]) == 1
            if row not in (0, 21):  # the first PSF of each part misses a band, which a turn of nothing is like
                assert same["stamps"] == same["psf"]
            assert same["stamps"] == same["log_variance"]


def eight(image):
    """The eight turns of (C, y, x)."""
    turns = [torch.rot90(image, k, (1, 2)) for k in range(4)]
    return turns + [turn.flip(2) for turn in turns]


def test_a_turned_scene_is_seen_through_the_turned_psf():
    """Turning a scene seen through a PSF is seeing the turned scene through the turned PSF."""
    rng = np.random.default_rng(2)
    scene, psf = rng.normal(size=(40, 1, 12, 12)), rng.random((40, 1, 5, 5))
    seen = np.stack([[convolve2d(s[0], p[0], mode="same")] for s, p in zip(scene, psf, strict=True)])
    images = {"log_variance": scene, "stamps": seen, "psf": psf}
    numbers = torch.rand(40, DRAWS, generator=torch.Generator().manual_seed(1))
    out = turned_by_draw({n: torch.from_numpy(i) for n, i in images.items()}, numbers, 0)
    for s, p, expected in zip(out["log_variance"], out["psf"], out["stamps"], strict=True):
        np.testing.assert_allclose(convolve2d(s[0], p[0], mode="same"), expected[0], atol=1e-12)


def test_images_are_added_only_where_asked_for(split):
    folder, _, facts = split
    assert not {"psf", "log_variance"} & set(next(iter(Batches(folder, facts, 8, seed=3).epoch(0))))


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
    numbers = torch.rand(8000, DRAWS, generator=torch.Generator().manual_seed(1))
    out = turned_by_draw({"stamps": image}, numbers, 0)["stamps"]
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


def test_processes_share_every_batch(split):
    folder, _, facts = split
    names = ("stamps", "log_variance", "psf", "label", "weight", "row", "metadata")
    batches = Batches(folder, facts, 8, seed=3, beside=("log_variance", "psf"))
    parts = [batches.epoch(1, rank, 3) for rank in range(3)]
    for whole, *shares in zip(batches.epoch(1), *parts, strict=True):
        for rank, share in enumerate(shares):
            assert all(torch.equal(share[n].nan_to_num(), whole[n][rank::3].nan_to_num()) for n in names)
    with pytest.raises(ValueError, match="an object for each of 9 processes, got 8"):
        next(batches.epoch(1, 0, 9))


def test_a_shallower_epoch_has_the_same_objects_and_other_noise_in_each(split):
    folder, _, facts = split
    change = Augmented(AUGMENT.model_copy(update={"depth_mag": 1.0}))
    batches = Batches(folder, facts, 8, seed=3, beside=change.needs, augment=change)
    plain = Batches(folder, facts, 8, seed=3)
    for batch, again, other in zip(batches.epoch(1), batches.epoch(1), plain.epoch(1), strict=True):
        assert torch.equal(batch["stamps"], again["stamps"])
        assert torch.equal(batch["row"], other["row"])
        assert not torch.equal(batch["stamps"], other["stamps"])
