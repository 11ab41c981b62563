"""Do segments share a colour? Lensing is achromatic: images of one source differ by magnification and by dust alone.

In magnitudes a segment s of a group is, in band b, offset_s + colour_b + A_s k_b. The offset (the magnification) is
projected out exactly, so that only colours count. A_s, the extinction by dust in the lens, has a Gaussian prior and so
a closed form: a ridge regression along the reddening vector k. The colour is the segments' mean, each weighted by the
inverse of its covariance with A_s marginalised, and by Huber's weight where it fits badly.

Faint fluxes have no magnitude. After the first pass, which is the plain ridge solution, fluxes are linearised about the
fitted ones, which are positive, with errors relative to these: at convergence that is the likelihood's maximum in
flux, where noise is Gaussian, and bright scatter is not taken for precision.
"""

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

from lensml.lensing import consistency

_MAGNITUDE: Final = 2.5 / math.log(10)
_COLOUR_PRECISION: Final = 1e-4  # mag^-2, prior of a colour: says nothing, but bands that nobody has become solvable
_ROUNDING: Final = 1e-11  # the same, as a share of the group's precision, which rounds at 1e-15 of itself
_COMPARED_MIN: Final = 0.5  # colours in common, which are whole numbers up to that precision
_STEP_MAX: Final = 1.0  # by which a linearised flux may differ from the fitted one, in units of it


class Segments(NamedTuple):
    """Photometry of images and arcs in the same apertures at one PSF in all bands; groups in any order."""

    flux: Tensor  # (segment, band), any unit; may be negative
    covariance: Tensor  # (segment, band, band), or (segment, band) variances; infinite ones are bad
    bad: Tensor  # (segment, band) bool: not measured
    group: Tensor  # (segment,) int64: the putative source, 0 to groups - 1


class Colours(NamedTuple):
    """What the colours of each group say; chi2, penalty and loss are NaN where not `defined`."""

    a_v: Tensor  # (segment,) mag, over that of its group's reference, in the dust's rest frame
    a_v_error: Tensor  # (segment,) 1 sigma of the ridge's posterior; 0 of the reference
    reference: Tensor  # (group,) row of the segment whose colours tell extinction best; -1 of an empty group
    colour: Tensor  # (group, band) mag about their mean, as the reference has them; NaN where nobody has the band
    chi2: Tensor  # (group,) squared Mahalanobis distances from the mean colour, extinction allowed for
    dof: Tensor  # (group,) what to expect of it: colours less the mean's, less the ridge's share
    penalty: Tensor  # (group,) sum of (a_v / extinction_sigma)^2
    loss: Tensor  # (group,) gate x Huber of (chi2 + penalty) / colours compared: about gate / 2 for one source
    defined: Tensor  # (group,) bool: two segments share two bands at least


class _Data(NamedTuple):
    flux: Tensor
    covariance: Tensor
    seen: Tensor
    group: Tensor
    groups: int


class _Fit(NamedTuple):
    colour: Tensor  # (group, band) mag
    colour_unknown: Tensor  # (group,) how many of its numbers the prior alone decides
    a_v: Tensor  # (segment,)
    variance: Tensor  # (segment,)
    model: Tensor  # (segment, band) flux


