"""Matched negatives: planted selections are balanced by scipy's judgement, nothing is drawn twice or by force."""

import json
import math

import numpy as np
import polars as pl
import pytest
from astropy.coordinates import angular_separation
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from lensml.catalog import balance, candidates, propensity

COLUMNS = ("magnitude", "half_light_radius", "z_phot", "seeing")
ARCSEC = 1 / 3600
Floats = NDArray[np.float64]


def population(count: int, seed: int, prefix: str = "parent") -> pl.DataFrame:
    """A broad survey whose columns are correlated, one of them skewed."""
    normal = np.random.default_rng(seed).normal(size=(4, count))
    magnitude = 21 + 1.5 * normal[0]
    return pl.DataFrame(
        {
            "object_id": [f"{prefix}.{n:06d}" for n in range(count)],
            "magnitude": magnitude,
            "half_light_radius": np.exp(-0.15 * (magnitude - 21) + 0.3 * normal[1]),
            "z_phot": 0.7 * np.exp(0.2 * normal[0] + 0.35 * normal[2]),
            "seeing": 0.8 + 0.1 * normal[3],
        }
    )


def chosen(weight: Floats, table: pl.DataFrame, count: int, seed: int) -> pl.DataFrame:
    """Rows drawn with a planted weight, named as positives."""
    rows = np.random.default_rng(seed).choice(table.height, count, replace=False, p=weight / weight.sum())
    names = pl.Series("object_id", [f"lens.{n:04d}" for n in range(count)])
    return table[np.sort(rows)].with_columns(names)


def selected(count: int = 400, seed: int = 1) -> pl.DataFrame:
    """Brighter, larger, farther, in better seeing, in a narrower range than the population."""
    pool = population(60_000, seed + 100)
    magnitude, size, z, seeing = (pool[name].to_numpy() for name in COLUMNS)
    chi = ((magnitude - 19.6) / 0.6) ** 2 + ((size - 1.8) / 0.35) ** 2 + ((z - 1.3) / 0.25) ** 2
    return chosen(np.exp(-0.5 * (chi + ((seeing - 0.72) / 0.06) ** 2)), pool, count, seed)


def draw(
    positives: pl.DataFrame,
    parents: pl.DataFrame,
    columns: tuple[str, ...] = COLUMNS,
    ratio: int = 1,
    caliper: float = 0.2,
    exclude_arcsec: float = 10.0,
    seed: int = 5,
    lenses: pl.DataFrame | None = None,
) -> propensity.Matched:
    return propensity.match(positives, parents, columns, ratio, caliper, exclude_arcsec, seed, lenses)


def smd(x: Floats, y: Floats) -> float:
    """Austin 2011, by hand."""
    mean = [sum(sample) / len(sample) for sample in (x, y)]
    variance = [sum((v - m) ** 2 for v in sample) / (len(sample) - 1) for sample, m in zip((x, y), mean, strict=True)]
    return (mean[0] - mean[1]) / math.sqrt(sum(variance) / 2)


@pytest.fixture(scope="module")
def parents() -> pl.DataFrame:
    return population(60_000, 0)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("count", "ratio"), [(400, 1), (400, 2), (60, 3)])
def test_a_planted_selection_is_balanced(parents: pl.DataFrame, seed: int, count: int, ratio: int) -> None:
    positives = selected(count, seed)
    found = draw(positives, parents, ratio=ratio)
    negatives = parents[found.rows]
    assert len(found.rows) > 0.95 * ratio * positives.height
    for name in COLUMNS:
        before, after = (smd(positives[name].to_numpy(), table[name].to_numpy()) for table in (parents, negatives))
        assert abs(before) > 0.5
        assert abs(after) < 0.1
        assert 0.75 < positives[name].var() / negatives[name].var() < 1.33
        assert ks_2samp(positives[name], negatives[name]).pvalue > 0.01
        assert ks_2samp(positives[name], parents[name]).pvalue < 1e-6


