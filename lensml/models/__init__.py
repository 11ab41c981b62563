"""MODELS: every network by name. A new one is a file here and a line in the registry; the tests run over it."""

from collections.abc import Callable, Sequence
from typing import Final

from lensml.models import (
    bayesian_ensemble,
    color_aware_lens,
    enhanced_vit,
    film_conditioned,
    gat_lens,
    pinn_lens,
    robust_resnet,
)
from lensml.models.network import Network

MODELS: Final[dict[str, Callable[[str, Sequence[str], int, int], Network]]] = {
    "bayesian_ensemble": bayesian_ensemble.build,
    "color_aware_lens": color_aware_lens.build,
    "enhanced_vit": enhanced_vit.build,
    "film_conditioned": film_conditioned.build,
    "gat_lens": gat_lens.build,
    "pinn_lens": pinn_lens.build,
    "robust_resnet": robust_resnet.build,
}

SIZES: Final = ("base", "tiny")


def build(arch: str, size: str, bands: Sequence[str], stamp_pixels: int, metadata: int) -> Network:
    """The network of that name and size, with random weights from torch's global generator.

    Parameters
    ----------
    arch : name in `MODELS`
    size : "tiny" or "base"
    bands : names of a stamp's channels, in order
    stamp_pixels : side of a stamp, pixels
    metadata : length of the metadata vector; its first entries are the flags of the bands

    Raises
    ------
    ValueError
        There is no such architecture or size, or the architecture has to know a band that it does not.
    """
    if arch not in MODELS:
        raise ValueError(f"arch must be one of {', '.join(sorted(MODELS))}, got {arch!r} (params.yaml: train).")
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r} (params.yaml: train).")
    return MODELS[arch](size, bands, stamp_pixels, metadata)
