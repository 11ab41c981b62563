"""Stages fuse and evaluate on shards and networks made here: figures against scikit-learn, bytes against a rerun."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

import stages
from lensml import config, models, paths, schema
from lensml.catalog import statistics
from lensml.evaluation import exhibits
from lensml.store import shards, tables
from lensml.training import checkpoint
from stages.evaluate import evaluate
from stages.fuse import fuse

PARAMS = Path(__file__).parents[1] / "params.yaml"
MEMBERS = config.load(PARAMS).train.members
SIDE = 48
SURVEYS = {"hsc": ["g", "r", "i"], "euclid": ["VIS"]}


def objects(survey: str, n: int, first: int) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """Half of them brighter ones, called lenses; every fourth label is observed, the others simulated."""
    rng, bands = np.random.default_rng(first), SURVEYS[survey]
    lens = np.arange(n) % 2 == 0
    real = np.arange(n) % 8 >= 6
    values: dict[str, object] = {name: [None] * n for name in schema.SHARD_INDEX}
    values |= {
        "object_id": [f"s.{survey}-{first + i}" for i in range(n)],
        "group_id": [f"g{(first + i) // 2}" for i in range(n)],
        "source": ["s"] * n,
        "survey": [survey] * n,
        "label": np.where(lens, "lens", "nonlens").tolist(),
        "label_source": np.where(real, "obs:x", "sim:lensml").tolist(),
        "label_confidence": [1.0] * n,
        "flux_ratio": [float(r) if own else None for r, own in zip(rng.random(n), lens, strict=True)],
        "z_phot": rng.random(n).tolist(),
        "bands": [bands] * n,
        "sky_sigma": [[2.0] * len(bands)] * n,
        "magnitude": rng.normal(20, 1, (n, len(bands))).tolist(),
        "half_light_radius": rng.random(n).tolist(),
        "pixel_scale": [0.168] * n,
    }
    flux = rng.normal(0, 2, (n, len(bands), SIDE, SIDE)) + 6 * lens[:, None, None, None] * rng.random((n, 1, 1, 1))
    table = pl.DataFrame(values, schema=schema.SHARD_INDEX).drop(shards.PLACED)
    return table, flux.astype(np.float32), np.full(flux.shape, 4, np.float32)


def write_split(folder: Path, n: int, first: int) -> None:
    with shards.ShardWriter(folder, 512) as writer:
        for survey in SURVEYS:
            writer.append(*objects(survey, n, first))


def write_model(arch: str, facts: dict, index: pl.DataFrame, data_hash: str = "1") -> None:
    """A network that learnt nothing and a validation table that tells lens from non-lens with noise."""
    torch.manual_seed(len(arch))
    width = statistics.metadata(index, facts).shape[1]
    network = models.build(arch, "tiny", facts["bands"], SIDE, width)
    made = checkpoint.Checkpoint(
        schema_version=schema.SCHEMA_VERSION, arch=arch, size="tiny", bands=facts["bands"], stamp_pixels=SIDE,
        pixel_scale_min=0.1, features=list(facts["features"]), metadata=width, normalisation=facts, data_hash=data_hash,
        psf_targets={}, params={}, versions={}, state_dict=checkpoint.weights(network),
    )  # fmt: skip
    checkpoint.save(made, Path(paths.MODEL.format(arch=arch)) / "model.ckpt")
    rng = np.random.default_rng(len(arch))
    lens = np.arange(60) % 2 == 0
    names = pl.Series([f"v{i}" for i in range(60)])
    table = {"object_id": names, "group_id": names, "survey": ["hsc"] * 60, "label": np.where(lens, "lens", "nonlens")}
    scores = pl.DataFrame({**table, "logit": rng.normal(2.0 * lens - 1, 1)})
    tables.write_parquet(scores, schema.SCORES, val_scores(arch))


def val_scores(arch: str) -> Path:
    return Path(paths.MODEL.format(arch=arch)) / "val_scores.parquet"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, networks and validation scores; fuse and evaluate have run."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        text = PARAMS.read_text().replace("bootstrap_draws: 400", "bootstrap_draws: 20")
        Path(paths.PARAMS).write_text(text)
        for first, split in enumerate(("train", "test")):
            write_split(Path(paths.SHARDS.format(split=split)), 32, first * 1000)
        index = shards.read_index(Path(paths.SHARDS.format(split="train")))
        shard = config.load(Path(paths.PARAMS)).shard.model_copy(update={"bands": ["g", "r", "i", "VIS"]})
        facts = {**statistics.fit(index, shard), "stamp_pixels": SIDE}
        for arch in MEMBERS:
            write_model(arch, facts, index)
        stages.run(fuse, {})
        stages.run(evaluate, {})
    return folder


@pytest.fixture(autouse=True)
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


def written() -> dict[str, bytes]:
    files = [
        Path(paths.FUSION),
        Path(paths.TEST_SCORES),
        Path(paths.FUSE_REPORT),
        Path(paths.EVALUATION),
        Path(paths.STRATA),
    ]
    return {str(path): path.read_bytes() for path in [*files, *sorted(Path(paths.PLOTS).iterdir())]}


def test_figures_equal_scikit_learns_on_the_table_of_scores() -> None:
    scores = pl.read_parquet(paths.TEST_SCORES)
    report = tables.read_json(Path(paths.STRATA))
    assert scores.height == 64
    for kind, own in (("simulated", "sim:"), ("real", "obs:")):
        part = scores.filter(pl.col("label_source").str.starts_with(own))
        y = part["label"] == "lens"
        assert report[kind]["n_lens"] + report[kind]["n_nonlens"] == part.height
        assert report[kind]["auroc"] == pytest.approx(roc_auc_score(y, part["logit"]), abs=1e-6)
        assert report[kind]["auprc"] == pytest.approx(average_precision_score(y, part["logit"]), abs=1e-6)
        assert report[kind]["baseline"]["auroc"] == pytest.approx(roc_auc_score(y, part["baseline"]), abs=1e-6)
        for member in MEMBERS:
            found = report[kind]["members"][member]["auroc"]
            assert found == pytest.approx(roc_auc_score(y, part[f"logit_{member}"]), abs=1e-6)


def test_the_fused_logit_is_the_weighted_sum_and_its_probability_the_logistic_of_it() -> None:
    scores, fusion = pl.read_parquet(paths.TEST_SCORES), json.loads(Path(paths.FUSION).read_text())
    logit = fusion["intercept"] + sum(
        weight * scores[f"logit_{name}"].to_numpy()
        for name, weight in zip(fusion["members"], fusion["weights"], strict=True)
    )
    np.testing.assert_allclose(scores["logit"], logit, atol=1e-12)
    np.testing.assert_allclose(scores["probability"], 1 / (1 + np.exp(-logit)), atol=1e-12)


def test_everything_to_look_at_is_there() -> None:
    names = {path.name for path in Path(paths.PLOTS).iterdir()}
    curves = {
        f"{name}_{kind}.csv" for name in ("roc", "purity_completeness", "reliability", "scores") for kind in KINDS
    }
    assert names == curves | {f"{name}_{kind}.png" for name in ("curves", "highest", "misses") for kind in KINDS}


KINDS = ("simulated", "real")


def test_curves_of_a_kind_that_is_absent_are_files_without_rows(tmp_path: Path) -> None:
    test = Path(paths.SHARDS.format(split="test"))
    index = shards.read_index(test)
    scores = pl.read_parquet(paths.TEST_SCORES).select("logit", "probability", "baseline")
    table = pl.concat([index, scores], how="horizontal").with_columns(pl.lit("sim:x").alias("label_source"))
    pictures = exhibits.write(table, test, [], config.load(Path(paths.PARAMS)).evaluate, tmp_path)
    assert pictures == ["curves_simulated.png", "highest_simulated.png", "misses_simulated.png"]
    assert (tmp_path / "roc_real.csv").read_text() == "fpr,tpr\n"
    assert len(list(tmp_path.glob("*_real.csv"))) == 4


def test_a_rerun_gives_the_same_bytes_and_says_where_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    before = written()
    stages.run(fuse, {})
    stages.run(evaluate, {})
    assert written() == before
    told = capsys.readouterr().out
    assert "metrics/evaluate.json" in told
    assert "metrics/plots/highest_real.png" in told
    assert "real labels: 8 lenses, 8 non-lenses" in told


def test_one_class_in_validation_is_refused_and_the_old_fusion_stays() -> None:
    before, kept = written(), {arch: val_scores(arch).read_bytes() for arch in MEMBERS}
    try:
        for arch in MEMBERS:
            lenses = pl.read_parquet(val_scores(arch)).with_columns(pl.lit("lens").alias("label"))
            lenses.write_parquet(val_scores(arch))
        with pytest.raises(ValueError, match="both lenses and non-lenses to fit a fusion, got 60 and 0"):
            stages.run(fuse, {})
    finally:
        for arch, content in kept.items():
            val_scores(arch).write_bytes(content)
    assert written() == before


def test_members_of_different_data_are_refused() -> None:
    path = Path(paths.MODEL.format(arch=MEMBERS[0])) / "model.ckpt"
    kept = path.read_bytes()
    try:
        checkpoint.write({**checkpoint.read(path), "data_hash": "2"}, path)
        with pytest.raises(schema.ContractError, match="trained on the same shards, got 2 different ones"):
            stages.run(evaluate, {})
    finally:
        path.write_bytes(kept)
