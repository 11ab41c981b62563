"""Reddening vectors (oracles: values that the papers and surveys published, redshift as a shift of wavelength)."""

from pathlib import Path

import numpy as np
import pytest

from lensml import config
from lensml.lensing import sed
from lensml.lensing.reddening import LAWS, extinction_per_a_v

PARAMS = Path(__file__).parents[1] / "params.yaml"


def test_ccm89_is_its_own_table() -> None:
    """Cardelli et al. 1989, table 3: A(lambda) / A(V) at R_V = 3.1 of U, B, V, R, I, J, H, K."""
    per_micron = np.array([2.78, 2.27, 1.82, 1.43, 1.11, 0.80, 0.63, 0.46])
    published = [1.569, 1.337, 1.000, 0.751, 0.479, 0.282, 0.190, 0.114]
    np.testing.assert_allclose(extinction_per_a_v(1000 / per_micron, 0.0, 3.1, "CCM89"), published, atol=0.015)


def test_f99_in_survey_bands_is_what_was_published() -> None:
    """Schlafly & Finkbeiner 2011, table 6, R_V = 3.1: A_b / E(B-V) of SDSS ugriz, here over that of Landolt's V."""
    published = np.array([4.239, 3.303, 2.285, 1.698, 1.263]) / 2.742
    k = extinction_per_a_v([355.7, 470.2, 617.6, 749.0, 894.7], 0.0, 3.1, "F99")
    np.testing.assert_allclose(k, published, rtol=0.03)


@pytest.mark.parametrize("law", LAWS)
def test_redshift_shifts_wavelengths_and_each_dust_has_its_row(law: str) -> None:
    bands = np.array([480.0, 622.0, 890.0])
    k = extinction_per_a_v(bands, [0.0, 0.5], 3.1, law)
    assert k.shape == (2, 3)
    np.testing.assert_array_equal(k[1], extinction_per_a_v(bands / 1.5, 0.0, 3.1, law))
    assert (np.diff(k, axis=1) < 0).all()
    assert float(extinction_per_a_v(550.0 * np.ones(1), 0.0, 3.1, law)[0]) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("z_dust", [0.0, 0.5, 1.5])
def test_every_band_of_every_survey_has_one(z_dust: float) -> None:
    for survey in config.load(PARAMS).surveys.values():
        k = extinction_per_a_v(sed.wavelengths(list(survey.bands)), z_dust, 3.1, "G23")
        assert ((k > 0.05) & (k < 8)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([480.0], 0.0, 3.1, "SMC"), "law must be one of G23, F99, CCM89, got SMC"),
        (([480.0], 0.0, 1.0, "G23"), "r_v must be within 2.3 to 5.6, got 1 "),
        (([480.0], -1.0, 3.1, "G23"), "z_dust must be at least 0, got -1 "),
        (([480.0], np.nan, 3.1, "G23"), "z_dust must be at least 0, got nan "),
        (([365.0], 3.0, 3.1, "F99"), "within 100 to 3333 nm in the dust's rest frame, got 91.2 "),
        (([np.nan], 0.0, 3.1, "F99"), "within 100 to 3333 nm in the dust's rest frame, got nan "),
    ],
)
def test_what_no_law_covers_is_refused_in_words(arguments: tuple[list[float], float, float, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extinction_per_a_v(*arguments)
