"""The network's grid: a star stays in the centre, flux and noise are what they were."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.special import erf
from test_store_stamps import batch

from lensml.imaging import grid


def star(pixels, fwhm=4.0):
    y, x = np.mgrid[:pixels, :pixels] - (pixels - 1) / 2
    image = np.exp(-4 * np.log(2) * (x**2 + y**2) / fwhm**2)
    return (1000 * image / image.sum()).astype(np.float32)[None, None]


def centroid(image):
    y, x = np.mgrid[: image.shape[-2], : image.shape[-1]]
    return np.array([(y * image).sum(), (x * image).sum()]) / image.sum()


def coloured(rho, shape, rng):
    """An autoregressive field of unit variance: correlation rho^|dx| rho^|dy|."""
    noise = rng.normal(size=shape)
    for axis in (-1, -2):
        noise = np.moveaxis(noise, axis, 0).copy()
        for i in range(1, len(noise)):
            noise[i] = rho * noise[i - 1] + np.sqrt(1 - rho**2) * noise[i]
        noise = np.moveaxis(noise, 0, axis)
    return noise


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
    noise = coloured(rho, (40, 2, 128, 128), rng)
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


def sharp(length, at, fwhm):
    """Light of a unit Gaussian star at `at` in each pixel of an axis: the exact integral."""
    edges = (np.arange(length + 1) - 0.5 - at) * np.sqrt(4 * np.log(2)) / fwhm
    return np.diff(erf(edges)) / 2


def with_star(pixels, at, fwhm, scale, psf_pixels=31):
    """One object, two bands, a PSF in the first alone: a point source at `at`, seen through it."""
    one = batch(0, 1, pixels=pixels, psf_pixels=psf_pixels)
    star = np.outer(sharp(pixels, at, fwhm), sharp(pixels, at, fwhm)) * 1000
    psf = np.outer(*[sharp(psf_pixels, psf_pixels // 2, fwhm)] * 2)
    planes = np.broadcast_to(star, one.flux.shape).astype(np.float32)
    return replace(
        one,
        flux=planes,
        variance=np.ones_like(planes),
        psf=np.stack([psf / psf.sum(), np.zeros_like(psf)])[None].astype(np.float32),
        catalogue=one.catalogue.with_columns(pl.lit(scale).alias("pixel_scale")),
    )


@pytest.mark.parametrize("pixels", [72, 73])
@pytest.mark.parametrize("side", [24, 25])
@pytest.mark.parametrize(("factor", "fwhm"), [(1, 2.5), (2, 3.0), (3, 4.0), (4, 6.0)])
def test_psf_on_the_grid_is_a_point_source_on_its_central_pixel(pixels, side, factor, fwhm):
    """The source stands in the middle of the old pixels that are binned into the new pixel side // 2."""
    at = pixels // 2 - factor * side // 2 + factor * (side // 2) + (factor - 1) / 2
    one = with_star(pixels, at, fwhm, 0.1)
    _, flux, _ = grid.on_grid(one, side, 0.1 * factor)
    psf = grid.psf_on_grid(one, side, 0.1 * factor, 11)
    seen = flux[0, 0, side // 2 - 5 : side // 2 + 6, side // 2 - 5 : side // 2 + 6]
    np.testing.assert_allclose(psf[0, 0], seen / seen.sum(), atol=3e-3 * psf.max())
    assert psf[0, 0].argmax() == 60
    assert psf[0, 0].sum() == pytest.approx(1, abs=1e-6)
    assert not psf[0, 1].any()
    if factor == 3:  # nothing to interpolate: sums of the stamp's own pixels
        own = grid.frame(one.psf[0, 0], 33, 0.0).reshape(11, 3, 11, 3).sum(axis=(1, 3))
        np.testing.assert_allclose(psf[0, 0], own, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("pixels", [72, 73])
@pytest.mark.parametrize("side", [32, 33])
@pytest.mark.parametrize(("scale", "fwhm"), [(0.05, 4.0), (0.0498, 3.0), (0.168, 2.5)])
def test_psf_and_flux_on_a_common_scale(pixels, side, scale, fwhm):
    common = 0.1
    ratio = common / scale
    # the middle of the new pixel side // 2, on the old axis
    whole = scale == 0.05
    centre = pixels // 2 - side + side - 0.5 if whole else (pixels - 1) / 2
    at = centre + (side // 2 - (side - 1) / 2) * ratio
    one = with_star(pixels, at, fwhm, scale)
    catalogue, flux, variance = grid.on_grid(one, side, 9.0, common)
    assert catalogue["pixel_scale"].to_list() == [common]
    assert flux.shape == variance.shape == (1, 2, side, side)
    if np.isfinite(variance).all():
        assert flux[0, 0].sum() == pytest.approx(1000, rel=1e-4)
    assert np.all(flux[~np.isfinite(variance)] == 0)
    psf = grid.psf_on_grid(one, side, 9.0, 11, common)
    seen = flux[0, 0, side // 2 - 5 : side // 2 + 6, side // 2 - 5 : side // 2 + 6]
    np.testing.assert_allclose(psf[0, 0], seen / seen.sum(), atol=3e-3 * psf.max())
    assert not psf[0, 1].any()


@pytest.mark.parametrize("pixels", [40, 41])
@pytest.mark.parametrize("side", [20, 21])
def test_a_common_scale_of_whole_pixels_is_binning(pixels, side):
    one = batch(0, 6, pixels=pixels)  # pixels of 0.2 arcsec, some bad
    catalogue, flux, variance = grid.on_grid(one, side, 0.4)
    common, new_flux, new_variance = grid.on_grid(one, side, 9.0, 0.4)
    np.testing.assert_allclose(new_flux, flux, atol=1e-4)
    np.testing.assert_allclose(new_variance, variance, rtol=1e-5)
    assert common["pixel_scale"].to_list() == pytest.approx(catalogue["pixel_scale"].to_list())
    sigma, new_sigma = (np.array(table["sky_sigma"].to_list()) for table in (catalogue, common))
    np.testing.assert_allclose(new_sigma, sigma, rtol=1e-6)


def test_a_stamp_that_has_the_common_scale_is_left_alone():
    one = batch(0, 3, pixels=12)
    catalogue, flux, variance = grid.on_grid(one, 12, 9.0, 0.2)
    np.testing.assert_array_equal(flux, np.where(np.isfinite(one.variance), one.flux, 0))
    np.testing.assert_array_equal(variance, one.variance)
    np.testing.assert_array_equal(np.array(catalogue["sky_sigma"].to_list()), one.sky_sigma)


@pytest.mark.parametrize("common", [0.26, 0.13])
def test_noise_on_a_common_scale(common):
    rng, rho = np.random.default_rng(5), 0.4
    one = batch(0, 40, pixels=96)
    sigma = one.sky_sigma[..., None, None]
    noise = (coloured(rho, (40, 2, 96, 96), rng) * sigma).astype(np.float32)
    one = replace(
        one,
        flux=noise,
        variance=np.broadcast_to(sigma**2, noise.shape).astype(np.float32),
        catalogue=one.catalogue.with_columns(pl.Series("noise_correlation", [[rho, rho]] * 40)),
    )
    catalogue, flux, variance = grid.on_grid(one, 64, 9.0, common)
    assert np.isfinite(variance).all()
    sigma, found = (np.array(catalogue[name].to_list()) for name in ("sky_sigma", "noise_correlation"))
    assert np.std(flux / sigma[..., None, None]) == pytest.approx(1, rel=0.02)
    assert np.sqrt(np.mean(flux**2 / variance)) == pytest.approx(1, rel=0.05)
    np.testing.assert_allclose(variance.mean(axis=(2, 3)), sigma**2, rtol=0.01)
    unit = flux / sigma[..., None, None]
    assert np.mean(unit[..., :-1] * unit[..., 1:]) == pytest.approx(found.mean(), abs=0.01)


def test_objects_of_several_scales_come_to_the_common_one():
    """The same Gaussian galaxy of 2 arcsec in pixels of 0.2 and 0.13 arcsec, one of which strays by a millionth."""
    scales = np.array([0.2, 0.13, 0.13 * (1 + 1e-6)])
    one = batch(0, 3, pixels=96)
    planes = [np.outer(sharp(96, 47.5, 2 / s), sharp(96, 47.5, 2 / s)) for s in scales]
    one = replace(
        one,
        flux=np.repeat(np.stack(planes)[:, None], 2, axis=1).astype(np.float32),
        variance=np.ones_like(one.variance),
        catalogue=one.catalogue.with_columns(pl.Series("pixel_scale", scales)),
    )
    _, flux, _ = grid.on_grid(one, 48, 9.0, 0.17)
    np.testing.assert_allclose(flux.sum(axis=(2, 3)), 1, rtol=1e-4)
    np.testing.assert_allclose(flux[0], flux[1], atol=0.02 * flux.max())
    np.testing.assert_allclose(flux[1], flux[2], atol=1e-4 * flux.max())


@pytest.mark.parametrize("common", [None, 0.31])
def test_what_a_network_can_be_shown_is_on_the_grid_with_its_psf(common):
    one = batch(0, 4, pixels=24, bands=("g", "r", "Q"))
    one.variance[2] = np.inf
    known, good = grid.known_bands(one, ["r", "g", "z"]), [0, 1, 3]
    stamps, left = grid.usable(one, ["r", "g", "z"], 12, 0.3, 7, common)
    assert stamps.bands == ("r", "g")
    assert left["object_id"].to_list() == ["s.hsc-000002"]
    catalogue, flux, variance = grid.on_grid(known, 12, 0.3, common)
    assert stamps.catalogue.equals(catalogue[good])
    np.testing.assert_array_equal(stamps.flux, flux[good])
    np.testing.assert_array_equal(stamps.variance, variance[good])
    np.testing.assert_array_equal(stamps.psf, grid.psf_on_grid(known, 12, 0.3, 7, common)[good])
    none, left = grid.usable(one, ["z"], 12, 0.3, 7, common)
    assert none.catalogue.height == 0
    assert left.height == 4
