"""Scenes to images: elements in a few colour groups, ray-traced, each group drawn once and coloured per band."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensml.lensing import profiles


class Element(NamedTuple):
    """One piece of light. Positions and radii in arcsec; in the source plane where `lensed`."""

    flux: float  # total; groups scale it per band
    x: float
    y: float
    radius: float  # effective radius, or the ring's
    e1: float
    e2: float
    sersic: float = 1.0  # its index
    lensed: bool = False
    width: float = 0.0  # a ring where positive, else a Sersic profile; see profiles.ring
    arms: float = 0.0
    contrast: float = 0.0
    winding: float = 0.0
    phase: float = 0.0


class Lens(NamedTuple):
    """A singular isothermal ellipsoid at the origin in an external shear; theta_e 0 deflects nothing."""

    theta_e: float  # arcsec
    e1: float
    e2: float
    gamma1: float
    gamma2: float


class Scene(NamedTuple):
    """One object: what deflects, and the light of each colour group."""

    lens: Lens
    groups: tuple[tuple[Element, ...], ...]


def grid(pixels: int, pixel_scale: float, supersampling: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Coordinates of fine pixel centres along one axis, arcsec from the stamp's centre: (pixels x supersampling,)."""
    fine = pixels * supersampling
    return (torch.arange(fine, dtype=dtype) - (fine - 1) / 2) * (pixel_scale / supersampling)


def draw(scenes: Sequence[Scene], axis: Tensor) -> Tensor:
    """Brightness maps before the PSF, flux per fine pixel: (object, group, y, x)."""
    groups = len(scenes[0].groups)
    flat = [(i, g, e) for i, s in enumerate(scenes) for g, elements in enumerate(s.groups) for e in elements]
    maps = torch.zeros(len(scenes) * groups, len(axis), len(axis), dtype=axis.dtype)
    rays = _trace([s.lens for s in scenes], axis)
    for ring in (False, True):
        for lensed in (False, True):
            chosen = [t for t in flat if (t[2].width > 0) == ring and t[2].lensed == lensed]
            if chosen:
                owner = torch.tensor([i * groups + g for i, g, _ in chosen])
                x, y = (r[owner // groups] for r in rays) if lensed else _plane(axis)
                maps.index_add_(0, owner, _light(x, y, [e for _, _, e in chosen], axis, ring))
    return maps.reshape(len(scenes), groups, len(axis), len(axis))


def _plane(axis: Tensor) -> tuple[Tensor, Tensor]:
    return axis[None, None, :], axis[None, :, None]


def _trace(lenses: list[Lens], axis: Tensor) -> tuple[Tensor, Tensor]:
    """Source-plane coordinates of every fine pixel: two of (object, y, x), arcsec."""
    theta_e, e1, e2, gamma1, gamma2 = torch.tensor(lenses, dtype=axis.dtype).T[:, :, None, None]
    x, y = _plane(axis)
    sie = profiles.deflection_sie(x, y, theta_e, e1, e2)
    shear = profiles.deflection_shear(x, y, gamma1, gamma2)
    return x - sie[0] - shear[0], y - sie[1] - shear[1]


def _light(x: Tensor, y: Tensor, elements: list[Element], axis: Tensor, ring: bool) -> Tensor:
    """Flux per fine pixel of each element: (element, y, x)."""
    columns = torch.tensor(elements, dtype=axis.dtype).T[:, :, None, None]
    flux, cx, cy, radius, e1, e2, n, _, width, *waves = columns
    if ring:
        light = profiles.ring(x - cx, y - cy, radius, width, e1, e2, *waves) / profiles.ring_flux(radius, width)
    else:
        light = profiles.sersic(x - cx, y - cy, radius, n, e1, e2) / profiles.sersic_flux(radius, n)
    return light * flux * (axis[1] - axis[0]) ** 2


def transfer(kernels: Tensor, fine: int) -> Tensor:
    """Fourier transform of PSFs for `observe`: (object, band, frequency y, frequency x), complex.

    Parameters
    ----------
    kernels
        on the fine grid, odd side k, unit sum: (object, band, k, k)
    fine
        side of the maps that they will blur; padding half a PSF keeps one edge's light off the other
    """
    half = kernels.shape[-1] // 2
    side = _smooth(fine + half)
    padded = torch.nn.functional.pad(kernels, (0, side - 2 * half - 1, 0, side - 2 * half - 1))
    return torch.fft.rfft2(padded.roll((-half, -half), dims=(-2, -1)))


def observe(maps: Tensor, colours: Tensor, psf: Tensor, supersampling: int) -> Tensor:
    """Colour, convolve with each band's PSF and sum fine pixels: (object, band, y, x).

    Parameters
    ----------
    maps
        (object, group, fine y, fine x)
    colours
        (object, group, band), any flux unit
    psf
        of `transfer`
    """
    fine, side = maps.shape[-1], psf.shape[-2]
    spectrum = torch.einsum("ogyx,ogb->obyx", torch.fft.rfft2(maps, s=(side, side)), colours.to(psf.dtype))
    image = torch.fft.irfft2(spectrum * psf, s=(side, side))[..., :fine, :fine]
    return bin_pixels(image, supersampling)


def bin_pixels(image: Tensor, factor: int) -> Tensor:
    """Sum blocks of factor x factor pixels."""
    *lead, height, width = image.shape
    return image.reshape(*lead, height // factor, factor, width // factor, factor).sum(dim=(-3, -1))


def psf_stamps(fwhm: NDArray[np.float64], beta: float, pixel_scale: float, pixels: int, fine: int) -> Tensor:
    """Moffat PSFs of odd side `pixels`, unit sum: (..., pixels, pixels). Pixels are summed over `fine` (odd) steps."""
    width = torch.from_numpy(np.asarray(fwhm, dtype=np.float32))
    stamps = profiles.moffat(pixels * fine, torch.full_like(width, pixel_scale / fine), width, beta)
    return bin_pixels(stamps, fine)


def _smooth(n: int) -> int:
    """The next length with factors 2, 3 and 5 only, for which the FFT is fast."""
    while any(_rest(n)):
        n += 1
    return n


def _rest(n: int) -> list[bool]:
    for factor in (2, 3, 5):
        while n % factor == 0:
            n //= factor
    return [n > 1]
