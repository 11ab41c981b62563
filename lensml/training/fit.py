"""Pretraining and training, each to the same bytes however often it was killed on the way."""

import contextlib
import hashlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray

from lensml import config
from lensml.models.network import Network
from lensml.training import predict
from lensml.training.module import Batches, Classification, Optimised, Regression, Schedule
from lensml.training.progress import Best, Log, Reseed, Resume

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Run:
    """Where a training writes, and what it must be the same as to go on from where it was killed."""

    log: Path  # dvclive's folder
    resume: Path  # a file
    fingerprint: str  # of all that the result depends on


@dataclass(frozen=True)
class Fitted:
    """The best epoch of a training; its weights are in the network that was trained."""

    logits: NDArray[np.float64]  # (validation object,)
    epoch: int
    auprc: float


def fingerprint(**content: Any) -> str:
    """sha256 of parameters, hashes and names, of the torch that runs, and of the code that trains."""
    code = {
        str(file.relative_to(ROOT)): hashlib.sha256(file.read_bytes()).hexdigest()
        for room in ("models", "training")
        for file in sorted((ROOT / room).glob("*.py"))
    }
    text = json.dumps({**content, "torch": torch.__version__, "code": code}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def reproducible(seed: int, threads: int) -> Iterator[None]:
    """Deterministic algorithms, a fixed number of threads and a seeded generator; all as before afterwards.

    The order of a sum, and so its last bit, depends on the number of threads: it is a parameter like any other.
    """
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA asks for it, and reads it once
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def pretrain(
    network: Network, batches: Batches, targets: NDArray[np.float64], params: config.Pretrain, run: Run
) -> int:
    """Teach a backbone catalogue values that need no lens label; the number of objects that had any.

    Parameters
    ----------
    network : trained in place; its head is left alone
    targets : (object, target) by `row` of the batches, in the catalogue's units; NaN or negative where missing

    Returns
    -------
    int
        0: there was nothing to learn from, and the weights are as they were.
    """
    standard = standardised(targets)
    known = int(np.isfinite(standard).any(axis=1).sum())
    log = Log(run.log, {"objects": known})
    if not known or not params.epochs:
        log.begin()
        return 0
    schedule = Schedule(params.epochs, params.learning_rate, params.weight_decay, params.warmup_fraction, 1)
    module = Regression(network, batches, schedule, torch.from_numpy(standard).float())
    _train(module, params.seed, params.gradient_clip_norm, [log], run)
    return known


def fit(network: Network, train: Batches, val: Batches, params: config.Fit, run: Run) -> Fitted:
    """Train on the one, stop by AUPRC on the other; the network ends with the weights of the best epoch.

    Raises
    ------
    ValueError
        A loss is not finite, or batches do not make up an effective batch.
    """
    accumulate, rest = divmod(params.effective_batch_size, params.batch_size)
    if rest or not accumulate:
        raise ValueError(
            "train.fit.effective_batch_size must be a multiple of train.fit.batch_size, got "
            f"{params.effective_batch_size} and {params.batch_size} (params.yaml)."
        )
    schedule = Schedule(params.epochs, params.learning_rate, params.weight_decay, params.warmup_fraction, accumulate)
    module = Classification(network, train, schedule, val, params.label_smoothing)
    best, log = Best("val_auprc", params.patience_epochs), Log(run.log, {"objects": len(train.object_ids)})
    _train(module, params.seed, params.gradient_clip_norm, [best, log], run)
    log.end({"best_epoch": best.epoch, "best_val_auprc": best.value})
    network.load_state_dict(best.weights)
    return Fitted(predict.logits(network, val.epoch(0)), best.epoch, best.value)


def standardised(targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Zero mean and unit deviation per column over what is known; NaN elsewhere.

    A missing catalogue value is null or -1; none of the targets can be negative.
    """
    known = np.where(np.isfinite(targets) & (targets >= 0), targets, np.nan)
    standard = np.full(known.shape, np.nan)
    for column in range(known.shape[1]):
        there = np.isfinite(known[:, column])
        deviation = known[there, column].std() if there.any() else 0.0
        if deviation > 0:  # a constant has nothing to teach
            standard[there, column] = (known[there, column] - known[there, column].mean()) / deviation
    return standard


def _train(module: Optimised, seed: int, clip: float, watching: list[Callback], run: Run) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    resume = Resume(run.resume, run.fingerprint)
    trainer = lightning.Trainer(
        max_epochs=module.schedule.epochs, accumulate_grad_batches=module.schedule.accumulate, gradient_clip_val=clip,
        callbacks=[Reseed(seed), *watching, resume], deterministic=True, devices=1, logger=False,
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=sys.stderr.isatty(),
        num_sanity_val_steps=0, reload_dataloaders_every_n_epochs=1,
    )  # fmt: skip
    found = resume.found()
    with warnings.catch_warnings():
        # Lightning 2.6's own use of a class that torch 2.15 renames
        warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning)
        trainer.fit(module, ckpt_path=found, weights_only=True if found else None)
    module.cpu()
    resume.clear()
