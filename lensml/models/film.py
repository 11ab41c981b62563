"""Feature-wise linear modulation (Perez et al. 2018, arXiv:1709.07871)."""

from torch import Tensor, nn

from lensml.models.network import MetadataEmbedding

START_STD = 0.02  # close to the identity at the start, yet with a gradient everywhere


class Film(nn.Module):
    """maps * (1 + gamma) + beta, one gamma and beta per channel from the metadata vector.

    Parameters
    ----------
    metadata : length of the metadata vector
    channels : of the maps that are modulated
    hidden : width of the hidden layer
    """

    def __init__(self, metadata: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.embedding = MetadataEmbedding(metadata, hidden)
        self.to_channels = nn.Linear(hidden, 2 * channels)
        nn.init.normal_(self.to_channels.weight, std=START_STD)
        nn.init.zeros_(self.to_channels.bias)

    def forward(self, maps: Tensor, metadata: Tensor) -> Tensor:
        """(B, C, h, w) maps modulated by (B, M) metadata."""
        gamma, beta = self.to_channels(self.embedding(metadata))[:, :, None, None].chunk(2, dim=1)
        return maps * (1 + gamma) + beta
