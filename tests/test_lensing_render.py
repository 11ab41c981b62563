"""Rendering (oracles: lenstronomy, 16 times finer sampling, scipy's convolution, closed forms, finite differences)."""

import math
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from lenstronomy.Data.imaging_data import ImageData
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from scipy.signal import fftconvolve

from lensml.lensing import light, render, scene
from lensml.lensing.render import Grid, Psf
from lensml.lensing.scene import Epl, Pixels, Point, PointMass, Ring, Scene, Sersic, Shear, Sie

DISC = Sersic((1.0,), 0.4, 1.0, 0.1, 0.2, 0.1, -0.05)
LENS = Sie(1.1, 0.15, -0.1, 0.02, 0.01, 0.0)
SHEAR = Shear(0.04, -0.03, 0.0, 0.0)
STAR = Point((1.0,), 0.0, 0.0)


def moffat(fwhm: float, pixel_scale: float, radius: float, beta: float = math.inf) -> torch.Tensor:
    """A Moffat or Gaussian PSF that ends at `radius`, each pixel integrated: (1, 1, k, k)."""
    steps = max(3, round(pixel_scale / 0.002)) // 2 * 2 + 1
    half = round(radius / pixel_scale)
    axis = (np.arange((2 * half + 1) * steps) - ((2 * half + 1) * steps - 1) / 2) * pixel_scale / steps
    square = (axis[:, None] ** 2 + axis**2) / (fwhm / 2) ** 2
    fine = 0.5**square if math.isinf(beta) else (1 + square * (2 ** (1 / beta) - 1)) ** -beta
    fine *= np.clip((radius - np.hypot(axis[:, None], axis)) / (radius / 4), 0, 1)
    stamp = fine.reshape(2 * half + 1, steps, 2 * half + 1, steps).sum(axis=(1, 3))
    return torch.from_numpy(stamp / stamp.sum())[None, None]


def images(scenes: list[Scene], grid: Grid, psf: torch.Tensor | None, dtype: torch.dtype = torch.float64) -> np.ndarray:
    return render.render_batch(
        scene.collate(scenes, dtype), grid, None if psf is None else Psf(psf.to(dtype))
    ).numpy()  # fmt: skip


def disturbed(rng: np.random.Generator, width: float) -> tuple[float, float]:
    return float(rng.uniform(-width, width)), float(rng.uniform(-width, width))


def drawn(rng: np.random.Generator, number: int) -> Scene:
    """Round, flat, off-centre, strongly sheared; a power law every second time."""
    theta_e, e, center = rng.uniform(0.7, 1.4), disturbed(rng, 0.35), disturbed(rng, 0.1)
    main = Sie(theta_e, *e, *center, 0.0) if number % 2 else Epl(theta_e, rng.uniform(1.7, 2.3), *e, *center, 0.0)
    host = Sersic((1.0,), rng.uniform(0.3, 1), rng.uniform(1, 4), *disturbed(rng, 0.3), *disturbed(rng, 0.3))
    source = Sersic((0.5,), rng.uniform(0.1, 0.3), rng.uniform(0.5, 2), *disturbed(rng, 0.3), *disturbed(rng, 0.3))
    return Scene((main, Shear(*disturbed(rng, 0.1), 0.0, 0.0)), (host,), (source,))