def colour_prior(
    segments: Segments, groups: int, reddening: Tensor, gate: Tensor,
    *, extinction_sigma: float, scatter_mag: float, huber: float, passes: int,
) -> Colours:  # fmt: skip
    """Extinction, distance and loss of every group; differentiable in flux, covariance, reddening and gate.

    Parameters
    ----------
    groups
        how many there are; some may be empty
    reddening
        A_band / A_V: (band,), or (group, band) with the dust of each at its own redshift
    gate
        (group,) 0 to 1, of the loss only: 0 where colours may differ (quasars, microlensing, long delays)
    extinction_sigma
        of the prior of a_v, mag, > 0
    scatter_mag
        error of a segment's band beyond that of its flux (aperture, PSF), mag, >= 0
    huber
        distance over its expected size from which on the loss is linear and a segment is weighed down, > 0
    passes
        >= 1; 4 are enough

    Works in float64 whatever comes in. a_v is drawn towards 0 where its error is not small against extinction_sigma.
    Differential extinction between images of one source: Falco et al. 1999 (ApJ 523, 617).

    Raises
    ------
    ValueError
        Shapes that do not fit, a flux that is not finite in a good band, a covariance that is not positive definite, a
        group or a gate outside its range.
    """
    data = _complete(segments, groups)
    _refuse(data, gate)
    k = reddening.to(data.flux).expand(groups, -1)[data.group]
    model = torch.maximum(data.flux, data.covariance.diagonal(dim1=-2, dim2=-1).sqrt())
    ratio, precision = _relative(data, model, scatter_mag)
    reference = _best(_along(_colours_only(precision), k), data)
    k = torch.where((_rows(k) == reference[data.group])[:, None], 0.0, k)
    weight = torch.ones_like(k[:, 0])
    for _ in range(passes):
        seen_as = -_MAGNITUDE * (torch.log(model) + ratio.clamp(-_STEP_MAX, _STEP_MAX))
        fit = _ridge(data, seen_as, weight[:, None, None] * precision, k, extinction_sigma**-2)
        model = fit.model
        ratio, precision = _relative(data, model, scatter_mag)
        distance = _along(_colours_only(precision), _MAGNITUDE * ratio)
        weight = huber / (distance / _colours(data).clamp(min=1)).clamp(min=huber**2).sqrt()
    told = _told(data, fit, distance, reference, gate.to(k), extinction_sigma**-2, huber)
    return Colours(*(t.to(segments.flux.dtype) if t.is_floating_point() else t for t in told))


def _complete(segments: Segments, groups: int) -> _Data:
    """In float64; what is bad becomes a flux and a variance of 1, and is not seen."""
    flux, covariance = segments.flux.double(), segments.covariance.double()
    covariance = torch.diag_embed(covariance) if covariance.dim() == 2 else covariance
    shape = (*segments.bad.shape, segments.bad.shape[-1])
    if flux.shape != segments.bad.shape or covariance.shape != shape or segments.group.shape != flux.shape[:1]:
        raise ValueError(
            f"flux, covariance, bad and group must be (segment, band), (segment, band, band), (segment, band) and "
            f"(segment,), got {[tuple(t.shape) for t in segments]} (colours). Give every segment the same bands."
        )
    seen = ~segments.bad & ~torch.isposinf(covariance.diagonal(dim1=-2, dim2=-1))
    both = seen[:, :, None] & seen[:, None, :]
    unit = torch.eye(flux.shape[1], dtype=flux.dtype, device=flux.device)
    return _Data(torch.where(seen, flux, 1.0), torch.where(both, covariance, unit), seen, segments.group, groups)


def _refuse(data: _Data, gate: Tensor) -> None:
    if gate.shape != (data.groups,):
        raise ValueError(f"gate must be ({data.groups},), got {tuple(gate.shape)} (colours). Give one for each group.")
    lowest = torch.linalg.eigvalsh(torch.where(torch.isfinite(data.covariance), data.covariance, -1.0).detach())[:, :1]
    _all("flux", data.flux, torch.isfinite(data.flux), "be finite where it is not bad", "segment")
    _all("covariance", lowest, lowest > 0, "be finite and have eigenvalues above 0", "segment")
    _all("group", data.group, (data.group >= 0) & (data.group < data.groups), f"be below {data.groups}", "segment")
    _all("gate", gate, (gate >= 0) & (gate <= 1), "be within 0 to 1", "group")


def _all(name: str, values: Tensor, good: Tensor, rule: str, row: str) -> None:
    if not bool(good.all()):
        wrong, value = int((~good).nonzero()[0, 0]), float(values.detach()[~good][0])
        raise ValueError(f"{name} must {rule}, got {value:g} ({row} {wrong} of the colours). Mark it bad, or mend it.")


def _relative(data: _Data, model: Tensor, scatter_mag: float) -> tuple[Tensor, Tensor]:
    """Flux over the model's less 1, (segment, band), and its inverse covariance in mag^-2, 0 where not seen."""
    relative = data.covariance / (model[:, :, None] * model[:, None, :])
    scatter = torch.diag_embed(torch.full_like(model, scatter_mag**2))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(_MAGNITUDE**2 * relative + scatter))
    return data.flux / model - 1, inverse * (data.seen[:, :, None] & data.seen[:, None, :])


