"""Rendering (oracles: lenstronomy's images, closed-form fluxes, a direct convolution, centroids)."""

import numpy as np
import pytest
import torch
from lenstronomy.Data.imaging_data import ImageData
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from scipy.signal import fftconvolve

from lensml.lensing import profiles, render
from lensml.lensing.render import Element, Lens, Scene

NO_LENS = Lens(0.0, 0.0, 0.0, 0.0, 0.0)
PIXELS, SCALE, FINE = 41, 0.1, 3


def _draw(elements: list[Element], lens: Lens = NO_LENS, pixels: int = PIXELS) -> np.ndarray:
    axis = render.grid(pixels, SCALE, FINE, torch.float64)
    return render.draw([Scene(lens, (tuple(elements),))], axis)[0, 0].numpy()


def _lenstronomy(source: dict[str, float], lens: Lens) -> np.ndarray:
    start = -(PIXELS - 1) / 2 * SCALE
    zeros, scale = np.zeros((PIXELS, PIXELS)), np.eye(2) * SCALE
    frame = ImageData(zeros, ra_at_xy_0=start, dec_at_xy_0=start, transform_pix2angle=scale)
    model = ImageModel(
        frame, PSF("NONE"), LensModel(["SIE", "SHEAR"]), LightModel(["SERSIC_ELLIPSE"]),
        kwargs_numerics={"supersampling_factor": FINE},
    )  # fmt: skip
    mass = [{"theta_E": lens.theta_e, "e1": lens.e1, "e2": lens.e2}, {"gamma1": lens.gamma1, "gamma2": lens.gamma2}]
    return np.asarray(model.image(mass, [source], []))


def test_an_arc_is_lenstronomys(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own approximate b_n on both sides."""
    monkeypatch.setattr(profiles, "sersic_b", lambda n: 1.9992 * n - 0.3271)
    lens = Lens(1.2, 0.15, -0.1, 0.04, -0.03)
    disc = {"R_sersic": 0.25, "n_sersic": 1.2, "e1": 0.1, "e2": 0.2, "center_x": 0.15, "center_y": -0.1}
    theirs = _lenstronomy({"amp": 1.0, **disc}, lens)
    total = float(profiles.sersic_flux(torch.tensor(0.25, dtype=torch.float64), torch.tensor(1.2, dtype=torch.float64)))
    element = Element(total, 0.15, -0.1, 0.25, 0.1, 0.2, sersic=1.2, lensed=True)
    ours = render.bin_pixels(torch.from_numpy(_draw([element], lens)), FINE).numpy()
    factor = ours.sum() / theirs.sum()  # lenstronomy's pixels are fluxes or brightnesses by version
    assert factor == pytest.approx(1.0, abs=1e-6) or factor == pytest.approx(SCALE**2, rel=1e-6)
    np.testing.assert_allclose(ours, theirs * factor, atol=2e-6 * ours.max())


def test_a_lens_magnifies_by_more_than_one_and_a_null_lens_not_at_all() -> None:
    source = Element(1.0, 0.1, 0.05, 0.15, 0.0, 0.0, lensed=True)
    assert _draw([source], Lens(1.0, 0.1, 0.0, 0.0, 0.0)).sum() > 3
    np.testing.assert_allclose(_draw([source]), _draw([source._replace(lensed=False)]), atol=1e-12)


@pytest.mark.parametrize(
    "element",
    [
        Element(7.0, 0.2, -0.3, 0.2, 0.1, 0.2),
        Element(7.0, 0.1, 0.0, 0.7, 0.1, -0.1, 1.0, False, 0.1, 6.0, 0.8, 0.0, 0.3),
    ],
    ids=["sersic", "ring"],
)
def test_flux_is_what_was_asked_for(element: Element) -> None:
    assert _draw([element], pixels=61).sum() == pytest.approx(7.0, rel=2e-3)


def test_elements_add_and_batches_do_not_mix() -> None:
    a, b = Element(1.0, 0.3, 0.1, 0.2, 0.1, 0.0), Element(2.0, 0.0, -0.4, 0.5, 0.0, 0.2, width=0.1)
    axis = render.grid(PIXELS, SCALE, FINE, torch.float64)
    maps = render.draw([Scene(NO_LENS, ((a, b), ())), Scene(NO_LENS, ((), (a,)))], axis).numpy()
    np.testing.assert_allclose(maps[0, 0], _draw([a]) + _draw([b]), atol=1e-14)
    np.testing.assert_allclose(maps[1, 1], _draw([a]), atol=1e-14)
    assert not maps[0, 1].any()
    assert not maps[1, 0].any()


@pytest.mark.parametrize("pixels", [40, 41])
def test_convolution_is_scipys_in_every_band(pixels: int) -> None:
    rng = np.random.default_rng(3)
    maps, kernels, colours = (
        rng.random((2, 2, pixels * 2, pixels * 2)),
        rng.random((2, 3, 11, 11)),
        rng.random((2, 2, 3)),
    )
    psf = render.transfer(torch.from_numpy(kernels), pixels * 2)
    ours = render.observe(torch.from_numpy(maps), torch.from_numpy(colours), psf, 2).numpy()
    coloured = np.einsum("ogyx,ogb->obyx", maps, colours)
    for o, b in np.ndindex(2, 3):
        fine = fftconvolve(coloured[o, b], kernels[o, b], mode="same")
        theirs = fine.reshape(pixels, 2, pixels, 2).sum(axis=(1, 3))
        np.testing.assert_allclose(ours[o, b], theirs, rtol=1e-10)


@pytest.mark.parametrize("pixels", [40, 41])
@pytest.mark.parametrize("supersampling", [1, 2, 3])
def test_a_star_stays_where_it_is(pixels: int, supersampling: int) -> None:
    """Even and odd stamps: the centre is (pixels - 1) / 2 in both."""
    axis = render.grid(pixels, SCALE, supersampling)
    star = Scene(NO_LENS, ((Element(1.0, 0.0, 0.0, 0.1, 0.0, 0.0),),))
    kernels = render.psf_stamps(np.array([[0.3]]), 3.5, SCALE / supersampling, 21 * supersampling // 2 * 2 + 1, 3)
    psf = render.transfer(kernels, len(axis))
    image = render.observe(render.draw([star], axis), torch.ones(1, 1, 1), psf, supersampling)[0, 0].numpy()
    where = np.arange(pixels) - (pixels - 1) / 2
    assert abs((image.sum(axis=0) * where).sum() / image.sum()) < 1e-4
    assert abs((image.sum(axis=1) * where).sum() / image.sum()) < 1e-4


def test_psf_stamps_are_pixel_integrals_of_unit_sum() -> None:
    stamp = render.psf_stamps(np.array([[0.2]]), 3.5, 0.1, 21, 5)[0, 0].numpy()
    fine = render.psf_stamps(np.array([[0.2]]), 3.5, 0.1, 21, 51)[0, 0].numpy()
    assert stamp.sum() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(stamp, fine, atol=0.02 * fine.max())
    np.testing.assert_allclose(stamp, stamp[::-1, ::-1], atol=1e-6)
