"""What mass does to light: deflection, convergence, magnification of many objects at once, with gradients.

Profiles and conventions are `lensml.lensing.scene`'s. Coordinates are arcsec, of shapes that broadcast to
(object, ...), such as (1, 1, x) and (1, y, 1); where they stay apart like that, what is linear in them costs no pixel.

All expressions are written in the ellipticity's components, in which a profile is smooth also where it is round:
with e = e1 + i e2, z = x + i y and zeta = z - e conj(z), the product-averaged elliptical radius is
R^2 = |zeta|^2 / (1 - |e|^2). The one exception is the isothermal closed form, which needs the axes; where somebody
asks for gradients by the ellipticity, the general integral takes its place.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import forward_ad

from lensml.lensing.scene import Epl, PointMass, Shear, Sie, Table

Vector = tuple[Tensor, Tensor]

_FLOOR: Final = 1e-9  # arcsec, and of |e|: in quadrature below square roots, for finite gradients at a centre
_ROUND: Final = 1e-6  # sqrt(1 - q^2) from below: arctan(f x) / f has its limit x to 3e-13
_TERMS_BELOW: Final = 0.1  # of the dtype's epsilon: what the power law's series leaves out
_NODES: Final = {torch.float32: 24, torch.float64: 48}  # relative error 1e-6, 1e-12 down to q = 0.05, core = 1e-6
_TOGETHER: Final = 2**15  # points times nodes: few points take as many operations as one


def deflection(mass: Sequence[Table], x: Tensor, y: Tensor, objects: int | None = None) -> Vector:
    """Deflection by all mass of each object, arcsec: two of (object, ...). A ray at (x, y) comes from there minus this.

    Parameters
    ----------
    mass
        tables of `Sie`, `Epl`, `Shear`, `PointMass`, any number of rows per object; see `check` for bad values
    x, y
        arcsec, of equal rank, the first dimension the object or 1
    objects
        their number; by default that of the coordinates or, where these have 1, up to the last that owns a row
    """
    ax, ay = _sum(_DEFLECTION, mass, x, y, objects)
    return ax, ay


def convergence(mass: Sequence[Table], x: Tensor, y: Tensor, objects: int | None = None) -> Tensor:
    """Surface density over the critical one: (object, ...). Point masses add nothing outside their points."""
    return _sum(_CONVERGENCE, mass, x, y, objects)[0]


def jacobian(mass: Sequence[Table], x: Tensor, y: Tensor, objects: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The symmetric matrix d beta / d theta: xx, xy, yy, each (object, ...).

    Exact: the deflection's derivative by x, and the Poisson equation (trace = 2 - 2 convergence) for the rest.
    """
    _, _, xx, xy, yy = trace(mass, x, y, objects)
    return xx, xy, yy


def trace(mass: Sequence[Table], x: Tensor, y: Tensor, objects: int | None = None) -> tuple[Tensor, ...]:
    """Where rays come from, beta_x and beta_y, arcsec, and the `jacobian` xx, xy, yy: each (object, ...)."""
    asked = torch.is_grad_enabled() and any(v.requires_grad for v in (x, y, *(f for t in mass for f in t.profile)))
    shape = _shape(mass, x, y, objects)
    with torch.enable_grad():
        x, y = (v.expand(shape) if v.requires_grad else v.expand(shape).requires_grad_() for v in (x, y))
        beta_x, beta_y = (v - a for v, a in zip((x, y), deflection(mass, x, y), strict=True))
        xx, xy = torch.autograd.grad(beta_x.sum(), (x, y), create_graph=asked, materialize_grads=True)
    found = beta_x, beta_y, xx, xy, 2 - 2 * convergence(mass, x, y) - xx
    return found if asked else tuple(v.detach() for v in found)


def magnification(mass: Sequence[Table], x: Tensor, y: Tensor, objects: int | None = None) -> Tensor:
    """Of area, negative where parity is: (object, ...)."""
    xx, xy, yy = jacobian(mass, x, y, objects)
    return 1 / (xx * yy - xy**2)


def check(mass: Sequence[Table]) -> None:
    """Raise ValueError where a parameter is unphysical, naming it, its value and the first object that has it."""
    for table in mass:
        p, kind = table.profile, type(table.profile).__name__
        for name, rule, good, remedy in _rules(p):
            if not good.all():
                row = int((~good).nonzero()[0])
                where = f"{kind} of object {int(table.owner[row])}"
                raise ValueError(f"{name} must {rule}, got {_value(p, name, row)} ({where}). {remedy}.")


