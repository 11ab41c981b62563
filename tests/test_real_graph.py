"""The main job on real survey files beside a simulated source, and the ensemble on their folders."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests import graph
from tests.real_sample import CATALOGUES, PIXELS, REAL, needs_real

pytestmark = [pytest.mark.graph, pytest.mark.xdist_group("real"), needs_real]
ONE_SIDED = ("hst_dinos", "hst_cosmos", "hst_delensed", "kids_sdss", "hsc_hst_blends", "cfht_sl2s")
OBJECTS = {
    "bologna_ground": 12, "bologna_space": 16, "cfht_sl2s": 1, "des_lrg": 5, "euclid_q1": 1, "hsc_stars": 10,
    "hsc_hst_blends": 2, "hst_cosmos": 50, "hst_delensed": 22, "hst_dinos": 32, "hst_slacs": 2, "kids_field": 1,
    "kids_sdss": 10,
}  # fmt: skip


def real(params: dict[str, Any]) -> None:
    """Every real set and catalogue beside the small simulated source."""
    graph.tiny(params)
    params["sources"] |= copy.deepcopy({**PIXELS, **CATALOGUES})
    params["sources"]["euclid_q1"]["bands"] = ["VIS"]  # what the ground sees is never made as sharp as VIS
    params["label_provenance"]["one_sided_allowed"] = list(ONE_SIDED)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = graph.checkout(tmp_path_factory.mktemp("real"), real)
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
    assert {name: objects[name] for name in objects if name != "simulated"} == OBJECTS
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
    graph.set_params(done, lambda p: p["label_provenance"].update(one_sided_allowed=[*ONE_SIDED[1:]]))
    try:
        said = graph.run(done, "python", "-m", "stages.label_provenance", ok=False)
    finally:
        (done / "params.yaml").write_text(before)
    assert said.returncode == 1
    assert said.stderr.count("\n") == 1
    assert "hst_dinos" in said.stderr


def test_catalogues_label_what_stands_where_they_say(done: Path) -> None:
    """The CFHT lens is in lenscat twice; the catalogues themselves are no objects."""
    labels = pl.read_parquet(done / "data/labels/labels.parquet")
    (row,) = labels.filter(pl.col("source") == "cfht_sl2s").to_dicts()
    assert (row["label"], row["label_source"], row["use"]) == ("lens", "obs:lenscat", "classify")
    assert not set(labels["source"]) & set(CATALOGUES)
    told = read_json(done / "metrics/label_provenance.json")["catalogues"]
    assert set(told) == set(CATALOGUES)
    conflicts = pl.read_parquet(done / "data/labels/conflicts.parquet")
    assert conflicts.filter(pl.col("object_id").str.starts_with("lenscat.")).height > 100
    assert (conflicts["rule"] != "").all()


def test_a_real_folder_is_scored_as_it_is(done: Path, tmp_path: Path) -> None:
    folder, out = REAL / "hst-delensed", tmp_path / "candidates.parquet"
    graph.run(done, "lensml", "score", str(folder), "--out", str(out))
    table = pl.read_parquet(out)
    assert sorted(table["object_id"]) == sorted(pl.read_csv(folder / "catalogue.csv", infer_schema=False)["object_id"])
    scored = table.filter(pl.col("reason") == "")
    assert scored["probability"].is_between(0, 1).all()
    assert scored["score"].is_finite().all()
    assert table.filter(pl.col("reason") != "")["score"].is_null().all()
    assert scored.height >= 0.7 * table.height, table["reason"].to_list()
    assert np.all(np.diff(scored["score"].to_numpy()) <= 0)


@pytest.mark.parametrize("name", ["euclid_q1", "hst_dinos", "des_lrg"])
def test_a_contact_sheet_of_a_real_set_is_drawn(done: Path, tmp_path: Path, name: str) -> None:
    graph.run(done, "lensml", "look", name, "--out", str(tmp_path / "sheet.png"))
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
