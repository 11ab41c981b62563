"""One training in one process or in several, on one machine or more, through Lightning's own launchers.

`python -m stages.train ARCH` starts the other processes of its machine (params.yaml: train.fit.hardware.devices). With
several machines start them all, `nodes` and `devices` as in the command:

    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m stages.train ARCH
    srun --nodes 2 --ntasks-per-node 4 --gpus-per-node 4 python -m stages.train ARCH

Every batch is shared object by object, and a loss is the mean over all of it: several processes learn what one learns.
All of them see the same folder; the first alone writes.
"""

import os
import sys
from collections.abc import Callable
from typing import Any, Final

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, distributed
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

# PowerSGD (Vogels et al. 2019) compresses to rank 1 once the gradients have settled; until then they travel whole.
POWERSGD_RANK: Final = 1
POWERSGD_START: Final = 100  # steps


def world() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def summed(values: Tensor) -> Tensor:
    """The sum over processes; no gradient."""
    values = values.detach()
    if world() > 1:
        distributed.all_reduce(values)
    return values


def gathered(mine: Tensor) -> Tensor:
    """The columns of every process, (n, all objects), in the order of the processes; on the CPU."""
    if world() == 1:
        return mine
    found: list[Any] = [None] * world()
    distributed.all_gather_object(found, mine)
    return torch.cat(found, dim=1)


def keep_threads(processes: int, threads: int) -> None:
    """Lightning would choose their number for several processes, and with it the last bits of every sum."""
    if processes > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def end_others(trainer: lightning.Trainer) -> None:
    """Every process but the first ends here, at once: its stage has written nothing, and is not to tidy up either."""
    if trainer.global_rank:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


class Compression(Callback):
    """Gradients in fewer bits between processes; "none", "fp16", "bf16" or "powersgd"."""

    def __init__(self, how: str) -> None:
        self.how = how

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        hook, state = compressing(self.how)
        if hook is not None and world() > 1:
            trainer.strategy.model.register_comm_hook(state, hook)  # type: ignore[union-attr, operator]


def compressing(how: str) -> tuple[Callable[..., Any] | None, Any]:
    """The communication hook of DistributedDataParallel and its state; None: gradients travel as they are."""
    if how == "powersgd":
        return powerSGD_hook.powerSGD_hook, powerSGD_hook.PowerSGDState(
            None, matrix_approximation_rank=POWERSGD_RANK, start_powerSGD_iter=POWERSGD_START
        )
    hooks = {"none": None, "fp16": default_hooks.fp16_compress_hook, "bf16": default_hooks.bf16_compress_hook}
    return hooks[how], None
