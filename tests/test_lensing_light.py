"""Brightness (oracles: scipy's incomplete gamma function and interpolation, astropy, lenstronomy, integrals)."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from astropy.modeling.models import Sersic2D
from lenstronomy.LightModel.Profiles.sersic import SersicElliptic
from scipy.ndimage import map_coordinates
from scipy.special import gamma, gammaincinv

from lensml.lensing import light, scene
from lensml.lensing.scene import Pixels, Point, Ring, Scene, Sersic

SERSIC = Sersic((1.0,), 0.7, 3.0, 0.2, -0.1, 0.13, -0.21)
RING = Ring((1.0,), 1.1, 0.25, 0.2, -0.1, 0.13, -0.21, 3.0, 1.5, 2.0, 0.4)
IMAGE = np.random.default_rng(2).random((5, 7)) + 0.1
PIXELS = Pixels((1.0,), IMAGE, 0.3, 0.6, 0.13, -0.21)


def table(profile: Any, dtype: torch.dtype = torch.float64) -> Any:
    return scene.collate([Scene((), (profile,), ())], dtype).lens_light[0]


def bright(profile: Any, x: Any, y: Any, dtype: torch.dtype = torch.float64) -> np.ndarray:
    x, y = (torch.as_tensor(np.asarray(v)[None], dtype=dtype) for v in np.broadcast_arrays(x, y))
    return light.brightness(x, y, table(profile, dtype).profile)[0].numpy()


def plane(half: float, step: float) -> tuple[np.ndarray, np.ndarray]:
    axis = np.arange(-half + step / 2, half, step)
    return axis[None, :], axis[:, None]


def test_half_of_the_light_lies_within_the_effective_radius() -> None:
    n = np.linspace(*light.N_SERSIC, 999)
    np.testing.assert_allclose(light.sersic_b(torch.from_numpy(n)), gammaincinv(2 * n, 0.5), rtol=1e-13)


@pytest.mark.parametrize("n", [0.3, 0.5, 1.0, 4.0, 10.0])
def test_sersic_flux_is_the_closed_form(n: float) -> None:
    """Of a disc 2 pi (r / b)^2 e^b, in general with the gamma function."""
    b = gammaincinv(2 * n, 0.5)
    total = 2 * math.pi * 0.7**2 * n * math.exp(b) * b ** (-2 * n) * gamma(2 * n)
    ours = light.sersic_flux(torch.tensor(0.7, dtype=torch.float64), torch.tensor(n, dtype=torch.float64))
    assert float(ours) == pytest.approx(total, rel=1e-11)


@pytest.mark.parametrize("n", [0.3, 0.6, 1.0, 4.0, 10.0])
def test_sersic_of_unit_flux_integrates_to_one(n: float) -> None:
    t = np.linspace(-40, 16, 200001)  # ln radius
    r = np.exp(t)
    round_one = Sersic((1.0,), 0.7, n, 0.0, 0.0, 0.0, 0.0)
    assert np.trapezoid(2 * math.pi * r**2 * bright(round_one, r, 0.0), t) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(("n", "e1", "e2"), [(1.0, 0.2, 0.1), (4.0, -0.3, 0.05), (2.0, 0.0, 0.0), (1.0, 0.0, -0.8)])
def test_sersic_is_astropys(n: float, e1: float, e2: float) -> None:
    """astropy's radius is the major axis, ours the circle of equal area."""
    e = math.hypot(e1, e2)
    q = (1 - e) / (1 + e)
    x, y = np.random.default_rng(1).uniform(-3, 3, (2, 200))
    model = Sersic2D(1.0, 0.8 / math.sqrt(q), n, 0.1, -0.2, ellip=1 - q, theta=math.atan2(e2, e1) / 2)
    ours = bright(Sersic((1.0,), 0.8, n, e1, e2, 0.1, -0.2), x, y)
    total = light.sersic_flux(torch.tensor(0.8, dtype=torch.float64), torch.tensor(n, dtype=torch.float64))
    np.testing.assert_allclose(ours * float(total), model(x, y), rtol=1e-9)


def test_sersic_ellipse_is_lenstronomys() -> None:
    """Its b_n is 1.9992 n - 0.3271, so that only the logarithms are in proportion."""
    x, y = np.random.default_rng(1).uniform(-3, 3, (2, 200))
    theirs = SersicElliptic().function(x, y, amp=1.0, R_sersic=0.8, n_sersic=4.0, e1=-0.3, e2=0.05, max_R_frac=1e9)
    total = light.sersic_flux(torch.tensor(0.8, dtype=torch.float64), torch.tensor(4.0, dtype=torch.float64))
    ours = np.log(bright(Sersic((1.0,), 0.8, 4.0, -0.3, 0.05, 0.0, 0.0), x, y) * float(total))
    np.testing.assert_allclose(ours / gammaincinv(8.0, 0.5), np.log(theirs) / (1.9992 * 4 - 0.3271), rtol=1e-6)


@pytest.mark.parametrize("wave", [(0.0, 0.0, 0.0), (7.0, 0.9, 0.0), (2.0, 2.5, -4.0), (1.0, 5.0, 2.0)])
def test_a_ring_of_unit_flux_integrates_to_one(wave: tuple[float, float, float]) -> None:
    arms, contrast, winding = wave
    ours = bright(RING._replace(arms=arms, contrast=contrast, winding=winding), *plane(4, 0.01))
    assert ours.sum() * 1e-4 == pytest.approx(1, rel=1e-4)


