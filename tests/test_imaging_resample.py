"""Resampling: flux, place and parity as astropy and reproject have them; noise by Monte Carlo, PSF by brute force."""

from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from reproject import reproject_exact
from scipy.ndimage import gaussian_filter
from scipy.special import erf

from lensml.imaging import grid, psf_stamp, resample
from lensml.imaging.frames import Frame

REAL = Path(__file__).parents[2] / "shared" / "real" / "hsc-hst-blends" / "test_resampling"
RA, DEC = 150.1, 2.2
FRAMES = [
    Frame(54, 54, 0.119),
    Frame(26, 29, 0.25),
    Frame(90, 80, 0.06),
    Frame(60, 50, 0.11, mirrored=True),
    Frame(60, 50, 0.11, 90),
    Frame(50, 60, 0.11, -90, True),
    Frame(60, 60, 0.11, 180, centre=(31.3, 24.9)),
    Frame(54, 50, 0.119, 30),
    Frame(33, 37, 0.2, -110, True, (14.2, 17.7)),
]


def wcs(frame, ra=RA, dec=DEC):
    """By the rotation of the old FITS keyword CROTA2, which turns the other way than a position angle."""
    sky = WCS(naxis=2)
    sky.wcs.ctype, sky.wcs.crval = ["RA---TAN", "DEC--TAN"], [ra, dec]
    scale = frame.pixel_scale / 3600
    sky.wcs.cdelt = [scale if frame.mirrored else -scale, scale]
    sky.wcs.crota = [0, -frame.position_angle]  # its y axis is at (-sin, cos), whatever the parity
    y, x = frame.centre or ((frame.height - 1) / 2, (frame.width - 1) / 2)
    sky.wcs.crpix = [x + 1, y + 1]
    return sky


def pixel_star(length, at, sigma):
    """A unit Gaussian's light in each pixel of an axis: the exact integral."""
    edges = (np.arange(length + 1) - 0.5 - at) / (sigma * np.sqrt(2))
    return np.diff(erf(edges)) / 2


def star(shape, at, sigma=2.0):
    y, x = (pixel_star(length, place, sigma) for length, place in zip(shape, at, strict=True))
    return np.outer(y, x).astype(np.float32)


def centroid(image):
    y, x = np.indices(image.shape)
    return np.array([(y * image).sum(), (x * image).sum()]) / image.sum()


def move(image, old, new, lost=0.0, variance=None, **more):
    variance = np.ones_like(image) if variance is None else variance
    return resample.to_frame(image, variance, resample.between(old, new), lost, **more)


@pytest.mark.parametrize("new", FRAMES)
def test_flux_is_that_of_reproject_exact(new):
    old = Frame(64, 60, 0.1)
    image = np.random.default_rng(1).normal(size=(3, 64, 60)).astype(np.float32)
    moved = move(image, old, new)
    shape = (3, new.height, new.width)
    mean, covered = reproject_exact((image, wcs(old)), wcs(new), shape)
    inside, good = covered[0] > 1 - 1e-6, np.isfinite(moved.variance[0])
    assert 0.3 < inside.mean() <= 1
    assert good[inside].all()
    assert not good[covered[0] < 0.99].any()
    expected = mean * (new.pixel_scale / old.pixel_scale) ** 2
    np.testing.assert_allclose(moved.flux[:, inside], expected[:, inside], atol=2e-5 * expected[:, inside].std())


@pytest.mark.parametrize("frame", FRAMES)
def test_frame_of_a_wcs(frame):
    again = Frame.of_wcs(wcs(frame), (frame.height, frame.width), RA, DEC)
    assert again.pixel_scale == pytest.approx(frame.pixel_scale, rel=1e-6)
    assert again.mirrored == frame.mirrored
    assert (again.position_angle - frame.position_angle + 180) % 360 - 180 == pytest.approx(0, abs=1e-4)
    np.testing.assert_allclose(again.origin, frame.origin, atol=1e-6)


@pytest.mark.parametrize("new", FRAMES)
def test_stars_come_to_where_the_sky_has_them(new):
    old = Frame(64, 60, 0.1, 20, centre=(30.4, 31.1))
    place = SkyCoord(RA, DEC, unit="deg")
    for east, north in [(0.0, 0.0), (1.2, 0.3), (-0.4, 1.3), (0.2, -1.1)]:  # arcsec: no two symmetric
        there = place.spherical_offsets_by(east * u.arcsec, north * u.arcsec)
        (x, y), (new_x, new_y) = (frame.world_to_pixel(there) for frame in (wcs(old), wcs(new)))
        moved = move(star((64, 60), (y, x), 1.5), old, new)
        assert moved.flux.sum() == pytest.approx(1, abs=1e-4)
        np.testing.assert_allclose(centroid(moved.flux), (new_y, new_x), atol=0.01)


