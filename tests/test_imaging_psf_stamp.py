"""PSF stamps: the centre's convention on odd and even axes, unit sum, widths of known profiles."""

import numpy as np
import pytest
from cutouts_folder import gaussian

from lensml.imaging.psf_stamp import fwhm_halfmax, fwhm_moment, normalise, odd_square, pad


def test_non_square_odd_keeps_its_centre():
    found = odd_square(gaussian((43, 41), 5.0))
    assert found.shape == (43, 43)
    assert np.allclose(found, gaussian((43, 43), 5.0), atol=1e-6)


@pytest.mark.parametrize("centre", [(9.0, 9.0), (10.0, 10.0), (9.0, 10.0)])
def test_even_axis_centred_on_a_pixel_is_only_padded(centre):
    given = gaussian((20, 20), 3.0, centre)
    found = odd_square(given)
    assert found.shape == (21, 21)
    assert np.unravel_index(found.argmax(), found.shape) == (10, 10)
    assert np.array_equal(np.sort(found[found > 0]), np.sort(given[given > 0]))


@pytest.mark.parametrize("fwhm", [3.0, 5.0])
def test_even_axis_centred_on_the_corner_is_shifted_by_half_a_pixel(fwhm):
    found = odd_square(gaussian((32, 30), fwhm, (15.5, 14.5)))
    assert found.shape == (33, 33)
    assert np.allclose(found, gaussian((33, 33), fwhm), atol=0.01 * found.max())


def test_a_batch_of_even_stamps_decides_each_by_itself():
    stamps = np.stack([gaussian((20, 20), 3.0, (c, c)) for c in (9.0, 9.5, 10.0)])
    found = odd_square(stamps)
    assert [np.unravel_index(p.argmax(), p.shape) for p in found] == [(10, 10)] * 3


def test_normalise_cuts_and_tells_what_it_lost():
    big = gaussian((41, 41), 10.0) * 0.94
    found, lost = normalise(big[None], 21)
    assert found.shape == (1, 21, 21)
    assert found.sum() == pytest.approx(1, abs=1e-6)
    assert lost[0] == pytest.approx(1 - big[10:31, 10:31].sum() / big.sum(), rel=1e-5)


@pytest.mark.parametrize("fault", ["zero", "nan", "inf", "negative"])
def test_unusable_psf_is_told(fault):
    psf = gaussian((11, 11), 3.0)[None].copy()
    if fault == "zero":
        psf[:] = 0
    elif fault == "negative":
        psf *= -1
    else:
        psf[0, 2, 3] = float(fault)
    found, lost = normalise(psf, 11)
    assert np.isnan(lost).all()
    assert (found == 0).all()
    assert np.isnan(fwhm_halfmax(found)).all()


@pytest.mark.parametrize("fwhm", [2.0, 3.3, 8.0])
def test_width_of_a_gaussian(fwhm):
    psf = gaussian((41, 41), fwhm)
    assert fwhm_halfmax(psf) == pytest.approx(fwhm, rel=1e-3)
    assert fwhm_moment(psf) == pytest.approx(fwhm, rel=0.03)  # sums over coarse pixels


def test_width_of_a_moffat():
    """Half-maximum width is a parameter of the profile; its wings show in the moments."""
    y, x = np.indices((61, 61)) - 30
    beta, fwhm = 2.5, 6.0
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    psf = ((1 + (x**2 + y**2) / alpha**2) ** -beta).astype(np.float32)
    assert fwhm_halfmax(psf) == pytest.approx(fwhm, rel=0.01)
    assert 1.02 * fwhm < fwhm_moment(psf) < 1.25 * fwhm


def test_pad_keeps_the_centre():
    assert np.array_equal(pad(gaussian((5, 5), 2.0), 9)[2:7, 2:7], gaussian((5, 5), 2.0))
