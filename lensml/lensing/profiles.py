"""Light and mass profiles: pure torch functions of coordinates, batched by broadcasting and differentiable.

Angles are in arcsec, ellipticities are lenstronomy's (e1, e2) with (1 - q) / (1 + q) = |e|, and radii are
product-averaged (the radius of the circle of equal area), so that an ellipticity changes no flux.
"""

import math
from typing import Final

import torch
from torch import Tensor

_ELLIPTICITY_FLOOR: Final = 1e-9  # of 1 - q^2: arctan(f x) / f keeps its limit x to better than this
_RADIUS_FLOOR: Final = 1e-12  # arcsec^2 below a square root: finite gradients at a profile's centre


def axis_ratio(e1: Tensor, e2: Tensor) -> Tensor:
    """Minor over major axis, (0, 1]."""
    e = torch.sqrt(e1**2 + e2**2 + _RADIUS_FLOOR**2)
    return (1 - e) / (1 + e)


def aligned(x: Tensor, y: Tensor, e1: Tensor, e2: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates along the major and the minor axis, arcsec."""
    angle = torch.atan2(e2, e1) / 2
    cos, sin = torch.cos(angle), torch.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def deflection_sie(
    x: Tensor, y: Tensor, theta_e: Tensor, e1: Tensor, e2: Tensor, core: float = 1e-9
) -> tuple[Tensor, Tensor]:
    """Deflection of a singular isothermal ellipsoid about the origin, arcsec.

    Parameters
    ----------
    x, y
        arcsec from the lens's centre
    theta_e
        Einstein radius in lenstronomy's `SIE` convention, arcsec
    core
        softening, arcsec; keeps the centre finite

    Source: Keeton 2001 (astro-ph/0102341), eq. 34; his b q is theta_e sqrt(q).
    """
    q = axis_ratio(e1, e2)
    f = torch.sqrt(torch.clamp(1 - q**2, min=_ELLIPTICITY_FLOOR))
    u, v = aligned(x, y, e1, e2)
    psi = torch.sqrt(q**2 * (core**2 + u**2) + v**2 + _RADIUS_FLOOR**2)
    scale = theta_e * torch.sqrt(q) / f
    along = scale * torch.atan(f * u / (psi + core))
    across = scale * torch.atanh(f * v / (psi + q**2 * core))
    return aligned(along, across, e1, -e2)  # turned back


def deflection_shear(x: Tensor, y: Tensor, gamma1: Tensor, gamma2: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection of an external shear about the origin, arcsec."""
    return gamma1 * x + gamma2 * y, gamma2 * x - gamma1 * y


def sersic_b(n: Tensor) -> Tensor:
    """b_n: half of the light lies within the effective radius; relative error < 3e-5 (n >= 1), < 1e-3 (n >= 0.5).

    Source: Ciotti & Bertin 1999 (A&A 352, 447), eq. 18.
    """
    series = 4 / 405 / n + 46 / 25515 / n**2 + 131 / 1148175 / n**3 - 2194697 / 30690717750 / n**4
    return 2 * n - 1 / 3 + series


def sersic_flux(radius: Tensor, n: Tensor) -> Tensor:
    """Total flux of a Sersic profile of brightness 1 per arcsec^2 at its effective radius."""
    b = sersic_b(n)
    return 2 * math.pi * radius**2 * n * torch.exp(b - 2 * n * torch.log(b) + torch.lgamma(2 * n))


def sersic(x: Tensor, y: Tensor, radius: Tensor, n: Tensor, e1: Tensor, e2: Tensor) -> Tensor:
    """Sersic brightness about the origin, 1 at the effective radius (arcsec)."""
    square = elliptical_square(x, y, e1, e2) / radius**2
    return torch.exp(sersic_b(n) * (1 - square ** (0.5 / n)))


def elliptical_square(x: Tensor, y: Tensor, e1: Tensor, e2: Tensor) -> Tensor:
    """Squared radius of the circle that has the area of the ellipse through (x, y), arcsec^2."""
    q = axis_ratio(e1, e2)
    angle = torch.atan2(e2, e1) / 2
    cos, sin = torch.cos(angle), torch.sin(angle)
    xx, yy, xy = q * cos**2 + sin**2 / q, q * sin**2 + cos**2 / q, 2 * sin * cos * (q - 1 / q)
    return (xx * x + xy * y) * x + (yy * y**2 + _RADIUS_FLOOR)


def ring_flux(radius: Tensor, width: Tensor) -> Tensor:
    """Total flux of a `ring` of any arms: the arms' mean over azimuth is 1 at every radius."""
    t = radius / (width * math.sqrt(2))
    edge = width * torch.exp(-(t**2)) + radius * math.sqrt(math.pi / 2) * (1 + torch.erf(t))
    return 2 * math.pi * width * edge


def ring(
    x: Tensor, y: Tensor, radius: Tensor, width: Tensor, e1: Tensor, e2: Tensor, arms: Tensor, contrast: Tensor,
    winding: Tensor, phase: Tensor,
) -> Tensor:  # fmt: skip
    """A Gaussian annulus whose brightness varies in azimuth: knots, spokes, spiral arms or a tail.

    Parameters
    ----------
    radius, width
        of the annulus, product-averaged, arcsec
    arms, contrast
        von Mises modulation exp(contrast cos(arms angle + ...)) / I0(contrast); contrast 0 is an even ring
    winding
        angle of the pattern per e-fold of radius, rad; 0 is radial spokes
    """
    q = torch.sqrt(axis_ratio(e1, e2))
    u, v = aligned(x, y, e1, e2)
    angle = torch.atan2(v / q, u * q)
    r = torch.sqrt((u * q) ** 2 + (v / q) ** 2 + _RADIUS_FLOOR)
    wave = torch.cos(arms * angle + winding * torch.log(r / radius) + phase)
    radial = torch.exp(-0.5 * ((r - radius) / width) ** 2)
    return radial * torch.exp(contrast * (wave - 1)) / torch.special.i0e(contrast)


def moffat(pixels: int, step: Tensor, fwhm: Tensor, beta: float) -> Tensor:
    """PSF stamps of odd side `pixels`, unit sum, centred on the middle pixel: (..., pixels, pixels).

    Parameters
    ----------
    step, fwhm
        pixel and full width at half maximum, arcsec, of equal shape
    beta
        wing exponent; infinity is a Gaussian
    """
    if pixels % 2 == 0:
        raise ValueError(f"pixels must be odd, got {pixels} (moffat). Add one.")
    axis = torch.arange(pixels, dtype=fwhm.dtype) - pixels // 2
    square = (axis[:, None] ** 2 + axis**2) * step[..., None, None] ** 2 / (fwhm[..., None, None] / 2) ** 2
    stamp = torch.exp(-math.log(2) * square) if math.isinf(beta) else (1 + square * (2 ** (1 / beta) - 1)) ** (-beta)
    return stamp / stamp.sum(dim=(-2, -1), keepdim=True)
