"""Widths of PSFs, by the two definitions in use, and the bend of their core; all about the PSF's own centroid."""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline

_MOMENT_STEPS: Final = 60
_MOMENT_TOLERANCE: Final = 1e-7
_CORE_TOLERANCE: Final = 1e-4  # enough for the region of a fit
_FINER: Final = 3
_FIT_STEPS: Final = 4
_RIDGE: Final = 1e-6
_CORE: Final = 0.7  # FWHM
_CORE_RADIUS2_MIN: Final = 2.6  # pixel^2: nine pixels wherever the centre lies
_FWHM_PER_SIGMA: Final = 2 * np.sqrt(2 * np.log(2))

Float = NDArray[np.float32]
Widths = NDArray[np.float64]


def fwhm_halfmax(psf: Float) -> Widths:
    """FWHM in pixels: twice the radius at which the PSF falls to half of its maximum, averaged over azimuth.

    ln(PSF) is fitted by a parabola in r^2 about the centroid, over the core (out to 0.7 FWHM, at least 9 pixels), with
    the weights of equal noise in every pixel: exact for a Gaussian however coarse its pixels, wherever its centre.

    Parameters
    ----------
    psf : (..., n, n), n odd, centred within a pixel or so

    Returns
    -------
    (...), NaN where there is no half maximum
    """
    slope, bend, scale = _core_fit(psf)
    with np.errstate(invalid="ignore", divide="ignore"):
        root = slope**2 - 4 * bend * np.log(2)  # of slope t + bend t^2 + ln 2 = 0, t = r^2 / scale
        return 2 * np.sqrt(scale * 2 * np.log(2) / (-slope + np.sqrt(root)))


def core_bend(psf: Float) -> Widths:
    """How ln(PSF) bends against r^2 in the core, in units of its slope squared: 1 / (2 beta) of a Moffat profile.

    0 for a Gaussian, negative for a flat top, which is what saturation leaves. (..., n, n) -> (...), NaN as for
    `fwhm_halfmax`, by the same fit.
    """
    slope, bend, _ = _core_fit(psf)
    with np.errstate(invalid="ignore", divide="ignore"):
        return bend / slope**2


def fwhm_moment(psf: Float) -> Widths:
    """FWHM in pixels of the Gaussian whose weighted second moment the PSF has (adaptive, round moments).

    About the weighted centroid. Reads 2 to 20 % above `fwhm_halfmax` on real PSFs, which have wings. NaN where the
    moments do not converge.
    """
    return np.sqrt(moments(psf)[1]) * _FWHM_PER_SIGMA


def _core_fit(psf: Float) -> tuple[Widths, Widths, Widths]:
    """Slope and bend of ln(PSF) = a + slope t + bend t^2 in the core, t = r^2 / scale, and the scale in pixel^2."""
    centre, variance = moments(psf, _CORE_TOLERANCE)
    limit = np.maximum((_CORE * _FWHM_PER_SIGMA) ** 2 * variance, _CORE_RADIUS2_MIN)
    core, u = _core(psf, centre, limit)
    inside = u <= limit[..., None, None]
    scale = np.maximum(np.where(inside, u, 0).max(axis=(-2, -1)), 1.0)
    t = np.where(inside, u / scale[..., None, None], 0.0)
    return *_log_parabola(core, inside, t, -scale / (2 * variance)), scale


def _log_parabola(psf: Float, inside: NDArray[np.bool_], t: Widths, slope: Widths) -> tuple[Widths, Widths]:
    """Slope and bend of ln(PSF) against t inside: least squares in the PSF itself, linearised; begun at a `slope`."""
    flat = (*t.shape[:-2], t.shape[-2] * t.shape[-1])
    basis = np.stack([np.ones(t.shape), t, t**2], axis=-1).reshape(*flat, 3)
    value = np.where(inside, psf, 0).reshape(flat).astype(np.float64)
    chosen = inside.reshape(flat)
    shape = np.exp(slope[..., None] * basis[..., 1]) * chosen
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        height = (shape * value).sum(axis=-1) / (shape**2).sum(axis=-1)
        fit = np.stack([np.log(height), slope, np.zeros(slope.shape)], axis=-1)  # (..., 3)
        for _ in range(_FIT_STEPS):
            model = np.exp((basis @ fit[..., None])[..., 0]) * chosen
            step = model[..., None] * basis
            normal = np.swapaxes(step, -1, -2) @ step
            normal = normal + _RIDGE * normal[..., :1, :1] * np.eye(3)  # a corner-centred core has two radii only
            usable = np.isfinite(normal).all(axis=(-2, -1)) & (np.abs(np.linalg.det(np.nan_to_num(normal))) > 0)
            normal = np.where(usable[..., None, None], normal, np.eye(3))
            right = (np.swapaxes(step, -1, -2) @ (value - model)[..., None])[..., 0]
            change = np.linalg.solve(normal, np.where(usable[..., None], right, np.nan)[..., None])[..., 0]
            fit = fit + np.clip(change, -1, 1)
    return fit[..., 1], fit[..., 2]


