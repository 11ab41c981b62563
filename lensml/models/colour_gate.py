"""Where images of one source may differ in colour all the same: quasars, microlensing, long delays. Pure functions.

Stars magnify the small hot disc of a quasar more than the rest of it (Wambsganss & Paczynski 1991, AJ 102, 864), and a
quasar that varies is seen at another time in each image, bluer when it is brighter. Galaxies are too large for the one
and too slow for the other: only point-like images are let off. Every share is within 0 to 1 and rises as a logistic
function, half at the threshold; nothing here has a gradient.
"""

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

# Long axis over that of a point: a galaxy whose sigma is half the PSF's is 1.12 times as long, noise makes points 1.1.
_POINT_SIZE: Final = 1.15
_POINT_WIDTH: Final = 0.05
# f_nu ~ nu^slope: quasars have -0.44 (Vanden Berk et al. 2001, AJ 122, 549); at -1 dust has taken 0.3 mag of g - i,
# where the tail of reddened ones starts (Richards et al. 2003, AJ 126, 1131).
_BLUE_SLOPE: Final = -1.0
_BLUE_WIDTH: Final = 0.2
# chi2 over its degrees of freedom beyond which colours of points differ by more than errors make them.
_EXCESS: Final = 3.0
_EXCESS_WIDTH: Final = 0.5
# An isothermal lens at z = 0.5 delays a source at z = 2 that stands 0.3 theta_E off by 48 days (theta_E / 1 arcsec)^2:
# 190 days at 2 arcsec, a third of a quasar's 600 (200 at rest, MacLeod et al. 2010, ApJ 721, 1014).
_DELAYED_ARCSEC: Final = 2.0
_DELAYED_WIDTH: Final = 0.2


class Images(NamedTuple):
    """What is said of the images of each object, each (B,), their means by signal-to-noise."""

    point: Tensor  # 0 to 1, `point_like`
    slope: Tensor  # of f_nu ~ nu^slope; NaN: unknown
    excess: Tensor  # chi2 of their colours over its degrees of freedom; 0: unknown
    radius_arcsec: Tensor  # from the host: theta_E, roughly


def gate(images: Images) -> Tensor:
    """(B,) 0 to 1: how far colours have to agree."""
    freed = quasar_like(images), microlensed(images), strongly_delayed(images)
    return torch.stack([1 - share for share in freed]).prod(dim=0).detach()


def quasar_like(images: Images) -> Tensor:
    """(B,) points, and blue."""
    return images.point * _share((images.slope - _BLUE_SLOPE) / _BLUE_WIDTH)


def microlensed(images: Images) -> Tensor:
    """(B,) points whose colours differ by more than errors and dust allow."""
    return images.point * _share((images.excess - _EXCESS) / _EXCESS_WIDTH)


def strongly_delayed(images: Images) -> Tensor:
    """(B,) points so far from the lens that the source has changed between the two."""
    return images.point * _share((images.radius_arcsec - _DELAYED_ARCSEC) / _DELAYED_WIDTH)


def point_like(moments: Tensor, area: Tensor, sigma: Tensor) -> Tensor:
    """(S,) of second moments xx, yy, xy (S, 3) and area (S,), arcsec^2, both within an isophote; 0 without a PSF.

    Within its isophote of that area a Gaussian of `sigma` (S,), arcsec, has the second moment
    sigma^2 (1 - t / (exp(t) - 1)), t = area / (2 pi sigma^2): a faint point is smaller than the PSF.
    """
    xx, yy, xy = moments.T
    long = (xx + yy + torch.hypot(xx - yy, 2 * xy)).clamp(min=0) / 2
    square = sigma.clamp(min=1e-6) ** 2
    t = (area / (2 * math.pi * square)).clamp(min=1e-6, max=50)
    expected = square * (1 - t / torch.expm1(t))
    return torch.sigmoid((_POINT_SIZE - torch.sqrt(long / expected)) / _POINT_WIDTH)


def psf_sigma(psf: Tensor, pixel_scale: Tensor) -> Tensor:
    """(B,) arcsec, mean of the bands (B, C, k, k): of the Gaussian with the same effective area; 0 without a PSF.

    The area is 1 / sum of squares, 4 pi sigma^2 of a Gaussian (King 1983, PASP 95, 163).
    """
    squares = psf.square().sum(dim=(2, 3))
    there = squares > 0
    sigma = torch.where(there, 1 / torch.sqrt(4 * math.pi * torch.where(there, squares, 1.0)), 0.0)
    return sigma.sum(dim=1) / there.sum(dim=1).clamp(min=1) * pixel_scale


def spectral_slope(flux: Tensor, variance: Tensor, bad: Tensor, ln_wavelength: Tensor) -> Tensor:
    """(S,) of f_nu ~ nu^slope, least squares in ln flux over bands (S, C) above 1 sigma; NaN with fewer than two.

    ln_wavelength : (C,), all the same where nobody knows the bands: NaN
    """
    seen = ~bad & (flux > variance.sqrt())
    weight = torch.where(seen, flux**2 / variance, 0.0)
    total = weight.sum(dim=1, keepdim=True).clamp(min=torch.finfo(flux.dtype).tiny)
    mean = (weight * ln_wavelength).sum(dim=1, keepdim=True) / total
    lever = ln_wavelength - mean
    along = (weight * lever * torch.log(torch.where(seen, flux, 1.0))).sum(dim=1)
    stiffness = (weight * lever**2).sum(dim=1)
    known = stiffness > 1e-6 * total.squeeze(1)  # two bands 0.1 % apart are one
    return torch.where(known, -along / torch.where(known, stiffness, 1.0), math.nan)


def _share(value: Tensor) -> Tensor:
    """0 where unknown."""
    return torch.sigmoid(value).nan_to_num(0.0)
