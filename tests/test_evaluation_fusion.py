"""The fusion against scikit-learn's logistic regression, and against members that were planted."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lensml import schema
from lensml.evaluation import calibration, fusion


def planted(n: int = 600) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n)
    return y, {name: (2 * y - 1) * gain + rng.normal(0, 2, n) for name, gain in (("a", 2.0), ("b", 1.0), ("c", 0.5))}


@pytest.mark.parametrize("ridge", [0.1, 1.0, 50.0])
def test_weights_equal_scikit_learns_where_none_is_negative(ridge: float) -> None:
    y, z = planted()
    model = LogisticRegression(C=1 / ridge, tol=1e-10, max_iter=10_000).fit(np.stack(list(z.values()), axis=1), y)
    found = fusion.fit(y, z, ridge)
    assert (model.coef_ > 0).all()
    np.testing.assert_allclose(found.weights, model.coef_[0], atol=1e-5)
    assert found.intercept == pytest.approx(model.intercept_[0], abs=1e-5)


def test_a_member_that_is_wrong_or_noise_gets_no_say() -> None:
    y, z = planted()
    found = fusion.fit(y, {"good": z["a"], "wrong": -z["b"]}, 1.0)
    assert found.weights[0] > 0
    assert found.weights[1] == 0


def test_the_fusion_is_calibrated_and_better_than_each_member() -> None:
    y, z = planted(4000)
    overconfident = {name: 5 * logit for name, logit in z.items()}
    found = fusion.fit(y[:2000], {name: logit[:2000] for name, logit in overconfident.items()}, 1.0)
    p, logit = fusion.apply(found, {name: member[2000:] for name, member in overconfident.items()})
    assert calibration.ece(y[2000:], p, 10)[0] < 0.03
    assert roc_auc_score(y[2000:], logit) > max(roc_auc_score(y[2000:], member[2000:]) for member in z.values())


def test_order_of_members_changes_nothing_and_the_file_holds_all(tmp_path: Path) -> None:
    y, z = planted()
    one, other = fusion.fit(y, z, 1.0), fusion.fit(y, dict(reversed(z.items())), 1.0)
    assert one == other
    fusion.write(one, tmp_path / "fusion.json")
    again = fusion.read(tmp_path / "fusion.json")
    assert again == one
    np.testing.assert_array_equal(fusion.apply(again, z)[1], fusion.apply(one, z)[1])


def test_one_class_and_a_missing_member_are_refused() -> None:
    y, z = planted()
    with pytest.raises(ValueError, match="both lenses and non-lenses to fit a fusion, got 0 and 600"):
        fusion.fit(np.zeros_like(y), z, 1.0)
    with pytest.raises(ValueError, match="got none of b, c"):
        fusion.apply(fusion.fit(y, z, 1.0), {"a": z["a"]})


@pytest.mark.parametrize(
    "text", ["{}", '{"members": ["a"], "weights": [], "intercept": 0, "n_lens": 1, "n_nonlens": 1}']
)
def test_a_file_that_is_no_fusion_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "fusion.json").write_text(text)
    with pytest.raises(schema.ContractError, match=r"fusion\.json must"):
        fusion.read(tmp_path / "fusion.json")


def scores(ids: list[str], label: str = "lens") -> pl.DataFrame:
    rows = {"object_id": ids, "group_id": ids, "survey": ["hsc"] * len(ids), "label": [label] * len(ids)}
    return pl.DataFrame({**rows, "logit": [float(len(i)) for i in ids]})


def test_gather_joins_by_object_whatever_the_order_and_refuses_strangers() -> None:
    table = fusion.gather({"m": scores(["aa", "b"]), "n": scores(["b", "aa"])})
    assert table["m"].to_list() == table["n"].to_list() == [2.0, 1.0]
    for other in (scores(["aa", "c"]), scores(["aa"]), scores(["aa", "b"], "nonlens")):
        with pytest.raises(schema.ContractError, match="same objects with the same labels"):
            fusion.gather({"m": scores(["aa", "b"]), "n": other})