def _rules(p: Any) -> list[tuple[str, str, Tensor, str]]:
    rules = [(name, "be a finite number", torch.isfinite(v), "Draw it again") for name, v in p._asdict().items()]
    if hasattr(p, "theta_e"):
        rules.append(("theta_e", "be 0 or larger", p.theta_e >= 0, "Take 0 for no lens"))
    if hasattr(p, "e1"):
        rule = "have |e| = (1 - q) / (1 + q) below 1"
        rules.append(("(e1, e2)", rule, p.e1**2 + p.e2**2 < 1, "An axis ratio q lies in (0, 1]"))
    if hasattr(p, "core"):
        rules.append(("core", "be 0 or larger", p.core >= 0, "Take 0 for a singular profile"))
    if hasattr(p, "gamma"):
        rules.append(("gamma", "lie between 1 and 3", (p.gamma > 1) & (p.gamma < 3), "Isothermal is 2"))
    return rules


def _value(profile: Any, name: str, row: int) -> str:
    values = [float(getattr(profile, n)[row]) for n in name.strip("()").split(", ")]
    return f"{values[0]:g}" if len(values) == 1 else f"({values[0]:g}, {values[1]:g})"


def sie(x: Tensor, y: Tensor, profile: Sie) -> Vector:
    """Deflection of an isothermal ellipsoid, arcsec; the profile's fields broadcast against x and y.

    Source: Keeton 2001 (astro-ph/0102341), eq. 34; his b q is theta_e sqrt(q), his core s is core / sqrt(q).
    """
    theta_e, e1, e2, center_x, center_y, core = profile
    if _differentiated(e1) or _differentiated(e2):
        return _softened(x, y, Epl(theta_e, torch.full_like(e1, 2), e1, e2, center_x, center_y, core + _FLOOR))
    x, y = x - center_x, y - center_y
    e, angle = torch.sqrt(e1**2 + e2**2), torch.atan2(e2, e1) / 2
    q, f = (1 - e) / (1 + e), torch.clamp(2 * torch.sqrt(e) / (1 + e), min=_ROUND)
    cos, sin = torch.cos(angle), torch.sin(angle)
    qu, fu = ((k * cos) * x + (k * sin) * y for k in (q, f))
    v, fv = ((k * cos) * y - (k * sin) * x for k in (torch.ones_like(f), f))
    psi = torch.sqrt(torch.addcmul(torch.addcmul(q * core**2 + _FLOOR**2, qu, qu), v, v))
    along = torch.atan2(fu, psi + core / torch.sqrt(q))  # twice as fast as atan of the ratio
    across = torch.atanh(fv / (psi + core * q * torch.sqrt(q)))
    scale = theta_e * torch.sqrt(q) / f
    cos, sin = scale * cos, scale * sin
    return torch.addcmul(along * cos, across, -sin), torch.addcmul(along * sin, across, cos)


def epl(x: Tensor, y: Tensor, profile: Epl) -> Vector:
    """Deflection of an elliptical power law, arcsec, of rows that all have a core or all have none.

    Source: Tessore & Metcalf 2015 (A&A 580, A79), eqs. 13 and 29; with a core see `_softened`.
    """
    if bool(profile.core.any()):
        return _softened(x, y, profile)
    theta_e, gamma, e1, e2, center_x, center_y, _ = profile
    t, m, x, y = gamma - 1, e1**2 + e2**2, x - center_x, y - center_y
    zx, zy = _zeta(x, y, e1, e2)
    px, py = 2 * (e1 - m) * x + 2 * e2 * y, 2 * (e1 + m) * y - 2 * e2 * x  # 2 conj(e) zeta
    square = torch.addcmul(torch.addcmul(torch.full_like(e1, _FLOOR**2), zx, zx), zy, zy)
    twice = torch.addcmul(py * zy, px, zx, value=-1) / square  # 2 Re p of p = -conj(e) zeta / conj(zeta)
    minus = torch.addcmul(px * zy, py, zx) / square  # -2 Im p
    first, second = _series(twice, m, t)
    real = torch.addcmul(1 - m * second, twice, first, value=0.5)
    minus = minus * (first / 2)
    scale = theta_e**t * torch.exp(-t / 2 * torch.log(square / (1 - m)))
    return scale * torch.addcmul(zx * real, zy, minus), scale * torch.addcmul(zy * real, zx, minus, value=-1)


