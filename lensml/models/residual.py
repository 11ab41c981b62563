"""The residual backbone that several networks share: timm's ResNet with GroupNorm, tiny or ResNet-50."""

from functools import partial
from typing import Any

import timm
import torch
from timm.layers.norm import GroupNorm
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from lensml.models.network import resized

TINY_CHANNELS = (16, 32, 64, 96)
TINY_GROUPS = 4
BASE_PIXELS = 224


class Residual(nn.Module):
    """Stem and four stages; GroupNorm, so that an object's score does not depend on who else is in its batch.

    Parameters
    ----------
    size : "tiny" (four blocks on the stamp's own pixels) or "base" (ResNet-50 on stamps resized to 224 pixels)
    bands : channels of its images
    """

    def __init__(self, size: str, bands: int) -> None:
        super().__init__()
        self.pixels = BASE_PIXELS if size == "base" else None
        net = (_resnet50 if size == "base" else _tiny)(bands + 1)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.act1, net.maxpool)
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])
        self.channels = [int(entry["num_chs"]) for entry in net.feature_info[1:]]
        self.to(memory_format=torch.channels_last)

    def prepared(self, stamps: Tensor) -> Tensor:
        """The stem's output for (B, C, H, W) stamps."""
        stamps = resized(stamps, self.pixels)
        ones = torch.ones_like(stamps[:, :1])  # GroupNorm takes the amplitude out, unless it has this to compare with
        return self.stem(torch.cat([stamps, ones], dim=1).contiguous(memory_format=torch.channels_last))


def pooled(maps: Tensor) -> Tensor:
    """Mean over the pixels, (B, C, h, w) to (B, C)."""
    return maps.mean(dim=(2, 3))


def _tiny(channels: int) -> Any:
    norm = partial(GroupNorm, num_groups=TINY_GROUPS)
    net: Any = ResNet(
        BasicBlock,  # type: ignore[arg-type]
        (1, 1, 1, 1), num_classes=0, in_chans=channels, channels=TINY_CHANNELS, norm_layer=norm,
        stem_type="deep", stem_width=TINY_CHANNELS[0] // 2, zero_init_last=False,
    )  # fmt: skip
    net.maxpool = nn.Identity()  # an arc is a few pixels wide: the stem halves the grid once, not twice
    return net


def _resnet50(channels: int) -> Any:
    return timm.create_model("resnet50", num_classes=0, in_chans=channels, norm_layer=GroupNorm, zero_init_last=False)
