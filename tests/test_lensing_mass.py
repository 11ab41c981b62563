"""Mass (oracles: lenstronomy, closed forms, scipy's adaptive quadrature, finite differences).

Differences are relative where the deflection is above 1 arcsec or second derivatives above 1, absolute below. Round
lenses and magnifications of isothermal ones are compared with lenstronomy's EPL of slope 2: its SIE takes an axis
ratio of 1 - 1e-8 for 1, and its hessian is a finite difference.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from lenstronomy.LensModel.lens_model import LensModel
from scipy.integrate import quad

from lensml.lensing import mass
from lensml.lensing.scene import Epl, PointMass, Scene, Shear, Sie, Table, collate

DRAWS, POINTS = 1000, 16
Values = dict[str, np.ndarray]


def tables(*profiles) -> tuple[Table, ...]:
    """The mass of one object."""
    return collate([Scene(profiles, (), ())], torch.float64).mass


def rays(*shape: int, seed: int = 3, reach: float = 4.0) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.from_numpy(v) for v in np.random.default_rng(seed).uniform(-reach, reach, (2, *shape)))


@pytest.fixture(scope="module")
def draws() -> Values:
    """The first hundred are round; q down to 0.1, shear up to 0.4."""
    random = np.random.default_rng(7)
    q = np.where(np.arange(DRAWS) < 100, 1.0, random.uniform(0.1, 1, DRAWS))
    angle, shear_angle = random.uniform(0, 2 * np.pi, (2, DRAWS))
    e, strength = (1 - q) / (1 + q), random.uniform(0, 0.4, DRAWS)
    return {
        "theta_e": random.uniform(0.3, 3, DRAWS),
        "gamma": random.uniform(1.2, 2.8, DRAWS),
        "e1": e * np.cos(angle),
        "e2": e * np.sin(angle),
        "x": random.normal(0, 0.5, DRAWS),
        "y": random.normal(0, 0.5, DRAWS),
        "gamma1": strength * np.cos(shear_angle),
        "gamma2": strength * np.sin(shear_angle),
        "core": 10 ** random.uniform(-2, 0, DRAWS),
        "perturber": random.uniform(0.01, 0.3, DRAWS),
    }


def profile(draws: Values, i: int, kind: str):
    d = {name: float(v[i]) for name, v in draws.items()}
    ellipse = (d["e1"], d["e2"], d["x"], d["y"])
    return {
        "sie": Sie(d["theta_e"], *ellipse, 0.0),
        "nie": Sie(d["theta_e"], *ellipse, d["core"]),
        "epl": Epl(d["theta_e"], d["gamma"], *ellipse, 0.0),
        "cored": Epl(d["theta_e"], d["gamma"], *ellipse, d["core"]),
        "cored isothermal": Epl(d["theta_e"], 2.0, *ellipse, d["core"]),
        "shear": Shear(d["gamma1"], d["gamma2"], d["y"], d["x"]),
        "point": PointMass(d["perturber"], 1.5 * d["x"], -d["y"]),
    }[kind]


THEIRS = {"sie": "EPL", "nie": "NIE", "epl": "EPL", "cored isothermal": "NIE", "shear": "SHEAR", "point": "POINT_MASS"}
NAMES = {"theta_e": "theta_E", "core": "s_scale"}


def keywords(kind: str, p) -> dict[str, float]:
    given = p._asdict()
    if kind == "shear":
        return {"gamma1": p.gamma1, "gamma2": p.gamma2, "ra_0": p.center_x, "dec_0": p.center_y}
    if THEIRS[kind] == "EPL":
        given = {"gamma": 2.0} | given
        del given["core"]
    elif THEIRS[kind] == "NIE":
        given.pop("gamma", None)
    return {NAMES.get(name, name): value for name, value in given.items()}


def lensed(draws: Values, kinds: tuple[str, ...], seed: int = 3):
    """Our tables and rays, and lenstronomy's model and keywords per draw."""
    found = [tuple(profile(draws, i, kind) for kind in kinds) for i in range(DRAWS)]
    x, y = rays(DRAWS, POINTS, seed=seed)
    ours = collate([Scene(p, (), ()) for p in found], torch.float64).mass
    model = LensModel([THEIRS[kind] for kind in kinds])
    return ours, x, y, model, [[keywords(k, p) for k, p in zip(kinds, row, strict=True)] for row in found]


