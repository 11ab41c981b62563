"""model.ckpt comes back as it was, in the same bytes; a broken, foreign or malicious file is refused in words."""

import dataclasses
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensml import models
from lensml.models.network import Network
from lensml.schema import SCHEMA_VERSION, ContractError
from lensml.training import checkpoint, predict

ARCHS = sorted(models.MODELS)
BANDS, PIXELS, METADATA = ["g", "r"], 16, 6


def network(arch: str) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return models.build(arch, "tiny", BANDS, PIXELS, METADATA)


def content(net: Network, arch: str) -> checkpoint.Checkpoint:
    return checkpoint.Checkpoint(
        schema_version=SCHEMA_VERSION, arch=arch, size="tiny", bands=BANDS, stamp_pixels=PIXELS, pixel_scale_min=0.1,
        features=["seeing", "quality"], metadata=METADATA, normalisation={"seeing": {"mean": 0.8, "std": 0.1}},
        data_hash="0" * 64, psf_targets={"hsc": 1.05}, params={"train": {"epochs": 3}}, versions={"torch": "2"},
        state_dict=checkpoint.weights(net),
    )  # fmt: skip


def batches() -> list[dict[str, torch.Tensor]]:
    rng = np.random.default_rng(1)
    stamps, metadata = rng.normal(size=(7, 2, PIXELS, PIXELS)), rng.normal(size=(7, METADATA))
    whole = {"stamps": torch.from_numpy(stamps).float(), "metadata": torch.from_numpy(metadata).float()}
    whole |= {"log_variance": torch.zeros_like(whole["stamps"]), "psf": torch.full((7, 2, 5, 5), 0.04)}
    whole |= {"pixel_scale": torch.full((7,), 0.2), "sky_sigma": torch.ones(7, 2)}
    return [{name: value[part] for name, value in whole.items()} for part in (slice(0, 4), slice(4, 7))]


@pytest.mark.parametrize("arch", ARCHS)
def test_a_network_comes_back_with_equal_scores(arch: str, tmp_path: Path) -> None:
    net = network(arch)
    saved = content(net, arch)
    checkpoint.save(saved, tmp_path / "model.ckpt")
    back, read = checkpoint.load(tmp_path / "model.ckpt")
    np.testing.assert_array_equal(predict.logits(back, batches()), predict.logits(net, batches()))
    assert dataclasses.replace(read, state_dict={}) == dataclasses.replace(saved, state_dict={})


def test_bytes_depend_on_the_content_alone(tmp_path: Path) -> None:
    for name in ("a/model.ckpt", "b/other.pt"):
        checkpoint.save(content(network("robust_resnet"), "robust_resnet"), tmp_path / name)
    assert (tmp_path / "a/model.ckpt").read_bytes() == (tmp_path / "b/other.pt").read_bytes()
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == ["model.ckpt", "other.pt"]


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("how", ["torch", "pickle", "legacy"])
def test_a_file_that_would_run_code_runs_none(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.ckpt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save({"arch": Bomb()}, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(ContractError, match=r"model\.ckpt must"):
        checkpoint.load(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, -1, -30])
def test_a_truncated_file_is_refused(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    checkpoint.save(content(network("film_conditioned"), "film_conditioned"), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ContractError, match=r"model\.ckpt must"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": "1.0"}, "schema_version must be '2.0', got '1.0'"),
        ({"arch": "vit"}, "arch must be one of bayesian_ensemble, .*, robust_resnet, got 'vit'"),
        ({"bands": ["g", "r", "i"]}, "must hold the weights of RobustResNet"),
        ({"arch": "film_conditioned"}, "must hold the weights of FilmConditioned"),
        ({"size": "huge"}, "size must be one of base, tiny, got 'huge'"),
        ({"bands": "gr"}, "bands must be a list"),
        ({"state_dict": {"head.weight": 3}}, "must hold the weights"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    saved = dataclasses.replace(content(network("robust_resnet"), "robust_resnet"), **change)
    checkpoint.save(saved, tmp_path / "model.ckpt")
    with pytest.raises(ContractError, match=message.replace("(", r"\(")):
        checkpoint.load(tmp_path / "model.ckpt")


def test_other_torch_files_are_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({"schema_version": SCHEMA_VERSION}, tmp_path / "empty.ckpt")
    with zipfile.ZipFile(tmp_path / "zip.ckpt", "w") as file:
        file.writestr("a", "b")
    with pytest.raises(ContractError, match="must hold a mapping"):
        checkpoint.load(tmp_path / "list.ckpt")
    with pytest.raises(ContractError, match="must hold arch, size"):
        checkpoint.load(tmp_path / "empty.ckpt")
    with pytest.raises(ContractError, match="must be a whole file"):
        checkpoint.load(tmp_path / "zip.ckpt")
    with pytest.raises(FileNotFoundError, match="must exist"):
        checkpoint.load(tmp_path / "none.ckpt")


def test_another_band_set_is_refused(tmp_path: Path) -> None:
    saved = content(network("robust_resnet"), "robust_resnet")
    with pytest.raises(ContractError, match=r"bands must be \['g', 'i'\], got \['g', 'r'\]"):
        checkpoint.require(saved, tmp_path / "model.ckpt", bands=["g", "i"])


def backbone(net: Network, arch: str) -> checkpoint.Backbone:
    return checkpoint.Backbone(
        schema_version=SCHEMA_VERSION, arch=arch, size="tiny", bands=BANDS, stamp_pixels=PIXELS, metadata=METADATA,
        objects=12, targets=["z_spec"], state_dict=checkpoint.weights(net, head=False),
    )  # fmt: skip


def test_a_backbone_brings_everything_but_the_head(tmp_path: Path) -> None:
    first, second = network("enhanced_vit"), network("enhanced_vit")
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.5)
    head = second.head.weight.clone()
    checkpoint.save(backbone(first, "enhanced_vit"), tmp_path / "backbone.pt")
    checkpoint.load_backbone(second, {"size": "tiny", "bands": BANDS}, tmp_path / "backbone.pt")
    assert torch.equal(second.head.weight, head)
    theirs = second.state_dict()
    assert all(torch.equal(value, theirs[n]) for n, value in first.state_dict().items() if not n.startswith("head."))


def test_a_backbone_of_another_size_is_refused(tmp_path: Path) -> None:
    net = network("robust_resnet")
    checkpoint.save(backbone(net, "robust_resnet"), tmp_path / "backbone.pt")
    with pytest.raises(ContractError, match="size must be 'base', got 'tiny'"):
        checkpoint.load_backbone(net, {"size": "base"}, tmp_path / "backbone.pt")


def test_a_logit_that_is_no_number_is_an_error() -> None:
    net = network("robust_resnet")
    broken = batches()
    broken[1]["stamps"][2, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="logit must be finite, got nan for 1 object"):
        predict.logits(net, broken)
