"""What might have been otherwise when a stamp was taken, and the worst of it for a network.

A deeper or shallower exposure, what the sky estimate left behind, a broader PSF, another place of the pixels: each with
the most that is taken for possible, so that no perturbation is one that no telescope could give. Stamps are
asinh(flux / sky sigma); what is exactly 0, bad pixels and bands that are not there, stays 0 and touches nothing else.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch import Tensor

from lensml.models.stretch import asinh, sinh


class Budget(NamedTuple):
    """The most of each perturbation, all at once; 0 leaves one out."""

    noise: float  # sky sigma of the band, Gaussian, added in quadrature
    background: float  # sky sigma, at the stamp's centre
    slope: float  # sky sigma from the centre to a side, along y and along x
    blur: float  # pixels, the Gaussian sigma that broadens the PSF in quadrature; at most 0.7
    shift: float  # pixels, along y and along x; at most 1


# Half the depth in flux (sqrt(1 + 1) times the noise); twice the rms of the sky residue in the simulations; a FWHM of
# 2 pixels (euclid, hst) grows by a tenth, one of 6 (hsc) by a hundredth; a centre anywhere within a pixel.
BUDGET: Final = Budget(noise=1.0, background=0.3, slope=0.15, blur=0.4, shift=0.5)

STEP: Final = 1.25  # of the budget's half width, from a random start: Wong et al. 2020 (arXiv:2001.03994)
_REACH: Final = 3  # pixels, to either side: as far as a shift by 1 and a blur go for a pixel's light
_TINY: Final = 1e-12  # keeps the gradient of a square root finite


class Perturbation(NamedTuple):
    """One for each object."""

    noise: Tensor  # (B,) sky sigma
    spread: Tensor  # (B,) pixels^2, what the blur adds to the PSF's variance along each axis
    shift: Tensor  # (B, 2) pixels, y and x
    background: Tensor  # (B, C, 3) sky sigma: at the centre, and what it gains up to the side along y and x


def perturbed(stamps: Tensor, what: Perturbation) -> Tensor:
    """The stamps (B, C, H, W) as they might have been, differentiable in both arguments.

    The light is shifted and blurred, then background and noise are added. Shift and blur also average the noise that is
    in a stamp: the share they take, of white noise of one sky sigma, is put back. Where neighbouring pixels' noise is
    correlated they take less than that, and such stamps end up noisier by as much. Draws from torch's global generator.
    """
    owner, band = torch.nonzero((stamps != 0).flatten(2).any(dim=2), as_tuple=True)
    seen = stamps[owner, band]  # (P, H, W): the bands that are there
    good = seen != 0
    y, x = taps(what.shift[:, 0], what.spread), taps(what.shift[:, 1], what.spread)
    taken = 1 - y.square().sum(dim=1) * x.square().sum(dim=1)
    sigma = (what.noise.square() + taken).clamp(min=_TINY).sqrt()[owner, None, None]
    flux = (
        resampled(sinh(seen), good, y[owner], x[owner])
        + _plane(what.background[owner, band], seen.shape[1:])
        + sigma * torch.randn_like(seen)
    )
    return torch.zeros_like(stamps).index_put((owner, band), asinh(flux) * good)


def drawn(stamps: Tensor, budget: Budget) -> Perturbation:
    """Uniform within the budget, for each of the stamps (B, C, H, W); from torch's global generator."""
    return _within(_places(stamps), budget)


def worst(losses: Callable[[Tensor], Tensor], stamps: Tensor, budget: Budget) -> Perturbation:
    """What raises the losses within the budget: one signed gradient step from a random start (Wong et al. 2020).

    The sign of the gradient leads every quantity to, or close to, that end of its range that the network likes least
    (Goodfellow et al. 2015, arXiv:1412.6572). Of the noise it is the strength: its pixels are drawn, never chosen.

    Parameters
    ----------
    losses : of stamps (B, C, H, W), the loss of each object (B,), which depends on no other object
    stamps : (B, C, H, W)

    Returns
    -------
    Perturbation
        No gradient flows through it, and no parameter's gradient is touched.
    """
    start = _places(stamps).requires_grad_()
    with torch.enable_grad():
        loss = losses(perturbed(stamps, _within(start, budget))).sum()
        (gradient,) = torch.autograd.grad(loss, start)
    return _within((start.detach() + STEP * gradient.sign()).clamp(-1, 1), budget)


def _places(stamps: Tensor) -> Tensor:
    """Uniform in [-1, 1], as many per object as a perturbation has numbers: the budget's range in each of them."""
    objects, bands = stamps.shape[:2]
    return 2 * torch.rand(objects, 4 + 3 * bands, dtype=stamps.dtype, device=stamps.device) - 1


def _within(places: Tensor, budget: Budget) -> Perturbation:
    noise, spread = ((places[:, :2] + 1) / 2).unbind(dim=1)
    widths = places.new_tensor([budget.background, budget.slope, budget.slope])
    return Perturbation(
        noise * budget.noise,
        spread * budget.blur**2,
        places[:, 2:4] * budget.shift,
        places[:, 4:].unflatten(1, (-1, 3)) * widths,
    )


def taps(shift: Tensor, spread: Tensor) -> Tensor:
    """The weights of a pixel's neighbours along one axis, (B, 2 _REACH + 1), of unit sum.

    The cubic convolution of Keys 1981 (IEEE TASSP 29, 1153; a = -1/2), which adds nothing to second moments, blurred by
    (v/2, 1 - v, v/2), which adds v to them exactly.
    """
    place = torch.arange(-_REACH, _REACH + 1, dtype=shift.dtype, device=shift.device)
    size = (place + shift[:, None]).abs()
    near = (1.5 * size - 2.5) * size**2 + 1
    far = ((2.5 - 0.5 * size) * size - 4) * size + 2
    sharp = torch.where(size < 1, near, torch.where(size < 2, far, 0.0))
    beside = torch.nn.functional.pad(sharp, (1, 1))
    return sharp + spread[:, None] / 2 * (beside[:, 2:] - 2 * sharp + beside[:, :-2])


def _matrices(taps: Tensor, pixels: int) -> Tensor:
    """(B, n, n): row i holds the weights of pixel i's neighbours, as far as they are in the stamp."""
    one = torch.ones(pixels, dtype=taps.dtype, device=taps.device)
    diagonals = torch.stack([torch.diag(one[abs(k) :], k) for k in range(-_REACH, _REACH + 1)])
    return (taps @ diagonals.flatten(1)).unflatten(1, (pixels, pixels))


def resampled(flux: Tensor, good: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Planes (P, H, W) averaged by each axis' taps; for a neighbour bad or off the stamp a pixel counts itself."""
    there = good.to(flux.dtype)
    with torch.autocast(flux.device.type, enabled=False):  # a host is 1e5 sky sigma bright, and bfloat16 has 3 digits
        rows, columns = _matrices(y, flux.shape[1]), _matrices(x, flux.shape[2])
        light, share = (rows @ part @ columns.mT for part in (flux * there, there))
    return light + (1 - share) * flux


def _plane(background: Tensor, size: torch.Size) -> Tensor:
    """(P, 3) to (P, H, W)."""
    y, x = (torch.linspace(-1, 1, n, dtype=background.dtype, device=background.device) for n in size)
    level, along_y, along_x = background[:, :, None, None].unbind(dim=1)
    return level + along_y * y[:, None] + along_x * x
