"""Pictures of stamps: bands and colours that can be said beforehand, directions by astropy's WCS, marks by counting."""

from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from matplotlib.image import imread

from lensml import config
from lensml.evaluation import composite, gallery
from lensml.imaging import units
from lensml.ingest import planes
from tests.real_sample import REAL, needs_real

SURVEYS = config.load(Path(__file__).parents[1] / "params.yaml").surveys
EUCLID = ("u", "g", "r", "VIS", "z", "NIR_Y", "NIR_J", "NIR_H")
EUCLID_FWHM = (0.89, 0.71, 0.70, 0.18, 0.55, 0.43, 0.40, 0.46)  # arcsec, of a Q1 cutout
BLACK = np.zeros((100, 100, 3), np.uint8)
WHITE = 250


def typical(survey: str) -> tuple[tuple[str, ...], list[float], list[float]]:
    bands = SURVEYS[survey].bands
    return tuple(bands), [b.sky_sigma_nJy for b in bands.values()], [b.psf_fwhm for b in bands.values()]


@pytest.mark.parametrize(
    ("survey", "shown"),
    [
        ("hsc", "grz"),
        ("des", "grz"),
        ("legacy", "grz"),
        ("kids", "gri"),
        ("sdss", "gri"),
        ("cfht", "gri"),
        ("lsst", "grz"),
    ],
)
def test_surveys_are_shown_without_u_and_without_their_noisiest_bands(survey: str, shown: str) -> None:
    bands, sigma, fwhm = typical(survey)
    assert "".join(bands[i] for i in composite.shown_bands(bands, sigma, fwhm)) == shown


def test_euclid_is_shown_from_the_visible_to_the_infrared_without_the_blurred_ground() -> None:
    chosen = composite.shown_bands(EUCLID, np.ones(8), EUCLID_FWHM)
    assert [EUCLID[i] for i in chosen] == ["VIS", "NIR_Y", "NIR_H"]
    matched = composite.shown_bands(EUCLID, np.ones(8), [1.0] * 8)
    assert [EUCLID[i] for i in matched] == ["g", "z", "NIR_H"]


@pytest.mark.parametrize(
    ("bands", "sigma", "shown"),
    [
        (("VIS",), [1], (0,)),
        (("F606W", "F814W"), [1, 9], (0, 1)),
        ("ugr", [1, 1, 1], (0, 1, 2)),
        ("ugri", [1] * 4, (1, 2, 3)),
    ],
)
def test_of_few_bands_all_are_shown(bands: tuple[str, ...], sigma: list[float], shown: tuple[int, ...]) -> None:
    assert composite.shown_bands(bands, sigma) == shown
    assert composite.shown_bands(bands, sigma, [None] * len(bands)) == shown


def blob(colour: list[float]) -> np.ndarray:
    """(band, y, x): a source of these fluxes at its peak, in nJy, falling to none at the border."""
    y, x = np.mgrid[-20:21, -20:21]
    return np.array(colour)[:, None, None] * np.exp(-(y**2 + x**2) / 50)


def test_an_old_galaxy_is_red_and_a_flat_spectrum_blue_whatever_the_depth_of_the_bands() -> None:
    """g - r = 1.4 and r - i = 0.6, as at redshift 0.3, against AB magnitudes all alike."""
    old = [10 ** (-0.4 * 2.0) * 100, 10 ** (-0.4 * 0.6) * 100, 100.0]
    for sigma in ([1.0, 1.0, 1.0], [0.5, 1.0, 2.0], [2.0, 1.0, 0.5]):
        red, green, blue = composite.composite(blob(old), sigma)[20, 20].astype(int)
        assert red > green > blue
        red, green, blue = composite.composite(blob([100.0, 100.0, 100.0]), sigma)[20, 20].astype(int)
        assert red < green < blue


def test_two_bands_are_red_and_blue_with_green_between() -> None:
    for colour, order in (([100.0, 10.0], "BGR"), ([10.0, 100.0], "RGB")):
        pixel = composite.composite(blob(colour), [1.0, 1.0])[20, 20]
        assert sorted("RGB", key=lambda letter: -int(pixel["RGB".index(letter)])) == list(order)


def test_one_band_is_grey_and_brighter_is_brighter_up_to_a_saturated_star() -> None:
    flux = np.geomspace(1, 1e6, 400).reshape(1, 20, 20)
    shown = composite.composite(flux, [1.0])
    assert (np.ptp(shown, axis=2) == 0).all()
    assert (np.diff(shown[..., 0].ravel().astype(int)) >= 0).all()
    assert len(np.unique(shown)) > 150


def test_black_is_below_the_sky_and_negative_fluxes_stay_black() -> None:
    flux = np.full((3, 8, 8), -50.0)
    assert (composite.composite(flux, np.ones(3)) == 0).all()
    assert 5 < composite.composite(flux * 0, np.ones(3))[0, 0].max() < 60


