"""Calibration: what is kept, masked, measured and refused, against photutils and planted faults."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from cutouts_folder import gaussian
from photutils.aperture import CircularAperture

from lensml import config, schema
from lensml.imaging.cutouts import Cutouts, calibrate

PARAMS = config.load(Path("params.yaml"))
HSC = PARAMS.surveys["hsc"]
COUNT, BANDS, PIXELS = 6, ("g", "r"), 40


def batch(**changes):
    rng = np.random.default_rng(3)
    flux = rng.normal(size=(COUNT, 2, PIXELS, PIXELS)) * np.array([5.0, 9.0])[:, None, None]
    flux += 2e4 * gaussian((PIXELS, PIXELS), 5.0, (19.5, 19.5))
    names = [f"s.{k}" for k in range(COUNT)]
    values = {
        "object_id": names,
        "source": "s",
        "survey": "hsc",
        "bands": BANDS,
        "flux": flux.astype(np.float32),
        "variance": np.broadcast_to(np.array([25.0, 81.0])[:, None, None], flux.shape).astype(np.float32),
        "bad": np.zeros(flux.shape, dtype=bool),
        "psf": np.broadcast_to(2.5 * gaussian((21, 21), 4.0), (COUNT, 2, 21, 21)).copy(),
        "pixel_scale": np.full(COUNT, 0.168),
        "metadata": pl.DataFrame({"object_id": names[::-1], "z_spec": [0.6, 0.5, 0.4, 0.3, 0.2, None]}),
    }
    return Cutouts(**values | changes)


def run(cutouts, survey=HSC):
    return calibrate(cutouts, survey, PARAMS.convert)


def test_good_objects_pass_unchanged():
    given = batch()
    stamps, refused = run(given)
    assert refused == []
    assert np.array_equal(stamps.flux, given.flux)
    assert np.array_equal(stamps.variance, given.variance)
    assert np.allclose(stamps.psf.sum(axis=(-2, -1)), 1, atol=1e-6)
    row = stamps.catalogue.row(1, named=True)
    assert row["psf_fwhm"] == pytest.approx(4 * 0.168, rel=1e-3)
    assert row["psf_origin"] == ["file", "file"]
    assert row["fwhm_halfmax"] == pytest.approx([4 * 0.168] * 2, rel=1e-3)
    assert row["fwhm_moment"] == pytest.approx([4 * 0.168] * 2, rel=1e-3)  # a Gaussian has one width
    assert row["variance_scale"] == [1, 1]
    assert row["variance_map_available"] is True
    assert row["sky_sigma_over_plane"] == pytest.approx([1, 1], abs=0.1)
    assert (row["quality"], row["quality_limit"]) == (1, "")
    missing = {name: kind for name, kind in schema.CATALOGUE.items() if name not in ("stack", "row")}
    assert schema.check(stamps.catalogue, missing, "test").height == COUNT


def test_metadata_follows_its_object_and_missing_redshifts_are_minus_one():
    catalogue = run(batch())[0].catalogue
    assert catalogue["z_spec"].to_list() == [-1.0, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert catalogue["z_phot"].to_list() == [-1.0] * COUNT
    assert catalogue["ra"].null_count() == catalogue["position_angle"].null_count() == COUNT


def test_aperture_flux_is_photutils_s():
    given = batch()
    catalogue = run(given)[0].catalogue
    aperture = CircularAperture((19.5, 19.5), PARAMS.convert.aperture_arcsec / 0.168)
    for row in (0, 5):
        for band in (0, 1):
            flux, error = aperture.do_photometry(given.flux[row, band], error=np.sqrt(given.variance[row, band]))
            assert catalogue["flux"][row][band] == pytest.approx(flux[0], rel=5e-3)
            assert catalogue["snr"][row][band] == pytest.approx(flux[0] / error[0], rel=1e-2)
            assert catalogue["magnitude"][row][band] == pytest.approx(31.4 - 2.5 * np.log10(flux[0]), abs=6e-3)


def test_shape_of_an_elongated_gaussian():
    """A Gaussian's half-light radius is half its FWHM; the axis ratio is that of its sigmas."""
    y, x = np.indices((PIXELS, PIXELS)) - 19.5
    flux = batch().flux + 4e4 * np.exp(-(x**2 / 3.0**2 + y**2 / 1.8**2) / 2).astype(np.float32)
    row = run(batch(flux=flux))[0].catalogue.row(0, named=True)
    assert row["axis_ratio"] == pytest.approx(0.6, abs=0.05)
    round_one = batch().flux * 0.01 + 1e6 * gaussian((PIXELS, PIXELS), 5.0, (19.5, 19.5))
    row = run(batch(flux=round_one.astype(np.float32)))[0].catalogue.row(0, named=True)
    assert row["half_light_radius"] == pytest.approx(2.5 * 0.168, rel=0.15)
    assert row["axis_ratio"] == pytest.approx(1, abs=0.05)


def test_bad_pixels_are_zero_and_infinite():
    given = batch()
    given.flux[0, 0, 3, 4] = np.nan
    given.flux[0, 0, 5, 4] = np.inf
    given.variance[0, 1, 6, 7] = 0
    given.variance[0, 1, 7, 7] = -3
    given.bad[0, 1, 8, 8] = True
    stamps, refused = run(given)
    assert refused == []
    for place in [(0, 3, 4), (0, 5, 4), (1, 6, 7), (1, 7, 7), (1, 8, 8)]:
        assert stamps.flux[0][place] == 0
        assert np.isinf(stamps.variance[0][place])
    assert np.isinf(stamps.variance).sum() == 5
    assert stamps.catalogue["quality"][0] == pytest.approx(1 - 3 / PIXELS**2)


