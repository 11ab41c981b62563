"""The network's grid: a star stays in the centre, flux and noise are what they were."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from test_store_stamps import batch

from lensml.imaging import grid


def star(pixels, fwhm=4.0):
    y, x = np.mgrid[:pixels, :pixels] - (pixels - 1) / 2
    image = np.exp(-4 * np.log(2) * (x**2 + y**2) / fwhm**2)
    return (1000 * image / image.sum()).astype(np.float32)[None, None]


def centroid(image):
    y, x = np.mgrid[: image.shape[-2], : image.shape[-1]]
    return np.array([(y * image).sum(), (x * image).sum()]) / image.sum()


@pytest.mark.parametrize("pixels", [40, 41, 100, 101])
@pytest.mark.parametrize("side", [24, 25, 48, 49])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_star_stays_in_the_centre_with_its_flux(pixels, side, factor):
    image = star(pixels)
    flux, variance, scale = grid.to_grid(image, np.ones_like(image), np.array([0.1]), side, 0.1 * factor)
    assert flux.shape == (1, 1, side, side)
    assert scale[0] == pytest.approx(0.1 * factor)
    assert flux.sum() == pytest.approx(1000, rel=1e-3)
    off = np.abs(centroid(flux[0, 0]) - (side - 1) / 2)
    same_parity = (pixels - factor * side) % 2 == 0
    assert np.all(off <= (0.01 if same_parity else 0.5 / factor + 0.01))
    inside = np.isfinite(variance)
    assert np.all(flux[~inside] == 0)
    assert inside.sum() == pytest.approx(min(side, pixels / factor) ** 2, rel=0.1)


@pytest.mark.parametrize(
    ("scale", "smallest", "factor"), [(0.05, 0.1, 2), (0.0499, 0.1, 2), (0.0995, 0.1, 1), (0.2, 0.1, 1), (0.03, 0.1, 4)]
)
def test_factor(scale, smallest, factor):
    assert grid.binning_factor(scale, smallest) == factor
    with pytest.raises(ValueError, match="pixel_scale must be positive"):
        grid.binning_factor(float("nan"), smallest)


def test_objects_of_different_pixel_scale_in_one_batch():
    image = np.concatenate([star(40), star(40)])
    flux, _, scale = grid.to_grid(image, np.ones_like(image), np.array([0.1, 0.05]), 20, 0.1)
    np.testing.assert_allclose(scale, [0.1, 0.1])
    np.testing.assert_array_equal(flux[0, 0], image[0, 0, 10:30, 10:30])
    np.testing.assert_allclose(flux[1, 0], image[1, 0].reshape(20, 2, 20, 2).sum((1, 3)), rtol=1e-6)


def test_bad_pixels_by_hand():
    flux = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    variance = np.full_like(flux, 2.0)
    variance[0, 0, 0, 0] = np.inf  # one of four: the other three are scaled up
    variance[0, 0, 2:, 2:] = np.inf  # all four
    variance[0, 0, 2:, 0] = np.inf  # two of four
    variance[0, 0, 0, 2:], variance[0, 0, 1, 2] = np.inf, np.inf  # three of four
    new_flux, new_variance = grid.bin_pixels(flux, variance, 2)
    np.testing.assert_allclose(new_flux[0, 0], [[(1 + 4 + 5) * 4 / 3, 0], [(9 + 13) * 2, 0]], rtol=1e-6)
    np.testing.assert_allclose(new_variance[0, 0], [[6 * 16 / 9, np.inf], [4 * 4, np.inf]], rtol=1e-6)


@pytest.mark.parametrize("factor", [2, 3])
def test_sigma_and_variance_of_binned_correlated_noise(factor):
    rng = np.random.default_rng(3)
    rho, side = 0.4, 96 // factor
    noise = rng.normal(size=(40, 2, 128, 128))
    for axis in (-1, -2):  # an autoregressive field: correlation rho^|dx| rho^|dy|
        noise = np.moveaxis(noise, axis, 0).copy()
        for i in range(1, len(noise)):
            noise[i] = rho * noise[i - 1] + np.sqrt(1 - rho**2) * noise[i]
        noise = np.moveaxis(noise, 0, axis)
    one = batch(0, 40, pixels=128)
    sigma = one.sky_sigma[..., None, None]
    one = replace(
        one,
        flux=(noise * sigma).astype(np.float32),
        variance=np.broadcast_to(sigma**2, noise.shape).astype(np.float32),
        catalogue=one.catalogue.with_columns(pl.Series("noise_correlation", [[rho, rho]] * 40)),
    )
    catalogue, flux, variance = grid.on_grid(one, side, 0.2 * factor)
    sigma = np.array(catalogue["sky_sigma"].to_list())
    assert np.std(flux / sigma[..., None, None]) == pytest.approx(1, rel=0.02)
    np.testing.assert_allclose(variance, np.broadcast_to(sigma[..., None, None] ** 2, variance.shape), rtol=1e-5)
    np.testing.assert_allclose(catalogue["pixel_scale"], 0.2 * factor)


def test_a_stamp_that_is_on_the_grid_is_left_alone():
    one = batch(0, 3, pixels=12)
    catalogue, flux, variance = grid.on_grid(one, 12, 0.1)
    np.testing.assert_array_equal(flux, one.flux)
    np.testing.assert_array_equal(variance, one.variance)
    np.testing.assert_allclose(np.array(catalogue["sky_sigma"].to_list()), one.sky_sigma)
