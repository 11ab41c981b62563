"""The graph as a user runs it, small: nothing runs twice, bytes are stable, data travel, kills heal."""

import hashlib
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lensml import config
from tests import graph

pytestmark = [pytest.mark.graph, pytest.mark.xdist_group("graph")]


@pytest.fixture
def done(graph_done: Path) -> Path:
    return graph_done


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    return shutil.copytree(done, tmp_path / "copy", symlinks=True)


def outputs(folder: Path) -> dict[str, str]:
    """The hash of every output of every stage."""
    return {o["path"]: o["md5"] for stage in graph.lock(folder).values() for o in stage["outs"]}


def test_again_nothing_runs(done: Path) -> None:
    said = graph.run(done, "dvc", "repro").stdout
    assert "Running stage" not in said
    assert "up to date" in said


def test_forced_gives_the_same_bytes_checkpoints_included(copy: Path) -> None:
    before = (copy / "dvc.lock").read_bytes()
    assert b"data/models/robust_resnet" in before
    said = graph.run(copy, "dvc", "repro", "--force", "--no-run-cache").stdout
    assert said.count("Running stage") == len(graph.lock(copy))
    assert (copy / "dvc.lock").read_bytes() == before


def test_another_member_retrains_only_what_that_changes(copy: Path) -> None:
    said = graph.run(copy, "dvc", "exp", "run", "-n", "film", "-S", "train.arch=film_conditioned").stdout
    ran = {line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")}
    assert ran == {"fuse", "evaluate"}
    shown = graph.run(copy, "dvc", "exp", "show", "--csv").stdout
    assert "film" in shown
    assert "simulated.auroc" in shown
    assert "simulated.auroc" in graph.run(copy, "dvc", "metrics", "diff", "HEAD", "--all").stdout
    graph.run(copy, "dvc", "plots", "diff", "HEAD")


def test_an_unknown_member_is_one_line(copy: Path) -> None:
    said = graph.run(copy, "dvc", "exp", "run", "-S", "train.arch=vit_of_old", ok=False)
    assert said.returncode != 0
    lines = [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "vit_of_old" in lines[0]
    assert "robust_resnet" in lines[0]


def test_labels_and_pixels_travel_apart(copy: Path) -> None:
    def regrade(params: dict[str, Any]) -> None:
        params["label_provenance"]["confidence_min"] = 0.4

    graph.set_params(copy, regrade)
    ran = graph.run(copy, "dvc", "repro", "--dry").stdout
    assert "'label_provenance'" in ran
    assert "'convert@" not in ran
    assert "'psf_match@" not in ran


@pytest.fixture
def s3() -> Iterator[str]:
    """An S3-protocol server on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_pushed_data_arrive_in_a_clean_clone(
    done: Path, copy: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3", endpoint_url=s3).create_bucket(Bucket="lensml")
    clone = tmp_path / "clone"
    graph.git(copy, "clone", "-q", str(copy), str(clone))
    for folder in (copy, clone):
        graph.run(folder, "dvc", "remote", "add", "-f", "--local", "-d", "cloud", "s3://lensml/data")
        graph.run(folder, "dvc", "remote", "modify", "--local", "cloud", "endpointurl", s3)
    graph.run(copy, "dvc", "push")
    graph.run(clone, "dvc", "pull")
    assert "up to date" in graph.run(clone, "dvc", "status").stdout
    assert outputs(clone) == outputs(done)
    for path in (p for p in sorted((done / "data").rglob("*")) if p.is_file() and p.name != ".gitignore"):
        twin = clone / path.relative_to(done)
        assert hashlib.sha256(twin.read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest()
    assert "Running stage" not in graph.run(clone, "dvc", "repro").stdout


def test_a_stage_killed_at_any_moment_heals(copy: Path) -> None:
    """Each stage is started, killed, and DVC then gives the hashes of the unbroken run."""
    before = (copy / "dvc.lock").read_bytes()
    chance = random.Random(20260101)
    for name, entry in graph.lock(copy).items():
        for out in entry["outs"]:
            path = copy / out["path"]
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(subprocess.TimeoutExpired):
            kill_after(copy, entry["cmd"].split(), chance.uniform(0.2, 1.5))
        assert not [o["path"] for o in entry["outs"] if (copy / o["path"]).exists()], name
    graph.run(copy, "dvc", "repro", "--force", "--no-run-cache")
    assert (copy / "dvc.lock").read_bytes() == before
    assert list((copy / "data").rglob("*.part")) == []


def kill_after(folder: Path, command: list[str], seconds: float) -> None:
    """SIGKILL is what `subprocess.run` sends when the time is over."""
    subprocess.run(command, cwd=folder, env=graph.environment(), capture_output=True, check=False, timeout=seconds)


def test_splits_are_honest(done: Path) -> None:
    splits = pl.read_parquet(done / "data/splits.parquet").filter(pl.col("split") != "")
    assert splits.group_by("group_id").agg(pl.col("split").n_unique())["split"].max() == 1
    ids = {
        s: set(pl.read_parquet(done / f"data/shards/{s}/index.parquet")["object_id"])
        for s in ("pretrain", "train", "val", "test")
    }
    assert all(ids.values())
    assert sum(map(len, ids.values())) == len(set.union(*ids.values())) == splits.height


def test_every_object_is_accounted_for(done: Path) -> None:
    params = config.load(done / "params.yaml")
    source = params.sources["simulated"]
    assert isinstance(source, config.SimulatedSource)
    labels = pl.read_parquet(done / "data/labels/labels.parquet")
    assert labels.height == source.lenses + source.non_lenses + source.unlabelled
    assert pl.read_parquet(done / "data/splits.parquet").height == labels.height