def test_a_narrower_distribution_around_the_same_mean_is_balanced(parents: pl.DataFrame) -> None:
    pool = population(60_000, 9)
    positives = chosen(np.exp(-0.5 * ((pool["magnitude"].to_numpy() - 21) / 0.5) ** 2), pool, 400, 9)
    found = draw(positives, parents)
    assert found.balance.columns["magnitude"]["variance_ratio_before"] < 0.2
    assert 0.75 < found.balance.columns["magnitude"]["variance_ratio_after"] < 1.33
    assert ks_2samp(positives["magnitude"], parents[found.rows]["magnitude"]).pvalue > 0.01


def test_two_peaks_are_balanced(parents: pl.DataFrame) -> None:
    pool = population(60_000, 11)
    z = pool["z_phot"].to_numpy()
    positives = chosen(np.exp(-0.5 * ((z - 0.4) / 0.06) ** 2) + np.exp(-0.5 * ((z - 1.1) / 0.06) ** 2), pool, 400, 11)
    found = draw(positives, parents)
    assert found.balance.columns["z_phot"]["ks_before"] > 0.2
    assert ks_2samp(positives["z_phot"], parents[found.rows]["z_phot"]).pvalue > 0.01


def test_a_correlation_is_balanced() -> None:
    """Both columns alone are as in the parents; only together do they tell."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 20_000))
    broad = pl.DataFrame({"object_id": [f"p.{n}" for n in range(x.size)], "a": x, "b": y})
    a, noise = rng.normal(size=(2, 400))
    narrow = pl.DataFrame({"object_id": [f"l.{n}" for n in range(400)], "a": a, "b": 0.9 * a + 0.43589 * noise})
    negatives = broad[draw(narrow, broad, ("a", "b")).rows]
    assert np.corrcoef(negatives["a"], negatives["b"])[0, 1] == pytest.approx(0.9, abs=0.05)


def test_each_figure_of_the_balance(parents: pl.DataFrame) -> None:
    positives = selected()
    positives[0, "magnitude"] = 5.0  # unmatched, so that `after` and `all` differ
    found = draw(positives, parents, ratio=2)
    partners, negatives = positives[found.partner], parents[found.rows]
    for name, row in found.balance.columns.items():
        for when, one, other in (
            ("before", positives, parents),
            ("after", partners, negatives),
            ("all", positives, negatives),
        ):
            x, y = one[name].to_numpy(), other[name].to_numpy()
            assert row[f"smd_{when}"] == pytest.approx(smd(x, y), abs=1e-9)
            assert row[f"variance_ratio_{when}"] == pytest.approx(one[name].var() / other[name].var())
            assert row[f"ks_{when}"] == pytest.approx(ks_2samp(x, y, method="asymp").statistic, abs=1e-12)
    numbers = found.balance
    assert (numbers.positives, numbers.parents, numbers.drawn) == (400, 60_000, len(found.rows))


def test_no_parent_is_drawn_twice_and_no_positive_gets_more_than_asked(parents: pl.DataFrame) -> None:
    found = draw(selected(), parents.head(3000), ratio=3)  # far fewer parents of their kind than asked for
    assert (np.diff(found.rows) > 0).all()
    count = np.bincount(found.partner, minlength=400)
    assert count.max() <= 3
    short = dict(zip(found.unmatched["object_id"], found.unmatched["found"], strict=True))
    assert short == {f"lens.{n:04d}": got for n, got in enumerate(count) if got < 3}
    assert sum(found.balance.unmatched.values()) == len(short) > 0


def test_the_order_of_the_rows_does_not_matter(parents: pl.DataFrame) -> None:
    positives, some = selected(), parents.head(20_000)
    found = draw(positives, some, ratio=2)
    mixed, turned = some.sample(fraction=1, shuffle=True, seed=4), positives.reverse()
    again = draw(turned, mixed, ratio=2)

    def pairs(one: pl.DataFrame, other: pl.DataFrame, got: propensity.Matched) -> set[tuple[str, str]]:
        return set(zip(one[got.partner]["object_id"], other[got.rows]["object_id"], strict=True))

    assert pairs(positives, some, found) == pairs(turned, mixed, again)
    assert found.balance.columns["z_phot"] == pytest.approx(again.balance.columns["z_phot"])


def test_same_seed_same_draw_other_seed_other_order(parents: pl.DataFrame) -> None:
    some = parents.head(5000)
    first, again, other = (draw(selected(), some, seed=seed) for seed in (5, 5, 6))
    assert (first.rows == again.rows).all()
    assert (first.partner == again.partner).all()
    assert first.balance == again.balance
    assert first.partner.tolist() != other.partner.tolist()


def test_ties_go_to_the_smaller_name() -> None:
    """All parents are alike: the first names are drawn, wherever they stand."""
    names = [f"p.{n:02d}" for n in np.random.default_rng(0).permutation(30)]
    alike = pl.DataFrame({"object_id": names, "magnitude": 20.0})
    found = draw(pl.DataFrame({"object_id": ["l.1", "l.2"], "magnitude": 20.0}), alike, ("magnitude",), ratio=2)
    assert sorted(alike[found.rows]["object_id"]) == ["p.00", "p.01", "p.02", "p.03"]


def test_a_positive_among_the_parents_is_never_drawn(parents: pl.DataFrame) -> None:
    positives = selected()
    found = draw(positives, pl.concat([parents, positives]))
    assert not set(parents.height + np.arange(400)) & set(found.rows.tolist())
    assert found.balance.left_out == {candidates.IS_POSITIVE: 400}
    # The fault that is looked for: under another name they are drawn, nearly all.
    renamed = positives.with_columns(pl.col("object_id").str.replace("lens", "other"))
    assert (draw(positives, pl.concat([parents, renamed])).rows >= parents.height).sum() > 100


def test_parents_on_a_positive_or_a_known_lens_are_never_drawn() -> None:
    rng = np.random.default_rng(2)
    place = {"ra": rng.uniform(0, 0.02, 2000) + 359.99, "dec": rng.uniform(-0.01, 0.01, 2000)}
    field = population(2000, 1).with_columns(pl.Series("ra", place["ra"] % 360), pl.Series("dec", place["dec"]))
    positives = field.head(20).with_columns(object_id="lens." + pl.col("object_id"))
    lenses = pl.DataFrame({"ra": [0.0, None], "dec": [0.0, 1.0]})
    found = draw(positives, field, ratio=60, exclude_arcsec=4.0, lenses=lenses, caliper=5.0)
    known = pl.concat([positives.select("ra", "dec"), lenses.drop_nulls()])
    close = separations(field, known).min(axis=1) <= 4.0
    assert found.balance.left_out == {candidates.NEAR_LENS: int(close.sum())}
    assert close.sum() > 20
    assert not close[found.rows].any()


def separations(one: pl.DataFrame, other: pl.DataFrame) -> Floats:
    """(one, other), arcsec."""
    a, d, b, e = (np.deg2rad(table[name].to_numpy()) for table in (one, other) for name in ("ra", "dec"))
    return np.rad2deg(angular_separation(a[:, None], d[:, None], b[None], e[None])) / ARCSEC


@pytest.mark.parametrize("dec", [-90.0, -60.0, 0.0, 89.9999])
@pytest.mark.parametrize("arcsec", [0.5, 3.0, 20.0])
def test_near_is_by_great_circle(dec: float, arcsec: float) -> None:
    rng = np.random.default_rng(8)

    def sky(count: int) -> pl.DataFrame:
        place = np.clip(dec + rng.normal(0, 10, count) * ARCSEC, -90, 90)
        ra = rng.normal(0, 10, count) * ARCSEC / np.maximum(np.cos(np.deg2rad(place)), 1e-4) % 360
        return pl.DataFrame({"ra": ra, "dec": place})

    objects, others = sky(200), sky(15)
    expected = (separations(objects, others) <= arcsec).any(axis=1)
    assert (candidates.near(objects, others, arcsec) == expected).all()
    assert expected.any()


def test_without_positions_nothing_is_near() -> None:
    here = pl.DataFrame({"ra": [1.0, None, float("nan")], "dec": [1.0, 1.0, 1.0]})
    assert candidates.near(here, here, 0.0).tolist() == [True, False, False]
    assert not candidates.near(here, here.drop("dec"), 10.0).any()
    assert not candidates.near(here, here.clear(), 10.0).any()


@pytest.mark.parametrize(
    ("magnitude", "z_phot"),
    [(5.0, 1.0), (-99.0, 1.0), (17.0, 0.2)],  # beyond all parents; a sentinel; in a corner where no parent is
)
def test_an_impossible_match_is_counted_not_forced(parents: pl.DataFrame, magnitude: float, z_phot: float) -> None:
    positives = selected()
    positives[7, "magnitude"], positives[7, "z_phot"] = magnitude, z_phot
    lonely = parents.filter((pl.col("magnitude") > 18.5) | (pl.col("z_phot") > 0.6))
    found = draw(positives, lonely)
    assert found.unmatched.rows()[0] == ("lens.0007", 0, propensity.NO_PARENT)
    assert found.balance.unmatched[propensity.NO_PARENT] == 1
    assert 7 not in found.partner
    assert all(abs(row["smd_after"]) < 0.1 for row in found.balance.columns.values())


def test_rows_without_a_value_are_counted_by_reason(parents: pl.DataFrame) -> None:
    positives, few = selected(), parents.head(20_000)
    positives[0, "magnitude"], positives[1, "z_phot"], positives[2, "z_phot"] = None, -1.0, float("nan")
    few[0, "seeing"], few[1, "z_phot"], few[2, "half_light_radius"] = float("inf"), -1.0, None
    few[3, "magnitude"], few[3, "z_phot"] = None, None
    found = draw(positives, few)
    assert found.unmatched.rows()[:3] == [
        ("lens.0000", 0, "no value in magnitude"),
        ("lens.0001", 0, "no value in z_phot"),
        ("lens.0002", 0, "no value in z_phot"),
    ]
    assert found.balance.left_out == {
        f"no value in {name}": 1 for name in ("half_light_radius", "magnitude", "seeing", "z_phot")
    }
    assert found.rows.min() > 3
    assert found.partner.min() > 2
    assert (found.balance.positives, found.balance.parents) == (397, 19_996)


def test_minus_one_is_a_value_of_what_is_no_redshift() -> None:
    table = pl.DataFrame({"z": [-1.0], "z_spec": [-1.0], "redshift": [-1.0], "size": [-1.0]})
    assert np.isnan(candidates.values(table, table.columns)).tolist() == [[True, True, True, False]]


def test_the_logit_is_the_ratio_of_the_densities() -> None:
    """Gaussians of unequal mean, width and correlation: ln p(x) / q(x) in closed form, up to a constant."""
    rng = np.random.default_rng(0)
    mean, covariance = np.array([0.5, -0.3]), np.array([[0.36, 0.3], [0.3, 0.64]])
    x, y = rng.multivariate_normal(mean, covariance, 20_000), rng.normal(size=(60_000, 2))
    logit, _ = propensity._logits(x, y)
    offset = x - mean
    truth = 0.5 * ((x**2).sum(axis=1) - np.einsum("oi,ij,oj->o", offset, np.linalg.inv(covariance), offset))
    assert np.std(logit / 1e6 - truth) < 0.15 * np.std(truth)


Market = tuple[list[tuple[int, int, int]], list[tuple[int, int, int]], list[int], int]


@st.composite
def markets(draw: st.DrawFn) -> Market:
    """Positives and parents (logit and two columns), who chooses when, the caliper."""
    rows = st.lists(st.tuples(*[st.integers(-4, 4)] * 3), min_size=1, max_size=14)
    wanted, offered = draw(rows), draw(rows)
    choosers = draw(st.lists(st.integers(0, len(wanted) - 1), max_size=20))
    return wanted, offered, choosers, draw(st.integers(0, 6))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(markets())
def test_nearest_free_equals_a_search_of_all(market: Market) -> None:
    wanted, offered, choosers, width = market
    taker = [-1] * len(offered)
    for chooser in choosers:
        logit, *place = wanted[chooser]
        within = [n for n, row in enumerate(offered) if taker[n] < 0 and abs(row[0] - logit) <= width]
        if within:
            taker[min(within, key=lambda n: (math.dist(place, offered[n][1:]), n))] = chooser
    x, y = np.array(wanted, dtype=np.int64), np.array(offered, dtype=np.int64)
    columns = x[:, 1:].T.astype(float), y[:, 1:].T.astype(float)
    found = propensity.nearest_free(*columns, x[:, 0], y[:, 0], np.array(choosers, dtype=np.int64), width)
    assert found.tolist() == taker


def test_no_pair_is_farther_apart_than_the_caliper(parents: pl.DataFrame) -> None:
    """Fewer are found with a tighter caliper, and those are nearer in the one column that there is."""
    positives, few = selected(), parents.head(2000)
    apart = []
    for caliper in (0.02, 2.0):
        found = draw(positives, few, ("seeing",), ratio=4, caliper=caliper)
        apart.append(np.abs(positives[found.partner]["seeing"] - few[found.rows]["seeing"]).to_numpy())
    assert apart[0].size < apart[1].size
    assert np.quantile(apart[0], 0.9) < np.quantile(apart[1], 0.9)


def test_the_report_is_json_of_finite_numbers() -> None:
    same = pl.DataFrame({"object_id": [f"p.{n}" for n in range(9)], "magnitude": 20.0, "seeing": np.arange(9.0)})
    one = pl.DataFrame({"object_id": ["l.1"], "magnitude": [20.0], "seeing": [4.0]})
    found = balance.report(draw(one, same, ("magnitude", "seeing"), caliper=2.0).balance)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["columns"]["magnitude"]["smd_before"] is None
    assert found["columns"]["seeing"]["smd_before"] == 0.0
    assert (found["positives"], found["parents"], found["drawn"]) == (1, 9, 1)


FEW = pl.DataFrame({"object_id": ["a", "b", "c"], "magnitude": [20.0, 20.5, 21.0], "bands": [[1.0], [2.0], [3.0]]})
OTHERS = FEW.with_columns(object_id="p." + pl.col("object_id"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": ()}, "columns must name at least one column"),
        ({"columns": ("magnitude", "magnitude")}, "columns must name at least one column, each once"),
        ({"columns": ("magnitude", "size")}, r"positives must have the column\(s\) size, got object_id, magnitude"),
        ({"columns": ("bands",)}, "positives must have numbers in bands, got List"),
        ({"parents": OTHERS.drop("magnitude")}, r"parents must have the column\(s\) magnitude"),
        ({"parents": OTHERS.drop("object_id")}, r"parents must have the column\(s\) object_id"),
        ({"parents": pl.concat([OTHERS, OTHERS[:1]])}, "parents must have each object_id once, got p.a twice"),
        ({"positives": pl.concat([FEW, FEW[2:]])}, "positives must have each object_id once, got c twice"),
        ({"ratio": 0}, "ratio must be at least 1, got 0"),
        ({"caliper": 0.0}, "caliper must be positive and finite, got 0"),
        ({"caliper": math.nan}, "caliper must be positive and finite, got nan"),
        ({"exclude_arcsec": -1.0}, "exclude_arcsec must be from 0 to 648000, got -1"),
        ({"positives": FEW.clear()}, r"positives must hold objects to match, got none \(an empty table\)"),
        ({"positives": FEW.with_columns(magnitude=pl.lit(None, pl.Float64))}, r"\(no value in magnitude: 3\)"),
        ({"parents": FEW}, r"parents must hold objects to match, got none \(is a positive: 3\)"),
        ({"parents": OTHERS.with_columns(pl.col("magnitude") + 30)}, "positives and parents must overlap, got no"),
        ({"parents": OTHERS.with_columns(pl.col("magnitude") + 0.1), "caliper": 1e-9}, "caliper must let some"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments: dict[str, object], message: str) -> None:
    given = {"positives": FEW, "parents": OTHERS, "columns": ("magnitude",), **arguments}
    with pytest.raises(ValueError, match=message) as told:
        draw(**given)  # type: ignore[arg-type]
    assert "\n" not in str(told.value)
