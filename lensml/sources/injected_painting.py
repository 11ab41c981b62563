"""Painting arcs into one host's stamp: what the host is, which lens is made of it, and the photons' noise."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lensml import config
from lensml.config_injected import Painting
from lensml.imaging import host_ellipse, noise, photometry, psf_truth
from lensml.imaging.cutouts import Cutouts
from lensml.schema import ContractError

if TYPE_CHECKING:  # at run time only where arcs are drawn: it brings torch
    from lensml.lensing.inject import Host, Injection, Stamp

Float = NDArray[np.float32]
Plane = TypeVar("Plane", bound=np.generic)

_REDSHIFTS: Final = ("z_spec", "z_phot")  # of a host, the first that is known


class Known(NamedTuple):
    """What the hosts' source says of one, NaN unknown."""

    theta_e_arcsec: float
    z_lens: float


@dataclass(frozen=True)
class Seen:
    """A host as painting needs it."""

    name: str  # without its source
    survey: str
    bands: tuple[str, ...]
    host: "Host"
    stamp: "Stamp"
    psf: Float  # (1, band, k, k), on the fine grid
    variance: NDArray[np.float64]  # (band, y, x) nJy^2, infinite where bad
    electrons_per_nJy: NDArray[np.float64]  # noqa: N815 - (band,)
    theta_e_arcsec: tuple[float, float]  # of what is looked for: images that the sharpest band keeps apart


@dataclass(frozen=True)
class Drawn:
    """A lens made of a host, at one of the draws."""

    attempt: int
    lens: "Injection"
    arcs: Float  # (band, y, x) nJy, without noise
    snr: float
    rng: np.random.Generator  # for the noise


def look(
    cutouts: Cutouts, names: list[str], known: Mapping[str, Known], survey: config.Survey, params: Painting
) -> tuple[dict[int, Seen], dict[int, str]]:
    """The hosts of a batch by row, and why the others are none, in words; `names` are theirs without their source.

    Rows whose name is not `known` are passed over.

    Raises
    ------
    ContractError
        A band has no `electrons_per_nJy`.
    """
    electrons = _electrons(cutouts.survey, cutouts.bands, params)
    bad = cutouts.bad | ~np.isfinite(cutouts.flux)
    flux = np.where(bad, np.float32(0), cutouts.flux)
    found = noise.measure(flux, bad)
    variance = _variance(cutouts, bad, found, params)
    psf = _psf(cutouts, flux, bad, found, survey, params)
    hosts = _hosts(cutouts, names, known, flux, bad, found, params)
    seen, refused = {}, {}
    for row, name in enumerate(names):
        if name not in known:
            continue
        try:
            _check(hosts[row], cutouts.bands)
            stamp, fine = _optics(cutouts, row, psf, params)
            within = _theta_e_arcsec(float(psf.fwhm_halfmax[row].min()), params)
            own = (stamp, fine, variance[row], electrons, within)
            seen[row] = Seen(name, cutouts.survey, cutouts.bands, hosts[row], *own)
        except ValueError as error:
            refused[row] = " ".join(str(error).split())
    return seen, refused


def draw(seen: Seen, member: int, attempt: int, params: Painting) -> Drawn:
    """The lens that a draw makes of a host, the same whenever it is asked for.

    Raises
    ------
    ContractError
        No galaxy like the host lenses as is asked for; see `lensml.lensing.inject.draw`.
    """
    import torch

    from lensml.lensing import inject

    torch.set_num_threads(1)  # sums in one order; work units are many
    rng = np.random.default_rng([params.seed, zlib.crc32(f"{seen.survey}/{seen.name}".encode()), member, attempt])
    lens = inject.draw(rng, params.population, seen.host, seen.bands, params.theta_e_from, seen.theta_e_arcsec)
    (lens,), arcs = inject.rendered([lens], seen.stamp, seen.psf)
    photons = np.maximum(arcs[0], 0) / seen.electrons_per_nJy[:, None, None]
    snr = float(np.sqrt((arcs[0].astype(np.float64) ** 2 / (seen.variance + photons)).sum()))
    return Drawn(attempt, lens, arcs[0], snr, rng)


