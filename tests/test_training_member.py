"""The stages pretrain and train on small shards: what they write, the same bytes twice, and bad input in words."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import stages
from lensml import config, models, schema
from lensml.catalog import statistics
from lensml.store import shards, tables
from lensml.training import checkpoint, member, predict
from lensml.training.batches import Batches
from stages.pretrain import pretrain
from stages.train import train

ROOT = Path(__file__).parents[1]
BANDS, PIXELS = ["g", "r"], 16
SHARD = config.Shard(
    objects_per_shard=512,
    stamp_pixels=PIXELS,
    pixel_scale_min=0.1,
    common_pixel_scale=None,
    psf_pixels=25,
    features=["seeing"],
    bands=[*BANDS, "VIS"],
)


def write(folder: Path, count: int, seed: int, **given: Any) -> pl.DataFrame:
    """A split of `count` objects in two bands; a lens has a bar."""
    rng = np.random.default_rng(seed)
    label = [given.get("label", "lens" if i % 2 else "nonlens") for i in range(count)]
    values = dict.fromkeys(schema.SHARD_INDEX) | {
        "source": "s", "survey": "hsc", "label_source": "sim:s", "label_confidence": 1.0, "target_psf_fwhm": 1.05,
        "z_spec": -1.0, "axis_ratio": 0.5, "seeing": 0.7, "pixel_scale": 0.168, "psf_fwhm": 1.05,
    }  # fmt: skip
    columns = {name: [value] * count for name, value in (values | given).items()}
    columns |= {
        "object_id": [f"s.{seed}-{i}" for i in range(count)],
        "group_id": [f"g{seed}-{i}" for i in range(count)],
    }
    columns |= {"label": label, "bands": [BANDS] * count, "sky_sigma": [[1.0, 1.0]] * count}
    columns["axis_ratio"] = rng.uniform(0.2, 1, count).tolist()
    flux = rng.normal(size=(count, 2, PIXELS, PIXELS)).astype(np.float32)
    flux[:, 0, 4:7, 3:13] += 3 * np.array([name == "lens" for name in label])[:, None, None]
    with shards.ShardWriter(folder, 512) as writer:
        if count:
            table = pl.DataFrame(columns, schema=schema.SHARD_INDEX).drop(shards.PLACED)
            writer.append(table, flux, np.ones_like(flux))
    return shards.read_index(folder)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    text = (
        (ROOT / "params.yaml").read_text().replace("batch_size: 64", "batch_size: 16").replace("epochs: 8", "epochs: 2")
    )
    (tmp_path / "params.yaml").write_text(text.replace("threads: 2", "threads: 1"))
    folder = tmp_path / "data/shards"
    index = write(folder / "train", 48, 1)
    write(folder / "val", 21, 2)
    write(folder / "pretrain", 20, 3, label="unknown", label_source="pretrain:x", label_confidence=0.0)
    facts = statistics.fit(index, SHARD)
    tables.write_json({**facts, "data_hash": shards.digest(folder / "train")}, folder / "statistics.json")
    return tmp_path


def go(arch: str) -> dict[str, str]:
    stages.run(pretrain, {"arch": arch})
    stages.run(train, {"arch": arch})
    outs = [f"data/backbones/{arch}", f"data/models/{arch}", f"metrics/pretrain/{arch}", f"metrics/train/{arch}"]
    files = sorted(path for out in outs for path in Path(out).rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("arch", sorted(models.MODELS))
def test_both_stages_twice_write_the_same_bytes(arch: str, project: Path) -> None:
    first = go(arch)
    assert {"backbone.pt", "model.ckpt", "val_scores.parquet", "metrics.json"} <= {Path(name).name for name in first}
    assert go(arch) == first
    assert not (project / "data/resume").exists() or not any((project / "data/resume").rglob("*.ckpt"))
    assert str(project).encode() not in b"".join(Path(name).read_bytes() for name in first)
    assert b".part" not in b"".join(Path(name).read_bytes() for name in first)


def test_the_checkpoint_gives_the_validation_scores_again(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go("film_conditioned")
    said = capsys.readouterr().out
    assert "pretrained on 20 objects" in said
    assert "AUPRC in validation, trained at " in said
    network, made = checkpoint.load(project / "data/models/film_conditioned/model.ckpt")
    scores = tables.read_parquet(project / "data/models/film_conditioned/val_scores.parquet", schema.SCORES)
    batches = Batches(project / "data/shards/val", made.normalisation, 16, None)
    np.testing.assert_allclose(predict.logits(network, batches.epoch(0)), scores["logit"], rtol=0, atol=1e-6)
    assert scores["object_id"].to_list() == [f"s.2-{i}" for i in range(21)]
    assert scores.select("label", "survey").row(1) == ("lens", "hsc")
    assert (made.bands, made.stamp_pixels, made.features) == ([*BANDS, "VIS"], PIXELS, ["seeing"])
    assert made.psf_targets == {"hsc": 1.05}
    assert made.data_hash == shards.digest(project / "data/shards/train")
    metrics = tables.read_json(project / "metrics/train/film_conditioned/metrics.json")
    assert {"objects", "best_epoch", "best_val_auprc", "val_auprc", "val_auroc", "train_loss", "step"} <= set(metrics)


def test_nothing_to_pretrain_on_is_said_and_trains_all_the_same(project: Path, capsys: Any) -> None:
    shutil.rmtree(project / "data/shards/pretrain")
    write(project / "data/shards/pretrain", 0, 3)
    go("robust_resnet")
    assert "nothing to pretrain on: weights as drawn" in capsys.readouterr().out


def test_an_unknown_architecture_is_refused_before_anything_is_written(project: Path) -> None:
    with pytest.raises(ValueError, match=r"arch must be one of bayesian_ensemble, .*, robust_resnet, got 'vit'"):
        stages.run(pretrain, {"arch": "vit"})
    assert not list(Path("data/backbones").glob("*"))


def test_a_backbone_of_other_bands_is_refused(project: Path) -> None:
    stages.run(pretrain, {"arch": "robust_resnet"})
    facts = tables.read_json(project / "data/shards/statistics.json")
    tables.write_json({**facts, "bands": ["g", "VIS", "r"]}, project / "data/shards/statistics.json")
    with pytest.raises(schema.ContractError, match="bands must be"):
        stages.run(train, {"arch": "robust_resnet"})


def test_every_augmentation_at_once_trains_to_the_same_bytes(project: Path) -> None:
    text = Path("params.yaml").read_text()
    for name, most in (("shift_pixels", 0.5), ("psf_jitter", 0.02), ("depth_mag", 0.5)):
        text = text.replace(f"{name}: 0.0", f"{name}: {most}")
    Path("params.yaml").write_text(text.replace("epochs: 12", "epochs: 1"))
    first = go("enhanced_vit")
    assert go("enhanced_vit") == first


def test_physics_asked_of_a_network_without_it_is_refused(project: Path) -> None:
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("required: []", "required: [robust_resnet]"))
    stages.run(pretrain, {"arch": "robust_resnet"})
    with pytest.raises(ValueError, match="physics in the loss, got robust_resnet: it knows no term"):
        stages.run(train, {"arch": "robust_resnet"})


def test_a_split_of_one_label_is_refused(project: Path) -> None:
    stages.run(pretrain, {"arch": "robust_resnet"})
    shutil.rmtree(project / "data/shards/val")
    write(project / "data/shards/val", 5, 2, label="lens")
    with pytest.raises(schema.ContractError, match="val must hold lenses and non-lenses only, got lens"):
        stages.run(train, {"arch": "robust_resnet"})


def test_psf_targets_leave_out_what_was_not_matched() -> None:
    index = pl.DataFrame({"survey": ["b", "a", "b"], "target_psf_fwhm": [1.5, None, 1.5]})
    assert member.psf_targets(index) == {"b": 1.5}
