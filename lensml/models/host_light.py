"""What every network sees beside the stamp: what stands out of the smooth light of the galaxy at its centre.

An arc in a bright halo is a few per cent of the light in its pixels, and a network that sees the stamp alone learns the
hosts of its simulations. The host is taken for the median along ellipses, falling outwards: one ellipse per object by
adaptive moments (Bernstein & Jarvis 2002, AJ 123, 583, section 3), one profile per band, and no pixel taken for sky,
since a halo may be larger than the stamp. `lensml/imaging/host_light.py` is the truer one, with errors, for photometry.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor

from lensml.models.stretch import asinh, sinh

VIEWS: Final = 2  # channels per band: the stamp, and what the host's light leaves of it
_RING_PIXELS: Final = 24  # in one step of the profile
_RING_GOOD: Final = 8  # of these at least, or the step takes the value of the one inside it
_WINDOW: Final = 1 / 12  # sigma of the moments' window, sides of the stamp
_MOMENT_STEPS: Final = 6
_CENTRE_MAX: Final = 1 / 12  # sides of the stamp: the host is the galaxy at the centre
_E_MAX: Final = 0.7  # (1 - q^2) / (1 + q^2): flatter is no elliptical
_FLOOR: Final = 1e-6


class Ellipse(NamedTuple):
    """Of each object (B, 1, 1): the centre in pixels from the stamp's, and the shape as moments of unit area."""

    x: Tensor
    y: Tensor
    xx: Tensor
    yy: Tensor
    xy: Tensor


class Rings(NamedTuple):
    """The pixels of each object in steps of elliptical radius, and how a pixel lies between the steps' middles."""

    order: Tensor  # (B, N) pixels from the centre outwards
    after: Tensor  # (B, N) the step beyond each pixel, from 1
    share: Tensor  # (B, N) of the way to it from the step before


def views(stamps: Tensor) -> Tensor:
    """The stamps with bad pixels filled by the host's light, and what is left without it.

    Parameters
    ----------
    stamps : (B, C, H, W) asinh(flux / sky sigma), exactly 0 where bad and in bands that are not there

    Returns
    -------
    (B, 2 C, H, W), both asinh, in units of sky sigma; 0 in bands that are not there
    """
    owner, band = torch.nonzero((stamps != 0).flatten(2).any(dim=2), as_tuple=True)
    seen = stamps[owner, band]  # (P, H, W): the bands that are there
    good = seen != 0
    flux = sinh(seen)
    shape = ellipse(torch.zeros_like(stamps[:, 0]).index_add(0, owner, flux * good))
    host = _medians(flux.flatten(1), good.flatten(1), rings(shape, stamps.shape[-2:]), owner).view_as(flux)
    out = stamps.new_zeros(stamps.shape[0], VIEWS, *stamps.shape[1:])
    out[owner, 0, band] = torch.where(good, seen, asinh(host))
    out[owner, 1, band] = asinh((flux - host) * good)
    return out.flatten(1, 2)


def ellipse(image: Tensor) -> Ellipse:
    """Centre and shape of the light in the middle of images (B, H, W): moments under a window of that same shape."""
    x, y = _plane(image)
    side, light = image.shape[-1], image.clamp(min=0)
    zero, one = torch.zeros_like(image[:, :1, :1]), torch.ones_like(image[:, :1, :1])
    found = Ellipse(zero, zero, one, one, zero)
    for _ in range(_MOMENT_STEPS):
        dx, dy = x - found.x, y - found.y
        window = light * torch.exp(_squared_radius(found, dx, dy) * (-0.5 / (_WINDOW * side) ** 2))
        found = _moved(found, window, dx, dy, _CENTRE_MAX * side)
    return found


def rings(shape: Ellipse, size: torch.Size) -> Rings:
    """Steps of `_RING_PIXELS` pixels each; the outermost pixels, too few for one, belong to the last."""
    x, y = _plane(shape.x.expand(-1, *size))
    radius = torch.sqrt(_squared_radius(shape, x - shape.x, y - shape.y) + _FLOOR).flatten(1)
    order = radius.argsort(dim=1)
    middle = radius.gather(1, _whole(order).flatten(1)).unflatten(1, (-1, _RING_PIXELS)).mean(dim=2)
    after = torch.searchsorted(middle, radius).clamp(1, middle.shape[1] - 1)
    start, end = middle.gather(1, after - 1), middle.gather(1, after)
    return Rings(order, after, ((radius - start) / (end - start).clamp(min=_FLOOR)).clamp(-1, 1))


def _medians(flux: Tensor, good: Tensor, steps: Rings, owner: Tensor) -> Tensor:
    """The host at every pixel of the bands (P, N) of objects `owner`: medians falling outwards, joined by lines."""
    inside = torch.where(good, flux, torch.nan).gather(1, _whole(steps.order)[owner].flatten(1))
    inside = inside.unflatten(1, (-1, _RING_PIXELS))
    enough = torch.isfinite(inside).sum(dim=2) >= _RING_GOOD
    level = torch.where(enough, inside.nanmedian(dim=2).values, torch.inf).cummin(dim=1).values
    level = torch.where(torch.isinf(level), 0.0, level)  # no good pixel from the centre up to here
    after, share = steps.after[owner], steps.share[owner]
    return torch.lerp(level.gather(1, after - 1), level.gather(1, after), share)


def _whole(order: Tensor) -> Tensor:
    return order[:, : order.shape[1] // _RING_PIXELS * _RING_PIXELS].unflatten(1, (-1, _RING_PIXELS))


def _moved(last: Ellipse, window: Tensor, dx: Tensor, dy: Tensor, centre_max: float) -> Ellipse:
    total = window.sum(dim=(1, 2), keepdim=True) + _FLOOR
    x, y, xx, yy, xy = (
        (window * values).sum(dim=(1, 2), keepdim=True) / total for values in (dx, dy, dx * dx, dy * dy, dx * dy)
    )
    size = (xx + yy).clamp(min=_FLOOR)
    e1, e2 = (xx - yy) / size, 2 * xy / size
    shrink = (_E_MAX / torch.sqrt(e1**2 + e2**2 + _FLOOR)).clamp(max=1)
    e1, e2 = e1 * shrink, e2 * shrink
    area = torch.sqrt(1 - e1**2 - e2**2)
    x, y = (last.x + x).clamp(-centre_max, centre_max), (last.y + y).clamp(-centre_max, centre_max)
    return Ellipse(x, y, (1 + e1) / area, (1 - e1) / area, e2 / area)


def _squared_radius(shape: Ellipse, dx: Tensor, dy: Tensor) -> Tensor:
    return (shape.yy * dx - 2 * shape.xy * dy) * dx + shape.xx * dy**2


def _plane(image: Tensor) -> tuple[Tensor, Tensor]:
    y, x = (torch.arange(n, dtype=image.dtype, device=image.device) - (n - 1) / 2 for n in image.shape[-2:])
    return x[None, None, :], y[None, :, None]
