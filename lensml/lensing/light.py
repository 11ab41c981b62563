"""Brightness of galaxies of unit flux: pure functions of coordinates, batched by broadcasting and differentiable.

Profiles and conventions are `lensml.lensing.scene`'s. Coordinates are arcsec, (object or row, ...); where x and y stay
apart as (1, 1, x) and (1, y, 1), what depends on one of them costs no pixel.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.polynomial.chebyshev import Chebyshev, cheb2poly
from numpy.typing import NDArray
from scipy.special import gammaincinv
from torch import Tensor

from lensml.lensing.scene import Pixels, Ring, Sersic, Table

N_SERSIC: Final = (0.3, 10.0)  # indices in between are drawn
_DEGREE: Final = 20  # of the polynomial for b_n: errs by its rounding
_LOG2_E: Final = math.log2(math.e)
_CENTRE: Final = 1e-24  # of the squared radius over r_sersic's, below which a profile is flat: finite gradients
_FLOOR: Final = 1e-12  # arcsec^2 below a square root: finite gradients at a centre


def brightness(x: Tensor, y: Tensor, profile: Any) -> Tensor:
    """Flux per arcsec^2 of a galaxy whose flux is 1: (row, ...).

    Parameters
    ----------
    x, y
        arcsec, of equal rank, the first dimension the row or 1
    profile
        `Sersic`, `Ring` or `Pixels` with tensors (row,), `image` (row, y, x); its flux is not read
    """
    return _BRIGHTNESS[type(profile)](x, y, profile)


def sersic(x: Tensor, y: Tensor, profile: Sersic) -> Tensor:
    """Sersic brightness, b_n exact.

    With z = x + i y and e = e1 + i e2, the squared product-averaged radius |z - e conj(z)|^2 / (1 - |e|^2) is written
    as a sum of two squares, one of which depends on x alone.
    """
    _, r, n, e1, e2, center_x, center_y = _columns(profile, x)
    b = sersic_b(n.double())
    peak = _LOG2_E * b - torch.log2(_sersic_flux(r.double(), n.double(), b))
    scale = (1 - e1**2 - e2**2) * r**2
    major = torch.sqrt(((1 + e1) ** 2 + e2**2) / scale)
    x, y = x - center_x, y - center_y
    u, v = x / (major * r**2), major * y - (2 * e2 / (scale * major)) * x
    square = (u * u + _CENTRE) + v * v
    power = torch.log2(square) * (0.5 / n) + torch.log2(_LOG2_E * b).to(x.dtype)
    return torch.exp2(peak.to(x.dtype) - torch.exp2(power))


def sersic_b(n: Tensor) -> Tensor:
    """b_n: half of the light lies within the effective radius. Relative error in float64 below 1e-13.

    2 n - 1 / 3 and a polynomial in 1 / n, as Ciotti & Bertin (1999, A&A 352, 447), but one through exact values between
    the limits of `N_SERSIC`: their series errs by 1e-3 at n = 0.5.
    """
    low, high = 1 / N_SERSIC[1], 1 / N_SERSIC[0]
    inverse = (2 / n - low - high) / (high - low)
    powers = inverse[..., None] ** torch.arange(_DEGREE + 1, device=n.device)
    return 2 * n - 1 / 3 + (powers * _B_SERIES.to(n.device, n.dtype)).sum(-1) / n


def _b_series() -> Tensor:
    """Coefficients, by power, of n (b_n - 2 n + 1 / 3) over 1 / n, scaled to -1 to 1."""

    def rest(inverse: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((gammaincinv(2 / inverse, 0.5) - 2 / inverse + 1 / 3) / inverse)

    series = Chebyshev.interpolate(rest, _DEGREE, domain=[1 / N_SERSIC[1], 1 / N_SERSIC[0]])
    return torch.from_numpy(cheb2poly(series.coef))


_B_SERIES: Final = _b_series()


def sersic_flux(r_sersic: Tensor, n_sersic: Tensor) -> Tensor:
    """Total flux of a Sersic profile of brightness 1 at its effective radius (Graham & Driver 2005, eq. 4)."""
    return _sersic_flux(r_sersic, n_sersic, sersic_b(n_sersic))


def _sersic_flux(r: Tensor, n: Tensor, b: Tensor) -> Tensor:
    return 2 * math.pi * r**2 * n * torch.exp(b - 2 * n * torch.log(b) + torch.lgamma(2 * n))


def ring(x: Tensor, y: Tensor, profile: Ring) -> Tensor:
    """Brightness of a Gaussian annulus with arms."""
    _, radius, width, e1, e2, center_x, center_y, arms, contrast, winding, phase = _columns(profile, x)
    x, y = x - center_x, y - center_y
    norm = torch.sqrt(1 - e1**2 - e2**2)
    u, v = ((1 - e1) * x - e2 * y) / norm, ((1 + e1) * y - e2 * x) / norm
    r = torch.sqrt(u * u + v * v + _FLOOR)
    # The ellipse's axes are those of e: u and v are turned by its position angle, so that 0 is the major axis.
    angle = torch.atan2(v, u) - torch.atan2(e2, e1 + _FLOOR) / 2
    wave = torch.cos(arms * angle + winding * torch.log(r / radius) + phase)
    radial = torch.exp(-0.5 * ((r - radius) / width) ** 2)
    return radial * torch.exp(contrast * (wave - 1)) / (torch.special.i0e(contrast) * ring_flux(radius, width))


def ring_flux(radius: Tensor, width: Tensor) -> Tensor:
    """Total flux of a `Ring` of any arms and brightness 1 per arcsec^2, in the mean over azimuth, at its radius."""
    t = radius / (width * math.sqrt(2))
    edge = width * torch.exp(-(t**2)) + radius * math.sqrt(math.pi / 2) * (1 + torch.erf(t))
    return 2 * math.pi * width * edge


def pixels(x: Tensor, y: Tensor, profile: Pixels) -> Tensor:
    """Brightness of a pixelated galaxy: bilinear between pixel centres, falling to zero over one pixel outside."""
    scale, angle, center_x, center_y = _columns(profile._replace(flux=x, image=x), x)[2:]
    height, width = profile.image.shape[-2:]
    x, y = x - center_x, y - center_y
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    across, up = (cos * x + sin * y) * (2 / width), (cos * y - sin * x) * (2 / height)  # -1 and 1 are the image's edges
    places = torch.stack(torch.broadcast_tensors(across, up), dim=-1).reshape(len(across), -1, 1, 2)
    image = profile.image / (profile.image.sum(dim=(-2, -1), keepdim=True) * scale.reshape(-1, 1, 1) ** 2)
    light = torch.nn.functional.grid_sample(image[:, None], places, padding_mode="zeros", align_corners=False)
    return light.reshape(across.shape)


def check(light: Sequence[Table]) -> None:
    """Raise ValueError where a parameter is unphysical, naming it, its value and the first object that has it."""
    for table in light:
        rules = _rules(table.profile)
        fine = torch.stack([good.all() for _, _, good, _ in rules]).tolist()  # one look at the device
        for (name, rule, good, remedy), fulfilled in zip(rules, fine, strict=True):
            if not fulfilled:
                row = int((~good).nonzero()[0, 0])
                kind, owner = type(table.profile).__name__, int(table.owner[row])
                value = _value(table.profile, name, row)
                raise ValueError(f"{name} must {rule}, got {value} ({kind} of object {owner}). {remedy}.")


def _rules(p: Any) -> list[tuple[str, str, Tensor, str]]:
    """Name, rule, where it holds, and what to do."""
    columns = [(name, v.reshape(len(v), -1)) for name, v in p._asdict().items()]
    rules = [(name, "be a finite number", torch.isfinite(v).all(1), "Draw it again") for name, v in columns]
    for name in {"r_sersic", "radius", "width", "pixel_scale"} & set(p._fields):
        rules.append((name, "be larger than 0 arcsec", getattr(p, name) > 0, "Leave out what has no size"))
    if hasattr(p, "e1"):
        rule = "have |e| = (1 - q) / (1 + q) below 1"
        rules.append(("(e1, e2)", rule, p.e1**2 + p.e2**2 < 1, "An axis ratio q lies in (0, 1]"))
    if hasattr(p, "n_sersic"):
        low, high = N_SERSIC
        good = (p.n_sersic >= low) & (p.n_sersic <= high)
        rules.append(("n_sersic", f"lie between {low:g} and {high:g}", good, "A disc has 1, a bulge 4"))
    if hasattr(p, "image"):
        rules.append(
            ("image", "have a positive sum", p.image.sum(dim=(-2, -1)) > 0, "Leave out a galaxy without light")
        )
    return rules


def _value(profile: Any, name: str, row: int) -> str:
    if name == "image":
        return f"a sum of {float(profile.image[row].sum()):g}"
    values = [getattr(profile, n)[row].reshape(-1).tolist() for n in name.strip("()").split(", ")]
    flat = [f"{v:g}" for value in values for v in value]
    return flat[0] if len(flat) == 1 else f"({', '.join(flat)})"


def _columns(profile: Any, x: Tensor) -> list[Tensor]:
    """The fields (row,) as (row, 1, ...), which broadcast against the coordinates."""
    return [v if v is x or v.ndim > 1 else v.reshape(-1, *[1] * (x.ndim - 1)) for v in profile]


_BRIGHTNESS: Final[dict[type, Callable[[Tensor, Tensor, Any], Tensor]]] = {Sersic: sersic, Ring: ring, Pixels: pixels}
