"""The main job on real survey files beside a simulated source, and the ensemble on their folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests import graph
from tests.real_sample import FOLDERS, REAL, needs_real

pytestmark = [pytest.mark.graph, pytest.mark.xdist_group("real"), needs_real]
ONE_SIDED = {"des_lrg": "nonlens", "kids_sdss": "nonlens", "hst_dinos": "lens", "hst_cosmos": "nonlens"}
CHALLENGES = ("ground", "space")


def real(folders: Path) -> Callable[[dict[str, Any]], None]:
    """Parameters with every real source beside the small simulated one."""

    def change(params: dict[str, Any]) -> None:
        graph.tiny(params)
        for challenge in CHALLENGES:
            params["sources"][f"bologna_{challenge}"] = {
                "kind": "bologna", "challenge": challenge, "path": str(REAL / "bologna-challenge1"),
                "mirrors": [], "sha256": None,
            }  # fmt: skip
        for name in ONE_SIDED:
            params["sources"][name] = {"kind": "cutouts", "path": str(folders / name), "files_per_archive": 8192}
        params["label_provenance"]["one_sided_allowed"] = list(ONE_SIDED)

    return change


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    for name, write in FOLDERS.items():
        write(root / name.replace("-", "_"))
    return root


@pytest.fixture(scope="module")
def done(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = graph.checkout(tmp_path_factory.mktemp("real"), real(folders))
    graph.run(folder, "dvc", "repro")
    return folder


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_simulated_and_real_labels_are_reported_apart(done: Path) -> None:
    found = read_json(done / "metrics/evaluate.json")
    index = pl.read_parquet(done / "data/shards/test/index.parquet")
    simulated = index["label_source"].str.starts_with("sim:")
    for kind, rows in (("simulated", index.filter(simulated)), ("real", index.filter(~simulated))):
        counts = dict(rows["label"].value_counts().iter_rows())
        assert counts
        assert (found[kind]["n_lens"], found[kind]["n_nonlens"]) == (counts.get("lens", 0), counts.get("nonlens", 0))


def test_every_real_object_is_accounted_for(done: Path) -> None:
    labels = pl.read_parquet(done / "data/labels/labels.parquet")
    objects = dict(labels["source"].value_counts().iter_rows())
    assert {name: objects[name] for name in objects if name != "simulated"} == {
        "bologna_ground": 12, "bologna_space": 16, "des_lrg": 5, "kids_sdss": 10, "hst_dinos": 24, "hst_cosmos": 50,
    }  # fmt: skip
    for name, count in objects.items():
        report = read_json(done / f"metrics/convert/{name}.json")
        assert report["converted"] + len(report["refused"]) == count
    splits = pl.read_parquet(done / "data/splits.parquet")
    assert splits.height == labels.height
    assert splits.filter((pl.col("split") == "") & (pl.col("reason") == "")).height == 0


def test_the_duplicate_bands_of_ground_100013_are_refused_in_words(done: Path) -> None:
    report = read_json(done / "metrics/convert/bologna_ground.json")
    assert [entry["object_id"] for entry in report["refused"]] == ["bologna_ground.100013"]
    assert "byte-identical" in report["refused"][0]["reason"]


def test_one_galaxy_in_two_surveys_and_one_sight_line_stay_on_one_side(done: Path) -> None:
    splits = pl.read_parquet(done / "data/splits.parquet")
    assert splits.filter(pl.col("source") == "kids_sdss")["group_id"].n_unique() == 5
    line = [f"bologna_ground.{n}" for n in (100014, 100019, 100008, 100013)] + ["bologna_space.100058"]
    assert splits.filter(pl.col("object_id").is_in(line))["group_id"].n_unique() == 1


def test_no_sky_position_reaches_a_shard(done: Path) -> None:
    for split in ("pretrain", "train", "val", "test"):
        assert not {"ra", "dec"} & set(pl.read_parquet(done / f"data/shards/{split}/index.parquet").columns)


def test_a_one_sided_source_is_refused_by_name_unless_allowed(done: Path, tmp_path: Path) -> None:
    before = (done / "params.yaml").read_text()
    graph.set_params(done, lambda p: p["label_provenance"].update(one_sided_allowed=["hst_dinos"]))
    try:
        said = graph.run(done, "python", "-m", "stages.label_provenance", ok=False)
    finally:
        (done / "params.yaml").write_text(before)
    assert said.returncode == 1
    assert said.stderr.count("\n") == 1
    assert "des_lrg" in said.stderr


@pytest.mark.parametrize("name", ["hst-delensed", *FOLDERS])
def test_real_folders_are_scored_as_they_are(done: Path, folders: Path, tmp_path: Path, name: str) -> None:
    folder = REAL / name if name == "hst-delensed" else folders / name.replace("-", "_")
    out = tmp_path / "candidates.parquet"
    graph.run(done, "lensml", "score", str(folder), "--out", str(out))
    table = pl.read_parquet(out)
    assert sorted(table["object_id"]) == sorted(pl.read_csv(folder / "catalogue.csv", infer_schema=False)["object_id"])
    scored = table.filter(pl.col("reason") == "")
    assert scored["probability"].is_between(0, 1).all()
    assert scored["score"].is_finite().all()
    assert table.filter(pl.col("reason") != "")["score"].is_null().all()
    assert scored.height >= 0.7 * table.height, table["reason"].to_list()
    assert np.all(np.diff(scored["score"].to_numpy()) <= 0)