def _colours_only(precision: Tensor) -> Tensor:
    """The inverse covariance with a segment's magnification unknown: nothing along equal shifts of all bands."""
    row = precision.sum(dim=-1)
    return precision - row[:, :, None] * row[:, None, :] / _or_one(row.sum(dim=-1))[:, None, None]


def _along(matrix: Tensor, vector: Tensor) -> Tensor:
    return torch.einsum("sb,sbc,sc->s", vector, matrix, vector)


def _ridge(data: _Data, magnitude: Tensor, precision: Tensor, k: Tensor, prior: float) -> _Fit:
    """Mean colours and extinctions in closed form: segments' extinctions are eliminated to solve for the colours."""
    weight = _colours_only(precision)
    wk = torch.einsum("sbc,sc->sb", weight, k)
    stiffness = (wk * k).sum(dim=1) + prior
    marginal = weight - wk[:, :, None] * wk[:, None, :] / stiffness[:, None, None]
    told = torch.einsum("sbc,sc->sb", marginal, magnitude)
    unit = torch.eye(k.shape[1], dtype=k.dtype, device=k.device)
    normal = _per_group(marginal, data)
    loose = _COLOUR_PRECISION + _ROUNDING * normal.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    covariance = torch.cholesky_inverse(torch.linalg.cholesky(normal + loose[:, None, None] * unit))
    colour = torch.einsum("gbc,gc->gb", covariance, _per_group(told, data))
    rest = magnitude - colour[data.group]
    a_v = (wk * rest).sum(dim=1) / stiffness
    variance = 1 / stiffness + _along(covariance[data.group], wk) / stiffness**2
    rest = rest - a_v[:, None] * k
    row = precision.sum(dim=-1)
    offset = (row * rest).sum(dim=1) / _or_one(row.sum(dim=1))
    model = torch.exp((rest - offset[:, None] - magnitude) / _MAGNITUDE)
    unknown = loose * covariance.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return _Fit(colour, unknown, a_v, variance, torch.where(data.seen, model, 1.0))


def _told(
    data: _Data, fit: _Fit, distance: Tensor, reference: Tensor, gate: Tensor, prior: float, huber: float
) -> Colours:
    compared = _per_group(_colours(data), data) - (data.flux.shape[1] - fit.colour_unknown)
    defined = compared > _COMPARED_MIN
    chi2, penalty = _per_group(distance, data), _per_group(fit.a_v**2 * prior, data)
    dof = compared - _per_group(1 - prior * fit.variance, data)
    loss = gate * consistency.huber((chi2 + penalty) / torch.where(defined, compared, 1.0), huber)
    is_reference = _rows(fit.a_v) == reference[data.group]
    error = torch.where(is_reference, 0.0, torch.where(is_reference, 1.0, fit.variance).sqrt())
    colour = torch.where(_per_group(data.seen.to(error), data) > 0, fit.colour, math.nan)
    chi2, penalty, loss = (torch.where(defined, term, math.nan) for term in (chi2, penalty, loss))
    return Colours(fit.a_v, error, reference, colour, chi2, dof, penalty, loss, defined)


def _best(information: Tensor, data: _Data) -> Tensor:
    """The row of each group with the most information, the first of several; -1 of a group without rows."""
    most = information.detach().new_full((data.groups,), -math.inf)
    most = most.scatter_reduce(0, data.group, information.detach(), "amax")
    rows = torch.where(information >= most[data.group], _rows(information), len(information))
    first = torch.full((data.groups,), len(information), device=rows.device).scatter_reduce(0, data.group, rows, "amin")
    return torch.where(first < len(information), first, -1)


def _rows(like: Tensor) -> Tensor:
    return torch.arange(len(like), device=like.device)


def _colours(data: _Data) -> Tensor:
    """How many colours each segment has: (segment,)."""
    return (data.seen.sum(dim=1) - 1).clamp(min=0).to(data.flux)


def _per_group(values: Tensor, data: _Data) -> Tensor:
    return values.new_zeros((data.groups, *values.shape[1:])).index_add(0, data.group, values)


def _or_one(values: Tensor) -> Tensor:
    return torch.where(values == 0, 1.0, values)
