"""Is an explanation physical? Terms of the physics loss, one value per object, differentiable in every argument.

A term is NaN, and its `defined` False, where the object does not allow it: never a silent zero, and nothing flows back
from there. Reduce with `term.value[term.defined]`, and count the rest. Every penalty is 1/2 of a squared deviation
over its stated scale, and grows linearly beyond `threshold` scales (Huber 1964).
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lensml.lensing import cosmology
from lensml.lensing.cosmology import ARCSEC_PER_RAD, SPEED_OF_LIGHT_KM_S

_G: Final = 4.30091e-9  # Mpc (km/s)^2 / M_sun
_NODES: Final = 24  # Gauss-Legendre, of comoving distances: 1e-9 to redshift 10


class Term(NamedTuple):
    """A term of each object."""

    value: Tensor  # (object,), NaN where not defined
    defined: Tensor  # (object,) bool


class Ellipse(NamedTuple):
    """An aperture of each object, its radius that of the circle of equal area; each (object,)."""

    radius_arcsec: Tensor
    e1: Tensor
    e2: Tensor
    center_x: Tensor
    center_y: Tensor


def huber(square: Tensor, threshold: float) -> Tensor:
    """1/2 t^2 up to t = threshold and linear from there on, of t^2."""
    beyond = threshold * torch.sqrt(square.clamp(min=threshold**2)) - threshold**2 / 2
    return torch.where(square <= threshold**2, square / 2, beyond)


def chi2(flux: Tensor, variance: Tensor, rendering: Tensor, parameters: int) -> Term:
    """The lens equation in the pixels: variance-weighted chi2 of a rendering, per degree of freedom.

    Parameters
    ----------
    flux, variance, rendering
        (object, band, y, x); variance is infinite where a pixel is bad, and such pixels give nothing
    parameters
        number of free ones of the rendering, >= 0

    Not defined without degrees of freedom, or where a good pixel's flux, rendering or variance is no usable number.
    """
    good = ~torch.isposinf(variance)
    freedom = good.sum(dim=(1, 2, 3)) - parameters
    total = _chi2(flux, variance, rendering)
    return _term(total.value / freedom.clamp(min=1), total.defined & (freedom > 0))


def chi2_gain(flux: Tensor, variance: Tensor, with_lens: Tensor, without_lens: Tensor) -> Term:
    """By how much chi2 falls with a lens: twice the gain in ln likelihood. Arrays as in `chi2`."""
    lens, empty = (_chi2(flux, variance, rendering) for rendering in (with_lens, without_lens))
    return _term(empty.value - lens.value, empty.defined & lens.defined)


def positive_mass(convergence: Tensor, scale: float) -> Term:
    """Penalty of negative convergence: 1/2 of the mean squared deficit over `scale`; (object, ...) samples anywhere.

    Not defined where a sample is not finite.
    """
    flat = convergence.flatten(1)
    defined = torch.isfinite(flat).all(dim=1)
    deficit = torch.relu(-_where(defined[:, None], flat, 0.0)) / scale
    return _term((deficit**2).mean(dim=1) / 2, defined)


def mean_within(field: Callable[[Tensor, Tensor], Tensor], aperture: Ellipse, radii: int, angles: int) -> Tensor:
    """Mean of a field over an ellipse: (object,). Differentiable in the aperture and in what the field depends on.

    Parameters
    ----------
    field
        of x and y in arcsec, both (object, sample), to (object, sample): convergence or surface brightness; may rise
        like 1 / radius towards the aperture's centre
    radii, angles
        number of Gauss-Legendre nodes in radius and of evenly spaced ones in azimuth
    """
    r, weight, angle = (t.to(aperture.e1) for t in _polar(radii, angles))
    stretch = aperture.radius_arcsec / torch.sqrt(1 - aperture.e1**2 - aperture.e2**2)
    u, v = (stretch[:, None] * r * turn(angle) for turn in (torch.cos, torch.sin))
    e1, e2 = aperture.e1[:, None], aperture.e2[:, None]
    x = aperture.center_x[:, None] + (1 + e1) * u + e2 * v  # symmetric: smooth where round
    y = aperture.center_y[:, None] + e2 * u + (1 - e1) * v
    return (field(x, y) * weight).sum(dim=1)


def critical_mass(mean_convergence: Tensor, scale: float, threshold: float) -> Term:
    """Penalty of a mass inside theta_E that is not pi theta_E^2 Sigma_cr: of a mean convergence there that is not 1.

    The mean over the area that the tangential critical curve encloses is 1 by definition for a circular lens, and for
    elliptical isothermal ones; `mean_within` takes it over the circle or ellipse.
    """
    defined = torch.isfinite(mean_convergence)
    return _term(huber(((_where(defined, mean_convergence, 1.0) - 1) / scale) ** 2, threshold), defined)


def distance_ratio(z_lens: Tensor, z_source: Tensor) -> Tensor:
    """D_ls / D_s in the universe of `cosmology`, differentiable in both; needs 0 < z_lens < z_source."""
    lens, source = (_comoving(z) for z in (z_lens, z_source))
    return 1 - lens / source


def isothermal_theta_e(sigma_v_km_s: Tensor, ratio: Tensor) -> Tensor:
    """4 pi (sigma_v / c)^2 D_ls / D_s in arcsec, of an isothermal sphere (Narayan & Bartelmann 1996, eq. 50)."""
    return 4 * math.pi * (sigma_v_km_s / SPEED_OF_LIGHT_KM_S) ** 2 * ratio * ARCSEC_PER_RAD


def einstein_mass(theta_e_arcsec: Tensor, z_lens: Tensor, z_source: Tensor) -> Tensor:
    """pi theta_E^2 D_l^2 Sigma_cr, the mass inside theta_E in solar masses; needs z as `distance_ratio`."""
    lens = _comoving(z_lens) * (SPEED_OF_LIGHT_KM_S / cosmology.H0_KM_S_MPC) / (1 + z_lens)
    reach = lens / distance_ratio(z_lens, z_source)
    return SPEED_OF_LIGHT_KM_S**2 / (4 * _G) * (theta_e_arcsec / ARCSEC_PER_RAD) ** 2 * reach


def isothermal(
    theta_e_arcsec: Tensor, sigma_v_km_s: Tensor, z_lens: Tensor, z_source: Tensor,
    scale: float, threshold: float,
) -> Term:  # fmt: skip
    """Penalty of a theta_E that is not its velocity dispersion's; `scale` is of ln theta_E.

    Not defined where a number is not positive, or where the source is not behind the lens.
    """
    defined = _positive(theta_e_arcsec, sigma_v_km_s, z_lens) & (z_source > z_lens) & torch.isfinite(z_source)
    theta_e, sigma_v = _where(defined, theta_e_arcsec, 1.0), _where(defined, sigma_v_km_s, 1.0)
    ratio = distance_ratio(_where(defined, z_lens, 1.0), _where(defined, z_source, 2.0))
    off = torch.log(theta_e / isothermal_theta_e(sigma_v, ratio)) / scale
    return _term(huber(off**2, threshold), defined)


def mass_to_light(mass: Tensor, luminosity: Tensor, low: float, high: float, scale: float, threshold: float) -> Term:
    """Penalty of a mass over light inside theta_E that is beyond bounds (solar units); `scale` is of ln (M / L).

    The mass of the stars alone (a share of `einstein_mass`) lies between the bounds of stellar populations, all of it
    above the lower one. Not defined where mass or luminosity is not positive.
    """
    defined = _positive(mass, luminosity)
    ln = torch.log(_where(defined, mass, 1.0)) - torch.log(_where(defined, luminosity, 1.0))
    excess = torch.relu(math.log(low) - ln) + torch.relu(ln - math.log(high))
    return _term(huber((excess / scale) ** 2, threshold), defined)


def shear_prior(gamma1: Tensor, gamma2: Tensor, scale: float, threshold: float) -> Term:
    """Penalty of a large external shear; `scale` is each component's standard deviation."""
    return _spin_two(gamma1, gamma2, scale, threshold)