def error(ours: torch.Tensor, theirs: np.ndarray, scale: np.ndarray | float = 1.0) -> np.ndarray:
    return np.abs(ours.numpy() - theirs) / np.maximum(1, scale)


SETS = [("epl",), ("sie",), ("shear",), ("point",), ("epl", "shear"), ("epl", "sie", "shear", "point", "sie")]


@pytest.mark.parametrize("kinds", SETS, ids="+".join)
def test_deflection_convergence_and_magnification_are_lenstronomys(draws: Values, kinds: tuple[str, ...]) -> None:
    ours, x, y, model, given = lensed(draws, kinds)
    points = list(zip(x.numpy(), y.numpy(), given, strict=True))
    alpha = np.array([model.alpha(*p) for p in points]).transpose(1, 0, 2)
    xx, xy, _, yy = np.array([model.hessian(*p) for p in points]).transpose(1, 0, 2)
    for a, b in zip(mass.deflection(ours, x, y), alpha, strict=True):
        assert error(a, b, np.hypot(*alpha)).max() < 1e-8
    size = np.maximum(1, np.sqrt(xx**2 + 2 * xy**2 + yy**2))
    assert error(mass.convergence(ours, x, y), (xx + yy) / 2, size).max() < 1e-8
    determinant = (1 - xx) * (1 - yy) - xy**2
    assert error(1 / mass.magnification(ours, x, y), determinant, size**2).max() < 1e-8
    good = np.abs(determinant) > 1e-3 * size**2  # elsewhere no number of digits of the matrix is enough
    relative = mass.magnification(ours, x, y).numpy()[good] * determinant[good] - 1
    assert np.abs(relative).max() < 1e-8


@pytest.mark.parametrize("kind", ["nie", "cored isothermal"])
def test_a_cored_isothermal_lens_is_lenstronomys_nie(draws: Values, kind: str) -> None:
    ours, x, y, model, given = lensed(draws, (kind,))
    elliptical = slice(100, None)
    alpha = np.array([model.alpha(*p) for p in zip(x.numpy(), y.numpy(), given, strict=True)]).transpose(1, 0, 2)
    for a, b in zip(mass.deflection(ours, x, y), alpha, strict=True):
        assert error(a[elliptical], b[elliptical], np.hypot(*alpha)[elliptical]).max() < 1e-8


def test_lenstronomys_sie_is_ours_to_its_core_and_its_axis_ratio(draws: Values) -> None:
    ours, x, y, _, given = lensed(draws, ("sie",))
    model = LensModel(["SIE"])
    for k in (kwargs for (kwargs,) in given):
        del k["gamma"]
    alpha = np.array([model.alpha(*p) for p in zip(x.numpy(), y.numpy(), given, strict=True)]).transpose(1, 0, 2)
    for a, b in zip(mass.deflection(ours, x, y), alpha, strict=True):
        assert error(a, b, np.hypot(*alpha)).max() < 1e-8


def test_a_round_cored_isothermal_lens_is_the_closed_form() -> None:
    x, y = rays(1, 200)
    r = torch.hypot(x, y)
    for core in (1e-3, 0.1, 2.0):
        wanted = 1.3 * (torch.sqrt(r**2 + core**2) - core) / r
        for p in (Sie(1.3, 0.0, 0.0, 0.0, 0.0, core), Epl(1.3, 2.0, 0.0, 0.0, 0.0, 0.0, core)):
            np.testing.assert_allclose(torch.hypot(*mass.deflection(tables(p), x, y)), wanted, rtol=1e-9)


def _keeton(x: float, y: float, t: float, q: float, core: float, order: int) -> float:
    """Keeton 2001's J_n of kappa = (2 - t) / 2 (R^2 + core^2)^(-t / 2), by adaptive quadrature."""

    def term(w: float) -> float:
        rest = 1 - (1 - q**2) * w
        square = q * w * (x**2 + y**2 / rest)
        return (2 - t) / 2 * (square + core**2) ** (-t / 2) / rest ** (order + 0.5)

    edges = [0, 1e-8, 1e-6, 1e-4, 1e-2, 0.1, 0.5, 0.9, 0.99, 1]
    return sum(quad(term, a, b, epsabs=1e-14, epsrel=1e-12)[0] for a, b in pairwise(edges))


