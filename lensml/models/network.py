"""What every network is: stamps and metadata to features, features to one logit."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lensml.models.host_light import views


class Network(nn.Module):
    """A backbone with a linear head; an architecture is a subclass that gives `encoded`.

    Parameters
    ----------
    width : length of the feature vector
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.head = nn.Linear(width, 1)

    def encoded(self, images: Tensor, metadata: Tensor) -> Tensor:
        """(B, 2 C, H, W) of `host_light.views` and (B, M) metadata to (B, width)."""
        raise NotImplementedError

    def features(self, stamps: Tensor, metadata: Tensor) -> Tensor:
        """(B, C, H, W) asinh(flux / sky sigma), 0 where bad, and (B, M) metadata to (B, width)."""
        return self.encoded(views(stamps), metadata)

    def forward(self, stamps: Tensor, metadata: Tensor) -> Tensor:
        """The logit of "is a lens", (B,)."""
        return self.head(self.features(stamps, metadata)).squeeze(1)


class MetadataEmbedding(nn.Sequential):
    """The metadata vector (B, M) through one hidden layer to (B, width)."""

    def __init__(self, metadata: int, width: int) -> None:
        super().__init__(nn.Linear(metadata, width), nn.GELU(), nn.Linear(width, width))


def resized(stamps: Tensor, pixels: int | None) -> Tensor:
    """The stamps on another grid of pixels, bilinear; as they are where `pixels` is None."""
    if pixels is None or stamps.shape[-1] == pixels:
        return stamps
    return functional.interpolate(stamps, size=(pixels, pixels), mode="bilinear", align_corners=False)


def with_noise(stamps: Tensor, sigma_max: float) -> Tensor:
    """The stamps as a shallower exposure would show them: Gaussian noise added to the flux.

    Parameters
    ----------
    stamps : (B, C, H, W) asinh(flux / sky sigma); what is exactly 0, bad pixels and missing bands, stays 0
    sigma_max : per object the noise is uniform in [0, sigma_max], in units of the band's own sky sigma
    """
    sigma = sigma_max * torch.rand(len(stamps), 1, 1, 1, device=stamps.device, dtype=stamps.dtype)
    noise = sigma * torch.randn_like(stamps) * (stamps != 0)
    return torch.asinh(torch.sinh(stamps) + noise)
