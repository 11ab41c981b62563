"""A lens model beside what the host's light leaves of a stamp: rendering, and amplitude and host in closed form.

One isothermal ellipsoid about the stamp's centre with external shear, one elliptical exponential disc behind it. All
bands share one PSF since psf-match, so they are stacked and compared with one image. Its amplitude and a change of the
host's profile are linear: both follow, and amplitude 0 is the fit without a lens. Lengths are in half sides of the
stamp, so that one network serves every pixel scale.
"""

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lensml.lensing.convolution import bin_pixels
from lensml.lensing.render import Grid, Psf, render_batch
from lensml.lensing.scene import Epl, Parameters, Sersic, Shear, Table
from lensml.models.host_light import VIEWS, ellipse
from lensml.models.stretch import sinh
from lensml.store.quantisation import BAD_LOG_VARIANCE

GRID: Final = 24  # pixels of the fit along a side, at least; finer stamps are binned by whole factors
LIGHT_ERROR: Final = 0.3  # of the arcs' light: no smooth disc describes a galaxy better, nor a neighbour at all
LIGHT_FROM: Final = 2.0  # sigma from which on there is light
HOST_ERROR: Final = 0.02  # of the host's light: ellipses that fall outwards are not quite its shape
THETA_E: Final = (0.08, 1.2)  # half sides
BORDER: Final = 0.02  # of that range, in ln: nearer to an end free numbers hardly move theta_E
_LN_RANGE: Final = math.log(THETA_E[1] / THETA_E[0])
SIZE: Final = (0.03, 0.5)  # effective radius, half sides: a third of a fit pixel, so that sampling sees it
MASS_E: Final = 0.5  # (1 - q) / (1 + q): q above 1 / 3
SHEAR: Final = 0.25
OFFSET: Final = 1.2  # of theta_E: beyond it there is one image
SOURCE_E: Final = 0.6
SEEN_MIN: Final = 1e-3  # share of a source's light on the stamp below which its amplitude falls to 0
KNOTS: Final = (0.0, 0.08, 0.16, 0.26, 0.38, 0.52, 0.7, 0.95, 1.3)  # of the host's profile, half sides
RIDGE: Final = 1e-3  # on its values, of their mean weight: a ring without pixels stays 0
# Free numbers of a lens in their order: theta_E, mass ellipticity, shear, source place, size, ellipticity.
FREE: Final = 10


class Observed(NamedTuple):
    """What is fitted, on the fit's pixels: one image, the mean of the bands, weighted by their inverse variance."""

    flux: Tensor  # (B, n, n) without the host, nJy per pixel of the stamp
    variance: Tensor  # (B, n, n), infinite where not used
    psf: Tensor  # (B, 1, k, k), sum 1
    rings: Tensor  # (B, n n, K) the host's profile at every pixel, linear between `KNOTS`
    host: Tensor  # (B, 2) the ellipticity of its light
    defined: Tensor  # (B,) bool: it has usable pixels and a PSF, and all their numbers are finite
    binned: int  # pixels of the stamp along the side of one of the fit's


class Lens(NamedTuple):
    """One lens per object, all (B,), lengths in half sides; shapes as `lensml.lensing.scene`."""

    theta_e: Tensor
    e1: Tensor
    e2: Tensor
    gamma1: Tensor
    gamma2: Tensor
    source_x: Tensor
    source_y: Tensor
    source_size: Tensor
    source_e1: Tensor
    source_e2: Tensor


class Match(NamedTuple):
    """A rendering with the amplitude that suits best, beside a host that is free."""

    amplitude: Tensor  # (B,) >= 0
    gain: Tensor  # (B,) by how much chi2 is below that of the host alone
    chi2: Tensor  # (B,) of the host alone
    freedom: Tensor  # (B,) pixels used


class _Stack(NamedTuple):
    """Sums over bands and the pixels of each of the fit's, (B, n, n)."""

    weight: Tensor
    light: Tensor  # weight times flux
    host: Tensor
    good: Tensor  # how many


class White(NamedTuple):
    """A host whose profile is free, over each pixel's sigma."""

    weight: Tensor  # (B, N) one over sigma, 0 where not used
    rings: Tensor  # (B, N, K)
    root: Tensor  # (B, K, K) of the rings' normal matrix, Cholesky's


