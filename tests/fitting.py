"""A training small enough for a test: its parameters, and stamps with a planted signal."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensml import config, models
from lensml.training import checkpoint, fit

BANDS, PIXELS, METADATA, OBJECTS = 2, 16, 5, 96
AUGMENT = config.Augment(turns=True, shift_pixels=0.0, psf_jitter=0.0, depth_mag=0.0)
CONSTRAINTS = config.Constraints(
    lens_equation=0.0, mass_conservation=0.0, shear_consistency=0.0, mass_follows_light=0.0, theta_e=0.0,
    colour_consistency=0.0,
)  # fmt: skip
PHYSICS = config.Physics(constraints=CONSTRAINTS, warmup_epochs=4, required=[])
HARDWARE = config.Hardware(
    accelerator="cpu", devices=1, nodes=1, strategy="auto", gradient_compression="none", memory_share=0.9
)
FIT = config.Fit(
    size="tiny", epochs=3, learning_rate=3e-3, schedule="cosine",
    plateau=config.Plateau(factor=0.5, patience_epochs=0), weight_decay=0.01, ema_decay=0.5, batch_size=16,
    effective_batch_size=32, warmup_fraction=0.1, gradient_clip_norm=1.0, label_smoothing=0.0, patience_epochs=3,
    precision={"default": "32-true"}, physics=PHYSICS, augment=AUGMENT, hardware=HARDWARE, threads=1, seed=5,
)  # fmt: skip
PRETRAIN = config.Pretrain(
    epochs=3, learning_rate=3e-3, weight_decay=0.01, batch_size=16, warmup_fraction=0.1, gradient_clip_norm=1.0,
    targets=["axis_ratio"], seed=5,
)  # fmt: skip

Spoil = Callable[[int, dict[str, Tensor]], None]


def weighted(**weights: float) -> config.Physics:
    """PHYSICS with these weights."""
    return PHYSICS.model_copy(update={"constraints": CONSTRAINTS.model_copy(update=weights)})


class Planted:
    """Noise, and in every lens a bar in one band; `spoil` changes a batch on its way out.

    Every third object weighs as much as five, so that a mean of means is not the mean.
    """

    def __init__(self, seed: int, shuffled: bool, spoil: Spoil | None = None) -> None:
        rng = np.random.default_rng(seed)
        self.label = np.arange(OBJECTS) % 2
        stamps = rng.normal(size=(OBJECTS, BANDS, PIXELS, PIXELS))
        stamps[:, 0, 4:7, 3:13] += 3 * self.label[:, None, None]
        self.stamps = torch.from_numpy(stamps).float()
        self.metadata = torch.from_numpy(rng.normal(size=(OBJECTS, METADATA))).float()
        self.object_ids = [f"planted.{i}" for i in range(OBJECTS)]
        self.shuffled, self.spoil = shuffled, spoil

    def __len__(self) -> int:
        return OBJECTS // 16

    def epoch(self, epoch: int, rank: int = 0, world: int = 1) -> Iterator[dict[str, Tensor]]:
        order = np.random.default_rng((9, epoch)).permutation(OBJECTS) if self.shuffled else np.arange(OBJECTS)
        for part in torch.from_numpy(order).split(16):
            rows = part[rank::world]
            batch = {"stamps": self.stamps[rows].clone(), "metadata": self.metadata[rows], "row": rows}
            batch |= self._beside(len(rows))
            batch |= {"label": torch.from_numpy(self.label)[rows].float(), "weight": 1.0 + 4.0 * (rows % 3 == 0)}
            if self.spoil:
                self.spoil(epoch, batch)
            yield batch

    def _beside(self, objects: int) -> dict[str, Tensor]:
        psf = torch.zeros(objects, BANDS, 5, 5)
        psf[:, :, 1:4, 1:4] = 1 / 9
        return {
            "psf": psf, "log_variance": torch.zeros(objects, BANDS, PIXELS, PIXELS),
            "pixel_scale": torch.full((objects,), 0.2), "sky_sigma": torch.ones(objects, BANDS),
            "theta_e_arcsec": torch.full((objects,), torch.nan),
        }  # fmt: skip


def run(folder: Path, name: str, fingerprint: str = "same") -> fit.Run:
    return fit.Run(folder / name, folder / "resume" / "train.ckpt", fingerprint)


def rows(log: Path, metric: str) -> list[float]:
    """A metric of every epoch from dvclive's folder."""
    lines = (log / f"plots/metrics/{metric}.tsv").read_text().splitlines()
    return [float(line.split("\t")[1]) for line in lines[1:]]


def main(folder: str, changed: str) -> None:
    """Train with some of FIT.hardware changed, and write what a stage would."""
    hardware = HARDWARE.model_copy(update=json.loads(changed))
    params, made = FIT.model_copy(update={"hardware": hardware}), Path(folder)
    with fit.reproducible(params.seed, 1):
        network: Any = models.build("film_conditioned", "tiny", "gr", PIXELS, METADATA)
        found = fit.fit(network, Planted(1, True), Planted(2, False), params, run(made, "log"))
    told = {"weights": checkpoint.weights(network), "logits": found.logits.tolist(), "auprc": found.auprc}
    checkpoint.write(told, made / "model.ckpt")


if __name__ == "__main__":
    main(*sys.argv[1:])
