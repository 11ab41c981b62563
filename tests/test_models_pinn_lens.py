"""pinn_lens and its fit (oracles: lenstronomy, least squares, closed forms, finite differences, planted faults)."""

import math

import numpy as np
import pytest
import torch
from lenstronomy.Data.imaging_data import ImageData
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from torch import Tensor

from lensml.models import lens_fit, lens_refine, lens_search, pinn_lens
from lensml.models.lens_fit import FREE, Lens, Observed
from lensml.store.quantisation import BAD_LOG_VARIANCE

BANDS, METADATA, PIXELS = 3, 9, 24
VALUES = (0.45, 0.15, -0.1, 0.04, -0.03, 0.12, -0.06, 0.1, 0.1, 0.2)


def lens(*values: float, objects: int = 1) -> Lens:
    return Lens(*(torch.full((objects,), v, dtype=torch.float64) for v in values))


def gaussian(sigma: float, side: int) -> Tensor:
    axis = np.arange(side) - side // 2
    blur = np.exp(-(axis**2) / (2 * sigma**2))
    return torch.from_numpy(np.outer(blur, blur) / blur.sum() ** 2)[None, None]


def planted(signal: Tensor, noise: bool, objects: int = 1, seed: int = 3) -> Observed:
    """The signal (n, n) in white noise of sigma 1 per pixel, without a host, in two bands."""
    rng, sky = np.random.default_rng(seed), torch.tensor([[1.0, 2.0]]).double().expand(objects, 2)
    flux = signal + noise * sky[..., None, None] * torch.from_numpy(rng.normal(size=(objects, 2, *signal.shape)))
    images = torch.asinh(flux / sky[..., None, None]).repeat(1, 2, 1, 1)
    return lens_fit.observed(images, torch.zeros_like(flux), gaussian(1.0, 9).expand(objects, 2, 9, 9), sky)


def truth(peak: float = 3.0) -> Tensor:
    """Its brightest pixel at so many sigma: where that is little, the model's own error hardly counts."""
    image = lens_fit.rendered(lens(*VALUES), gaussian(1.0, 9), PIXELS)[0]
    return peak * image / image.max()


def fit_numbers(objects: int = 1) -> Tensor:
    """The free numbers of VALUES."""
    radius, size = (torch.tensor(VALUES[i], dtype=torch.float64) for i in (0, 7))

    def pair(limit: float, first: float, second: float) -> Tensor:
        inside = torch.tensor([first, second], dtype=torch.float64) / limit
        return inside / torch.sqrt(1 - (inside**2).sum())

    parts = [
        lens_fit.theta_e_free(radius)[None], pair(lens_fit.MASS_E, *VALUES[1:3]), pair(lens_fit.SHEAR, *VALUES[3:5]),
        pair(lens_fit.OFFSET * VALUES[0], *VALUES[5:7]), lens_fit.size_free(size)[None],
        pair(lens_fit.SOURCE_E, *VALUES[8:10]),
    ]  # fmt: skip
    return torch.cat(parts).expand(objects, FREE)


def diverged() -> pinn_lens.PinnLens:
    net = made()
    torch.nn.init.constant_(net.to_free.weight, math.nan)
    return net


def made(size: str = "tiny") -> pinn_lens.PinnLens:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return pinn_lens.PinnLens(size, BANDS, METADATA)


