"""Where a lens magnifies without bound, how large it is, and where the images of a point are.

Everything here is of one object, in float64 and NumPy, arcsec. Curves are (point, 2) arrays of x, y; a closed curve
ends where it begins. A `Field` maps coordinates of any equal shape to values of that shape, so that lenses that
`lensml.lensing.mass` does not know are drawn by the same code.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import contourpy
import numpy as np
import torch
from numpy.typing import NDArray

from lensml.lensing import mass as masses
from lensml.lensing.scene import Table

Array = NDArray[np.float64]
Field = Callable[[Array, Array], Array]

_STEPS: Final = 6  # of Newton; each doubles the digits of a contour's linear interpolation
_DIFFERENCE: Final = 1e-4  # cells, for a field's slope
_RAYS: Final = 128  # directions in which the outermost critical point is looked for
_RADII: Final = np.geomspace(0.05, 2000, 80)  # in which it is looked for, in sums of theta_e
_MARGIN: Final = 1.5  # of it, for what lies between two directions
_HALVINGS: Final = 6  # of cells that may hold an image
_NEWTON: Final = 40  # steps
_STILL: Final = 1e-14  # arcsec, a step after which there is no other
_LEAP: Final = 8  # of the last cells, at most a step
_RESIDUAL: Final = 1e-10  # arcsec in the source plane
_SAME: Final = 1e-7  # arcsec in the image plane: one image found twice
_FAINTEST: Final = 1e-10  # magnification; below, the image is that of the floor at a singular centre


class Images(NamedTuple):
    """Of one point source, the brightest first: x, y, and the magnification with its parity's sign."""

    x: Array
    y: Array
    magnification: Array


def contours(values: Array, x: Array, y: Array, level: float) -> list[Array]:
    """Curves (point, 2) on which values (y, x), linear between the axes' points x (x,) and y (y,), are `level`."""
    generator = contourpy.contour_generator(x, y, values, line_type=contourpy.LineType.Separate)
    return [np.asarray(line, dtype=np.float64) for line in generator.lines(level)]


def critical_curves(
    field: Field, half_width: float, pixels: int, center_x: float = 0.0, center_y: float = 0.0
) -> list[Array]:
    """Curves on which a field is 0: critical ones where it is det d beta / d theta or one of its eigenvalues.

    Parameters
    ----------
    field
        such as `determinant`, `tangential` or `radial` of a mass; may be infinite, not NaN, at a singular centre
    half_width
        of the square window in which they are looked for; a curve that leaves it is cut there
    pixels
        of the window's side; a curve smaller than a pixel may be missed. Points are exact whatever their number.
    """
    side = np.linspace(-half_width, half_width, pixels)
    x, y = center_x + side, center_y + side
    values = field(*np.meshgrid(x, y))
    squashed = np.arctan(values)  # the same zeros, without a singular centre's slope
    return [_on_zero(field, curve, side[1] - side[0]) for curve in contours(squashed, x, y, 0.0)]


def determinant(mass: Sequence[Table]) -> Field:
    """det d beta / d theta, one over the magnification, of object 0."""
    return lambda x, y: _determinant(_lens(mass, x, y)[2:])


def tangential(mass: Sequence[Table]) -> Field:
    """1 - convergence - |shear|, which is 0 on the tangential critical curve."""
    return lambda x, y: _eigenvalue(_lens(mass, x, y)[2:], -1)


def radial(mass: Sequence[Table]) -> Field:
    """1 - convergence + |shear|, which is 0 on the radial critical curve; singular isothermal lenses have none."""
    return lambda x, y: _eigenvalue(_lens(mass, x, y)[2:], 1)


def caustics(mass: Sequence[Table], curves: Sequence[Array]) -> list[Array]:
    """Critical curves traced back to the source plane."""
    return [np.stack(_lens(mass, *curve.T)[:2], axis=-1) for curve in curves]


