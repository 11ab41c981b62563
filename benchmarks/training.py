"""Stamps per second of training and inference, each network's tiny size beside a bare timm loop on the same stamps.

python -m benchmarks.training --threads 2
"""

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from lensml import models
from lensml.models.network import Explained
from lensml.store.quantisation import BAD_LOG_VARIANCE

BANDS = ("u", "g", "r", "i", "z", "y", "Y", "VIS", "F814W")
PIXELS, METADATA, BATCH = 48, 23, 64
BARE = {"timm resnet18": "resnet18", "timm vit_tiny, patch 6": "vit_tiny_patch16_224"}


class Bare(nn.Module):
    """A classifier of timm's as it comes, on stamps alone."""

    def __init__(self, name: str) -> None:
        super().__init__()
        size: Any = {"img_size": PIXELS, "patch_size": 6} if name.startswith("vit") else {}
        self.net = timm.create_model(name, in_chans=len(BANDS), num_classes=1, **size)

    def logit(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.net(batch["stamps"])[:, 0]

    def explained(self, batch: Mapping[str, Tensor]) -> Explained:
        return Explained(self.logit(batch), {}, torch.zeros(BATCH, dtype=torch.bool))


def rate(step: Callable[[], object], seconds: float) -> float:
    """Stamps per second over at least that long, after one step to warm up."""
    step()
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        step()
        steps += 1
    return steps * BATCH / (time.perf_counter() - begin)


def batch() -> dict[str, Tensor]:
    """Noise, a galaxy and an arc, in five bands of one half and one band of the other, as the default shards have."""
    stamps, there = torch.randn(BATCH, len(BANDS), PIXELS, PIXELS), torch.zeros(BATCH, len(BANDS))
    there[::2, 1:6], there[1::2, 7] = 1, 1
    stamps[:, :, 20:28, 20:28] += 5
    stamps[:, :, 10:14, 20:28] += 2
    psf = torch.zeros(BATCH, len(BANDS), 25, 25)
    psf[:, :, 11:14, 11:14] = there[..., None, None] / 9
    told = {"stamps": stamps * there[..., None, None], "metadata": torch.randn(BATCH, METADATA), "psf": psf}
    told |= {"log_variance": torch.where(there > 0, 0.0, BAD_LOG_VARIANCE)[..., None, None].expand_as(stamps)}
    told |= {"sky_sigma": there, "pixel_scale": torch.full((BATCH,), 0.168)}
    return told | {"label": (torch.rand(BATCH) < 0.5).float(), "theta_e_arcsec": torch.full((BATCH,), 1.0)}


def measured(network: Any, seconds: float) -> tuple[float, float]:
    """(training, inference) stamps per second."""
    optimiser, told = torch.optim.AdamW(network.parameters()), batch()

    def train() -> None:
        optimiser.zero_grad()
        found = network.explained(told)
        loss = nn.functional.binary_cross_entropy_with_logits(found.logit, told["label"])
        (loss + sum(term.mean() for term in found.losses.values())).backward()
        optimiser.step()

    training = rate(train, seconds)
    network.eval()
    with torch.inference_mode():
        return training, rate(lambda: network.logit(told), seconds)


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
    print(f"{len(BANDS)} x {PIXELS} x {PIXELS}, batches of {BATCH}, {given.threads} threads; stamps/s")
    for name, network in networks.items():
        parameters = sum(p.numel() for p in network.parameters())
        training, inference = measured(network, given.seconds)
        print(f"{name:28s} {parameters / 1e6:6.2f} M  training {training:7.0f}  inference {inference:7.0f}")


if __name__ == "__main__":
    main()
