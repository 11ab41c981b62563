"""pinn_lens: lens and source are predicted, rendered and compared with the pixels; the verdict weighs both.

An encoder proposes a lens (`lensml.models.lens_fit`) and, apart from it, states theta_E with an error. The rendering's
chi2 gain over a host alone and the proposal go into the classifier beside the encoder's features. The physics terms
hold the proposal to the pixels and to what lenses are like; they are gated by the probability, detached, or the network
would lower them by saying that there is no lens.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, NamedTuple

import torch
from torch import Tensor, nn

from lensml.lensing import consistency, mass
from lensml.models import lens_fit, lens_refine, lens_search
from lensml.models.host_light import VIEWS, views
from lensml.models.lens_fit import FREE, Lens, Match, Observed
from lensml.models.lens_search import PLACES, THETA_E_COUNT
from lensml.models.network import Explained, MetadataEmbedding, Network
from lensml.models.residual import Residual, pooled

METADATA_WIDTH: Final = 16
MAP_WIDTH: Final = 32  # of the encoder's maps whose moments the lens is read from
RINGS: Final = 10  # and of the rings of the image that is fitted, from the centre to the border
ORDERS: Final = 2  # harmonics in azimuth of each: a dipole is a source off the axis, a quadrupole shear and shape
HIDDEN: Final = 128
FIT_WIDTH: Final = 32
SUMMARY: Final = 7  # numbers of a fit that the classifier sees beside the free ones
ERROR: Final = (0.02, 1.0)  # of ln theta_E as stated
LOG_EVIDENCE: Final = 4.0  # of ln(1 + ln likelihood ratio), to bring it near 1
LN_TRUST: Final = -2.0  # ln of the power of the evidence, at the start: no model is right, no pixel independent
START_STD: Final = 0.02
STEPS: Final = 8  # of `fitted`
TRUST: Final = 0.05  # there, of chi2: sources are no discs, and neighbours no part of the model

# Scales of the physics terms, each of 1/2 of a squared deviation over it, linear from THRESHOLD scales on.
THRESHOLD: Final = 2.0
MASS_SCALE: Final = 0.2  # of the mean convergence within theta_E
SHEAR_SCALE: Final = 0.05  # external shear of galaxy lenses: Holder & Schechter 2003
SHAPE_SCALE: Final = 0.15  # ellipticity of mass less that of light: Bolton et al. 2008 (SLACS V)
NODES: Final = (4, 12)  # in radius and azimuth, of the convergence within theta_E


class LensFit(NamedTuple):
    """The lens that describes a stamp best, (B,) each. Angles in arcsec, shapes as `lensml.lensing.scene`."""

    theta_e_arcsec: Tensor
    theta_e_error: Tensor  # 1 sigma of ln theta_E
    e1: Tensor
    e2: Tensor
    gamma1: Tensor
    gamma2: Tensor
    source_x_arcsec: Tensor  # from the stamp's centre, in the source plane
    source_y_arcsec: Tensor
    source_size_arcsec: Tensor  # effective radius
    source_e1: Tensor
    source_e2: Tensor
    source_flux: Tensor  # nJy, unlensed, mean over the bands, weighted by their inverse variance
    chi2_gain: Tensor  # over the host alone
    chi2: Tensor  # per pixel, with the lens
    defined: Tensor  # bool: there were pixels and a PSF to fit


class _Proposal(NamedTuple):
    free: Tensor  # (B, FREE), see `lens_fit.lens`
    stated: Tensor  # (B,) ln theta_E, half sides
    error: Tensor  # (B,) 1 sigma of ln theta_E as stated
    lens: Lens
    data: Observed
    match: Match
    features: Tensor  # (B, width)


class PinnLens(Network):
    """Residual encoder, proposal, rendering, classifier."""

    needs: ClassVar[tuple[str, ...]] = ("psf", "log_variance", "pixel_scale", "sky_sigma")
    physics: ClassVar[tuple[str, ...]] = (
        "lens_equation", "mass_conservation", "shear_consistency", "mass_follows_light", "theta_e",
    )  # fmt: skip

    def __init__(self, size: str, bands: int, metadata: int) -> None:
        backbone = Residual(size, VIEWS * bands)
        super().__init__(backbone.channels[-1] + METADATA_WIDTH + FIT_WIDTH)
        self.backbone = backbone
        self.embedding = MetadataEmbedding(metadata, METADATA_WIDTH)
        self.to_maps = nn.Conv2d(backbone.channels[-1], MAP_WIDTH, 1)
        width = MAP_WIDTH * 6 + RINGS * (1 + 2 * ORDERS) + 2 * THETA_E_COUNT + METADATA_WIDTH
        self.to_hidden = nn.Sequential(nn.Linear(width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU())
        self.to_free = nn.Linear(HIDDEN, FREE + 2)
        self.to_prior = nn.Linear(HIDDEN, THETA_E_COUNT)
        self.ln_trust = nn.Parameter(torch.tensor(LN_TRUST))
        nn.init.normal_(self.to_free.weight, std=START_STD)
        nn.init.zeros_(self.to_free.bias)
        self.of_fit = nn.Sequential(nn.Linear(FREE + SUMMARY, FIT_WIDTH), nn.GELU())

    def features(self, stamps: Tensor, metadata: Tensor, **beside: Tensor) -> Tensor:
        return self._proposed(stamps, metadata, beside).features

    def explained(self, batch: Mapping[str, Tensor]) -> Explained:
        found = self._proposed(batch["stamps"], batch["metadata"], batch)
        logit = self.head(found.features).squeeze(1)
        terms = physics_terms(found.lens, torch.exp(found.stated).detach(), found.match, found.data)
        gate = torch.sigmoid(logit).detach()
        losses = {name: gate * torch.where(term.defined, term.value, 0.0) for name, term in terms.items()}
        half = _half_side(batch["stamps"], batch["pixel_scale"])
        losses["theta_e"] = _surprise(found, batch["theta_e_arcsec"] / half)
        return Explained(logit, losses, ~torch.stack([term.defined for term in terms.values()]).all(dim=0))

    @torch.no_grad()
    def fitted(self, stamps: Tensor, metadata: Tensor, **beside: Tensor) -> LensFit:
        """The proposal moved to where the pixels and what is stated make it most probable; as (B,) of `LensFit`."""
        found = self._proposed(stamps, metadata, beside)
        stated = lens_fit.theta_e_free(torch.exp(found.stated))
        start = torch.cat([stated[:, None], found.free[:, 1:]], dim=1)
        spread = found.error / lens_fit.theta_e_slope(stated)
        others = start.new_tensor(lens_refine.PRIOR).expand(len(start), -1)
        prior = torch.cat([spread[:, None], others], dim=1)
        moved = lens_refine.refined(start, start, prior, found.data, STEPS, TRUST)
        best = lens_fit.lens(moved.free)
        match = lens_fit.match(lens_fit.rendered(best, found.data.psf, found.data.flux.shape[-1]), found.data)
        error = moved.covariance[:, 0, 0].sqrt() * lens_fit.theta_e_slope(moved.free[:, 0])
        return _in_arcsec(best, error, match, found.data, _half_side(stamps, beside["pixel_scale"]))

    def _proposed(self, stamps: Tensor, metadata: Tensor, beside: Mapping[str, Tensor]) -> _Proposal:
        images = views(stamps)
        data = lens_fit.observed(images, beside["log_variance"], beside["psf"], beside["sky_sigma"])
        maps = self.backbone.prepared(images)
        for stage in self.backbone.stages:
            maps = stage(maps)
        told, evidence = self.embedding(metadata), lens_search.evidence(data)
        seen = [moments(self.to_maps(maps)), harmonics(data.flux * data.variance.rsqrt()), told, *_weighed(evidence)]
        free, stated, error = self._chosen(self.to_hidden(torch.cat(seen, dim=1)), evidence, data.flux.shape[-1])
        lens = lens_fit.lens(torch.nan_to_num(free))  # a network that diverged has a logit and a loss that say so
        match = lens_fit.match(lens_fit.rendered(lens, data.psf, data.flux.shape[-1]), data)
        sky = stated + torch.log(_half_side(stamps, beside["pixel_scale"]))
        summary = torch.stack([*_judged(match), stated, torch.log(error), sky], dim=1)
        fit = self.of_fit(torch.cat([free, summary], dim=1))
        return _Proposal(free, stated, error, lens, data, match, torch.cat([pooled(maps), told, fit], dim=1))

    def _chosen(self, hidden: Tensor, evidence: Tensor, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
        """The free numbers of the proposal, ln theta_E as stated and its error.

        Evidence times a prior of theta_E that the encoder gives: what is stated is its mean, what is proposed its peak,
        both moved by what the encoder adds.
        """
        numbers, prior = self.to_free(hidden), self.to_prior(hidden)
        evidence = torch.exp(self.ln_trust) * evidence.unflatten(1, (THETA_E_COUNT, PLACES)) + prior[:, :, None]
        weight = torch.softmax(evidence.amax(dim=2), dim=1)
        stated = weight @ lens_search.ln_theta_e().to(weight) + numbers[:, FREE]
        error = ERROR[0] * torch.exp(math.log(ERROR[1] / ERROR[0]) * torch.sigmoid(numbers[:, FREE + 1]))
        best = evidence.flatten(1).argmax(dim=1)
        return numbers[:, :FREE] + lens_search.templates(pixels).free.to(numbers)[best], stated, error


def physics_terms(lens: Lens, theta_e: Tensor, match: Match, data: Observed) -> dict[str, consistency.Term]:
    """Is the proposal a lens, and that of the pixels?

    Parameters
    ----------
    lens, match, data : the proposal and how its rendering matches
    theta_e : (B,) half sides, as stated apart from the proposal

    Returns
    -------
    lens_equation : chi2 of the rendering per degree of freedom, linear in its root from `THRESHOLD` on
    mass_conservation : the proposal's mass within the stated theta_E is the critical one
    shear_consistency : the shear is one that neighbours and large-scale structure make
    mass_follows_light : the mass is shaped as the host's light
    """
    freedom = match.freedom - FREE - 1 - len(lens_fit.KNOTS)
    chi2 = (match.chi2 - match.gain).clamp(min=0) / freedom.clamp(min=1)
    defined = data.defined & (freedom > 0) & torch.isfinite(chi2)
    equation = torch.where(defined, consistency.huber(chi2, THRESHOLD), torch.nan)
    none = torch.zeros_like(theta_e)
    tables, aperture = lens_fit.mass(lens), consistency.Ellipse(theta_e, lens.e1, lens.e2, none, none)
    mean = consistency.mean_within(lambda x, y: mass.convergence(tables, x, y), aperture, *NODES)
    return {
        "lens_equation": consistency.Term(equation, defined),
        "mass_conservation": consistency.critical_mass(mean, MASS_SCALE, THRESHOLD),
        "shear_consistency": consistency.shear_prior(lens.gamma1, lens.gamma2, SHEAR_SCALE, THRESHOLD),
        "mass_follows_light": consistency.mass_follows_light(
            (lens.e1, lens.e2), (data.host[:, 0], data.host[:, 1]), SHAPE_SCALE, THRESHOLD
        ),
    }


def plausible(fit: LensFit) -> Tensor:
    """(B,) bool: a galaxy could do this.

    0.2 < theta_E < 5 arcsec; mass no flatter than q = 0.4; shear below 0.2; a source within theta_E, so that it has a
    counter-image, and smaller than theta_E; a gain in chi2 of 25 or more.
    """
    radius = torch.hypot(fit.source_x_arcsec, fit.source_y_arcsec)
    shape, shear = torch.hypot(fit.e1, fit.e2), torch.hypot(fit.gamma1, fit.gamma2)
    inside = (fit.theta_e_arcsec > 0.2) & (fit.theta_e_arcsec < 5.0)
    behind = (radius < fit.theta_e_arcsec) & (fit.source_size_arcsec < fit.theta_e_arcsec)
    return fit.defined & inside & behind & (shape < 3 / 7) & (shear < 0.2) & (fit.chi2_gain >= 25)


def moments(maps: Tensor) -> Tensor:
    """Mean, dipole, size and quadrupole of maps (B, C, h, w), (B, 6 C): where things are, on a map of any side."""
    y, x = (torch.linspace(-1, 1, n).to(maps) if n > 1 else maps.new_zeros(1) for n in maps.shape[-2:])
    x, y = torch.broadcast_tensors(x[None, :], y[:, None])
    plane = torch.stack([torch.ones_like(x), x, y, x**2 + y**2, x**2 - y**2, 2 * x * y]).flatten(1)
    return (maps.flatten(2) @ plane.T / plane.shape[1]).flatten(1)


def harmonics(image: Tensor) -> Tensor:
    """Means over rings of an image (B, n, n) times cos and sin of 0 to `ORDERS` angles, (B, RINGS (1 + 2 ORDERS))."""
    return image.flatten(1) @ _polar(image.shape[-1]).to(image)


@functools.lru_cache(maxsize=16)
def _polar(pixels: int) -> Tensor:
    """Weights of the pixels, (pixels^2, RINGS (1 + 2 ORDERS)): rings that overlap by half."""
    axis = (torch.arange(pixels) - (pixels - 1) / 2) * (2 / pixels)
    x, y = axis.repeat(pixels), axis.repeat_interleave(pixels)
    middle = (torch.arange(RINGS) + 0.5) / RINGS
    ring = (1 - (torch.hypot(x, y)[:, None] - middle).abs() * RINGS).clamp(min=0)
    ring = ring / ring.sum(dim=0).clamp(min=1)
    angle = torch.atan2(y, x)[:, None]
    waves = [torch.ones_like(angle)]
    waves += [turn(m * angle) for m in range(1, ORDERS + 1) for turn in (torch.cos, torch.sin)]
    return torch.cat([ring * wave for wave in waves], dim=1)


def _weighed(evidence: Tensor) -> list[Tensor]:
    """What the grid says of theta_E, whatever the source's place: (B, THETA_E_COUNT) each."""
    profile = evidence.unflatten(1, (THETA_E_COUNT, PLACES)).amax(dim=2)
    return [torch.log1p(profile) / LOG_EVIDENCE, torch.softmax(profile, dim=1)]