@pytest.mark.parametrize("core", [1e-3, 0.05, 1.0])
@pytest.mark.parametrize("gamma", [1.2, 1.8, 2.3, 2.8])
@pytest.mark.parametrize("q", [0.1, 0.5, 0.98])
def test_a_cored_power_law_is_its_integral(q: float, gamma: float, core: float) -> None:
    x, y = rays(1, 6)
    ours = mass.deflection(tables(Epl(1.0, gamma, (1 - q) / (1 + q), 0.0, 0.0, 0.0, core)), x, y)
    for i, (a, b) in enumerate(zip(x[0].tolist(), y[0].tolist(), strict=True)):
        wanted = (q * a * _keeton(a, b, gamma - 1, q, core, 0), q * b * _keeton(a, b, gamma - 1, q, core, 1))
        assert (float(ours[0][0, i]), float(ours[1][0, i])) == pytest.approx(wanted, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("kind", ["sie", "nie", "epl", "cored", "shear"])
def test_the_divergence_of_the_deflection_is_twice_the_convergence(draws: Values, kind: str) -> None:
    ours, x, y = (
        collate([Scene((profile(draws, i, kind),), (), ()) for i in range(99, 200)], torch.float64).mass,
        *rays(101, 8),
    )
    x, y = x.requires_grad_(), y.requires_grad_()
    alpha = mass.deflection(ours, x, y)
    xx, xy = torch.autograd.grad(alpha[0].sum(), (x, y), retain_graph=True)
    yx, yy = torch.autograd.grad(alpha[1].sum(), (x, y))
    kappa = mass.convergence(ours, x, y).detach()
    np.testing.assert_allclose((xx + yy) / 2, kappa, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(xy, yx, rtol=1e-8, atol=1e-8)  # no curl


def test_sis_and_point_mass_are_closed_forms() -> None:
    x, y = rays(1, 100)
    r = torch.hypot(x - 0.1, y + 0.2)
    sis, point = tables(Sie(1.3, 0.0, 0.0, 0.1, -0.2, 0.0)), tables(PointMass(1.3, 0.1, -0.2))
    np.testing.assert_allclose(torch.hypot(*mass.deflection(sis, x, y)), torch.full_like(r, 1.3), rtol=1e-8)
    np.testing.assert_allclose(mass.convergence(sis, x, y), 0.65 / r, rtol=1e-12)
    np.testing.assert_allclose(mass.magnification(sis, x, y), 1 / (1 - 1.3 / r), rtol=1e-8)
    np.testing.assert_allclose(torch.hypot(*mass.deflection(point, x, y)), 1.69 / r, rtol=1e-12)
    np.testing.assert_allclose(mass.magnification(point, x, y), 1 / (1 - (1.3 / r) ** 4), rtol=1e-9)


def test_the_mass_within_the_einstein_ellipse_is_the_critical_one() -> None:
    """By Gauss's theorem, with the flux through the ellipse summed."""
    angle = torch.arange(2000, dtype=torch.float64) * 2 * math.pi / 2000
    for q in (1.0, 0.6, 0.2):
        x, y = (v[None] for v in (1.3 * torch.cos(angle) / math.sqrt(q), 1.3 * torch.sin(angle) * math.sqrt(q)))
        ax, ay = mass.deflection(tables(Epl(1.3, 2.3, (1 - q) / (1 + q), 0.0, 0.0, 0.0, 0.0)), x, y)
        flux = (ax * (y.roll(-1) - y.roll(1)) - ay * (x.roll(-1) - x.roll(1))).sum() / 2
        assert float(flux) == pytest.approx(2 * math.pi * 1.3**2, rel=1e-4)


CASES = [
    Sie(1.2, 0.0, 0.0, 0.1, -0.2, 0.0),
    Sie(1.2, 0.0, 0.0, 0.1, -0.2, 0.3),
    Sie(1.2, 0.4, -0.5, 0.1, -0.2, 0.0),
    Sie(1.2, 0.2, 0.1, 0.1, -0.2, 0.3),
    Epl(1.2, 2.2, 0.0, 0.0, 0.1, -0.2, 0.0),
    Epl(1.2, 1.4, 0.3, -0.6, 0.1, -0.2, 0.0),
    Epl(1.2, 2.2, 0.0, 0.0, 0.1, -0.2, 0.2),
    Epl(1.2, 2.6, 0.3, -0.6, 0.1, -0.2, 0.2),
    Shear(0.1, -0.3, 0.1, -0.2),
    PointMass(0.7, 0.1, -0.2),
]


def _flat(kind: type, values: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Deflection and convergence as a function of one vector: the parameters, then a shift of the rays."""
    *fields, dx, dy = values
    ours = [Table(torch.tensor([0]), kind(*(v.reshape(1) for v in fields)))]
    return torch.stack([*mass.deflection(ours, x + dx, y + dy), mass.convergence(ours, x + dx, y + dy)])


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore:.torch.jit.script:FutureWarning")  # torch's own, of its forward mode
@pytest.mark.parametrize("mode", [torch.func.jacrev, torch.func.jacfwd])
def test_gradients_of_every_parameter_are_finite_differences(case, mode) -> None:
    """A core of 0 is an end of its range: no difference to both sides there."""
    x, y = rays(1, 5)
    values = torch.tensor([*case, 0.0, 0.0], dtype=torch.float64)
    ours = mode(lambda v: _flat(type(case), v, x, y))(values)
    names = [*case._fields, "x", "y"]
    for i, name in enumerate(names):
        if name == "core" and case.core == 0:
            continue
        h = 1e-4 * torch.eye(len(values), dtype=torch.float64)[i]
        steps = [_flat(type(case), values + k * h, x, y) for k in (-2, -1, 1, 2)]
        wanted = (steps[0] - 8 * steps[1] + 8 * steps[2] - steps[3]) / 12e-4
        np.testing.assert_allclose(ours[..., i], wanted, rtol=1e-6, atol=1e-8, err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradcheck(case) -> None:
    x, y = rays(1, 3)
    fixed = [name == "core" and case.core == 0 for name in case._fields]
    values = [torch.tensor([v], dtype=torch.float64, requires_grad=not f) for v, f in zip(case, fixed, strict=True)]

    def deflect(*fields):
        return mass.deflection([Table(torch.tensor([0]), type(case)(*fields))], x, y)

    assert torch.autograd.gradcheck(deflect, values, atol=1e-6)


def test_a_gradient_by_the_core_at_0_is_that_from_above() -> None:
    x, y = rays(1, 5)
    core = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (p,) = tables(Sie(1.2, 0.0, 0.0, 0.0, 0.0, 0.0))
    alpha = torch.stack(mass.deflection([Table(p.owner, p.profile._replace(core=core))], x, y))
    (slope,) = torch.autograd.grad((alpha * torch.stack([x, y]) / torch.hypot(x, y)).sum(), core)
    assert float(slope) == pytest.approx(float((-1.2 / torch.hypot(x, y)).sum()), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "case", [*CASES, Sie(0.0, 0.1, 0.0, 0.0, 0.0, 0.0), Epl(0.0, 2.1, 0.1, 0.0, 0.0, 0.0, 0.0)], ids=str
)
def test_everything_is_finite_at_a_centre(case, dtype: torch.dtype) -> None:
    (table,) = collate([Scene((case,), (), ())], dtype).mass
    fields = [v.clone().requires_grad_() for v in table.profile]
    x, y = (
        fields[case._fields.index(name)].detach().clone()[:, None].requires_grad_() for name in ("center_x", "center_y")
    )
    alpha = mass.deflection([Table(table.owner, type(case)(*fields))], x, y)
    found = torch.autograd.grad(sum(a.sum() for a in alpha), [*fields, x, y], allow_unused=True)
    assert all(torch.isfinite(v).all() for v in [*alpha, *(g for g in found if g is not None)])


def test_the_second_path_of_an_isothermal_lens_has_the_values_of_the_first(draws: Values) -> None:
    p = collate([Scene((profile(draws, i, "sie"),), (), ()) for i in range(DRAWS)], torch.float64).mass[0]
    x, y = rays(DRAWS, 4)
    asked = Table(p.owner, p.profile._replace(e1=p.profile.e1.clone().requires_grad_()))
    for a, b in zip(mass.deflection([p], x, y), mass.deflection([asked], x, y), strict=True):
        np.testing.assert_allclose(a, b.detach(), atol=3e-8)


@pytest.mark.parametrize(("kind", "tolerance"), [("sie", 1e-5), ("nie", 1e-5), ("epl", 3e-5), ("cored", 3e-5)])
def test_float32_is_float64_to_its_digits(draws: Values, kind: str, tolerance: float) -> None:
    """What a flat lens loses: arguments near 1 of artanh, R of two lengths that are nearly alike."""
    scenes = [Scene((profile(draws, i, kind),), (), ()) for i in range(DRAWS)]
    x, y = (v.float() for v in rays(DRAWS, 16))
    single = mass.deflection(collate(scenes).mass, x, y)
    double = [Table(t.owner, type(t.profile)(*(v.double() for v in t.profile))) for t in collate(scenes).mass]
    wanted = mass.deflection(double, x.double(), y.double())
    for a, b in zip(single, wanted, strict=True):
        assert error(a, b.numpy(), torch.hypot(*wanted).numpy()).max() < tolerance


def test_deflectors_add_up_on_their_objects() -> None:
    """Objects with none, one and several deflectors, cores beside none, against one at a time."""
    scenes = [
        Scene((), (), ()),
        Scene(
            (Sie(1.0, 0.1, 0.0, 0.0, 0.0, 0.0), Sie(0.3, 0.0, 0.1, 1.0, 0.5, 0.1), Shear(0.1, 0.0, 0.0, 0.0)), (), ()
        ),
        Scene((Epl(1.0, 2.1, 0.1, 0.0, 0.0, 0.0, 0.1), Epl(0.5, 1.9, 0.1, 0.3, 0.3, 0.0, 0.0)), (), ()),
        Scene((Epl(1.0, 2.1, 0.1, 0.0, 0.0, 0.0, 0.0), PointMass(0.1, 0.4, 0.0)), (), ()),
        Scene((), (), ()),
    ]
    axis = torch.linspace(-2.1, 2, 7, dtype=torch.float64)
    x, y = axis[None, None], axis[None, :, None]
    both = collate(scenes, torch.float64).mass
    whole = [*mass.deflection(both, x, y, len(scenes)), mass.convergence(both, x, y, len(scenes))]
    spread = mass.deflection(both, *(v.expand(5, 7, 7) for v in (x, y)))
    for i, scene in enumerate(scenes):
        alone = [torch.zeros(1, 7, 7, dtype=torch.float64)] * 3
        for p in scene.mass:
            part = [*mass.deflection(tables(p), x, y), mass.convergence(tables(p), x, y)]
            alone = [a + b for a, b in zip(alone, part, strict=True)]
        for a, b in zip(alone, whole, strict=True):
            np.testing.assert_allclose(a[0], b[i], atol=1e-14)
    np.testing.assert_allclose(torch.stack(spread), torch.stack(whole[:2]), atol=1e-14)


def test_no_mass_deflects_nothing() -> None:
    x, y = rays(3, 5)
    assert all(not v.any() for v in (*mass.deflection((), x, y), mass.convergence((), x, y)))
    assert (mass.magnification((), x, y) == 1).all()


FAULTS = [
    (Sie(-0.1, 0.0, 0.0, 0.0, 0.0, 0.0), "theta_e must be 0 or larger, got -0.1"),
    (Sie(math.nan, 0.0, 0.0, 0.0, 0.0, 0.0), "theta_e must be a finite number, got nan"),
    (Sie(1.0, 0.6, 0.8, 0.0, 0.0, 0.0), r"\(e1, e2\) must have .* below 1, got \(0.6, 0.8\)"),
    (Epl(1.0, 2.0, -1.0, 0.0, 0.0, 0.0, 0.0), r"\(e1, e2\) must have"),
    (Epl(1.0, 2.0, 0.0, 0.0, 0.0, 0.0, -1e-3), "core must be 0 or larger, got -0.001"),
    (Epl(1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0), "gamma must lie between 1 and 3, got 1 "),
    (Epl(1.0, 3.2, 0.0, 0.0, 0.0, 0.0, 0.0), "gamma must lie between 1 and 3, got 3.2"),
    (Shear(math.inf, 0.0, 0.0, 0.0), "gamma1 must be a finite number"),
    (PointMass(-1.0, 0.0, 0.0), "theta_e must be 0 or larger"),
    (PointMass(1.0, math.nan, 0.0), "center_x must be a finite number"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=str)
def test_unphysical_mass_is_named(fault, message: str) -> None:
    good = Scene(tuple(CASES), (), ())
    mass.check(collate([good, good]).mass)
    with pytest.raises(ValueError, match=rf"{message}.*\({type(fault).__name__} of object 1\)\. "):
        mass.check(collate([good, Scene((fault,), (), ())]).mass)
