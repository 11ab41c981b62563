"""film_conditioned: a residual network whose blocks 2, 3 and 4 are modulated by the metadata."""

from collections.abc import Sequence

from torch import Tensor, nn

from lensml.models.film import Film
from lensml.models.host_light import VIEWS
from lensml.models.network import Network
from lensml.models.residual import Residual, pooled

HIDDEN = 32


class FilmConditioned(Network):
    """What an arc looks like depends on pixel scale, PSF and bands: they set the gain of each channel."""

    def __init__(self, size: str, bands: int, metadata: int) -> None:
        backbone = Residual(size, VIEWS * bands)
        super().__init__(backbone.channels[-1])
        self.backbone = backbone
        self.films = nn.ModuleList(Film(metadata, channels, HIDDEN) for channels in backbone.channels[1:])

    def encoded(self, images: Tensor, metadata: Tensor) -> Tensor:
        first, *rest = self.backbone.stages
        maps = first(self.backbone.prepared(images))
        for stage, film in zip(rest, self.films, strict=True):
            maps = film(stage(maps), metadata)
        return pooled(maps)


def build(size: str, bands: Sequence[str], stamp_pixels: int, metadata: int) -> Network:
    """The network; it takes stamps of any side."""
    return FilmConditioned(size, len(bands), metadata)
