"""Convolution with PSFs on the fine grid, and the sum over the pixels, in one go.

The fine pixels that stand at the same place within their pixels are one image of whole pixels, a phase. Each phase is
transformed alone, multiplied by the transform of the PSF as whole pixels gather it from there, and their sum is
transformed back: transforms are as small as the stamp, and nothing is rendered that is summed away.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

_SUM_ERROR: Final = 1e-3  # of a kernel: more is no rounding
_RIPPLES: Final = 4  # fine pixels about a kernel for what its edge becomes where it is moved by part of one


@dataclass(frozen=True, eq=False)
class Psf:
    """PSFs on the fine grid, the light that each fine pixel gathers: (object or 1, band, k, k), k odd, sum 1.

    Transforms are kept with it, until the tensor is written to.
    """

    kernels: Tensor
    _transforms: dict[tuple[int, int, int], Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        shape = tuple(self.kernels.shape)
        if len(shape) != 4 or shape[2] != shape[3] or shape[3] % 2 == 0:
            raise ValueError(
                f"psf must be (object or 1, band, k, k) with k odd, got {shape} (Psf). Cut or add a row and a column."
            )
        off = (self.kernels.detach().sum(dim=(-2, -1)) - 1).abs().nan_to_num(torch.inf).max()
        if off > _SUM_ERROR:
            raise ValueError(f"psf must have a sum of 1, got one {float(off):g} off (Psf). Divide it by its sum.")

    def transform(self, side: int, supersampling: int, cache_invariants: bool = True) -> Tensor:
        """For `convolved` on `side` pixels: (object or 1, band, phase y, phase x, frequency y, frequency x)."""
        key = (side, supersampling, self.kernels._version)
        if not cache_invariants or self.kernels.requires_grad:
            return _transform(self.kernels, side, supersampling)
        if key not in self._transforms:
            for stale in [k for k in self._transforms if k[2] != key[2]]:
                del self._transforms[stale]
            self._transforms[key] = _transform(self.kernels, side, supersampling)
        return self._transforms[key]

    def reach(self, supersampling: int) -> int:
        """Pixels over which it spreads light either way."""
        return -(-(self.kernels.shape[-1] // 2) // supersampling)


def padded_side(side: int, reach: int, margin: int) -> int:
    """Side of the transforms of `side` pixels, margins included, into which no light may come around the corner."""
    return next(n for n in _lengths(side + max(0, reach - margin)) if n % 4 == 0)  # others take half as long again


def convolved(phases: Tensor, transform: Tensor, begin: int, pixels: int) -> Tensor:
    """Images: (object, band, pixels, pixels).

    Parameters
    ----------
    phases
        light by its place within the pixel: (object, band, phase y, phase x, y, x)
    transform
        of `Psf.transform`
    begin, pixels
        the part wanted, along either axis
    """
    side = transform.shape[-2]
    spectrum = (torch.fft.rfft2(phases, s=(side, side)) * transform).sum(dim=(2, 3))
    part = slice(begin, begin + pixels)
    return torch.fft.irfft2(spectrum, s=(side, side))[..., part, part]


def by_pixel(maps: Tensor, supersampling: int) -> Tensor:
    """Fine maps (object, band, fine y, fine x) as phases, a view: (object, band, phase y, phase x, y, x)."""
    cut = maps.unflatten(-2, (-1, supersampling)).unflatten(-1, (-1, supersampling))
    return cut.permute(0, 1, 3, 5, 2, 4)


def bin_pixels(maps: Tensor, supersampling: int) -> Tensor:
    """Sum over the fine pixels of each pixel."""
    return by_pixel(maps, supersampling).sum(dim=(2, 3))


def stars(kernels: Tensor, x: Tensor, y: Tensor, supersampling: int) -> tuple[Tensor, Tensor]:
    """PSFs moved to any places, exact up to their own sampling: stamps (row, band, n, n) of whole pixels.

    Parameters
    ----------
    kernels
        (row or 1, band, k, k)
    x, y
        fine pixels from the first one's centre: (row,)

    Returns
    -------
    the stamps, and the pixels (row, 2) in which they begin, y first; both may lie outside the image
    """
    size = kernels.shape[-1]
    side = next(n for n in _lengths(size + 2 * _RIPPLES + supersampling) if n % 2)  # no frequency is its own mirror
    places = torch.stack([y, x], dim=-1)
    begin = torch.floor((places.detach() - size // 2 - _RIPPLES) / supersampling).to(torch.int64)
    waves = -2j * math.pi * torch.fft.fftfreq(side, dtype=x.dtype, device=x.device)
    up, across = torch.exp(waves * (places - begin * supersampling)[..., None]).unbind(1)
    moved = torch.fft.rfft2(_around_first(kernels, side)) * up[:, None, :, None]
    fine = torch.fft.irfft2(moved * across[:, None, None, : side // 2 + 1], s=(side, side))
    rest = -side % supersampling
    return bin_pixels(torch.nn.functional.pad(fine, (0, rest, 0, rest)), supersampling), begin


def _transform(kernels: Tensor, side: int, supersampling: int) -> Tensor:
    """What a pixel gathers of light at each phase is the kernel, moved by as many fine pixels, summed over pixels."""
    half = kernels.shape[-1] // 2
    reach = -(-half // supersampling)
    length = (2 * reach + 1) * supersampling

    def gathered(down: int, right: int) -> Tensor:
        top, left = reach * supersampling + down - half, reach * supersampling + right - half
        rest = length - kernels.shape[-1]
        return bin_pixels(torch.nn.functional.pad(kernels, (left, rest - left, top, rest - top)), supersampling)

    steps = range(supersampling)
    phases = torch.stack([torch.stack([gathered(p, q) for q in steps], dim=2) for p in steps], dim=2)
    return torch.fft.rfft2(_around_first(phases, side))


def _around_first(kernels: Tensor, side: int) -> Tensor:
    """Kernels of odd side in the middle of pixel (0, 0) of `side` x `side` pixels, around the corner."""
    half, rest = kernels.shape[-1] // 2, side - kernels.shape[-1]
    return torch.nn.functional.pad(kernels, (0, rest, 0, rest)).roll((-half, -half), dims=(-2, -1))


def _lengths(least: int) -> Iterator[int]:
    """Lengths with factors 2, 3, 5 and 7 only, for which the FFT is fast, from `least` on."""
    while True:
        rest = least
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            yield least
        least += 1