def einstein_radius(mass: Sequence[Table], pixels: int = 400) -> float:
    """Radius of the circle that has the area within the largest tangential critical curve; 0 where there is none.

    For an elliptical or sheared lens this is the effective Einstein radius. That of an isothermal ellipsoid is its
    theta_e whatever its axis ratio; a flat power law's of another slope, and a sheared one's, are near it only.
    """
    field = tangential(mass)
    x, y = _center(mass)
    scale = float(_deflectors(mass)[0].sum())
    if scale == 0:
        return 0.0
    half_width = _window(mass, lambda dx, dy: field(x + dx, y + dy), scale)
    closed = [c for c in critical_curves(field, half_width, pixels, x, y) if np.array_equal(c[0], c[-1])]
    return max((float(np.sqrt(_area(c) / np.pi)) for c in closed), default=0.0)


def image_positions(mass: Sequence[Table], beta_x: float, beta_y: float, cells: int = 64) -> Images:
    """All images of a point source at (beta_x, beta_y): the lens equation holds to 1e-10 arcsec.

    Cells, `cells` a side of a window that holds all images, are halved where an image may be, then Newton's method
    finishes. Images closer than 1e-7 arcsec are one; a source on a point caustic gives many points of its ring.
    Images at a singular centre, fainter than 1e-10, are no images.
    """
    x, y = _center(mass)
    scale = float(_deflectors(mass)[0].sum() + np.hypot(beta_x - x, beta_y - y)) or 1.0  # nothing there: any
    half_width = _window(mass, lambda dx, dy: _outwards(mass, dx, dy, beta_x, beta_y), scale)
    side = (np.arange(cells) + 0.5) * (2 * half_width / cells) - half_width
    points, size = np.stack(np.meshgrid(x + side, y + side)).reshape(2, -1), 2 * half_width / cells
    for _ in range(_HALVINGS):
        points, size = _halved(points[:, _may_hold(mass, points, beta_x, beta_y, size)], size), size / 2
    return _distinct(mass, _newton(mass, points, beta_x, beta_y, _LEAP * size), beta_x, beta_y)


def _lens(mass: Sequence[Table], x: Array, y: Array) -> tuple[Array, ...]:
    """beta_x, beta_y and d beta / d theta (xx, xy, yy) at points of any shape."""
    return tuple(v[0].numpy() for v in masses.trace(_double(mass), *_rays(x, y), 1))


def _double(mass: Sequence[Table]) -> list[Table]:
    return [Table(t.owner, type(t.profile)(*(v.detach().double() for v in t.profile))) for t in mass]


def _rays(x: Array, y: Array) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.ascontiguousarray(x))[None], torch.from_numpy(np.ascontiguousarray(y))[None]


def _determinant(matrix: tuple[Array, ...]) -> Array:
    xx, xy, yy = matrix
    return xx * yy - xy**2


def _eigenvalue(matrix: tuple[Array, ...], sign: int) -> Array:
    xx, xy, yy = matrix
    return (xx + yy) / 2 + sign * np.hypot((xx - yy) / 2, xy)


def _on_zero(field: Field, curve: Array, cell: float) -> Array:
    """A contour's points moved along the field's slope until the field is 0, by a cell at most."""
    x, y = curve.T
    h = cell * _DIFFERENCE
    for _ in range(_STEPS):
        slope_x, slope_y = (field(x + h, y) - field(x - h, y)) / (2 * h), (field(x, y + h) - field(x, y - h)) / (2 * h)
        square = slope_x**2 + slope_y**2
        step = np.divide(field(x, y), square, out=np.zeros_like(x), where=square > 0)
        step *= np.minimum(1, cell / np.maximum(np.abs(step) * np.sqrt(square), 1e-300))
        x, y = x - step * slope_x, y - step * slope_y
    return np.stack([x, y], axis=-1)


def _area(curve: Array) -> float:
    x, y = (curve - curve[0]).T
    return abs(float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))) / 2


