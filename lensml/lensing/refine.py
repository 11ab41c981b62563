"""Supersampling where the light needs it: fine pixels that hold a cusp, a clump or an arc's crest are sampled again.

A map holds samples at the centres of fine pixels. Between them the light is taken to be the polynomial through 5 x 5
samples; light at any place within a fine pixel stands for itself as that polynomial's weights in 5 x 5 fine pixels,
which keeps its flux, centroid and moments up to the fourth, as a PSF wider than a fine pixel will see them. Of a smooth
map this changes nothing. Where it does change something, the samples did not suffice: there the polynomial is replaced
by samples at k x k places.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Sample = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of objects (block,) at x and y (block, cell, place) arcsec, flux per fine pixel: (block, band, cell, place)."""

_SHARE: Final = 2e-5  # of an object's flux: a fine pixel that is wrong by as much is sampled again
_STEEP: Final = 10.0  # times as much: as finely as allowed, and half as finely below
_CELLS: Final = 16  # that are sampled together: an object's are padded to a multiple
_REACH: Final = 2  # fine pixels either way: 3 x 3 would see narrow PSFs (1.5 pixels FWHM) wrong by half a per cent


def refined(maps: Tensor, axis: Tensor, samples: int, sample: Sample) -> Tensor:
    """Maps (object, band, y, x) as if every fine pixel had been sampled at `samples` x `samples` places.

    Parameters
    ----------
    axis
        arcsec, centres of the fine pixels along x and y
    samples
        along the side of the most difficult fine pixels; half as many, or 2, along that of others
    """
    again = _again(len(axis), maps.dtype, maps.device)
    smooth = again @ maps @ again.T
    error = _error(maps.detach(), smooth.detach())
    wrong, very = error > _SHARE, error > _STEEP * _SHARE
    for chosen, number in ((very, samples), (wrong & ~very, min(samples, max(samples // 2, 2)))):
        if bool(chosen.any()):
            smooth = smooth + _correction(maps, chosen, axis, number, sample)
    return smooth


def _error(maps: Tensor, smooth: Tensor) -> Tensor:
    """By how much samples do not suffice, here or next to here, as a share of the flux, all bands: (object, y, x)."""
    total = maps.abs().sum(dim=(-2, -1), keepdim=True) + torch.finfo(maps.dtype).tiny
    error = ((smooth - maps).abs_() / total).mean(dim=1)
    for dim in (-1, -2):
        one, last = error.narrow(dim, 0, 1), error.narrow(dim, -1, 1)
        after, before = error.narrow(dim, 1, error.shape[dim] - 1), error.narrow(dim, 0, error.shape[dim] - 1)
        error = torch.maximum(error, torch.maximum(torch.cat([one, before], dim), torch.cat([after, last], dim)))
    return error


def _correction(maps: Tensor, chosen: Tensor, axis: Tensor, number: int, sample: Sample) -> Tensor:
    """Samples in place of polynomials, where chosen: (object, band, y, x)."""
    count, bands, side = maps.shape[:3]
    objects, cells, used = _blocks(chosen)
    places, weights, polynomial = _constants(number, maps.dtype, maps.device)
    places = places * (axis[1] - axis[0])
    row, column = cells // side, cells % side
    x, y = axis[column][..., None] + places.repeat(number), axis[row][..., None] + places.repeat_interleave(number)
    near = _near(row, column, side)
    before = maps.flatten(-2)[objects[:, None, None], :, near].transpose(-1, -2)  # (block, cell, band, near)
    change = (sample(objects, x, y).transpose(1, 2) @ weights - before @ polynomial) * used[..., None, None]
    where = (objects[:, None, None] * side**2 + near).flatten()
    added = maps.new_zeros(count * side**2, bands).index_add(0, where, change.transpose(-1, -2).reshape(-1, bands))
    return added.reshape(count, side, side, bands).permute(0, 3, 1, 2)


def _near(row: Tensor, column: Tensor, side: int) -> Tensor:
    """The fine pixels about each, by their flat index; for those outside it is the border's: (..., near)."""
    reach = torch.arange(-_REACH, _REACH + 1, device=row.device)
    down, right = ((v[..., None] + reach).clamp(0, side - 1) for v in (row, column))
    return (down[..., :, None] * side + right[..., None, :]).flatten(-2)


def _blocks(chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Chosen pixels in blocks of one object each: object (block,), flat index and whether it is one (block, cell)."""
    objects, pixel = chosen.flatten(1).nonzero(as_tuple=True)
    counts = torch.bincount(objects, minlength=len(chosen))
    blocks = (counts + _CELLS - 1) // _CELLS
    first, first_block = torch.cumsum(counts, 0) - counts, torch.cumsum(blocks, 0) - blocks
    slot = first_block[objects] * _CELLS + torch.arange(len(pixel), device=pixel.device) - first[objects]
    cells = pixel.new_full((int(blocks.sum()) * _CELLS,), -1)
    cells[slot] = pixel
    owner = torch.repeat_interleave(torch.arange(len(chosen), device=pixel.device), blocks)
    cells = cells.reshape(-1, _CELLS)
    return owner, cells.clamp(min=0), cells >= 0


@lru_cache(maxsize=64)
def _again(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Each fine pixel's polynomial by its weights, along one axis, as a matrix: (fine, fine)."""
    near = (np.arange(side)[:, None] + np.arange(-_REACH, _REACH + 1)).clip(0, side - 1)
    matrix = np.zeros((side, side))
    np.add.at(matrix, (near[:, :, None], near[:, None, :]), _mean())
    return torch.from_numpy(matrix).to(dtype=dtype, device=device)


@lru_cache(maxsize=16)
def _constants(number: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Places along an axis in fine pixels (k,), their weights over k k (k k, near), the mean of weights by weights."""
    places = (np.arange(number) + 0.5) / number - 0.5
    one = _weights(places)
    arrays = (places, np.kron(one, one) / number**2, np.kron(_mean(), _mean()))
    a, b, c = (torch.from_numpy(v).to(dtype=dtype, device=device) for v in arrays)
    return a, b, c


def _weights(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lagrange's, of samples at -2, -1, 0, 1, 2: (place, near)."""
    nodes = np.arange(-_REACH, _REACH + 1)
    return np.stack([np.prod([(places - b) / (a - b) for b in nodes if b != a], axis=0) for a in nodes], axis=-1)


def _mean() -> NDArray[np.float64]:
    """Of products of two weights, over a fine pixel: (near, near)."""
    places, share = np.polynomial.legendre.leggauss(2 * _REACH + 1)  # exact
    weights = _weights(places / 2)
    return np.einsum("p,pa,pb->ab", share / 2, weights, weights)
