"""Physics in the loss: weights by name, a curriculum, failures counted, and a network without it told so."""

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from lensml import config, models
from lensml.models.network import Explained, Network
from lensml.training import fit, module, physics
from tests.fitting import FIT, METADATA, OBJECTS, Planted, rows, run, weighted


class Lensing(Network):
    """Knows two terms: the square of one of its weights, which cannot be where row % 8 is 0, and how far theta_e is."""

    physics: ClassVar[tuple[str, ...]] = ("lens_equation", "theta_e")

    def __init__(self) -> None:
        super().__init__(METADATA)
        self.far = torch.nn.Parameter(torch.tensor(4.0))
        self.spoilt, self.half = -1, False
        self.seen: list[torch.dtype] = []

    def features(self, stamps: Tensor, metadata: Tensor, **beside: Tensor) -> Tensor:
        return metadata

    def explained(self, batch: Any) -> Explained:
        logit = self.logit(batch)
        self.seen.append(logit.dtype)
        failed = batch["row"] % 8 == 0
        losses = torch.where(failed, 0.0, self.far**2) + torch.where(batch["row"] == self.spoilt, torch.nan, 0.0)
        theta_e = torch.full_like(losses, 2.0)
        return Explained(logit, {"lens_equation": losses, "theta_e": theta_e.half() if self.half else theta_e}, failed)


def fitted(folder: Path, network: Network, terms: config.Physics, **of: Any) -> Path:
    params = FIT.model_copy(update={"physics": terms, **of})
    with fit.reproducible(1, 1):
        fit.fit(network, Planted(1, True), Planted(2, False), params, run(folder, "log"), "lensing")
    return folder / "log"


def test_the_curriculum_is_linear_from_weak_to_full() -> None:
    assert [physics.curriculum(epoch, 4) for epoch in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert physics.curriculum(0, 0) == 1


def test_the_loss_is_cross_entropy_and_the_terms_by_their_weights() -> None:
    """Epoch 0 of a warm-up of four: a fifth of 0.5 x 16 and of 0.25 x 2."""
    network, plan = Lensing(), module.Schedule(1, 1e-3, 0, 0, 1)
    torch.nn.init.zeros_(network.head.weight)
    torch.nn.init.zeros_(network.head.bias)
    aim = module.Aim(0.0, {"lens_equation": 0.5, "theta_e": 0.25}, 4)
    learner = module.Classification(network, Planted(1, True), plan, Planted(2, False), aim)
    batch = next(iter(Planted(1, False).epoch(0)))
    found = learner.losses(batch)
    expected = [math.log(2) + 0.2 * (0.5 * 16 * (row % 8 != 0) + 0.25 * 2) for row in range(16)]
    assert found.total.tolist() == pytest.approx(expected, rel=1e-6)
    assert found.failed.sum() == 2


def test_terms_failures_and_curriculum_are_logged_and_the_term_is_lowered(tmp_path: Path) -> None:
    network = Lensing()
    log = fitted(tmp_path, network, weighted(lens_equation=0.1, theta_e=1.0))
    assert rows(log, "physics_failed") == [OBJECTS / 8] * 3
    assert rows(log, "physics_weight") == pytest.approx([0.2, 0.4, 0.6])
    assert rows(log, "physics_theta_e") == pytest.approx([2.0] * 3)
    assert rows(log, "physics_lens_equation")[0] == pytest.approx(16 * 7 / 8, rel=0.01)
    assert 0 < float(network.far.detach()) < 4


def test_a_term_without_weight_is_left_out(tmp_path: Path) -> None:
    log = fitted(tmp_path, Lensing(), weighted(theta_e=1.0, colour_consistency=1.0))
    names = {path.stem for path in (log / "plots/metrics").glob("physics_*")}
    assert names == {"physics_failed", "physics_weight", "physics_theta_e"}


def test_a_term_that_is_no_number_is_named_with_its_objects(tmp_path: Path) -> None:
    network = Lensing()
    network.spoilt = 41
    with pytest.raises(ValueError, match=r"lens_equation must be finite, got nan for planted\.41 \(epoch 0\)"):
        fitted(tmp_path, network, weighted(lens_equation=0.1))


def test_half_precision_is_for_networks_and_not_for_physics(tmp_path: Path) -> None:
    network, mixed = Lensing(), {"default": "32-true", "lensing": "bf16-mixed"}
    log = fitted(tmp_path / "mixed", network, weighted(theta_e=1.0), precision=mixed)
    assert set(network.seen) == {torch.bfloat16}
    assert rows(log, "physics_theta_e") == pytest.approx([2.0] * 3)
    network.half = True
    with pytest.raises(TypeError, match=r"physics term theta_e must be float32 or float64, got torch\.float16"):
        fitted(tmp_path / "half", network, weighted(theta_e=1.0))


def test_physics_asked_of_a_model_without_it() -> None:
    plain = models.build("robust_resnet", "tiny", "gr", 16, METADATA)
    required = weighted(theta_e=1.0).model_copy(update={"required": ["robust_resnet"]})
    with pytest.raises(ValueError, match=r"required must name networks with physics.*got robust_resnet: it knows no"):
        physics.asked(plain, "robust_resnet", required)
    assert physics.asked(plain, "film_conditioned", required) == {}
    zero = weighted().model_copy(update={"required": ["lensing"]})
    with pytest.raises(ValueError, match="got lensing: of lens_equation, theta_e none has a weight"):
        physics.asked(Lensing(), "lensing", zero)


@pytest.mark.parametrize("arch", sorted(models.MODELS))
def test_every_term_of_every_network_has_a_weight_in_params(arch: str) -> None:
    assert set(models.build(arch, "tiny", "gr", 16, METADATA).physics) <= set(config.Constraints.model_fields)


@pytest.mark.parametrize(
    ("section", "value", "words"),
    [
        ("physics", {"constraints": {"lens_equations": 0.1}, "warmup_epochs": 4, "required": []}, "lens_equations"),
        ("precision", {"pinn_lens": "32-true"}, "precision must have a default"),
        ("precision", {"default": "16-true"}, "precision.default"),
    ],
)
def test_a_misspelt_term_or_precision_is_refused(section: str, value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        config.Fit.model_validate({**FIT.model_dump(), section: value})
