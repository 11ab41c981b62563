"""asinh(flux / sky sigma), in which networks see pixels, and back: torch's own float32 loops are six times as slow."""

import torch
from torch import Tensor


def asinh(flux: Tensor) -> Tensor:
    """torch.asinh; no gradient at exactly 0."""
    size = flux.abs()
    return torch.copysign(torch.log1p(size + size**2 / (1 + torch.sqrt(size**2 + 1))), flux)


def sinh(stamps: Tensor) -> Tensor:
    """torch.sinh; no gradient at exactly 0."""
    grown = torch.expm1(stamps.abs())
    return torch.copysign((grown + grown / (grown + 1)) / 2, stamps)
