"""What every network is: stamps and metadata to features, features to one logit."""

from collections.abc import Mapping
from typing import ClassVar, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lensml.models.host_light import views

# What a network may ask for beside stamps and metadata, by name (`lensml.training.batches`): the PSF (B, C, k, k) of
# unit sum, zeros where a band has none; ln(variance / sky_sigma^2) (B, C, H, W), a large constant where bad;
# arcsec per pixel (B,); nJy per pixel (B, C), 0 in bands that are not there.
BESIDE: Final = ("psf", "log_variance", "pixel_scale", "sky_sigma")


class Explained(NamedTuple):
    """What a network says of a batch that it learns from, the physics terms beside the logit."""

    logit: Tensor  # (B,)
    losses: dict[str, Tensor]  # by the name of the term, (B,), 0 where it is not defined
    failed: Tensor  # (B,) bool: a term that should be defined is not


class Network(nn.Module):
    """A backbone with a linear head; an architecture is a subclass that gives `encoded`, or `features` as a whole.

    Parameters
    ----------
    width : length of the feature vector

    Attributes
    ----------
    needs : which of `BESIDE` it is given, by name
    physics : the names of the terms that `explained` gives
    """

    needs: ClassVar[tuple[str, ...]] = ()
    physics: ClassVar[tuple[str, ...]] = ()

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.head = nn.Linear(width, 1)

    def encoded(self, images: Tensor, metadata: Tensor) -> Tensor:
        """(B, 2 C, H, W) of `host_light.views` and (B, M) metadata to (B, width)."""
        raise NotImplementedError

    def features(self, stamps: Tensor, metadata: Tensor, **beside: Tensor) -> Tensor:
        """(B, C, H, W) asinh(flux / sky sigma), 0 where bad, and (B, M) metadata to (B, width)."""
        return self.encoded(views(stamps), metadata)

    def forward(self, stamps: Tensor, metadata: Tensor, **beside: Tensor) -> Tensor:
        """The logit of "is a lens", (B,)."""
        return self.head(self.features(stamps, metadata, **beside)).squeeze(1)

    def beside(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What it needs of a batch."""
        return {name: batch[name] for name in self.needs}

    def logit(self, batch: Mapping[str, Tensor]) -> Tensor:
        """`forward` with all that it needs of a batch."""
        logit: Tensor = self(batch["stamps"], batch["metadata"], **self.beside(batch))
        return logit

    def explained(self, batch: Mapping[str, Tensor]) -> Explained:
        """`logit` and physics terms of a batch of the training: labels and what is known of the lenses are in it."""
        logit = self.logit(batch)
        return Explained(logit, {}, torch.zeros_like(logit, dtype=torch.bool))


class MetadataEmbedding(nn.Sequential):
    """The metadata vector (B, M) through one hidden layer to (B, width)."""

    def __init__(self, metadata: int, width: int) -> None:
        super().__init__(nn.Linear(metadata, width), nn.GELU(), nn.Linear(width, width))


def resized(stamps: Tensor, pixels: int | None) -> Tensor:
    """The stamps on another grid of pixels, bilinear; as they are where `pixels` is None."""
    if pixels is None or stamps.shape[-1] == pixels:
        return stamps
    return functional.interpolate(stamps, size=(pixels, pixels), mode="bilinear", align_corners=False)
