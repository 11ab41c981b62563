"""Stacks of stamps: what is read is what was written, at constant memory, in stable bytes."""

import hashlib
import tracemalloc

import numpy as np
import polars as pl
import pytest
import tifffile

from lensml import schema
from lensml.store import planes, stamps, tables


def batch(first, count, survey="hsc", bands=("g", "r"), pixels=12, psf_pixels=5, seed=0):
    rng = np.random.default_rng((seed, first))
    shape = (count, len(bands), pixels, pixels)
    variance = rng.uniform(0.5, 4, shape).astype(np.float32)
    flux = rng.normal(0, 30, shape).astype(np.float32)
    bad = rng.random(shape) < 0.05
    variance[bad], flux[bad] = np.inf, 0
    psf = rng.uniform(0.1, 1, (count, len(bands), psf_pixels, psf_pixels)).astype(np.float32)
    psf /= psf.sum(axis=(-2, -1), keepdims=True)
    lists = {name: [[1.5] * len(bands)] * count for name in ("magnitude", "flux", "snr", "sky_sigma_over_plane")}
    row = {name: None for name in schema.CATALOGUE} | {
        "source": "s", "survey": survey, "instrument": "i", "pixel_scale": 0.2, "quality": 1.0,
    }  # fmt: skip
    columns = {name: [value] * count for name, value in row.items()} | lists | {
        "object_id": [f"s.{survey}-{i:06d}" for i in range(first, first + count)],
        "bands": [list(bands)] * count,
        "sky_sigma": rng.uniform(1, 2, (count, len(bands))).tolist(),
    }  # fmt: skip
    table = pl.DataFrame(columns, schema=schema.CATALOGUE).drop("stack", "row")
    return stamps.Stamps(table, flux, variance, psf)


def written(folder, batches, per_stack=10):
    with stamps.StampWriter(folder, per_stack) as writer:
        for one in batches:
            writer.append(one)
    return folder


def test_round_trip_over_several_stacks_and_surveys(tmp_path):
    given = [batch(0, 7), batch(0, 4, "euclid", ("VIS",), 9, 7), batch(7, 8)]
    folder = written(tmp_path / "out", given)
    table = stamps.read_catalogue(folder)
    assert table.group_by("stack", maintain_order=True).len()["len"].to_list() == [4, 10, 5]
    assert sorted(p.name for p in folder.iterdir()) == ["catalogue.parquet", "euclid-00001", "hsc-00000", "hsc-00002"]
    known = {i: (b, n) for b in given for n, i in enumerate(b.catalogue["object_id"])}
    seen = []
    for part in stamps.iterate(folder, 3):
        for n, name in enumerate(part.catalogue["object_id"]):
            source, at = known[name]
            seen.append(name)
            sigma = source.sky_sigma[at][:, None, None]
            error = np.abs(part.flux[n] - source.flux[at])
            assert np.all(error <= np.maximum(sigma / 16, 1e-3 * np.abs(source.flux[at])))
            np.testing.assert_allclose(part.variance[n], source.variance[at], rtol=1e-3)
            np.testing.assert_allclose(part.psf[n], source.psf[at], rtol=1e-3)
    assert seen == table["object_id"].to_list()
    assert len(seen) == 19


def test_chosen_rows_come_in_the_rows_order(tmp_path):
    folder = written(tmp_path / "out", [batch(0, 9)])
    rows = stamps.read_catalogue(folder)[[7, 2, 5]]
    (part,) = stamps.read(folder, rows)
    assert part.catalogue["object_id"].to_list() == ["s.hsc-000007", "s.hsc-000002", "s.hsc-000005"]
    np.testing.assert_allclose(part.flux, batch(0, 9).flux[[7, 2, 5]], rtol=1e-3, atol=0.01)


def test_same_input_same_bytes_however_it_is_batched(tmp_path):
    whole = batch(0, 9)
    parts = [
        stamps.Stamps(whole.catalogue[a:b], whole.flux[a:b], whole.variance[a:b], whole.psf[a:b])
        for a, b in ((0, 2), (2, 9))
    ]
    one, two = written(tmp_path / "one", [whole], 4), written(tmp_path / "two", parts, 4)
    hashes = [
        {p.relative_to(f): hashlib.sha256(p.read_bytes()).hexdigest() for p in f.rglob("*") if p.is_file()}
        for f in (one, two)
    ]
    assert hashes[0] == hashes[1]


