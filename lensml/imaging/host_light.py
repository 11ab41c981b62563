"""The lens galaxy's smooth light taken off stamps: an elliptically symmetric model from the data alone.

One ellipse per object, of all its bands together (`host_ellipse`), and one profile per band, through quantiles along
the ellipse (`host_profile`). Pixels that stand out (arcs, companions) are left out of both, as are bad ones. Nothing is
taken for sky: a halo may be larger than the stamp. What no ellipse follows stays in the residual.
`mismatch` says how much of it there is on both sides of the model; the lobes of a strong twist, bar or disc are above
it only, and nothing here tells them from arcs.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lensml.config_types import Fraction, OpenFraction, Positive, PositiveFloat, Section
from lensml.imaging import host_ellipse, host_profile, isophotes
from lensml.imaging.host_profile import Drawn, Profiles
from lensml.imaging.isophotes import Ellipses, Float, Levels, Rings, Values

_AROUND: Final = 3  # pixels a side: what stands out is seen in means over so many
_LOOSE_STEPS: Final = 3  # in which more is let through, by twos: the first ellipse is far off
_FIRST_STEPS: Final = 4  # of a profile from nothing: it is then as low as it gets to a hundredth
_NEXT_STEPS: Final = 1
_PROFILE_ROUNDS: Final = 3  # of levels above the profile so far
_USABLE: Final = 0.5  # share of good pixels of a band that the ellipse is measured in
_CORRELATION_MAX: Final = 0.95  # more is no noise
_LAGS: Final = 21  # pixels; there the correlation is nought
_CHUNK_PIXELS: Final = 1 << 18  # at once: what a cache holds takes half the time

Bool = NDArray[np.bool_]


class HostRules(Section):
    """How the host's light is modelled; see lensml/imaging/host_light.py."""

    quantile: OpenFraction  # of the pixels along an ellipse; 0.5 is the median, less is safer from arcs
    ellipse_steps: Positive  # of centre, axis ratio and angle
    profile_tolerance: OpenFraction  # share of its brightness by which a host strays from a smooth profile
    stiffness: PositiveFloat  # what a bend of the profile costs; more keeps rings, less follows discs
    outlier_sigma: PositiveFloat  # errors at which a ring that is too bright, or a pixel off the model, counts half
    arc_sigma: PositiveFloat  # a pixel whose surroundings stand out by so many sigmas ...
    arc_contrast: Fraction  # ... and by this share of the host's brightness there is not the host's


class HostLight(NamedTuple):
    """What was taken off, (object, band, y, x) in the flux's unit, and the ellipses.

    Attributes
    ----------
    model : 0 in a band without good pixels
    residual : flux less model, 0 where bad
    error : sigma of the model from noise and tolerance: one error along an ellipse, independent in each band
    mismatch : sigma of what an ellipse cannot follow: one error of neighbouring pixels and of all bands
    ellipses : (object,)
    fitted : (object,), False where no band has enough good pixels: all planes are then 0
    """

    model: Float
    residual: Float
    error: Float
    mismatch: Float
    ellipses: Ellipses
    fitted: Bool


