"""One band and the bands of an object: units of noise planes, parity, offsets, what bands must share."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from numpy.typing import NDArray

from lensml import config
from lensml.ingest import planes
from lensml.ingest.planes import Band, assemble
from tests.cutouts_folder import gaussian
from tests.planted import header

SENTINELS = [1e8, 1e16]
FACTOR = 3.5  # nJy per unit
SCENE = np.random.default_rng(1).normal(size=(40, 50)).astype(np.float32)


def band(flux: NDArray[np.float32], **given: Any) -> Band:
    return Band(flux, np.zeros(flux.shape, bool), **{"pixel_scale": 0.2, **given})


@pytest.mark.parametrize("kind", planes.NOISE_KINDS)
def test_noise_planes_in_every_unit(kind: str) -> None:
    sigma = np.random.default_rng(2).uniform(0.5, 2, (7, 9))
    plane = {"VAR": sigma**2, "RMS": sigma, "IVAR": 1 / sigma**2}[kind].astype(np.float32)
    found = planes.variance(plane, kind, FACTOR, SENTINELS)
    assert found.dtype == np.float32
    assert np.allclose(found, (sigma * FACTOR) ** 2, rtol=1e-6)


@pytest.mark.parametrize("kind", planes.NOISE_KINDS)
def test_what_is_no_measurement_has_no_variance(kind: str) -> None:
    plane = np.array([[1.0, 0.0, -1.0, np.nan, np.inf]], np.float32)
    assert planes.variance(plane, kind, FACTOR, SENTINELS).tolist() == [[FACTOR**2, 0, 0, 0, 0]]


@pytest.mark.parametrize(("kind", "kept"), [("VAR", False), ("RMS", False), ("IVAR", True)])
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_sentinels_of_a_sigma_or_a_variance(kind: str, kept: bool, precision: type) -> None:
    """A large inverse variance is a good measurement."""
    plane = np.array([[1e8, 1e16, 0.9e8]]).astype(precision)
    found = planes.variance(plane, kind, 1e-3, SENTINELS)
    assert (found > 0).tolist() == [[kept, kept, True]]


def test_scaled_to_njy() -> None:
    image = np.array([[1.0, np.nan, 3e38]], np.float32)
    found = planes.scaled(image, 10.0)
    assert found.dtype == np.float32
    assert (found[0, 0], np.isnan(found[0, 1]), np.isinf(found[0, 2])) == (10, True, True)


def test_bits_of_a_mask_that_ends_within_the_stamp() -> None:
    found = planes.bits(np.array([[0.0, 5.0, 2.0**40, np.nan]]))
    assert found.tolist() == [[0, 5, 2**40, planes.OUTSIDE]]


def test_saturation_by_the_header() -> None:
    image = np.array([[1.0, 5.0, np.nan]], np.float32)
    assert np.array_equal(planes.beyond({"SATURATE": 5.0}, image), [[False, True, False]])  # type: ignore[arg-type]
    for card in ({}, {"SATURATE": "none"}, {"SATURATE": 0}, {"SATURATE": True}):
        assert planes.beyond(card, image) is None


def test_a_mirrored_band_is_turned() -> None:
    mask, saturated = SCENE > 2, SCENE > 2.5
    psf = gaussian((9, 9), 3, (4, 5))
    plane = np.abs(SCENE)
    given = Band(SCENE, mask, 0.2, variance=plane, saturated=saturated, psf=psf, north_deg=20.0, mirrored=True)
    found = assemble({"r": given})
    assert np.array_equal(found.flux[0], SCENE[:, ::-1])
    assert np.array_equal(found.bad[0], (mask | saturated)[:, ::-1])
    assert found.variance is not None
    assert found.saturated is not None
    assert found.psf is not None
    assert np.array_equal(found.variance[0], plane[:, ::-1])
    assert np.array_equal(found.saturated[0], saturated[:, ::-1])
    assert np.allclose(found.psf[0], psf[:, ::-1])
    assert found.north_deg == -20.0


def test_turned_bands_show_the_sky_that_their_wcs_says() -> None:
    """North and parity of two WCS of one sky, one mirrored: the same star stands at the same place afterwards."""
    found = {}
    for mirrored in (False, True):
        head = header((41, 41), 0.2, angle_deg=25, mirrored=mirrored)
        x, y = (float(v) for v in WCS(head).all_world2pix(150.1 + 8 / 5 / 3600, 2.2 + 4 / 5 / 3600, 0))
        frame = planes.frame(head, config.load(Path("params.yaml")).surveys["kids"])
        stamp = assemble({"r": band(gaussian((41, 41), 3, (y, x)), **frame)})
        found[mirrored] = (stamp.flux[0], stamp.north_deg)
    assert np.allclose(found[False][0], found[True][0], atol=1e-4)
    assert found[False][1] == pytest.approx(found[True][1])


@pytest.mark.parametrize("mirrored", [False, True])
def test_bands_are_cut_to_what_they_share(mirrored: bool) -> None:
    windows = {"g": (2, 3, 28, 30), "r": (4, 0, 28, 35)}
    bands = {
        name: band(SCENE[y : y + height, x : x + width], offset=(y, x), mirrored=mirrored)
        for name, (y, x, height, width) in windows.items()
    }
    shared = SCENE[4:30, 3:33]
    for image in assemble(bands).flux:
        assert np.array_equal(image, shared[:, ::-1] if mirrored else shared)


@pytest.mark.parametrize("reference", [(25.0, 20.0), (25.5, 20.5), (24.4, 19.7), (-1e4 + 0.5, 3.0)])
def test_offsets_are_those_of_cutouts_of_one_grid(reference: tuple[float, float]) -> None:
    """astropy moves CRPIX when it cuts; the reference may lie between two pixels."""
    head = header(SCENE.shape, 0.2, angle_deg=0)
    head["CRPIX1"], head["CRPIX2"] = reference
    bands = {}
    for name, centre in {"g": (20, 18), "r": (21, 19), "i": (24, 17)}.items():
        cut = Cutout2D(SCENE, centre, 21, wcs=WCS(head))
        cards = dict(cut.wcs.to_header())
        bands[name] = band(cut.data, offset=planes.grid_offset({k: cards.get(k, 0.0) for k in ("CRPIX1", "CRPIX2")}))
    found = assemble(bands).flux
    assert np.array_equal(found[0], SCENE[9:28, 14:31])
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


@pytest.mark.parametrize(
    "cards", [{}, {"CRPIX1": 3.0}, {"CRPIX1": "x", "CRPIX2": 1.0}, {"CRPIX1": 1e30, "CRPIX2": 1.0}]
)
def test_no_offset_where_no_header_says_one(cards: dict[str, object]) -> None:
    assert planes.grid_offset(cards) is None


def test_a_coarser_band_comes_onto_the_finer_pixels() -> None:
    fine, coarse = 100 * gaussian((61, 61), 8.0), 100 * gaussian((21, 21), 8.0 / 3)
    noise = np.full((21, 21), 9.0, np.float32)
    found = assemble(
        {
            "r": band(fine, pixel_scale=0.1, variance=np.full((61, 61), 4, np.float32), north_deg=0.0),
            "J": band(coarse, pixel_scale=0.3, variance=noise, north_deg=0.0),
        }
    )
    assert found.pixel_scale == pytest.approx(0.1)
    assert found.flux.shape == (2, 61, 61)
    good = ~found.bad[1]
    assert found.flux[1][good].sum() == pytest.approx(100, rel=1e-3)
    light, (y, x) = np.where(good, found.flux[1], 0), np.mgrid[:61, :61]
    assert ((light * y).sum() / light.sum(), (light * x).sum() / light.sum()) == pytest.approx((30, 30), abs=1e-3)


def test_psfs_are_brought_to_one_odd_side() -> None:
    bands = {
        "g": band(SCENE, psf=gaussian((11, 11), 3)),
        "r": band(SCENE),
        "i": band(SCENE, psf=gaussian((7, 9), 3), psf_fwhm=0.6),
    }
    found = assemble(bands)
    assert found.psf is not None
    assert found.psf.shape == (3, 11, 11)
    assert [plane.argmax() for plane in found.psf] == [60, 0, 60]
    assert not found.psf[1].any()
    assert np.array_equal(np.isnan(found.psf_fwhm), [True, True, False])
    assert assemble({"r": band(SCENE)}).psf is None


def test_saturated_pixels_are_bad_and_only_told_where_known() -> None:
    saturated = SCENE > 1
    found = assemble({"g": band(SCENE, saturated=saturated), "r": band(SCENE)})
    assert found.saturated is not None
    assert np.array_equal(found.saturated, [saturated, np.zeros_like(saturated)])
    assert np.array_equal(found.bad, found.saturated)
    assert assemble({"r": band(SCENE)}).saturated is None


@pytest.mark.parametrize(
    ("bands", "words"),
    [
        ({}, "must have an image in some band, got none"),
        ({"g": band(SCENE, variance=SCENE**2), "r": band(SCENE)}, "all have a noise plane or none, got 1 of 2"),
        ({"g": band(SCENE), "r": band(SCENE[:-1])}, r"must have one shape, got \(39, 50\) and \(40, 50\)"),
        (
            {"g": band(SCENE, variance=SCENE[1:])},
            r"noise plane must have its image's shape \(40, 50\), got \(39",
        ),
        ({"g": band(SCENE, saturated=SCENE[1:] > 0)}, "a saturation plane must have its image's shape"),
        ({"g": Band(SCENE, SCENE[1:] > 0, 0.2)}, "a mask plane must have its image's shape"),
        ({"g": band(SCENE, offset=(0, 0)), "r": band(SCENE, offset=(0, 60))}, "stamps that do not overlap"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(bands: dict[str, Band], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        assemble(bands)
    assert "\n" not in str(caught.value)


def test_frame_without_a_wcs_is_the_surveys() -> None:
    survey = config.load(Path("params.yaml")).surveys["kids"]
    assert planes.frame({}, survey) == {"pixel_scale": 0.2}
    turned = planes.frame(fits.Header({"CDELT1": 0.1 / 3600, "CDELT2": 0.1 / 3600}), survey)
    assert turned == {"pixel_scale": pytest.approx(0.1), "north_deg": 0.0, "mirrored": True}
