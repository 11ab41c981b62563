"""Where to begin a fit: lenses on a grid, each compared with the pixels as a matched filter.

chi2 has a valley for every way to pair the images, and a step downhill ends in the nearest: so the grid is dense in
theta_E and in the source's place. The lenses are round and their sources of one size; the PSF is the nearest of a few.
"""

import functools
import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

from lensml.models import lens_fit
from lensml.models.lens_fit import FREE, Observed

THETA_E_COUNT: Final = 16
THETA_E: Final = (0.13, 1.0)  # half sides
OFFSETS: Final = (0.2, 0.5, 0.85)  # of theta_E, beside 0
DIRECTIONS: Final = 8
PLACES: Final = 1 + len(OFFSETS) * DIRECTIONS
SIZE: Final = 0.08  # of the source, half sides
PSF_SIGMA: Final = (0.5, 0.8, 1.2)  # pixels of the fit: telescopes above the air, and two below
PSF_REACH: Final = 6


class Templates(NamedTuple):
    """The grid, theta_E by theta_E."""

    free: Tensor  # (K, FREE), see `lens_fit.lens`
    images: Tensor  # (PSF_SIGMA, K, N)


@torch.no_grad()
def evidence(data: Observed) -> Tensor:
    """ln of the likelihood of each lens over that of the host alone, (B, K), K = THETA_E_COUNT PLACES.

    Half the gain in chi2 over the `inflation` of the best.
    """
    images = templates(data.flux.shape[-1]).images.to(data.flux)
    white = lens_fit.whitened(data)
    flux = lens_fit.without_host(data.flux.flatten(1)[:, None], white)[:, 0]
    peak = data.psf[:, 0].amax(dim=(1, 2)).clamp(min=1e-3)  # of a Gaussian: 1 / 2 pi sigma^2
    nearest = (torch.rsqrt(2 * math.pi * peak)[:, None] - peak.new_tensor(PSF_SIGMA)).abs().argmin(dim=1)
    found = flux.new_zeros(len(flux), images.shape[1])
    for i, image in enumerate(images):
        mine = torch.nonzero(nearest == i).squeeze(1)
        across, square = (flux * white.weight)[mine] @ image.T, white.weight[mine] ** 2 @ (image**2).T
        along = torch.linalg.solve_triangular(
            white.root[mine], (white.rings[mine] * white.weight[mine, :, None]).mT @ image.T, upper=False
        )
        square = square - (along**2).sum(dim=1)
        gain = torch.where(square > 0, across.clamp(min=0) ** 2 / torch.where(square > 0, square, 1.0), 0.0)
        found = found.index_copy(0, mine, gain)
    chi2, freedom = (flux**2).sum(dim=1), torch.isfinite(data.variance).sum(dim=(1, 2))
    scale = ((chi2 - found.amax(dim=1)) / freedom.clamp(min=1)).clamp(min=1)
    return found / (2 * scale[:, None])


@functools.lru_cache(maxsize=8)
@torch.inference_mode(mode=False)  # they are kept, whoever asked first
@torch.no_grad()
def templates(pixels: int) -> Templates:
    """For fits of so many pixels."""
    free = torch.zeros(THETA_E_COUNT, PLACES, FREE)
    free[..., 0] = lens_fit.theta_e_free(torch.exp(ln_theta_e()))[:, None]
    free[..., 5:7] = _places()
    free[..., 7] = lens_fit.size_free(torch.tensor(SIZE))
    free = free.flatten(0, 1)
    reach = min(PSF_REACH, (pixels - 1) // 2)
    axis = torch.arange(-reach, reach + 1.0)
    images = []
    for sigma in PSF_SIGMA:
        blur = torch.exp(-(axis**2) / (2 * sigma**2))
        kernel = blur[:, None] * blur / blur.sum() ** 2
        images.append(lens_fit.rendered(lens_fit.lens(free), kernel[None, None], pixels))
    return Templates(free, torch.stack(images).flatten(2))


def ln_theta_e() -> Tensor:
    """ln of the grid's theta_E, half sides, (THETA_E_COUNT,)."""
    return torch.linspace(math.log(THETA_E[0]), math.log(THETA_E[1]), THETA_E_COUNT)


def _places() -> Tensor:
    """Free numbers of the source's places, (PLACES, 2)."""
    angle = torch.arange(DIRECTIONS) * (2 * math.pi / DIRECTIONS)
    ring = torch.stack([torch.cos(angle), torch.sin(angle)], dim=1)
    share = torch.tensor(OFFSETS) / lens_fit.OFFSET
    radius = share / torch.sqrt(1 - share**2)
    return torch.cat([torch.zeros(1, 2), (radius[:, None, None] * ring).flatten(0, 1)])