@pytest.mark.parametrize("pixels", [64, 65])
@pytest.mark.parametrize("side", [40, 41])
@pytest.mark.parametrize("ratio", [0.99, 1.3, 1.6])
def test_a_star_in_the_centre_stays_there_with_its_flux(pixels, side, ratio):
    old, new = Frame(pixels, pixels, 0.1), Frame(side, side, 0.1 * ratio)
    image = star((pixels, pixels), ((pixels - 1) / 2,) * 2, 3.0)
    moved = move(image, old, new)
    np.testing.assert_allclose(centroid(moved.flux), (side - 1) / 2, atol=1e-4)
    assert moved.flux.sum() == pytest.approx(1, abs=1e-4)
    wrong = move(image, Frame(pixels, pixels, 0.1, centre=(pixels / 2, pixels / 2)), new)  # the classic mistake
    assert np.abs(centroid(wrong.flux) - (side - 1) / 2).min() > 0.2


def weights(old, new):
    """The map as a dense matrix, from one lit pixel at a time, on an old frame widened so that nothing is beyond it."""
    units = np.eye(old.height * old.width, dtype=np.float32).reshape(-1, old.height, old.width)
    return move(units, old, new).flux.reshape(len(units), -1).T


@pytest.mark.parametrize("new", [Frame(6, 6, 0.17), Frame(6, 6, 0.17, 25)])
def test_variance_goes_through_the_squared_weights(new):
    old = Frame(18, 18, 0.1)
    variance = np.random.default_rng(2).uniform(0.5, 3, (18, 18)).astype(np.float32)
    moved = move(np.zeros_like(variance), old, new, variance=variance)
    np.testing.assert_allclose(moved.variance.ravel(), weights(old, new) ** 2 @ variance.ravel(), rtol=1e-4)