def test_without_planes_noise_is_measured_and_psf_is_the_table_s():
    stamps, refused = run(batch(variance=None, psf=None))
    assert refused == []
    row = stamps.catalogue.row(0, named=True)
    assert stamps.variance[0, 1, 0, 0] == pytest.approx(row["sky_sigma"][1] ** 2, rel=1e-5)
    assert row["sky_sigma_over_plane"] == [None, None]
    assert row["psf_origin"] == ["table", "table"]
    assert row["fwhm_halfmax"] == [HSC.bands["g"].psf_fwhm, HSC.bands["r"].psf_fwhm]
    assert row["fwhm_moment"] == row["variance_scale"] == [None, None]
    assert row["seeing"] == HSC.bands["g"].psf_fwhm
    assert not stamps.psf.any()


def test_a_band_without_a_psf_has_the_map_s_or_the_table_s_and_says_so():
    given = batch(psf_fwhm=np.array([[np.nan, 0.9]] * COUNT))
    given.psf[2, 1] = 0
    given.psf[3, 0] = 0
    stamps, refused = run(given)
    assert refused == []
    rows = stamps.catalogue["psf_origin"].to_list(), stamps.catalogue["fwhm_halfmax"].to_list()
    assert (rows[0][2], rows[0][3]) == (["file", "map"], ["table", "file"])
    assert rows[1][2][1] == 0.9
    assert rows[1][3][0] == HSC.bands["g"].psf_fwhm
    assert not stamps.psf[2, 1].any()


def test_a_wrong_variance_plane_is_rescaled_to_the_sky_and_a_right_one_is_kept():
    """As of resampled pixels: the file's sigma is three times the scatter; shot noise keeps its proportion."""
    given = batch()
    given.variance[:, 1] *= 9
    given.variance[:, :, 10:20] *= 4
    stamps, _ = run(given)
    ratio = np.array(stamps.catalogue["sky_sigma_over_plane"].to_list())
    scale = np.array(stamps.catalogue["variance_scale"].to_list())
    assert ratio[:, 1] == pytest.approx(1 / 3, rel=0.1)
    assert (scale[:, 0] == 1).all()
    assert scale[:, 1] == pytest.approx(ratio[:, 1] ** 2, rel=1e-6)
    assert np.sqrt(stamps.variance[:, 1, 0, 0]) == pytest.approx(9, rel=0.1)
    assert stamps.variance[:, 1, 15] / stamps.variance[:, 1, 0] == pytest.approx(4, rel=1e-5)


def test_north_travels_with_the_stamp():
    given = batch(north_deg=np.array([0.0, 30.0, np.nan, 90.0, 180.0, -20.0]))
    assert run(given)[0].catalogue["north_deg"].to_list() == [0.0, 30.0, None, 90.0, 180.0, -20.0]
    assert run(batch())[0].catalogue["north_deg"].null_count() == COUNT


def faults():
    """name -> what to plant in object 2, and the words of its refusal."""
    return {
        "nan image": (lambda c: c.flux[2, 1].fill(np.nan), "band r: image must have finite pixels"),
        "variance": (lambda c: c.variance[2, 0].fill(-1), "band g: variance must be positive somewhere"),
        "zero variance": (lambda c: c.variance[2, 0].fill(0), "band g: variance must be positive somewhere"),
        "masked": (lambda c: c.bad[2, 1, :30].fill(True), "band r: good pixels must be at least 30%"),
        "constant": (lambda c: c.flux[2, 0].fill(3), "band g: sky noise must be positive"),
        "sentinel": (lambda c: c.flux[2, 0, 1].fill(1e20), "band g: flux must be within 1e[+]13 sky sigmas"),
        "tiny variance": (lambda c: c.variance[2, 0, 1].fill(1e-30), "band g: variance must be near the sky's"),
        "psf nan": (lambda c: c.psf[2, 1].fill(np.nan), "band r: PSF must be finite with a positive sum"),
        "psf flat": (lambda c: c.psf[2, 1].fill(1), "band r: PSF must be finite with a positive sum"),
    }


@pytest.mark.parametrize("fault", faults())
def test_unusable_object_is_refused_in_words_and_alone(fault):
    given = batch()
    plant, words = faults()[fault]
    plant(given)
    stamps, refused = run(given)
    assert [name for name, _ in refused] == ["s.2"]
    with pytest.raises(ValueError, match=words):
        raise ValueError(refused[0][1])
    assert stamps.catalogue["object_id"].to_list() == ["s.0", "s.1", "s.3", "s.4", "s.5"]
    assert len(stamps.flux) == 5


def test_psf_wider_than_allowed_is_refused():
    wide = np.broadcast_to(gaussian((101, 101), 50.0), (COUNT, 2, 101, 101)).copy()
    assert len(run(batch(psf=wide))[1]) == COUNT
    narrow = np.broadcast_to(gaussian((101, 100), 4.0, (50.0, 49.5)), (COUNT, 2, 101, 100)).copy()
    stamps, refused = run(batch(psf=narrow))
    assert refused == []
    assert stamps.psf.shape[-2:] == (63, 63)


def test_all_refused_gives_no_stamps():
    stamps, refused = run(batch(flux=np.full((COUNT, 2, PIXELS, PIXELS), np.nan, np.float32)))
    assert len(refused) == COUNT
    assert stamps.catalogue.height == 0


def test_unknown_band_is_refused():
    with pytest.raises(ValueError, match="bands of hsc must be among g, r, i, z, y, got VIS"):
        run(dataclasses.replace(batch(), bands=("g", "VIS")))