def shear(x: Tensor, y: Tensor, profile: Shear) -> Vector:
    """Deflection of an external shear, arcsec."""
    gamma1, gamma2, center_x, center_y = profile
    x, y = x - center_x, y - center_y
    return gamma1 * x + gamma2 * y, gamma2 * x - gamma1 * y


def point_mass(x: Tensor, y: Tensor, profile: PointMass) -> Vector:
    """Deflection of a point mass, arcsec."""
    x, y = x - profile.center_x, y - profile.center_y
    pull = profile.theta_e**2 / (x**2 + y**2 + _FLOOR**2)
    return pull * x, pull * y


def sie_convergence(x: Tensor, y: Tensor, profile: Sie) -> tuple[Tensor]:
    """theta_e / 2 / sqrt(R^2 + core^2)."""
    return (profile.theta_e / 2 * torch.rsqrt(_radius_square(x, y, profile) + profile.core**2),)


def epl_convergence(x: Tensor, y: Tensor, profile: Epl) -> tuple[Tensor]:
    """(3 - gamma) / 2 (theta_e^2 / (R^2 + core^2))^((gamma - 1) / 2)."""
    t = profile.gamma - 1
    fall = torch.exp(-t / 2 * torch.log(_radius_square(x, y, profile) + profile.core**2))
    return ((2 - t) / 2 * profile.theta_e**t * fall,)


def _no_convergence(x: Tensor, y: Tensor, profile: Any) -> tuple[Tensor]:
    return (torch.zeros_like(x + y + profile[0]),)


def _zeta(x: Tensor, y: Tensor, e1: Tensor, e2: Tensor) -> Vector:
    return (1 - e1) * x - e2 * y, (1 + e1) * y - e2 * x


def _radius_square(x: Tensor, y: Tensor, profile: Any) -> Tensor:
    zx, zy = _zeta(x - profile.center_x, y - profile.center_y, profile.e1, profile.e2)
    return (zx**2 + zy**2) / (1 - profile.e1**2 - profile.e2**2) + _FLOOR**2


def _series(twice: Tensor, square: Tensor, t: Tensor) -> Vector:
    """b_1, b_2 with sum a_n p^n = 1 + p b_1 - |p|^2 b_2, from 2 Re p and |p|^2: Goertzel's way, half of Horner's cost.

    a_n / a_(n-1) = (2 n - 2 + t) / (2 n + 2 - t): Tessore & Metcalf 2015, eq. 29.
    """
    e = float(square.detach().max()) ** 0.5
    small = torch.finfo(twice.dtype).eps * _TERMS_BELOW * (1 - e)
    count = 1 + math.ceil(math.log(small) / math.log(max(e, small)))
    n = torch.arange(1, count + 1, dtype=t.dtype, device=t.device).reshape(-1, *[1] * t.dim())
    last, *factors = reversed(torch.cumprod((2 * n - 2 + t) / (2 * n + 2 - t), dim=0).unbind())
    first, second = torch.zeros_like(twice) + last, torch.zeros_like(twice)
    for a in factors:
        first, second = torch.addcmul(a - square * second, twice, first), first
    return first, second