def test_bad_pixels_of_any_band_are_tinted_and_no_others() -> None:
    bad = np.zeros((3, 41, 41), bool)
    bad[0, 3, 4] = bad[2, 30, 7] = bad[:, 20, 20] = True
    flux, sigma = blob([100.0, 100.0, 100.0]), np.ones(3)
    shown, without = composite.composite(flux, sigma, bad), composite.composite(flux, sigma)
    tinted = (shown == composite.BAD_TINT).all(axis=2)
    np.testing.assert_array_equal(tinted, bad.any(axis=0))
    np.testing.assert_array_equal(shown[~tinted], without[~tinted])


def test_a_psf_is_cut_to_its_middle_and_stretched_and_zeros_are_none() -> None:
    y, x = np.mgrid[-30:31, -30:31]
    shown = composite.psf_picture(np.exp(-(y**2 + x**2) * 4 * np.log(2) / 3.0**2), 3.0)
    assert shown is not None
    assert shown.shape == (25, 25, 3)  # 8 FWHM
    assert np.argwhere(shown[..., 0] == 255).tolist() == [[12, 12]]
    # asinh(0.5 / 0.01) / asinh(1 / 0.01) of 255 between the pixels at 1 and 2 of the half-width 1.5
    assert shown[12, 14, 0] < 255 * np.arcsinh(50) / np.arcsinh(100) < shown[12, 13, 0]
    assert composite.psf_picture(np.zeros((5, 5)), 3.0) is None


def wcs(angle_deg: float, mirrored: bool) -> WCS:
    """100 pixels of 0.2 arcsec near the pole, turned, and with east to the left or to the right of north."""
    found = WCS(naxis=2)
    found.wcs.ctype, found.wcs.crval, found.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 80.0], [50.5, 50.5]
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    turned = np.array([[c, -s], [s, c]]) @ np.diag([1.0 if mirrored else -1.0, 1.0])
    found.wcs.cd = turned * 0.2 / 3600
    return found


def starred(place: SkyCoord, seen: WCS) -> np.ndarray:
    """(100, 100) with one star."""
    x, y = seen.world_to_pixel(place)
    rows, columns = np.indices((100, 100))
    return np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 4).astype(np.float32)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle_deg", [0.0, 30.0, 137.0, -90.0, 200.0])
def test_arrows_point_at_stars_planted_north_and_east_through_a_wcs(angle_deg: float, mirrored: bool) -> None:
    """5 arcsec are 25 pixels; astropy says where they are in the image, and the reader turns a mirrored one back."""
    seen = wcs(angle_deg, mirrored)
    centre, header = SkyCoord(150.0, 80.0, unit="deg"), dict(seen.to_header(relax=True))
    header = {**header, **{f"CD{i + 1}_{j + 1}": float(seen.wcs.cd[i, j]) for i in (0, 1) for j in (0, 1)}}
    frame = planes.frame(header, SURVEYS["kids"])
    for side, bearing_deg in enumerate((0, 90)):
        star = starred(centre.directional_offset_by(bearing_deg * u.deg, 5 * u.arcsec), seen)
        cutout = planes.assemble({"r": planes.Band(flux=star, bad=np.zeros((100, 100), bool), **frame)})
        y, x = np.unravel_index(cutout.flux[0].argmax(), (100, 100))
        direction = np.array(gallery.compass(cutout.north_deg)[side])
        np.testing.assert_allclose(25 * direction, [x - 49.5, y - 49.5], atol=1.0)


@needs_real
@pytest.mark.parametrize(
    "name",
    [
        "cfht-sl2s/SL2SJ021411-040502_i_sci.fits",
        "kids-field/KiDS-test_r.fits",
        "des-lrg/lens/DES_1774311.fits",
        "euclid-q1/EUCLJ174517.55+655612.5/EUCLJ174517.55+655612.5.fits",
        "hsc-stars/images/10-cutout-HSC-I-8279-pdr2_wide.fits",
        "bologna-challenge1/ground_based/lens/Band1/imageSDSS_R-100002.fits",
    ],
)
@pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning", "ignore::astropy.io.fits.verify.VerifyWarning")
def test_north_and_east_of_survey_files_are_astropys(name: str) -> None:
    with fits.open(REAL / name) as file:
        image = next(part for part in file if part.header.get("NAXIS") == 2)
    seen, shape = WCS(image.header).celestial, image.shape
    middle = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    found = units.north_and_parity(dict(image.header))
    assert found is not None
    for bearing_deg, direction in zip((0, 90), gallery.compass(found[0]), strict=True):
        place = seen.pixel_to_world(*middle).directional_offset_by(bearing_deg * u.deg, 1 * u.arcsec)
        step = np.array(seen.world_to_pixel(place)) - middle
        np.testing.assert_allclose(direction, step / np.hypot(*step), atol=0.005)


