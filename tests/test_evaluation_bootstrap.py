"""Group bootstrap against closed forms: the error of a mean, and what happens when groups are ignored."""

import numpy as np
import pytest

from lensml.evaluation import bootstrap


def mean_of(values: np.ndarray) -> bootstrap.Statistic:
    return lambda w: {"mean": (w @ values) / w.sum(axis=1)}


def test_spread_of_a_mean_is_sigma_over_root_n() -> None:
    x = np.random.default_rng(0).normal(size=400)
    drawn = bootstrap.draw(mean_of(x), np.arange(400), 2000, seed=1)["mean"]
    assert drawn.std() == pytest.approx(x.std() / 20, rel=0.05)


def test_twins_in_a_group_widen_the_interval_as_if_each_group_were_one_object() -> None:
    x = np.repeat(np.random.default_rng(0).normal(size=100), 4)
    groups = np.repeat(np.arange(100), 4)
    by_group = bootstrap.draw(mean_of(x), groups, 2000, seed=1)["mean"].std()
    by_object = bootstrap.draw(mean_of(x), np.arange(400), 2000, seed=1)["mean"].std()
    assert by_group == pytest.approx(2 * by_object, rel=0.08)


def test_members_of_a_group_are_drawn_together() -> None:
    seen = []
    bootstrap.draw(lambda w: seen.append(w) or {"n": w.sum(axis=1) * 1.0}, ["a", "b", "a", "c"], 50, seed=3)
    w = np.concatenate(seen)
    assert (w[:, 0] == w[:, 2]).all()
    assert (w[:, 0] + w[:, 1] + w[:, 3] == 3).all()


def test_memory_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(20.0)
    whole = bootstrap.draw(mean_of(x), np.arange(20), 30, seed=5)["mean"]
    monkeypatch.setattr(bootstrap, "CHUNK_ENTRIES", 60)
    np.testing.assert_array_equal(bootstrap.draw(mean_of(x), np.arange(20), 30, seed=5)["mean"], whole)


def test_the_interval_covers_at_its_level() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        found = bootstrap.figures(mean_of(rng.normal(size=60)), np.arange(60), 200, 0.9, seed=4)
        hits += found["mean_low"] <= 0 <= found["mean_high"]
    assert 0.82 <= hits / 200 <= 0.96


def test_an_undefined_figure_has_no_interval() -> None:
    found = bootstrap.figures(lambda w: {"x": np.full(len(w), np.nan)}, [1, 2], 10, 0.9, seed=0)
    assert found == {"x": None, "x_low": None, "x_high": None}
