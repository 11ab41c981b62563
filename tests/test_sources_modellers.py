"""Data sets that modellers publish (autolens, cfht, profit): layout, units, noise, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from astropy.io import fits
from brought import REAL, Brought, are_odd_with_unit_sum

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no sample data beside the checkout")
IMAGE = np.random.default_rng(5).normal(0.0, 1.0, (30, 32))
FIRST, SHIFT = ("ra_at_xy_0", "dec_at_xy_0"), ("ra_shift", "dec_shift")
PSF = np.exp(-((np.hypot(*(np.indices((11, 11)) - 5))) ** 2) / 4)


def write(path: Path, pixels: np.ndarray, **cards: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.writeto(path, pixels, fits.Header(list(cards.items())))


def nanojansky(zero_point: float) -> float:
    return float(10 ** (0.4 * (31.4 - zero_point)))


def autolens(folder: Path, image: str = "data", **cards: Any) -> None:
    noise = np.full(IMAGE.shape, 0.5)
    noise[2, 3] = 1e8
    write(folder / f"{image}.fits", IMAGE, **cards)
    write(folder / "noise_map.fits", noise)
    write(folder / "psf.fits", PSF)
    write(folder / "mask_extra_galaxies.fits", np.ones((9, 9)))


@pytest.mark.parametrize("image", ["data", "image"])
def test_autolens_takes_the_stated_band_and_the_surveys_constants(tmp_path: Path, image: str) -> None:
    autolens(tmp_path / "in" / "lens1", image)
    found = Brought("autolens", tmp_path / "in", tmp_path / "raw", "hst", bands=["F814W"])
    cutouts, index = found.batch("lens1")
    factor = nanojansky(25.95)
    assert (cutouts.bands, cutouts.pixel_scale[index]) == (("F814W",), 0.05)
    np.testing.assert_allclose(cutouts.flux[index, 0], IMAGE * factor, rtol=1e-5)
    expected = np.full(IMAGE.shape, (0.5 * factor) ** 2)
    expected[2, 3] = 0
    np.testing.assert_allclose(found.variance("lens1")[0], expected, rtol=1e-5)
    assert found.claim("lens1")["label"] == "unknown"


def test_autolens_band_folders_have_their_own_zero_points(tmp_path: Path) -> None:
    for folder in ("vis", "nir_y", "nir_h"):
        autolens(tmp_path / "in" / "lens1" / folder, PIXSCALE=0.12)
    found = Brought("autolens", tmp_path / "in", tmp_path / "raw", "euclid")
    cutouts, index = found.batch("lens1")
    assert (cutouts.bands, cutouts.pixel_scale[index]) == (("VIS", "NIR_Y", "NIR_H"), 0.12)
    for band, zero_point in enumerate((24.6, 29.8, 29.9)):
        np.testing.assert_allclose(cutouts.flux[index, band], IMAGE * nanojansky(zero_point), rtol=1e-5)


@pytest.mark.parametrize(
    ("cards", "bands", "words"),
    [
        ({}, None, "bands must name the one band of data.fits, got none"),
        ({}, ["F814W", "F606W"], "got F814W, F606W"),
        ({}, ["g"], "must have images in some of F390W"),
        ({"PIXSCALE": -1.0}, ["F814W"], "PIXSCALE must lie between"),
        ({"BUNIT": "parsec"}, ["F814W"], "BUNIT must be"),
    ],
)
def test_autolens_refuses_in_words(tmp_path: Path, cards: dict[str, Any], bands: list[str] | None, words: str) -> None:
    autolens(tmp_path / "in" / "lens1", **cards)
    found = Brought("autolens", tmp_path / "in", tmp_path / "raw", "hst", bands=bands)
    assert words in found.refused["lens1"]


def cfht(folder: Path, **cards: Any) -> None:
    for band in "gi":
        write(folder / f"L_1_{band}_sci.fits", IMAGE, BUNIT="Data Value", SATURATE=3.0, **cards)
        write(folder / f"L_1_{band}_rms.fits", np.full(IMAGE.shape, 0.8), GAIN=0.0)
        write(folder / f"L_1_{band}_psf.fits", PSF)
    write(folder / "L_1_mask.fits", np.ones(IMAGE.shape))


def test_cfht_is_in_counts_of_zero_point_30_and_its_mask_hides_nothing(tmp_path: Path) -> None:
    cfht(tmp_path / "in")
    found = Brought("cfht", tmp_path / "in", tmp_path / "raw", "cfht")
    cutouts, index = found.batch("L_1")
    assert cutouts.bands == ("g", "i")
    np.testing.assert_allclose(cutouts.flux[index], np.stack([IMAGE] * 2) * nanojansky(30.0), rtol=1e-5)
    np.testing.assert_allclose(found.variance("L_1"), (0.8 * nanojansky(30.0)) ** 2, rtol=1e-5)
    assert (cutouts.bad[index] == (IMAGE >= 3)).all()


@pytest.mark.parametrize("missing", ["rms", "sci"])
def test_cfht_refuses_a_noise_plane_of_one_band_only(tmp_path: Path, missing: str) -> None:
    cfht(tmp_path / "in")
    (tmp_path / "in" / f"L_1_g_{missing}.fits").unlink()
    found = Brought("cfht", tmp_path / "in", tmp_path / "raw", "cfht")
    if missing == "rms":
        assert "must all have a noise plane or none" in found.refused["L_1"]
    else:
        assert found.batch("L_1")[0].bands == ("i",)


def profit(folder: Path) -> None:
    for survey, factor in (("KiDS", 1.0), ("SDSS", 2.0)):
        mask = np.zeros(IMAGE.shape, dtype=np.int32)
        mask[4, 6] = 2
        planes = {"fitim": IMAGE * 1e-11 * factor, "sigma": np.full(IMAGE.shape, 3e-12), "mskim": mask, "psfim": PSF}
        for plane, pixels in (planes | {"segim": mask}).items():
            write(folder / survey / f"G1{plane}.fits", pixels.astype(np.int32 if plane == "mskim" else np.float32))


def test_profit_twins_are_two_objects_of_one_parent(tmp_path: Path) -> None:
    profit(tmp_path / "in")
    found = Brought("profit", tmp_path / "in", tmp_path / "raw", "kids")
    for name, survey, scale, factor in (("G1_KiDS", "kids", 0.2, 1.0), ("G1_SDSS", "sdss", 0.339, 2.0)):
        cutouts, index = found.batch(name)
        claim = found.claim(name)
        assert (cutouts.survey, cutouts.bands, cutouts.pixel_scale[index]) == (survey, ("r",), scale)
        assert (claim["parent"], claim["label"], claim["label_source"]) == ("G1", "nonlens", "obs:profit")
        np.testing.assert_allclose(cutouts.flux[index, 0], IMAGE * 1e-11 * factor * 10**12.56, rtol=1e-5)
        np.testing.assert_allclose(found.variance(name), (3e-12 * 10**12.56) ** 2, rtol=1e-5)
        assert np.argwhere(cutouts.bad[index, 0]).tolist() == [[4, 6]]


def test_a_users_table_decides_for_its_own_rows_only(tmp_path: Path) -> None:
    profit(tmp_path / "in")
    (tmp_path / "mine.csv").write_text("object_id,survey,label,label_source\nG1_KiDS,kids,lens,obs:me\n")
    found = Brought("profit", tmp_path / "in", tmp_path / "raw", "kids", catalogue=str(tmp_path / "mine.csv"))
    assert found.claim("G1_KiDS")["label_source"] == "obs:me"
    assert found.claim("G1_SDSS")["label_source"] == "obs:profit"


def test_profit_without_an_image_is_refused(tmp_path: Path) -> None:
    profit(tmp_path / "in")
    (tmp_path / "in" / "SDSS" / "G1fitim.fits").unlink()
    found = Brought("profit", tmp_path / "in", tmp_path / "raw", "kids")
    assert "must have an image" in found.refused["G1_SDSS"]


@needs_real
def test_real_slacs_lenses_agree_with_an_independent_reduction(tmp_path: Path) -> None:
    found = Brought("autolens", REAL / "hst-slacs", tmp_path / "raw", "hst", bands=["F814W"])
    assert (found.names, found.refused) == ({"slacs0946+1006", "slacs1430+4105"}, {})
    assert np.isfinite(found.flux("slacs0946+1006")).all()
    assert (found.variance("slacs1430+4105") <= 0).sum() == 14  # 1e8 in the noise map: a saturated star
    assert are_odd_with_unit_sum(found.psfs())
    for ours, name in (("slacs0946+1006", "SDSSJ0946+1006"), ("slacs1430+4105", "SDSSJ1430+4105")):
        with h5py.File(REAL / "hst-dinos" / name / f"image_{name}_F814W.h5") as file:
            image = file["image_data"][()]
            first, shift = (np.array([file[k][()] for k in keys]) for keys in (FIRST, SHIFT))
            centre = np.linalg.solve(file["transform_pix2angle"][()], -first - shift)[::-1]
        away = np.hypot(*(np.indices(image.shape) - centre[:, None, None])) * 0.05
        theirs = 25.94 - 2.5 * np.log10(image[away < 2.0].sum())
        assert found.magnitudes(ours, 2.0)["F814W"] == pytest.approx(theirs, abs=0.05)


@needs_real
def test_real_euclid_band_folders_are_the_mer_cutouts(tmp_path: Path) -> None:
    """The same pixels with MAGZERO in their headers are in the MER file beside them."""
    name = "EUCLJ174517.55+655612.5"
    found = Brought("autolens", REAL / "euclid-q1", tmp_path / "raw", "euclid")
    mer = Brought("euclid", REAL / "euclid-q1", tmp_path / "mer", "euclid")
    bands = found.batch(name)[0].bands
    assert bands == ("VIS", "NIR_Y", "NIR_J", "NIR_H")
    chosen = [mer.batch(name)[0].bands.index(band) for band in bands]
    np.testing.assert_allclose(found.flux(name)[:, 25:125, 25:125], mer.flux(name)[chosen], rtol=1e-5)
    np.testing.assert_allclose(found.variance(name)[:, 25:125, 25:125], mer.variance(name)[chosen], rtol=1e-3)
    assert are_odd_with_unit_sum(found.psfs())


@needs_real
def test_the_real_cfht_lens_is_as_bright_as_hst_sees_it(tmp_path: Path) -> None:
    found = Brought("cfht", REAL / "cfht-sl2s", tmp_path / "raw", "cfht")
    name = "SL2SJ021411-040502"
    assert (found.names, found.refused) == ({name}, {})
    claim = found.claim(name)
    assert claim["ra"] == pytest.approx(15 * (2 + 14 / 60 + 11.5 / 3600), abs=0.6 * 15 / 3600)  # by its designation
    assert claim["dec"] == pytest.approx(-(4 + 5 / 60 + 2.5 / 3600), abs=0.8 / 3600)
    shutil.copytree(REAL / "hst-dinos" / "SL2SJ0214-0405", tmp_path / "in" / "SL2SJ0214-0405")
    shutil.copy(REAL / "hst-dinos" / "tables" / "DINOSi_PHOTZPT_values.csv", tmp_path / "in")
    hst = Brought("dinos", tmp_path / "in", tmp_path / "hst", "hst").magnitudes("SL2SJ0214-0405", 2.5)
    ours = found.magnitudes(name, 2.5)
    assert ours["u"] > ours["g"] > ours["r"] > ours["i"] > ours["z"]
    assert ours["r"] == pytest.approx(hst["F606W"], abs=0.15)  # which reaches bluer than r
    assert ours["i"] == pytest.approx(hst["F814W"], abs=0.15)
    assert are_odd_with_unit_sum(found.psfs())


@needs_real
def test_real_kids_and_sdss_see_the_same_flux(tmp_path: Path) -> None:
    found = Brought("profit", REAL / "kids-sdss", tmp_path / "raw", "kids")
    assert (len(found.names), found.refused, found.evidence["parent"].n_unique()) == (10, {}, 5)
    for galaxy in sorted(found.evidence["parent"].unique()):
        kids, sdss = (found.magnitudes(f"{galaxy}_{survey}", 4.0)["r"] for survey in ("KiDS", "SDSS"))
        assert abs(kids - sdss) < 0.12
    assert are_odd_with_unit_sum(found.psfs())
