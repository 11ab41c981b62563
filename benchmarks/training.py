"""Stamps per second of training and inference, each network's tiny size beside a bare timm loop on the same stamps.

python -m benchmarks.training --threads 2
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn

from lensml import models

BANDS, PIXELS, METADATA, BATCH = 9, 48, 23, 64
BARE = {"timm resnet18": "resnet18", "timm vit_tiny, patch 6": "vit_tiny_patch16_224"}


class Bare(nn.Module):
    """A classifier of timm's as it comes, on stamps alone."""

    def __init__(self, name: str) -> None:
        super().__init__()
        size: Any = {"img_size": PIXELS, "patch_size": 6} if name.startswith("vit") else {}
        self.net = timm.create_model(name, in_chans=BANDS, num_classes=1, **size)

    def forward(self, stamps: Tensor, metadata: Tensor) -> Tensor:
        return self.net(stamps)[:, 0]


def rate(step: Callable[[], object], seconds: float) -> float:
    """Stamps per second over at least that long, after one step to warm up."""
    step()
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        step()
        steps += 1
    return steps * BATCH / (time.perf_counter() - begin)


def measured(network: nn.Module, seconds: float) -> tuple[float, float]:
    """(training, inference) stamps per second."""
    optimiser = torch.optim.AdamW(network.parameters())
    stamps, metadata = torch.randn(BATCH, BANDS, PIXELS, PIXELS), torch.randn(BATCH, METADATA)
    label = (torch.rand(BATCH) < 0.5).float()

    def train() -> None:
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(network(stamps, metadata), label).backward()
        optimiser.step()

    training = rate(train, seconds)
    network.eval()
    with torch.inference_mode():
        return training, rate(lambda: network(stamps, metadata), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    networks: dict[str, nn.Module] = {
        f"{a}, tiny": models.build(a, "tiny", BANDS, PIXELS, METADATA) for a in models.MODELS
    }
    networks |= {name: Bare(model) for name, model in BARE.items()}
    print(f"{BANDS} x {PIXELS} x {PIXELS}, batches of {BATCH}, {given.threads} threads; stamps/s")
    for name, network in networks.items():
        parameters = sum(p.numel() for p in network.parameters())
        training, inference = measured(network, given.seconds)
        print(f"{name:28s} {parameters / 1e6:6.2f} M  training {training:7.0f}  inference {inference:7.0f}")


if __name__ == "__main__":
    main()
