"""What the colours of a stamp's segments say against those of the host, and which may be images of one source."""

from typing import Final, NamedTuple

import torch
from torch import Tensor

from lensml.models import segments
from lensml.models.colour_gate import point_like, spectral_slope
from lensml.models.segments import Segments

# The images of one source: as far from the host as galaxies and groups put them, seen, and not the host's light.
RADIUS_ARCSEC: Final = (0.4, 4.0)
_SNR_MIN: Final = 5.0
_UNLIKE_MIN: Final = 3.0
IMAGES_MAX: Final = 4  # the brightest: a galaxy-scale lens has two or four
_HOST_SHARE: Final = 3  # of the stamp's side, the square in which the host's colour is measured
_SCATTER: Final = 0.05  # of a flux, beyond its noise: what the median along ellipses leaves of the host, or takes


class Measured(NamedTuple):
    """Segments as colours are compared; float64, without gradient; rows by object and then by signal-to-noise."""

    owner: Tensor  # (S,) int64
    flux: Tensor  # (S, C) nJy, 0 where bad
    variance: Tensor  # (S, C) nJy^2, scatter in it, 1 where bad
    bad: Tensor  # (S, C)
    snr: Tensor  # (S,)
    radius_arcsec: Tensor  # (S,)
    unlike: Tensor  # (S,) chi2 over its degrees of freedom of having the host's colours
    slope: Tensor  # (S,) f_nu ~ nu^slope; NaN: unknown
    bluer: Tensor  # (S,) that less the host's; 0: unknown
    point: Tensor  # (S,) 0 to 1
    image: Tensor  # (S,) bool: may be an image of the one source
    broken: Tensor  # (S,) bool: a flux or an error that should be a number is none


def measured(found: Segments, host: Tensor, psf_sigma: Tensor, pixel_scale: Tensor, ln_wavelength: Tensor) -> Measured:
    """Segments with what their colours say against the host's.

    Parameters
    ----------
    host : (B, C) nJy, 0 where not measured
    psf_sigma, pixel_scale : (B,) arcsec
    ln_wavelength : (C,), see `spectral_slope`
    """
    finite = torch.isfinite(found.flux) & torch.isfinite(found.variance) & (found.variance > 0)
    bad = found.bad | ~finite
    flux = torch.where(bad, 0.0, found.flux.double())
    variance = torch.where(bad, 1.0, found.variance.double() + (_SCATTER * flux) ** 2)
    host = host.double()
    of_host = spectral_slope(host, (_SCATTER * host) ** 2, host <= 0, ln_wavelength)
    slope = spectral_slope(flux, variance, bad, ln_wavelength)
    unlike = _unlike(flux, torch.where(bad, torch.inf, variance), host[found.owner])
    radius = torch.hypot(found.x_arcsec, found.y_arcsec).double().nan_to_num(0.0)
    snr = found.snr.double().nan_to_num(0.0)
    smooth = torch.hypot(psf_sigma, segments.RULES.smoothing_pixels * pixel_scale)
    low, high = RADIUS_ARCSEC
    image = (radius > low) & (radius < high) & (snr > _SNR_MIN) & (unlike > _UNLIKE_MIN)
    image[image.nonzero().squeeze(1)[segments.rank(found.owner[image]) >= IMAGES_MAX]] = False
    point = (
        point_like(found.moments, found.pixels * pixel_scale[found.owner] ** 2, smooth[found.owner])
        .double()
        .nan_to_num(0.0)
    )
    bluer = (slope - of_host[found.owner]).nan_to_num(0.0)
    broken = (~finite & ~found.bad).any(dim=1)
    return Measured(
        found.owner, flux, variance, bad, snr, radius, unlike, slope, bluer, point, image, broken
    )  # fmt: skip


def host_flux(images: Tensor, sky_sigma: Tensor) -> Tensor:
    """(B, C) nJy of what `views` (B, 2 C, H, W) took for the host's light, in the middle ninth of the stamp."""
    edges = [(n // _HOST_SHARE, n - n // _HOST_SHARE) for n in images.shape[-2:]]
    (top, bottom), (left, right) = edges
    stamp, residual = torch.sinh(images[..., top:bottom, left:right]).sum(dim=(2, 3)).chunk(2, dim=1)
    return (stamp - residual) * sky_sigma


def _unlike(flux: Tensor, variance: Tensor, host: Tensor) -> Tensor:
    """(S,) chi2 over its degrees of freedom of the best multiple of the host's fluxes; 0 with fewer than two bands."""
    weight = torch.where(host > 0, 1 / variance, 0.0)
    both, alone = (weight * flux * host).sum(dim=1), (weight * host**2).sum(dim=1)
    chi2 = (weight * flux**2).sum(dim=1) - both**2 / torch.where(alone > 0, alone, 1.0)
    return chi2.clamp(min=0) / ((weight > 0).sum(dim=1) - 1).clamp(min=1)
