"""Clusters against the complex deflection of Kassiola & Kovner (1993), closed forms, and the images of SMACS J0723."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
import torch
from astropy.cosmology import FlatLambdaCDM
from lenstronomy.LensModel.Profiles.nie import NIE
from lenstronomy.LensModel.Profiles.pseudo_jaffe import PseudoJaffe
from numpy.typing import NDArray
from scipy.integrate import quad

from lensml.lensing import cluster, lenstool, mass
from lensml.lensing.lenstool import Dpie, Model
from lensml.lensing.scene import Scene, collate
from lensml.sources import multiple_images
from tests.real_sample import REAL, needs_real
from tests.test_lensing_lenstool import MODEL

Float = NDArray[np.float64]
FOLDER = REAL / "smacs0723" / "ICLv2"
LCDM = FlatLambdaCDM(70, 0.3)


def model(*potentials: Dpie, redshifts: dict[str, float] | None = None) -> Model:
    return Model(150.0, 60.0, LCDM, 0.39, potentials, redshifts or {})


def drawn(count: int) -> Model:
    """Round, very flat, singular, turned by more than a circle, off-centre."""
    rng = np.random.default_rng(7)
    core = rng.uniform(0, 5, count) * (np.arange(count) % 5 > 0)
    ellipticity = rng.uniform(0, 0.98, count) * (np.arange(count) % 7 > 0)
    columns = (
        rng.normal(0, 8, count), rng.normal(0, 8, count), ellipticity, rng.uniform(-400, 600, count),
        core, core + 10 ** rng.uniform(-1, 3, count), rng.uniform(20, 900, count),
    )  # fmt: skip
    return model(*(Dpie(str(i), *row) for i, row in enumerate(zip(*(c.tolist() for c in columns), strict=True))))


def b0(potential: Dpie) -> float:
    """6 pi (v/c)^2 in arcsec."""
    return float(6 * np.pi * (potential.v_disp / 299792.458) ** 2 * 206264.80624709636)


def eps(potential: Dpie) -> float:
    """(a - b) / (a + b) of the mass from (a^2 - b^2) / (a^2 + b^2)."""
    q = np.sqrt((1 - potential.ellipticity) / (1 + potential.ellipticity))
    return float((1 - q) / (1 + q))


def turned(potential: Dpie, x: Float, y: Float) -> tuple[Float, Float, complex]:
    """Positions on the axes of a potential, and what turns vectors back."""
    turn = np.exp(1j * np.radians(potential.angle_deg))
    z = (x - potential.x_arcsec + 1j * (y - potential.y_arcsec)) / turn
    return z.real, z.imag, turn


def kassiola_kovner(potential: Dpie, x: Float, y: Float) -> Float:
    """Complex deflection of a dPIE by their I_0.5 (equation 4.1.2), valid for eps > 0."""
    e, (x, y, turn) = eps(potential), turned(potential, x, y)
    root, q = np.sqrt(e), (1 - e) / (1 + e)

    def i05(radius: float) -> Float:
        w = np.sqrt(radius**2 + x**2 / (1 + e) ** 2 + y**2 / (1 - e) ** 2)
        ratio = (q * x - 1j * y / q + 2j * root * w) / (x - 1j * y + 2j * radius * root)
        return -0.5j * (1 - e**2) / root * np.log(ratio)

    core, cut = potential.core_arcsec, potential.cut_arcsec
    return b0(potential) * cut / (cut - core) * (i05(core) - i05(cut)) * turn


def numeric(function: Callable[[Float, Float], Float], x: Float, y: Float, h: float) -> tuple[Float, Float]:
    """d/dx and d/dy by central differences of fourth order."""

    def one(dx: float, dy: float) -> Float:
        near = function(x + dx, y + dy) - function(x - dx, y - dy)
        far = function(x + 2 * dx, y + 2 * dy) - function(x - 2 * dx, y - 2 * dy)
        return (8 * near - far) / (12 * h)

    return one(h, 0), one(0, h)


def places(count: int = 400) -> tuple[Float, Float]:
    rng = np.random.default_rng(11)
    x, y = rng.uniform(-30, 30, (2, count))
    return x, y


def test_deflection_is_that_of_kassiola_and_kovner() -> None:
    x, y = places()
    found = drawn(60)
    for potential in found.potentials:
        alpha_x, alpha_y = cluster.deflection(model(potential), x, y)
        if potential.ellipticity:
            np.testing.assert_allclose(alpha_x + 1j * alpha_y, kassiola_kovner(potential, x, y), atol=1e-9)
    total = np.array([cluster.deflection(model(potential), x, y) for potential in found.potentials]).sum(axis=0)
    np.testing.assert_allclose(cluster.deflection(found, x, y), total, atol=1e-9)


def test_convergence_is_constant_on_lenstools_ellipses() -> None:
    """The ellipticity is the mass's: kappa is a closed form of x^2 / (1 + eps)^2 + y^2 / (1 - eps)^2."""
    x, y = places()
    for potential in drawn(60).potentials:
        along, across, _ = turned(potential, x, y)
        e, core, cut = eps(potential), potential.core_arcsec, potential.cut_arcsec
        square = (along / (1 + e)) ** 2 + (across / (1 - e)) ** 2
        expected = b0(potential) / 2 * cut / (cut - core) * ((core**2 + square) ** -0.5 - (cut**2 + square) ** -0.5)
        kappa, _, _ = cluster.convergence_and_shear(model(potential), x, y)
        np.testing.assert_allclose(kappa, expected, rtol=1e-9, atol=1e-12)


