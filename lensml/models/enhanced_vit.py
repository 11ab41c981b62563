"""enhanced_vit: a vision transformer with arc-aware attention and positions on the sky."""

from dataclasses import dataclass

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from lensml.models.attention import ArcBias, offsets
from lensml.models.network import Network, resized

START_STD = 0.02
STEM_CHANNELS = 24
STEM_GROUPS = 4
OCTAVES = 5


@dataclass(frozen=True)
class Size:
    """Shape of a transformer; `pixels` is what stamps are resized to, None for their own grid."""

    width: int
    depth: int
    heads: int
    mlp_ratio: float
    grid: int  # patches on a side
    pixels: int | None


SIZES = {"tiny": Size(64, 4, 4, 2.0, 8, None), "base": Size(768, 12, 12, 4.0, 14, 224)}  # base: ViT-B/16


class Patches(nn.Module):
    """Two convolutions from a stamp to grid x grid tokens; the first is overlapping, for an arc across two patches."""

    def __init__(self, bands: int, pixels: int, grid: int, width: int) -> None:
        super().__init__()
        step = -(-pixels // (2 * grid))
        self.margin = 2 * step * grid - pixels  # the stamp is padded with sky to whole patches
        self.first = nn.Conv2d(bands, STEM_CHANNELS, 5, stride=2, padding=2)
        self.norm = nn.GroupNorm(STEM_GROUPS, STEM_CHANNELS)
        self.second = nn.Conv2d(STEM_CHANNELS, width, step, stride=step)

    def forward(self, stamps: Tensor) -> Tensor:
        """(B, C, H, W) to (B, grid * grid, width)."""
        low, high = self.margin // 2, self.margin - self.margin // 2
        maps = self.first(functional.pad(stamps, (low, high, low, high)))
        return self.second(functional.gelu(self.norm(maps))).flatten(2).transpose(1, 2)


class SkyPosition(nn.Module):
    """Positional encoding from offsets on the sky.

    An offset in half sides of the stamp times a scale gives an offset on the sky. The pixel scale reaches a network
    only as a standardised feature, so the scale is learned from the metadata: exp(w . metadata), 1 where w is 0. It is
    proportional to arcsec as far as training finds that useful; nothing forces it.
    """

    offsets: Tensor
    octaves: Tensor

    def __init__(self, grid: int, metadata: int, width: int) -> None:
        super().__init__()
        self.register_buffer("offsets", offsets(grid), persistent=False)
        self.log_scale = nn.Linear(metadata, 1, bias=False)
        self.register_buffer("octaves", torch.pi * 2.0 ** torch.arange(-1, OCTAVES - 1), persistent=False)
        self.to_width = nn.Linear(4 * OCTAVES, width)
        nn.init.normal_(self.log_scale.weight, std=START_STD)

    def forward(self, metadata: Tensor) -> Tensor:
        """(B, M) metadata to (B, grid * grid, width)."""
        scale = torch.exp(self.log_scale(metadata).clamp(-3, 3))  # (B, 1)
        sky = scale[:, :, None] * self.offsets  # (B, N, 2)
        phase = (sky[..., None] * self.octaves).flatten(2)  # (B, N, 2 * OCTAVES)
        return self.to_width(torch.cat([phase.sin(), phase.cos()], dim=-1))


class EnhancedViT(Network):
    """Features are the class token, which starts from the metadata, beside the mean of the patches."""

    def __init__(self, size: Size, bands: int, stamp_pixels: int, metadata: int) -> None:
        super().__init__(2 * size.width)
        self.pixels = size.pixels
        self.patches = Patches(bands, size.pixels or stamp_pixels, size.grid, size.width)
        self.position = SkyPosition(size.grid, metadata, size.width)
        self.class_token = nn.Linear(metadata, size.width)
        self.blocks = nn.ModuleList(
            Block(size.width, size.heads, mlp_ratio=size.mlp_ratio, qkv_bias=True) for _ in range(size.depth)
        )
        self.arcs = nn.ModuleList(ArcBias(size.grid, size.heads) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width)

    def features(self, stamps: Tensor, metadata: Tensor) -> Tensor:
        patches = self.patches(resized(stamps, self.pixels)) + self.position(metadata)
        tokens = torch.cat([self.class_token(metadata)[:, None], patches], dim=1)
        for block, arc in zip(self.blocks, self.arcs, strict=True):
            tokens = block(tokens, attn_mask=arc())
        tokens = self.norm(tokens)
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)


def build(size: str, bands: int, stamp_pixels: int, metadata: int) -> Network:
    """The network for stamps of that side."""
    return EnhancedViT(SIZES[size], bands, stamp_pixels, metadata)
