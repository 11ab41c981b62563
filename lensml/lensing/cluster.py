"""Lensing by a cluster: deflection, magnification, critical curves and caustics of a Lenstool model.

A dPIE's convergence is that of a cored isothermal ellipsoid less that of another whose core is the cut radius
(Kassiola & Kovner 1993, ApJ 417, 450, I_0.5; Eliasdottir et al. 2007, arXiv:0710.5636, A.8), so that lenstronomy's NIE
gives its deflection exactly, with the ellipticity in the mass as in Lenstool. Deflection, convergence and shear are of
D_ls / D_s = 1 and go with it; x to the west and y to the north, arcsec.
"""

import math
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from lenstronomy.LensModel.Profiles.nie import NIE
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from lensml.lensing.critical import contours
from lensml.lensing.lenstool import Dpie, Model, family, offsets
from lensml.lensing.scene import Sie

Float = NDArray[np.float64]
Lines = tuple[Float, ...]  # each (point, 2), x and y; closed ones end where they begin

_C: Final = 299_792.458  # km/s
_RADIAN_ARCSEC: Final = math.degrees(1) * 3600
_BLOCK: Final = 8192  # positions at once: what is computed for them stays in the processor's cache
_CENTRE: Final = 1e-9  # arcsec; a singular potential's centre has the convergence and shear of this far beside
_STEPS_MAX: Final = 4096  # along a side: some minutes with 150 potentials


class Maps(NamedTuple):
    """Convergence and shear on a grid: kappa, gamma1 and gamma2 (y, x)."""

    x: Float
    y: Float
    kappa: Float
    gamma1: Float
    gamma2: Float


class Curves(NamedTuple):
    """Where the magnification is infinite, in one plane, by which eigenvalue of the Jacobian is zero."""

    tangential: Lines
    radial: Lines


def isothermals(model: Model) -> tuple[Sie, ...]:
    """The potentials as lenstronomy's profiles: for each an ellipsoid, and one of negative mass with the cut as core.

    Lenstool's radius is R^2 = x^2 / (1 + eps)^2 + y^2 / (1 - eps)^2 with eps = (1 - q) / (1 + q), lenstronomy's is
    q x^2 + y^2 / q = (1 - eps^2) R^2.
    """
    return tuple(part for potential in model.potentials for part in _parts(potential))


def _parts(potential: Dpie) -> tuple[Sie, Sie]:
    e = potential.ellipticity
    eps = e / (1 + math.sqrt(1 - e**2))
    core, cut, narrow = potential.core_arcsec, potential.cut_arcsec, math.sqrt(1 - eps**2)
    b0 = 6 * math.pi * (potential.v_disp / _C) ** 2 * _RADIAN_ARCSEC
    theta_e, angle = b0 * cut / (cut - core) * narrow, 2 * math.radians(potential.angle_deg)
    shape = eps * math.cos(angle), eps * math.sin(angle), potential.x_arcsec, potential.y_arcsec
    return Sie(theta_e, *shape, core * narrow), Sie(-theta_e, *shape, cut * narrow)


def distance_ratio(model: Model, z_source: ArrayLike) -> Float:
    """D_ls / D_s, which all lensing goes with.

    Raises
    ------
    ValueError
        A source is not behind the lens.
    """
    z = np.asarray(z_source, np.float64)
    wrong = z[~((z > model.z_lens) & np.isfinite(z))]
    if wrong.size:
        raise ValueError(f"z_source must be above z_lens {model.z_lens:g}, got {wrong[0]:g}. Give a source behind it.")
    distance = model.cosmology.angular_diameter_distance
    return np.asarray((distance(model.z_lens, z) / distance(z)).value, np.float64)


def deflection(model: Model, x: ArrayLike, y: ArrayLike) -> tuple[Float, Float]:
    """Deflection in arcsec at positions of any shape, by lenstronomy."""
    x, y, nie = np.asarray(x, np.float64), np.asarray(y, np.float64), NIE()
    alpha = np.zeros((2, *np.broadcast_shapes(x.shape, y.shape)))
    for mass in isothermals(model):
        alpha += nie.derivatives(x, y, mass.theta_e, mass.e1, mass.e2, mass.core, mass.center_x, mass.center_y)
    return alpha[0], alpha[1]


def trace(model: Model, x: ArrayLike, y: ArrayLike, z_source: ArrayLike) -> tuple[Float, Float]:
    """Where the light that is seen at positions comes from, in the source plane.

    Raises
    ------
    ValueError
        As `distance_ratio`.
    """
    ratio, alpha = distance_ratio(model, z_source), deflection(model, x, y)
    return np.asarray(x) - ratio * alpha[0], np.asarray(y) - ratio * alpha[1]


def convergence_and_shear(model: Model, x: ArrayLike, y: ArrayLike) -> tuple[Float, Float, Float]:
    """kappa, gamma1 and gamma2 at positions of any shape, in closed form (lenstronomy's are finite differences)."""
    x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
    flat, masses = np.stack([x.ravel(), y.ravel()]), isothermals(model)
    found = np.empty((3, x.size))
    for first in tqdm(range(0, x.size, _BLOCK), "cluster", unit=" blocks", disable=None, delay=5, leave=False):
        here = slice(first, first + _BLOCK)
        found[:, here] = _sum(masses, *flat[:, here])
    kappa, gamma1, gamma2 = found.reshape(3, *x.shape)
    return kappa, gamma1, gamma2


def _sum(masses: tuple[Sie, ...], x: Float, y: Float) -> Float:
    """kappa, gamma1, gamma2 of them all, (3, position)."""
    total = np.zeros((3, x.size))
    for mass in masses:
        for part, of_this in zip(total, _nie(mass, x, y), strict=True):
            part += of_this
    return total