def test_convergence_and_shear_are_derivatives_of_the_deflection() -> None:
    x, y = places()
    for potential in drawn(60).potentials:
        if not potential.ellipticity:
            continue
        far = np.hypot(x - potential.x_arcsec, y - potential.y_arcsec) > 1
        d_dx, d_dy = numeric(lambda x, y, p=potential: kassiola_kovner(p, x, y), x[far], y[far], 1e-3)
        kappa, gamma1, gamma2 = cluster.convergence_and_shear(model(potential), x[far], y[far])
        tolerance = {"rtol": 1e-6, "atol": 1e-8}
        np.testing.assert_allclose(kappa, (d_dx.real + d_dy.imag) / 2, **tolerance)
        np.testing.assert_allclose(gamma1, (d_dx.real - d_dy.imag) / 2, **tolerance)
        np.testing.assert_allclose(gamma2, d_dx.imag, **tolerance)
        np.testing.assert_allclose(gamma2, d_dy.real, **tolerance)


def test_deflection_is_the_gradient_of_lenstronomys_potential() -> None:
    x, y = places()
    found = drawn(10)

    def psi(x: Float, y: Float) -> Float:
        rows = cluster.isothermals(found)
        return np.sum([NIE().function(x, y, m.theta_e, m.e1, m.e2, m.core, m.center_x, m.center_y) for m in rows], 0)

    np.testing.assert_allclose(numeric(psi, x, y, 1e-2), cluster.deflection(found, x, y), atol=1e-5)


def test_a_round_potential_is_lenstronomys_pseudo_jaffe() -> None:
    x, y = places()
    potential = Dpie("round", 1.5, -2.5, 0.0, 33.0, 0.8, 12.0, 400.0)
    sigma0 = b0(potential) / 2 / potential.core_arcsec
    expected = PseudoJaffe().derivatives(x, y, sigma0, potential.core_arcsec, potential.cut_arcsec, 1.5, -2.5)
    np.testing.assert_allclose(cluster.deflection(model(potential), x, y), expected, rtol=1e-6)


def test_a_cluster_is_a_scene_of_the_renderer() -> None:
    x, y = places()
    found = drawn(40)
    tables = collate([Scene(cluster.isothermals(found), (), ())], torch.float64).mass
    alpha = mass.deflection(tables, torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None])
    np.testing.assert_allclose([a.numpy()[0, 0] for a in alpha], cluster.deflection(found, x, y), atol=1e-6)


def area(line: Float) -> float:
    """Within a closed line, by the shoelace formula."""
    x, y = line.T
    assert (line[0] == line[-1]).all()
    return abs(float(np.sum(x[1:] * y[:-1] - x[:-1] * y[1:]))) / 2


@pytest.mark.parametrize("ellipticity", [0.0, 0.3, 0.7])
def test_without_core_and_with_a_far_cut_it_is_an_isothermal_ellipsoid(ellipticity: float) -> None:
    """Critical curve: kappa = 1/2, of area pi theta_E^2; a circle's caustic is a point; it has no radial one."""
    potential = Dpie("sie", 0.0, 0.0, ellipticity, 25.0, 0.0, 9e4, 900.0)
    found = model(potential)
    ratio = float(LCDM.angular_diameter_distance(0.39, 2.0) / LCDM.angular_diameter_distance(2.0))
    theta_e = b0(potential) * ratio * np.sqrt(1 - eps(potential) ** 2)
    grid = cluster.maps(found, 120.0, 0.25)
    assert grid.kappa[240, 240] > 1e6
    assert np.isfinite(grid.gamma1).all()
    critical = cluster.critical_curves(found, grid, 2.0)
    (line,) = critical.tangential
    assert (critical.radial, len(line) > 100) == ((), True)
    assert area(line) == pytest.approx(np.pi * theta_e**2, rel=1e-3)
    along, across, _ = turned(potential, *line.T)
    ellipse = np.hypot(along / (1 + eps(potential)), across / (1 - eps(potential)))
    np.testing.assert_allclose(ellipse, b0(potential) * ratio, rtol=1e-3)
    (caustic,) = cluster.caustics(found, critical, 2.0).tangential
    size = np.ptp(caustic, axis=0).max()
    assert size < 0.02 if ellipticity == 0 else size > 1