def batch(objects: int, pixels: int = 20) -> dict[str, Tensor]:
    rng = np.random.default_rng(5)
    stamps = torch.from_numpy(rng.normal(size=(objects, BANDS, pixels, pixels))).float()
    stamps[..., pixels // 2 - 1 : pixels // 2 + 1, pixels // 2] = 5
    metadata = torch.from_numpy(rng.normal(size=(objects, METADATA))).float()
    beside = {"psf": gaussian(1.2, 9).float().repeat(objects, BANDS, 1, 1), "log_variance": torch.zeros_like(stamps)}
    sky, scale = torch.full((objects, BANDS), 2.0), torch.full((objects,), 0.2)
    stamps[0, 1], beside["log_variance"][0, 1], beside["psf"][0, 1], sky[0, 1] = 0, BAD_LOG_VARIANCE, 0, 0
    known = torch.where(torch.arange(objects) % 2 == 0, torch.nan, 1.0)
    told = {"pixel_scale": scale, "sky_sigma": sky, "theta_e_arcsec": known, "label": (known == 1).float()}
    return {"stamps": stamps, "metadata": metadata} | beside | told


@pytest.mark.filterwarnings("ignore::DeprecationWarning:lenstronomy")
def test_rendering_is_lenstronomys_in_half_sides() -> None:
    theta_e, e1, e2, g1, g2, x, y, size, s1, s2 = VALUES
    step = 2 / PIXELS
    data = ImageData(
        np.zeros((PIXELS, PIXELS)), ra_at_xy_0=-1 + step / 2, dec_at_xy_0=-1 + step / 2,
        transform_pix2angle=step * np.eye(2),
    )  # fmt: skip
    psf = PSF("PIXEL", kernel_point_source=gaussian(1.0, 9)[0, 0].numpy())
    model = ImageModel(data, psf, LensModel(["SIE", "SHEAR"]), LightModel(["SERSIC_ELLIPSE"]))
    disc = {"amp": 1.0, "R_sersic": size, "n_sersic": 1.0, "e1": s1, "e2": s2, "center_x": x, "center_y": y}
    deflectors = [{"theta_E": theta_e, "e1": e1, "e2": e2, "center_x": 0, "center_y": 0}, {"gamma1": g1, "gamma2": g2}]
    expected = model.image(deflectors, [disc])
    found = lens_fit.rendered(lens(*VALUES), gaussian(1.0, 9), PIXELS)[0].numpy()
    found, expected = found / found.sum(), expected / expected.sum()
    np.testing.assert_allclose(found, expected, atol=5e-3 * expected.max())  # lenstronomy's b_n is an approximation


def test_free_numbers_give_the_lens_and_stay_within_bounds() -> None:
    found = lens_fit.lens(fit_numbers())
    np.testing.assert_allclose([float(v) for v in found], VALUES, rtol=1e-12)
    wild = lens_fit.lens(50 * torch.randn(400, FREE, generator=torch.Generator().manual_seed(0)).double())
    assert float(torch.hypot(wild.e1, wild.e2).max()) < 0.5  # q above a third
    assert lens_fit.THETA_E[0] <= float(wild.theta_e.min()) <= float(wild.theta_e.max()) <= lens_fit.THETA_E[1]
    assert bool((torch.hypot(wild.source_x, wild.source_y) <= lens_fit.OFFSET * wild.theta_e).all())


def test_slope_of_theta_e_by_differences() -> None:
    free = torch.linspace(-3, 3, 7).double()
    step = 1e-6
    differences = (torch.log(lens_fit.theta_e(free + step)) - torch.log(lens_fit.theta_e(free - step))) / (2 * step)
    torch.testing.assert_close(lens_fit.theta_e_slope(free), differences, rtol=1e-6, atol=1e-9)


def test_match_is_least_squares_of_a_lens_beside_the_host() -> None:
    data, image = planted(truth(), noise=True), truth()
    found = lens_fit.match(image[None], data)
    sigma = data.variance[0].sqrt().flatten()[:, None].numpy()
    host, flux = data.rings[0].numpy() / sigma, data.flux[0].flatten().numpy() / sigma[:, 0]
    both = np.hstack([host, image.flatten()[:, None].numpy() / sigma])
    (alone, _), (beside, values) = (
        (((flux - m @ (v := np.linalg.lstsq(m, flux)[0])) ** 2).sum(), v) for m in (host, both)
    )
    assert float(found.chi2) == pytest.approx(alone, rel=2e-3)
    assert float(found.gain) == pytest.approx(alone - beside, rel=5e-3)
    assert float(found.amplitude) == pytest.approx(values[-1], rel=5e-3)


def test_a_planted_lens_explains_its_pixels_and_noise_has_none() -> None:
    """At the true parameters chi2 per pixel is 1; in noise one amplitude gains a chi2 of one degree, half of it cut."""
    lenses, noise = (planted(signal, noise=True, objects=40) for signal in (truth(), torch.zeros_like(truth())))
    image = truth().expand(40, PIXELS, PIXELS)
    found, empty = lens_fit.match(image, lenses), lens_fit.match(image, noise)
    per_pixel = (found.chi2 - found.gain) / (found.freedom - 1 - len(lens_fit.KNOTS))
    assert float(per_pixel.mean()) == pytest.approx(1, abs=0.1)
    assert float((empty.chi2 / (empty.freedom - len(lens_fit.KNOTS))).mean()) == pytest.approx(1, abs=0.1)
    assert float(found.gain.min()) > 60
    assert float(empty.gain.mean()) == pytest.approx(0.5, abs=0.4)
    other = lens_fit.match(lens_fit.rendered(lens(0.7, *VALUES[1:], objects=40), lenses.psf, PIXELS), lenses)
    assert bool((other.gain < 0.7 * found.gain).all())


def test_a_lens_whose_images_fall_outside_has_no_amplitude_and_finite_gradients() -> None:
    """What the FFT leaves there, 1e-12 of the light, once had an amplitude of 1e12 and an infinite gradient."""
    data = planted(truth(), noise=True)
    numbers = [4.5, 0.0, 2.5, -1.4, -1.2, -2.6, -2.9, -3.1, -2.0, 0.2]
    free = torch.tensor([numbers], dtype=torch.float64, requires_grad=True)
    match = lens_fit.match(lens_fit.rendered(lens_fit.lens(free), data.psf, PIXELS), data)
    assert 0 <= float(match.gain.detach()) < 1
    pinn_lens.physics_terms(lens_fit.lens(free), torch.ones_like(free[:, 0]), match, data)[
        "lens_equation"
    ].value.sum().backward()
    assert free.grad is not None
    assert torch.isfinite(free.grad).all()


def test_refined_finds_theta_e_and_its_error() -> None:
    objects = 40
    data, true = planted(truth(10.0), noise=True, objects=objects), fit_numbers(objects)
    start = true + 0.1 * torch.randn(true.shape, generator=torch.Generator().manual_seed(1)).double()
    found = lens_refine.refined(start, start, torch.ones_like(start), data, steps=10, trust=1.0)
    off = torch.log(lens_fit.lens(found.free).theta_e / VALUES[0])
    error = found.covariance[:, 0, 0].sqrt() * lens_fit.theta_e_slope(found.free[:, 0])
    before = torch.log(lens_fit.lens(start).theta_e / VALUES[0])
    assert float(off.abs().median()) < 0.6 * float(before.abs().median())
    assert 0.5 < float((off.abs() < error).double().mean()) < 0.85


def test_without_pixels_the_prior_is_all_there_is() -> None:
    data = planted(truth(), noise=False)
    blind = data._replace(variance=torch.full_like(data.variance, torch.inf))
    prior = torch.linspace(0.1, 1, FREE).double()[None]
    found = lens_refine.refined(fit_numbers(), fit_numbers(), prior, blind, steps=2, trust=1.0)
    torch.testing.assert_close(found.free, fit_numbers())
    torch.testing.assert_close(found.covariance[0].diagonal().sqrt(), prior[0])


@pytest.mark.parametrize(("pixels", "factor"), [(48, 2), (72, 3), (33, 1)])
def test_stamps_are_binned_by_whole_factors_and_bands_weighted_by_variance(pixels: int, factor: int) -> None:
    rng = np.random.default_rng(2)
    flux, log = rng.normal(size=(1, 2, pixels, pixels)), rng.uniform(-1, 1, (1, 2, pixels, pixels))
    log[0, 0, : factor + 1, 0] = BAD_LOG_VARIANCE
    sky, psf = np.array([[2.0, 3.0]]), gaussian(2.0, 15)
    images = torch.from_numpy(np.arcsinh(flux)).repeat(1, 2, 1, 1)
    found = lens_fit.observed(images, torch.from_numpy(log), psf.expand(1, 2, 15, 15), torch.from_numpy(sky))
    weight = np.where(log == BAD_LOG_VARIANCE, 0, np.exp(-log)) / sky[..., None, None] ** 2
    value = flux * sky[..., None, None]
    cut = (slice(None), slice(None), slice(3 * factor, 4 * factor), slice(0, factor))
    assert found.binned == factor
    assert found.flux.shape == (1, pixels // factor, pixels // factor)
    mean = (weight * value)[cut].sum() / weight[cut].sum()
    assert float(found.flux[0, 3, 0]) == pytest.approx(mean, rel=1e-6)
    assert float(found.variance[0, 3, 0]) == pytest.approx(
        1 / weight[cut].sum() + 0.3**2 * max(0, mean**2 - 4 / weight[cut].sum()), rel=1e-6
    )
    assert float(found.flux[0, 0, 0]) == pytest.approx(
        (weight * value)[:, :, :factor, :factor].sum() / weight[:, :, :factor, :factor].sum(), rel=1e-6
    )
    axis = torch.arange(found.psf.shape[-1]).double() - found.psf.shape[-1] // 2
    box = {1: 0.0, 2: 0.5, 3: 2 / 3}[factor]  # variance of the box in pixels, its edge at pixels' middles where even
    assert float((found.psf[0, 0].sum(0) * axis**2).sum()) == pytest.approx((2.0**2 + box) / factor**2, rel=0.02)


def test_rings_are_linear_in_the_hosts_radius_and_its_shape_is_known() -> None:
    """An elliptical Gaussian with q = 0.6 along the diagonal: (e1, e2) = (0, 0.25)."""
    axis = np.arange(PIXELS) - (PIXELS - 1) / 2
    x, y = np.meshgrid(axis, axis)
    along, across = (x + y) / math.sqrt(2), (y - x) / math.sqrt(2)
    host = np.exp(-0.5 * (0.6 * along**2 + across**2 / 0.6) / 3**2)
    seen = torch.asinh(torch.from_numpy(1000 * host))[None, None]
    data = lens_fit.observed(torch.cat([seen, 0 * seen], 1), 0 * seen, gaussian(1.0, 9), torch.ones(1, 1).double())
    np.testing.assert_allclose(data.host[0], [0, 0.25], atol=0.03)
    radius = np.sqrt(0.6 * along**2 + across**2 / 0.6).flatten() * 2 / PIXELS
    inside = radius < lens_fit.KNOTS[-1]
    np.testing.assert_allclose(data.rings[0].sum(1), 1)
    np.testing.assert_allclose((data.rings[0].numpy() @ lens_fit.KNOTS)[inside], radius[inside], atol=0.05)


def test_search_agrees_with_match_and_finds_the_planted_lens() -> None:
    grid, psf = lens_search.templates(PIXELS), gaussian(lens_search.PSF_SIGMA[1], 13)
    place = 9 * lens_search.PLACES + 14
    sky, image = torch.ones(2, 1), lens_fit.rendered(lens_fit.lens(grid.free[place : place + 1]), psf.float(), PIXELS)
    noise = torch.from_numpy(np.random.default_rng(4).normal(size=(2, 1, PIXELS, PIXELS))).float()
    noise[0] += 5 * image / image.max()
    images, psf = torch.asinh(noise).repeat(1, 2, 1, 1), psf.float().expand(2, 1, 13, 13)
    data = lens_fit.observed(images, torch.zeros_like(noise), psf, sky)
    found = lens_search.evidence(data)
    assert int(found[0].argmax()) == place
    assert float(found[1].max()) < 12  # the best of 400 draws of chi2 / 2
    expected = lens_fit.match(image.expand(2, PIXELS, PIXELS), data)
    assert float(found[0, place]) == pytest.approx(
        float(expected.gain[0] / lens_fit.inflation(expected)[0]) / 2, rel=5e-3
    )


def test_gradient_of_the_physics_terms_by_differences() -> None:
    data = planted(truth(), noise=True)
    data = data._replace(variance=data.variance / 20)  # the linear part of the penalty, too
    free = (fit_numbers() + 0.1).clone().requires_grad_()
    stated = torch.tensor([0.4]).double().requires_grad_()

    def terms(free: Tensor, stated: Tensor) -> tuple[Tensor, ...]:
        model = lens_fit.lens(free)
        match = lens_fit.match(lens_fit.rendered(model, data.psf, PIXELS), data)
        return tuple(t.value for t in pinn_lens.physics_terms(model, stated, match, data).values())

    assert torch.autograd.gradcheck(terms, (free, stated), eps=1e-6, atol=1e-5, rtol=1e-3)


def test_mass_within_the_stated_radius_is_the_critical_one() -> None:
    """Of an isothermal lens the mean convergence within R is theta_E / R."""
    data, model = planted(truth(), noise=False), lens(*VALUES)
    match = lens_fit.match(truth()[None], data)
    for stated in (0.45, 0.5):
        term = pinn_lens.physics_terms(model, torch.tensor([stated]).double(), match, data)["mass_conservation"]
        expected = 0.5 * ((0.45 / stated - 1) / pinn_lens.MASS_SCALE) ** 2
        assert float(term.value) == pytest.approx(expected, abs=1e-3)


def test_the_gate_is_detached_and_statement_and_proposal_are_taught() -> None:
    net, given = made(), batch(4)
    found = net.explained(given)
    assert tuple(found.losses) == net.physics
    gated = torch.stack([found.losses[name].sum() for name in net.physics if name != "theta_e"]).sum()
    gated.backward(retain_graph=True)
    assert net.head.weight.grad is None
    assert net.of_fit[0].weight.grad is None
    slope = net.to_free.weight.grad
    assert slope is not None
    assert slope[:FREE].abs().sum() > 0
    assert slope[FREE:].abs().sum() == 0  # what is stated holds the proposal, not the other way round
    found.losses["theta_e"].sum().backward()
    assert (slope[FREE:].abs().sum(dim=1) > 0).all()  # added to in place


def test_surprise_is_the_normal_likelihood_of_ln_theta_e_where_known() -> None:
    net, given = made(), batch(4)
    proposal = net._proposed(given["stamps"], given["metadata"], given)
    stated = torch.exp(proposal.stated) * 0.2 * 10
    normal = torch.distributions.Normal(torch.log(stated), proposal.error)
    expected = -normal.log_prob(torch.zeros(4)) - 0.5 * math.log(2 * math.pi)
    found = net.explained(given).losses["theta_e"]
    torch.testing.assert_close(found[1::2], expected[1::2])
    assert (found[0::2] == 0).all()


def test_what_cannot_be_explained_is_counted_and_stays_finite() -> None:
    net, given = made(), batch(6)
    given["log_variance"][1, 0, 3, 3] = torch.nan
    given["log_variance"][2] = BAD_LOG_VARIANCE
    given["psf"][3] = 0
    given["psf"][4, 0, 0, 0] = torch.nan
    found = net.explained(given)
    assert found.failed.tolist() == [False, True, True, True, True, False]
    assert torch.isfinite(found.logit).all()
    for name in net.physics:
        assert torch.isfinite(found.losses[name]).all()
    assert (found.losses["lens_equation"][1:5] == 0).all()
    (found.logit.sum() + sum(v.sum() for v in found.losses.values())).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    fit = net.fitted(given["stamps"], given["metadata"], **net.beside(given))
    assert fit.defined.tolist() == (~found.failed).tolist()
    assert all(torch.isfinite(v).all() for v in fit)


def test_angles_scale_with_the_pixels() -> None:
    net, given = made().eval(), batch(3)
    one = net.fitted(given["stamps"], given["metadata"], **net.beside(given))
    twice = net.fitted(given["stamps"], given["metadata"], **net.beside(given) | {"pixel_scale": torch.full((3,), 0.4)})
    torch.testing.assert_close(twice.theta_e_arcsec, 2 * one.theta_e_arcsec)
    torch.testing.assert_close(twice.source_x_arcsec, 2 * one.source_x_arcsec)
    torch.testing.assert_close(twice.theta_e_error, one.theta_e_error)


@pytest.mark.parametrize("pixels", [16, 33])
def test_a_score_depends_on_its_own_object_alone(pixels: int) -> None:
    net, given = made().eval(), batch(4, pixels)
    with torch.inference_mode():
        whole = net.logit(given)
        alone = torch.cat([net.logit({k: v[i : i + 1] for k, v in given.items()}) for i in range(4)])
    torch.testing.assert_close(whole, alone, rtol=1e-5, atol=1e-5)


def test_every_parameter_learns_from_the_verdict() -> None:
    net = made()
    net.logit(batch(4)).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)] == []


