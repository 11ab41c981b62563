"""Stamps from one grid of pixels onto another: flux is conserved, variance and noise correlation follow in closed form.

A new pixel collects of each old one the share of its area that lies within (drizzling with whole pixels, Fruchter &
Hook 2002, PASP 114, 144). The map is made once for a pair of frames and applied to all objects and bands as a sparse
product. `reproject_exact` gives the same values plane by plane, 100 to 400 times slower; `reproject_adaptive` keeps a
star's flux to 1e-2 or 1e-3 only, and smooths more (figures: benchmarks/resample.py).

Rules
-----
- A new pixel is bad where more than `lost_weight_max` of its squared weight, that is of its noise, falls on bad pixels
  or beyond the border; else what is missing is made up from the rest of it, as when binning.
- A new pixel that touches a saturated one is saturated.
- Variance goes through the squared weights. `noise` says what becomes of noise that was correlated before, and how
  correlated it is afterwards.
- An old pixel is spread evenly over its area: the effective PSF widens by the new pixel, and by the old one once more.
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from lensml.imaging.frames import Areas, Frame, overlaps, step

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]
Values = NDArray[np.float64]

_MAPS: Final = 64  # kept; a source has few pairs of frames, and a map is of the size of a few stamps
_SPLINE: Final = 5  # order that PSFs are moved by a part of a pixel with
_HELD_MIN: Final = 0.5  # of a PSF's light: with less the stamp is not of its core
_MARGIN: Final = 3  # pixels around a PSF that it may ring into while it is moved


@dataclass(frozen=True)
class Resampling:
    """The map from one frame to another.

    Attributes
    ----------
    areas : (new pixel, old pixel), in old pixels
    squares : (new pixel,), sum of the squared areas, beyond the old frame's border too
    """

    old: Frame
    new: Frame
    areas: Areas
    squares: Values

    @property
    def area(self) -> float:
        """Of a new pixel, in old ones."""
        return (self.new.pixel_scale / self.old.pixel_scale) ** 2

    @cached_property
    def lags(self) -> tuple[Values, Values]:
        """Sums over pairs of old pixels, by their distance |dy| + |dx|, of the products of a new pixel's areas with its
        own, and with those of its right neighbour: means over the new pixels that are wholly covered."""
        covered = np.asarray(self.areas.sum(axis=1)) > self.area * (1 - 1e-6)
        whole = covered.reshape(self.new.height, self.new.width)
        left = np.pad(whole[:, :-1] & whole[:, 1:], ((0, 0), (0, 1)))
        return _pairs(self, np.flatnonzero(whole), 0), _pairs(self, np.flatnonzero(left), 1)


@dataclass(frozen=True)
class Resampled:
    """Stamps on the new frame: flux 0 and variance infinite where bad."""

    flux: Float
    variance: Float
    saturated: Bool


@dataclass(frozen=True)
class Noise:
    """What resampling does to sky noise, as means over the new pixels that are wholly covered."""

    white: float  # variance after over variance before, had the noise been white
    variance: Values  # the same for the noise as it is
    neighbour: Values  # correlation of neighbours along x afterwards


@lru_cache(maxsize=_MAPS)
def between(old: Frame, new: Frame) -> Resampling:
    """The map between two frames whose objects are the same place on the sky."""
    return Resampling(old, new, *overlaps(old, new))


def to_frame(
    flux: Float, variance: Float, through: Resampling, lost_weight_max: float, saturated: Bool | None = None
) -> Resampled:
    """Bring stamps onto a new frame.

    Parameters
    ----------
    flux, variance : (..., y, x) on the old frame, nJy and nJy^2; bad where the variance is infinite
    lost_weight_max : [0, 1), share of a new pixel's squared weight
    saturated : (..., y, x), True = saturated; None: no pixel is

    Returns
    -------
    (..., y, x) on the new frame

    Raises
    ------
    ValueError
        The stamps are not of the old frame's shape.
    """
    old, new = through.old, through.new
    if flux.shape[-2:] != (old.height, old.width) or flux.shape != variance.shape:
        raise ValueError(
            f"flux and variance must be (..., {old.height}, {old.width}), got {flux.shape} and {variance.shape}. "
            "Make the frame from the stamp's shape."
        )
    shape = (*flux.shape[:-2], new.height, new.width)
    good = np.isfinite(variance)
    light, spread = np.where(good, flux, np.float32(0)), np.where(good, variance, np.float32(0))
    areas = through.areas.astype(np.float32)
    scale, bad = _made_up(through, good, lost_weight_max)
    new_flux, new_variance = _flat(light) @ areas.T * scale, _flat(spread) @ (areas**2).T * scale**2
    new_flux, new_variance = np.where(bad, 0, new_flux), np.where(bad, np.inf, new_variance)
    touched = np.zeros(shape, dtype=bool)
    if saturated is not None:
        touched = (_flat(saturated.astype(np.float32)) @ areas.T > 0).reshape(shape)
    return Resampled(
        new_flux.astype(np.float32).reshape(shape), new_variance.astype(np.float32).reshape(shape), touched
    )


def noise(through: Resampling, correlation: NDArray[np.floating]) -> Noise:
    """Sky noise through a map.

    The `correlation` rho in [0, 1] of neighbouring old pixels is taken as rho^|dx| rho^|dy| for pixels (dx, dy) apart,
    as when binning: variance and covariance are then polynomials in rho, and their coefficients the map's `lags`.

    Parameters
    ----------
    correlation : any shape

    Returns
    -------
    white, and variance and neighbour in the correlation's shape; neighbour is NaN in a frame of one column

    Raises
    ------
    ValueError
        No new pixel lies wholly within the old frame.
    """
    own, beside = through.lags
    if np.isnan(own[0]):
        raise ValueError(
            f"a new frame must have a pixel wholly within the old one, got pixels of {through.new.pixel_scale:g} on "
            f"{through.old.height} x {through.old.width} of {through.old.pixel_scale:g} arcsec. Take a finer scale."
        )
    rho = np.asarray(correlation, dtype=np.float64)
    variance, covariance = (
        np.asarray(np.polynomial.polynomial.polyval(rho, part), np.float64) for part in (own, beside)
    )
    return Noise(float(own[0]), variance, covariance / variance)


def psf_to_frame(psf: Float, through: Resampling, psf_pixels: int) -> Float:
    """The new grid's PSF: of a point source at the centre of the new frame's central pixel, (height // 2, width // 2).

    The old PSF is the effective one, old pixel included, and is read (quintic spline) where that source falls between
    old pixels; its pixels are then shared out like the flux.

    Parameters
    ----------
    psf : (..., p, p), p odd, centred at p // 2; zeros where there is none
    psf_pixels : odd side of the new stamps

    Returns
    -------
    (..., psf_pixels, psf_pixels), unit sum, zeros where there is none

    Raises
    ------
    ValueError
        A side is even, or less than half of a PSF is within its new stamp.
    """
    if psf_pixels % 2 == 0 or psf.shape[-1] % 2 == 0 or psf.shape[-1] != psf.shape[-2]:
        raise ValueError(f"PSF stamps must be odd squares, got {psf.shape[-2:]} to {psf_pixels}. Make the side odd.")
    beside = _beside(through)
    side = psf.shape[-1] + 2 * _MARGIN
    old = replace(through.old, height=side, width=side, centre=(side // 2 + beside[0], side // 2 + beside[1]))
    new = replace(through.new, height=psf_pixels, width=psf_pixels, centre=None)
    y, x = (_moved(side, part) for part in beside)
    image = y @ np.pad(psf, [(0, 0)] * (psf.ndim - 2) + [(_MARGIN, _MARGIN)] * 2) @ x.T
    shared = (_flat(image) @ between(old, new).areas.T).reshape(*psf.shape[:-2], psf_pixels, psf_pixels)
    total, there = shared.sum(axis=(-2, -1)), np.asarray((psf != 0).any(axis=(-2, -1)))
    if (total < _HELD_MIN * psf.sum(axis=(-2, -1)))[there].any():
        raise ValueError(f"psf_pixels must hold {_HELD_MIN:.0%} of a PSF, got {psf_pixels} with less. Make it more.")
    return (shared / np.where(there, total, 1)[..., None, None]).astype(np.float32)


def _flat(stamps: NDArray[np.generic]) -> NDArray[np.generic]:
    return stamps.reshape(-1, stamps.shape[-2] * stamps.shape[-1])


def _made_up(through: Resampling, good: Bool, lost_weight_max: float) -> tuple[Float, Bool]:
    """(plane or 1, new pixel): by what a sum over the good part is to be multiplied, and where too little is good."""
    areas = through.areas.astype(np.float32)
    seen = _flat(np.ones((1, *good.shape[-2:])) if good.all() else good).astype(np.float32)  # one serves all planes
    kept = seen @ (areas**2).T
    bad = kept < (1 - lost_weight_max) * through.squares.astype(np.float32) * (1 - 1e-6)  # single precision
    bad |= kept == 0
    share = seen @ areas.T
    return np.where(bad, 0, np.float32(through.area) / np.where(bad, 1, share)).astype(np.float32), bad


def _pairs(through: Resampling, pixels: NDArray[np.int64], along_x: int) -> Values:
    """See `Resampling.lags`: of new pixels with those `along_x` beside them; NaN where there is none."""
    total = np.zeros(1)
    for part in np.array_split(pixels, max(1, len(pixels) // through.new.width)):  # bounds the memory
        first, second = _shares(through, part), _shares(through, part + along_x)
        apart = sum(np.abs(a[:, :, None] - b[:, None]) for a, b in zip(first[1:], second[1:], strict=True))
        product = first[0][:, :, None] * second[0][:, None]
        sums = np.bincount(apart.ravel(), product.ravel())
        total = np.pad(total, (0, max(0, len(sums) - len(total))))
        total[: len(sums)] += sums
    return total / len(pixels) if len(pixels) else np.full(1, np.nan)


def _shares(through: Resampling, pixels: NDArray[np.int64]) -> tuple[Values, NDArray[np.int64], NDArray[np.int64]]:
    """The areas in new pixels, and y and x of the old pixels that they are of, each (new pixel, share)."""
    rows: sparse.csr_array = through.areas[pixels]
    counts = np.diff(rows.indptr)
    at = np.arange(int(counts.max(initial=1))) < counts[:, None]
    area, column = np.zeros(at.shape), np.zeros(at.shape, dtype=np.int64)
    area[at], column[at] = rows.data, rows.indices
    return area, column // through.old.width, column % through.old.width


def _beside(through: Resampling) -> tuple[float, float]:
    """(y, x), old pixels from the nearest old pixel's centre to that of the new frame's central pixel."""
    old, new = through.old, through.new
    offset = np.array([new.height // 2, new.width // 2]) - np.array(new.origin)
    place = step(old, new) @ offset + np.array(old.origin)
    part = np.round(place - np.rint(place), 9)  # what is left of rounding is no shift
    return float(part[0]), float(part[1])


def _moved(side: int, by: float) -> Values:
    """Matrix (side, side) that moves an axis up by a part of a pixel."""
    unit = np.eye(side)
    return unit if by == 0 else ndimage.shift(unit, [by, 0], order=_SPLINE, mode="grid-constant")
