"""The leak audit is shown a planted leak of every kind, and must name the pair."""

import re

import polars as pl
import pytest

from lensml import schema
from lensml.catalog import leaks

APART = [("train", "val"), ("train", "test"), ("val", "test"), ("pretrain", "val"), ("pretrain", "test")]
NAMES = [f"s.{split}{n}" for split in schema.SPLITS for n in range(3)]
LAST = {split: f"s.{split}2" for split in schema.SPLITS}


def sound() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Twelve objects, three in each split, one more left out, every one apart."""
    names = [*NAMES, "s.left0"]
    part = [name[2:-1].replace("left", "") for name in names]
    splits = pl.DataFrame(
        {
            "object_id": names, "source": "s", "group_id": [f"g{n}" for n in range(13)], "stratum": "", "split": part,
            "reason": "",
        }
    )  # fmt: skip
    use = [{"pretrain": "pretrain", "": "report"}.get(p, "classify") for p in part]
    sky = {"frame": "icrs", "ra": [float(n) for n in range(13)], "dec": 0.0}
    labels = pl.DataFrame({"object_id": names, "use": use, "parent": [f"p{n}" for n in range(13)], **sky})
    return splits, labels


def change(table: pl.DataFrame, object_id: str, **values: object) -> pl.DataFrame:
    mine = pl.col("object_id") == object_id
    return table.with_columns(pl.when(mine).then(pl.lit(v)).otherwise(k).alias(k) for k, v in values.items())


def value(table: pl.DataFrame, object_id: str, column: str) -> object:
    return table.filter(pl.col("object_id") == object_id)[column][0]


def refused(splits: pl.DataFrame, labels: pl.DataFrame, *words: str, content: pl.DataFrame | None = None) -> None:
    with pytest.raises(schema.ContractError) as error:
        leaks.audit(splits, labels, 2.0, content)
    for word in words:
        assert re.search(word, str(error.value)), (word, str(error.value))


def test_sound_split_passes_and_is_counted() -> None:
    splits, labels = sound()
    content = splits.select("object_id", pl.col("object_id").alias("content"))
    want = {"object": 12, "use": 12, "group": 12, "parent": 12, "position": 12, "content": 12}
    assert leaks.audit(splits, labels, 2.0, content) == want


@pytest.mark.parametrize(("one", "other"), APART)
def test_group_in_two_splits(one: str, other: str) -> None:
    splits, labels = sound()
    splits = change(splits, LAST[one], group_id=value(splits, LAST[other], "group_id"))
    refused(splits, labels, "share a group", f"{LAST[one]} in {one}", f"{LAST[other]} in {other}")


@pytest.mark.parametrize(("one", "other"), APART)
def test_parent_in_two_splits(one: str, other: str) -> None:
    splits, labels = sound()
    planted = change(labels, LAST[one], parent=value(labels, LAST[other], "parent"))
    refused(splits, planted, "share a parent", f"{LAST[one]} in {one}", f"{LAST[other]} in {other}")


@pytest.mark.parametrize(("one", "other"), APART)
@pytest.mark.parametrize("prefix", ["", "s."])
def test_twin_apart_from_what_it_was_made_from(one: str, other: str, prefix: str) -> None:
    splits, labels = sound()
    planted = change(labels, LAST[one], parent=prefix + LAST[other].removeprefix("s."))
    refused(splits, planted, "share a parent", f"{LAST[one]} in {one}", f"{LAST[other]} in {other}")


@pytest.mark.parametrize(("one", "other"), APART)
@pytest.mark.parametrize("twin", ["t.twin", "t.@"])
def test_twin_of_another_source_apart_from_its_parent(one: str, other: str, twin: str) -> None:
    splits, labels = sound()
    parent = LAST[other].removeprefix("s.")
    twin = twin.replace("@", parent)
    name = {"object_id": pl.lit(twin), "source": pl.lit("t")}
    row = splits.filter(pl.col("object_id") == LAST[one]).with_columns(**name, group_id=pl.lit("new"))
    fact = labels.filter(pl.col("object_id") == LAST[one]).with_columns(
        object_id=pl.lit(twin), parent=pl.lit(parent), ra=pl.lit(100.0)
    )
    splits, planted = pl.concat([splits, row]), pl.concat([labels, fact])
    refused(splits, planted, "share a parent", f"{twin} in {one}", f"{LAST[other]} in {other}")
    leaks.audit(splits, change(planted, twin, parent="lost"), 2.0)


@pytest.mark.parametrize(("one", "other"), APART)
@pytest.mark.parametrize(
    ("here", "there"),
    [((5.5, 0.0), (5.5, 1.9 / 3600)), ((0.0, 40.0), (359.9996, 40.0)), ((0.0, 89.9998), (180.0, 89.9998))],
)
def test_place_in_two_splits(one: str, other: str, here: tuple[float, float], there: tuple[float, float]) -> None:
    splits, labels = sound()
    planted = change(labels, LAST[one], ra=here[0], dec=here[1])
    planted = change(planted, LAST[other], ra=there[0], dec=there[1])
    refused(splits, planted, "share a place on the sky", f"{LAST[one]} in {one}", f"{LAST[other]} in {other}", "arcsec")
    leaks.audit(splits, change(planted, LAST[one], frame="bologna"), 2.0)


def test_place_just_outside_the_radius_is_no_leak() -> None:
    splits, labels = sound()
    leaks.audit(splits, change(labels, LAST["test"], ra=0.0, dec=2.01 / 3600), 2.0)


def test_object_in_two_splits() -> None:
    splits, labels = sound()
    twice = pl.concat([splits, change(splits, "s.val0", split="test").filter(pl.col("object_id") == "s.val0")])
    refused(twice, labels, "share an object", "s.val0 in test", "s.val0 in val")


@pytest.mark.parametrize(("one", "other"), APART)
def test_same_pixels_in_two_splits(one: str, other: str) -> None:
    splits, labels = sound()
    content = splits.select("object_id", pl.col("object_id").alias("content"))
    content = change(content, LAST[one], content=LAST[other])
    refused(splits, labels, "pixel content", f"{LAST[one]} in {one}", f"{LAST[other]} in {other}", content=content)


@pytest.mark.parametrize(("use", "part"), [("pretrain", "train"), ("report", "test"), ("classify", "pretrain")])
def test_use_in_the_wrong_split(use: str, part: str) -> None:
    splits, labels = sound()
    refused(splits, change(labels, LAST[part], use=use), f"{part} must hold", f"s.{part}2", "source s", f"use is {use}")


def test_object_without_label_row() -> None:
    splits, labels = sound()
    refused(splits, labels.filter(pl.col("object_id") != "s.test0"), "test must hold", "s.test0", "not stated")


def test_foreign_split_name() -> None:
    splits, labels = sound()
    refused(change(splits, "s.val0", split="holdout"), labels, "split must be one of", "holdout")


def test_pretraining_may_share_with_training_and_what_is_left_out_with_all() -> None:
    splits, labels = sound()
    splits = change(splits, LAST["pretrain"], group_id=value(splits, LAST["train"], "group_id"))
    splits = change(splits, "s.left0", group_id=value(splits, LAST["test"], "group_id"))
    labels = change(labels, LAST["pretrain"], ra=value(labels, LAST["train"], "ra"))
    labels = change(labels, LAST["pretrain"], parent=value(labels, LAST["train"], "parent"))
    labels = change(labels, "s.left0", parent=value(labels, LAST["test"], "parent"))
    leaks.audit(splits, labels, 2.0)
