"""Noise measurement on noise whose sigma and correlation are known in closed form."""

import numpy as np
import pytest
from astropy.stats import mad_std
from cutouts_folder import gaussian
from scipy import ndimage

from lensml.imaging import noise

SHAPE = (12, 2, 64, 64)  # (object, band, y, x)


def white(seed=1):
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def none_bad():
    return np.zeros(SHAPE, dtype=bool)


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e9])
def test_white_noise(scale):
    found = noise.measure((scale * (white() * 3 + 7)).astype(np.float32), none_bad())
    assert np.mean(found.sky_sigma) == pytest.approx(3 * scale, rel=0.01)
    assert np.std(found.sky_sigma) < 0.03 * 3 * scale  # MAD of 4096 pixels scatters by 1.8 %
    assert np.mean(found.level) == pytest.approx(7 * scale, rel=0.01)
    assert abs(np.mean(found.correlation)) < 0.02  # the mean over 15 x 15 takes 1/225 and more of every pixel


@pytest.mark.parametrize(("kernel", "rho"), [([1.0, 1.0], 0.5), ([1.0, 2.0, 1.0], 2 / 3), ([1.0, -1.0], -0.5)])
def test_correlated_noise(kernel, rho):
    """White noise through a filter k along x: rho_1 = sum k_i k_i+1 / sum k_i^2, sigma = sqrt(sum k^2)."""
    wide = np.random.default_rng(2).normal(size=(*SHAPE[:3], SHAPE[3] + len(kernel) - 1))
    flux = sum(k * wide[..., i : i + SHAPE[3]] for i, k in enumerate(kernel)).astype(np.float32)
    found = noise.measure(flux, none_bad())
    assert np.mean(found.correlation) == pytest.approx(rho, abs=0.02)
    assert np.mean(found.sky_sigma) == pytest.approx(np.linalg.norm(kernel), rel=0.02)


def test_sources_and_masks_do_not_bias():
    flux, bad = white(), none_bad()
    flux += 5e4 * gaussian((64, 64), 6.0)  # a bright galaxy
    flux += 500 * gaussian((64, 64), 4.0, (10.0, 50.0))  # and a neighbour
    bad[..., :20] = True
    flux[bad] = 1e30
    flux[0, 0, 40, 30] = np.nan
    bad[0, 0, 40, 30] = True
    found = noise.measure(flux, bad)
    assert np.mean(found.sky_sigma) == pytest.approx(1.0, rel=0.03)
    assert abs(np.mean(found.level)) < 0.05
    assert abs(np.mean(found.correlation)) < 0.03
    assert not found.sky[:, :, 32, 32].any()
    assert not (found.sky & bad).any()


def test_halo_of_a_galaxy_that_fills_its_stamp_is_no_noise():
    """An elliptical on a small stamp: no pixel is free of it, and sigma is known all the same."""
    radius = np.hypot(*(np.indices((64, 64)) - 31.5)) + 1
    flux = white() + (200 / radius).astype(np.float32)  # 4 sky sigmas in the corners
    found = noise.measure(flux, none_bad())
    assert np.mean(found.sky_sigma) == pytest.approx(1, rel=0.12)
    assert np.mean(mad_std(flux, axis=(-2, -1))) > 2.5  # what a plain estimate says
    assert abs(np.mean(found.correlation)) < 0.2


def test_slow_noise_of_resampled_pixels_keeps_its_sigma_beside_a_galaxy():
    """As of Euclid's infrared: a third of the pixels made into all; a mean over 15 x 15 would take a twentieth."""
    rng = np.random.default_rng(8)
    flux = ndimage.zoom(rng.normal(size=(24, 2, 40, 40)), (1, 1, 3, 3), order=3)[..., 10:110, 10:110]
    truth = flux.std()
    flux = (flux + 300 * truth * gaussian((100, 100), 8.0, (49.5, 49.5)) * 100).astype(np.float32)
    found = noise.measure(flux, np.zeros(flux.shape, dtype=bool))
    assert np.mean(found.sky_sigma) == pytest.approx(truth, rel=0.03)
    assert np.mean(found.correlation) == pytest.approx(0.85, abs=0.02)


