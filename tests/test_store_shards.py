"""Shards hold what was written, and no place on the sky; their bytes are stable. Other readers: test_cloud."""

import hashlib
import json
import tarfile

import numpy as np
import polars as pl
import pytest

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


def psfs(count, bands=3, side=5, seed=0):
    """Lopsided, so that every flip shows; the last band of the first object has none."""
    rng = np.random.default_rng((seed, 9))
    psf = rng.uniform(0, 1, (count, bands, side, side)).astype(np.float32)
    psf /= psf.sum(axis=(2, 3), keepdims=True)
    psf[0, -1] = 0
    return psf


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


def test_the_reader_gives_what_was_written(tmp_path):
    table, (flux, variance), psf = rows(10), pixels(10), psfs(10)
    folder = written(tmp_path / "train", (table, flux, variance, psf))
    reader = shards.ShardReader(folder, ("g", "r", "i"))
    order = np.array([7, 0, 9, 3, 3])
    assert reader.index["object_id"].to_list() == table["object_id"].to_list()
    got_flux, got_variance = reader.stamps(order, variance=True)
    want_flux, want_variance = expected(table, flux, variance)
    np.testing.assert_allclose(got_flux, want_flux[order], atol=5.1e-4)
    np.testing.assert_allclose(got_variance, want_variance[order], atol=5.1e-4)
    assert (reader.stamp_pixels, reader.psf_pixels) == (8, 5)
    got = reader.psf(order)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, psf[order], rtol=5e-4, atol=1e-7)
    np.testing.assert_allclose(got.sum(axis=(2, 3)), [[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1]], rtol=1e-6)


def test_bands_go_to_their_channels(tmp_path):
    one, two = rows(3, ("g", "i")), rows(2, ("VIS", "r", "odd"), "euclid")
    pixels_one, pixels_two = pixels(3, 2), pixels(2, 3, seed=1)
    psf_one, psf_two = psfs(3, 2), psfs(2, 3, seed=1)
    folder = written(tmp_path / "train", (one, *pixels_one, psf_one), (two, *pixels_two, psf_two))
    reader = shards.ShardReader(folder, ("g", "r", "i", "VIS"))
    flux, variance = reader.stamps(np.arange(5), variance=True)
    want_one, want_two = expected(one, *pixels_one), expected(two, *pixels_two)
    np.testing.assert_allclose(flux[:3][:, [0, 2]], want_one[0], atol=5.1e-4)
    np.testing.assert_allclose(flux[3:][:, [3, 1]], want_two[0][:, :2], atol=5.1e-4)
    np.testing.assert_allclose(variance[3:][:, [3, 1]], want_two[1][:, :2], atol=5.1e-4)
    assert not flux[:3][:, [1, 3]].any()
    assert not flux[3:][:, [0, 2]].any()
    assert np.all(variance[:3][:, [1, 3]] == quantisation.BAD_LOG_VARIANCE)
    psf = reader.psf(np.arange(5))
    np.testing.assert_allclose(psf[:3][:, [0, 2]], psf_one, rtol=5e-4, atol=1e-7)
    np.testing.assert_allclose(psf[3:][:, [3, 1]], psf_two[:, :2], rtol=5e-4, atol=1e-7)
    assert not psf[:3][:, [1, 3]].any()
    assert not psf[3:][:, [0, 2]].any()


def test_without_psfs_every_channel_has_none(tmp_path):
    reader = shards.ShardReader(written(tmp_path / "train", (rows(3), *pixels(3))), ("g", "r"))
    assert not reader.psf(np.arange(3)).any()


def test_a_shard_is_plain_ustar_without_dates_or_names(tmp_path):
    folder = written(tmp_path / "train", (rows(2), *pixels(2)))
    with tarfile.open(folder / "shard-00000.tar") as tar:
        members = tar.getmembers()
        names = [f"000000000.{name}" for name in ("flux.npy", "variance.npy", "psf.npy", "json")]
        assert [m.name for m in members[:4]] == names
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.type) for m in members} == {
            (0, 0, 0, "", "", tarfile.REGTYPE)
        }


def test_no_place_on_the_sky_and_nothing_else_of_the_catalogue_reaches_a_shard(tmp_path):
    sky = {name: pl.lit(150.1163213) for name in ("ra", "dec", "RA", "x_sky")}
    table = rows(2).with_columns(**sky, split=pl.lit("train"), stack=pl.lit("hsc-00000"))
    folder = written(tmp_path / "train", (table, *pixels(2), psfs(2)))
    with tarfile.open(folder / "shard-00000.tar") as tar:
        told = json.load(tar.extractfile("000000000.json"))
    assert sorted(told) == sorted(set(schema.SHARD_INDEX) - set(shards.PLACED))
    assert not {"ra", "dec"} & set(schema.SHARD_INDEX)
    assert b"150.1163" not in (folder / "shard-00000.tar").read_bytes()


def test_same_bytes_however_it_is_batched(tmp_path):
    table, planes = rows(7), (*pixels(7), psfs(7))
    one = written(tmp_path / "one", (table, *planes))
    parts = [(table[part], *(plane[part] for plane in planes)) for part in (slice(3), slice(3, None))]
    two = written(tmp_path / "two", *parts)
    names = sorted(p.name for p in one.iterdir())
    assert names == ["index.parquet", "shard-00000.tar", "shard-00001.tar"]
    for name in names:
        assert hashlib.sha256((one / name).read_bytes()).digest() == hashlib.sha256((two / name).read_bytes()).digest()


def test_an_empty_split_is_an_index_without_rows(tmp_path):
    reader = shards.ShardReader(written(tmp_path / "pretrain"), ("g",))
    assert len(reader) == 0
    assert reader.stamps(np.array([], dtype=int))[0].shape[:2] == (0, 1)
    assert reader.psf(np.array([], dtype=int)).shape[:2] == (0, 1)


def test_stamps_of_two_sizes_are_refused(tmp_path):
    folder = written(
        tmp_path / "train", (rows(2), *pixels(2), psfs(2)), (rows(2, first=2), *pixels(2), psfs(2, side=7))
    )
    with pytest.raises(schema.ContractError, match=r"one psf_pixels, got \[5, 7\]"):
        shards.ShardReader(folder, ("g",))


@pytest.mark.parametrize("damage", ["cut", "foreign", "gone"])
def test_a_broken_shard_is_named(tmp_path, damage):
    folder = written(tmp_path / "train", (rows(6), *pixels(6), psfs(6)))
    path = folder / "shard-00001.tar"
    if damage == "cut":
        last = shards.read_index(folder)["psf_offset"][-1] + 2 * 3 * 5**2
        path.write_bytes(path.read_bytes()[: last - 1])
    elif damage == "foreign":
        path.write_bytes(bytes(path.stat().st_size))
    else:
        path.unlink()
    with pytest.raises((schema.ContractError, FileNotFoundError), match=r"shard-00001\.tar"):
        shards.ShardReader(folder, ("g",))


def test_arrays_that_do_not_belong_to_the_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="flux must be"):
        written(tmp_path / "train", (rows(3), *pixels(2)))
    with pytest.raises(ValueError, match="psf must be"):
        written(tmp_path / "train", (rows(3), *pixels(3), psfs(3, 2)))
    assert not (tmp_path / "train" / "index.parquet").exists()