def _softened(x: Tensor, y: Tensor, profile: Epl) -> Vector:
    """Deflection of a power law with a core > 0, by Gauss-Legendre quadrature; smooth in all parameters.

    The integral over the confocal ellipses inside a point (Schramm 1990, A&A 231, 19; Keeton 2001, eq. 16) in
    h = -ln(axis ratio), which is 0 at the focal line and 2 artanh |e| at the point's own ellipse:
    alpha = (1 - |e|^2) / (2 |e|) int kappa(R_h) (cosh(h) z - sinh(h) / |e| e conj(z)) dh, with
    R_h^2 = (1 - |e|^2) (|z|^2 sinh(2 h) / (4 |e|) - Re(conj(e) z^2) sinh(h)^2 / (2 |e|^2)).
    Steps in h are equal ones of the mass of a round lens of this core, closer together at both ends.
    """
    theta_e, gamma, e1, e2, center_x, center_y, core = profile
    x, y, t, p = x - center_x, y - center_y, gamma - 1, 3 - gamma
    e = torch.sqrt(e1**2 + e2**2 + _FLOOR**2)
    n, end = 1 - e**2, 2 * torch.atanh(e)
    square, cross = x**2 + y**2, (e1 * (x**2 - y**2) + 2 * e2 * x * y) / (2 * e**2)
    slope = square * (n * end / (2 * e)) / core**2 + _FLOOR**2  # of R_h^2 / core^2 by h / end, at h = 0
    inside = torch.expm1(p / 2 * torch.log1p(slope))
    even, odd = torch.zeros_like(slope), torch.zeros_like(slope)
    nodes = torch.from_numpy(_nodes(_NODES[slope.dtype])).to(slope).reshape(2, -1, *[1] * slope.dim())
    for s, weight in nodes.split(max(1, _TOGETHER // max(1, slope.numel())), dim=1):
        step = torch.log1p(s * inside) * (2 / p)
        h = torch.expm1(step) / slope * end
        sinh = torch.sinh(h)
        radius_square = n * sinh * (square * torch.cosh(h) / (2 * e) - cross * sinh)
        kappa = torch.exp(step * (1 - p / 2) - t / 2 * torch.log(radius_square + core**2))
        even, odd = even + (weight * kappa * torch.cosh(h)).sum(0), odd + (weight * kappa * (sinh / e)).sum(0)
    scale = theta_e**t * n * end / (2 * e) * inside / slope
    return scale * (even * x - odd * (e1 * x + e2 * y)), scale * (even * y - odd * (e2 * x - e1 * y))


@cache
def _nodes(count: int) -> NDArray[np.float64]:
    """Abscissae and weights on [0, 1], Gauss-Legendre's under s = x^2 (3 - 2 x): (2, node)."""
    x, weight = np.polynomial.legendre.leggauss(count)
    x = (x + 1) / 2
    return np.stack([x**2 * (3 - 2 * x), weight * 3 * x * (1 - x)])


def _differentiated(value: Tensor) -> bool:
    """Whether somebody asks for a derivative by this, backwards or forwards."""
    if value.requires_grad and torch.is_grad_enabled():
        return True
    return forward_ad.unpack_dual(value).tangent is not None


_Function = Callable[[Tensor, Tensor, Any], tuple[Tensor, ...]]
_DEFLECTION: Final[dict[type, _Function]] = {Sie: sie, Epl: epl, Shear: shear, PointMass: point_mass}
_CONVERGENCE: Final[dict[type, _Function]] = {
    Sie: sie_convergence, Epl: epl_convergence, Shear: _no_convergence, PointMass: _no_convergence
}  # fmt: skip


def _sum(
    functions: dict[type, _Function], mass: Sequence[Table], x: Tensor, y: Tensor, objects: int | None
) -> tuple[Tensor, ...]:
    """Each table's terms, added up per object."""
    shape = _shape(mass, x, y, objects)
    total: tuple[Tensor, ...] = ()
    for table in (part for whole in mass if len(whole.owner) for part in _parts(whole)):
        terms = _terms(functions[type(table.profile)], table, x, y, shape)
        total = tuple(a + b for a, b in zip(total, terms, strict=True)) if total else terms
    count = 1 if functions is _CONVERGENCE else 2
    return total or tuple(torch.zeros(shape, dtype=x.dtype, device=x.device) for _ in range(count))


def _terms(function: _Function, table: Table, x: Tensor, y: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    owner, rank = table.owner, len(shape)
    profile = type(table.profile)(*(v.reshape(-1, *[1] * (rank - 1)) for v in table.profile))
    if len(owner) == shape[0] and torch.equal(owner, torch.arange(shape[0], device=owner.device)):
        return function(x, y, profile)  # the common case, which copies nothing
    x, y = (v if len(v) == 1 else v[owner] for v in (x, y))
    rows = (v.expand(-1, *shape[1:]) for v in function(x, y, profile))
    return tuple(torch.zeros(shape, dtype=v.dtype, device=v.device).index_add(0, owner, v) for v in rows)


def _shape(mass: Sequence[Table], x: Tensor, y: Tensor, objects: int | None) -> tuple[int, ...]:
    """Of the answer: (object, ...)."""
    first, *rest = torch.broadcast_shapes(x.shape, y.shape)
    if objects is None and first == 1:
        objects = max((1 + int(table.owner.max()) for table in mass if len(table.owner)), default=1)
    return (objects or first, *rest)


def _parts(table: Table) -> list[Table]:
    """A table of power laws, apart where some rows have a core and some have none."""
    if not isinstance(table.profile, Epl):
        return [table]
    soft = table.profile.core > 0
    if bool(soft.all()) or not bool(soft.any()):
        return [table]
    return [Table(table.owner[s], Epl(*(v[s] for v in table.profile))) for s in (soft, ~soft)]