def mass_follows_light(
    mass_e: tuple[Tensor, Tensor], light_e: tuple[Tensor, Tensor], scale: float, threshold: float
) -> Term:
    """Penalty of mass shaped or turned unlike the light, by the difference of the two (e1, e2).

    A difference in angle counts in proportion to the ellipticities: between round ones it means nothing.
    """
    return _spin_two(mass_e[0] - light_e[0], mass_e[1] - light_e[1], scale, threshold)


def _chi2(flux: Tensor, variance: Tensor, rendering: Tensor) -> Term:
    good = ~torch.isposinf(variance)
    usable = torch.isfinite(flux) & torch.isfinite(rendering) & (variance > 0)
    defined = (usable | ~good).flatten(1).all(dim=1) & good.flatten(1).any(dim=1)
    counts = good & usable
    residual = _where(counts, flux, 0.0) - _where(counts, rendering, 0.0)
    return _term((residual**2 / _where(counts, variance, 1.0)).flatten(1).sum(dim=1), defined)


def _spin_two(first: Tensor, second: Tensor, scale: float, threshold: float) -> Term:
    defined = torch.isfinite(first) & torch.isfinite(second)
    square = _where(defined, first, 0.0) ** 2 + _where(defined, second, 0.0) ** 2
    return _term(huber(square / scale**2, threshold), defined)


def _term(value: Tensor, defined: Tensor) -> Term:
    return Term(_where(defined, value, math.nan), defined)


def _where(chosen: Tensor, value: Tensor, otherwise: float) -> Tensor:
    """Replaces numbers before they are used: a NaN that is replaced later still has a NaN gradient."""
    return torch.where(chosen, value, torch.full_like(value, otherwise))


def _positive(*values: Tensor) -> Tensor:
    return torch.stack([(v > 0) & torch.isfinite(v) for v in values]).all(dim=0)


def _comoving(z: Tensor) -> Tensor:
    """Comoving distance in c / H0."""
    node, weight = (torch.from_numpy(a).to(z) for a in _legendre(_NODES))
    at = z[..., None] * node
    return z * (weight / torch.sqrt(cosmology.OMEGA_M * (1 + at) ** 3 + 1 - cosmology.OMEGA_M)).sum(dim=-1)


@cache
def _legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on 0 to 1."""
    node, weight = np.polynomial.legendre.leggauss(count)
    return (node + 1) / 2, weight / 2


def _polar(radii: int, angles: int) -> tuple[Tensor, Tensor, Tensor]:
    """Radius, weight and angle of nodes in the unit circle, (node,); the weights sum to 1."""
    r, weight = _legendre(radii)
    angle = (np.arange(angles) + 0.5) * (2 * math.pi / angles)
    every = np.repeat(2 * r * weight / angles, angles)
    return torch.from_numpy(np.repeat(r, angles)), torch.from_numpy(every), torch.from_numpy(np.tile(angle, radii))
