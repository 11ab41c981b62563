"""PSFs from stars: planted ones of known profile, what must not pass for one, real fields with a PSF of their own."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline
from scipy.signal import fftconvolve

from lensml.config import StarRules
from lensml.imaging import noise, psf_stamp
from lensml.imaging.stars import psf_from_stars

REAL = Path(__file__).parents[2] / "shared" / "real"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no sample of real survey files beside the checkout")
Float = NDArray[np.float64]

RULES = StarRules(
    snr_min=100.0,
    exclude_radius_arcsec=4.0,
    fwhm_factor=[0.6, 1.6],
    lone_fwhm_factor=[0.8, 1.2],
    repeated_min=3,
    locus_width=0.1,
    ellipticity_max=0.15,
    moment_ratio_max=1.17,
    bend_min=-0.1,
    blend_max=0.1,
    stars_min=1,
    psf_pixels=41,
)
SIDE, SCALE = 96, 0.2  # pixels, arcsec
FWHM, BETA = 4.0, 3.5  # pixels


def moffat(place: tuple[float, float], fwhm: float = FWHM, beta: float = BETA, side: int = SIDE) -> Float:
    """Of unit peak."""
    y, x = np.indices((side, side))
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    return (1 + ((y - place[0]) ** 2 + (x - place[1]) ** 2) / alpha**2) ** -beta


def disc(place: tuple[float, float], radius: float, axis_ratio: float = 1.0, index: float = 1.0) -> Float:
    """A Sersic galaxy (half-light radius in pixels) seen through the PSF, of unit peak."""
    fine = 3
    y, x = (np.indices((SIDE * fine, SIDE * fine)) + 0.5) / fine - 0.5
    r = np.sqrt(axis_ratio * (x - place[1]) ** 2 + (y - place[0]) ** 2 / axis_ratio) / radius
    light = np.exp(-(2 * index - 1 / 3) * r ** (1 / index)).reshape(SIDE, fine, SIDE, fine).mean(axis=(1, 3))
    seen = fftconvolve(light, moffat((20, 20), side=41), mode="same")
    return seen / seen.max()


def stamps(*sources: Float, count: int = 1, seed: int = 1) -> NDArray[np.float32]:
    """(count, 1, y, x): the sources and a bright central galaxy, on noise of unit sigma."""
    galaxy = 3000 * disc((47.5, 47.5), 5.0, 0.7, 4.0)
    noisy = np.random.default_rng(seed).normal(size=(count, 1, SIDE, SIDE)) + galaxy
    return (noisy + sum(sources, np.zeros((SIDE, SIDE)))).astype(np.float32)


def measure(
    flux: NDArray[np.float32], typical: float = FWHM, bad: NDArray[np.bool_] | None = None, rules: StarRules = RULES
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    bad = np.zeros(flux.shape, dtype=bool) if bad is None else bad
    one = np.ones(flux.shape[:2])
    return psf_from_stars(flux, one, bad, np.full(len(flux), SCALE), np.array([typical * SCALE]), rules)


def spline_fwhm(psf: NDArray[np.floating]) -> float:
    """Half-maximum width of the azimuthal mean of a quintic spline about the middle."""
    half = psf.shape[-1] // 2
    axis = np.arange(-half, half + 1)
    surface = RectBivariateSpline(axis, axis, psf.astype(np.float64), kx=5, ky=5)
    radii, angles = np.linspace(0, half * 0.9, 4000), np.linspace(0, 2 * np.pi, 48, endpoint=False)
    profile = surface.ev(np.outer(radii, np.sin(angles)), np.outer(radii, np.cos(angles))).mean(axis=1)
    return float(2 * radii[np.argmax(profile < profile[0] / 2)])


@pytest.mark.parametrize(("fwhm", "beta"), [(3.0, 2.5), (4.0, 3.5), (4.0, 200.0), (5.5, 3.0)])
@pytest.mark.parametrize("places", [[(15.0, 15.0)], [(13.3, 78.7), (80.5, 20.5), (79.8, 76.2)]])
def test_width_and_shape_of_planted_stars(fwhm: float, beta: float, places: list[tuple[float, float]]) -> None:
    sources = [(300 + 200 * k) * moffat(place, fwhm, beta) for k, place in enumerate(places)]
    psf, count = measure(stamps(*sources, count=5), fwhm * 1.1)
    assert (count == len(places)).all()
    truth = moffat((20, 20), fwhm, beta, 41)
    truth /= truth.sum()
    core = truth > truth.max() / 30
    for stamp in psf[:, 0]:
        assert stamp.sum() == pytest.approx(1, abs=1e-5)
        assert spline_fwhm(stamp) == pytest.approx(fwhm, rel=0.03)
        assert psf_stamp.fwhm_halfmax(stamp) == pytest.approx(fwhm, rel=0.03)
        assert np.abs(stamp - truth).sum() < 0.2  # most of it faint wings beneath the noise, and the galaxy's halo
        assert np.abs(stamp / stamp[core].sum() - truth / truth[core].sum())[core].sum() < 0.06


def test_central_object_is_never_a_star() -> None:
    """Even a star: the stamp is of it."""
    flux = np.random.default_rng(2).normal(size=(3, 2, SIDE, SIDE)) + 1000 * moffat((47.5, 47.5))
    psf, count = measure(flux.astype(np.float32))
    assert (count == 0).all()
    assert (psf == 0).all()
    _, count = measure(flux.astype(np.float32), rules=RULES.model_copy(update={"exclude_radius_arcsec": 0.01}))
    assert (count == 1).all()


@pytest.mark.parametrize("objects", [0, 3])
def test_no_star_no_psf(objects: int) -> None:
    psf, count = measure(stamps(count=objects))
    assert psf.shape == (objects, 1, 41, 41)
    assert (count == 0).all()
    assert (psf == 0).all()


@pytest.mark.parametrize(
    ("radius", "axis_ratio", "index"),
    [(0.5, 1.0, 1.0), (1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.0, 0.4, 1.0), (1.0, 1.0, 4.0), (2.0, 0.6, 4.0)],
)
@pytest.mark.parametrize("places", [[(15.0, 15.0)], [(14.3, 79.7), (80.1, 17.4), (79.0, 77.6)]])
def test_galaxies_alone_give_no_psf(
    radius: float, axis_ratio: float, index: float, places: list[tuple[float, float]]
) -> None:
    """Half-light radii in units of the PSF's FWHM; three of one size share no stars' size with the survey."""
    sources = [500 * disc(place, radius * FWHM, axis_ratio, index) for place in places]
    rules = RULES.model_copy(update={"fwhm_factor": [0.6, 1.4]})
    assert (measure(stamps(*sources, count=2), rules=rules)[1] == 0).all()


def test_a_star_among_galaxies_is_told_by_its_size() -> None:
    galaxies = [500 * disc(place, 0.4 * FWHM) for place in [(14.3, 79.7), (80.1, 17.4)]]
    flux = stamps(*galaxies, 400 * moffat((79.0, 77.6)), count=4)
    assert (measure(stamps(*galaxies, count=1), 1.2 * FWHM)[1] > 0).all()  # they would pass for stars
    psf, count = measure(flux, 1.2 * FWHM)
    assert (count == 1).all()
    assert [spline_fwhm(stamp) for stamp in psf[:, 0]] == pytest.approx([FWHM] * 4, rel=0.03)


def test_a_lone_star_must_be_near_the_surveys_width_and_three_need_not() -> None:
    places = [(14.3, 79.7), (80.1, 17.4), (79.0, 77.6)]
    sources = [400 * moffat(place) for place in places]
    assert measure(stamps(sources[0]), FWHM / 1.4)[1] == 0
    assert measure(stamps(*sources), FWHM / 1.4)[1] == 3
    assert measure(stamps(*sources), FWHM / 1.8)[1] == 0


@pytest.mark.parametrize("clip", [0.3, 0.5, 0.7])
def test_a_flat_top_is_no_star(clip: float) -> None:
    star = 5000 * moffat((15.0, 15.3))
    assert measure(stamps(star))[1] == 1
    assert measure(stamps(np.minimum(star, clip * 5000)))[1] == 0


def test_bad_pixels_are_never_a_stars_core_and_are_filled_elsewhere() -> None:
    flux = stamps(500 * moffat((20.0, 20.3)))
    bad = np.zeros(flux.shape, dtype=bool)
    bad[..., 30, 12:26] = True
    flux[bad] = 1e6
    psf, count = measure(flux, bad=bad)
    assert count == 1
    assert spline_fwhm(psf[0, 0]) == pytest.approx(FWHM, rel=0.03)
    bad[..., 21, 20] = True
    assert measure(flux, bad=bad)[1] == 0


def test_blends_and_borders_are_no_stars() -> None:
    star = 500 * moffat((15.0, 15.3))
    assert measure(stamps(star, 150 * moffat((15.0, 19.8))))[1] == 0
    assert measure(stamps(500 * moffat((15.0, 2.0))))[1] == 0
    psf, count = measure(stamps(star, 300 * moffat((15.0, 27.3))))  # further away it is masked
    assert count >= 1
    assert spline_fwhm(psf[0, 0]) == pytest.approx(FWHM, rel=0.03)


def test_a_cosmic_ray_is_no_star() -> None:
    hit = np.zeros((SIDE, SIDE))
    hit[15, 15:17] = 800
    assert measure(stamps(hit))[1] == 0


def test_too_few_stars_give_none() -> None:
    psf, count = measure(stamps(500 * moffat((15.0, 15.3))), rules=RULES.model_copy(update={"stars_min": 2}))
    assert count == 0
    assert (psf == 0).all()


def test_every_object_and_band_has_its_own() -> None:
    """The same stars in other company give the same PSF, up to rounding."""
    flux = np.concatenate(
        [
            np.stack([stamps(500 * moffat((15, 15)))[0], stamps(500 * moffat((80, 15), 5.0))[0]], axis=1)[:, :, None],
            np.stack([stamps(seed=3)[0], stamps(500 * moffat((80, 80)), seed=4)[0]], axis=1)[:, :, None],
        ]
    )[:, :, 0]
    typical = np.array([FWHM, 1.2 * FWHM]) * SCALE
    ones, none = np.ones((2, 2)), np.zeros(flux.shape, dtype=bool)
    psf, count = psf_from_stars(flux, ones, none, np.full(2, SCALE), typical, RULES)
    assert count.tolist() == [[1, 1], [0, 1]]
    alone, _ = psf_from_stars(flux[:1, 1:], ones[:1, 1:], none[:1, 1:], np.full(1, SCALE), typical[1:], RULES)
    assert np.allclose(psf[0, 1], alone[0, 0], atol=1e-6)
    assert spline_fwhm(psf[0, 1]) == pytest.approx(5.0, rel=0.03)


def real(path: Path, unit: int = 0) -> NDArray[np.float32]:
    with fits.open(path, memmap=False) as units:
        return units[unit].data.astype(np.float32)


def from_real(
    image: NDArray[np.float32], scale: float, typical: float, rules: StarRules
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    flux = image[None, None]
    bad = ~np.isfinite(flux)
    found = noise.measure(flux, bad)
    sky = flux - found.level.astype(np.float32)[..., None, None]
    return psf_from_stars(sky, found.sky_sigma, bad, np.array([scale]), np.array([typical]), rules)


@needs_real
@pytest.mark.parametrize(("band", "typical"), [("g", 0.84), ("r", 0.73), ("i", 0.78)])
def test_a_real_field_of_galaxies_gives_none(band: str, typical: float) -> None:
    image = real(REAL / "kids-field" / f"KiDS-test_{band}.fits")
    assert from_real(image, 0.2, typical, RULES.model_copy(update={"snr_min": 30.0}))[1] == 0


@needs_real
def test_stamps_that_are_of_stars_give_none() -> None:
    """Ten HSC stars, each in the middle of 25 x 25 pixels."""
    paths = sorted((REAL / "hsc-stars" / "images").iterdir())
    assert len(paths) == 10
    for path in paths:
        assert from_real(real(path, 1), 0.168, 0.61, RULES.model_copy(update={"snr_min": 30.0}))[1] == 0


@needs_real
@pytest.mark.parametrize(("survey", "scale", "typical"), [("KiDS", 0.2, 0.73), ("SDSS", 0.339, 1.2)])
def test_stars_beside_real_galaxies_have_their_files_psf(survey: str, scale: float, typical: float) -> None:
    """Measured: 1.3, 2.2 and 2.7 % of the FWHM of the PSF that was published with the image."""
    found = []
    for path in sorted((REAL / "kids-sdss" / survey).glob("*fitim.fits")):
        psf, count = from_real(real(path), scale, typical, RULES.model_copy(update={"snr_min": 50.0}))
        published = psf_stamp.clean(real(path.with_name(path.name.replace("fitim", "psfim"))))
        found += [float(psf_stamp.fwhm_halfmax(psf)[0, 0] / psf_stamp.fwhm_halfmax(published))] if count[0, 0] else []
    assert len(found) >= 1
    assert found == pytest.approx([1.0] * len(found), rel=0.05)
