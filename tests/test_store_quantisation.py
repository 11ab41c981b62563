"""The 16-bit code against its stated error, for every flux that it takes."""

import math

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from lensml.store import quantisation as q

sigmas = st.floats(1e-6, 1e6)
ratios = hnp.arrays(np.float64, (1, 1, 4, 4), elements=st.floats(-9.9e12, 9.9e12))
faint = hnp.arrays(np.float64, (1, 1, 4, 4), elements=st.floats(-50, 50))


@settings(max_examples=60, deadline=None)
@given(st.one_of(ratios, faint), sigmas)
def test_flux_error_is_a_sixteenth_of_sigma_or_a_thousandth(ratio, sigma):
    flux = (ratio * sigma).astype(np.float32)
    sky = np.full((1, 1), sigma)
    back = q.decode_flux(q.encode_flux(flux, sky), sky)
    exact = flux.astype(np.float64)
    assert np.all(np.abs(back - exact) <= np.maximum(sigma / 16, 1e-3 * np.abs(exact)))


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float64, (1, 1, 3, 3), elements=st.floats(-30, 30)), st.floats(1e-3, 1e3))
def test_variance_error_and_bad(log_ratio, sigma):
    variance = (np.exp(log_ratio) * sigma**2).astype(np.float32)
    variance[0, 0, 0, 0] = np.inf
    sky = np.full((1, 1), sigma)
    back = q.decode_variance(q.encode_variance(variance, sky), sky)
    assert np.isinf(back[0, 0, 0, 0])
    assert np.isfinite(back.ravel()[1:]).all()
    np.testing.assert_allclose(back.ravel()[1:], variance.ravel()[1:], rtol=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2e13, -3e38])
def test_a_flux_without_a_code_is_refused(value):
    flux = np.zeros((2, 1, 3, 3), np.float32)
    flux[1, 0, 2, 1] = value
    with pytest.raises(ValueError, match=r"finite.*\(1, 0, 2, 1\)"):
        q.encode_flux(flux, np.ones((2, 1)))


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-30, 1e30, 3e38, 1e-44])
@pytest.mark.parametrize("sigma", [1e-8, 1.0, 1e8])
def test_a_variance_without_a_code_is_refused(value, sigma):
    if 1e-15 < value / sigma**2 < 1e15:  # has one, or nearly
        return
    with pytest.raises(ValueError, match="positive"):
        q.encode_variance(np.full((1, 1, 2, 2), value, np.float32), np.full((1, 1), sigma))


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_a_sky_sigma_that_is_no_noise_is_refused(sigma):
    with pytest.raises(ValueError, match="sky_sigma"):
        q.encode_flux(np.zeros((1, 1, 2, 2), np.float32), np.full((1, 1), sigma))


def test_codes_are_the_networks_input():
    flux = np.array([-3.0, 0.0, 0.02, 7.0, 4e5], np.float32).reshape(1, 1, 1, 5)
    codes = q.encode_flux(flux, np.full((1, 1), 2.0))
    np.testing.assert_allclose(codes * q.STEP, np.arcsinh(flux / 2.0), atol=0.0005001)


def test_psf_keeps_its_shape_and_sums_to_one():
    y, x = np.mgrid[-15:16, -15:16]
    psf = ((1 + (x**2 + y**2) / 4.0) ** -2.5).astype(np.float32)  # Moffat: wings over four decades
    psf = np.stack([psf / psf.sum(), np.zeros_like(psf)])[None]
    back = q.decode_psf(q.encode_psf(psf))
    np.testing.assert_allclose(back[0, 0], psf[0, 0], rtol=2e-4, atol=2e-8 * psf.max())
    assert back[0, 0].sum() == pytest.approx(1, abs=1e-6)
    assert not back[0, 1].any()
    with pytest.raises(ValueError, match="psf must be finite"):
        q.encode_psf(np.full((1, 1, 3, 3), np.nan, np.float32))
