"""The graph as a user runs it, small: nothing runs twice, bytes are stable, data travel, kills heal."""

import contextlib
import hashlib
import json
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL
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
    said = graph.run(copy, "dvc", "repro", "--dry").stdout
    ran = {line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")}
    assert "label_provenance" in ran
    assert not [name for name in ran if name.startswith(("fetch", "convert", "psf_match"))]


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


def test_killed_anywhere_then_forced_gives_the_same_bytes_checkpoints_included(copy: Path) -> None:
    """Each stage is killed while it writes; run by force over what that left, the graph gives the same lock."""
    before = (copy / "dvc.lock").read_bytes()
    assert b"data/models/robust_resnet" in before
    chance = random.Random(20260101)
    for name, entry in graph.lock(copy).items():
        outs = [copy / out["path"] for out in entry["outs"]]
        for out in outs:
            shutil.rmtree(out) if out.is_dir() else out.unlink()
        if kill_while_writing(copy, entry["cmd"].split(), outs, chance.uniform(0, 0.5)):
            assert not all(out.exists() for out in outs), name
    said = graph.run(copy, "dvc", "repro", "--force", "--no-run-cache").stdout
    assert said.count("Running stage") == len(graph.lock(copy))
    assert (copy / "dvc.lock").read_bytes() == before
    assert list((copy / "data").rglob("*.part")) == []


def kill_while_writing(folder: Path, command: list[str], outs: list[Path], seconds: float) -> bool:
    """SIGKILL a while after the first output is begun; False where the stage was quicker."""
    parts = [out.with_name(f".{out.name}.part") for out in outs]
    with subprocess.Popen(command, cwd=folder, env=graph.environment(), stdout=DEVNULL, stderr=DEVNULL) as process:
        while process.poll() is None and not any(part.exists() for part in parts):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        return process.wait() == -signal.SIGKILL


def test_a_full_disk_is_one_line_and_leaves_nothing(copy: Path) -> None:
    """No file may grow beyond 100 bytes: every stage's writing fails."""
    for entry in graph.lock(copy).values():
        outs = [copy / out["path"] for out in entry["outs"]]
        for out in outs:
            out.rename(out.with_name(f"{out.name}.aside"))
        limited = ["prlimit", "--fsize=100", *entry["cmd"].split()]
        done = subprocess.run(
            limited, cwd=copy, env=graph.environment() | {"PYTHONDONTWRITEBYTECODE": "1", "TQDM_DISABLE": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1, (entry["cmd"], done.stderr[-2000:])
        assert done.stderr.startswith("error: "), (entry["cmd"], done.stderr[-2000:])
        assert done.stderr.count("\n") == 1
        assert [str(out) for out in outs if out.exists()] == []
        assert list(copy.glob("data/**/*.part")) + list(copy.glob("metrics/**/*.part")) == []
        for out in outs:
            out.with_name(f"{out.name}.aside").rename(out)


def test_splits_are_honest(done: Path) -> None:
    splits = pl.read_parquet(done / "data/splits.parquet").filter(pl.col("split") != "")
    assert splits.group_by("group_id").agg(pl.col("split").n_unique())["split"].max() == 1
    ids = {
        s: set(pl.read_parquet(done / f"data/shards/{s}/index.parquet")["object_id"])
        for s in ("pretrain", "train", "val", "test")
    }
    assert all(ids.values())
    refused = json.loads((done / "metrics/psf_match/simulated.json").read_text())["refusals"]  # of too broad a PSF
    assert sum(map(len, ids.values())) == len(set.union(*ids.values()))
    assert set.union(*ids.values()) == set(splits["object_id"]) - set(refused)


def test_every_object_is_accounted_for(done: Path) -> None:
    params = config.load(done / "params.yaml")
    source = params.sources["simulated"]
    assert isinstance(source, config.SimulatedSource)
    labels = pl.read_parquet(done / "data/labels/labels.parquet")
    assert labels.height == 2 * source.lenses + source.hard_negatives + source.unlabelled
    assert pl.read_parquet(done / "data/splits.parquet").height == labels.height
