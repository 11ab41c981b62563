"""What is optimised and how: the weighted classification loss with its physics, and the regression of pretraining."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, cast

import lightning
import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from lensml.models.network import Network
from lensml.training import processes
from lensml.training.physics import curriculum

Batch = Mapping[str, Tensor]
FPR: Final = (0.0, 0.1)  # false-positive rates at which the Bologna challenge asks for the completeness
EMA_START: Final = 10.0  # the decay of the averaged weights is at most (1 + n) / (EMA_START + n) at step n
_TINY: Final = torch.finfo(torch.float32).tiny


class Batches(Protocol):
    """Where batches come from; an epoch depends on nothing but its number (`lensml.training.batches`)."""

    object_ids: list[str]  # by `row` of the batches

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, rank: int = 0, world: int = 1) -> Iterable[Batch]: ...


@dataclass(frozen=True)
class Schedule:
    """How the weights are optimised: AdamW, a linear warm-up, then a cosine down to zero or the rate as it is."""

    epochs: int
    learning_rate: float
    weight_decay: float
    warmup_fraction: float  # of all steps
    accumulate: int  # batches per step
    cosine: bool = True


@dataclass(frozen=True)
class Aim:
    """What a classification is to learn, and which weights are judged."""

    smoothing: float  # of the labels, in [0, 0.5)
    physics: Mapping[str, float] = field(default_factory=dict)  # weight of each term in the loss
    warmup_epochs: int = 0  # see `lensml.training.physics.curriculum`
    ema_decay: float = 0.0  # per step, of the average of the weights; 0: the weights themselves


class Losses(NamedTuple):
    """Of a batch."""

    total: Tensor  # (B,)
    weight: Tensor  # (B,)
    terms: Mapping[str, Tensor]  # physics by name, (B,) each, in the total by their weight and the curriculum's
    failed: Tensor  # (B,) bool: a term that should be defined is not


class _Epoch:
    """One process' part of an epoch's batches, with the epoch's number, which Lightning asks for."""

    def __init__(self, batches: Batches, epoch: int, rank: int, world: int) -> None:
        self.batches, self.number = batches, epoch
        self.part = (rank, world) if world > 1 else ()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches.epoch(self.number, *self.part))


class Optimised(lightning.LightningModule):
    """A network, the batches it learns from, and the schedule; a subclass says what the loss is."""

    def __init__(self, network: Network, batches: Batches, schedule: Schedule) -> None:
        super().__init__()
        self.network = network
        self.batches = batches
        self.schedule = schedule

    @property
    def judged(self) -> Network:
        """The network whose weights are judged and kept."""
        return self.network

    def losses(self, batch: Batch) -> Losses:
        raise NotImplementedError

    def train_dataloader(self) -> _Epoch:
        return self._shared(self.batches, self.current_epoch)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        found = self.losses(batch)
        if not bool(torch.isfinite(found.total).all()):
            self._refuse(batch, found)
        weight, objects = processes.summed(torch.stack([found.weight.sum(), found.weight.new_tensor(len(found.total))]))
        loss = processes.world() * weighted_sum(found.total, found.weight) / weight.clamp(min=_TINY)
        self._tell("train_loss", loss, objects, prog_bar=True)
        for name, term in found.terms.items():
            self._tell(f"physics_{name}", processes.world() * term.detach().sum() / objects, objects)
        if found.terms:
            self.log("physics_failed", found.failed.float().sum(), on_step=False, on_epoch=True, reduce_fx="sum",
                     sync_dist=True)  # fmt: skip
        return loss

    def configure_optimizers(self) -> Any:
        plan = self.schedule
        learning = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(learning, lr=plan.learning_rate, weight_decay=plan.weight_decay)
        steps = plan.epochs * math.ceil(len(self.batches) / plan.accumulate)
        warmup = round(plan.warmup_fraction * steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step, steps, warmup, plan.cosine))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _shared(self, batches: Batches, epoch: int) -> _Epoch:
        return _Epoch(batches, epoch, self.trainer.global_rank, self.trainer.world_size)

    def _tell(self, name: str, mean: Tensor, objects: Tensor, prog_bar: bool = False) -> None:
        """The epoch's mean over batches, weighted by their objects, and over processes."""
        self.log(name, mean, on_step=False, on_epoch=True, batch_size=int(objects), sync_dist=True, prog_bar=prog_bar)

    def _refuse(self, batch: Batch, found: Losses) -> None:
        wrong = [(n, v) for n, v in {**found.terms, "loss": found.total}.items() if not bool(torch.isfinite(v).all())]
        name, values = wrong[0]
        bad = ~torch.isfinite(values)
        names = ", ".join(self.batches.object_ids[row] for row in batch["row"][bad].tolist()[:3])
        raise ValueError(
            f"{name} must be finite, got {values[bad][0].item()} for {names} (epoch {self.current_epoch}). "
            "Look at their stamps, or lower learning_rate (params.yaml)."
        )