def _window(mass: Sequence[Table], outside: Callable[[Array, Array], Array], scale: float) -> float:
    """Half-width of the square about the centre beyond which `outside` (of offsets from there) is positive."""
    angle = np.arange(_RAYS) * (2 * np.pi / _RAYS)
    radius = _RADII[:, None] * scale
    inner = np.flatnonzero((outside(radius * np.cos(angle), radius * np.sin(angle)) <= 0).any(axis=1))
    if len(inner) and inner[-1] == len(_RADII) - 1:
        raise ValueError("shear must let rays far out pass, got images at any radius (mass). Take it below 1.")
    _, x, y = _deflectors(mass)
    others = np.hypot(*(v - c for v, c in zip((x, y), _center(mass), strict=True))).max() + scale if len(x) > 1 else 0.0
    return float(max(_MARGIN * radius[inner[-1] + 1 if len(inner) else 0, 0], others))


def _center(mass: Sequence[Table]) -> tuple[float, float]:
    """Of the largest deflector."""
    theta_e, x, y = _deflectors(mass)
    return (float(x[theta_e.argmax()]), float(y[theta_e.argmax()])) if len(x) else (0.0, 0.0)


def _deflectors(mass: Sequence[Table]) -> Array:
    """theta_e, x, y of what has a centre: (3, deflector)."""
    profiles = [t.profile for t in _double(mass) if hasattr(t.profile, "theta_e")]
    rows = [np.stack([p.theta_e.numpy(), p.center_x.numpy(), p.center_y.numpy()]) for p in profiles]
    return np.concatenate([np.zeros((3, 0)), *rows], axis=1)


def _outwards(mass: Sequence[Table], dx: Array, dy: Array, beta_x: float, beta_y: float) -> Array:
    """How far rays at an offset from the centre miss the source on their own side of it; no image where positive."""
    x, y = (c + d for c, d in zip(_center(mass), (dx, dy), strict=True))
    alpha_x, alpha_y = (v[0].numpy() for v in masses.deflection(_double(mass), *_rays(x, y), 1))
    return (x - alpha_x - beta_x) * dx + (y - alpha_y - beta_y) * dy


def _may_hold(mass: Sequence[Table], points: Array, beta_x: float, beta_y: float, size: float) -> NDArray[np.bool_]:
    """Cells whose rays spread at least as far as they miss the source, and those at a deflector's centre."""
    bx, by, xx, xy, yy = _lens(mass, *points)
    may: NDArray[np.bool_] = np.hypot(bx - beta_x, by - beta_y) <= 2 * size * np.sqrt(xx**2 + 2 * xy**2 + yy**2)
    for x, y in _deflectors(mass)[1:].T:
        may |= np.hypot(points[0] - x, points[1] - y) < size
    return may


def _halved(points: Array, size: float) -> Array:
    shift = np.array([[-1, 1, -1, 1], [-1, -1, 1, 1]]) * (size / 4)
    return (points[:, :, None] + shift[:, None]).reshape(2, -1)


def _newton(mass: Sequence[Table], points: Array, beta_x: float, beta_y: float, longest: float) -> Array:
    """Points moved to the images next to them, by `longest` at most a step; which ones arrived is not said."""
    points, moving = points.copy(), np.arange(points.shape[1])
    for _ in range(_NEWTON):
        bx, by, xx, xy, yy = _lens(mass, *points[:, moving])
        dx, dy, det = beta_x - bx, beta_y - by, _determinant((xx, xy, yy))
        step = np.stack([yy * dx - xy * dy, xx * dy - xy * dx]) / np.where(det == 0, np.finfo(float).tiny, det)
        length = np.hypot(*step)
        points[:, moving] += step * np.minimum(1, longest / np.maximum(length, longest))
        moving = moving[length > _STILL]
        if not len(moving):
            break
    return points


def _distinct(mass: Sequence[Table], points: Array, beta_x: float, beta_y: float) -> Images:
    """The points that are images, each once."""
    bx, by, *matrix = _lens(mass, *points)
    magnification = 1 / _determinant(tuple(matrix))
    good = (np.hypot(bx - beta_x, by - beta_y) < _RESIDUAL) & (np.abs(magnification) > _FAINTEST)
    points, magnification = points[:, good], magnification[good]
    kept: list[int] = []
    for i in np.argsort(-np.abs(magnification), kind="stable"):
        if all(np.hypot(*(points[:, i] - points[:, j])) > _SAME for j in kept):
            kept.append(int(i))
    return Images(points[0, kept], points[1, kept], magnification[kept])