def drawn(tmp_path: Path, **marks: object) -> np.ndarray:
    """The square of one black stamp on a sheet, from its lower left corner, (y, x) from 0 to 255."""
    gallery.sheet([gallery.Tile(BLACK, ("name",), "lens", **marks)], "One", tmp_path / "one.png")
    picture = (imread(tmp_path / "one.png")[::-1, :, 0] * 255).round()
    below = 2 * gallery.GAP
    return picture[below : below + gallery.SIDE, gallery.GAP : gallery.GAP + gallery.SIDE]


@pytest.mark.parametrize(("pixel_scale", "bar"), [(0.04, 1.0), (0.1, 1.0), (0.168, 5.0), (0.003, 0.1), (2.0, 30.0)])
def test_the_scale_bar_is_as_long_as_it_says(tmp_path: Path, pixel_scale: float, bar: float) -> None:
    assert gallery.scale_bar_arcsec(100 * pixel_scale) == bar
    square = drawn(tmp_path, pixel_scale=pixel_scale)
    longest = max((row[6:-6] > WHITE).sum() for row in square[6:24])
    assert longest == pytest.approx(bar / pixel_scale * gallery.SIDE / 100, abs=1.5)


@pytest.mark.parametrize("north_deg", [0.0, 30.0, 115.0, -100.0])
def test_the_compass_is_drawn_in_these_directions_and_no_others(tmp_path: Path, north_deg: float) -> None:
    square = drawn(tmp_path, north_deg=north_deg)
    middle = np.array([36, gallery.SIDE - 36])  # x, y

    def brightest(angle_deg: float) -> float:
        x, y = (middle + 12 * np.array([-np.sin(np.radians(angle_deg)), np.cos(np.radians(angle_deg))])).round()
        return float(square[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].max())

    assert min(brightest(north_deg), brightest(north_deg + 90)) > 200
    assert max(brightest(north_deg + 180), brightest(north_deg + 270), brightest(north_deg + 45)) < 50


def test_where_nothing_is_known_nothing_is_drawn(tmp_path: Path) -> None:
    assert (drawn(tmp_path)[6:-6, 6:-6] == 0).all()


def test_the_psf_stands_in_the_upper_right_corner(tmp_path: Path) -> None:
    psf = np.zeros((9, 9, 3), np.uint8)
    psf[4, 4] = 255
    square = drawn(tmp_path, psf=psf)
    y, x = np.argwhere(square[10:-10, 10:-10] > WHITE).mean(axis=0)
    assert min(y, x) > 0.75 * gallery.SIDE


def test_pictures_that_are_no_squares_keep_their_shape(tmp_path: Path) -> None:
    bright = np.full((100, 50, 3), 255, np.uint8)
    gallery.sheet([gallery.Tile(bright, ("name",), "lens")], "One", tmp_path / "one.png")
    picture = imread(tmp_path / "one.png")[::-1, :, 0]
    row = picture[2 * gallery.GAP + 100, gallery.GAP + 6 : gallery.GAP + gallery.SIDE - 6]
    assert (row == 1).sum() == pytest.approx(gallery.SIDE / 2, abs=2)


@pytest.mark.parametrize("letter", ["W", "i", "$"])
def test_no_line_runs_into_the_next_tile(tmp_path: Path, letter: str) -> None:
    gallery.sheet([gallery.Tile(BLACK, (letter * 90, "x"), "lens")] * 2, "Two", tmp_path / "two.png")
    picture = imread(tmp_path / "two.png")[..., 0]
    between = gallery.GAP + gallery.SIDE
    assert (picture[gallery.HEADING :, between + 3 : between + gallery.GAP - 3] == 1).all()
    assert (picture[gallery.HEADING : gallery.HEADING + gallery.LINE, :between] < 0.5).any()


def test_notes_stand_beneath_a_line_each_and_long_ones_are_broken(tmp_path: Path) -> None:
    tiles, heights = [gallery.Tile(BLACK, ("x",), "lens")], []
    for notes in ([], ["one"], ["one", "two"], ["word " * 100]):
        gallery.sheet(tiles, "x", tmp_path / "notes.png", notes)
        heights.append(imread(tmp_path / "notes.png").shape[0])
    assert heights[1] - heights[0] == heights[2] - heights[1] == gallery.LINE
    assert heights[3] - heights[0] > 2 * gallery.LINE


def test_a_sheet_has_the_same_bytes_twice_and_none_without_stamps_or_with_too_many(tmp_path: Path) -> None:
    picture = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    tiles = [gallery.Tile(picture, ("name", "lens (sim:x)", "hsc"), "lens", 0.2, 30.0, picture)] * 7
    for name in ("a.png", "b.png"):
        gallery.sheet(tiles, "Seven", tmp_path / name, ["2 refused"])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert b"matplotlib" not in (tmp_path / "a.png").read_bytes().lower()
    with pytest.raises(ValueError, match="must hold 1 to 600 stamps, got none"):
        gallery.sheet([], "None", tmp_path / "c.png")
    with pytest.raises(ValueError, match="got 601"):
        gallery.sheet(tiles[:1] * 601, "Many", tmp_path / "c.png")
