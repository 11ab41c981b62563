"""Shards against webdataset itself, which reads the same arrays from them; their bytes are stable."""

import gc
import hashlib
import json
import tarfile

import numpy as np
import polars as pl
import pytest
import webdataset

from lensml import schema
from lensml.store import quantisation, shards


def rows(count, bands=("g", "r", "i"), survey="hsc", first=0, **given):
    rng = np.random.default_rng((count, first))
    values = {name: None for name in schema.SHARD_INDEX} | {
        "source": "s", "survey": survey, "label": "lens", "label_source": "sim:s", "label_confidence": 1.0,
        "pixel_scale": 0.2, "z_phot": -1.0, "bands": list(bands),
    } | given  # fmt: skip
    columns = {name: [value] * count for name, value in values.items()} | {
        "object_id": [f"s.{survey}-{first + i}" for i in range(count)],
        "group_id": [f"g{first + i}" for i in range(count)],
        "sky_sigma": rng.uniform(1, 3, (count, len(bands))).tolist(),
    }
    table = pl.DataFrame(columns, schema=schema.SHARD_INDEX)
    return table.drop(shards.PLACED)


def pixels(count, bands=3, side=8, seed=0):
    rng = np.random.default_rng(seed)
    flux = rng.normal(0, 40, (count, bands, side, side)).astype(np.float32)
    variance = rng.uniform(1, 5, flux.shape).astype(np.float32)
    bad = rng.random(flux.shape) < 0.1
    flux[bad], variance[bad] = 0, np.inf
    return flux, variance


def written(folder, *batches, per_shard=4):
    with shards.ShardWriter(folder, per_shard) as writer:
        for batch in batches:
            writer.append(*batch)
    return folder


def expected(table, flux, variance):
    sigma = np.array(table["sky_sigma"].to_list())[..., None, None]
    return np.arcsinh(flux / sigma), np.where(
        np.isfinite(variance), np.log(variance / sigma**2), quantisation.BAD_LOG_VARIANCE
    )


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves its shards open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_same_arrays(tmp_path):
    table, (flux, variance) = rows(10), pixels(10)
    folder = written(tmp_path / "train", (table, flux, variance))
    paths = sorted(str(p) for p in folder.glob("*.tar"))
    assert len(paths) == 3
    samples = list(webdataset.WebDataset(paths, shardshuffle=False, empty_check=False).decode())
    gc.collect()
    assert [s["json"]["object_id"] for s in samples] == table["object_id"].to_list()
    reader = shards.ShardReader(folder, ("g", "r", "i"))
    assert [s["__key__"] for s in samples] == reader.index["key"].to_list()
    order = np.array([7, 0, 9, 3, 3])
    for plane in ("flux", "variance"):
        theirs = np.stack([samples[i][f"{plane}.npy"] for i in order])
        np.testing.assert_array_equal(reader.codes(plane, order), theirs)
    got_flux, got_variance = reader.stamps(order, variance=True)
    want_flux, want_variance = expected(table, flux, variance)
    np.testing.assert_allclose(got_flux, want_flux[order], atol=5.1e-4)
    np.testing.assert_allclose(got_variance, want_variance[order], atol=5.1e-4)


def test_bands_go_to_their_channels(tmp_path):
    one, two = rows(3, ("g", "i")), rows(2, ("VIS", "r", "odd"), "euclid")
    pixels_one, pixels_two = pixels(3, 2), pixels(2, 3, seed=1)
    folder = written(tmp_path / "train", (one, *pixels_one), (two, *pixels_two))
    flux, variance = shards.ShardReader(folder, ("g", "r", "i", "VIS")).stamps(np.arange(5), variance=True)
    want_one, want_two = expected(one, *pixels_one), expected(two, *pixels_two)
    np.testing.assert_allclose(flux[:3][:, [0, 2]], want_one[0], atol=5.1e-4)
    np.testing.assert_allclose(flux[3:][:, [3, 1]], want_two[0][:, :2], atol=5.1e-4)
    np.testing.assert_allclose(variance[3:][:, [3, 1]], want_two[1][:, :2], atol=5.1e-4)
    assert not flux[:3][:, [1, 3]].any()
    assert not flux[3:][:, [0, 2]].any()
    assert np.all(variance[:3][:, [1, 3]] == quantisation.BAD_LOG_VARIANCE)


def test_a_shard_is_plain_ustar_without_dates_or_names(tmp_path):
    folder = written(tmp_path / "train", (rows(2), *pixels(2)))
    with tarfile.open(folder / "shard-00000.tar") as tar:
        members = tar.getmembers()
        assert [m.name for m in members[:3]] == ["000000000.flux.npy", "000000000.variance.npy", "000000000.json"]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.type) for m in members} == {
            (0, 0, 0, "", "", tarfile.REGTYPE)
        }
        meta = json.load(tar.extractfile(members[2]))
    assert meta["object_id"] == "s.hsc-0"
    assert "ra" not in meta
    assert "dec" not in meta


def test_same_bytes_however_it_is_batched(tmp_path):
    table, (flux, variance) = rows(7), pixels(7)
    one = written(tmp_path / "one", (table, flux, variance))
    two = written(tmp_path / "two", (table[:3], flux[:3], variance[:3]), (table[3:], flux[3:], variance[3:]))
    names = sorted(p.name for p in one.iterdir())
    assert names == ["index.parquet", "shard-00000.tar", "shard-00001.tar"]
    for name in names:
        assert hashlib.sha256((one / name).read_bytes()).digest() == hashlib.sha256((two / name).read_bytes()).digest()


def test_an_empty_split_is_an_index_without_rows(tmp_path):
    reader = shards.ShardReader(written(tmp_path / "pretrain"), ("g",))
    assert len(reader) == 0
    assert reader.stamps(np.array([], dtype=int))[0].shape[:2] == (0, 1)


@pytest.mark.parametrize("damage", ["cut", "foreign", "gone"])
def test_a_broken_shard_is_named(tmp_path, damage):
    folder = written(tmp_path / "train", (rows(6), *pixels(6)))
    path = folder / "shard-00001.tar"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1500])
    elif damage == "foreign":
        path.write_bytes(bytes(path.stat().st_size))
    else:
        path.unlink()
    with pytest.raises((schema.ContractError, FileNotFoundError), match=r"shard-00001\.tar"):
        shards.ShardReader(folder, ("g",))


def test_arrays_that_do_not_belong_to_the_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="flux must be"):
        written(tmp_path / "train", (rows(3), *pixels(2)))
    assert not (tmp_path / "train" / "index.parquet").exists()
