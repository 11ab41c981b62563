"""Calibration against planted miscalibration and closed forms."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import brier_score_loss

from lensml.evaluation import calibration


def test_true_probabilities_are_calibrated_and_shifted_ones_are_off_by_the_shift() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.2, 0.6, 20000)
    y = (rng.random(p.size) < p).astype(int)
    assert calibration.ece(y, p, 10)[0] < 0.02
    assert calibration.ece(y, p + 0.3, 10)[0] == pytest.approx(0.3, abs=0.01)


def test_brier_equals_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    p, y = rng.random(100), rng.integers(0, 2, 100)
    assert calibration.brier(y, p)[0] == pytest.approx(brier_score_loss(y, p))


def test_ece_of_a_draw_equals_the_written_out_definition() -> None:
    rng = np.random.default_rng(2)
    p, y, w = rng.random(60), rng.integers(0, 2, 60), rng.integers(0, 3, (2, 60))
    bins = np.argsort(np.argsort(p)) // 12
    for row, found in zip(w, calibration.ece(y, p, 5, w), strict=True):
        gaps = [abs((row * (p - y))[bins == b].sum()) for b in range(5)]
        assert found == pytest.approx(sum(gaps) / row.sum())


def test_bins_hold_equal_mass_and_ties_share_one() -> None:
    p = np.random.default_rng(3).permutation(np.arange(100) / 100)
    assert (np.bincount(calibration.equal_mass_bins(p, 10)) == 10).all()
    assert len(set(calibration.equal_mass_bins(np.full(50, 0.5), 10))) == 1


def test_reliability_rows_cover_every_object() -> None:
    p = np.array([0.1, 0.1, 0.9, 0.9])
    table = calibration.reliability([0, 1, 1, 1], p, 2)
    assert table.to_dict(as_series=False) == {"probability": [0.1, 0.9], "lens_share": [0.5, 1.0], "n": [2, 2]}


@pytest.mark.parametrize("planted", [0.5, 1.0, 3.0])
def test_a_planted_temperature_is_found(planted: float) -> None:
    rng = np.random.default_rng(4)
    z = rng.normal(0, 2, 40000)
    y = (rng.random(z.size) < expit(z)).astype(int)
    assert calibration.temperature(y, planted * z) == pytest.approx(planted, rel=0.05)


def test_one_class_has_no_temperature() -> None:
    with pytest.raises(ValueError, match="got one class"):
        calibration.temperature([1, 1], [0.0, 1.0])