def _judged(match: Match) -> list[Tensor]:
    """How good a fit is, (B,) each, detached: the classifier is to weigh the fit, not to spoil it."""
    found = Match(*(v.detach() for v in match))
    share = found.gain / (found.chi2 + 1)
    return [torch.log1p(found.gain), share, torch.log1p(found.chi2), torch.log(lens_fit.inflation(found))]


def _surprise(found: _Proposal, theta_e: Tensor) -> Tensor:
    """-ln of the Gaussian likelihood of ln theta_E (B,), half sides; 0 where nobody knows it."""
    known = torch.isfinite(theta_e) & (theta_e > 0)
    off = torch.log(torch.where(known, theta_e, 1.0)) - found.stated
    return torch.where(known, 0.5 * (off / found.error) ** 2 + torch.log(found.error), 0.0)


def _in_arcsec(lens: Lens, error: Tensor, match: Match, data: Observed, half: Tensor) -> LensFit:
    chi2 = (match.chi2 - match.gain) / match.freedom.clamp(min=1)
    return LensFit(
        lens.theta_e * half, error, lens.e1, lens.e2, lens.gamma1, lens.gamma2,
        lens.source_x * half, lens.source_y * half, lens.source_size * half, lens.source_e1, lens.source_e2,
        match.amplitude * data.binned**2, match.gain, chi2, data.defined,
    )  # fmt: skip


def _half_side(stamps: Tensor, pixel_scale: Tensor) -> Tensor:
    """Of the stamps, arcsec: (B,)."""
    return pixel_scale * (stamps.shape[-1] / 2)


def build(size: str, bands: Sequence[str], stamp_pixels: int, metadata: int) -> Network:
    """The network; it takes stamps of any side."""
    return PinnLens(size, len(bands), metadata)