def test_magnification_of_an_isothermal_sphere_and_its_parity() -> None:
    potential = Dpie("sis", 0.0, 0.0, 0.0, 0.0, 0.0, 9e4, 500.0)
    ratio = float(cluster.distance_ratio(model(potential), 1.0))
    r = np.array([0.2, 0.5, 0.9, 1.1, 2.0, 5.0]) * b0(potential) * ratio
    found = cluster.magnification(model(potential), 0.6 * r, -0.8 * r, 1.0)
    np.testing.assert_allclose(found, 1 / (1 - b0(potential) * ratio / r), rtol=2e-3)  # what the cut takes away


def test_distance_ratio_is_astropys_and_a_source_in_front_is_refused() -> None:
    z = np.array([0.5, 1.45, 9.0])
    comoving = LCDM.comoving_distance(z).value
    expected = 1 - LCDM.comoving_distance(0.39).value / comoving  # in a flat universe
    np.testing.assert_allclose(cluster.distance_ratio(model(), z), expected, rtol=1e-9)
    for wrong in (0.39, 0.1, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"z_source must be above z_lens 0\.39, got"):
            cluster.distance_ratio(model(), [1.0, wrong])


def test_a_curved_universe_with_other_dark_energy() -> None:
    """D_ls / D_s by the integral itself (Hogg 1999, arXiv:astro-ph/9905116, equations 14 to 19)."""
    content = MODEL
    for old, new in {
        b"omegaX    0.7": b"omegaX 0.6",
        b"wX        -1.0": b"wX -0.8",
        b"wa        0.0": b"wa 0.2",
    }.items():
        assert old in content
        content = content.replace(old, new)
    found = lenstool.parse(content)

    def e(z: float) -> float:
        dark = 0.6 * (1 + z) ** (3 * (1 - 0.8 + 0.2)) * np.exp(-3 * 0.2 * z / (1 + z))
        return float(np.sqrt(0.3 * (1 + z) ** 3 + 0.1 * (1 + z) ** 2 + dark))

    def transverse(a: float, b: float) -> float:
        return float(np.sinh(np.sqrt(0.1) * quad(lambda z: 1 / e(z), a, b)[0]))

    assert cluster.distance_ratio(found, 3.0) == pytest.approx(transverse(0.39, 3) / transverse(0, 3), rel=1e-8)


def listed(*rows: tuple[str, float, float, float | None]) -> pl.DataFrame:
    return pl.DataFrame(rows, {"id": pl.String, "ra": pl.Float64, "dec": pl.Float64, "z": pl.Float64}, orient="row")


def test_images_of_one_source_come_together() -> None:
    """Two images of an isothermal sphere, by its lens equation, to the west and the east of the centre."""
    potential = Dpie("sis", 0.0, 0.0, 0.0, 0.0, 0.0, 9e4, 500.0)
    theta_e = b0(potential) * float(cluster.distance_ratio(model(potential), 1.0))
    west, east = (0.3 + theta_e) / 3600 / 0.5, (theta_e - 0.3) / 3600 / 0.5  # degrees of right ascension at dec = 60
    images = listed(("1.1", 150 - west, 60, None), ("1.2", 150 + east, 60, None), ("2.1", 150, 60.001, 2.0))
    found = cluster.scatter(model(potential, redshifts={"1": 1.0}), images)
    assert found["family"].to_list() == ["1", "2"]
    assert found["images"].to_list() == [2, 1]
    assert found["z"].to_list() == [1.0, 2.0]
    assert found["rms_arcsec"][0] < 1e-3
    assert found["rms_arcsec"][1] is None
    moved = images.with_columns(dec=pl.Series([60.0, 60.001, 60.001]))
    apart = cluster.scatter(model(potential, redshifts={"1": 1.0}), moved)
    assert apart["rms_arcsec"][0] > 0.5