def test_tifffile_itself_reads_a_stack(tmp_path):
    folder = written(tmp_path / "out", [batch(0, 3)])
    codes = tifffile.imread(folder / "hsc-00000" / "flux.tif")
    assert codes.shape == (3, 2, 12, 12)
    sigma = batch(0, 3).sky_sigma[..., None, None]
    np.testing.assert_allclose(codes * 1e-3, np.arcsinh(batch(0, 3).flux / sigma), atol=6e-4)


def test_a_stack_of_one_object_keeps_its_axes(tmp_path):
    (part,) = stamps.iterate(written(tmp_path / "out", [batch(0, 1, "euclid", ("VIS",))]), 8)
    assert part.flux.shape == (1, 1, 12, 12)


def test_no_objects_is_an_empty_catalogue(tmp_path):
    folder = written(tmp_path / "out", [])
    assert stamps.read_catalogue(folder).height == 0
    assert list(stamps.iterate(folder, 4)) == []


def test_memory_does_not_grow_with_the_number_of_objects(tmp_path):
    one = batch(0, 64, pixels=32)

    def peak(times):
        tracemalloc.start()
        with stamps.StampWriter(tmp_path / str(times), 4096) as writer:
            for n in range(times):
                writer.append(
                    stamps.Stamps(
                        one.catalogue.with_columns(pl.col("object_id") + f"-{n}"), one.flux, one.variance, one.psf
                    )
                )
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(1)
    assert peak(20) < peak(4) + one.flux.nbytes / 2


@pytest.mark.parametrize("damage", ["cut", "text", "float", "short"])
def test_a_broken_stack_is_one_contract_error(tmp_path, damage):
    folder = written(tmp_path / "out", [batch(0, 6)])
    path = folder / "hsc-00000" / "flux.tif"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("no pixels here")
    elif damage == "float":
        tifffile.imwrite(path, np.zeros((6, 2, 12, 12), np.float32))
    else:
        planes.write(path, np.zeros((3, 2, 12, 12), np.int16))
    with pytest.raises(schema.ContractError, match=r"hsc-00000.*again|hsc-00000.*Run the stage"):
        list(stamps.iterate(folder, 4))


def test_a_failure_leaves_no_catalogue_and_no_spool(tmp_path):
    wrong = batch(3, 3)
    wrong.flux[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="flux must be finite"):
        written(tmp_path / "out", [batch(0, 3), wrong])
    assert [p.name for p in (tmp_path / "out").iterdir()] == []


def test_the_same_object_twice_is_refused(tmp_path):
    with pytest.raises(schema.ContractError, match=r"s\.hsc-000002 twice"):
        written(tmp_path / "out", [batch(0, 3), batch(2, 3)])


def test_a_batch_must_agree_with_its_catalogue():
    one = batch(0, 3)
    with pytest.raises(ValueError, match="flux must be"):
        stamps.Stamps(one.catalogue, one.flux[:2], one.variance, one.psf)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_is_not_finite(tmp_path, value):
    with pytest.raises(ValueError, match="finite"):
        tables.write_json({"a": {"b": value}}, tmp_path / "a.json")
    assert not list(tmp_path.iterdir())


def test_json_and_parquet_refuse_foreign_files(tmp_path):
    (tmp_path / "a").write_text("[1, 2")
    with pytest.raises(schema.ContractError, match="must be JSON"):
        tables.read_json(tmp_path / "a")
    with pytest.raises(schema.ContractError, match="must be Parquet"):
        tables.read_parquet(tmp_path / "a", schema.SCORES)
    with pytest.raises(FileNotFoundError, match="must exist"):
        tables.read_json(tmp_path / "b")
    tables.write_json({"b": 0.1, "a": [1, 2]}, tmp_path / "c.json")
    assert tables.read_json(tmp_path / "c.json") == {"a": [1, 2], "b": 0.1}
