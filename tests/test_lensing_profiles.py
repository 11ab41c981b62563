"""Profiles (oracles: lenstronomy, scipy's incomplete gamma function, astropy's Sersic2D, numerical integrals)."""

import math

import numpy as np
import pytest
import torch
from astropy.modeling.models import Sersic2D
from lenstronomy.LensModel.Profiles.shear import Shear
from lenstronomy.LensModel.Profiles.sie import SIE
from lenstronomy.LightModel.Profiles.sersic import SersicElliptic
from scipy.special import gammaincinv

from lensml.lensing import profiles

SHAPES = [(0.2, -0.1), (-0.3, 0.3), (0.05, 0.4), (1e-4, 0.0)]


def _t(value: object) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


@pytest.fixture
def xy() -> tuple[np.ndarray, np.ndarray]:
    x, y = np.random.default_rng(1).uniform(-3, 3, (2, 200))
    return x, y


@pytest.mark.parametrize(("e1", "e2"), SHAPES)
def test_sie_deflects_as_lenstronomy(xy, e1: float, e2: float) -> None:
    ours = profiles.deflection_sie(*map(_t, xy), _t(1.3), _t(e1), _t(e2))
    for mine, theirs in zip(ours, SIE().derivatives(*xy, 1.3, e1, e2), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-8)


def test_a_round_lens_deflects_by_its_einstein_radius(xy) -> None:
    ax, ay = profiles.deflection_sie(*map(_t, xy), _t(1.3), _t(0.0), _t(0.0))
    np.testing.assert_allclose(torch.hypot(ax, ay), 1.3, atol=1e-8)


@pytest.mark.parametrize(("e1", "e2"), SHAPES)
def test_convergence_has_the_mean_of_one_within_the_einstein_radius(e1: float, e2: float) -> None:
    """The divergence of the deflection over 2 pi theta_E^2, by Gauss's theorem, is the mass within the ellipse."""
    angle = _t(np.arange(4000) * 2 * np.pi / 4000)
    q = profiles.axis_ratio(_t(e1), _t(e2))
    u, v = torch.cos(angle) / torch.sqrt(q), torch.sin(angle) * torch.sqrt(q)
    x, y = profiles.aligned(u, v, _t(e1), -_t(e2))
    ax, ay = profiles.deflection_sie(x, y, _t(1.0), _t(e1), _t(e2))
    flux = (ax * (torch.roll(y, -1) - torch.roll(y, 1)) - ay * (torch.roll(x, -1) - torch.roll(x, 1))).sum() / 2
    assert float(flux) / (2 * math.pi) == pytest.approx(1.0, rel=1e-5)


def test_shear_deflects_as_lenstronomy(xy) -> None:
    ours = profiles.deflection_shear(*map(_t, xy), _t(0.05), _t(-0.02))
    np.testing.assert_allclose(np.stack(ours), np.stack(Shear().derivatives(*xy, 0.05, -0.02)), atol=1e-14)


def test_deflection_is_differentiable_in_every_parameter() -> None:
    def deflect(theta_e, e1, e2):
        return torch.stack(profiles.deflection_sie(_t([0.3, -1.2]), _t([0.9, 0.4]), theta_e, e1, e2))

    values = [_t(v).requires_grad_() for v in (1.2, 0.15, -0.1)]
    assert torch.autograd.gradcheck(deflect, values)


@pytest.mark.parametrize("n", [0.5, 0.7, 1.0, 2.5, 4.0, 6.0, 10.0])
def test_half_of_the_light_lies_within_the_effective_radius(n: float) -> None:
    assert float(profiles.sersic_b(_t(n))) == pytest.approx(gammaincinv(2 * n, 0.5), rel=3e-5 if n >= 1 else 1e-3)


@pytest.mark.parametrize(("n", "e1", "e2"), [(1.0, 0.2, 0.1), (4.0, -0.3, 0.05), (2.0, 0.0, 0.0)])
def test_sersic_is_astropys(xy, n: float, e1: float, e2: float) -> None:
    """astropy's radius is the major axis, ours the circle of equal area."""
    e = math.hypot(e1, e2)
    q = (1 - e) / (1 + e)
    model = Sersic2D(1.0, 0.8 / math.sqrt(q), n, 0, 0, ellip=1 - q, theta=math.atan2(e2, e1) / 2)
    ours = profiles.sersic(*map(_t, xy), _t(0.8), _t(n), _t(e1), _t(e2))
    np.testing.assert_allclose(ours, model(*xy), rtol=1e-3)


def test_sersic_ellipse_is_lenstronomys(xy) -> None:
    """Its b_n is 1.9992 n - 0.3271, so the brightness agrees at the effective radius and the shape everywhere."""
    theirs = SersicElliptic().function(*xy, amp=1.0, R_sersic=0.8, n_sersic=4.0, e1=-0.3, e2=0.05, max_R_frac=1e9)
    b = float(profiles.sersic_b(_t(4.0)))
    ours = profiles.sersic(*map(_t, xy), _t(0.8), _t(4.0), _t(-0.3), _t(0.05))
    np.testing.assert_allclose(torch.log(ours) / b, np.log(theirs) / (1.9992 * 4 - 0.3271), rtol=1e-6)


@pytest.mark.parametrize("n", [0.6, 1.0, 4.0])
def test_sersic_flux_is_the_integral_of_its_brightness(n: float) -> None:
    t = _t(np.linspace(-16, 9, 200001))  # ln radius
    r = torch.exp(t)
    light = profiles.sersic(r, _t(0.0), _t(0.7), _t(n), _t(0.0), _t(0.0))
    integral = torch.trapezoid(2 * math.pi * r**2 * light, t)
    assert float(profiles.sersic_flux(_t(0.7), _t(n))) == pytest.approx(float(integral), rel=2e-5)


@pytest.mark.parametrize("wave", [(0.0, 0.0, 0.0), (7.0, 0.9, 0.0), (2.0, 2.5, -4.0), (1.0, 5.0, 2.0)])
def test_ring_flux_does_not_depend_on_its_arms(wave: tuple[float, float, float]) -> None:
    axis = _t((np.arange(800) - 399.5) * 0.01)
    arms, contrast, winding = map(_t, wave)
    light = profiles.ring(
        axis[None], axis[:, None], _t(1.2), _t(0.3), _t(0.2), _t(-0.1), arms, contrast, winding, _t(0.4)
    )
    assert float(light.sum()) * 1e-4 == pytest.approx(float(profiles.ring_flux(_t(1.2), _t(0.3))), rel=1e-4)


@pytest.mark.parametrize("beta", [2.5, 3.5, math.inf])
def test_psf_has_unit_sum_its_width_and_its_centre(beta: float) -> None:
    stamp = profiles.moffat(201, _t(0.05), _t(0.7), beta)
    assert float(stamp.sum()) == pytest.approx(1.0)
    assert divmod(int(stamp.argmax()), 201) == (100, 100)
    assert float(stamp[100, 107] / stamp[100, 100]) == pytest.approx(0.5)  # 7 x 0.05 = half of 0.7


def test_an_even_psf_stamp_is_refused() -> None:
    with pytest.raises(ValueError, match="pixels must be odd, got 20"):
        profiles.moffat(20, _t(0.05), _t(0.7), 3.0)
