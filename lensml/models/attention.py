"""Arc-aware attention: where two patches stand about the stamp's centre says how much they have to tell each other."""

import torch
from torch import Tensor, nn

HIDDEN = 16
START_STD = 0.02
GEOMETRY = 6


def offsets(grid: int) -> Tensor:
    """Centres of a grid of patches from the stamp's centre, (grid * grid, 2) as (y, x) in half sides, row by row."""
    line = (torch.arange(grid, dtype=torch.float32) + 0.5) * (2 / grid) - 1
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).reshape(-1, 2)


def geometry(grid: int) -> Tensor:
    """How each pair of patches stands about the centre, (N, N, 6).

    The radii r_i and r_j in half sides, r_j - r_i and its absolute value, and the cosines of the angle between the two
    and of twice that angle: one and the same after any rotation or reflection about the centre, as an arc is.
    A patch at the very centre has no angle; its cosines are 0.
    """
    place = offsets(grid)
    radius = place.norm(dim=1)
    unit = place / radius.clamp(min=torch.finfo(torch.float32).eps)[:, None]
    cosine = (unit @ unit.T).clamp(-1, 1)
    twice = torch.where(radius[:, None] * radius[None] > 0, 2 * cosine**2 - 1, 0.0)
    here, there = radius[:, None].expand_as(cosine), radius[None].expand_as(cosine)
    return torch.stack([here, there, there - here, (there - here).abs(), cosine, twice], dim=-1)


class ArcBias(nn.Module):
    """A bias of the attention logits, learned per head from `geometry`; the class token has none.

    Parameters
    ----------
    grid : patches on a side
    heads : of the attention that it is added to
    """

    pairs: Tensor

    def __init__(self, grid: int, heads: int) -> None:
        super().__init__()
        self.register_buffer("pairs", geometry(grid), persistent=False)
        self.hidden = nn.Linear(GEOMETRY, HIDDEN)
        self.to_heads = nn.Linear(HIDDEN, heads, bias=False)  # the same for all pairs would be no bias at all
        nn.init.normal_(self.to_heads.weight, std=START_STD)

    def forward(self) -> Tensor:
        """(1, heads, 1 + N, 1 + N)."""
        bias = self.to_heads(nn.functional.gelu(self.hidden(self.pairs))).permute(2, 0, 1)
        return nn.functional.pad(bias, (1, 0, 1, 0)).unsqueeze(0)
