"""Pretraining and training, each to the same bytes however often it was killed on the way."""

import contextlib
import hashlib
import json
import logging
import os
import signal
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
from lightning.pytorch.utilities.exceptions import SIGTERMException
from numpy.typing import NDArray

from lensml import config
from lensml.models.network import Network
from lensml.training import physics, predict, processes
from lensml.training.module import Aim, Batches, Classification, Optimised, Regression, Schedule
from lensml.training.progress import Bar, Best, Log, Pace, Plateau, Reseed, Resume

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
    stamps_per_s: float  # of the training


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
    _train(module, params.seed, params.gradient_clip_norm, [log], run, devices=1)
    return known


def fit(
    network: Network, train: Batches, val: Batches, params: config.Fit, run: Run, arch: str | None = None
) -> Fitted:
    """Train on the one, stop by AUPRC on the other; the network ends with the weights of the best epoch.

    Of several processes (`lensml.training.processes`) the first alone comes back from here.

    Parameters
    ----------
    arch : the network's name in params.yaml, for what is stated by architecture

    Raises
    ------
    ValueError
        A loss is not finite, batches do not make up an effective batch, or the network lacks the physics asked for.
    """
    accumulate, rest = divmod(params.effective_batch_size, params.batch_size)
    if rest or not accumulate:
        raise ValueError(
            "train.fit.effective_batch_size must be a multiple of train.fit.batch_size, got "
            f"{params.effective_batch_size} and {params.batch_size} (params.yaml)."
        )
    terms = physics.asked(network, arch, params.physics)
    cosine, plan = params.schedule == "cosine", params.plateau
    schedule = Schedule(
        params.epochs, params.learning_rate, params.weight_decay, params.warmup_fraction, accumulate, cosine
    )
    aim = Aim(params.label_smoothing, terms, params.physics.warmup_epochs, params.ema_decay)
    best, log, pace = Best("val_auprc", params.patience_epochs), Log(run.log, _about(train, params)), Pace()
    falling = [] if cosine else [Plateau("val_auprc", plan.factor, plan.patience_epochs)]
    module = Classification(network, train, schedule, val, aim)
    compression = processes.Compression(params.hardware.gradient_compression)
    callbacks = [pace, *falling, compression, best, log]
    _train(module, params.seed, params.gradient_clip_norm, callbacks, run, **_placed(params, arch))
    log.end({"best_epoch": best.epoch, "best_val_auprc": best.value})
    network.load_state_dict(best.weights)
    return Fitted(predict.logits(network, val.epoch(0)), best.epoch, best.value, pace.stamps_per_s)


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


def _about(train: Batches, params: config.Fit) -> dict[str, float]:
    return {"objects": len(train.object_ids), "batch_size": params.batch_size}


def _train(module: Optimised, seed: int, clip: float, watching: list[Callback], run: Run, **placed: Any) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    resume, shown = Resume(run.resume, run.fingerprint), sys.stderr.isatty()
    bar = [Bar(c) for c in watching if isinstance(c, Pace) and shown]
    trainer = lightning.Trainer(
        max_epochs=module.schedule.epochs, accumulate_grad_batches=module.schedule.accumulate, gradient_clip_val=clip,
        callbacks=[Reseed(seed), *bar, *watching, resume], deterministic=True, logger=False,
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=shown,
        num_sanity_val_steps=0, reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False, **placed,
    )  # fmt: skip
    found = resume.found()
    with warnings.catch_warnings():
        # Lightning 2.6's own use of a class that torch 2.15 renames
        warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning)
        try:
            trainer.fit(module, ckpt_path=found, weights_only=True if found else None)
        except SIGTERMException:  # a SystemExit, which would say that all went well
            raise SystemExit(128 + signal.SIGTERM) from None
    processes.end_others(trainer)
    module.cpu()
    resume.clear()


def _placed(params: config.Fit, arch: str | None) -> dict[str, Any]:
    """Where and in what precision, in Lightning's words."""
    hardware = params.hardware
    processes.keep_threads(hardware.devices * hardware.nodes, torch.get_num_threads())
    return {
        "accelerator": hardware.accelerator, "devices": hardware.devices, "num_nodes": hardware.nodes,
        "strategy": hardware.strategy, "precision": params.precision_of(arch),
    }  # fmt: skip