def test_the_base_network_is_a_resnet_50_and_little_more() -> None:
    with torch.device("meta"):
        net = made("base")
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(23.5e6, rel=0.02)


def test_moments_and_harmonics_say_where_things_are() -> None:
    image = torch.zeros(1, 1, 25, 25)
    image[0, 0, 12, 18] = 25**2  # at (0.5, 0)
    torch.testing.assert_close(pinn_lens.moments(image)[0], torch.tensor([1, 0.5, 0, 0.25, 0.25, 0]))
    ring = pinn_lens.harmonics(image[:, 0]).reshape(5, pinn_lens.RINGS)
    assert set(ring[0].nonzero().flatten().tolist()) <= {4, 5}
    for wave, sign in enumerate((1, 1, 0, 1, 0)):  # cos 0, cos, sin, cos 2, sin 2
        torch.testing.assert_close(ring[wave], sign * ring[0], atol=1e-4, rtol=0)


def test_plausible_by_each_part_of_its_rule() -> None:
    good: dict[str, float] = dict.fromkeys(pinn_lens.LensFit._fields, 0.1) | {
        "theta_e_arcsec": 1.2,
        "chi2_gain": 60.0,
        "defined": True,
    }
    faults: list[dict[str, float]] = [
        {}, {"theta_e_arcsec": 6.0}, {"e1": 0.45}, {"gamma2": 0.25}, {"source_x_arcsec": 1.3},
        {"source_size_arcsec": 1.5}, {"chi2_gain": 10.0}, {"defined": False},
    ]  # fmt: skip
    columns = {name: torch.tensor([(good | fault)[name] for fault in faults]) for name in good}
    assert pinn_lens.plausible(pinn_lens.LensFit(**columns)).tolist() == [True] + [False] * (len(faults) - 1)


def test_a_network_that_diverged_says_so_in_its_numbers() -> None:
    """The training names the objects whose loss is not finite: no rendering may stop it before."""
    found = diverged().explained(batch(3))
    assert not torch.isfinite(found.logit).any()
    assert found.failed.all()
