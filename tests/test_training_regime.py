"""What is judged and kept, and at which rate: averages by their sum, rates by torch's own, figures by Bologna's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lensml import config, models
from lensml.evaluation import metrics
from lensml.training import fit, module
from tests.fitting import FIT, METADATA, PIXELS, Planted, rows, run
from tests.test_training_fit import Killed, killing, trained


def fitted(folder: Path, **of: Any) -> tuple[fit.Fitted, nn.Module, Path]:
    params = FIT.model_copy(update=of)
    with fit.reproducible(1, 1):
        network = models.build("film_conditioned", "tiny", "gr", PIXELS, METADATA)
        found = fit.fit(network, Planted(1, True), Planted(2, False), params, run(folder, "log"))
    return found, network, folder / "log"


def flat(network: nn.Module) -> np.ndarray[Any, Any]:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).numpy()


def test_the_kept_weights_are_the_average_over_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches a step, three steps an epoch; the first step is copied, then decay min(d, (1 + n) / (10 + n))."""
    steps: list[np.ndarray[Any, Any]] = []
    update = AveragedModel.update_parameters

    def recorded(self: AveragedModel, model: nn.Module) -> None:
        steps.append(flat(model))
        update(self, model)

    monkeypatch.setattr(AveragedModel, "update_parameters", recorded)
    found, network, _ = fitted(tmp_path, ema_decay=0.4)
    assert len(steps) == 9
    mean = steps[0].astype(np.float64)
    for n, weights in enumerate(steps[1 : 3 * (found.epoch + 1)], start=1):
        decay = min(0.4, (1 + n) / (10 + n))
        mean = decay * mean + (1 - decay) * weights
    kept = flat(network)
    np.testing.assert_allclose(kept, mean, rtol=0, atol=1e-6)
    assert np.abs(kept - steps[3 * (found.epoch + 1) - 1]).max() > 1e-4  # a hundred times the tolerance above


def test_without_average_the_weights_are_those_of_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AveragedModel, "update_parameters", None)  # would raise
    assert fitted(tmp_path, ema_decay=0.0)[0].auprc > 0


@pytest.mark.parametrize("patience", [0, 1])
def test_plateau_lowers_the_rate_as_torch_does(patience: int, tmp_path: Path) -> None:
    plateau = config.Plateau(factor=0.5, patience_epochs=patience)
    of = {"epochs": 6, "patience_epochs": 9, "learning_rate": 1e-2, "warmup_fraction": 0.2}
    log = fitted(tmp_path, schedule="plateau", plateau=plateau, **of)[2]
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-2)
    rule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, "max", 0.5, patience, threshold=0, eps=0)
    expected = []
    for score in rows(log, "val_auprc"):
        rule.step(score)
        expected.append(optimiser.param_groups[0]["lr"])
    assert rows(log, "learning_rate")[2:] == pytest.approx(expected[2:])  # the warm-up ends within the second epoch
    assert expected[-1] < 1e-2


def test_a_resumed_plateau_is_as_unbroken(tmp_path: Path) -> None:
    params = FIT.model_copy(update={"schedule": "plateau", "epochs": 4, "learning_rate": 1e-2})
    whole = trained(tmp_path, "whole", params)
    for epoch in (2, 3):
        with pytest.raises(Killed):
            trained(tmp_path, "broken", params, spoil=killing(epoch, 1))
    assert trained(tmp_path, "resumed", params) == whole


def test_each_epoch_states_the_rate_and_what_bologna_asks_for(tmp_path: Path) -> None:
    found, _, log = fitted(tmp_path)
    assert rows(log, "learning_rate") == pytest.approx([3e-3 * module.rate(n, 9, 1) for n in (3, 6, 9)], abs=1e-9)
    label = Planted(2, False).label
    for name, limit in (("val_tpr_at_fpr_0", 0.0), ("val_tpr_at_fpr_0.1", 0.1)):
        expected, _ = metrics.compute_tpr_at_fpr(label, found.logits, limit)
        assert rows(log, name)[found.epoch] == pytest.approx(expected, abs=1e-6)
    assert found.stamps_per_s > 0
    assert not [path for path in log.rglob("*") if path.is_file() and "stamps_per_s" in path.read_text()]


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_the_evaluation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label, logit = rng.integers(0, 2, 90), np.round(rng.normal(size=90), 1)  # rounded: with ties
    counts = metrics.count(label, logit)
    expected = {"auprc": metrics.auprc(counts), "auroc": metrics.auroc(counts)}
    expected |= {"tpr_at_fpr_0": metrics.tpr0(counts), "tpr_at_fpr_0.1": metrics.tpr_at_fpr(0.1)(counts)}
    assert module.figures(label, logit) == pytest.approx({name: float(v[0]) for name, v in expected.items()})