def test_a_steep_halo_on_slow_noise_is_no_noise():
    rng = np.random.default_rng(9)
    flux = ndimage.gaussian_filter(rng.normal(size=SHAPE), (0, 0, 0.8, 0.8), mode="wrap")
    truth, radius = flux.std(), np.hypot(*(np.indices((64, 64)) - 31.5)) + 1
    found = noise.measure((flux + 200 * truth / radius).astype(np.float32), none_bad())
    assert np.mean(found.sky_sigma) == pytest.approx(truth, rel=0.12)


def test_level_is_numpy_s_median():
    flux, bad = white(), np.random.default_rng(3).random(SHAPE) < 0.3
    found = noise.measure(flux, bad)
    assert found.level[3, 1] == pytest.approx(np.median(flux[3, 1][found.sky[3, 1]]), abs=1e-6)
    assert found.sky_sigma[3, 1] == pytest.approx(mad_std(flux[3, 1][found.sky[3, 1]]), rel=0.02)


def test_ratio_to_the_plane():
    found = noise.measure(white() * 2, none_bad())
    variance = np.full(SHAPE, 16.0, dtype=np.float32)
    variance[:, :, 0] = np.inf
    assert np.mean(noise.over_plane(found, variance)) == pytest.approx(0.5, rel=0.02)


def test_nothing_to_measure_is_not_a_number_or_zero():
    flux, bad = white(), none_bad()
    bad[0] = True
    flux[1] = 4.0
    found = noise.measure(flux, bad)
    assert np.isnan(found.sky_sigma[0]).all()
    assert (found.sky_sigma[1] == 0).all()
    assert (found.sky_sigma[2:] > 0).all()


def test_objects_do_not_influence_each_other():
    flux = white()
    alone = noise.measure(flux[4:5], none_bad()[4:5])
    assert np.array_equal(alone.sky_sigma[0], noise.measure(flux, none_bad()).sky_sigma[4])


A = 0.25  # of the filter (A, 1, A): noise of lag-1 correlation 2 A / (1 + 2 A^2) = 0.444 and sigma 1 + 2 A^2
RHO, SIGMA = 2 * A / (1 + 2 * A**2), 1 + 2 * A**2


def filtered(shape, seed):
    """White noise through the filter along both axes."""
    white = np.random.default_rng(seed).normal(size=shape)
    for axis in (-2, -1):
        white = ndimage.convolve1d(white, [A, 1, A], axis=axis, mode="wrap")
    return white