class Lenstronomy:
    """Its images of such scenes."""

    def __init__(self, grid: Grid, psf: torch.Tensor) -> None:
        start = -(grid.pixels - 1) / 2 * grid.pixel_scale
        self.frame = ImageData(
            np.zeros((grid.pixels, grid.pixels)), ra_at_xy_0=start, dec_at_xy_0=start,
            transform_pix2angle=np.eye(2) * grid.pixel_scale,
        )  # fmt: skip
        self.psf = PSF("PIXEL", kernel_point_source=psf[0, 0].numpy(), point_source_supersampling_factor=2)
        self.numerics = {  # without the last, only the PSF's innermost 5 pixels are convolved on the fine grid
            "supersampling_factor": grid.supersampling, "supersampling_convolution": True,
            "supersampling_kernel_size": None,
        }  # fmt: skip

    def image(self, s: Scene) -> np.ndarray:
        main, shear = s.mass
        model = ImageModel(
            self.frame, self.psf, LensModel(["SIE" if isinstance(main, Sie) else "EPL", "SHEAR"]),
            LightModel(["SERSIC_ELLIPSE"]), LightModel(["SERSIC_ELLIPSE"]), kwargs_numerics=self.numerics,
        )  # fmt: skip
        names = {"theta_e": "theta_E", "gamma": "gamma", "e1": "e1", "e2": "e2", "center_x": "center_x"}
        names["center_y"] = "center_y"
        lens = {theirs: getattr(main, mine) for mine, theirs in names.items() if hasattr(main, mine)}
        lights = [[self._light(p)] for p in (*s.source_light, *s.lens_light)]
        return np.asarray(model.image([lens, {"gamma1": shear.gamma1, "gamma2": shear.gamma2}], *lights))

    def _light(self, p: Sersic) -> dict[str, float]:
        r, n = torch.tensor(p.r_sersic, dtype=torch.float64), torch.tensor(p.n_sersic, dtype=torch.float64)
        amplitude = p.flux[0] / float(light.sersic_flux(r, n))
        shape = {"e1": p.e1, "e2": p.e2, "center_x": p.center_x, "center_y": p.center_y}
        return {"amp": amplitude, "R_sersic": p.r_sersic, "n_sersic": p.n_sersic, **shape}


