"""color_aware_lens: any backbone, and beside it whether the images around a host share one colour, unlike the host's.

Lensing is achromatic: images of one source differ by magnification and dust alone (`lensml/lensing/colour.py`). Whether
two segments are such images is not known; what the host's light leaves shares the host's colour, and compared with arcs
it makes lenses look worse than spirals. So segments are compared that lie in an annulus and are not of the host's
colour, and how far each is trusted to be an image is learned: its covariance is divided by its trust. The loss is the
negative logarithm of that likelihood, so that trust is worth something: colours teach trust, never the pixels.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch import cat as concatenate

from lensml.lensing import colour, reddening, sed
from lensml.models import colour_gate, robust_resnet, segments
from lensml.models.host_light import views
from lensml.models.network import Explained, Network
from lensml.models.segment_colours import IMAGES_MAX, RADIUS_ARCSEC, Measured, host_flux, measured

TERM: Final = "colour_consistency"
SUMMARIES: Final = 11
TRUST_INPUTS: Final = 5
TRUST_HIDDEN: Final = 8
EMBEDDING: Final = 16
_TRUST_MIN: Final = 0.02  # an error seven times as large: colours say nothing any more
_TRUST_START: Final = 2.0  # logit: 0.88, before anything is learned
_EXTINCTION_SIGMA: Final = 0.5  # mag, differential A_V between images (Falco et al. 1999, ApJ 523, 617)
_Z_DUST: Final = 0.5  # of a typical lens galaxy: the stamp does not say
_R_V: Final = 3.1
_LAW: Final = "G23"
_HUBER: Final = 3.0
_PASSES: Final = 3  # chi2 to 2 %


class Told(NamedTuple):
    """What colours say of each object."""

    summary: Tensor  # (B, SUMMARIES) float32, within about -1 to 1; all 0 of an object without two bands
    loss: Tensor  # (B,) of the prior and its trust, gated; 0 where not defined
    gate: Tensor  # (B,) 0 to 1, detached; 0 without two bands
    defined: Tensor  # (B,) bool: two images share two bands
    failed: Tensor  # (B,) bool: should be defined, and is no finite number


class ColorAwareLens(Network):
    """A network and the colour prior, joined before the head.

    Parameters
    ----------
    backbone : takes over its features; its own head is taken off, its physics terms are not asked for
    bands : names of the channels, in their order
    colours : False leaves the backbone alone, for comparison

    Raises
    ------
    ContractError
        A band has no wavelength in `lensml.lensing.sed`.
    """

    reddening: Tensor
    ln_wavelength: Tensor
    needs: ClassVar[tuple[str, ...]] = ("psf", "log_variance", "pixel_scale", "sky_sigma")
    physics: ClassVar[tuple[str, ...]] = (TERM,)

    def __init__(self, backbone: Network, bands: Sequence[str], colours: bool = True) -> None:
        super().__init__(backbone.width + EMBEDDING)
        del backbone.head
        self.backbone, self.colours = backbone, colours
        last = nn.Linear(TRUST_HIDDEN, 1)
        nn.init.constant_(last.bias, _TRUST_START)
        self.trust = nn.Sequential(nn.Linear(TRUST_INPUTS, TRUST_HIDDEN), nn.GELU(), last)
        self.embedding = nn.Sequential(nn.Linear(SUMMARIES, EMBEDDING), nn.GELU(), nn.Linear(EMBEDDING, EMBEDDING))
        dust, ln_wavelength = _of_bands(bands)
        self.register_buffer("reddening", dust)
        self.register_buffer("ln_wavelength", ln_wavelength)

    def features(self, stamps: Tensor, metadata: Tensor, **beside: Tensor) -> Tensor:
        return self._both(stamps, metadata, beside)[0]

    def explained(self, batch: Mapping[str, Tensor]) -> Explained:
        """The loss holds where there is a lens: by the label, or where that is NaN by the detached probability.

        Not by the probability alone: a lens that is missed has images of one colour too, and a galaxy that is taken for
        one has none.
        """
        features, told = self._both(batch["stamps"], batch["metadata"], self.beside(batch))
        logit = self.head(features).squeeze(1)
        label = batch["label"]
        belief = torch.where(torch.isnan(label), torch.sigmoid(logit.detach()), label)
        return Explained(logit, {TERM: belief * told.loss}, told.failed)

    def told(self, images: Tensor, **beside: Tensor) -> Told:
        """What the colours in (B, 2 C, H, W) of `host_light.views` say; nothing is looked for where there are none."""
        bands = (beside["sky_sigma"] > 0).sum(dim=1)
        rows = (bands > 1).nonzero().squeeze(1)
        log_variance, scale, sky_sigma, psf = (
            beside[name][rows] for name in ("log_variance", "pixel_scale", "sky_sigma", "psf")
        )
        images = images.detach()[rows].float()
        with torch.autocast(images.device.type, enabled=False):  # physics in 32 and 64 bits
            found = measured(
                segments.detected(images[:, images.shape[1] // 2 :], log_variance, scale, sky_sigma),
                host_flux(images, sky_sigma),
                colour_gate.psf_sigma(psf, scale),
                scale,
                self.ln_wavelength.double(),
            )
            told = summarised(found, self._trusted(found), self.reddening.double(), bands[rows])
        return Told(*(value.new_zeros(len(bands), *value.shape[1:]).index_copy(0, rows, value) for value in told))

    def _both(self, stamps: Tensor, metadata: Tensor, beside: Mapping[str, Tensor]) -> tuple[Tensor, Told]:
        images = views(stamps)
        if type(self.backbone).encoded is not Network.encoded:  # shares the views, which are half of the time
            features = self.backbone.encoded(images, metadata)
        else:
            features = self.backbone.features(stamps, metadata, **{name: beside[name] for name in self.backbone.needs})
        told = self.told(images, **beside)
        several = (beside["sky_sigma"] > 0).sum(dim=1, keepdim=True) > 1
        added = self.embedding(told.summary) * (several & self.colours)
        return concatenate([features, added], dim=1), told

    def _trusted(self, found: Measured) -> Tensor:
        """(S,) `_TRUST_MIN` to 1."""
        columns = [torch.log1p(found.unlike) / 4, torch.tanh(found.bluer / 2), torch.log1p(found.snr.clamp(min=0)) / 4]
        columns += [found.radius_arcsec / RADIUS_ARCSEC[1], found.point]
        share = torch.sigmoid(self.trust(torch.stack(columns, dim=1).float()).squeeze(1))
        return _TRUST_MIN + (1 - _TRUST_MIN) * share.double()


def consistent(found: Measured, trust: Tensor, dust: Tensor, objects: int) -> tuple[colour.Colours, Tensor]:
    """The colour prior of every object's images, each covariance over its trust (S,), and the loss before the gate.

    The loss is 1/2 (chi2 + penalty) / colours compared - 1/2 mean ln trust, the first part Huber's: the negative
    log likelihood of errors that are predicted (Nix & Weigend 1994), least where trust is colours / (chi2 + penalty).
    """
    image = found.image
    owner, bad, of = found.owner[image], found.bad[image], trust[image]
    told = colour.colour_prior(
        colour.Segments(found.flux[image], found.variance[image] / of[:, None], bad, owner),
        objects, dust, torch.ones(objects, dtype=of.dtype, device=of.device),
        extinction_sigma=_EXTINCTION_SIGMA, scatter_mag=0.0, huber=_HUBER, passes=_PASSES,
    )  # fmt: skip
    held = _mean(torch.log(of), (~bad).sum(dim=1) - 1.0, owner, objects)
    return told, torch.where(told.defined, told.loss - held / 2, 0.0)


def summarised(found: Measured, trust: Tensor, dust: Tensor, bands: Tensor) -> Told:
    """All that is said of the objects; bands : (B,) how many each has."""
    objects = len(bands)
    told, loss = consistent(found, trust, dust, objects)
    chi2, penalty = (torch.where(told.defined, value, 0.0) for value in (told.chi2, told.penalty))
    excess = chi2 / told.dof.clamp(min=1)  # 0 where not defined: nothing to excuse
    seen = found.snr * found.image
    point, slope, radius = (
        _mean(v, seen, found.owner, objects) for v in (found.point, found.slope, found.radius_arcsec)
    )
    gate = colour_gate.gate(colour_gate.Images(point, slope, excess, radius))
    broken = _sum(found.broken.double(), found.owner, objects) > 0
    failed = broken | (told.defined & ~torch.isfinite(loss))
    first = segments.rank(found.owner) == 0
    unlike = torch.zeros_like(gate).scatter_reduce(0, found.owner, found.unlike, "amax")
    columns = [
        told.defined, excess / (1 + excess), penalty / (1 + penalty), torch.where(told.defined, told.dof, 0.0) / 10,
        bands / 5, _sum(found.image, found.owner, objects) / IMAGES_MAX,
        _sum(torch.ones_like(found.snr), found.owner, objects) / segments.RULES.per_object_max,
        torch.tanh(_sum(found.bluer * first, found.owner, objects) / 2), torch.log1p(unlike) / 5,
        gate, _mean(trust, torch.ones_like(trust), found.owner, objects),
    ]  # fmt: skip
    summary = torch.stack([column.double() for column in columns], dim=1).float()
    summary = torch.where(failed[:, None], 0.0, summary)
    return Told(summary, torch.where(failed, 0.0, gate * loss).float(), gate.float(), told.defined, failed)


def _of_bands(names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """A_band / A_V and ln wavelength, (C,)."""
    nm = sed.wavelengths(names)
    dust = reddening.extinction_per_a_v(nm, _Z_DUST, _R_V, _LAW)
    return torch.as_tensor(dust.astype(np.float32)), torch.as_tensor(np.log(nm).astype(np.float32))


def _sum(values: Tensor, owner: Tensor, objects: int) -> Tensor:
    return torch.zeros(objects, dtype=torch.float64, device=owner.device).index_add(0, owner, values.double())


def _mean(values: Tensor, weight: Tensor, owner: Tensor, objects: int) -> Tensor:
    """(B,) weighted; 0 where there is nothing."""
    total = _sum(weight, owner, objects)
    return _sum(torch.where(weight > 0, values, 0.0) * weight, owner, objects) / torch.where(total > 0, total, 1.0)


def build(size: str, bands: Sequence[str], stamp_pixels: int, metadata: int, colours: bool = True) -> Network:
    """The network on the residual backbone of `robust_resnet`; it takes stamps of any side."""
    backbone = robust_resnet.build(size, bands, stamp_pixels, metadata)
    return ColorAwareLens(backbone, bands, colours)
