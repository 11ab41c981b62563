"""Strata on a planted test set whose every figure can be said beforehand; the baseline on planted catalogues."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from lensml import config
from lensml.evaluation import baseline, metrics, strata

PARAMS = config.load(Path(__file__).parents[1] / "params.yaml")
RULES = strata.Rules(PARAMS.evaluate.model_copy(update={"bootstrap_draws": 50}), 2)


def planted(n: int = 400) -> pl.DataFrame:
    """Simulated objects are told apart well, real ones not at all; lenses of low flux ratio are missed."""
    rng = np.random.default_rng(0)
    lens, real = rng.random(n) < 0.5, np.arange(n) >= n // 2
    ratio = np.where(lens, rng.choice([0.05, 0.2, 0.5], n), np.nan)
    logit = rng.normal(np.where(lens & ~real & (ratio > 0.1), 4, -1), 1.0)
    table = pl.DataFrame(
        {
            "object_id": [f"o{i:04}" for i in range(n)],
            "group_id": [f"g{i // 2}" for i in range(n)],
            "survey": np.where(np.arange(n) % 3 == 0, "hsc", "hst"),
            "label": np.where(lens, "lens", "nonlens"),
            "label_source": np.where(real, "obs:castles", "sim:lensml"),
            "flux_ratio": ratio,
            "z_phot": np.where(np.arange(n) % 5 == 0, -1.0, rng.random(n)),
            "logit": logit,
            "probability": 1 / (1 + np.exp(-logit)),
            "one": logit + rng.normal(0, 3, n),
            "two": rng.normal(0, 1, n),
            "baseline": rng.normal(0, 1, n),
        }
    )
    return table.with_columns(pl.col("flux_ratio").fill_nan(None))


REPORT = strata.report(planted(), ["one", "two"], RULES)


def test_kinds_are_apart_and_equal_the_metrics_of_their_objects() -> None:
    assert list(REPORT) == ["simulated", "real"]
    for kind, prefix in (("simulated", "sim:"), ("real", "obs:")):
        part = planted().filter(pl.col("label_source").str.starts_with(prefix))
        y = (part["label"] == "lens").to_numpy()
        want = metrics.compute_bologna_metrics(y, part["logit"], part["flux_ratio"].fill_null(np.nan))
        assert {name: REPORT[kind][name] for name in want} == pytest.approx(want, abs=1e-6)
        assert REPORT[kind]["auroc_low"] < roc_auc_score(y, part["logit"]) < REPORT[kind]["auroc_high"]
    assert REPORT["simulated"]["auroc"] > 0.8 > 0.6 > REPORT["real"]["auroc"]


def test_changing_real_scores_leaves_the_simulated_figures_alone() -> None:
    real = pl.col("label_source") == "obs:castles"
    changed = planted().with_columns(pl.when(real).then(-pl.col("logit")).otherwise(pl.col("logit")).alias("logit"))
    found = strata.report(changed, ["one", "two"], RULES)
    assert found["simulated"] == REPORT["simulated"]
    assert found["real"] != REPORT["real"]


def test_missed_low_flux_lenses_are_reported_and_warned_about() -> None:
    simulated = REPORT["simulated"]
    assert simulated["low_flux_fnr"] > 0.7
    assert simulated["low_flux_fnr_too_high"] is True
    assert simulated["by_flux_ratio"]["low"]["fnr"] == simulated["low_flux_fnr"]
    assert simulated["by_flux_ratio"]["high"]["fnr"] < 0.05
    assert simulated["by_flux_ratio"]["low"]["auroc"] < 0.7 < simulated["by_flux_ratio"]["high"]["auroc"]


def test_strata_count_every_object_once() -> None:
    for part in REPORT.values():
        for by in ("by_survey", "by_redshift"):
            assert sum(s["n_lens"] + s["n_nonlens"] for s in part[by].values()) == 200
        assert sum(s["n_lens"] for s in part["by_flux_ratio"].values()) == part["n_lens"]
        assert list(part["by_redshift"]) == ["1", "2", "missing"]
        assert part["by_redshift"]["1"]["z_to"] <= part["by_redshift"]["2"]["z_from"]


def test_gain_names_the_best_member_and_is_the_difference() -> None:
    gain = REPORT["simulated"]["gain_over_best_member"]
    assert gain["best_member"] == "one"
    members = REPORT["simulated"]["members"]
    assert gain["auroc"] == pytest.approx(REPORT["simulated"]["auroc"] - members["one"]["auroc"], abs=2e-6)


def test_one_class_gives_null_with_counts() -> None:
    lenses = planted().filter((pl.col("label") == "lens") | pl.col("label_source").str.starts_with("sim:"))
    real = strata.report(lenses, ["one"], RULES)["real"]
    assert real["n_nonlens"] == 0
    assert real["n_lens"] > 0
    assert real["auroc"] is real["tpr_at_fpr_0"] is real["auroc_low"] is None


def catalogue(n: int, seed: int, colour: float) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    lens = rng.random(n) < 0.5
    g = rng.normal(22, 1, n)
    r = g - rng.normal(0.5, 0.2, n) - colour * lens
    magnitude = [[a, None if i % 10 == 0 else b] for i, (a, b) in enumerate(zip(g.tolist(), r.tolist(), strict=True))]
    return pl.DataFrame(
        {
            "survey": ["hsc"] * n,
            "label": np.where(lens, "lens", "nonlens"),
            "bands": [["g", "r"]] * n,
            "magnitude": magnitude,
            "half_light_radius": rng.random(n),
            "axis_ratio": [None] * n,
        },
        schema_overrides={"axis_ratio": pl.Float64},
    )


@pytest.mark.parametrize(("colour", "low", "high"), [(0.0, 0.4, 0.6), (1.0, 0.9, 1.0)])
def test_baseline_finds_a_planted_colour_and_nothing_where_nothing_is(colour: float, low: float, high: float) -> None:
    train, test = catalogue(1000, 1, colour), catalogue(400, 2, colour)
    assert low < roc_auc_score(test["label"] == "lens", baseline.score(train, test)) <= high


def test_baseline_of_an_unknown_survey_is_a_constant() -> None:
    stranger = catalogue(50, 2, 1.0).with_columns(pl.lit("hst").alias("survey"))
    assert np.ptp(baseline.score(catalogue(200, 1, 1.0), stranger)) == 0
