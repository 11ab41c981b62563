"""Challenge metrics against scikit-learn, against a brute-force scan of thresholds, and against hand-made cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from lensml.evaluation import metrics, purity

few_values = st.lists(st.tuples(st.booleans(), st.integers(-4, 4)), min_size=1, max_size=40)


def split(cases: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([int(lens) for lens, _ in cases]), np.array([float(score) for _, score in cases])


def best_tpr(y: np.ndarray, s: np.ndarray, fp_max: float) -> float:
    """Every threshold that could matter, one by one, by the words of the definition."""
    thresholds = [*s, -np.inf]
    tprs = [(s[y == 1] > t).mean() for t in thresholds if (s[y == 0] > t).sum() <= fp_max]
    return max([0.0, *tprs])


@settings(max_examples=150, deadline=None)
@given(few_values)
def test_figures_with_many_ties_equal_brute_force_and_scikit_learn(cases: list[tuple[bool, int]]) -> None:
    y, s = split(cases)
    found = metrics.compute_bologna_metrics(y, s)
    if len(set(y)) < 2:
        assert all(found[name] is None for name in metrics.FIGURES)
        return
    n = (y == 0).sum()
    assert found["tpr_at_fpr_0"] == best_tpr(y, s, 0)
    assert found["tpr10"] == best_tpr(y, s, 9)
    assert found["tpr_at_fpr_0.1"] == best_tpr(y, s, next(k for k in range(n, -1, -1) if k * 10 <= n))
    assert found["auroc"] == pytest.approx(roc_auc_score(y, s), abs=1e-12)
    assert found["auprc"] == pytest.approx(average_precision_score(y, s), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(few_values)
def test_roc_points_equal_scikit_learns(cases: list[tuple[bool, int]]) -> None:
    y, s = split(cases)
    if len(set(y)) == 2:
        fpr, tpr, _ = roc_curve(y, s, drop_intermediate=False)
        counts = metrics.count(y, s)
        np.testing.assert_array_equal(counts.fpr[0], fpr)
        np.testing.assert_array_equal(counts.tpr[0], tpr)
        assert (counts.tpr[0, 0], counts.fpr[0, 0]) == (0, 0)
        assert (counts.tpr[0, -1], counts.fpr[0, -1]) == (1, 1)


@settings(max_examples=60, deadline=None)
@given(few_values, st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]))
def test_the_threshold_reaches_the_tpr_and_is_strict(cases: list[tuple[bool, int]], rate: float) -> None:
    y, s = split(cases)
    tpr, threshold = metrics.compute_tpr_at_fpr(y, s, rate)
    if len(set(y)) < 2:
        assert (tpr, threshold) == (None, None)
        return
    assert (s[y == 1] > threshold).mean() == tpr
    assert (s[y == 0] > threshold).mean() <= rate


@settings(max_examples=40, deadline=None)
@given(few_values, st.integers(0, 2**32 - 1))
def test_weighted_counts_equal_the_sample_written_out(cases: list[tuple[bool, int]], seed: int) -> None:
    y, s = split(cases)
    w = np.random.default_rng(seed).integers(0, 4, (3, y.size))
    for figure in (*metrics.FIGURES.values(), metrics.tpr_above(0.0), metrics.accuracy(0.0)):
        drawn = figure(metrics.count(y, s, w))
        for row, value in zip(w, drawn, strict=True):
            written = figure(metrics.count(np.repeat(y, row), np.repeat(s, row)))[0] if row.sum() else np.nan
            np.testing.assert_allclose(value, written, rtol=0, atol=1e-12)


def test_tpr0_and_tpr10_by_hand() -> None:
    y = np.array([1, 0, 1] + [0, 1] * 12)
    s = -np.arange(27.0)
    found = metrics.compute_bologna_metrics(y, s)
    assert found["tpr_at_fpr_0"] == 1 / 14
    assert found["tpr10"] == 10 / 14  # the tenth false positive is object 20 of 27: ten lenses stand above it
    assert (found["n_lens"], found["n_nonlens"], found["comparable_with_challenge"]) == (14, 13, False)


def test_a_lens_tied_with_a_non_lens_is_not_found_before_the_first_false_positive() -> None:
    assert metrics.compute_tpr_at_fpr([1, 1, 0], [2.0, 1.0, 1.0]) == (0.5, 1.0)
    assert metrics.compute_tpr_at_fpr([1, 0], [1.0, 1.0]) == (0.0, 1.0)


def test_float64_scores_that_float32_would_tie() -> None:
    s = 30 + np.array([3e-9, 2e-9, 1e-9])
    assert metrics.compute_bologna_metrics([1, 1, 0], s)["tpr_at_fpr_0"] == 1
    assert len(set(s.astype(np.float32))) == 1


def test_a_score_that_is_not_finite_is_named() -> None:
    with pytest.raises(ValueError, match=r"got nan \(object 1 of 3\)"):
        metrics.compute_bologna_metrics([0, 1, 1], [0.0, np.nan, 1.0])
    with pytest.raises(ValueError, match="must be 0 or 1, got 2"):
        metrics.count([0, 2], [0.0, 1.0])


def test_flux_ratio_bins_take_in_their_edges_as_the_specification_says() -> None:
    ratios = [0.05, 0.1, 0.3, 0.31, np.nan, 0.0]
    found = metrics.compute_flux_ratio_stratified_metrics([1, 1, 1, 1, 1, 0], [2, 0, 1, 2, 2, 9], ratios, 1.0)
    assert found["low"] == {"n_lens": 1, "tpr": 1.0, "fnr": 0.0}
    assert found["medium"] == {"n_lens": 2, "tpr": 0.0, "fnr": 1.0}
    assert found["high"]["n_lens"] == found["unknown"]["n_lens"] == 1


def test_low_flux_fnr_is_taken_at_one_false_positive_in_ten() -> None:
    y = np.array([1, 1, 1, 1] + [0] * 10)
    s = np.array([9.0, 8.0, 1.5, 0.5] + [7.0, 2.0] + [0.0] * 8)  # one false positive allowed: the threshold is 2
    r = np.array([0.5, 0.05, 0.05, 0.05] + [np.nan] * 10)
    assert metrics.compute_bologna_metrics(y, s, r)["low_flux_fnr"] == pytest.approx(2 / 3)


def test_purity_at_the_prevalence_of_the_sky() -> None:
    assert purity.purity(0.5, 1e-3, 1e-3) == pytest.approx(0.5 * 1e-3 / (0.5 * 1e-3 + 0.999 * 1e-3))
    counts = metrics.count([1, 0, 1, 0, 0, 0], [5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    assert purity.purity_at_completeness(0.6, 0.5)(counts)[0] == pytest.approx(1 / 1.25)
    assert purity.purity_at_completeness(0.6, 0.5, 1)(counts)[0] == pytest.approx(1 / 1.5)


def test_format_gives_every_figure_and_a_dash_for_none() -> None:
    text = metrics.format_bologna_metrics(metrics.compute_bologna_metrics([1, 1], [0.0, 1.0]))
    assert all(name in text for name in metrics.FIGURES)
    assert text.count(" -") == len(metrics.FIGURES) + 1