def draw_bright(seen: Seen, member: int, params: Painting) -> Drawn:
    """The first draw whose arcs are bright enough.

    Raises
    ------
    ContractError
        None of `params.draws` is; or as `draw`.
    """
    brightest = 0.0
    for attempt in range(params.draws):
        found = draw(seen, member, attempt, params)
        if found.snr >= params.arc_snr_min:
            return found
        brightest = max(brightest, found.snr)
    raise ContractError(
        f"arcs must reach a signal-to-noise of {params.arc_snr_min:g} (arc_snr_min), got {brightest:.3g} at best of "
        f"{params.draws} draws (injection). Lower it, or leave the host out."
    )


def paint(flux: Float, variance: Float | None, bad: NDArray[np.bool_], seen: Seen, drawn: Drawn) -> None:
    """Add a lens's arcs, with their photons' noise, to the planes (band, y, x) of its host, in place.

    Electrons are Poisson's, each pixel's for itself: what resampling does to a coadd's noise is not done to them.
    Bad pixels stay as they are.
    """
    per_njy = seen.electrons_per_nJy[:, None, None]
    arcs = drawn.arcs.astype(np.float64)
    electrons = np.maximum(arcs, 0) * per_njy
    added = arcs + (drawn.rng.poisson(electrons) - electrons) / per_njy
    good = ~bad & np.isfinite(flux)
    flux[good] += added[good].astype(np.float32)
    if variance is not None:
        grown = good & np.isfinite(variance) & (variance > 0)
        variance[grown] += (electrons / per_njy**2)[grown].astype(np.float32)


def multiplied(cutouts: Cutouts, rows: list[int], names: list[str]) -> Cutouts:
    """The named objects, copies of the rows of a batch, in this order."""
    order = np.array(rows, dtype=np.int64)
    hosts = pl.DataFrame({"host": [cutouts.object_id[row] for row in rows], "object_id": names})
    told = hosts.join(cutouts.metadata.rename({"object_id": "host"}), on="host", how="left", maintain_order="left")
    return replace(
        cutouts, object_id=names, flux=cutouts.flux[order], variance=_taken(cutouts.variance, order),
        bad=cutouts.bad[order], psf=_taken(cutouts.psf, order), pixel_scale=cutouts.pixel_scale[order],
        metadata=told.drop("host"), saturated=_taken(cutouts.saturated, order),
        psf_fwhm=_taken(cutouts.psf_fwhm, order), north_deg=_taken(cutouts.north_deg, order),
    )  # fmt: skip


def _taken(plane: NDArray[Plane] | None, order: NDArray[np.int64]) -> NDArray[Plane] | None:
    return None if plane is None else plane[order]


def _electrons(survey: str, bands: tuple[str, ...], params: Painting) -> NDArray[np.float64]:
    own = params.electrons_per_nJy.get(survey, {})
    lacking = [band for band in bands if band not in own]
    if lacking:
        raise ContractError(
            f"electrons_per_nJy must hold {', '.join(lacking)} of {survey}, got {', '.join(own) or 'none'} (injected). "
            "Add what a nJy is worth in the coadd."
        )
    return np.array([own[band] for band in bands])


def _variance(cutouts: Cutouts, bad: NDArray[np.bool_], found: noise.Noise, params: Painting) -> NDArray[np.float64]:
    """As calibration makes it: the file's plane, rescaled where it is off the sky's; else the sky's."""
    sky = np.broadcast_to(found.sky_sigma[..., None, None] ** 2, cutouts.flux.shape)
    if cutouts.variance is None:
        return np.where(bad, np.inf, sky)
    bad = bad | ~(np.isfinite(cutouts.variance) & (cutouts.variance > 0))
    plane = np.where(bad, np.float32(np.inf), cutouts.variance)
    factor = noise.plane_factor(noise.over_plane(found, plane), params.convert.variance_tolerance)
    return np.asarray(plane * factor[..., None, None], dtype=np.float64)


def _psf(
    cutouts: Cutouts, flux: Float, bad: NDArray[np.bool_], found: noise.Noise, survey: config.Survey, params: Painting
) -> psf_truth.Psfs:
    """The file's, else of stars, else the survey's typical width, as calibration finds them."""
    bands, scale = cutouts.bands, cutouts.pixel_scale
    psf = psf_truth.of_file(cutouts.psf, cutouts.psf_fwhm, bands, scale, survey, params.convert.psf_pixels_max)
    typical = np.array([survey.bands[band].psf_fwhm for band in bands])
    return psf_truth.with_stars(psf, flux, found, bad, scale, typical, params.convert.stars)