def galaxy(pixels, seed, objects):
    """Ellipticals of Sersic index 4 that fill the stamp, off its centre, twisted, with a companion and an arc."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((pixels, pixels)) - (pixels - 1) / 2
    stamps = []
    for _ in range(objects):
        dx, dy = x - rng.uniform(-0.5, 0.5), y - rng.uniform(-0.5, 0.5)
        angle = rng.uniform(0, np.pi) + 0.01 * np.hypot(dx, dy)  # a twist of 17 deg to the stamp's edge
        q = rng.uniform(0.5, 1.0)
        along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        radius = np.sqrt(q * along**2 + across**2 / q + 1)
        halo = (pixels / 48) ** 1.5 * 10 ** rng.uniform(1, 1.8) * np.exp(-7.67 * ((radius / (pixels / 5)) ** 0.25 - 1))
        at = rng.uniform(0.15, 0.35, 2) * pixels * rng.choice([-1, 1], 2)
        companion = 100 * np.exp(-np.hypot(x - at[0], y - at[1]) / 1.5)
        arc = 20 * np.exp(-((radius - pixels / 7) ** 2) / 5) * np.maximum(np.cos(angle - np.arctan2(dy, dx)), 0) ** 4
        stamps.append(halo + companion + arc)
    return np.stack(stamps)[:, None]


@pytest.fixture
def without_the_step(monkeypatch):
    """Measure as if no plane had a halo."""

    def measured(flux):
        with monkeypatch.context() as patch:
            patch.setattr(noise, "_without_halo", lambda found, *_: np.zeros(found.sky_sigma.shape, dtype=bool))
            return noise.measure(flux, np.zeros(flux.shape, dtype=bool))

    return measured


@pytest.mark.parametrize(("pixels", "objects"), [(48, 200), (65, 100), (100, 60)])
@pytest.mark.parametrize("rho", [0.0, RHO])
def test_a_galaxy_that_fills_its_stamp_with_companions_and_arcs_is_no_noise(without_the_step, pixels, objects, rho):
    """Where neighbours share little, little of a halo is left in sigma, and it is not looked for."""
    shape = (objects, 1, pixels, pixels)
    planted = filtered(shape, 4) / SIGMA if rho else np.random.default_rng(4).normal(size=shape)
    flux = (planted + galaxy(pixels, 5, objects)).astype(np.float32)
    found, before = noise.measure(flux, np.zeros(shape, dtype=bool)), without_the_step(flux)
    low, middle, high, most = np.percentile(found.sky_sigma, [16, 50, 84, 99])
    assert low > 0.93
    assert middle == pytest.approx(1, abs=0.05)
    assert high < (1.1 if rho else 1.15)
    assert most < 1.25
    assert np.median(found.correlation) == pytest.approx(rho, abs=0.06)
    assert np.percentile(before.sky_sigma, 84) > 1.25


def test_a_halo_s_photon_noise_is_noise():
    """Variance of the sky and of the halo's photons: sigma is that of the noise planted in the pixels taken for sky."""
    light = galaxy(64, 6, 100)
    variance = (1 + light / 4).astype(np.float32)
    planted = np.sqrt(variance) * np.random.default_rng(7).normal(size=light.shape)
    found = noise.measure((light + planted).astype(np.float32), np.zeros(light.shape, dtype=bool))
    truth = [mad_std(of_stamp[sky]) for of_stamp, sky in zip(planted, found.sky, strict=True)]
    low, middle, high = np.percentile(found.sky_sigma[:, 0] / truth, [16, 50, 84])
    assert middle == pytest.approx(1, abs=0.05)
    assert low > 0.93
    assert high < 1.12


def test_a_bright_star_at_the_edge_is_no_noise(without_the_step):
    """It has no mirror image."""
    y, x = np.indices((48, 48))
    star = 1e4 / (1 + ((x - 44) ** 2 + (y - 20) ** 2) / 9) ** 1.5
    flux = (np.random.default_rng(10).normal(size=(40, 1, 48, 48)) + star).astype(np.float32)
    found = noise.measure(flux, np.zeros(flux.shape, dtype=bool))
    assert np.mean(found.sky_sigma) == pytest.approx(1, abs=0.25)
    assert np.mean(without_the_step(flux).sky_sigma) > 2


def test_blank_sky_is_measured_as_without_the_step(without_the_step):
    flux = white()
    found, before = noise.measure(flux, none_bad()), without_the_step(flux)
    for name in ("level", "sky_sigma", "correlation", "sky"):
        assert np.array_equal(getattr(found, name), getattr(before, name))


def test_blank_correlated_sky_keeps_its_noise(without_the_step):
    flux = filtered((200, 1, 48, 48), 11).astype(np.float32)
    found, before = noise.measure(flux, np.zeros(flux.shape, dtype=bool)), without_the_step(flux)
    assert np.mean(found.sky_sigma == before.sky_sigma) > 0.9
    assert np.mean(found.sky_sigma) == pytest.approx(SIGMA, rel=0.02)
    assert np.mean(found.correlation) == pytest.approx(RHO, abs=0.02)


def test_sky_pixels_have_good_mirror_images_where_a_halo_was():
    flux = (np.random.default_rng(12).normal(size=(20, 1, 48, 48)) + galaxy(48, 13, 20)).astype(np.float32)
    bad = np.zeros(flux.shape, dtype=bool)
    bad[..., :15, :30] = True
    flux[bad] = np.nan
    found = noise.measure(flux, bad)
    assert not (found.sky & bad).any()
    assert np.median(found.sky_sigma) == pytest.approx(1, abs=0.1)
