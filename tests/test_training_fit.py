"""Training learns a planted signal, and ends in the same bytes however it was interrupted."""

import hashlib
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lensml import config, models
from lensml.models.network import Explained
from lensml.training import checkpoint, fit, module
from lensml.training.progress import Resume
from tests.fitting import BANDS, FIT, METADATA, OBJECTS, PIXELS, PRETRAIN, Planted, rows, run


class Killed(BaseException):
    """What SIGKILL leaves behind is what is on disk; so does this."""


def killing(at: int, batch: int) -> Callable[[int, dict[str, Tensor]], None]:
    left = [batch]

    def spoil(epoch: int, _: dict[str, Tensor]) -> None:
        left[0] -= epoch == at
        if left[0] < 0:
            raise Killed

    return spoil


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert files
    return hashlib.sha256(b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)).hexdigest()


def trained(folder: Path, name: str, params: config.Fit = FIT, arch: str = "robust_resnet", **of: Any) -> str:
    """Train, write everything a stage would, and say in one hash what was written."""
    with fit.reproducible(params.seed, 1):
        network = models.build(arch, params.size, "gr", PIXELS, METADATA)
        found = fit.fit(network, Planted(1, True, of.get("spoil")), Planted(2, False), params, run(folder, name))
    weights = {"weights": checkpoint.weights(network), "logits": found.logits.tolist()}
    checkpoint.write(weights, folder / name / "model.ckpt")
    return digest(folder / name)


def test_a_planted_signal_is_learnt(tmp_path: Path) -> None:
    with fit.reproducible(1, 1):
        network = models.build("film_conditioned", "tiny", "gr", PIXELS, METADATA)
        params = FIT.model_copy(update={"epochs": 6})
        found = fit.fit(network, Planted(1, True), Planted(2, False), params, run(tmp_path, "log"))
    assert found.auprc > 0.95  # by chance: 0.5
    assert found.logits.dtype == np.float64
    lens = Planted(2, False).label == 1
    pairs = found.logits[lens][:, None] > found.logits[~lens][None]  # AUROC by its definition
    assert pairs.mean() > 0.95
    assert not (tmp_path / "resume").exists()


@pytest.mark.parametrize("arch", sorted(models.MODELS))
def test_killed_and_resumed_is_as_unbroken(arch: str, tmp_path: Path) -> None:
    whole = trained(tmp_path, "whole", arch=arch)
    for epoch, batch in ((0, 3), (1, 0), (2, 5)):
        with pytest.raises(Killed):
            trained(tmp_path, "broken", arch=arch, spoil=killing(epoch, batch))
        assert (tmp_path / "resume" / "train.ckpt").exists() == (epoch > 0)
    assert trained(tmp_path, "resumed", arch=arch) == whole


def test_a_terminated_training_says_so_and_resumes(tmp_path: Path) -> None:
    whole, asked = trained(tmp_path, "whole"), []

    def terminate(epoch: int, _: dict[str, Tensor]) -> None:
        if epoch == 1 and not asked:
            asked.append(os.kill(os.getpid(), signal.SIGTERM))

    with pytest.raises(SystemExit) as ended:
        trained(tmp_path, "broken", spoil=terminate)
    assert ended.value.code == 143  # as a shell has it; Lightning's own is 0
    assert trained(tmp_path, "resumed") == whole


