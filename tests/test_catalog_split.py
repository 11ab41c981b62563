"""The split's promises on made-up skies: groups whole, shares kept, labels balanced, few objects moved by others."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensml import config, schema
from lensml.catalog import leaks, split, strata
from lensml.store import stamps, tables
from stages.split import split as stage

VALUES: dict[str, Any] = {
    "seed": 7, "fractions": {"train": 0.7, "val": 0.15, "test": 0.15}, "redshift_bins": 5, "magnitude_bins": 5,
    "seeing_edges": [0.8, 1.2], "psf_fwhm_edges": [0.6, 1.0], "pixel_scale_edges": [0.1, 0.3],
    "stratum_min_groups": 20, "stratum_slack": 1.0, "same_sky_arcsec": 2.0, "quality_threshold": 0.7,
}  # fmt: skip
PARAMS = config.Split.model_validate(VALUES)
Tables = tuple[pl.DataFrame, pl.DataFrame]


def universe(count: int, seed: int = 0, parents: int = 0, lens_share: float = 0.5) -> Tables:
    """Labels and catalogue of four surveys; with `parents`, objects share that many hosts at random."""
    rng = np.random.default_rng(seed)
    survey = rng.choice(["hsc", "des", "euclid", "hst"], count)
    scale = pl.Series(survey).replace_strict({"hsc": 0.168, "des": 0.263, "euclid": 0.1, "hst": 0.05}).to_numpy()
    host = rng.integers(0, parents, count) if parents else None
    label = np.where(rng.random(count) < lens_share, "lens", "nonlens")
    labels = filled(
        schema.LABEL_TABLE, count, object_id=[f"s{seed}.{n:06d}" for n in range(count)], source=[f"s{seed}"] * count,
        survey=survey, label=label, use=["classify"] * count, label_source=["sim:x"] * count,
        parent=[f"host{h}" for h in host] if host is not None else [""] * count,
    )  # fmt: skip
    catalogue = filled(
        schema.CATALOGUE, count, object_id=labels["object_id"], survey=survey, pixel_scale=scale,
        psf_fwhm=rng.uniform(0.1, 1.4, count), seeing=rng.uniform(0.1, 1.6, count),
        quality=np.ones(count), quality_limit=[""] * count,
        z_phot=np.where(rng.random(count) < 0.1, -1.0, rng.gamma(2, 0.4, count)), z_spec=np.full(count, -1.0),
        magnitude=[[None, m] for m in rng.normal(21, 1, count)],
    )  # fmt: skip
    return labels, catalogue


def filled(contract: dict[str, Any], count: int, **columns: Any) -> pl.DataFrame:
    """A table of a contract with empty values where none are given."""
    strings = {name: [""] * count for name, kind in contract.items() if kind == pl.String}
    empty = {name: [None] * count for name in contract}
    return pl.DataFrame({**empty, **strings, **columns}, schema=contract, strict=False)


def of(made: pl.DataFrame) -> dict[str, str]:
    return dict(made.select("object_id", "split").iter_rows())


def shares(made: pl.DataFrame, labels: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Fractions of objects and of lenses in train, val, test, counted one by one."""
    where, label = of(made), dict(labels.select("object_id", "label").iter_rows())
    counts = {(p, x): 0 for p in split.PARTS for x in ("lens", "nonlens")}
    for object_id, part in where.items():
        counts[part, label[object_id]] += 1
    table = np.array([[counts[p, x] for x in ("lens", "nonlens")] for p in split.PARTS], dtype=float)
    return table.sum(axis=1) / table.sum(), table[:, 0] / table.sum(axis=1)


def assert_good(made: pl.DataFrame, labels: pl.DataFrame) -> None:
    fraction, lenses = shares(made, labels)
    np.testing.assert_allclose(fraction, [0.7, 0.15, 0.15], atol=0.01)
    assert np.ptp(lenses) <= 0.02
    assert made.group_by("group_id").agg(pl.col("split").n_unique())["split"].unique().to_list() == [1]
    leaks.audit(made, labels, 2.0)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(1000, 4000), st.integers(0, 10_000), st.sampled_from([0, 300, 900]), st.sampled_from([0.1, 0.5, 0.8])
)
def test_shares_and_labels_are_kept_and_groups_are_whole(count: int, seed: int, parents: int, lenses: float) -> None:
    labels, catalogue = universe(count, seed, parents, lenses)
    assert_good(split.make(labels, catalogue, PARAMS), labels)


