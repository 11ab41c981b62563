"""Physics terms (oracles: numpy loops, lenstronomy, astropy's cosmology, closed forms, planted faults)."""

import math

import numpy as np
import pytest
import torch
from astropy import constants
from astropy import units as u
from astropy.cosmology import FlatLambdaCDM
from lenstronomy.LensModel.Profiles.sie import SIE

from lensml.lensing import consistency
from lensml.lensing.consistency import Ellipse

COSMOLOGY = FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0)
SHAPE = (6, 3, 9, 9)  # object, band, y, x


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def scene(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    truth, sigma = rng.normal(size=SHAPE), rng.uniform(0.5, 2, SHAPE)
    flux = truth + sigma * rng.normal(size=SHAPE)
    flux, variance, rendering = (torch.from_numpy(a) for a in (flux, sigma**2, truth))
    variance[:, 1, 2:4, :] = math.inf
    return flux, variance, rendering


def sie(x: torch.Tensor, y: torch.Tensor, theta_e: torch.Tensor, e1: torch.Tensor, e2: torch.Tensor) -> torch.Tensor:
    """Convergence about the origin in lenstronomy's conventions: theta_E / 2 over the elliptical radius."""
    e = torch.sqrt(e1**2 + e2**2)
    q, angle = (1 - e) / (1 + e), torch.atan2(e2, e1) / 2
    v, w = torch.cos(angle) * x + torch.sin(angle) * y, torch.cos(angle) * y - torch.sin(angle) * x
    return theta_e / 2 / torch.sqrt(q * v**2 + w**2 / q)


def test_chi2_is_the_sum_over_good_pixels_per_degree_of_freedom() -> None:
    flux, variance, rendering = scene()
    flux[:, 1, 2, 2] = math.nan  # a bad pixel may hold anything
    term = consistency.chi2(flux, variance, rendering, parameters=12)
    good = np.isfinite(variance.numpy())
    for i, value in enumerate(term.value.detach().numpy()):
        pulls = ((flux - rendering.detach()) / variance.sqrt()).numpy()[i][good[i]]
        assert value == pytest.approx((pulls**2).sum() / (good[i].sum() - 12), rel=1e-12)
    assert term.defined.all()
    assert float(term.value.mean()) == pytest.approx(1, abs=0.2)


def test_bad_pixels_have_no_gradient_and_good_ones_the_right_one() -> None:
    flux, variance, rendering = scene()
    flux[:, 1, 2, 2] = math.nan
    consistency.chi2(flux, variance, rendering.requires_grad_(), parameters=0).value.sum().backward()
    expected = torch.where(torch.isinf(variance), 0.0, 2 * (rendering - flux) / variance / (3 * 81 - 18)).detach()
    torch.testing.assert_close(rendering.grad, expected)


@pytest.mark.parametrize("fault", ["flux", "rendering", "variance", "zero", "negative", "nothing", "parameters"])
def test_a_failure_is_undefined_and_never_zero_and_spoils_no_neighbour(fault: str) -> None:
    flux, variance, rendering = scene()
    parameters = 3 * 81 - 18 if fault == "parameters" else 5
    spoilt = rendering.detach().clone()
    values = {"flux": (flux, math.nan), "rendering": (spoilt, math.nan), "variance": (variance, math.nan)}
    values |= {"zero": (variance, 0.0), "negative": (variance, -1.0)}
    if fault in values:
        array, value = values[fault]
        array[2, 0, 4, 4] = value
    if fault == "nothing":
        variance[2] = math.inf
    spoilt.requires_grad_()
    term = consistency.chi2(flux, variance, spoilt, parameters)
    bad = np.arange(6) == 2 if fault != "parameters" else np.ones(6, dtype=bool)
    np.testing.assert_array_equal(~term.defined, bad)
    np.testing.assert_array_equal(torch.isnan(term.value), bad)
    term.value[term.defined].sum().backward()
    assert torch.isfinite(spoilt.grad).all()


def test_gain_is_that_of_the_likelihood() -> None:
    flux, variance, rendering = scene()
    empty = torch.zeros_like(flux)
    gain = consistency.chi2_gain(flux, variance, rendering, empty)
    normal = torch.distributions.Normal(0.0, variance.clamp(max=1e9).sqrt())
    good = torch.isfinite(variance)
    ln = torch.where(good, normal.log_prob(flux - rendering) - normal.log_prob(flux), 0.0).sum(dim=(1, 2, 3))
    torch.testing.assert_close(gain.value, 2 * ln)
    torch.testing.assert_close(consistency.chi2_gain(flux, variance, empty, rendering).value, -gain.value)


def test_huber_is_quadratic_then_linear_and_smooth() -> None:
    distance = t(0.0, 0.5, 2.0, 2.0001, 5.0).requires_grad_()
    value = consistency.huber(distance**2, 2.0)
    reference = torch.nn.functional.huber_loss(
        distance, torch.zeros(5, dtype=torch.float64), reduction="none", delta=2.0
    )
    torch.testing.assert_close(value, reference)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), distance)[0], t(0.0, 0.5, 2.0, 2.0, 2.0))