def _nie(mass: Sie, x: Float, y: Float) -> tuple[Float, Float, Float]:
    """kappa, gamma1, gamma2 of an ellipsoid (Keeton 2001, arXiv:astro-ph/0102341, softened isothermal)."""
    size, angle = math.hypot(mass.e1, mass.e2), math.atan2(mass.e2, mass.e1)
    q, cos, sin = (1 - size) / (1 + size), math.cos(angle / 2), math.sin(angle / 2)
    x, y = x - mass.center_x, y - mass.center_y
    x, y = cos * x + sin * y, cos * y - sin * x
    x2, y2, core2 = np.maximum(x * x, _CENTRE**2), y * y, mass.core**2
    psi = np.sqrt(q * x2 + y2 / q + core2)
    kappa = 0.5 * mass.theta_e / psi
    shear = kappa / (x2 + y2 + 2 * mass.core * psi + core2 * (q + 1 / q))
    along, across = shear * (y2 - x2 - core2 * (1 / q - q)), -2 * shear * x * y
    cos, sin = math.cos(angle), math.sin(angle)
    return kappa, cos * along - sin * across, sin * along + cos * across


def magnification(model: Model, x: ArrayLike, y: ArrayLike, z_source: ArrayLike) -> Float:
    """Signed magnification at positions: negative where the image's parity is.

    Raises
    ------
    ValueError
        As `distance_ratio`.
    """
    ratio, (kappa, gamma1, gamma2) = distance_ratio(model, z_source), convergence_and_shear(model, x, y)
    return 1 / ((1 - ratio * kappa) ** 2 - ratio**2 * (gamma1**2 + gamma2**2))


def scatter(model: Model, images: pl.DataFrame) -> pl.DataFrame:
    """How far apart the images of each family come from, which is zero in a perfect model.

    Parameters
    ----------
    images : id, ra, dec (deg) and z, null where the model has to know it

    Returns
    -------
    family, images (how many), z, rms_arcsec about their mean in the source plane (null for a single image), in order of
    appearance

    Raises
    ------
    ValueError
        Neither the list nor the model has a family's redshift, a family has several, or a source is not behind the
        lens.
    """
    table = traced(model, images).group_by("family", maintain_order=True)
    spread = (pl.col("beta_x").var(ddof=0) + pl.col("beta_y").var(ddof=0)).sqrt()
    rms = pl.when(pl.len() > 1).then(spread).alias("rms_arcsec")
    return table.agg(pl.len().cast(pl.Int64).alias("images"), pl.col("z").first(), rms)


def traced(model: Model, images: pl.DataFrame) -> pl.DataFrame:
    """The images with family and redshift, in the image plane (x, y) and in the source plane (beta_x, beta_y), arcsec.

    Raises
    ------
    ValueError
        As `scatter`.
    """
    names = images["id"].to_list()
    z = _redshifts(model, names, images["z"].to_list())
    x, y = offsets(model, images["ra"].to_numpy(), images["dec"].to_numpy())
    beta_x, beta_y = trace(model, x, y, z)
    places = {"x": x, "y": y, "beta_x": beta_x, "beta_y": beta_y}
    return pl.DataFrame({"id": names, "family": [family(name) for name in names], "z": z} | places)


def _redshifts(model: Model, names: list[str], listed: list[float | None]) -> list[float]:
    """Of each image: the model's for its family, else the list's."""
    found: dict[str, float] = {}
    for name, z_listed in zip(names, listed, strict=True):
        own = family(name)
        z = model.redshifts.get(own, z_listed)
        if z is None:
            raise ValueError(f"the redshift of family {own} must be known, got none. Give it in the list of images.")
        if found.setdefault(own, z) != z:
            raise ValueError(f"family {own} must have one redshift, got {found[own]:g} and {z:g} (image {name}).")
    return [found[family(name)] for name in names]


def maps(model: Model, width_arcsec: float, step_arcsec: float) -> Maps:
    """Convergence and shear on a square grid about the reference.

    Raises
    ------
    ValueError
        The width is not positive, or the step is not between it and a 4096th of it.
    """
    if not 0 < width_arcsec < math.inf:
        raise ValueError(f"width_arcsec must be positive, got {width_arcsec:g}.")
    low = width_arcsec / _STEPS_MAX
    if not low <= step_arcsec <= width_arcsec:
        raise ValueError(f"step_arcsec must be in [{low:g}, {width_arcsec:g}], got {step_arcsec:g}. Widen the step.")
    axis = np.linspace(-width_arcsec / 2, width_arcsec / 2, math.ceil(width_arcsec / step_arcsec) + 1)
    return Maps(axis, axis, *convergence_and_shear(model, axis, axis[:, None]))


def critical_curves(model: Model, maps: Maps, z_source: float) -> Curves:
    """The critical curves within the maps, for sources at a redshift.

    Raises
    ------
    ValueError
        As `distance_ratio`.
    """
    ratio = float(distance_ratio(model, z_source))
    shear, rest = ratio * np.hypot(maps.gamma1, maps.gamma2), 1 - ratio * maps.kappa
    return Curves(*(tuple(contours(values, maps.x, maps.y, 0.0)) for values in (rest - shear, rest + shear)))


def caustics(model: Model, critical: Curves, z_source: float) -> Curves:
    """The critical curves as they are in the source plane.

    Raises
    ------
    ValueError
        As `distance_ratio`.
    """
    lines = critical.tangential + critical.radial
    if not lines:
        return critical
    x, y = np.concatenate(lines).T  # all at once: lenstronomy takes a potential at a time
    beta = np.stack(trace(model, x, y, z_source), axis=-1)
    found = tuple(np.split(beta, np.cumsum([len(line) for line in lines])[:-1]))
    return Curves(found[: len(critical.tangential)], found[len(critical.tangential) :])
