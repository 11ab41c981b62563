"""robust_resnet: a residual network that is trained on stamps made noisier than they are."""

from torch import Tensor
from torch import cat as concatenate

from lensml.models.host_light import VIEWS
from lensml.models.network import MetadataEmbedding, Network, with_noise
from lensml.models.residual import Residual, pooled

NOISE_MAX = 1.0  # sky sigma: up to half the depth in flux (sqrt(1 + 1) times the noise)
METADATA_WIDTH = 16


class RobustResNet(Network):
    """Residual backbone, noise of a random strength on every training stamp, metadata joined before the head."""

    def __init__(self, size: str, bands: int, metadata: int) -> None:
        backbone = Residual(size, VIEWS * bands)
        super().__init__(backbone.channels[-1] + METADATA_WIDTH)
        self.backbone = backbone
        self.embedding = MetadataEmbedding(metadata, METADATA_WIDTH)

    def features(self, stamps: Tensor, metadata: Tensor) -> Tensor:
        return super().features(with_noise(stamps, NOISE_MAX) if self.training else stamps, metadata)

    def encoded(self, images: Tensor, metadata: Tensor) -> Tensor:
        maps = self.backbone.prepared(images)
        for stage in self.backbone.stages:
            maps = stage(maps)
        return concatenate([pooled(maps), self.embedding(metadata)], dim=1)


def build(size: str, bands: int, stamp_pixels: int, metadata: int) -> Network:
    """The network; it takes stamps of any side."""
    return RobustResNet(size, bands, metadata)
