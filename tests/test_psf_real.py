"""PSF matching on PSFs that surveys published: residual, FWHM by spline, flux, and noise by Monte Carlo."""

from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
from astropy.io import fits
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline

from lensml import config
from lensml.imaging import psf, psf_stamp
from lensml.store.stamps import Stamps

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "real"
PARAMS = config.load(ROOT / "params.yaml")
SIDE = 96
Float = NDArray[np.float64]
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="no sample of real survey files beside the checkout")


def des() -> Iterator[tuple[Float, float]]:
    for path in sorted(REAL.glob("des-lrg/lensPSF/*.fits")):
        with fits.open(path) as units:
            yield from ((unit.data, 0.263) for unit in units if unit.data is not None)


def sdss() -> Iterator[tuple[Float, float]]:
    yield from ((fits.getdata(path), 0.339) for path in sorted(REAL.glob("kids-sdss/SDSS/*psfim.fits")))


def kids() -> Iterator[tuple[Float, float]]:
    yield from ((fits.getdata(path), 0.2) for path in sorted(REAL.glob("kids-sdss/KiDS/*psfim.fits")))


def hst() -> Iterator[tuple[Float, float]]:
    for path in sorted(REAL.glob("hst-dinos/*/psf_*.h5")):
        with h5py.File(path) as file, h5py.File(path.with_name(path.name.replace("psf_", "image_", 1))) as image:
            scale = float(np.sqrt(abs(np.linalg.det(image["transform_pix2angle"][()]))))
            yield file["kernel_point_source"][()], scale


def hst_empirical() -> Iterator[tuple[Float, float]]:
    """The four times oversampled grid of STDPSFs, sampled at native pixels; -0.1 is its fill value."""
    grid = fits.getdata(REAL / "psf-hst-empirical" / "emp_psf_f814w.fits").astype(np.float64)
    for position in grid:
        half = 12
        yield position[50 - 4 * half : 51 + 4 * half : 4, 50 - 4 * half : 51 + 4 * half : 4].clip(0), 0.0396


def hst_infrared() -> Iterator[tuple[Float, float]]:
    """Of F160W; its pixel such that its width is that filter's, 0.15 arcsec."""
    yield fits.getdata(REAL / "psf-hst-empirical" / "psf_101.fits").astype(np.float64), 0.064


CASES: dict[str, tuple[Callable[[], Iterator[tuple[Float, float]]], str]] = {
    "des": (des, "des"),
    "sdss": (sdss, "sdss"),
    "kids": (kids, "kids"),
    "hst": (hst, "hst"),
    "hst_empirical": (hst_empirical, "hst"),
}


def stamps(image: Float, scale: float, survey: str, flux: Float) -> Stamps:
    """Objects of one band with the same PSF."""
    source, _ = psf_stamp.normalise(psf_stamp.odd_square(image.astype(np.float32)[None, None]), 63)
    catalogue = pl.DataFrame(
        {
            "object_id": [f"o{i}" for i in range(len(flux))],
            "survey": survey,
            "bands": [["r"]] * len(flux),
            "pixel_scale": scale,
            "sky_sigma": [[1.0]] * len(flux),
            "quality": 1.0,
            "quality_limit": "",
            "noise_correlation": [[0.0]] * len(flux),
            "fwhm_halfmax": (psf_stamp.fwhm_halfmax(source) * scale).tolist() * len(flux),
        }
    )
    ones = np.ones(flux.shape, dtype=np.float32)
    return Stamps(catalogue, flux.astype(np.float32), ones, np.repeat(source, len(flux), axis=0))


def resampled(image: Float, scale: float, onto: float) -> NDArray[np.float32]:
    """A PSF on pixels of `onto` arcsec, by a quintic spline; zero beyond its stamp."""
    half = image.shape[-1] // 2
    axis, reach = np.arange(-half, half + 1), int(half * scale / onto)
    want = np.arange(-reach, reach + 1) * onto / scale
    out = RectBivariateSpline(axis, axis, image, kx=5, ky=5)(want, want)
    return np.asarray(out / out.sum(), dtype=np.float32)


PAIRS = {
    "kids to sdss": (kids, sdss),
    "hst to des": (hst_empirical, lambda: islice(des(), 1)),
    "hst infrared to kids": (hst_infrared, kids),
}


def pairs(name: str) -> Iterator[tuple[Float, float, NDArray[np.float32]]]:
    """A PSF, its pixel scale, and the PSF on the same pixels that it is to become."""
    source, target = (list(read()) for read in PAIRS[name])
    aims = [resampled(np.asarray(image, float), scale, source[0][1]) for image, scale in target]
    for (image, scale), aim in islice(zip(cycle(source), cycle(aims)), max(len(source), len(target))):
        yield image, scale, aim


def laid_on(target: NDArray[np.float32], seen: Float) -> Float:
    """The target moved to where it fits best, by least squares on its slopes: PSFs stay where their cores were."""
    axis = np.arange(len(target), dtype=np.float64)
    surface, place = RectBivariateSpline(axis, axis, target, kx=5, ky=5), np.zeros(2)
    slopes = np.stack([slope.ravel() for slope in np.gradient(target.astype(np.float64))], axis=1)
    for _ in range(3):
        moved = surface(axis - place[0], axis - place[1])
        place -= np.linalg.lstsq(slopes, (seen - moved).ravel())[0]
    assert np.abs(place).max() < 0.6
    return np.asarray(surface(axis - place[0], axis - place[1]))