def test_negative_convergence_costs_and_positive_does_not() -> None:
    maps = torch.ones(3, 4, 4, dtype=torch.float64)
    maps[1, 0, 0] = -0.5
    maps[2, 1, 1] = math.nan
    term = consistency.positive_mass(maps.requires_grad_(), scale=0.1)
    torch.testing.assert_close(term.value, t(0.0, 25 / 32, math.nan), equal_nan=True)
    np.testing.assert_array_equal(term.defined, [True, True, False])
    term.value[term.defined].sum().backward()
    assert float(maps.grad[1, 0, 0]) < 0
    assert torch.count_nonzero(maps.grad) == 1


@pytest.mark.parametrize(("e1", "e2"), [(0.0, 0.0), (0.2, -0.1), (-0.3, 0.25)])
def test_the_mean_convergence_within_an_isothermal_lens_is_one(e1: float, e2: float) -> None:
    x, y = np.random.default_rng(2).uniform(-2, 2, (2, 50))
    mine = sie(torch.from_numpy(x), torch.from_numpy(y), t(1.3), t(e1 + 1e-9), t(e2))
    hessian = SIE().hessian(x, y, 1.3, e1, e2)
    np.testing.assert_allclose(mine, (hessian[0] + hessian[3]) / 2, rtol=1e-4)  # lenstronomy softens the centre
    aperture = Ellipse(t(1.3), t(e1), t(e2), t(0.0), t(0.0))
    mean = consistency.mean_within(lambda a, b: sie(a, b, t(1.3), t(e1 + 1e-9), t(e2)), aperture, 8, 32)
    assert float(mean) == pytest.approx(1, abs=1e-7)
    assert float(consistency.critical_mass(mean, 0.01, 3.0).value) < 1e-6


