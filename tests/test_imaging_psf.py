"""PSF matching against closed forms, brute force in real space, Monte Carlo noise and planted faults."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from photutils.psf_matching import make_wiener_kernel
from scipy.signal import fftconvolve

from lensml import config
from lensml.imaging import psf, psf_stamp
from lensml.store.stamps import Stamps

PARAMS = config.load(Path(__file__).parents[1] / "params.yaml")
SCALE = 0.2
SIGMA = 1 / 2.3548200450309493
Array = NDArray[np.float64]


def params(**changed: Any) -> config.PsfMatch:
    return PARAMS.psf_match.model_copy(update={"mode": "per_survey", **changed})


def survey(target: float = 1.2) -> config.Survey:
    return PARAMS.surveys["kids"].model_copy(update={"target_psf_fwhm": target})


def gaussian(fwhm: float, side: int = 41, y: float = 0, x: float = 0, ratio: float = 1) -> Array:
    """Unit Gaussian; `fwhm` in arcsec, offsets in pixels, `ratio` stretches along x."""
    axis = np.arange(side) - side // 2
    sigma = fwhm / SCALE * SIGMA
    image = np.exp(-0.5 * ((axis[:, None] - y) ** 2 + ((axis - x) / ratio) ** 2) / sigma**2)
    return np.asarray(image / image.sum())


def moffat(fwhm: float, beta: float, side: int = 41) -> Array:
    axis = np.arange(side) - side // 2
    alpha = fwhm / SCALE / (2 * np.sqrt(2 ** (1 / beta) - 1))
    image = (1 + (axis[:, None] ** 2 + axis**2) / alpha**2) ** -beta
    return np.asarray(image / image.sum())


def batch(
    flux: Array,
    psfs: list[Array],
    variance: Array | None = None,
    bands: tuple[str, ...] = ("r",),
    correlation: float = 0.0,
    fwhm: float | None = None,
) -> Stamps:
    """Objects of `flux` (object, band, y, x), one PSF per object for all its bands."""
    count = len(flux)
    per_band = [[1.0] * len(bands)] * count
    measured = [[width] * len(bands) for width in psf_stamp.fwhm_halfmax(np.stack(psfs)) * SCALE]
    catalogue = pl.DataFrame(
        {
            "object_id": [f"o{i}" for i in range(count)],
            "survey": ["kids"] * count,
            "bands": [list(bands)] * count,
            "pixel_scale": [SCALE] * count,
            "fwhm_halfmax": measured if fwhm is None else [[fwhm] * len(bands)] * count,
            "psf_matched": [False] * count,
            "sky_sigma": per_band,
            "noise_correlation": [[correlation] * len(bands)] * count,
            "quality": [1.0] * count,
            "quality_limit": [""] * count,
        }
    )
    stack = np.stack([np.stack([p] * len(bands)) for p in psfs]).astype(np.float32)
    variance = np.ones_like(flux) if variance is None else variance
    return Stamps(catalogue, flux.astype(np.float32), variance.astype(np.float32), stack)


def star(side: int, fwhm: float, y: float, x: float) -> Array:
    """A star of 1e4 nJy at pixel (y, x) of a stamp."""
    axis = np.arange(side)
    sigma = fwhm / SCALE * SIGMA
    image = np.exp(-0.5 * ((axis[:, None] - y) ** 2 + (axis - x) ** 2) / sigma**2) / (2 * np.pi * sigma**2)
    return np.asarray(1e4 * image)[None, None]


def test_gaussian_becomes_the_gaussian_of_the_target() -> None:
    out, refused = psf.match(batch(star(64, 0.7, 30, 33), [gaussian(0.7)]), survey(), params())
    assert refused == []
    np.testing.assert_allclose(out.flux[0, 0], star(64, 1.2, 30, 33)[0, 0], atol=1e-4 * star(64, 1.2, 30, 33).max())
    assert out.catalogue["psf_residual"][0] < 1e-4
    assert out.catalogue["psf_fwhm"][0] == pytest.approx(1.2, rel=1e-4)
    assert out.catalogue["target_psf_fwhm"][0] == 1.2
    assert out.catalogue["psf_matched"][0]
    np.testing.assert_allclose(out.psf[0, 0], gaussian(1.2), atol=1e-4 * gaussian(1.2).max())


def test_kernel_of_a_gaussian_is_a_gaussian_so_that_noise_falls_in_closed_form() -> None:
    out, _ = psf.match(batch(star(64, 0.7, 32, 32), [gaussian(0.7)]), survey(), params())
    sigma = np.sqrt(1.2**2 - 0.7**2) / SCALE * SIGMA  # pixels, of the kernel
    assert out.sky_sigma[0, 0] == pytest.approx(1 / (2 * np.sqrt(np.pi) * sigma), rel=1e-3)
    assert out.variance[0, 0, 32, 32] == pytest.approx(1 / (4 * np.pi * sigma**2), rel=2e-3)
    assert out.catalogue["noise_correlation"][0][0] == pytest.approx(np.exp(-1 / (4 * sigma**2)), rel=1e-3)


@pytest.mark.parametrize("side", [63, 64])
@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.3, -0.4)])
def test_a_star_stays_where_it_was(side: int, offset: tuple[float, float]) -> None:
    """Also where the PSF is not quite in the middle of its stamp."""
    y, x = 30.25, 28.5
    source = moffat(0.7, 3) if offset == (0.0, 0.0) else gaussian(0.7, 41, *offset)
    out, _ = psf.match(batch(star(side, 0.7, y, x), [source]), survey(), params())
    axis = np.arange(side)
    flux = np.where(np.isfinite(out.variance[0, 0]), out.flux[0, 0], 0).astype(np.float64)
    near = flux[18:43, 16:41]
    centre = [(near.sum(axis=1 - k) * axis[b : b + 25]).sum() / near.sum() for k, b in ((0, 18), (1, 16))]
    np.testing.assert_allclose(centre, [y, x], atol=0.02)


@pytest.mark.parametrize("source", [gaussian(0.8), moffat(0.7, 2.5), moffat(0.9, 4.765), gaussian(0.7, ratio=1.3)])
def test_flux_is_kept_and_the_target_reached(source: Array) -> None:
    flux = np.zeros((1, 1, 96, 96))
    flux[0, 0, 28:69, 28:69] = 1e4 * source
    out, refused = psf.match(batch(flux, [source]), survey(), params())
    assert refused == []
    assert out.flux.sum() == pytest.approx(1e4, rel=5e-3)
    assert out.catalogue["psf_residual"][0] < 0.02
    assert out.catalogue["psf_fwhm"][0] == pytest.approx(1.2, rel=0.01)
    assert out.flux.max() == pytest.approx(1e4 * gaussian(1.2).max(), rel=0.01)


def test_equals_photutils_and_scipy_in_real_space() -> None:
    rng = np.random.default_rng(3)
    source = moffat(0.8, 3, 61)
    flux, variance = rng.normal(0, 1, (1, 1, 64, 64)), rng.uniform(1, 3, (1, 1, 64, 64))
    out, _ = psf.match(batch(flux, [source], variance), survey(), params())
    kernel = make_wiener_kernel(source, gaussian(1.2, 61), regularization=params().regularisation ** 2)
    inner = (slice(20, 44), slice(20, 44))
    np.testing.assert_allclose(out.flux[0, 0][inner], fftconvolve(flux[0, 0], kernel, "same")[inner], atol=5e-3 * 0.1)
    expected = fftconvolve(variance[0, 0], kernel**2, "same")
    np.testing.assert_allclose(out.variance[0, 0][inner], expected[inner], rtol=5e-3)


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_variance_and_sky_sigma_are_those_of_many_noise_draws(correlation: float) -> None:
    """Noise that was Gaussian-correlated before must be told, and is then propagated as it is."""
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 1, (24, 1, 100, 100))
    if correlation:  # coloured by the root of the power spectrum of correlation^(d^2)
        apart = np.minimum(np.arange(100), 100 - np.arange(100))
        power = np.fft.fft(correlation ** (apart**2.0)).real
        noise = np.fft.ifft2(np.fft.fft2(noise) * np.sqrt(np.outer(power, power))).real
    noise = noise[:, :, 10:90, 10:90]
    out, _ = psf.match(batch(noise, [moffat(0.7, 3)] * 24, correlation=correlation), survey(), params())
    inner = out.flux[..., 8:-8, 8:-8].astype(np.float64)
    assert inner.var() == pytest.approx(out.variance[0, 0, 40, 40], rel=0.05)
    assert inner.std() == pytest.approx(out.sky_sigma[0, 0], rel=0.025)
    found = (inner[..., 1:] * inner[..., :-1]).mean() / inner.var()
    assert found == pytest.approx(out.catalogue["noise_correlation"][0][0], abs=0.02)


def test_what_cannot_be_matched_is_refused_in_words_and_the_rest_keeps_its_order() -> None:
    flux = np.concatenate([star(64, 0.7, 32, 32)] * 5)
    sources = [gaussian(0.7), gaussian(1.3), gaussian(0.8), gaussian(0.7, 41, 0.9, 0), gaussian(0.6, ratio=3.4)]
    out, refused = psf.match(batch(flux, sources), survey(), params())
    assert out.catalogue["object_id"].to_list() == ["o0", "o2"]
    assert dict(refused).keys() == {"o1", "o3", "o4"}
    assert dict(refused)["o1"] == "PSF in band r must be narrower than the target of 1.2 arcsec, got FWHM 1.3 arcsec"
    assert dict(refused)["o3"] == "PSF in band r must be within 0.75 pixels of its stamp's centre, got 0.9"
    assert "amplifying" in dict(refused)["o4"] or "narrower" in dict(refused)["o4"]


def test_all_refused_leaves_an_empty_batch() -> None:
    out, refused = psf.match(batch(star(64, 0.7, 32, 32), [gaussian(1.5)]), survey(), params())
    assert (out.catalogue.height, [name for name, _ in refused]) == (0, ["o0"])


def test_a_target_that_the_pixels_cannot_hold_is_refused() -> None:
    _, refused = psf.match(batch(star(64, 0.7, 32, 32), [gaussian(0.3)]), survey(0.39), params())
    assert refused == [("o0", "target PSF must span 2 pixels, got 0.39 arcsec on pixels of 0.2 arcsec")]


def test_without_a_psf_a_gaussian_of_the_fwhm_that_is_told_is_taken() -> None:
    told = batch(star(64, 0.8, 32, 32), [gaussian(1) * 0], fwhm=0.8)
    out, _ = psf.match(told, survey(), params())
    np.testing.assert_allclose(out.flux[0, 0], star(64, 1.2, 32, 32)[0, 0], atol=1e-4 * star(64, 1.2, 32, 32).max())
    assert not out.psf.any()
    assert out.catalogue["fwhm_moment"].to_list() == [[None]]
    assert out.catalogue["fwhm_halfmax"][0][0] == pytest.approx(1.2, rel=1e-4)


def test_bad_pixels_are_filled_or_told() -> None:
    flux, variance = star(64, 0.7, 32, 32), np.ones((1, 1, 64, 64))
    spoilt = flux.copy()
    spoilt[0, 0, 32, 35], variance[0, 0, 32, 35] = 1e9, np.inf  # one cosmic ray beside the star
    spoilt[0, 0, 8:20, 8:20], variance[0, 0, 8:20, 8:20] = 1e9, np.inf
    out, _ = psf.match(batch(spoilt, [gaussian(0.7)], variance), survey(), params())
    bad = ~np.isfinite(out.variance[0, 0])
    assert bad[9:19, 9:19].all()
    assert not bad[22:60, 22:60].any()
    assert (out.flux[0, 0][bad] == 0).all()
    error = np.abs(out.flux - star(64, 1.2, 32, 32))[0, 0][~bad]
    assert error.max() < 0.02 * star(64, 1.2, 32, 32).max()
    assert out.catalogue["quality"][0] == pytest.approx(1 - bad.mean())
    assert out.catalogue["quality_limit"][0] == "bad pixels"


def test_quality_that_something_else_limits_more_is_kept() -> None:
    shallow = batch(star(64, 0.7, 32, 32), [gaussian(0.7)])
    told = shallow.catalogue.with_columns(quality=pl.lit(0.2), quality_limit=pl.lit("shallow"))
    out, _ = psf.match(Stamps(told, shallow.flux, shallow.variance, shallow.psf), survey(), params())
    assert out.catalogue.select("quality", "quality_limit").row(0) == (0.2, "shallow")


def test_a_border_is_told_and_a_flat_sky_stays_flat() -> None:
    out, _ = psf.match(batch(np.full((1, 1, 48, 52), 7.0), [moffat(0.7, 3)]), survey(), params())
    bad = ~np.isfinite(out.variance[0, 0])
    kernel = make_wiener_kernel(moffat(0.7, 3, 61), gaussian(1.2, 61), regularization=params().regularisation ** 2)
    seen = fftconvolve(np.ones((48, 52)), kernel**2, "same") / (kernel**2).sum()
    clear = np.abs(seen - 0.9) > 1e-3
    np.testing.assert_array_equal(bad[clear], (seen < 0.9)[clear])
    assert 0 < bad.sum() < 2 * 4 * 52
    np.testing.assert_allclose(out.flux[0, 0][~bad], 7.0, rtol=1e-5)


def test_one_by_one_equals_a_batch() -> None:
    rng = np.random.default_rng(8)
    flux = rng.normal(0, 1, (9, 2, 64, 64))
    whole = batch(flux, [moffat(f, 3) for f in np.linspace(0.5, 0.9, 9)], bands=("g", "r"))
    scales = [SCALE, SCALE * 0.8, SCALE] * 3
    whole = Stamps(
        whole.catalogue.with_columns(pl.Series("pixel_scale", scales)), whole.flux, whole.variance, whole.psf
    )
    out, _ = psf.match(whole, survey(), params())
    assert out.catalogue["object_id"].to_list() == whole.catalogue["object_id"].to_list()
    for i in range(9):
        one = Stamps(whole.catalogue[i], whole.flux[i : i + 1], whole.variance[i : i + 1], whole.psf[i : i + 1])
        alone, _ = psf.match(one, survey(), params())
        np.testing.assert_array_equal(alone.flux[0], out.flux[i])
        np.testing.assert_array_equal(alone.variance[0], out.variance[i])


def test_single_precision_is_enough_beside_a_bright_star() -> None:
    flux = 1e2 * star(64, 0.7, 32, 32)
    out, _ = psf.match(batch(flux, [gaussian(0.7)]), survey(), params())
    expected = 1e2 * star(64, 1.2, 32, 32)
    far = (0, 0, slice(4, 12), slice(4, 60))  # more than three target FWHMs away
    assert np.abs(out.flux - expected)[far].max() < 2e-5 * expected.max()


def test_modes() -> None:
    stamps = batch(star(64, 0.7, 32, 32), [gaussian(0.7)])
    assert psf.match(stamps, survey(), params(mode="off")) == (stamps, [])
    out, _ = psf.match(stamps, survey(), params(mode="common", common_target_fwhm=1.5))
    assert out.catalogue["target_psf_fwhm"][0] == 1.5


def test_a_band_without_a_good_pixel_stays_bad_and_leaves_the_others_alone() -> None:
    flux, variance = np.repeat(star(48, 0.7, 24, 24), 2, axis=1), np.ones((1, 2, 48, 48))
    variance[0, 0] = np.inf
    out, refused = psf.match(batch(flux, [gaussian(0.7)], variance, ("g", "r")), survey(), params())
    assert refused == []
    assert not np.isfinite(out.variance[0, 0]).any()
    assert not out.flux[0, 0].any()
    np.testing.assert_allclose(out.flux[0, 1, 12:36, 12:36], star(48, 1.2, 24, 24)[0, 0, 12:36, 12:36], atol=0.1)
    assert out.catalogue["quality"][0] == 0