def spline_fwhm(image: Float) -> float:
    """Half-maximum width of the azimuthal mean of a quintic spline about the centre."""
    half = image.shape[-1] // 2
    axis = np.arange(-half, half + 1)
    surface = RectBivariateSpline(axis, axis, image, kx=5, ky=5)
    radii, angles = np.linspace(0, half * 0.9, 8 * half), np.linspace(0, 2 * np.pi, 16, endpoint=False)
    profile = surface.ev(np.outer(radii, np.sin(angles)), np.outer(radii, np.cos(angles))).mean(axis=1)
    beyond = int(np.argmax(profile < profile[0] / 2))
    near = slice(beyond, beyond - 2, -1)
    return float(2 * np.interp(profile[0] / 2, profile[near], radii[near]))


@pytest.mark.parametrize("case", CASES)
def test_real_psfs_reach_their_target(case: str) -> None:
    read, survey = CASES[case]
    target = PARAMS.surveys[survey].target_psf_fwhm
    params = PARAMS.psf_match.model_copy(update={"mode": "per_survey"})
    count = 0
    for image, scale in read():
        star = np.zeros((1, 1, SIDE, SIDE))
        unit = stamps(image, scale, survey, star).psf[0, 0]
        low = SIDE // 2 - unit.shape[0] // 2
        star[0, 0, low : low + unit.shape[0], low : low + unit.shape[0]] = 1e4 * unit
        out, refused = psf.match(stamps(image, scale, survey, star), PARAMS.surveys[survey], params)
        assert refused == []
        assert out.catalogue["psf_residual"][0] < 0.02
        seen = out.flux[0, 0, low : low + unit.shape[0], low : low + unit.shape[0]].astype(np.float64)
        assert spline_fwhm(seen) * scale == pytest.approx(target, rel=0.01)
        assert out.flux.sum() == pytest.approx(1e4, rel=5e-3)
        count += 1
    assert count >= 5


@pytest.mark.parametrize("case", CASES)
def test_noise_through_a_real_psf_has_the_variance_that_is_told(case: str) -> None:
    read, survey = CASES[case]
    image, scale = next(read())
    noise = np.random.default_rng(4).normal(0, 1, (24, 1, 128, 128))
    params = PARAMS.psf_match.model_copy(update={"mode": "per_survey"})
    out, refused = psf.match(stamps(image, scale, survey, noise), PARAMS.surveys[survey], params)
    assert refused == []
    inner = out.flux[..., 24:-24, 24:-24].astype(np.float64)
    assert inner.var() == pytest.approx(float(out.variance[0, 0, 64, 64]), rel=0.05)
    assert inner.std() == pytest.approx(out.sky_sigma[0, 0], rel=0.025)


@pytest.mark.parametrize("name", PAIRS)
def test_real_psfs_become_another_image_s_psf(name: str) -> None:
    params = PARAMS.psf_match.model_copy(update={"mode": "per_survey"})
    count = 0
    for image, scale, target in pairs(name):
        half = max(target.shape[0], 64) // 2 + image.shape[0] // 2 + 4
        star = np.zeros((1, 1, 2 * half + 1, 2 * half + 1))
        unit = stamps(image, scale, "hst", star).psf[0, 0]
        inner, reach = unit.shape[0] // 2, target.shape[0] // 2
        star[0, 0, half - inner : half + inner + 1, half - inner : half + inner + 1] = 1e4 * unit
        matched = psf.match_to(stamps(image, scale, "hst", star), target, params)
        assert matched.refused == []
        seen = matched.stamps.flux[0, 0].astype(np.float64)
        middle = seen[half - reach : half + reach + 1, half - reach : half + reach + 1]
        assert matched.stamps.flux.sum() == pytest.approx(1e4, rel=5e-3)
        aim = laid_on(target, middle / 1e4)
        assert np.abs(middle / 1e4 - aim).sum() < 0.02
        before = star[0, 0, half - reach : half + reach + 1, half - reach : half + reach + 1]
        assert np.abs(before / 1e4 - aim).sum() > 0.2  # the measure tells an unmatched PSF
        assert spline_fwhm(middle) == pytest.approx(spline_fwhm(aim), rel=0.01)
        assert matched.fwhm_arcsec[0, 0] == pytest.approx(psf_stamp.fwhm_halfmax(target) * scale, rel=0.01)
        count += 1
    assert count == {"kids to sdss": 5, "hst to des": 56, "hst infrared to kids": 5}[name]


@pytest.mark.parametrize("name", PAIRS)
def test_noise_through_another_image_s_psf_has_the_variance_that_is_told(name: str) -> None:
    image, scale, target = next(pairs(name))
    margin = target.shape[0] // 2 + 4
    count, inside = (48, 160) if target.shape[0] < 100 else (12, 800)  # thousands of patches as large as a PSF
    side = 2 * margin + inside
    noise = np.random.default_rng(4).normal(0, 1, (count, 1, side, side))
    matched = psf.match_to(stamps(image, scale, "hst", noise), target, PARAMS.psf_match)
    assert matched.refused == []
    inner = matched.stamps.flux[..., margin:-margin, margin:-margin].astype(np.float64)
    assert (inner**2).mean() == pytest.approx(float(matched.stamps.variance[0, 0, side // 2, side // 2]), rel=0.05)
    assert matched.stamps.sky_sigma[0, 0] ** 2 == pytest.approx((inner**2).mean(), rel=0.05)