@pytest.mark.filterwarnings("ignore::DeprecationWarning:lenstronomy")
@pytest.mark.parametrize("pixels", [40, 41])
def test_images_are_lenstronomys(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At equal sampling, and with its own approximate b_n on both sides."""
    monkeypatch.setattr(light, "sersic_b", lambda n: 1.9992 * n - 0.3271)
    rng = np.random.default_rng(pixels)
    scenes = [drawn(rng, i) for i in range(200)]
    grid, psf = Grid(pixels, 0.1, 2, refinement=1), moffat(0.25, 0.05, 0.8, 3.0)
    theirs = Lenstronomy(grid, psf)
    for dtype, allowed in ((torch.float32, 1e-4), (torch.float64, 1e-8)):
        for s, ours in zip(scenes, images(scenes, grid, psf, dtype)[:, 0], strict=True):
            image = theirs.image(s)
            assert abs(ours - image).max() < allowed * image.max(), s


def _difficult() -> dict[str, Scene]:
    center = 0.013, -0.022  # arcsec: in the middle of no pixel
    core = Scene((), (Sersic((1.0,), 0.1, 6.0, 0.1, 0.2, *center),), ())
    bulge = Scene((), (Sersic((1.0,), 0.5, 4.0, 0.3, 0.0, *center),), ())
    compact = Scene((), (Sersic((1.0,), 0.05, 1.0, 0.0, 0.1, *center),), ())
    needle = Scene((), (Sersic((1.0,), 0.3, 1.0, 0.6, 0.4, *center),), ())
    arc = Scene((LENS, SHEAR), (), (Sersic((1.0,), 0.05, 1.0, 0.1, 0.0, *center),))
    clumps = (Sersic((1.0,), 0.05, 4.0, 0.1, 0.0, 0.1, 0.05), Sersic((0.3,), 0.03, 1.0, 0.0, 0.0, -0.1, 0.05))
    both = Scene((LENS, SHEAR), (Sersic((2.0,), 0.4, 5.0, 0.1, 0.1, *center),), clumps)
    return {"core": core, "bulge": bulge, "compact": compact, "needle": needle, "arc": arc, "both": both}


@pytest.mark.parametrize(("fwhm", "beta"), [(0.16, math.inf), (0.3, 2.5)])
def test_images_are_those_of_16_times_finer_sampling(fwhm: float, beta: float) -> None:
    """Within 0.3 % of the flux, cores, clumps and rings too; without refinement they are off by per cents."""
    cases = _difficult()
    coarse, fine = (moffat(fwhm, 0.1 / k, 0.9, beta) for k in (2, 16))
    ours = images(list(cases.values()), Grid(40, 0.1, 2), coarse)
    plain = images(list(cases.values()), Grid(40, 0.1, 2, refinement=1), coarse)
    finest = images(list(cases.values()), Grid(40, 0.1, 16, refinement=1), fine)
    off = abs(ours - finest).sum(axis=(1, 2, 3)) / finest.sum(axis=(1, 2, 3))
    assert (off < 0.003).all(), dict(zip(cases, off, strict=True))
    assert (abs(plain - finest).sum(axis=(1, 2, 3)) / finest.sum(axis=(1, 2, 3)))[[0, 1, 5]].min() > 0.01


@pytest.mark.parametrize("supersampling", [1, 3])
def test_other_samplings_are_refined_too(supersampling: int) -> None:
    s = _difficult()["bulge"]
    ours, finest = (
        images([s], Grid(40, 0.1, k, refinement=r), moffat(0.4, 0.1 / k, 0.9))
        for k, r in ((supersampling, 8), (15, 1))
    )  # fmt: skip
    assert abs(ours - finest).sum() < 0.005 * finest.sum()


def test_a_faint_bands_light_is_refined_as_a_bright_ones() -> None:
    """The sampling is the scene's, the same in all bands: achromatic light stays achromatic."""
    s = _difficult()["both"]
    many = Scene(s.mass, *(tuple(p._replace(flux=(1e3 * p.flux[0], p.flux[0])) for p in ps) for ps in s[1:]))
    found = images([many], Grid(40, 0.1, 2), moffat(0.3, 0.05, 0.5).expand(1, 2, -1, -1))[0]
    np.testing.assert_allclose(found[0], 1e3 * found[1], rtol=1e-9, atol=1e-9 * found[0].max())


@pytest.mark.parametrize(("pixels", "supersampling", "half"), [(20, 1, 4), (21, 2, 5), (20, 2, 20), (13, 3, 7)])
def test_convolution_is_scipys_in_every_band(pixels: int, supersampling: int, half: int) -> None:
    rng = np.random.default_rng(3)
    fine, side = pixels * supersampling, 2 * half + 1
    maps, kernels = rng.random((2, 3, fine, fine)), rng.random((2, 3, side, side))
    kernels /= kernels.sum(axis=(2, 3), keepdims=True)
    grid = Grid(pixels, 0.1, supersampling)
    ours = render.observe(torch.from_numpy(maps), Psf(torch.from_numpy(kernels)), grid).numpy()
    for o, b in np.ndindex(2, 3):
        blurred = fftconvolve(maps[o, b], kernels[o, b], mode="same")
        theirs = blurred.reshape(pixels, supersampling, pixels, supersampling).sum(axis=(1, 3))
        np.testing.assert_allclose(ours[o, b], theirs, rtol=1e-10)


def test_a_margin_brings_in_what_the_psf_scatters_from_outside() -> None:
    halo = Scene((), (Sersic((1.0,), 1.5, 2.0, 0.1, 0.0, 0.0, 0.0),), ())
    psf = moffat(0.4, 0.05, 0.6)
    narrow, wide, whole = (images([halo], grid, psf)[0, 0] for grid in (
        Grid(20, 0.1, 2, 1), Grid(20, 0.1, 2, 1, margin=8), Grid(60, 0.1, 2, 1),
    ))  # fmt: skip
    np.testing.assert_allclose(wide, whole[20:40, 20:40], rtol=1e-9)
    assert narrow[0, 0] < 0.7 * wide[0, 0]
    short = images([halo], Grid(20, 0.1, 2, 1, margin=3), psf)[0, 0]
    np.testing.assert_allclose(short[4:-4, 4:-4], wide[4:-4, 4:-4], rtol=1e-9)


@pytest.mark.parametrize("kind", ["sersic", "point"])
@pytest.mark.parametrize("pixels", [20, 21])
@pytest.mark.parametrize("supersampling", [1, 2, 3])
def test_a_star_stays_where_it_is(kind: str, pixels: int, supersampling: int) -> None:
    """Even and odd stamps: the centre is (pixels - 1) / 2 in both; x is the last axis."""
    x, y = 0.137, -0.062
    star = Point((3.0,), x, y) if kind == "point" else Sersic((3.0,), 0.1, 1.0, 0.0, 0.0, x, y)
    psf = moffat(0.35, 0.1 / supersampling, 0.7)
    image = images([Scene((), (star,), ())], Grid(pixels, 0.1, supersampling), psf)[0, 0]
    where = (np.arange(pixels) - (pixels - 1) / 2) * 0.1
    assert image.sum() == pytest.approx(3, rel=2e-3)
    assert (image.sum(axis=0) * where).sum() / image.sum() == pytest.approx(x, abs=1e-3)
    assert (image.sum(axis=1) * where).sum() / image.sum() == pytest.approx(y, abs=1e-3)


def test_a_point_is_the_psf_at_its_place() -> None:
    """A Gaussian's pixels in closed form, in two bands, also beside the stamp and where nothing else shines."""
    sigma, places = 0.15, [(0.0, 0.0), (0.033, -0.071), (1.05, 0.2), (5.0, 0.0)]
    narrow, broad = (moffat(2.3548200450309493 * s, 0.05, 0.95) for s in (sigma, 1.3 * sigma))
    scenes = [Scene((), (Point((1.0, 2.0), *place),), ()) for place in places]
    found = images(scenes, Grid(20, 0.1, 2), torch.cat([narrow, broad], dim=1))
    edges = (np.arange(21) - 10) * 0.1
    for (x, y), image in zip(places, found, strict=True):
        for flux, width, band in ((1.0, sigma, image[0]), (2.0, 1.3 * sigma, image[1])):
            across, up = (
                np.diff([math.erf((e - c) / width / math.sqrt(2)) / 2 for e in edges]) for c in (x, y)
            )  # fmt: skip
            np.testing.assert_allclose(band, flux * np.outer(up, across), atol=2e-3 * flux / 20)


def test_surface_brightness_is_conserved_and_achromatic() -> None:
    """A flat galaxy is as bright in its arc as without a lens, and as red."""
    flat = Pixels((1.0, 3.0), np.ones((40, 40)), 0.02, 0.0, 0.1, 0.05)
    grid = Grid(60, 0.1, 2, refinement=1)
    parameters = scene.collate([Scene((LENS, SHEAR), (), (flat,)), Scene((), (), (flat,))], torch.float64)
    arc, alone = render.surface_brightness(parameters, grid).numpy()
    assert arc.max() == pytest.approx(alone.max(), rel=1e-9)
    assert arc.sum() > 3 * alone.sum()
    np.testing.assert_allclose(arc[1], 3 * arc[0], rtol=1e-12)
    assert arc.max() == pytest.approx(3 * grid.step**2 / 0.8**2, rel=1e-9)


def test_a_point_mass_makes_the_images_that_the_lens_equation_says() -> None:
    """theta = (beta +- sqrt(beta^2 + 4 theta_e^2)) / 2."""
    beta, theta_e = 0.3, 0.8
    s = Scene((PointMass(theta_e, 0.0, 0.0),), (), (Sersic((1.0,), 0.01, 1.0, 0.0, 0.0, beta, 0.0),))
    row = images([s], Grid(60, 0.05, 4), None)[0, 0, 29:31].sum(axis=0)
    where = (np.arange(60) - 29.5) * 0.05
    for sign in (1, -1):
        theta = (beta + sign * math.sqrt(beta**2 + 4 * theta_e**2)) / 2
        side = np.sign(where) == sign
        assert (row * where)[side].sum() / row[side].sum() == pytest.approx(theta, abs=0.03)


def _everything() -> Scene:
    image = np.random.default_rng(1).random((4, 5)) + 0.2
    lens_light = (
        Sersic((1.0, 0.8), 0.35, 2.5, 0.1, 0.15, 0.02, 0.03), Point((0.3, 0.2), 0.31, -0.12),
        Ring((0.5, 0.7), 0.4, 0.15, 0.1, -0.2, 0.02, -0.03, 2.0, 0.8, 1.0, 0.3),
    )  # fmt: skip
    source = (Sersic((0.4, 0.9), 0.2, 1.1, -0.1, 0.1, 0.05, 0.02), Pixels((0.6, 0.5), image, 0.15, 0.41, 0.031, 0.043))
    main = Sie(0.45, 0.1, -0.08, 0.01, 0.02, 0.05), Epl(0.3, 2.1, 0.1, 0.05, 0.32, -0.25, 0.05)
    return Scene((*main, Shear(0.03, 0.02, 0.0, 0.0), PointMass(0.1, -0.4, 0.3)), lens_light, source)


@pytest.mark.parametrize("refinement", [1, 4])
def test_every_parameter_has_its_gradient(refinement: int) -> None:
    """Of every profile, the image of a pixelated source and the PSF, against finite differences.

    These see a kink where a ray comes by a line between two of the source's pixels, as one in some thousands does.
    """
    parameters = scene.collate([_everything()], torch.float64)
    flat = [v for tables in parameters[1:] for t in tables for v in t.profile]
    kernel = moffat(0.25, 0.1, 0.3).expand(1, 2, -1, -1)

    def image(psf: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        rest = iter(values)
        groups = (tuple(t._replace(profile=_filled(t.profile, rest)) for t in tables) for tables in parameters[1:])
        filled = scene.Parameters(1, *groups)
        return render.render_batch(filled, Grid(9, 0.2, 2, refinement), Psf(psf))

    values = [v.clone().requires_grad_() for v in (kernel, *flat)]
    assert torch.autograd.gradcheck(image, values, atol=1e-6, rtol=1e-3, nondet_tol=1e-12)


def _filled(profile: Any, values: Any) -> Any:
    return type(profile)(*(next(values) for _ in profile))


def test_batches_do_not_mix_however_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    scenes = [drawn(rng, i) for i in range(5)]
    scenes[1:1] = [Scene((), (), ()), Scene((LENS,), (DISC, STAR, DISC), ())]
    grid, psf = Grid(24, 0.1, 2), torch.cat([moffat(0.2 + 0.02 * i, 0.05, 0.4) for i in range(7)])
    together = images(scenes, grid, psf)
    for samples in (1, 2 * 48**2, 3 * 48**2):
        monkeypatch.setitem(render._CHUNK_SAMPLES, "cpu", samples)
        np.testing.assert_allclose(images(scenes, grid, psf), together, atol=1e-14)
    for s, kernel, image in zip(scenes, psf, together, strict=True):
        np.testing.assert_allclose(images([s], grid, kernel[None])[0], image, atol=1e-14)
    assert not together[1].any()


def test_the_cached_transform_follows_the_psf() -> None:
    parameters, grid = scene.collate([Scene((), (DISC, STAR), ())]), Grid(20, 0.1, 2)
    kernels = moffat(0.2, 0.05, 0.4).float()
    psf = Psf(kernels)
    first = render.render_batch(parameters, grid, psf)
    assert psf.transform(21, 2) is psf.transform(21, 2)
    torch.testing.assert_close(first, render.render_batch(parameters, grid, psf, cache_invariants=False))
    kernels.copy_(moffat(0.4, 0.05, 0.4))
    second = render.render_batch(parameters, grid, psf)
    torch.testing.assert_close(second, render.render_batch(parameters, grid, Psf(kernels.clone())))
    assert not torch.allclose(first, second)


def test_without_psf_pixels_are_summed() -> None:
    found = images([Scene((), (DISC,), ())], Grid(60, 0.1, 2, margin=2), None)
    assert found.shape == (1, 1, 60, 60)
    assert found.sum() == pytest.approx(1, rel=1e-3)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_compiled_light_is_the_same() -> None:
    parameters = scene.collate([Scene((SHEAR,), (DISC,), (DISC._replace(r_sersic=r),)) for r in (0.2, 0.3)])
    grid, psf = Grid(24, 0.1, 2, refinement=1), Psf(moffat(0.3, 0.05, 0.4).float())
    plain, compiled = (render.render_batch(parameters, grid, psf, compiled=c) for c in (False, True))
    torch.testing.assert_close(plain, compiled, rtol=1e-5, atol=2e-6 * float(plain.max()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_draws_the_same() -> None:
    parameters = scene.collate([_everything()] * 3, torch.float64)
    moved = scene.Parameters(3, *(
        tuple(scene.Table(t.owner.cuda(), type(t.profile)(*(v.cuda() for v in t.profile))) for t in tables)
        for tables in parameters[1:]
    ))  # fmt: skip
    kernel = moffat(0.25, 0.1, 0.3).expand(1, 2, -1, -1)
    here, there = (render.render_batch(p, Grid(20, 0.2, 2), Psf(k)).cpu() for p, k in (
        (parameters, kernel), (moved, kernel.cuda()),
    ))  # fmt: skip
    torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"psf": moffat(0.3, 0.05, 1.2)}, r"psf must not exceed the stamp's 40 fine pixels, got 49 \(render\)"),
        ({"psf": moffat(0.3, 0.05, 0.4).expand(3, -1, -1, -1)}, r"psf must be one or 2 objects', got 3 \(render\)"),
        ({"psf": moffat(0.3, 0.05, 0.4).expand(-1, 2, -1, -1)}, r"flux must have the psf's 2 bands, got 1 \(Sersic\)"),
        ({"lens_light": STAR, "psf": None}, r"psf must be given where lens_light has a Point, got None \(render\)"),
        ({"source_light": STAR}, r"source_light must have a size, got a Point \(render\)"),
        ({"lens_light": DISC._replace(r_sersic=-0.1)}, r"r_sersic must be larger than 0 .*, got -0.1 \(Sersic of obj"),
        ({"source_light": DISC._replace(e1=math.nan)}, r"e1 must be a finite number, got nan \(Sersic of object 1\)"),
        ({"mass": LENS._replace(theta_e=-1.0)}, r"theta_e must be 0 or larger, got -1 \(Sie of object 1\)"),
        (
            {"mass": LENS._replace(e1=1.0)},
            r"\(e1, e2\) must have \|e\| .* below 1, got \(1, -0.1\) \(Sie of object 1\)",
        ),
    ],
)
def test_what_cannot_be_rendered_is_refused(change: dict[str, Any], message: str) -> None:
    profiles = {"mass": LENS, "lens_light": DISC, "source_light": DISC} | change
    psf = profiles.pop("psf", moffat(0.3, 0.05, 0.4))
    changed = Scene(*((profile,) for profile in profiles.values()))
    with pytest.raises(ValueError, match=message):
        images([Scene((LENS,), (DISC,), (DISC,)), changed], Grid(20, 0.1, 2), psf)


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        (
            torch.ones(1, 1, 4, 4) / 16,
            r"psf must be \(object or 1, band, k, k\) with k odd, got \(1, 1, 4, 4\) \(Psf\)",
        ),
        (torch.ones(1, 5, 5) / 25, r"psf must be \(object or 1, band, k, k\) with k odd, got \(1, 5, 5\) \(Psf\)"),
        (torch.ones(1, 1, 5, 5), r"psf must have a sum of 1, got one 24 off \(Psf\)"),
        (torch.full((1, 1, 5, 5), math.nan), r"psf must have a sum of 1, got one inf off \(Psf\)"),
    ],
)
def test_a_psf_that_is_none_is_refused(kernels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Psf(kernels)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 0.1, 2), r"pixels must be 1 or more, got 0 \(Grid\)"),
        ((20, 0.0, 2), r"pixel_scale must be larger than 0, got 0 \(Grid\)"),
        ((20, 0.1, 0), r"supersampling must be 1 or more, got 0 \(Grid\)"),
        ((20, 0.1, 2, 8, -1), r"margin must be 0 or more, got -1 \(Grid\)"),
    ],
)
def test_a_grid_that_is_none_is_refused(values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid(*values)
