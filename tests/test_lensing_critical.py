"""Critical curves, Einstein radii, images (oracles: closed forms, lenstronomy's hessian by pixels, and its rays)."""

import math

import numpy as np
import pytest
import torch
from lenstronomy.LensModel.lens_model import LensModel

from lensml.lensing import critical, mass
from lensml.lensing.scene import Epl, PointMass, Scene, Shear, Sie, Table, collate


def tables(*profiles) -> tuple[Table, ...]:
    return collate([Scene(profiles, (), ())], torch.float64).mass


def source_plane(lens: tuple[Table, ...], x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    alpha = mass.deflection(lens, torch.from_numpy(x)[None], torch.from_numpy(y)[None], 1)
    return x - alpha[0][0].numpy(), y - alpha[1][0].numpy()


def ellipticity(q: float, angle: float = 0.4) -> tuple[float, float]:
    e = (1 - q) / (1 + q)
    return e * math.cos(2 * angle), e * math.sin(2 * angle)


def test_a_contour_of_a_cone_is_its_circle() -> None:
    axis = np.linspace(-2, 2, 101)
    (curve,) = critical.contours(np.hypot(axis, axis[:, None] - 0.3), axis, axis, 1.2)
    np.testing.assert_allclose(np.hypot(curve[:, 0], curve[:, 1] - 0.3), 1.2, atol=1e-3)
    np.testing.assert_array_equal(curve[0], curve[-1])


def test_critical_curves_of_any_field_are_refined() -> None:
    """1 - 1 / r, as of an SIS, on few pixels and infinite at one of them."""

    def field(x, y):
        with np.errstate(divide="ignore"):
            return 1 - 1 / np.hypot(x - 0.2, y)

    (curve,) = critical.critical_curves(field, 2.0, 21, 0.2, 0.0)
    np.testing.assert_allclose(np.hypot(curve[:, 0] - 0.2, curve[:, 1]), 1.0, atol=1e-10)


def test_a_curve_that_leaves_the_window_is_open() -> None:
    curves = critical.critical_curves(lambda x, y: x - y + 0.1, 1.0, 11)
    assert len(curves) == 1
    assert not np.array_equal(curves[0][0], curves[0][-1])


@pytest.mark.parametrize("theta_e", [0.3, 1.3, 3.0])
@pytest.mark.parametrize("q", [1.0, 0.6, 0.25, 0.1])
def test_theta_e_of_an_isothermal_lens_is_recovered(q: float, theta_e: float) -> None:
    found = critical.einstein_radius(tables(Sie(theta_e, *ellipticity(q), 0.3, -0.4, 0.0)))
    assert found == pytest.approx(theta_e, rel=3e-4)


@pytest.mark.parametrize("gamma", [1.2, 1.6, 2.4, 2.8])
def test_theta_e_of_a_round_power_law_and_a_point_mass_is_recovered(gamma: float) -> None:
    assert critical.einstein_radius(tables(Epl(0.8, gamma, 0.0, 0.0, 0.3, -0.4, 0.0))) == pytest.approx(0.8, rel=1e-4)
    assert critical.einstein_radius(tables(PointMass(gamma, 0.3, -0.4))) == pytest.approx(gamma, rel=1e-4)


def test_theta_e_of_a_cored_round_lens_is_the_closed_form() -> None:
    """The mean convergence within r is theta_e (sqrt(r^2 + s^2) - s) / r^2 = 1 at r^2 = theta_e^2 - 2 s theta_e."""
    found = critical.einstein_radius(tables(Sie(1.0, 0.0, 0.0, 0.0, 0.0, 0.2)))
    assert found == pytest.approx(math.sqrt(1 - 2 * 0.2), rel=1e-4)


@pytest.mark.parametrize(("q", "gamma", "shear"), [(0.3, 2.3, 0.0), (0.7, 1.8, 0.2), (0.5, 2.0, 0.3)])
def test_a_flat_and_sheared_lens_has_the_area_of_lenstronomys_pixels(q: float, gamma: float, shear: float) -> None:
    e1, e2 = ellipticity(q)
    found = critical.einstein_radius(tables(Epl(1.0, gamma, e1, e2, 0.0, 0.0, 0.0), Shear(shear, 0.1, 0.0, 0.0)))
    axis = np.linspace(-2.5, 2.5, 700)
    x, y = (v.ravel() for v in np.meshgrid(axis, axis))
    given = [
        {"theta_E": 1.0, "gamma": gamma, "e1": e1, "e2": e2, "center_x": 0.0, "center_y": 0.0},
        {"gamma1": shear, "gamma2": 0.1},
    ]
    xx, xy, _, yy = LensModel(["EPL", "SHEAR"]).hessian(x, y, given)
    within = 1 - (xx + yy) / 2 - np.hypot((xx - yy) / 2, xy) < 0
    assert found == pytest.approx(math.sqrt(within.sum() * (axis[1] - axis[0]) ** 2 / math.pi), rel=1e-3)


def test_what_is_not_critical_has_no_einstein_radius() -> None:
    flat = Sie(1.0, 0.0, 0.0, 0.0, 0.0, 5.0)
    for lens in [(), (Shear(0.1, 0.0, 0.0, 0.0),), (Sie(0.0, 0.1, 0.0, 0.0, 0.0, 0.0),), (flat,)]:
        assert critical.einstein_radius(tables(*lens)) == 0


def test_the_caustic_of_a_sheared_sis_has_its_closed_cusps() -> None:
    """2 theta_e gamma / (1 + gamma) along the shear, 2 theta_e gamma / (1 - gamma) across."""
    lens = tables(Sie(1.0, 0.0, 0.0, 0.0, 0.0, 0.0), Shear(0.1, 0.0, 0.0, 0.0))
    curves = critical.critical_curves(critical.determinant(lens), 2.0, 401)
    (caustic,) = critical.caustics(lens, curves)
    np.testing.assert_allclose(np.abs(caustic).max(axis=0), [0.2 / 1.1, 0.2 / 0.9], rtol=1e-3)
    assert np.abs(critical.determinant(lens)(*curves[0].T)).max() < 1e-10


def test_a_cored_lens_has_a_radial_curve_inside_the_tangential_one() -> None:
    lens = tables(Sie(1.0, 0.0, 0.0, 0.0, 0.0, 0.1))
    (inner,) = critical.critical_curves(critical.radial(lens), 1.5, 200)
    (outer,) = critical.critical_curves(critical.tangential(lens), 1.5, 200)
    both = critical.critical_curves(critical.determinant(lens), 1.5, 200)
    radii = sorted(float(np.hypot(*c.T).mean()) for c in both)
    assert radii == pytest.approx([np.hypot(*inner.T).mean(), np.hypot(*outer.T).mean()], rel=1e-8)
    r = np.hypot(*inner.T)  # d alpha / d r = 1
    slope = 1 / np.sqrt(r**2 + 0.01) - (np.sqrt(r**2 + 0.01) - 0.1) / r**2
    np.testing.assert_allclose(slope, 1, atol=1e-8)


@pytest.mark.parametrize("beta", [0.2, 0.7, 1.5])
def test_images_of_an_sis_and_a_point_mass_are_closed_forms(beta: float) -> None:
    bx, by = 0.3 + 0.6 * beta, -0.2 + 0.8 * beta
    sis = critical.image_positions(tables(Sie(1.0, 0.0, 0.0, 0.3, -0.2, 0.0)), bx, by)
    along = 0.6 * (sis.x - 0.3) + 0.8 * (sis.y + 0.2)
    wanted = np.array([beta + 1, beta - 1] if beta < 1 else [beta + 1])
    np.testing.assert_allclose(along, wanted, atol=2e-9)
    np.testing.assert_allclose(sis.magnification, wanted / beta, rtol=1e-7)
    point = critical.image_positions(tables(PointMass(1.0, 0.3, -0.2)), bx, by)
    root, u = math.sqrt(beta**2 + 4), beta
    np.testing.assert_allclose(
        0.6 * (point.x - 0.3) + 0.8 * (point.y + 0.2), [(u + root) / 2, (u - root) / 2], atol=1e-10
    )
    total = (u * u + 2) / (2 * u * root)
    np.testing.assert_allclose(point.magnification, [total + 0.5, 0.5 - total], rtol=1e-9)


LENSES = {
    "elliptical": (Sie(1.0, 0.2, -0.1, 0.1, 0.0, 0.0), Shear(0.05, 0.03, 0.0, 0.0)),
    "flat": (Sie(1.0, *ellipticity(0.2), 0.1, 0.0, 0.0),),
    "steep": (Epl(1.0, 2.3, 0.1, 0.1, 0.0, 0.0, 0.0), Shear(-0.1, 0.0, 0.0, 0.0)),
    "cored": (Epl(1.0, 2.2, 0.1, 0.2, 0.0, 0.0, 0.05), Shear(0.05, 0.02, 0.0, 0.0)),
    "perturbed": (Epl(1.0, 2.0, 0.1, 0.0, 0.0, 0.0, 0.0), PointMass(0.05, 1.0, 0.3)),
    "two": (Sie(1.0, 0.1, 0.0, -0.7, 0.0, 0.02), Sie(0.8, 0.0, 0.1, 0.9, 0.4, 0.02)),
}


def theirs(p) -> tuple[str, dict[str, float]]:
    given = {"theta_E" if k == "theta_e" else "s_scale" if k == "core" else k: v for k, v in p._asdict().items()}
    if isinstance(p, Shear):
        return "SHEAR", {"gamma1": p.gamma1, "gamma2": p.gamma2, "ra_0": p.center_x, "dec_0": p.center_y}
    if isinstance(p, Epl):
        del given["s_scale"]
    return {Sie: "NIE", Epl: "EPL", PointMass: "POINT_MASS"}[type(p)], given


def winding(lens: tuple[Table, ...], beta_x: float, beta_y: float, singular: list[tuple[float, float]]) -> int:
    """Images of positive less those of negative parity: turns of the miss on a far circle, less those at poles."""

    def turns(x: float, y: float, radius: float) -> int:
        angle = np.linspace(0, 2 * np.pi, 20000)
        beta = source_plane(lens, x + radius * np.cos(angle), y + radius * np.sin(angle))
        phase = np.unwrap(np.arctan2(beta[1] - beta_y, beta[0] - beta_x))
        return round((phase[-1] - phase[0]) / (2 * np.pi))

    return turns(0, 0, 50.0) - sum(turns(x, y, 1e-6) for x, y in singular)


@pytest.mark.parametrize("name", LENSES)
def test_images_solve_the_lens_equation_and_have_the_parities_of_topology(name: str) -> None:
    lens = tables(*LENSES[name])
    singular = [
        (p.center_x, p.center_y) for p in LENSES[name] if not isinstance(p, Shear) and not getattr(p, "core", 0)
    ]
    names, given = zip(*map(theirs, LENSES[name]), strict=True)
    for bx, by in np.random.default_rng(2).uniform(-0.9, 0.9, (4, 2)):
        images = critical.image_positions(lens, bx, by)
        assert np.sign(images.magnification).sum() == winding(lens, bx, by, singular)
        assert (np.diff(np.abs(images.magnification)) <= 0).all()
        beta = source_plane(lens, images.x, images.y)
        np.testing.assert_allclose(np.hypot(beta[0] - bx, beta[1] - by), 0, atol=1e-10)
        if name != "cored":
            np.testing.assert_allclose(
                LensModel(names).ray_shooting(images.x, images.y, given),
                [[bx], [by]] * np.ones(len(images.x)),
                atol=1e-8,
            )


def test_a_source_inside_the_astroid_has_four_images_and_one_outside_two() -> None:
    lens = tables(Sie(1.0, 0.0, 0.0, 0.0, 0.0, 0.0), Shear(0.1, 0.0, 0.0, 0.0))
    cusp = 0.2 / 1.1
    parities = [np.sign(critical.image_positions(lens, k * cusp, 0.0).magnification).tolist() for k in (0.99, 1.01)]
    assert [len(p) for p in parities] == [4, 2]
    assert [sum(p) for p in parities] == [0, 0]


def test_nothing_and_shear_alone_have_one_image() -> None:
    for lens in ((), (Sie(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),)):
        images = critical.image_positions(tables(*lens), 0.3, -0.2)
        np.testing.assert_allclose([*images.x, *images.y, *images.magnification], [0.3, -0.2, 1.0])
    images = critical.image_positions(tables(Shear(0.2, 0.0, 1.0, 0.0)), 0.3, 0.6)
    np.testing.assert_allclose([*images.x, *images.y], [1 - 0.7 / 0.8, 0.5])
    np.testing.assert_allclose(images.magnification, 1 / (1 - 0.2**2))


def test_a_shear_that_turns_the_sky_over_is_refused() -> None:
    with pytest.raises(ValueError, match="shear must let rays far out pass"):
        critical.image_positions(tables(Sie(1.0, 0.0, 0.0, 0.0, 0.0, 0.0), Shear(1.2, 0.0, 0.0, 0.0)), 0.1, 0.0)
