"""What is to be rendered: mass and light of one object as numbers, of many at once as tables of tensors.

Profiles and their parameters are lenstronomy's, in lower case: angles in arcsec, ellipticities (e1, e2) with
(1 - q) / (1 + q) = |e|, radii and Einstein radii product-averaged (of the circle of equal area). x grows to the right
and y upwards with the array's second and first index; (0, 0) is the stamp's centre, (pixels - 1) / 2.
The fields hold floats in a `Scene` and tensors (row,) in a `Table`; `flux` is a total, per band, in any unit: a tuple
(band,) there and a tensor (row, band) here.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Sie(NamedTuple):
    """Isothermal ellipsoid, with a core (lenstronomy's NIE; its SIE where core is 0)."""

    theta_e: Any  # Einstein radius of the singular profile
    e1: Any
    e2: Any
    center_x: Any
    center_y: Any
    core: Any  # radius below which the convergence is flat, lenstronomy's s_scale; >= 0


class Epl(NamedTuple):
    """Elliptical power law; the density falls as r ** -gamma, 1 < gamma < 3 (2: isothermal)."""

    theta_e: Any
    gamma: Any
    e1: Any
    e2: Any
    center_x: Any
    center_y: Any
    core: Any  # the elliptical radius R becomes sqrt(R^2 + core^2); >= 0


class Shear(NamedTuple):
    """External shear about a point where it deflects nothing."""

    gamma1: Any
    gamma2: Any
    center_x: Any
    center_y: Any


class PointMass(NamedTuple):
    """A point mass."""

    theta_e: Any
    center_x: Any
    center_y: Any


class Sersic(NamedTuple):
    """Sersic (1968) profile."""

    flux: Any
    r_sersic: Any  # effective radius: half of the light within
    n_sersic: Any
    e1: Any
    e2: Any
    center_x: Any
    center_y: Any


class Ring(NamedTuple):
    """A Gaussian annulus whose brightness varies in azimuth: rings, knots, spokes, shells, spiral arms, tails.

    The azimuthal factor is exp(contrast cos(arms angle + winding ln(r / radius) + phase)) / I0(contrast).
    """

    flux: Any
    radius: Any
    width: Any
    e1: Any
    e2: Any
    center_x: Any
    center_y: Any
    arms: Any
    contrast: Any  # 0 is an even ring
    winding: Any  # rad per e-fold of radius; 0 is radial spokes
    phase: Any


class Pixels(NamedTuple):
    """A pixelated galaxy, interpolated bilinearly and normalised to its flux."""

    flux: Any
    image: Any  # (y, x), any unit; zero outside
    pixel_scale: Any  # arcsec
    angle: Any  # rad, by which the image is turned counter-clockwise
    center_x: Any
    center_y: Any


class Point(NamedTuple):
    """A point source; of a scene's `lens_light` only, since the lens equation says where its images are."""

    flux: Any
    center_x: Any
    center_y: Any


Mass = Sie | Epl | Shear | PointMass
Light = Sersic | Ring | Pixels | Point


class Scene(NamedTuple):
    """One object: what deflects, the light in the lens plane, the light that is deflected."""

    mass: tuple[Mass, ...]
    lens_light: tuple[Light, ...]
    source_light: tuple[Light, ...]


class Table(NamedTuple):
    """Profiles of one kind, of many objects."""

    owner: Tensor  # (row,) int64, ascending: the object that a row belongs to
    profile: Any  # one of the profiles, its fields tensors (row, ...)


class Parameters(NamedTuple):
    """Many objects at once: what `lensml.lensing.render.render_batch` draws."""

    objects: int
    mass: tuple[Table, ...]
    lens_light: tuple[Table, ...]
    source_light: tuple[Table, ...]


def collate(scenes: Sequence[Scene], dtype: torch.dtype = torch.float32) -> Parameters:
    """The scenes as tables; a table holds one kind of profile, and pixelated galaxies of one shape."""
    return Parameters(len(scenes), *(_tables((scene[i] for scene in scenes), dtype) for i in range(3)))


def take(parameters: Parameters, objects: Tensor) -> Parameters:
    """The parameters of some objects, numbered anew in the order in which they are named; an object may come twice."""
    groups = (tuple(_taken(t, objects, parameters.objects) for t in tables) for tables in parameters[1:])
    return Parameters(len(objects), *groups)


def _taken(table: Table, objects: Tensor, count: int) -> Table:
    rows = torch.bincount(table.owner, minlength=count)
    first, each = (torch.cumsum(rows, 0) - rows)[objects], rows[objects]
    owner = torch.repeat_interleave(torch.arange(len(objects), device=objects.device), each)
    within = torch.arange(len(owner), device=owner.device) - (torch.cumsum(each, 0) - each)[owner]
    chosen = first[owner] + within
    return Table(owner, type(table.profile)(*(v[chosen] for v in table.profile)))


def split(parameters: Parameters, size: int) -> list[Parameters]:
    """The parameters, `size` objects at a time."""
    begins = range(0, parameters.objects, size)
    groups = [[_split(t, parameters.objects, size) for t in tables] for tables in parameters[1:]]
    counts = [min(size, parameters.objects - begin) for begin in begins]
    return [Parameters(n, *(tuple(t[i] for t in tables) for tables in groups)) for i, n in enumerate(counts)]


def _split(table: Table, count: int, size: int) -> list[Table]:
    rows = torch.bincount(table.owner // size, minlength=-(-count // size)).tolist()
    fields = zip(*(v.split(rows) for v in table.profile), strict=True)
    owners = (table.owner % size).split(rows)
    return [Table(o, type(table.profile)(*f)) for o, f in zip(owners, fields, strict=True)]


def _tables(groups: Iterable[tuple[Any, ...]], dtype: torch.dtype) -> tuple[Table, ...]:
    found: dict[Any, list[tuple[int, Any]]] = {}
    for owner, profiles in enumerate(groups):
        for profile in profiles:
            shape = np.shape(profile.image) if isinstance(profile, Pixels) else ()
            found.setdefault((type(profile), shape), []).append((owner, profile))
    return tuple(_table(kind, rows, dtype) for (kind, _), rows in found.items())


def _table(kind: Any, rows: list[tuple[int, Any]], dtype: torch.dtype) -> Table:
    columns = zip(*(profile for _, profile in rows), strict=True)
    return Table(torch.tensor([owner for owner, _ in rows]), kind(*(_column(c, dtype) for c in columns)))


def _column(values: tuple[Any, ...], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.asarray(values)).to(dtype)
