"""What changes a training stamp and leaves its physics: turns, another place of the pixels, PSF and depth."""

import math
from typing import Final

import torch
from torch import Tensor

from lensml import config
from lensml.models.perturbations import Perturbation, perturbed, resampled, taps
from lensml.models.stretch import asinh, sinh
from lensml.store.quantisation import BAD_LOG_VARIANCE
from lensml.training.batches import Batch, turned_by

SPREAD_MAX: Final = 0.49  # pixels^2, up to which the taps of `perturbations` blur
FWHM: Final = math.sqrt(8 * math.log(2))  # of a Gaussian, in its sigma


class Augmented:
    """Changes a batch by numbers in [0, 1) that are drawn for each object, so that the epoch alone decides.

    Parameters
    ----------
    params : the most of each change
        turns: the eight flips and quarter turns of a square.
        shift_pixels: uniform along each axis, resampled by cubic convolution; a stamp stays a view of its scene.
        psf_jitter: the PSF's FWHM grows by a share uniform in [0, psf_jitter], of stamps and PSF alike.
        depth_mag: the exposure is shallower by magnitudes uniform in [0, depth_mag]: sky_sigma grows by 10^(0.4 mag),
        and stamps and log_variance are in units of it.
    """

    def __init__(self, params: config.Augment) -> None:
        self.params = params
        self.resamples = max(params.shift_pixels, params.psf_jitter, params.depth_mag) > 0
        self.needs = ("psf_fwhm", "pixel_scale") if self.resamples else ()

    def __call__(self, batch: Batch, numbers: Tensor, seed: int) -> Batch:
        """The batch changed; `numbers` (B, 5) decide how much of what, the seed the noise of pixels."""
        if self.resamples:
            batch = batch | _reobserved(batch, self._drawn(batch, numbers), seed)
        return batch | (turned_by(batch, (8 * numbers[:, 0]).long()) if self.params.turns else {})

    def _drawn(self, batch: Batch, numbers: Tensor) -> Perturbation:
        shift = self.params.shift_pixels * (2 * numbers[:, 1:3] - 1)
        grown = self.params.psf_jitter * numbers[:, 3]
        sigma = (batch["psf_fwhm"] / batch["pixel_scale"] / FWHM).nan_to_num(0.0)
        spread = ((1 + grown) ** 2 - 1) * sigma**2
        if float(spread.max()) > SPREAD_MAX:
            raise ValueError(
                f"train.fit.augment.psf_jitter must broaden no PSF by more than {SPREAD_MAX} pixel^2, got "
                f"{float(spread.max()):.2f}. Lower it (params.yaml)."
            )
        grain = (10 ** (0.8 * self.params.depth_mag * numbers[:, 4]) - 1).sqrt()
        return Perturbation(grain, spread, shift, numbers.new_zeros(*batch["stamps"].shape[:2], 3))


def _reobserved(batch: Batch, what: Perturbation, seed: int) -> Batch:
    """Pixels, variance, PSF and sky sigma of the same scene taken otherwise."""
    deeper = (1 + what.noise**2).sqrt()  # the sky sigma of before is so many times smaller
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        seen = perturbed(batch["stamps"], what)
    found = {"stamps": asinh(sinh(seen) / deeper[:, None, None, None])}
    y, x = taps(what.shift[:, 0], what.spread), taps(what.shift[:, 1], what.spread)
    if "log_variance" in batch:
        found["log_variance"] = _log_variance(batch["log_variance"], y, x, what.noise)
    if "psf" in batch:
        still = taps(torch.zeros_like(what.spread), what.spread)
        found["psf"] = _broadened(batch["psf"], still)
    if "sky_sigma" in batch:
        found["sky_sigma"] = batch["sky_sigma"] * deeper[:, None]
    return found


def _log_variance(log_variance: Tensor, y: Tensor, x: Tensor, noise: Tensor) -> Tensor:
    """Of pixels averaged by these taps, noise added in quadrature, in units of the new sky variance.

    What the averaging takes of white noise of one sky sigma `perturbed` puts back, and so does this.
    """
    good = log_variance < BAD_LOG_VARIANCE
    planes = torch.where(good, log_variance, 0.0).exp().flatten(0, 1)
    bands = log_variance.shape[1]
    y, x = (taps.square().repeat_interleave(bands, 0) for taps in (y, x))
    lost = 1 - y.sum(dim=1) * x.sum(dim=1)
    kept = resampled(planes, good.flatten(0, 1), y, x) - lost[:, None, None] * planes
    whole = kept.unflatten(0, log_variance.shape[:2]) + (lost.unflatten(0, log_variance.shape[:2]))[:, :, None, None]
    added = noise[:, None, None, None] ** 2
    return torch.where(good, ((whole + added) / (1 + added)).log(), log_variance)


def _broadened(psf: Tensor, taps: Tensor) -> Tensor:
    """PSF stamps (B, C, k, k) blurred, of unit sum again where there is one."""
    planes, each = psf.flatten(0, 1), taps.repeat_interleave(psf.shape[1], 0)
    blurred = resampled(planes, torch.ones_like(planes, dtype=torch.bool), each, each).unflatten(0, psf.shape[:2])
    total = blurred.sum(dim=(2, 3), keepdim=True)
    return torch.where(total > 0, blurred / total.clamp(min=torch.finfo(psf.dtype).tiny), 0.0)