class Classification(Optimised):
    """Lens or not: binary cross-entropy and physics, weighted per object; judged on other objects after each epoch.

    Parameters
    ----------
    val : batches in their order, both labels among them
    """

    def __init__(self, network: Network, batches: Batches, schedule: Schedule, val: Batches, aim: Aim) -> None:
        super().__init__(network, batches, schedule)
        self.val, self.aim = val, aim
        self.seen: list[Tensor] = []
        self.average = averaged(network, aim.ema_decay) if aim.ema_decay else None

    @property
    def judged(self) -> Network:
        return cast(Network, self.average.module) if self.average else self.network

    def losses(self, batch: Batch) -> Losses:
        """BCE + sum over terms of weight x curriculum x term, each object's by itself.

        Raises
        ------
        TypeError
            A term was computed in half precision.
        """
        found = self.network.explained(batch)
        target = batch["label"] * (1 - 2 * self.aim.smoothing) + self.aim.smoothing
        total = functional.binary_cross_entropy_with_logits(found.logit.float(), target, reduction="none")
        share = curriculum(self.current_epoch, self.aim.warmup_epochs)
        terms = {name: _precise(name, found.losses[name]) for name in self.aim.physics}
        for name, term in terms.items():
            total = total + share * self.aim.physics[name] * term.to(total.dtype)
        return Losses(total, batch["weight"], terms, found.failed)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average:
            self.average.update_parameters(self.network)

    def on_train_epoch_start(self) -> None:
        if self.aim.physics:
            self.log("physics_weight", curriculum(self.current_epoch, self.aim.warmup_epochs), sync_dist=True)

    def val_dataloader(self) -> _Epoch:
        return self._shared(self.val, 0)

    def validation_step(self, batch: Batch, index: int) -> None:
        found = batch["row"], self.judged.logit(batch), batch["label"]
        self.seen.append(torch.stack([values.double().cpu() for values in found]))

    def on_validation_epoch_end(self) -> None:
        row, logit, label = processes.gathered(torch.cat(self.seen, dim=1))
        self.seen.clear()
        logit, label = logit[row.argsort()], label[row.argsort()]
        if not bool(torch.isfinite(logit).all()):
            raise ValueError(
                "logit must be finite, got others in validation. Lower train.fit.learning_rate (params.yaml)."
            )
        loss = functional.binary_cross_entropy_with_logits(logit, label)
        self.log("val_loss", loss.float(), prog_bar=True, sync_dist=True)
        for name, value in figures(label.numpy(), logit.numpy()).items():
            self.log(f"val_{name}", value, prog_bar=name == "auprc", sync_dist=True)


class Regression(Optimised):
    """Pretraining: standardised catalogue values from stamps; a missing value costs nothing.

    Of the metadata the network is told the band flags only: the features are what it has to learn.

    Parameters
    ----------
    targets : (object, target) standardised, NaN where missing; by `row` of the batches
    """

    def __init__(self, network: Network, batches: Batches, schedule: Schedule, targets: Tensor) -> None:
        super().__init__(network, batches, schedule)
        self.targets = targets
        self.to_targets = nn.Linear(network.width, targets.shape[1])
        network.head.requires_grad_(False)

    def losses(self, batch: Batch) -> Losses:
        target = self.targets[batch["row"].cpu()].to(batch["stamps"].device)
        known = torch.isfinite(target)
        bands = batch["stamps"].shape[1]
        told = torch.cat([batch["metadata"][:, :bands], torch.zeros_like(batch["metadata"][:, bands:])], dim=1)
        found = self.to_targets(self.network.features(batch["stamps"], told, **self.network.beside(batch)))
        squared = torch.where(known, (found - torch.where(known, target, 0.0)) ** 2, 0.0)
        number = known.sum(dim=1)
        mean = squared.sum(dim=1) / number.clamp(min=1)
        return Losses(mean, number.to(squared.dtype), {}, torch.zeros_like(number, dtype=torch.bool))


def weighted_sum(losses: Tensor, weight: Tensor) -> Tensor:
    return (losses * weight).sum()


def figures(label: Any, logit: Any) -> dict[str, float]:
    """AUPRC, AUROC, and the highest completeness at no more than each rate of `FPR`; as `lensml.evaluation.metrics`."""
    fpr, tpr, _ = roc_curve(label, logit, drop_intermediate=False)
    found = {"auprc": average_precision_score(label, logit), "auroc": roc_auc_score(label, logit)}
    found |= {f"tpr_at_fpr_{limit:g}": np.max(tpr[fpr <= limit]) for limit in FPR}
    return {name: float(value) for name, value in found.items()}


def averaged(network: Network, decay: float) -> AveragedModel:
    """A copy whose weights will be the exponential moving average of the network's, and are not learnt.

    The decay grows up to `decay`, so that the first weights, which know nothing, are soon forgotten.
    """

    def average(mean: Any, new: Any, steps: Any) -> None:
        n = float(steps)
        torch._foreach_lerp_(mean, new, 1 - min(decay, (1 + n) / (EMA_START + n)))

    return AveragedModel(network, multi_avg_fn=average).requires_grad_(False)


def rate(step: int, steps: int, warmup: int, cosine: bool = True) -> float:
    """The learning rate at a step as a share of the highest: linear up to `warmup`, then half a cosine to 0, or 1."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) if cosine else 1.0


def _precise(name: str, term: Tensor) -> Tensor:
    if term.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"physics term {name} must be float32 or float64, got {term.dtype}. Compute it outside autocast, or set "
            "train.fit.precision of this network to 32-true (params.yaml)."
        )
    return term
