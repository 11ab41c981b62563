"""How large a batch fits a GPU, found before the training by forward passes alone."""

import os
from collections.abc import Callable

import torch

from lensml import config
from lensml.models.network import Network
from lensml.training.batches import Batch

KEPT = 4  # times the parameters' bytes: they, their gradients and AdamW's two moments
BACKWARD = (
    1.25  # of a forward pass with all that it keeps for the way back: the gradients of the widest layers beside it
)


def batch_size(network: Network, example: Callable[[int], Batch], params: config.Fit) -> int:
    """The objects of a forward pass, over all devices: as asked for, or fewer where they do not fit a GPU.

    Parameters
    ----------
    example : a batch of that many objects; asked for on a GPU only
    params : `batch_size` is the most; what it is lowered to divides it

    Raises
    ------
    ValueError
        Not even one object for each device fits.
    """
    device = _device(params.hardware.accelerator)
    if device is None:
        return params.batch_size
    torch.cuda.set_device(device)
    budget = params.hardware.memory_share * torch.cuda.get_device_properties(device).total_memory
    with torch.random.fork_rng():
        network.to(device)
        try:
            return largest(params, lambda objects: _bytes(network, example(objects), device), budget)
        finally:
            network.cpu()
            torch.cuda.empty_cache()


def largest(params: config.Fit, needs: Callable[[int], float], budget: float) -> int:
    """The largest divisor of the batch size whose part for one device needs no more bytes than there are."""
    world = params.hardware.devices * params.hardware.nodes
    divisors = [n for n in range(params.batch_size, 0, -1) if params.batch_size % n == 0 and n >= world]
    for size in divisors:
        if needs(-(-size // world)) <= budget:
            return size
    raise ValueError(
        f"a batch of {world} must fit {budget / 2**30:.1f} GiB of each GPU, got one that does not. Choose a smaller "
        "train.fit.size, smaller stamps, or accelerator: cpu (params.yaml)."
    )


def _bytes(network: Network, batch: Batch, device: torch.device) -> float:
    """Of a training step, from the peak of a forward pass that keeps what a backward pass would need."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    own = sum(p.numel() * p.element_size() for p in network.parameters())
    try:
        forward(network, {name: value.to(device) for name, value in batch.items()})
    except torch.cuda.OutOfMemoryError:
        return float("inf")
    return BACKWARD * (torch.cuda.max_memory_allocated(device) - own) + KEPT * own


def forward(network: Network, batch: Batch) -> None:
    """One pass as training makes it; its graph is let go unused."""
    training = network.training
    network.train()
    with torch.enable_grad():
        network.explained(batch)
    network.train(training)


def _device(accelerator: str) -> torch.device | None:
    if accelerator == "cpu" or not torch.cuda.is_available():
        return None
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))))