def test_redshifts_must_be_known_and_one_for_a_family() -> None:
    with pytest.raises(ValueError, match="redshift of family 1 must be known, got none"):
        cluster.scatter(model(), listed(("1.1", 150, 60, None)))
    with pytest.raises(ValueError, match=r"family 1 must have one redshift, got 2 and 3 \(image 1\.2\)"):
        cluster.scatter(model(), listed(("1.1", 150, 60, 2.0), ("1.2", 150, 60, 3.0)))
    with pytest.raises(ValueError, match="z_source must be above"):
        cluster.scatter(model(), listed(("1.1", 150, 60, 0.2), ("1.2", 150, 60, 0.2)))


@pytest.mark.parametrize(
    ("width", "step", "words"),
    [
        *((width, 1, "width_arcsec") for width in (0, -1, np.nan, np.inf)),
        *((10, step, "step_arcsec") for step in (0, 0.002, 11, np.nan)),
    ],
)
def test_an_impossible_grid_is_refused(width: float, step: float, words: str) -> None:
    with pytest.raises(ValueError, match=f"{words} must be"):
        cluster.maps(model(), width, step)


def test_the_grid_covers_the_square_and_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    found = cluster.maps(drawn(5), 10.0, 0.3)
    assert (found.x[0], found.x[-1], found.x.size) == (-5, 5, 35)
    monkeypatch.setattr(cluster, "_BLOCK", 97)
    for whole, parts in zip(found, cluster.maps(drawn(5), 10.0, 0.3), strict=True):
        assert (whole == parts).all()


def real() -> tuple[Model, pl.DataFrame]:
    return lenstool.read(FOLDER / "best.par"), multiple_images.positions((FOLDER / "arcs.dat").read_bytes())


@needs_real
def test_the_images_of_smacs_0723_come_together() -> None:
    """Its authors' model: source-plane scatter of its 21 families and 60 images."""
    found = cluster.scatter(*real())
    assert (found.height, found["images"].sum()) == (21, 60)
    rms = found["rms_arcsec"].to_numpy()
    print(f"scatter: median {np.median(rms):.4f}, max {rms.max():.4f} arcsec")
    assert np.median(rms) < 0.1
    assert rms.max() < 0.35


FAULTS: dict[str, tuple[float, Callable[[Dpie], Dpie]]] = {  # the least median that it gives, arcsec
    "angle from the other axis": (3, lambda p: p._replace(angle_deg=p.angle_deg + 90)),
    "angle the other way round": (1, lambda p: p._replace(angle_deg=-p.angle_deg)),
    "x to the east": (0.4, lambda p: p._replace(x_arcsec=-p.x_arcsec)),
    "ellipticity of the axes' ratio": (
        0.2,
        lambda p: p._replace(ellipticity=2 * p.ellipticity / (1 + p.ellipticity**2)),
    ),
    "4 pi instead of 6 pi": (3, lambda p: p._replace(v_disp=p.v_disp * np.sqrt(2 / 3))),
    "no core": (3, lambda p: p._replace(core_arcsec=0.0)),
}


@needs_real
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_convention_scatters_them(fault: str) -> None:
    found, images = real()
    least, change = FAULTS[fault]
    rms = cluster.scatter(found._replace(potentials=tuple(map(change, found.potentials))), images)["rms_arcsec"]
    print(f"{fault}: median {rms.median():.2f}, max {rms.max():.2f} arcsec")
    assert rms.median() > least
    assert rms.max() > 0.7


@needs_real
def test_pairs_on_either_side_of_a_critical_curve_have_opposite_parities() -> None:
    found, images = real()
    table = cluster.traced(found, images)
    mu = cluster.magnification(found, table["x"].to_numpy(), table["y"].to_numpy(), table["z"].to_numpy())
    by_name = dict(zip(table["id"], mu.tolist(), strict=True))
    for first, second in (("16.1", "16.2"), ("5.1", "5.2"), ("10.1", "10.2"), ("26.1", "26.2"), ("11.1", "11.2")):
        assert by_name[first] * by_name[second] < 0
        assert min(abs(by_name[first]), abs(by_name[second])) > 3


@needs_real
def test_magnification_of_the_real_model_is_the_area_that_a_small_square_is_seen_in() -> None:
    found, images = real()
    x, y = lenstool.offsets(found, images["ra"].to_numpy(), images["dec"].to_numpy())
    d_dx, d_dy = (
        np.array(d)
        for d in zip(
            *(numeric(lambda x, y, k=k: cluster.trace(found, x, y, 2.0)[k], x, y, 1e-3) for k in (0, 1)), strict=True
        )
    )
    expected = d_dx[0] * d_dy[1] - d_dx[1] * d_dy[0]
    np.testing.assert_allclose(1 / cluster.magnification(found, x, y, 2.0), expected, atol=1e-6)
