"""Shards and exports streamed by others' readers, webdataset and litdata, from a web and an S3-protocol server."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import litdata
import numpy as np
import polars as pl
import pytest
import webdataset
from test_store_shards import pixels, psfs, rows, written
from typer.testing import CliRunner

from lensml import paths
from lensml.app import export
from lensml.app.cli import app
from lensml.store import shards, tables
from tests import loopback

CHANNELS = ("u", "g", "r", "i", "VIS")
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects elsewhere fails the test."""
    connect = socket.socket.connect

    def checked(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] != loopback.HOST:
            raise AssertionError(f"a connection to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", checked)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose train split has two surveys in four shards, the second with a place on the sky planted."""
    root = tmp_path_factory.mktemp("project")
    one, two = rows(10), rows(3, ("VIS",), "euclid", 10).with_columns(ra=pl.lit(150.1163), dec=pl.lit(2.2058))
    batches = (one, *pixels(10), psfs(10)), (two, *pixels(3, 1, seed=4), psfs(3, 1, seed=4))
    written(root / paths.SHARDS.format(split="train"), *batches)
    written(root / paths.SHARDS.format(split="pretrain"))
    tables.write_json({"bands": list(CHANNELS)}, root / paths.STATISTICS)
    return root


@pytest.fixture(scope="module")
def train(project: Path) -> Path:
    return project / paths.SHARDS.format(split="train")


@pytest.fixture(scope="module")
def web(train: Path) -> Iterator[str]:
    """The split's folder on a plain web server."""
    with loopback.web(train) as address:
        yield address


