"""What happens around each epoch: a fresh seed, the best epoch kept, dvclive's files, the file to resume from."""

import logging
import time
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from dvclive.live import Live
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from torch import Tensor

from lensml.schema import ContractError
from lensml.training import checkpoint, processes
from lensml.training.module import Optimised

RESUME_KEY = "fingerprint"


class Reseed(Callback):
    """Every epoch starts from a seed of its own, so that a resumed run draws what the unbroken one would have."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        key = (self.seed, trainer.current_epoch, trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


class Pace(Callback):
    """Stamps per second of the training, of all processes together, validation left out; no file holds it."""

    def __init__(self) -> None:
        self.objects, self.seconds, self.since = 0, 0.0, 0.0

    @property
    def stamps_per_s(self) -> float:
        return self.objects / self.seconds if self.seconds else 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        now = time.perf_counter()
        self.objects, self.seconds = (
            self.objects + len(batch["row"]) * processes.world(),
            self.seconds + now - self.since,
        )
        self.since = now


class Bar(TQDMProgressBar):
    """Lightning's progress bar, with stamps per second."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self.pace = pace

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> Any:
        return {**super().get_metrics(trainer, pl_module), "stamps/s": f"{self.pace.stamps_per_s:.0f}"}


class Plateau(Callback):
    """Lowers the learning rate by a factor whenever the score has not risen for more than `patience` epochs."""

    def __init__(self, score: str, factor: float, patience: int) -> None:
        self.score, self.factor, self.patience = score, factor, patience
        self.value, self.waited = -np.inf, 0

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        value = float(trainer.callback_metrics[self.score])
        self.waited = 0 if value > self.value else self.waited + 1
        self.value = max(value, self.value)
        if self.waited > self.patience:
            self.waited = 0
            scheduler: Any = trainer.lr_scheduler_configs[0].scheduler
            scheduler.base_lrs = [rate * self.factor for rate in scheduler.base_lrs]  # the warm-up's steps start there
            for group in scheduler.optimizer.param_groups:
                group["lr"] *= self.factor

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.value, self.waited = state_dict["value"], state_dict["waited"]


class Best(Callback):
    """Keeps the weights of the epoch with the highest score; `patience` epochs without a higher one end it."""

    def __init__(self, score: str, patience: int) -> None:
        self.score, self.patience = score, patience
        self.value, self.epoch, self.waited = -np.inf, -1, 0
        self.weights: dict[str, Tensor] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trainer.should_stop = self.waited >= self.patience  # killed between the last epoch and the end

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        value = float(trainer.callback_metrics[self.score])
        self.waited += 1
        if value > self.value and isinstance(pl_module, Optimised):
            self.value, self.epoch, self.waited = value, trainer.current_epoch, 0
            self.weights = checkpoint.weights(pl_module.judged)
        trainer.should_stop = self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "epoch": self.epoch, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.value, self.epoch = state_dict["value"], state_dict["epoch"]
        self.waited, self.weights = state_dict["waited"], state_dict["weights"]


class Folder(Live):
    """dvclive's files and nothing else.

    By itself dvclive makes a DVC repository where there is none, fails in a Git repository without a commit, and adds
    its folder to Git within `dvc exp run`, under the name that it has until the stage ends.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), save_dvc_exp=False, dvcyaml=None, monitor_system=False)

    def _init_dvc(self) -> None:
        self._dvc_file = "dvc.yaml"


class Log(Callback):
    """Each epoch's metrics and the learning rate after it into dvclive's folder; after a resume all of them again.

    Of several processes the first alone writes.
    """

    def __init__(self, folder: Path, about: dict[str, float]) -> None:
        self.folder, self.about = folder, about
        self.history: list[dict[str, float]] = []

    def begin(self) -> None:
        """An empty folder, but for what is known before the first epoch."""
        self.live = Folder(self.folder)
        self._tell(self.about)

    def end(self, about: dict[str, float]) -> None:
        """Single numbers beside the last epoch's metrics."""
        self._tell(about)

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero:
            self.begin()
        for row in self.history:
            self._write(row, trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        row = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        row["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        self.history.append(row)
        self._write(row, trainer)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero:
            self.live.end()

    def _write(self, row: dict[str, float], trainer: lightning.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        for name, value in row.items():
            self.live.log_metric(name, value)
        self.live.next_step()

    def _tell(self, about: dict[str, float]) -> None:
        for name, value in about.items():
            self.live.log_metric(name, value, plot=False)
        self.live.make_summary()

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = state_dict["history"]


class Resume(Callback):
    """After each epoch, the whole state of the training in one file, renamed into place; the last of the callbacks."""

    def __init__(self, file: Path, fingerprint: str) -> None:
        self.file, self.fingerprint = file, fingerprint
        self.part = file.with_name(f".{file.name}.writing")

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[RESUME_KEY] = self.fingerprint

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(self.part)
        if trainer.is_global_zero:
            self.part.replace(self.file)

    def found(self) -> Path | None:
        """The file of an earlier run with the same inputs; any other, and a broken one, is none and is removed."""
        if not self.file.exists():
            return None
        try:
            if checkpoint.read(self.file).get(RESUME_KEY) == self.fingerprint:
                return self.file
        except ContractError as error:
            logging.getLogger(__name__).warning("starting from the first epoch: %s", error)
        self.clear()
        return None

    def clear(self) -> None:
        """The training is over."""
        for file in (self.file, self.part):
            file.unlink(missing_ok=True)
        if self.file.parent.is_dir() and not any(self.file.parent.iterdir()):
            self.file.parent.rmdir()