def test_a_rings_crest_is_its_ellipse_and_its_arms_count_from_the_major_axis() -> None:
    q, angle = 0.5, 0.7
    e = (1 - q) / (1 + q)
    ring = Ring(
        (1.0,), 1.0, 0.05, e * math.cos(2 * angle), e * math.sin(2 * angle), 0.0, 0.0, 1.0, 2.0, 0.0, 0.0
    )  # fmt: skip
    along, across = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
    r = np.arange(0.3, 2, 1e-4)
    for direction, crest in ((along, 1 / math.sqrt(q)), (across, math.sqrt(q))):
        assert r[bright(ring, *np.outer(direction, r)).argmax()] == pytest.approx(crest, abs=1e-3)
    ends = bright(ring, *np.outer(along, [1 / math.sqrt(q), -1 / math.sqrt(q)]))
    assert ends[0] / ends[1] == pytest.approx(math.exp(4), rel=1e-6)


def test_pixels_are_scipys_interpolation_turned_and_moved() -> None:
    x, y = np.random.default_rng(4).uniform(-1.5, 1.5, (2, 400))
    p = PIXELS
    u, v = x - p.center_x, y - p.center_y
    u, v = math.cos(p.angle) * u + math.sin(p.angle) * v, math.cos(p.angle) * v - math.sin(p.angle) * u
    padded = np.pad(IMAGE, 1)
    theirs = map_coordinates(padded, [v / 0.3 + 3, u / 0.3 + 4], order=1) / (IMAGE.sum() * 0.3**2)
    np.testing.assert_allclose(bright(p, x, y), theirs, atol=1e-12)
    assert (theirs > 0).any()
    assert (theirs == 0).any()


def test_pixels_of_unit_flux_integrate_to_one() -> None:
    assert bright(PIXELS, *plane(2, 0.01)).sum() * 1e-4 == pytest.approx(1, rel=1e-4)


def test_pixels_of_a_sersic_are_that_sersic() -> None:
    disc = Sersic((1.0,), 0.5, 1.0, 0.2, 0.1, 0.0, 0.0)
    axis = (np.arange(161) - 80) * 0.05
    image = bright(disc, axis[None, :], axis[:, None])
    x, y = np.random.default_rng(5).uniform(0.3, 1.5, (2, 200))
    np.testing.assert_allclose(bright(Pixels((1.0,), image, 0.05, 0.0, 0.0, 0.0), x, y), bright(disc, x, y), rtol=5e-3)


@pytest.mark.parametrize("profile", [SERSIC, RING, PIXELS], ids=["sersic", "ring", "pixels"])
def test_single_precision_is_near_double(profile: Any) -> None:
    exact, single = (bright(profile, *plane(2, 0.05), dtype) for dtype in (torch.float64, torch.float32))
    np.testing.assert_allclose(single, exact, atol=3e-6 * exact.max())


@pytest.mark.parametrize(
    "profile",
    [SERSIC, SERSIC._replace(e1=0.0, e2=0.0), RING, PIXELS],
    ids=["sersic", "round", "ring", "pixels"],
)
def test_every_parameter_and_place_has_its_gradient(profile: Any) -> None:
    fields = table(profile).profile
    x = torch.tensor([[0.3, -0.4, 0.05]], dtype=torch.float64)
    y = torch.tensor([[0.2, 0.5, -0.6]], dtype=torch.float64)
    values = [v.clone().requires_grad_() for v in (x, y, *fields[1:])]
    assert torch.autograd.gradcheck(lambda x, y, *v: light.brightness(x, y, type(fields)(fields[0], *v)), values)


def test_gradients_are_finite_in_the_very_centre() -> None:
    for profile in (SERSIC, SERSIC._replace(n_sersic=6.0), RING._replace(e1=0.0, e2=0.0)):
        fields = type(profile)(*(v.requires_grad_() for v in table(profile, torch.float32).profile))
        found = light.brightness(fields.center_x.detach()[None], fields.center_y.detach()[None], fields)
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(found.sum(), fields[1:]))


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (SERSIC._replace(r_sersic=0.0), r"r_sersic must be larger than 0 arcsec, got 0 \(Sersic of object 1\)"),
        (SERSIC._replace(n_sersic=11.0), r"n_sersic must lie between 0.3 and 10, got 11 \(Sersic of object 1\)"),
        (SERSIC._replace(e1=0.8, e2=0.6), r"\(e1, e2\) must have \|e\| = .* below 1, got \(0.8, 0.6\)"),
        (SERSIC._replace(center_x=math.nan), r"center_x must be a finite number, got nan \(Sersic of object 1\)"),
        (SERSIC._replace(flux=(math.inf,)), r"flux must be a finite number, got inf"),
        (RING._replace(width=-0.1), r"width must be larger than 0 arcsec, got -0.1 \(Ring of object 1\)"),
        (PIXELS._replace(image=0 * IMAGE), r"image must have a positive sum, got a sum of 0 \(Pixels of object 1\)"),
        (PIXELS._replace(pixel_scale=0.0), r"pixel_scale must be larger than 0 arcsec, got 0"),
        (Point((1.0,), math.nan, 0.0), r"center_x must be a finite number, got nan \(Point of object 1\)"),
    ],
)
def test_what_cannot_shine_is_refused(profile: Any, message: str) -> None:
    good = {Sersic: SERSIC, Ring: RING, Pixels: PIXELS, Point: Point((1.0,), 0.0, 0.0)}[type(profile)]
    tables = scene.collate([Scene((), (good,), ()), Scene((), (profile,), ())]).lens_light
    with pytest.raises(ValueError, match=message):
        light.check(tables)
    light.check(scene.collate([Scene((), (good,), ())]).lens_light)