@torch.no_grad()
def observed(images: Tensor, log_variance: Tensor, psf: Tensor, sky_sigma: Tensor) -> Observed:
    """Stack and bin the stamps without their hosts, and say how well a smooth model can describe them.

    Parameters
    ----------
    images : (B, 2 C, H, W) of `lensml.models.host_light.views`
    log_variance : (B, C, H, W) ln(variance / sky_sigma^2), `BAD_LOG_VARIANCE` where bad
    psf : (B, C, k, k) unit sum, zeros where a band has none; their mean is taken
    sky_sigma : (B, C) nJy per pixel, 0 in bands that are not there

    Returns
    -------
    Observed
        An object that is not `defined` has no pixels, and a point for a PSF.
    """
    stack = _stacked(images, log_variance, sky_sigma)
    side, factor = stack.light.shape[-1], images.shape[-1] // stack.light.shape[-1]
    kernel = _kernel(psf, factor, side)
    numbers = (stack.weight, stack.light, stack.host, kernel)
    defined = torch.stack([torch.isfinite(v).flatten(1).all(dim=1) for v in numbers]).all(dim=0)
    used = stack.good >= factor**2 / 2
    defined = defined & used.flatten(1).any(dim=1)
    used, kept = used & defined[:, None, None], defined[:, None, None, None]
    point = functional.pad(kernel.new_ones(1, 1, 1, 1), [kernel.shape[-1] // 2] * 4)
    error = 1 / positive(stack.weight)
    mean = torch.where(used, stack.light * error, 0.0)
    light = (mean**2 - LIGHT_FROM**2 * error).clamp(min=0)  # no error from what may be noise
    error = torch.where(used, error + LIGHT_ERROR**2 * light, torch.inf)
    rings, shape = _rings(torch.where(used, stack.host, 0.0))
    return Observed(mean, error, torch.where(kept, kernel, point), rings, shape, defined, factor)


def lens(free: Tensor) -> Lens:
    """The lens of free numbers (B, FREE), whatever they are: bounded by the constants above, smooth everywhere."""
    radius = theta_e(free[:, 0])
    place = OFFSET * radius[:, None] * _inside(free[:, 5:7])
    size = SIZE[0] * torch.exp(math.log(SIZE[1] / SIZE[0]) * torch.sigmoid(free[:, 7]))
    shapes = (MASS_E * _inside(free[:, 1:3]), SHEAR * _inside(free[:, 3:5]), place, SOURCE_E * _inside(free[:, 8:10]))
    (e1, e2), (gamma1, gamma2), (x, y), (source_e1, source_e2) = (pair.unbind(1) for pair in shapes)
    return Lens(radius, e1, e2, gamma1, gamma2, x, y, size, source_e1, source_e2)


def theta_e(free: Tensor) -> Tensor:
    """theta_E of its free number."""
    return THETA_E[0] * torch.exp(_LN_RANGE * torch.sigmoid(free))


def theta_e_free(radius: Tensor) -> Tensor:
    """The free number of theta_E, its inverse; what is out of reach is brought to the border."""
    return torch.logit(torch.log(radius / THETA_E[0]) / _LN_RANGE, eps=BORDER)


def size_free(size: Tensor) -> Tensor:
    """The free number of a source's size, within `SIZE`."""
    return torch.logit(torch.log(size / SIZE[0]) / math.log(SIZE[1] / SIZE[0]))


def theta_e_slope(free: Tensor) -> Tensor:
    """d ln theta_E by its free number."""
    share = torch.sigmoid(free)
    return _LN_RANGE * share * (1 - share)


def mass(model: Lens) -> tuple[Table, Table]:
    """The tables of what deflects, in half sides."""
    none, isothermal = torch.zeros_like(model.theta_e), torch.full_like(model.theta_e, 2.0)
    owner = torch.arange(len(none), device=none.device)
    # of the two isothermal profiles of `lensml.lensing.mass`, the one whose series has cheap gradients by the shape
    ellipsoid = Epl(model.theta_e, isothermal, model.e1, model.e2, none, none, none)
    return Table(owner, ellipsoid), Table(owner, Shear(model.gamma1, model.gamma2, none, none))


def rendered(model: Lens, psf: Tensor, pixels: int) -> Tensor:
    """The lensed source of unit flux, (B, pixels, pixels); psf as in `Observed`."""
    one = torch.ones_like(model.theta_e)
    disc = Sersic(
        one[:, None], model.source_size, one, model.source_e1, model.source_e2, model.source_x, model.source_y
    )
    deflectors = mass(model)
    parameters = Parameters(len(one), deflectors, (), (Table(deflectors[0].owner, disc),))
    grid = Grid(pixels, 2 / pixels, 1, refinement=1)
    with torch.inference_mode(mode=False):
        kernels = psf.clone()  # whose version `Psf` asks for; tensors of the inference mode have none
    return render_batch(parameters, grid, Psf(kernels), cache_invariants=False)[:, 0]


def match(image: Tensor, data: Observed) -> Match:
    """The non-negative amplitude of a rendering (B, n, n), beside a change of the host: chi2 is quadratic in both."""
    maps = torch.stack([data.flux, image], dim=1).flatten(2)
    white = whitened(data)
    flux, shape = without_host(maps, white).unbind(1)
    across, square = (flux * shape).sum(dim=1), (shape**2).sum(dim=1)
    dark = SEEN_MIN**2 * (white.weight**2).mean(dim=1)
    amplitude = (across / positive(square + dark)).clamp(min=0)
    gain = amplitude * (2 * across - amplitude * square)
    return Match(amplitude, gain, (flux**2).sum(dim=1), torch.isfinite(data.variance).sum(dim=(1, 2)))


def whitened(data: Observed) -> White:
    """The host's rings over each pixel's sigma, ready to be taken off."""
    weight = data.variance.flatten(1).rsqrt()
    rings = weight[..., None] * data.rings
    normal = rings.mT @ rings
    ridge = RIDGE * normal.diagonal(dim1=1, dim2=2).mean(dim=1) + torch.finfo(normal.dtype).tiny
    root = torch.linalg.cholesky(normal + torch.diag_embed(ridge[:, None].expand(-1, len(KNOTS))))
    return White(weight, rings, root)


def without_host(maps: Tensor, white: White) -> Tensor:
    """Maps (B, P, N) over each pixel's sigma, without what another profile of the host explains, (B, P, N)."""
    maps = maps * white.weight[:, None]
    return maps - torch.cholesky_solve(white.rings.mT @ maps.mT, white.root).mT @ white.rings.mT


def inflation(found: Match) -> Tensor:
    """(B,) chi2 per pixel of the best fit, 1 at least: what a model's misfit and correlated noise add to variances."""
    return ((found.chi2 - found.gain) / found.freedom.clamp(min=1)).clamp(min=1)


def _stacked(images: Tensor, log_variance: Tensor, sky_sigma: Tensor) -> _Stack:
    owner, band = torch.nonzero(sky_sigma > 0, as_tuple=True)
    sigma = sky_sigma[owner, band][:, None, None]  # of the bands that are there, (P, 1, 1)
    seen, flux = (sinh(images.unflatten(1, (VIEWS, -1))[owner, :, band]) * sigma[:, None]).unbind(1)
    log, side = log_variance[owner, band], images.shape[-1]
    good = log != BAD_LOG_VARIANCE
    weight = 1 / (torch.exp(log) * sigma**2 + (HOST_ERROR * (seen - flux)) ** 2)
    factor = next(f for f in range(max(1, side // GRID), 0, -1) if side % f == 0)

    def total(maps: Tensor) -> Tensor:
        maps = torch.where(good, maps, 0.0)
        whole = maps.new_zeros(len(images), 1, side, side).index_add(0, owner, maps[:, None])
        return bin_pixels(whole, factor)[:, 0]

    host = seen / sigma**2  # by the sky alone: its own error would hollow it out
    return _Stack(*(total(maps) for maps in (weight, weight * flux, host, torch.ones_like(flux))))


def _rings(light: Tensor) -> tuple[Tensor, Tensor]:
    """Of images (B, n, n), by the ellipse of their light: the share of each of `KNOTS` in a pixel, and (e1, e2)."""
    shape, pixels = ellipse(light), light.shape[-1]
    axis = torch.arange(pixels).to(light) - (pixels - 1) / 2
    dx, dy = axis[None, None, :] - shape.x, axis[None, :, None] - shape.y
    square = shape.yy * dx**2 - 2 * shape.xy * dx * dy + shape.xx * dy**2
    radius = (torch.sqrt(square.clamp(min=0)) * (2 / pixels)).flatten(1)[..., None]
    knots = light.new_tensor(KNOTS)
    up = ((radius - knots[:-1]) / knots.diff()).clamp(0, 1)
    rings = torch.cat([torch.ones_like(radius), up], dim=2) - torch.cat([up, torch.zeros_like(radius)], dim=2)
    moments = torch.stack([(shape.xx - shape.yy) / 2, shape.xy], dim=1).flatten(1)
    size = ((shape.xx + shape.yy) / 2).flatten(1)  # (1 + q^2) / 2 q of an ellipse of unit area
    return rings, moments / (size + 1)


def _inside(pair: Tensor) -> Tensor:
    """A vector (B, 2) into the unit circle."""
    return pair / torch.sqrt(1 + (pair**2).sum(dim=1, keepdim=True))


def positive(square: Tensor) -> Tensor:
    """A divisor that is 0 only together with what it divides."""
    return torch.where(square > 0, square, 1.0)


def _kernel(psf: Tensor, factor: int, pixels: int) -> Tensor:
    """What a fit pixel gathers of a point in the middle of another: (B, 1, k, k), k odd and at most `pixels`."""
    there = (psf != 0).flatten(2).any(dim=2)[..., None, None]
    mean = (psf * there).sum(dim=1, keepdim=True)
    box = mean.new_ones(factor + 1 - factor % 2)
    if factor % 2 == 0:
        box[0] = box[-1] = 0.5  # its edge cuts a pixel in two
    half = psf.shape[-1] // 2
    reach = min(-(-half // factor), (pixels - 1) // 2)
    pad = reach * factor + len(box) // 2 - half
    kernel = functional.conv2d(functional.pad(mean, [pad] * 4), (box[:, None] * box)[None, None], stride=factor)
    return kernel / kernel.sum(dim=(-2, -1), keepdim=True)
