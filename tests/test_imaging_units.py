"""Zero-points and pixel scales against published values and arithmetic by hand."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales
from cutouts_folder import survey, wcs

from lensml.imaging.units import nanojansky_per_unit, pixel_scale_arcsec


@pytest.mark.parametrize(
    ("header", "factor"),
    [
        ({"MAGZERO": 31.4}, 1.0),
        ({"MAGZERO": 27.0}, 57.544),  # HSC: nJy = value x 57.544
        ({"FLUXMAG0": 63095734448.0194}, 57.544),  # the card of real HSC coadds
        ({"BUNIT": "nJy"}, 1.0),
        ({"BUNIT": "maggies"}, 3.6308e12),
        ({"BUNIT": "nanomaggies"}, 3630.8),
        ({"MAGZERO": 30.0, "BUNIT": "electrons"}, 3.6308),  # DES
        ({"PHOTFLAM": 7.0331885e-20, "PHOTPLAM": 8045.0}, 10 ** (0.4 * (31.4 - 25.9463))),  # ACS F814W
        ({"MAGZERO": 22.5, "BUNIT": "nanomaggies"}, 3630.8),
        ({}, 57.544),  # silent: the survey's
    ],
)
def test_zero_point_of_every_card(header, factor):
    assert nanojansky_per_unit(header, survey("hsc")) == pytest.approx(factor, rel=2e-4)


def test_photflam_agrees_with_the_stmag_route():
    """AB = -2.5 log PHOTFLAM - 21.10 - 5 log PHOTPLAM + 18.6921 (STScI), another writing of the same."""
    flam, plam = 7.12978525e-20, 8045.1558
    ab = -2.5 * np.log10(flam) - 21.10 - 5 * np.log10(plam) + 18.6921
    factor = nanojansky_per_unit({"PHOTFLAM": flam, "PHOTPLAM": plam}, survey("hst"))
    assert 31.4 - 2.5 * np.log10(factor) == pytest.approx(ab, abs=2e-4)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"MAGZERO": 27.0, "BUNIT": "nJy"}, "zero-point must be one, got MAGZERO 27.000, BUNIT 31.400"),
        ({"BUNIT": "MJy/sr"}, "BUNIT must be nJy, maggies, nanomaggies or counts, got mjy/sr"),
        ({"MAGZERO": "27"}, "MAGZERO must be a number"),
        ({"MAGZERO": True}, "MAGZERO must be a number"),
        ({"MAGZERO": float("nan")}, "MAGZERO must be a number"),
        ({"MAGZERO": 1e300}, "within 100 mag"),
        ({"PHOTFLAM": 7e-20}, "PHOTPLAM must be a number, got None"),
        ({"PHOTFLAM": 0.0, "PHOTPLAM": 8000.0}, "PHOTFLAM must be positive"),
        ({"FLUXMAG0": -1.0}, "FLUXMAG0 must be positive"),
    ],
)
def test_unknown_or_contradictory_units_are_refused(header, words):
    with pytest.raises(ValueError, match=words.replace("/", "/")):
        nanojansky_per_unit(header, survey("hsc"))


@pytest.mark.parametrize("angle", [0.0, 30.0, 135.0])
@pytest.mark.parametrize("parity", [1, -1])
def test_pixel_scale_of_a_rotated_frame(angle, parity):
    cards = wcs(0.168, angle)
    cards["CD1_1"], cards["CD2_1"] = parity * cards["CD1_1"], parity * cards["CD2_1"]
    oracle = proj_plane_pixel_scales(WCS(fits.Header(cards)))[0] * 3600
    assert pixel_scale_arcsec(cards, survey("des")) == pytest.approx(oracle, rel=1e-9)


def test_pixel_scale_by_steps_or_by_table():
    assert pixel_scale_arcsec({"CDELT1": -0.2 / 3600, "CDELT2": 0.2 / 3600}, survey("hsc")) == pytest.approx(0.2)
    assert pixel_scale_arcsec({"CD1_1": 0.2, "CD2_2": 0.2, "CUNIT1": "arcsec"}, survey("hsc")) == pytest.approx(0.2)
    assert pixel_scale_arcsec({}, survey("hsc")) == 0.168


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"CD1_1": 0.0, "CD2_2": 1e-4}, "pixel scale must lie between"),
        ({"CDELT1": 1e-4}, "CDELT2 must be a number"),
        ({"CD1_1": 1.0, "CD2_2": 1.0, "CUNIT1": "m"}, "CUNIT1 must be one of"),
    ],
)
def test_broken_wcs_is_refused(header, words):
    with pytest.raises(ValueError, match=words):
        pixel_scale_arcsec(header, survey("hsc"))
