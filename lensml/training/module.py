"""What is optimised and how: the weighted classification loss and the masked regression of pretraining."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import lightning
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from lensml.models.network import Network

Batch = Mapping[str, Tensor]


class Batches(Protocol):
    """Where batches come from; an epoch depends on nothing but its number (`lensml.training.batches`)."""

    object_ids: list[str]  # by `row` of the batches

    def __len__(self) -> int: ...

    def epoch(self, epoch: int) -> Iterable[Batch]: ...


@dataclass(frozen=True)
class Schedule:
    """How the weights are optimised: AdamW, a linear warm-up, then a cosine down to zero."""

    epochs: int
    learning_rate: float
    weight_decay: float
    warmup_fraction: float  # of all steps
    accumulate: int  # batches per step


class _Epoch:
    """One epoch's batches with their number, which Lightning asks for."""

    def __init__(self, batches: Batches, epoch: int) -> None:
        self.batches, self.number = batches, epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches.epoch(self.number))


class Optimised(lightning.LightningModule):
    """A network, the batches it learns from, and the schedule; a subclass says what the loss is."""

    def __init__(self, network: Network, batches: Batches, schedule: Schedule) -> None:
        super().__init__()
        self.network = network
        self.batches = batches
        self.schedule = schedule

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss and weight of each object, (B,)."""
        raise NotImplementedError

    def train_dataloader(self) -> _Epoch:
        return _Epoch(self.batches, self.current_epoch)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        losses, weight = self.losses(batch)
        if not bool(torch.isfinite(losses).all()):
            self._refuse(batch, losses)
        loss = weighted_mean(losses, weight)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(losses), prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        plan = self.schedule
        optimiser = torch.optim.AdamW(self.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
        steps = plan.epochs * math.ceil(len(self.batches) / plan.accumulate)
        warmup = round(plan.warmup_fraction * steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step, steps, warmup))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _refuse(self, batch: Batch, losses: Tensor) -> None:
        rows = batch["row"][~torch.isfinite(losses)].tolist()
        names = ", ".join(self.batches.object_ids[row] for row in rows[:3])
        raise ValueError(
            f"loss must be finite, got {losses[~torch.isfinite(losses)][0].item()} for {names} (epoch "
            f"{self.current_epoch}). Look at their stamps, or lower learning_rate (params.yaml)."
        )


class Classification(Optimised):
    """Lens or not: binary cross-entropy, weighted per object; AUPRC and AUROC on other objects after each epoch.

    Parameters
    ----------
    val : batches in their order, both labels among them
    smoothing : of the labels, in [0, 0.5)
    """

    def __init__(
        self,
        network: Network,
        batches: Batches,
        schedule: Schedule,
        val: Batches,
        smoothing: float,
    ) -> None:
        super().__init__(network, batches, schedule)
        self.val = val
        self.smoothing = smoothing
        self.seen: list[tuple[Tensor, Tensor]] = []

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        target = batch["label"] * (1 - 2 * self.smoothing) + self.smoothing
        logit = self.network(batch["stamps"], batch["metadata"])
        return functional.binary_cross_entropy_with_logits(logit, target, reduction="none"), batch["weight"]

    def val_dataloader(self) -> _Epoch:
        return _Epoch(self.val, 0)

    def validation_step(self, batch: Batch, index: int) -> None:
        logit = self.network.logit(batch)
        self.seen.append((logit.double().cpu(), batch["label"].double().cpu()))

    def on_validation_epoch_end(self) -> None:
        logit, label = (torch.cat(parts) for parts in zip(*self.seen, strict=True))
        self.seen.clear()
        if not bool(torch.isfinite(logit).all()):
            raise ValueError(
                "logit must be finite, got others in validation. Lower train.fit.learning_rate (params.yaml)."
            )
        loss = functional.binary_cross_entropy_with_logits(logit, label)
        self.log("val_loss", loss.float(), prog_bar=True)
        self.log("val_auprc", float(average_precision_score(label.numpy(), logit.numpy())), prog_bar=True)
        self.log("val_auroc", float(roc_auc_score(label.numpy(), logit.numpy())))


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

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        target = self.targets[batch["row"].cpu()].to(batch["stamps"].device)
        known = torch.isfinite(target)
        bands = batch["stamps"].shape[1]
        told = torch.cat([batch["metadata"][:, :bands], torch.zeros_like(batch["metadata"][:, bands:])], dim=1)
        found = self.to_targets(self.network.features(batch["stamps"], told, **self.network.beside(batch)))
        squared = torch.where(known, (found - torch.where(known, target, 0.0)) ** 2, 0.0)
        number = known.sum(dim=1)
        return squared.sum(dim=1) / number.clamp(min=1), number.to(squared.dtype)


def weighted_mean(losses: Tensor, weight: Tensor) -> Tensor:
    """The mean with weights normalised to unit sum; 0 where all weights are 0."""
    return (losses * weight).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)


def rate(step: int, steps: int, warmup: int) -> float:
    """The learning rate at a step as a share of the highest: linear up to `warmup`, then half a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
