"""MODELS: every network by name. A new one is a file here and a line in the registry; the tests run over it."""

from collections.abc import Callable
from typing import Final

from lensml.models import enhanced_vit, film_conditioned, robust_resnet
from lensml.models.network import Network

MODELS: Final[dict[str, Callable[[str, int, int, int], Network]]] = {
    "enhanced_vit": enhanced_vit.build,
    "film_conditioned": film_conditioned.build,
    "robust_resnet": robust_resnet.build,
}

SIZES: Final = ("base", "tiny")


def build(arch: str, size: str, bands: int, stamp_pixels: int, metadata: int) -> Network:
    """The network of that name and size, with random weights from torch's global generator.

    Parameters
    ----------
    arch : name in `MODELS`
    size : "tiny" or "base"
    bands : channels of a stamp
    stamp_pixels : side of a stamp, pixels
    metadata : length of the metadata vector; its first `bands` entries are the band flags

    Raises
    ------
    ValueError
        There is no such architecture or size.
    """
    if arch not in MODELS:
        raise ValueError(f"arch must be one of {', '.join(sorted(MODELS))}, got {arch!r} (params.yaml: train).")
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r} (params.yaml: train).")
    return MODELS[arch](size, bands, stamp_pixels, metadata)
