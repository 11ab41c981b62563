"""The most probable lens: Levenberg-Marquardt on chi2 and a Gaussian prior, all objects at once.

Amplitude and host follow in every step; they are projected out of the derivatives (Kaufman 1975, BIT 15, 49).
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor

from lensml.models import lens_fit
from lensml.models.lens_fit import FREE, Match, Observed

# Deviations of the free numbers after theta_E about a network's proposal; of shape and shear near the sky's own.
PRIOR: Final = (0.5, 0.5, 0.3, 0.3, 1.0, 1.0, 1.0, 1.0, 1.0)
STEP: Final = 0.02  # of the derivatives by differences
DAMPING: Final = (1e-2, 0.2, 5.0)  # at the start, after a step that helped, after one that did not


class Refined(NamedTuple):
    """The most probable free numbers and their covariance."""

    free: Tensor  # (B, FREE)
    covariance: Tensor  # (B, FREE, FREE)


class _Quadratic(NamedTuple):
    force: Tensor  # (B, FREE)
    curvature: Tensor  # (B, FREE, FREE)
    match: Match
    scale: Tensor  # (B,) of chi2


@torch.no_grad()
def refined(start: Tensor, centre: Tensor, prior: Tensor, data: Observed, steps: int, trust: float) -> Refined:
    """Levenberg-Marquardt on chi2 over its `inflation` and the deviation from a Gaussian prior.

    Parameters
    ----------
    start, centre, prior : (B, FREE) where to begin; mean and standard deviation of the prior
    steps : of them, each FREE + 2 renderings
    trust : in (0, 1], what the pixels' chi2 is worth against the prior; 1 if the model were right

    Returns
    -------
    Refined
        Covariance by the curvature, the prior in it.
    """
    free, damping = start, torch.full_like(start[:, 0], DAMPING[0])
    for _ in range(steps):
        force, curvature, found, scale = _quadratic(free, centre, prior, data, trust)
        diagonal = torch.diag_embed(curvature.diagonal(dim1=1, dim2=2) * damping[:, None])
        trial = free + torch.linalg.solve(curvature + diagonal, force)
        other = lens_fit.match(lens_fit.rendered(lens_fit.lens(trial), data.psf, data.flux.shape[-1]), data)
        less = (other.gain - found.gain) / scale
        better = less > _deviation(trial, centre, prior) - _deviation(free, centre, prior)
        free = torch.where(better[:, None], trial, free)
        damping = damping * torch.where(better, DAMPING[1], DAMPING[2])
    curvature = _quadratic(free, centre, prior, data, trust).curvature
    return Refined(free, torch.linalg.inv(curvature))


def _quadratic(free: Tensor, centre: Tensor, prior: Tensor, data: Observed, trust: float) -> _Quadratic:
    """Half the cost about `free`, with an amplitude and a host that follow."""
    moved = torch.cat([free[:, None], free[:, None] + STEP * torch.eye(FREE).to(free)], dim=1).flatten(0, 1)
    psf = data.psf.repeat_interleave(FREE + 1, dim=0)
    images = lens_fit.rendered(lens_fit.lens(moved), psf, data.flux.shape[-1]).unflatten(0, (-1, FREE + 1))
    found = lens_fit.match(images[:, 0], data)
    slopes = (images[:, 1:] - images[:, :1]) / STEP
    maps = torch.cat([data.flux[:, None], images[:, :1], slopes], dim=1).flatten(2)
    (flux, image), rest = (part := lens_fit.without_host(maps, lens_fit.whitened(data)))[:, :2].unbind(1), part[:, 2:]
    residual = flux - found.amplitude[:, None] * image
    rest = rest - (rest @ image[..., None]) * (image / lens_fit.positive((image**2).sum(dim=1, keepdim=True)))[:, None]
    rest, scale = rest * found.amplitude[:, None, None], lens_fit.inflation(found) / trust
    force = (rest @ residual[..., None]).squeeze(2) / scale[:, None] - (free - centre) / prior**2
    return _Quadratic(force, rest @ rest.mT / scale[:, None, None] + torch.diag_embed(1 / prior**2), found, scale)


def _deviation(free: Tensor, centre: Tensor, prior: Tensor) -> Tensor:
    return (((free - centre) / prior) ** 2).sum(dim=1)