def subtract(flux: Float, variance: Float, correlation: Values, rules: HostRules) -> HostLight:
    """Model and take off the light of the galaxy at the centre of each stamp.

    Parameters
    ----------
    flux, variance : (object, band, y, x), nJy and nJy^2; bad where the variance is infinite, and not read there. The
        bands should have one PSF (psf-match), for they share an ellipse.
    correlation : (object, band), of neighbouring pixels' noise, the catalogue's noise_correlation; NaN: unknown, 0

    Raises
    ------
    ValueError
        A shape is another, or a good pixel has no finite flux or no positive variance.
    """
    check(flux, variance, correlation)
    if not flux.size:
        none = np.zeros(len(flux))
        return HostLight(*(np.zeros_like(flux),) * 4, Ellipses(none, none, none, none), none > 0)
    size = max(1, _CHUNK_PIXELS // flux[0].size)
    pieces = [slice(begin, begin + size) for begin in range(0, len(flux), size)]
    parts = [_subtracted(flux[one], variance[one], correlation[one], rules) for one in pieces]
    model, residual, error, mismatch = (np.concatenate([part[k] for part in parts]) for k in range(4))
    ellipses = Ellipses(*(np.concatenate(column) for column in zip(*(part.ellipses for part in parts), strict=True)))
    return HostLight(model, residual, error, mismatch, ellipses, np.concatenate([part.fitted for part in parts]))


def check(flux: Float, variance: Float, correlation: Values) -> None:
    """Refuse stamps that are none; see `subtract`."""
    if flux.ndim != 4 or variance.shape != flux.shape or correlation.shape != flux.shape[:2]:
        raise ValueError(
            f"flux, variance and correlation must be (object, band, y, x) twice and (object, band), got {flux.shape}, "
            f"{variance.shape} and {correlation.shape}. Pass the planes of one batch of stamps."
        )
    wrong = np.isnan(variance) | (variance <= 0) | (np.isfinite(variance) & ~np.isfinite(flux))
    if wrong.any():
        place = tuple(int(k) for k in np.argwhere(wrong)[0])
        raise ValueError(
            f"a good pixel must have a finite flux and a positive variance, got {flux[place]:g} and "
            f"{variance[place]:g} (object, band, y, x = {place}). Make the variance of bad pixels infinite."
        )


def _subtracted(flux: Float, variance: Float, correlation: Values, rules: HostRules) -> HostLight:
    good = np.isfinite(variance)
    flux = np.where(good, flux, np.float32(0))
    image, noise, fitted = _combined(flux, variance)
    ellipses, stray = _ellipses(image[:, None], noise[:, None], rules)
    rings = isophotes.rings(ellipses, (flux.shape[2], flux.shape[3]))
    light, error = _profiles(rings, flux, variance, _patch(correlation), rules)
    seen = (fitted[:, None] & good.any(axis=(2, 3)))[..., None, None]
    model = np.where(seen, light.value, np.float32(0))
    planes = (
        model,
        np.where(good & seen, flux - model, np.float32(0)),
        np.where(seen, host_profile.at_rings(rings, error), np.float32(0)),
        np.where(seen, stray[:, None, None, None] * host_ellipse.relief(ellipses, light), 0).astype(np.float32),
    )
    return HostLight(*planes, ellipses, fitted)


def _patch(correlation: Values) -> Values:
    """Variance of the mean of many pixels over that of independent ones; see `segment_photometry`."""
    rho = np.clip(np.nan_to_num(correlation), 0, _CORRELATION_MAX)
    return np.asarray((1 + 2 * (rho[..., None] ** np.arange(1, _LAGS) ** 2).sum(axis=-1)) ** 2, np.float64)


def _combined(flux: Float, variance: Float) -> tuple[Float, Float, Bool]:
    """The usable bands as one image (object, y, x), by the inverse of their noise, its variance, and who has any."""
    good = np.isfinite(variance)
    usable = good.mean(axis=(2, 3)) >= _USABLE
    total = np.where(good, variance, np.float32(0)).sum(axis=(2, 3), dtype=np.float64)
    weight = np.where(usable, good.sum(axis=(2, 3)) / np.where(usable, total, 1), 0)
    weight /= np.maximum(weight.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    whole = (good | ~usable[..., None, None]).all(axis=1) & usable.any(axis=1)[:, None, None]
    image = np.einsum("ob,obyx->oyx", weight.astype(np.float32), flux)
    spread = np.einsum("ob,obyx->oyx", (weight**2).astype(np.float32), np.where(good, variance, np.float32(0)))
    fitted = whole.mean(axis=(1, 2)) >= _USABLE / 2  # bands may miss different pixels
    return np.where(whole, image, np.float32(0)), np.where(whole, spread, np.float32(np.inf)), fitted


def _ellipses(image: Float, variance: Float, rules: HostRules) -> tuple[Ellipses, Values]:
    """Of images (object, 1, y, x): the ellipses, and the share of its relief by which each galaxy strays from one."""
    shape, one = (image.shape[2], image.shape[3]), np.ones(image.shape[:2])
    found, kept, profile = host_ellipse.moments(image[:, 0]), variance, None
    for step in range(rules.ellipse_steps):
        loose = 2.0 ** max(0, _LOOSE_STEPS - step)
        rings = isophotes.rings(found, shape)
        guess = np.zeros_like(image) if profile is None else host_profile.drawn(profile, rings.radius).value
        levels = isophotes.levels(rings, image, kept, guess, rules.quantile, one)
        profile, _ = _fit(rings, levels, rules, profile)
        light = host_profile.drawn(profile, rings.radius)
        kept = _without_arcs(image, variance, light.value, rules, loose)
        before, found = found, host_ellipse.moved(found, image, kept, light, rules.outlier_sigma, loose)
    levels = isophotes.levels(rings, image, variance, light.value, rules.quantile, one)  # with all that stands out
    return found, _stray(levels, isophotes.means(rings, host_ellipse.relief(before, light)))


def _profiles(rings: Rings, flux: Float, variance: Float, patch: Values, rules: HostRules) -> tuple[Drawn, Values]:
    """The model along the ellipses, and its error (object, band, ring)."""
    kept, profile, light = variance, None, Drawn(np.zeros_like(flux), np.zeros_like(flux))
    for _ in range(_PROFILE_ROUNDS):
        if profile is not None:
            kept = _without_arcs(flux, variance, light.value, rules, 1.0)
        levels = isophotes.levels(rings, flux, kept, light.value, rules.quantile, patch)
        profile, error = _fit(rings, levels, rules, profile)
        light = host_profile.drawn(profile, rings.radius)
    return light, error


def _fit(rings: Rings, levels: Levels, rules: HostRules, start: Profiles | None) -> tuple[Profiles, Values]:
    steps = _FIRST_STEPS if start is None else _NEXT_STEPS
    return host_profile.fit(rings, levels, rules.profile_tolerance, rules.outlier_sigma, rules.stiffness, steps, start)


def _stray(levels: Levels, relief: Values) -> Values:
    """Scatter beyond noise below the model over the relief (object, 1, ring), by what each ring tells; (object,).

    Arcs are above: what an ellipse cannot follow is so on both sides.
    """
    least2 = levels.noise**2 + (host_ellipse.STRAY * relief) ** 2
    known = (least2 > 0) & np.isfinite(levels.error)
    weight = np.where(known, levels.pixels * relief**2 / np.where(known, least2, 1) ** 2, 0)
    excess = (weight * (levels.below**2 - levels.noise**2)).sum(axis=(1, 2))
    norm = (weight * relief**2).sum(axis=(1, 2))
    return np.sqrt(np.maximum(excess, 0) / np.where(norm > 0, norm, 1))


def _without_arcs(flux: Float, variance: Float, model: Float, rules: HostRules, loose: float) -> Float:
    """The variance, infinite also where the surroundings stand out of the model."""
    good = np.isfinite(variance)
    share = np.float32(1) if good.all() else np.maximum(_mean(good.astype(np.float32)), np.float32(1e-6))
    above = _mean(np.where(good, flux - model, np.float32(0))) / share
    sigma2 = _mean(np.where(good, variance, np.float32(0))) / (share * _AROUND**2)
    least2 = np.float32(rules.arc_sigma**2) * sigma2 + (np.float32(rules.arc_contrast * loose) * model) ** 2
    return np.where((above > 0) & (above**2 > least2), np.float32(np.inf), variance)


def _mean(values: Float) -> Float:
    for axis in (-2, -1):
        values = ndimage.uniform_filter1d(values, _AROUND, axis=axis, mode="reflect")
    return values