def _core(psf: Float, centre: Widths, limit: Widths) -> tuple[Float, Widths]:
    """The middle of the stamps that holds every core, and its pixels' r^2 about the centres."""
    n = psf.shape[-1]
    reach = np.sqrt(limit) + np.abs(centre).max(axis=-1)
    half = min(n // 2, int(np.nan_to_num(reach, nan=0.0).max(initial=1)))
    middle = slice(n // 2 - half, n // 2 + half + 1)
    return psf[..., middle, middle], radius2(2 * half + 1, centre)


def moments(psf: Float, tolerance: float = _MOMENT_TOLERANCE) -> tuple[Widths, Widths]:
    """Centroid (..., 2), y then x, in pixels from pixel n // 2, and variance (...) of the adaptive round Gaussian.

    A Gaussian under a weight of its own width has half its variance, and half its distance from the weight's centre.
    Each PSF is done when its variance changes, and its centre moves, by less than the (relative) tolerance, so that
    what stands beside it in a batch does not matter. NaN where the variance has no limit.
    """
    shape, n = psf.shape[:-2], psf.shape[-1]
    flat = psf.reshape(-1, n, n)
    centre = np.zeros((len(flat), 2))
    area = (flat > flat.max(axis=(-2, -1), keepdims=True) / 2).sum(axis=(-2, -1))
    variance = np.maximum(area, 1) / np.pi * 4 / _FWHM_PER_SIGMA**2  # pixel^2, of the circle above half of the maximum
    active = np.arange(len(flat))
    for _ in range(_MOMENT_STEPS):
        if not len(active):
            break
        step, second = _weighted(flat[active], centre[active], variance[active])
        before, centre[active] = variance[active], centre[active] + 2 * step
        bound = (second > 0) & (np.abs(centre[active]) < n / 2).all(axis=-1)
        further = np.clip(2 * (2 * second - before), -before / 2, before)  # overrelaxed, as the centre is
        variance[active] = after = np.where(bound, before + further, np.nan)
        active = active[(np.abs(after / before - 1) > tolerance) | (np.abs(step).max(axis=-1) > tolerance)]
        active = active[np.isfinite(variance[active])]
    return centre.reshape(*shape, 2), variance.reshape(shape)


def _weighted(psf: Float, centre: Widths, variance: Widths) -> tuple[Widths, Widths]:
    """First moments (n, 2) about the centre and central second moment per axis (n,) under the round Gaussian.

    The sums run over a finer grid, on which the quintic spline through the pixels is summed: of a PSF of two pixels the
    weighted square is too narrow for sums over pixels.
    """
    axis, spline = _finer(psf.shape[-1])
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        offset = axis - centre[..., None]  # (n, 2, fine)
        weight = np.exp(-(offset**2) / (2 * variance[:, None, None]))
        powers = spline @ np.stack([weight, weight * offset, weight * offset**2], axis=-1)  # (n, 2, pixel, 3)
        sums = np.swapaxes(powers[:, 0], -1, -2) @ (psf @ powers[:, 1])  # (n, 3, 3): powers of y, of x
        first = np.stack([sums[:, 1, 0], sums[:, 0, 1]], axis=-1) / sums[:, :1, 0]
        return first, (sums[:, 2, 0] + sums[:, 0, 2]) / (2 * sums[:, 0, 0]) - (first**2).sum(axis=-1) / 2


@lru_cache(maxsize=16)
def _finer(n: int) -> tuple[Widths, Widths]:
    """Fine places from pixel n // 2 (fine,), and the matrix (n, fine) of what each pixel gives to them."""
    axis = np.arange(n, dtype=np.float64) - n // 2
    fine = np.linspace(axis[0], axis[-1], _FINER * (n - 1) + 1)
    return fine, make_interp_spline(axis, np.eye(n), k=min(5, n - 1))(fine).T


def radius2(n: int, centre: Widths | None = None) -> Widths:
    """(n, n), or (..., n, n) about each centre (..., 2)."""
    axis = np.arange(n, dtype=np.float64) - n // 2
    if centre is None:
        return axis[:, None] ** 2 + axis[None, :] ** 2
    y, x = np.moveaxis(axis - centre[..., None], -2, 0)
    return y[..., :, None] ** 2 + x[..., None, :] ** 2