@pytest.fixture(scope="module")
def s3(train: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of an S3-protocol server that has the split in the bucket `lensml`, readable by everybody."""
    secrets = tmp_path_factory.mktemp("secrets")
    with pytest.MonkeyPatch.context() as patch, loopback.s3(secrets) as address:
        for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"):  # boto3, obstore (of litdata), curl
            patch.setenv(name, str(secrets / "authority.pem"))
        for name, value in KEYS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", address)
        client = boto3.client("s3")
        client.create_bucket(Bucket="lensml", ACL="public-read")
        for path in train.glob("*.tar"):
            client.upload_file(str(path), "lensml", f"train/{path.name}", ExtraArgs={"ACL": "public-read"})
        yield client
        client.close()


def held(reader: shards.ShardReader, sample: dict[str, Any], row: int) -> None:
    """Hold a webdataset sample against a row of the index."""
    told = reader.index.row(row, named=True)
    assert sample["json"] == {name: value for name, value in told.items() if name not in shards.PLACED}
    at = [CHANNELS.index(band) for band in told["bands"]]
    for plane in shards.PLANES:
        codes = np.asarray(sample[f"{plane}.npy"])
        assert codes.dtype == np.int16
        np.testing.assert_array_equal(codes, reader.codes(plane, np.array([row]))[0, at])


@pytest.mark.parametrize("place", ["web", "public", "signed"])
def test_webdataset_streams_shards(place: str, train: Path, web: str, s3: Any) -> None:
    endpoint = s3.meta.endpoint_url
    names = [path.name for path in sorted(train.glob("*.tar"))]
    assert len(names) == 4
    urls = {
        "web": f"{web}/shard-{{00000..00003}}.tar",
        "public": f"{endpoint}/lensml/train/shard-{{00000..00003}}.tar",
        "signed": [
            s3.generate_presigned_url("get_object", Params={"Bucket": "lensml", "Key": f"train/{name}"})
            for name in names
        ],
    }
    reader = shards.ShardReader(train, CHANNELS)
    samples = list(webdataset.WebDataset(urls[place], shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == reader.index["key"].to_list()
    for row, sample in enumerate(samples):
        held(reader, sample, row)


@pytest.mark.parametrize("workers", [0, 2])
def test_webdataset_workers_share_the_shards(workers: int, train: Path, web: str) -> None:
    samples = webdataset.WebDataset(f"{web}/shard-{{00000..00003}}.tar", shardshuffle=False).decode()
    spawned = {"num_workers": workers, "multiprocessing_context": "spawn"} if workers else {}
    reader = shards.ShardReader(train, CHANNELS)
    seen = sorted(webdataset.WebLoader(samples, batch_size=None, **spawned), key=lambda sample: sample["__key__"])
    assert len(seen) == len(reader)
    for row, sample in enumerate(seen):
        held(reader, sample, row)


def run(project: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    monkeypatch.chdir(project)
    return CliRunner().invoke(app, ["export", *words])


def same(reader: shards.ShardReader, seen: list[dict[str, Any]]) -> None:
    """Hold a LitData dataset's objects, in order, against the split: decoded as its documentation says."""
    assert len(seen) == len(reader)
    order = np.arange(len(reader))
    flux, variance = reader.stamps(order, variance=True)
    psf = reader.psf(order)
    for row, item in enumerate(seen):
        told = json.loads(item["metadata"])
        assert told.pop("channels") == list(CHANNELS)
        wanted = reader.index.row(row, named=True)
        assert told == {name: value for name, value in wanted.items() if name not in shards.PLACED}
        np.testing.assert_array_equal(np.float32(0.001) * np.asarray(item["flux"]), flux[row])
        np.testing.assert_array_equal(np.float32(0.001) * np.asarray(item["variance"]), variance[row])
        shape = np.sinh(np.asarray(item["psf"]) / 3000)
        total = shape.sum(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(shape / np.where(total > 0, total, 1), psf[row], rtol=1e-6)


def test_an_export_to_a_folder_streams_in_order(project: Path, train: Path, tmp_path: Path, monkeypatch: Any) -> None:
    done = run(project, monkeypatch, "train", str(tmp_path / "out"), "--chunk-mib", "1")
    assert done.exit_code == 0, done.output
    assert "13 objects" in done.output
    dataset = litdata.StreamingDataset(str(tmp_path / "out"))
    reader = shards.ShardReader(train, CHANNELS)
    same(reader, [dataset[i] for i in range(len(dataset))])
    batches = list(litdata.StreamingDataLoader(dataset, batch_size=5, num_workers=0))
    assert [tuple(batch["flux"].shape) for batch in batches] == [(5, 5, 8, 8), (5, 5, 8, 8), (3, 5, 8, 8)]
    whole = [{name: batch[name][i] for name in batch} for batch in batches for i in range(len(batch["flux"]))]
    same(reader, whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_export_to_a_bucket_streams(
    workers: int, project: Path, train: Path, s3: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    out = f"s3://lensml/export-{workers}"
    done = run(project, monkeypatch, "train", out)
    assert done.exit_code == 0, done.output
    options = {"endpoint_url": s3.meta.endpoint_url}
    dataset = litdata.StreamingDataset(out, cache_dir=str(tmp_path), storage_options=options)
    spawned = {"num_workers": workers, "multiprocessing_context": "spawn"} if workers else {"num_workers": 0}
    batches = list(litdata.StreamingDataLoader(dataset, batch_size=4, **spawned))
    seen = [{name: batch[name][i] for name in batch} for batch in batches for i in range(len(batch["flux"]))]
    reader = shards.ShardReader(train, CHANNELS)
    place = {name: row for row, name in enumerate(reader.index["object_id"])}
    seen.sort(key=lambda item: place[json.loads(item["metadata"])["object_id"]])  # workers take turns
    same(reader, seen)


def test_nothing_of_the_catalogue_reaches_an_export_but_the_index(project: Path, train: Path, tmp_path: Path) -> None:
    """The place on the sky that the fixture planted is nowhere; two exports differ in LitData's index alone."""
    reader = shards.ShardReader(train, CHANNELS)
    for name in ("one", "two"):
        export.write(reader, str(tmp_path / name), 1 << 20)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["chunk-0-0.bin", "index.json"]
    content = [(tmp_path / name / files[0]).read_bytes() for name in ("one", "two")]
    assert content[0] == content[1]
    stored = b"".join(path.read_bytes() for path in [tmp_path / "one" / files[0], *train.glob("*.tar")])
    assert b"euclid-12" in stored
    assert not [word for word in (b"150.1163", b"2.2058", b'"ra"', b'"dec"', b"_offset") if word in stored]


def test_chunks_are_as_large_as_asked_for_and_all_objects_are_in_them(train: Path, tmp_path: Path) -> None:
    reader = shards.ShardReader(train, CHANNELS)
    export.write(reader, str(tmp_path / "out"), 9000)  # 4 objects of 2 kB
    sizes = [path.stat().st_size for path in (tmp_path / "out").glob("*.bin")]
    assert len(sizes) > 3
    assert max(sizes) < 9000
    dataset = litdata.StreamingDataset(str(tmp_path / "out"))
    same(reader, [dataset[i] for i in range(len(dataset))])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["training", "out"], "SPLIT must be one of pretrain, train, val, test, got training"),
        (["pretrain", "out"], "must hold objects to be exported"),
        (["val", "out"], "val/index.parquet must exist"),
        (["train", "full"], "OUT must be empty"),
        (["train", "s3://absent/out"], "bucket does not exist"),
        (["train", "nowhere://out"], "Protocol not known: nowhere"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    words: list[str], said: str, project: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "full").mkdir(exist_ok=True)
    (project / "full" / "a").touch()
    done = run(project, monkeypatch, *words)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert not (project / "out").exists()


def test_without_keys_an_export_to_a_bucket_is_one_line(
    project: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    done = run(project, monkeypatch, "train", "s3://lensml/keyless")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: OUT must be reachable, got s3://lensml/keyless: Unable to locate credentials")