@pytest.mark.parametrize(
    ("new", "rho"),
    [
        (Frame(60, 60, 0.15), 0.0),
        (Frame(80, 80, 0.07), 0.3),
        (Frame(90, 90, 0.1, centre=(45.0, 44.7)), 0.2),
        (Frame(70, 70, 0.119, 30), 0.4),
        (Frame(30, 30, 0.3, mirrored=True), 0.5),
    ],
)
def test_noise_against_monte_carlo(new, rho):
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(300, 96, 96))
    for axis in (-1, -2):  # an autoregressive field: correlation rho^|dx| rho^|dy|
        noise = np.moveaxis(noise, axis, 0).copy()
        for i in range(1, len(noise)):
            noise[i] = rho * noise[i - 1] + np.sqrt(1 - rho**2) * noise[i]
        noise = np.moveaxis(noise, 0, axis)
    old = Frame(96, 96, 0.1)
    moved = move(noise.astype(np.float32), old, new)
    good = np.isfinite(moved.variance[0])
    pair = good[:, :-1] & good[:, 1:]
    found = resample.noise(resample.between(old, new), np.array([rho]))
    variance = np.mean(moved.flux[:, good] ** 2)
    neighbour = np.mean((moved.flux[:, :, :-1] * moved.flux[:, :, 1:])[:, pair]) / variance
    assert found.variance[0] == pytest.approx(variance, rel=0.02)
    assert found.neighbour[0] == pytest.approx(neighbour, abs=0.01)
    assert found.white == pytest.approx(moved.variance[0][good].mean(), rel=0.01)
    each = moved.flux[:, good].std(axis=0) / np.sqrt(moved.variance[0][good] * found.variance[0] / found.white)
    assert np.sqrt(np.mean(each**2)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("factor", [2, 3])
def test_whole_factors_are_binning(factor):
    rng = np.random.default_rng(4)
    flux, variance = rng.normal(size=(2, 3, 24, 24)).astype(np.float32), np.full((2, 3, 24, 24), 2, np.float32)
    variance[rng.random(variance.shape) < 0.4] = np.inf
    side = 24 // factor
    moved = move(flux, Frame(24, 24, 0.1), Frame(side, side, 0.1 * factor), 0.5, variance)
    new_flux, new_variance = grid.bin_pixels(flux, variance, factor)
    np.testing.assert_allclose(moved.flux, new_flux, atol=1e-5)
    np.testing.assert_allclose(moved.variance, new_variance, rtol=1e-5)
    excess = grid.binned_noise(np.array([0.4]), np.array([factor]))
    found = resample.noise(resample.between(Frame(24, 24, 0.1), Frame(side, side, 0.1 * factor)), np.array([0.4]))
    if factor == 2:
        np.testing.assert_allclose(np.sqrt(found.variance), factor * excess, rtol=1e-6)


def test_bad_pixels_by_hand():
    """A new pixel of 1.5 x 1.5: shares 1, 1/2, 1/2, 1/4, whose squares sum to 1.5625."""
    old, new = Frame(3, 3, 0.1), Frame(2, 2, 0.15)
    flux, variance = np.arange(9, dtype=np.float32).reshape(3, 3), np.ones((3, 3), np.float32)
    variance[1, 1], flux[1, 1] = np.inf, np.nan  # the quarter of every new pixel: 4 % of the squares
    moved = move(flux, old, new, 0.05, variance)
    assert moved.flux[0, 0] == pytest.approx((0 + 0.5 * 1 + 0.5 * 3) * 2.25 / 2)
    np.testing.assert_allclose(moved.variance, 1.5 * (2.25 / 2) ** 2)
    assert not np.isfinite(move(flux, old, new, 0.03, variance).variance).any()
    variance[0, 1] = np.inf  # half of the upper two: 20 % of the squares altogether
    moved = move(flux, old, new, 0.19, variance)
    np.testing.assert_array_equal(np.isfinite(moved.variance), [[False, False], [True, True]])
    assert np.all(moved.flux[0] == 0)
    assert np.isfinite(move(flux, old, new, 0.21, variance).variance).all()


def test_beyond_the_border_is_bad():
    """4 pixels in 7: half of a pixel on either side is covered, a quarter of it in the corners."""
    image, old, new = np.ones((4, 4), np.float32), Frame(4, 4, 0.1), Frame(7, 7, 0.1)
    moved = move(image, old, new, 0.5)
    np.testing.assert_array_equal(np.isfinite(moved.variance).sum(axis=1), [0, 3, 5, 5, 5, 3, 0])
    np.testing.assert_allclose(moved.flux, np.isfinite(moved.variance), rtol=1e-6)
    np.testing.assert_array_equal(np.isfinite(move(image, old, new, 0.4).variance).sum(axis=1), [0, 0, 3, 3, 3, 0, 0])


def test_what_touches_a_saturated_pixel_is_saturated():
    saturated = np.zeros((6, 6), bool)
    saturated[2, 3] = True  # from 2 to 3 along y, 3 to 4 along x
    image = np.ones((6, 6), np.float32)
    moved = move(image, Frame(6, 6, 0.1), Frame(4, 4, 0.15), saturated=saturated)
    expected = np.zeros((4, 4), bool)
    expected[1, 2] = True  # pixel 1 from 1.5 to 3, pixel 2 from 3 to 4.5
    np.testing.assert_array_equal(moved.saturated, expected)
    assert not move(image, Frame(6, 6, 0.1), Frame(4, 4, 0.15)).saturated.any()
    halves = move(image, Frame(6, 6, 0.1), Frame(5, 5, 0.1), saturated=saturated)
    assert halves.saturated.sum() == 4


def shared(length, at, sigma, old_centre, count, ratio):
    """A star at `at` on an axis of old pixels, each spread evenly, collected in new ones around `old_centre`."""
    light = np.concatenate([[0], np.cumsum(pixel_star(length, at, sigma))])
    edges = old_centre + (np.arange(count + 1) - count / 2) * ratio
    return np.diff(np.interp(edges, np.arange(length + 1) - 0.5, light))


@pytest.mark.parametrize("pixels", [60, 61])
@pytest.mark.parametrize("side", [32, 33])
@pytest.mark.parametrize(("ratio", "fwhm"), [(0.6, 2.5), (1.0, 3.0), (1.68, 4.0), (2.5, 6.0)])
def test_psf_is_what_a_star_on_the_central_pixel_looks_like(pixels, side, ratio, fwhm):
    sigma = fwhm / 2.3548
    psf = star((31, 31), (15, 15), sigma)
    psf /= psf.sum()
    new = resample.psf_to_frame(psf[None], resample.between(Frame(pixels, pixels, 1), Frame(side, side, ratio)), 21)[0]
    at = (pixels - 1) / 2 + (side // 2 - (side - 1) / 2) * ratio  # that pixel's centre on the old axis
    axis = shared(201, 100 + at % 1, sigma, 100 + at % 1, 21, ratio)
    expected = np.outer(axis, axis) / axis.sum() ** 2
    assert new.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(centroid(new), centroid(expected), atol=1e-3)
    np.testing.assert_allclose(new, expected, atol=3e-3 * expected.max())
    both = [psf_stamp.fwhm_halfmax(image.astype(np.float32)) for image in (new, expected)]
    assert both[0] == pytest.approx(both[1], rel=0.01)


def test_psf_is_broader_by_both_pixels():
    """Variances of a Gaussian and three boxes: the old pixel twice, the new one once; mean over a pixel's places."""
    sigma, ratio, found = 2.0, 1.7, []
    for place in np.linspace(-0.5, 0.5, 11)[:-1]:
        old = Frame(80, 80, 1, centre=(40 + place, 40 + place))
        psf = star((41, 41), (20, 20), sigma)
        new = resample.psf_to_frame(psf, resample.between(old, Frame(31, 31, ratio)), 31)
        y = np.arange(31) - 15
        found.append((new.sum(axis=1) * y**2).sum() * ratio**2)
    assert np.mean(found) == pytest.approx(sigma**2 + 2 / 12 + ratio**2 / 12, rel=2e-3)


def test_psf_turns_with_the_frame():
    """An uneven PSF, once as a stamp and once as a star in the image."""
    psf = star((25, 25), (12, 12), 1.8) + 0.4 * star((25, 25), (15, 13.5), 1.5)
    psf /= psf.sum()
    image = np.zeros((61, 61), np.float32)
    image[18:43, 18:43] = psf
    old, new = Frame(61, 61, 0.1), Frame(41, 41, 0.13, 35, True)
    moved = resample.psf_to_frame(psf, resample.between(old, new), 31)
    np.testing.assert_allclose(moved, move(image, old, new).flux[5:36, 5:36] / image.sum(), atol=1e-6)


def test_no_psf_stays_none():
    through = resample.between(Frame(20, 20, 1), Frame(10, 10, 2.1))
    assert not resample.psf_to_frame(np.zeros((2, 1, 1, 1), np.float32), through, 9).any()


def test_errors_in_words():
    through = resample.between(Frame(20, 20, 1), Frame(10, 10, 2.1))
    with pytest.raises(ValueError, match=r"flux and variance must be \(\.\.\., 20, 20\), got \(3, 3\)"):
        resample.to_frame(np.ones((3, 3), np.float32), np.ones((3, 3), np.float32), through, 0.5)
    with pytest.raises(ValueError, match="PSF stamps must be odd squares"):
        resample.psf_to_frame(np.ones((1, 5, 5), np.float32), through, 8)
    wide = np.zeros((1, 31, 31), np.float32)
    wide[0, 0, 0] = 1
    with pytest.raises(ValueError, match="psf_pixels must hold 50% of a PSF"):
        resample.psf_to_frame(wide, through, 3)
    with pytest.raises(ValueError, match="a new frame must have a pixel wholly within the old one"):
        resample.noise(resample.between(Frame(3, 3, 0.1), Frame(5, 5, 1)), np.zeros(1))
    with pytest.raises(ValueError, match="pixel_scale must be positive, got nan"):
        Frame(3, 3, float("nan"))
    with pytest.raises(ValueError, match="a frame must have pixels"):
        Frame(0, 3, 1)
    with pytest.raises(ValueError, match="pixels must be square to 1%"):
        Frame.of_matrix((3, 3), np.array([[-0.1, 0], [0, 0.11]]))


@pytest.mark.skipif(not REAL.is_dir(), reason="no sample of real survey files beside the checkout")
@pytest.mark.parametrize("name", ["", "1"])
def test_hst_on_the_grid_of_hsc(name):
    """250 pixels of 0.03 arcsec in FK5 on 50 of 0.168 in ICRS, the centre of either somewhere else."""
    images = [fits.getdata(REAL / f"Cut_{one}{name}.fits", header=True) for one in ("HST", "HSC")]
    (hst, sky), (hsc, new_sky) = ((image, WCS(header)) for image, header in images)
    place = new_sky.celestial.pixel_to_world(24.5, 24.5)
    frames = [
        Frame.of_wcs(one, image.shape[-2:], place.ra.deg, place.dec.deg) for one, image in ((sky, hst), (new_sky, hsc))
    ]
    moved = move(hst.astype(np.float32), *frames)
    mean, covered = reproject_exact((hst, sky), new_sky.celestial, (50, 50))
    inside = (covered > 1 - 1e-4) & np.isfinite(moved.variance)
    assert inside.mean() > 0.6
    expected = mean[inside] * (0.168 / 0.03) ** 2
    np.testing.assert_allclose(moved.flux[inside], expected, atol=0.02 * expected.std())
    smooth, seen = gaussian_filter(np.where(inside, moved.flux, 0), 1.5), hsc[1:3].sum(axis=0)
    likeness = {
        shift: np.corrcoef(np.roll(smooth, shift, (0, 1))[8:-8, 8:-8].ravel(), seen[8:-8, 8:-8].ravel())[0, 1]
        for shift in [(y, x) for y in (-2, -1, 0, 1, 2) for x in (-2, -1, 0, 1, 2)]
    }
    assert max(likeness, key=likeness.get) == (0, 0)
    assert likeness[0, 0] > 0.8
