"""robust_resnet: a residual network that is trained on the worst that a telescope might have made of its stamps."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lensml.models.host_light import VIEWS, views
from lensml.models.network import Explained, MetadataEmbedding, Network
from lensml.models.perturbations import BUDGET, Perturbation, drawn, perturbed, worst
from lensml.models.residual import Residual, pooled

METADATA_WIDTH = 16
ATTACKED = 8  # one object in so many of a batch is perturbed for the worst: all of them would triple the time of a step


class RobustResNet(Network):
    """Residual backbone, metadata joined before the head; in training every stamp is perturbed within `BUDGET`.

    Parameters
    ----------
    size, bands : of the backbone
    metadata : length of the metadata vector
    adversarial : whether some of a batch are perturbed for the worst (`perturbations.worst`); else all at random
    """

    def __init__(self, size: str, bands: int, metadata: int, adversarial: bool = True) -> None:
        backbone = Residual(size, VIEWS * bands)
        super().__init__(backbone.channels[-1] + METADATA_WIDTH)
        self.backbone = backbone
        self.embedding = MetadataEmbedding(metadata, METADATA_WIDTH)
        self.adversarial = adversarial

    def features(self, stamps: Tensor, metadata: Tensor, **beside: Tensor) -> Tensor:
        return self.encoded(views(perturbed(stamps, drawn(stamps, BUDGET)) if self.training else stamps), metadata)

    def encoded(self, images: Tensor, metadata: Tensor) -> Tensor:
        maps = self.backbone.prepared(images)
        for stage in self.backbone.stages:
            maps = stage(maps)
        return torch.cat([pooled(maps), self.embedding(metadata)], dim=1)

    def explained(self, batch: Mapping[str, Tensor]) -> Explained:
        """The logit of perturbed stamps, of the first of a batch (in no order) the worst."""
        if not (self.training and self.adversarial):
            return super().explained(batch)
        logit = self._seen(perturbed(batch["stamps"], self._hard(batch)), batch["metadata"])
        return Explained(logit, {}, torch.zeros_like(logit, dtype=torch.bool))

    def _hard(self, batch: Mapping[str, Tensor]) -> Perturbation:
        stamps, number = batch["stamps"], -(-len(batch["stamps"]) // ATTACKED)
        metadata, label = batch["metadata"][:number], batch["label"][:number]

        def losses(first: Tensor) -> Tensor:
            return functional.binary_cross_entropy_with_logits(self._seen(first, metadata), label, reduction="none")

        first, rest = worst(losses, stamps[:number], BUDGET), drawn(stamps[number:], BUDGET)
        return Perturbation(*(torch.cat(both) for both in zip(first, rest, strict=True)))

    def _seen(self, stamps: Tensor, metadata: Tensor) -> Tensor:
        """The logit of stamps as they are."""
        return self.head(self.encoded(views(stamps), metadata)).squeeze(1)


def build(size: str, bands: Sequence[str], stamp_pixels: int, metadata: int, adversarial: bool = True) -> Network:
    """The network; it takes stamps of any side. `adversarial` as in `RobustResNet`."""
    return RobustResNet(size, len(bands), metadata, adversarial)