@pytest.mark.parametrize("giant", [0.05, 0.14, 0.3, 0.6])
@pytest.mark.parametrize("label", ["lens", "mixed"])
def test_a_giant_group_does_not_break_the_balance(giant: float, label: str) -> None:
    labels, catalogue = universe(3000, lens_share=0.5)
    member = pl.int_range(pl.len()) < int(giant * 3000)
    if label == "lens":
        member &= pl.col("label") == "lens"
    labels = labels.with_columns(pl.when(member).then(pl.lit("giant")).otherwise("parent").alias("parent"))
    assert_good(split.make(labels, catalogue, PARAMS), labels)


def test_many_large_groups_of_one_label() -> None:
    labels, catalogue = universe(4000)
    parent = pl.concat_str("label", (pl.int_range(pl.len()) // 100).cast(pl.String))
    labels = labels.with_columns(
        pl.when(pl.int_range(pl.len()) < 3000).then(parent).otherwise("parent").alias("parent")
    )
    assert_good(split.make(labels, catalogue, PARAMS), labels)


@pytest.mark.parametrize("seed", range(5))
def test_audit_agrees_where_parents_are_named_in_every_way(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, catalogue = (pl.concat(pair) for pair in zip(*(universe(1000, n) for n in (0, 1)), strict=True))
    ways = ["", "", "", "{n:06d}", "s0.{n:06d}", "s1.{n:06d}", "host{n}", "s0.host{n}", "9{n:06d}"]
    parent = [ways[rng.integers(len(ways))].format(n=n) for n in rng.integers(0, 1200, labels.height)]
    sky = {
        "frame": pl.lit("icrs"),
        "ra": pl.Series(rng.uniform(0, 0.05, 2000)) % 360,
        "dec": pl.Series(rng.uniform(0, 0.05, 2000)),
    }
    labels = labels.with_columns(pl.Series("parent", parent), **sky)
    few = catalogue.filter(pl.Series(rng.random(2000) < 0.9))
    made = split.make(labels, few, PARAMS)
    assert leaks.audit(made, labels, 2.0)["object"] == few.height
    assert 100 < made["group_id"].n_unique() < 1900


@pytest.mark.parametrize(("count", "parents"), [(6000, 0), (6000, 2500), (20_000, 0), (20_000, 8000), (2000, 0)])
def test_adding_a_tenth_moves_few(count: int, parents: int) -> None:
    moved = []
    for seed in range(3):
        labels, catalogue = universe(count, seed, parents)
        more, more_catalogue = universe(count // 10, seed + 100)
        old = split.make(labels, catalogue, PARAMS)
        new = of(split.make(pl.concat([labels, more]), pl.concat([catalogue, more_catalogue]), PARAMS))
        moved.append(np.mean([new[key] != part for key, part in of(old).items()]))
    assert np.mean(moved) < 0.02


def test_order_of_the_rows_is_nothing_and_the_seed_something() -> None:
    labels, catalogue = universe(1500, parents=600)
    made = split.make(labels, catalogue, PARAMS)
    shuffled = split.make(labels.sample(fraction=1, shuffle=True, seed=1), catalogue.reverse(), PARAMS)
    assert shuffled.equals(made)
    other = split.make(labels, catalogue, PARAMS.model_copy(update={"seed": 0}))
    assert (other["split"] != made["split"]).sum() > 300


def test_every_stratum_keeps_its_share_when_there_is_no_slack() -> None:
    labels, catalogue = universe(4000)
    made = split.make(labels, catalogue, PARAMS.model_copy(update={"stratum_slack": 0.0}))
    for part in made.partition_by("stratum"):
        for name, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
            assert abs(part["split"].to_list().count(name) - share * part.height) <= 2, part["stratum"][0]


def test_slack_is_in_deviations_of_chance() -> None:
    labels, catalogue = universe(6000)
    for part in split.make(labels, catalogue, PARAMS).partition_by("stratum"):
        off = part["split"].to_list().count("train") - 0.7 * part.height
        assert abs(off) <= np.sqrt(0.21 * part.height) + 1.5


def test_rare_strata_are_merged_with_those_that_differ_last() -> None:
    rows = [("lens", "hsc", *"12300")] * 5 + [("lens", "hsc", *"12301")] * 2 + [("lens", "hsc", *"12302")] * 2
    rows += [("lens", "des", *"00000")] * 3 + [("nonlens", "hsc", *"12300")] * 2
    table = pl.DataFrame(rows, schema=list(strata.FACTORS), orient="row")
    assert dict(strata.merge_rare(table, 4).value_counts().iter_rows()) == {
        "lens|hsc|1|2|3|0|0": 5,
        "lens|hsc|1|2|3|0|*": 4,
        "lens|*|*|*|*|*|*": 3,
        "nonlens|*|*|*|*|*|*": 2,
    }
    kept = strata.merge_rare(table, 1)
    assert kept.to_list() == ["|".join(row) for row in rows]


def test_every_stratum_is_large_enough_or_the_last_of_its_label() -> None:
    labels, catalogue = universe(3000)
    made = split.make(labels, catalogue, PARAMS)
    for name, count in made["stratum"].value_counts().iter_rows():
        assert count >= 20 or name.endswith("|*|*|*|*|*|*")
    assert made["stratum"].n_unique() > 20


def test_factors_by_hand() -> None:
    groups = pl.DataFrame(
        {
            "lens": [1, 0, 1, 1, 2], "nonlens": [0, 1, 1, 2, 1], "survey": ["hsc"] * 5,
            "pixel_scale": [0.05, 0.09999999999, 0.1, 0.3, 0.31], "psf_fwhm": [0.59, 0.6, 1.0, 1.01, None],
            "seeing": [0.7, 0.8, 1.2, 1.3, float("nan")], "z_spec": [0.1, -1.0, 0.3, 0.4, -1.0],
            "z_phot": [9.0, 0.2, -1.0, -1.0, -1.0], "magnitude": [[20.0, None, 22.0], [19.0], [18.0], [17.0], [None]],
        }
    )  # fmt: skip
    found = strata.factors(groups, PARAMS.model_copy(update={"redshift_bins": 2, "magnitude_bins": 2}))
    assert found.columns == list(strata.FACTORS)
    assert found["label"].to_list() == ["lens", "nonlens", *strata.CLASSES[1::-1], strata.CLASSES[2]]
    assert found["pixel_scale"].to_list() == ["0", "1", "1", "1", "2"]
    assert found["psf_fwhm"].to_list() == ["0", "1", "1", "2", "?"]
    assert found["seeing"].to_list() == ["0", "1", "1", "2", "?"]
    assert found["redshift"].to_list() == ["0", "0", "1", "1", "?"]  # median of 0.1 0.2 0.3 0.4
    assert found["magnitude"].to_list() == ["1", "1", "0", "0", "?"]  # median of 21 19 18 17


def test_what_is_left_out_says_why() -> None:
    labels, catalogue = universe(60)
    n = pl.int_range(pl.len())
    use = pl.when(n < 5).then(pl.lit("report")).when(n < 10).then(pl.lit("pretrain")).otherwise("use")
    label = pl.when(n < 10).then(pl.lit("unknown")).otherwise("label")
    labels = labels.with_columns(use.alias("use"), label.alias("label"))
    quality = pl.when(n == 11).then(0.69).when(n == 12).then(None).when(n == 13).then(0.7).otherwise("quality")
    limit = pl.when(n == 11).then(pl.lit("saturation")).otherwise(pl.lit(""))
    catalogue = catalogue.with_columns(quality.alias("quality"), limit.alias("quality_limit"))
    catalogue = catalogue.filter(~n.is_in([0, 6, 14]))
    made = split.make(labels, catalogue, PARAMS)
    reason = made["reason"].to_list()
    assert reason[:15] == [
        *[split.REPORTED] * 5, "", split.NOT_CONVERTED, "", "", "", "",
        f"{split.LOW_QUALITY}: saturation", split.LOW_QUALITY, "",
        split.NOT_CONVERTED,
    ]  # fmt: skip
    assert [bool(r) for r in reason] == [s == "" for s in made["split"]]
    assert [made["split"][i] for i in (5, 7, 8, 9)] == ["pretrain"] * 4
    report = split.report(made, labels)
    assert report["left_out"] == {split.REPORTED: 5, split.NOT_CONVERTED: 2} | {
        split.LOW_QUALITY: 1, f"{split.LOW_QUALITY}: saturation": 1,
    }  # fmt: skip
    assert report["objects"] == 60
    assert sum(report["count"].values()) == 51  # type: ignore[attr-defined]


def test_pretraining_stays_away_from_validation_and_test() -> None:
    labels, catalogue = universe(400)
    n = pl.int_range(pl.len())
    host = (n // 2).cast(pl.String)
    use = pl.when(n % 2 == 0).then(pl.lit("pretrain")).otherwise("use")
    label = pl.when(n % 2 == 0).then(pl.lit("unknown")).otherwise("label")
    labels = labels.with_columns(host.alias("parent"), use.alias("use"), label.alias("label"))
    made = split.make(labels, catalogue, PARAMS)
    where = made["split"].to_list()
    for even in range(0, 400, 2):
        kept = where[even + 1] == "train"
        assert where[even] == ("pretrain" if kept else "")
        assert made["reason"][even] == ("" if kept else split.TOUCHES)
    leaks.audit(made, labels, 2.0)


def test_groups_connect_over_objects_that_are_left_out() -> None:
    labels, catalogue = universe(300)
    chain = pl.when(pl.int_range(pl.len()) < 3)
    sky = {"frame": chain.then(pl.lit("icrs")).otherwise(pl.lit(""))}
    sky |= {"ra": chain.then(10.0), "dec": chain.then(pl.int_range(pl.len()) * 1.5 / 3600)}
    labels = labels.with_columns(**sky)
    made = split.make(labels, catalogue.filter(pl.int_range(pl.len()) != 1), PARAMS)  # the middle one was refused
    assert made["group_id"][0] == made["group_id"][2]
    assert made["split"][0] == made["split"][2]


@pytest.mark.parametrize("count", [3, 4, 5, 7, 12])
@pytest.mark.parametrize("lenses", [1, 2, 3])
def test_tiny_sets_fill_every_part(count: int, lenses: int) -> None:
    labels, catalogue = universe(count)
    label = pl.when(pl.int_range(pl.len()) < lenses).then(pl.lit("lens")).otherwise(pl.lit("nonlens"))
    labels = labels.with_columns(label.alias("label"))
    made = split.make(labels, catalogue, PARAMS)
    assert set(made["split"]) == set(split.PARTS)
    for name, number in (("lens", lenses), ("nonlens", count - lenses)):
        if number >= 3:
            assert set(made.filter(labels["label"] == name)["split"]) == set(split.PARTS)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_groups_is_an_error_in_words(count: int) -> None:
    labels, catalogue = universe(count)
    with pytest.raises(ValueError, match=rf"split must have at least 3 groups with labels and stamps, got {count} "):
        split.make(labels, catalogue, PARAMS)


def test_an_object_without_label_row_is_named() -> None:
    labels, catalogue = universe(10)
    with pytest.raises(schema.ContractError, match=r"must have a row in the labels, got 1 without, such as s0\.000000"):
        split.make(labels[1:], catalogue, PARAMS)


def test_report_counts_what_is_there() -> None:
    labels, catalogue = universe(2000, parents=800)
    made = split.make(labels, catalogue, PARAMS)
    report: dict[str, Any] = split.report(made, labels)
    fraction, lenses = shares(made, labels)
    assert [report["fraction"][p] for p in split.PARTS] == pytest.approx(list(fraction))
    assert report["share_of_lenses_spread"] == pytest.approx(np.ptp(lenses))
    assert report["largest_group"] == labels["parent"].value_counts()["count"].max()
    assert report["groups"] == labels["parent"].n_unique()


def test_stage_writes_an_audited_split_in_stable_bytes(tmp_path: Path) -> None:
    parts = [universe(300, seed) for seed in (0, 1)]
    labels = pl.concat([part[0] for part in parts])
    tables.write_parquet(labels, schema.LABEL_TABLE, tmp_path / "labels.parquet")
    for name, (_, catalogue) in zip(("a", "b"), parts, strict=True):
        tables.write_parquet(catalogue, schema.CATALOGUE, tmp_path / name / stamps.CATALOGUE)
    folders = {name: tmp_path / name for name in ("a", "b")}
    for run in ("one", "two"):
        outs = tmp_path / f"{run}.parquet", tmp_path / f"{run}.json"
        stage.function(tmp_path / "labels.parquet", dict(reversed(folders.items())), PARAMS, *outs)
        folders = dict(reversed(folders.items()))
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    made = tables.read_parquet(tmp_path / "one.parquet", schema.SPLIT_TABLE)
    assert made["object_id"].to_list() == sorted(labels["object_id"])
    report = tables.read_json(tmp_path / "one.json")
    assert report["audit"] == {
        "compared": {"object": 600, "use": 600, "group": 600, "parent": 0, "position": 0},
        "passed": True,
    }