def test_the_mean_within_is_that_of_many_points() -> None:
    aperture = Ellipse(t(1.4), t(0.2), t(0.15), t(0.3), t(-0.2))

    def field(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.exp(-((x - 0.1) ** 2) - x * y / 3)

    axis = torch.linspace(-3, 3, 1201, dtype=torch.float64)
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    inside = sie(x - 0.3, y + 0.2, t(1.0), aperture.e1, aperture.e2) > 0.5 / 1.4
    assert float(consistency.mean_within(field, aperture, 12, 32)) == pytest.approx(
        float(field(x, y)[inside].mean()), rel=1e-3
    )


def test_a_wrong_einstein_radius_costs_what_its_scale_says_and_can_be_descended() -> None:
    radius = t(1.2, 1.3, 1.43).requires_grad_()
    zero = torch.zeros(3, dtype=torch.float64)
    mean = consistency.mean_within(
        lambda x, y: 1.3 / 2 / torch.sqrt(x**2 + y**2), Ellipse(radius, zero, zero, zero, zero), 8, 16
    )
    torch.testing.assert_close(mean, 1.3 / radius)
    term = consistency.critical_mass(mean, 0.05, 10.0)
    torch.testing.assert_close(term.value, ((1.3 / radius - 1) / 0.05) ** 2 / 2)
    slope = torch.autograd.grad(term.value.sum(), radius)[0]
    assert slope[0] < 0 < slope[2]
    assert not consistency.critical_mass(t(math.nan), 0.05, 3.0).defined.any()


def test_distances_are_astropys() -> None:
    lens, source = t(0.1, 0.5, 1.0, 2.0), t(0.2, 2.0, 6.0, 9.0)
    mine = consistency.distance_ratio(lens, source)
    near, far = (COSMOLOGY.comoving_distance(z.numpy()).value for z in (lens, source))
    np.testing.assert_allclose(mine, (far - near) / far, rtol=1e-8)


def test_einstein_radius_and_mass_are_those_of_the_physical_constants() -> None:
    ratio = float(consistency.distance_ratio(t(0.3), t(1.5)))
    expected = (4 * np.pi * (220 * u.km / u.s / constants.c) ** 2 * ratio).to_value(
        "", u.dimensionless_angles()
    ) * u.rad
    theta_e = consistency.isothermal_theta_e(t(220.0), t(ratio))
    assert float(theta_e) == pytest.approx(expected.to_value(u.arcsec), rel=1e-9)
    lens, source = (COSMOLOGY.angular_diameter_distance(z) for z in (0.3, 1.5))
    between = source - lens * 1.3 / 2.5  # of a flat universe
    critical = constants.c**2 / (4 * np.pi * constants.G) * source / (lens * between)
    mass = np.pi * (1.1 * u.arcsec.to(u.rad) * lens) ** 2 * critical
    mine = consistency.einstein_mass(t(1.1), t(0.3), t(1.5))
    assert float(mine) == pytest.approx(mass.to_value(u.M_sun), rel=1e-4)


def test_theta_e_agrees_with_its_velocity_dispersion_or_pays() -> None:
    z_lens, z_source, sigma_v = (
        t(0.3, 0.3, 0.3, 0.3, -1.0),
        t(1.5, 1.5, 0.2, 1.5, 1.5),
        t(220.0, 220.0, 220.0, 0.0, 220.0),
    )
    right = float(consistency.isothermal_theta_e(t(220.0), consistency.distance_ratio(t(0.3), t(1.5))))
    theta_e = (right * t(1.0, math.exp(0.2), 1.0, 1.0, 1.0)).requires_grad_()
    term = consistency.isothermal(theta_e, sigma_v, z_lens, z_source, scale=0.1, threshold=5.0)
    np.testing.assert_array_equal(term.defined, [True, True, False, False, False])
    torch.testing.assert_close(term.value, t(0.0, 2.0, math.nan, math.nan, math.nan), equal_nan=True)
    term.value[term.defined].sum().backward()
    torch.testing.assert_close(theta_e.grad[1], 2 / 0.1 / theta_e[1].detach())
    assert torch.equal(theta_e.grad[2:], torch.zeros(3, dtype=torch.float64))


def test_mass_from_light_is_free_within_bounds() -> None:
    mass, light = t(1e11, 1e11, 1e11, 1e11, -1.0), t(3e10, 1e11, 5e9, 0.0, 1e10)
    term = consistency.mass_to_light(mass.requires_grad_(), light, low=2.0, high=10.0, scale=math.log(2), threshold=3.0)
    torch.testing.assert_close(term.value, t(0.0, 0.5, 0.5, math.nan, math.nan), equal_nan=True)
    term.value[term.defined].sum().backward()
    assert mass.grad[0] == 0
    assert mass.grad[1] < 0 < mass.grad[2]


def test_shear_and_shape_are_penalised_by_their_distance_whatever_the_angle() -> None:
    angle = torch.linspace(0, 6, 7, dtype=torch.float64)
    term = consistency.shear_prior(0.1 * torch.cos(angle), 0.1 * torch.sin(angle), scale=0.05, threshold=5.0)
    torch.testing.assert_close(term.value, torch.full((7,), 2.0, dtype=torch.float64))
    assert float(consistency.shear_prior(t(1.0), t(0.0), 0.05, 3.0).value) == pytest.approx(3 * 20 - 4.5)
    light = (t(0.0, 0.3), t(0.0, 0.0))
    turned = consistency.mass_follows_light((t(0.02, -0.3), t(0.0, math.nan)), light, scale=0.1, threshold=9.0)
    np.testing.assert_array_equal(turned.defined, [True, False])
    assert float(turned.value[0]) == pytest.approx(0.02)


def test_every_term_has_the_gradient_of_finite_differences() -> None:
    def terms(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        def lens(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return sie(x, y, a[:, None], b[:, None], c[:, None])

        zero = torch.zeros_like(a)
        return torch.stack(
            [
                consistency.critical_mass(
                    consistency.mean_within(lens, Ellipse(a, zero, b, c, zero), 8, 16), 0.1, 3.0
                ).value,
                consistency.isothermal(a, 200 * a, b + 0.3, a + c + 0.5, 0.1, 2.0).value,
                consistency.mass_to_light(a, 1 - b, 2.0, 5.0, 0.3, 2.0).value,
                consistency.shear_prior(b, c, 0.1, 2.0).value,
                consistency.mass_follows_light((a - 1, b), (c, b**2), 0.1, 2.0).value,
                consistency.positive_mass(torch.stack([b - a, a, c - a], dim=1), 0.2).value,
            ]
        )

    arguments = [t(1.1, 1.4).requires_grad_(), t(0.1, -0.07).requires_grad_(), t(0.05, 0.12).requires_grad_()]
    assert torch.autograd.gradcheck(terms, arguments)