def _optics(cutouts: Cutouts, row: int, psf: psf_truth.Psfs, params: Painting) -> tuple["Stamp", Float]:
    from lensml.lensing import inject

    if not np.isfinite(psf.lost[row]).all():
        raise ValueError("PSF must be finite with a positive sum, got none such (injected). Get it anew.")
    stamp = inject.Stamp(cutouts.flux.shape[-2:], float(cutouts.pixel_scale[row]), params.supersampling)
    own = _without_border(psf.stamp[row : row + 1])
    return stamp, inject.fine_psf(own, psf.fwhm_halfmax[row : row + 1], stamp, params.moffat_beta)


def _without_border(psf: Float) -> Float:
    """PSFs cut to what is not zero of them: another object's may be larger, or another band's."""
    used = (psf != 0).any(axis=(0, 1))
    middle = psf.shape[-1] // 2
    reach = int(np.abs(np.argwhere(used) - middle).max(initial=0))
    return psf[..., middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]


def _hosts(
    cutouts: Cutouts,
    names: list[str],
    known: Mapping[str, Known],
    flux: Float,
    bad: NDArray[np.bool_],
    found: noise.Noise,
    params: Painting,
) -> list["Host"]:
    """Flux in the aperture, and shape and centre by adaptive moments of all bands, by their signal to noise."""
    from lensml.lensing.inject import Host

    weight = photometry.aperture(flux.shape[-2:], params.host_aperture_arcsec / cutouts.pixel_scale)
    total, _ = photometry.aperture_flux(flux, np.ones_like(flux), weight)
    total[~(~bad & (weight > 0)[:, None]).any(axis=(-2, -1))] = np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.nan_to_num(1 / found.sky_sigma**2, posinf=0.0).astype(np.float32)
    ellipse = host_ellipse.moments(np.einsum("obyx,ob->oyx", flux, share))
    e, angle = np.hypot(ellipse.e1, ellipse.e2), np.arctan2(ellipse.e2, ellipse.e1) / 2
    q, x, y = (1 - e) / (1 + e), *(c * cutouts.pixel_scale for c in (ellipse.center_x, ellipse.center_y))
    redshift = _redshifts(cutouts)
    hosts = []
    for row, name in enumerate(names):
        told = known.get(name, Known(np.nan, np.nan))
        z = redshift[row] if redshift[row] > 0 else told.z_lens
        place = float(x[row]), float(y[row])
        hosts.append(Host(total[row], float(z), float(q[row]), float(angle[row]), place, told.theta_e_arcsec))
    return hosts


def _redshifts(cutouts: Cutouts) -> NDArray[np.float64]:
    """(object,), NaN unknown."""
    order = pl.DataFrame({"object_id": cutouts.object_id})
    table = order.join(cutouts.metadata, on="object_id", how="left", maintain_order="left")
    given = [pl.when(pl.col(name) > 0).then(name) for name in _REDSHIFTS if name in table.columns]
    if not given:
        return np.full(table.height, np.nan)
    z = table.select(pl.coalesce(given).cast(pl.Float64).alias("z"))["z"]
    return np.asarray(z.fill_null(np.nan).to_numpy(), dtype=np.float64)


def _theta_e_arcsec(psf_fwhm: float, params: Painting) -> tuple[float, float]:
    """The range, as far as the sharpest band keeps images apart."""
    low, high = params.theta_e_arcsec
    low = max(low, params.population.deflectors.theta_e_over_fwhm_min * psf_fwhm)
    if low > high:
        raise ValueError(f"theta_e_arcsec must reach {low:.3g} for a PSF of {psf_fwhm:.3g}, got {high:g} (injected)")
    return low, high


def _check(host: "Host", bands: tuple[str, ...]) -> None:
    for band, light in zip(bands, host.flux.tolist(), strict=True):
        if not np.isfinite(light):
            raise ValueError(f"band {band}: host must have good pixels in the aperture, got none (injected)")
    if not host.flux.sum() > 0:
        raise ValueError(f"host must have light in the aperture, got {host.flux.sum():.3g} nJy (injected)")
