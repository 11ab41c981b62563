"""Curves and pictures: the same bytes every time, few points, and pixels that can be said beforehand."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from lensml import config
from lensml.evaluation import plots

EVALUATE = config.load(Path(__file__).parents[1] / "params.yaml").evaluate


def scored(n: int, lenses: float = 0.5) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    lens = rng.random(n) < lenses
    logit = rng.normal(2 * lens, 1.0)
    label = np.where(lens, "lens", "nonlens")
    table = {"object_id": [str(i) for i in range(n)], "label": label, "logit": logit, "baseline": rng.normal(0, 1, n)}
    return pl.DataFrame({**table, "probability": 1 / (1 + np.exp(-logit))})


def test_thinned_roc_keeps_its_ends_its_area_and_the_first_false_positives() -> None:
    table = scored(20_000)
    roc = plots.curves(table, EVALUATE)["roc"]
    assert roc.height <= plots.POINTS_MAX
    assert roc.row(0) == (0, 0)
    assert roc.row(-1) == (1, 1)
    area = np.trapezoid(roc["tpr"], roc["fpr"])
    assert area == pytest.approx(roc_auc_score(table["label"] == "lens", table["logit"]), abs=1e-3)
    assert roc.filter(pl.col("fpr").is_between(0, 1e-3, closed="right")).height >= 5


def test_an_unthinned_roc_has_the_exact_area() -> None:
    table = scored(200)
    roc = plots.curves(table, EVALUATE)["roc"]
    area = np.trapezoid(roc["tpr"], roc["fpr"])
    assert area == pytest.approx(roc_auc_score(table["label"] == "lens", table["logit"]), abs=1e-12)


def test_purity_is_bounded_by_one_more_false_positive() -> None:
    curve = plots.curves(scored(500), EVALUATE)["purity_completeness"]
    assert (curve["purity_one_more_fp"] < curve["purity"]).all()
    assert curve["completeness"].is_sorted()
    assert curve["completeness"][-1] == 1


def test_the_histogram_counts_every_object() -> None:
    curve = plots.curves(scored(500), EVALUATE)["scores"]
    assert curve["lens"].sum() + curve["nonlens"].sum() == 500


def test_curves_and_picture_have_the_same_bytes_twice(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        plots.write(plots.curves(scored(300), EVALUATE), "simulated", folder)
        plots.picture(scored(300), {"catalogue": "baseline"}, EVALUATE, "Test set", folder / "s.png")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted([*(f"{name}_simulated.csv" for name in plots.CURVES), "s.png"])
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    assert b"matplotlib" not in (tmp_path / "a" / "s.png").read_bytes()


def test_one_class_is_drawn_without_curves_that_need_both(tmp_path: Path) -> None:
    lenses = scored(50, lenses=1.1)
    found = plots.curves(lenses, EVALUATE)
    assert found["roc"].height == found["purity_completeness"].height == 0
    plots.picture(lenses, {}, EVALUATE, "One class", tmp_path / "one.png")