@pytest.mark.parametrize("patience", [1, 3])
def test_killed_after_the_last_epoch(patience: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped early or not: a resumed run knows that there is nothing left to train."""
    falls = FIT.model_copy(update={"patience_epochs": patience, "learning_rate": 1e-9})
    whole = trained(tmp_path, "whole", falls)
    rows = len((tmp_path / "whole/plots/metrics/val_auprc.tsv").read_text().splitlines()) - 1
    assert rows == (2 if patience == 1 else 3)  # nothing is learnt: the second epoch is not better than the first
    after = Resume.on_train_epoch_end

    def killed(self: Resume, trainer: Any, pl_module: Any) -> None:
        after(self, trainer, pl_module)
        if trainer.current_epoch == rows - 1:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Resume, "on_train_epoch_end", killed)
        with pytest.raises(Killed):
            trained(tmp_path, "broken", falls)
    assert trained(tmp_path, "resumed", falls) == whole


@pytest.mark.parametrize("how", ["cut", "garbage", "foreign", "other inputs"])
def test_a_resume_file_that_cannot_be_used_is_none(how: str, tmp_path: Path) -> None:
    whole = trained(tmp_path, "whole")
    with pytest.raises(Killed):
        trained(tmp_path, "broken", spoil=killing(2, 1))
    file = tmp_path / "resume" / "train.ckpt"
    (tmp_path / "resume" / ".train.ckpt.writing").write_bytes(b"killed while writing")
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-1000])
    elif how == "garbage":
        file.write_bytes(b"\0" * 100)
    elif how == "foreign":
        torch.save({"fingerprint": "other"}, file)
    else:
        values = torch.load(file, weights_only=True)
        torch.save({**values, "fingerprint": "other"}, file)
    assert trained(tmp_path, "again") == whole


def test_a_loss_that_is_no_number_names_the_objects(tmp_path: Path) -> None:
    def spoil(epoch: int, batch: dict[str, Tensor]) -> None:
        batch["stamps"][batch["row"] == 40] = torch.inf

    with pytest.raises(ValueError, match=r"loss must be finite, got nan for planted\.40 \(epoch 0\)"):
        trained(tmp_path, "log", spoil=spoil)


def test_batches_must_make_up_an_effective_batch(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.fit\.effective_batch_size must be a multiple"):
        trained(tmp_path, "log", FIT.model_copy(update={"effective_batch_size": 24}))


def pretrained(folder: Path, targets: np.ndarray[Any, Any], spoil: Any = None) -> tuple[int, dict[str, Tensor]]:
    with fit.reproducible(1, 1):
        network = models.build("robust_resnet", "tiny", "gr", PIXELS, METADATA)
        objects = fit.pretrain(network, Planted(1, True, spoil), targets, PRETRAIN, run(folder, "log"))
    return objects, checkpoint.weights(network)


def test_pretraining_moves_the_backbone_and_leaves_the_head(tmp_path: Path) -> None:
    targets = np.stack([Planted(1, True).label + 1.0, np.full(OBJECTS, -1.0)], axis=1)
    targets[:10, 0] = np.nan
    _, drawn = pretrained(tmp_path, np.full((OBJECTS, 1), np.nan))
    objects, learnt = pretrained(tmp_path, targets)
    assert objects == OBJECTS - 10
    assert all(torch.equal(drawn[name], learnt[name]) for name in drawn if name.startswith("head."))
    assert not all(torch.equal(drawn[name], learnt[name]) for name in drawn)
    losses = rows(tmp_path / "log", "train_loss")
    assert losses[-1] < losses[0]


def test_nothing_to_pretrain_on_is_said_in_a_metric(tmp_path: Path) -> None:
    objects, _ = pretrained(tmp_path, np.full((OBJECTS, 1), -1.0))
    assert objects == 0
    assert (tmp_path / "log/metrics.json").read_text().split() == ["{", '"objects":', "0", "}"]


def test_pretraining_resumes_to_the_same_weights(tmp_path: Path) -> None:
    targets = Planted(1, True).label[:, None] + 1.0
    _, whole = pretrained(tmp_path / "whole", targets)
    with pytest.raises(Killed):
        pretrained(tmp_path / "broken", targets, killing(1, 2))
    _, resumed = pretrained(tmp_path / "broken", targets)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert digest(tmp_path / "whole/log") == digest(tmp_path / "broken/log")


def test_targets_are_standardised_over_what_is_known() -> None:
    standard = fit.standardised(np.array([[1.0, -1, 7], [3, 2, 7], [np.nan, 4, 7]]))
    np.testing.assert_allclose(standard, [[-1, np.nan, np.nan], [1, -1, np.nan], [np.nan, 1, np.nan]])


def test_a_missing_target_costs_nothing() -> None:
    """Squared errors 4 and 9, the mean over what is known of each object; by hand."""
    network = models.build("film_conditioned", "tiny", "gr", PIXELS, METADATA)
    targets = torch.tensor([[2.0, torch.nan], [torch.nan, torch.nan], [2.0, 3.0]])
    learner = module.Regression(network, Planted(1, True), module.Schedule(1, 1e-3, 0, 0, 1), targets)
    torch.nn.init.zeros_(learner.to_targets.weight)
    torch.nn.init.zeros_(learner.to_targets.bias)
    batch = {"stamps": torch.zeros(3, BANDS, PIXELS, PIXELS), "metadata": torch.zeros(3, METADATA)}
    found = learner.losses({**batch, "row": torch.arange(3)})
    assert found.total.tolist() == [4, 0, 6.5]
    assert found.weight.tolist() == [1, 0, 2]


def test_the_loss_is_weighted_cross_entropy() -> None:
    """-log(3/4) at weight 1 and -log(1/4) at weight 3."""
    logit = torch.tensor([math.log(3), math.log(3)])
    network = models.build("robust_resnet", "tiny", "gr", PIXELS, METADATA)
    network.explained = lambda batch: Explained(logit, {}, logit < 0)  # type: ignore[method-assign]
    none = module.Schedule(1, 1e-3, 0, 0, 1)
    learner = module.Classification(network, Planted(1, True), none, Planted(2, False), module.Aim(0.0))
    batch = {"label": torch.tensor([1.0, 0.0]), "weight": torch.tensor([1.0, 3.0])}
    found = learner.losses(batch)
    loss = module.weighted_sum(found.total, found.weight) / 4
    assert float(loss) == pytest.approx((-math.log(3 / 4) - 3 * math.log(1 / 4)) / 4, rel=1e-6)


def test_the_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    rates = [module.rate(step, 12, 4) for step in range(13)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1
    assert rates[8] == pytest.approx(0.5)
    assert rates[12] == pytest.approx(0)
    assert [module.rate(0, 4, 0), module.rate(4, 4, 4)] == [1, 1]


def test_settings_of_torch_are_as_before_afterwards() -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    with fit.reproducible(3, 2):
        assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (2, True)
        torch.rand(3)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])
