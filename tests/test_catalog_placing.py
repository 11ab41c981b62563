"""What may not be in a split is refused by name; features are standardised from train alone; all is counted."""

import json

import numpy as np
import polars as pl
import pytest
from test_store_stamps import batch, written

from lensml import config, schema
from lensml.catalog import placing, statistics
from lensml.store import shards
from stages.shard import shard as stage

FIELDS = ("g", "r", "VIS")


def label_rows(ids, use="classify"):
    row = {name: "" for name, kind in schema.LABEL_TABLE.items() if kind == pl.String} | {
        "source": "s", "label_source": "sim:s", "label_confidence": 1.0, "use": use,
        **dict.fromkeys(("ra", "dec", "flux_ratio", "theta_e_arcsec", "z_lens")),
    }  # fmt: skip
    labels = ["lens" if i % 2 else "nonlens" for i in range(len(ids))]
    return pl.DataFrame({name: [value] * len(ids) for name, value in row.items()} | {"object_id": ids, "label": labels},
                        schema=schema.LABEL_TABLE)  # fmt: skip


def split_rows(ids, splits):
    return pl.DataFrame(
        {"object_id": ids, "source": "s", "group_id": ids, "stratum": "", "split": splits,
         "reason": ["" if s else "no label" for s in splits]},
        schema=schema.SPLIT_TABLE,
    )  # fmt: skip


def params(**given):
    whole = {"objects_per_shard": 512, "stamp_pixels": 16, "pixel_scale_min": 0.1, "features": ["z_phot", "seeing"]}
    whole |= {"common_pixel_scale": None, "psf_pixels": 7}
    return config.Shard(**(whole | {"bands": list(FIELDS)} | given))


@pytest.fixture
def run(tmp_path):
    """Run the stage's function on two surveys of one source."""
    hsc, vis, odd = batch(0, 6), batch(0, 4, "euclid", ("VIS",), 20), batch(0, 1, "kids", ("u",))
    vis.flux[3], vis.variance[3] = 0, np.inf
    folder = written(tmp_path / "s", [hsc, vis, odd])
    ids = [i for b in (hsc, vis, odd) for i in b.catalogue["object_id"]]

    def go(splits, labels=None, ids=ids, **given):
        label_rows(ids).write_parquet(tmp_path / "labels") if labels is None else labels.write_parquet(
            tmp_path / "labels"
        )
        split_rows(ids, splits).write_parquet(tmp_path / "splits")
        outs = {name: tmp_path / name for name in (*schema.SPLITS, "fitted", "report")}
        stage.function({"s": folder}, tmp_path / "labels", tmp_path / "splits", params(**given), **outs)
        return outs

    return ids, (hsc, vis), go


SPLIT = ["train", "train", "val", "test", "train", "", "train", "train", "val", "test", "train"]


def test_the_stage_writes_every_split_and_counts_what_is_left_out(run):
    ids, (hsc, vis), go = run
    outs = go(SPLIT)
    index = {name: shards.read_index(outs[name]) for name in schema.SPLITS}
    assert {name: table.height for name, table in index.items()} == {"pretrain": 0, "train": 5, "val": 2, "test": 1}
    report = json.loads(outs["report"].read_text())
    assert sum(report["left_out"].values()) + sum(t.height for t in index.values()) == len(ids)
    assert report["left_out"]["no label"] == 1
    assert set(report["left_out_here"]) == {"s.euclid-000003", "s.kids-000000"}
    assert "(u)" in report["left_out_here"]["s.kids-000000"]
    reader = shards.ShardReader(outs["train"], FIELDS)
    flux, _ = reader.stamps(np.arange(5))
    got = {i: flux[n] for n, i in enumerate(reader.index["object_id"])}
    sigma = hsc.sky_sigma[4][:, None, None]
    np.testing.assert_allclose(got["s.hsc-000004"][:2, 2:14, 2:14], np.arcsinh(hsc.flux[4] / sigma), atol=2e-3)
    assert not got["s.hsc-000004"][2].any()
    np.testing.assert_allclose(
        got["s.euclid-000001"][2], np.arcsinh(vis.flux[1, 0, 2:18, 2:18] / vis.sky_sigma[1, 0]), atol=2e-3
    )
    facts = json.loads(outs["fitted"].read_text())
    assert facts["data_hash"] == shards.digest(outs["train"])
    assert facts["counts"] == {"lens": 2, "nonlens": 3}


def test_an_object_lost_between_split_and_shard_is_named(run):
    ids, _, go = run
    outs = go([*SPLIT, "train"], ids=[*ids, "s.gone"])
    assert json.loads(outs["report"].read_text())["left_out_here"]["s.gone"] == placing.LOST


@pytest.mark.parametrize("use", ["pretrain", "report"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_what_is_not_for_classification_never_gets_there(run, use, split):
    ids, _, go = run
    labels = label_rows(ids).with_columns(
        use=pl.when(pl.col("object_id") == ids[2]).then(pl.lit(use)).otherwise("use"),
    )
    splits = [*SPLIT[:2], split, *SPLIT[3:]]
    with pytest.raises(schema.ContractError, match=f"{ids[2]} of source s must stay out of train"):
        go(splits, labels)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": "unknown"}, "be lens or nonlens"),
        ({"object_id": "s.other"}, "have a label"),
        ({}, "stay out of pretrain"),
    ],
)
def test_other_contradictions(run, change, words):
    ids, _, go = run
    first = pl.col("object_id") == ids[2]
    labels = label_rows(ids).with_columns(
        pl.when(first).then(pl.lit(value)).otherwise(name).alias(name) for name, value in change.items()
    )
    splits = SPLIT if change else [*SPLIT[:2], "pretrain", *SPLIT[3:]]
    with pytest.raises(schema.ContractError, match=words):
        go(splits, labels)


def test_train_must_have_both_classes(run):
    ids, _, go = run
    with pytest.raises(ValueError, match="lenses and non-lenses"):
        go(["train" if i % 2 else "val" for i in range(len(ids))])


def test_metadata_by_hand():
    train = pl.DataFrame(
        {"z_phot": [0.2, 0.4, 0.9, -1.0], "seeing": [1.0, None, 1.0, 1.0], "bands": [["g"], ["g", "r"], ["r"], ["g"]],
         "label": ["lens", "nonlens", "lens", "lens"], "label_source": ["a", "a", "a", "b"],
         "label_confidence": [1.0, 1.0, 0.5, 0.8]}
    )  # fmt: skip
    facts = statistics.fit(train, params(bands=["r", "g"]))
    z = (np.array([0.2, 0.4, 0.9, 0.4]) - 0.5) / np.std([0.2, 0.4, 0.9])
    expected = np.stack([[0, 1, 1, 0], [1, 1, 0, 1], z, [0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]], axis=1)
    np.testing.assert_allclose(statistics.metadata(train, facts), expected, rtol=1e-6)
    assert facts["source_weights"] == {"a": {"lens": 0.75, "nonlens": 1.5}, "b": {"lens": 1.0}}
    np.testing.assert_allclose(statistics.weights(train, facts), [0.75, 1.5, 0.375, 0.8], rtol=1e-6)
    json.dumps(facts, allow_nan=False)
    none = statistics.fit(train.with_columns(seeing=pl.lit(None)), params(features=["seeing"], bands=["r"]))
    np.testing.assert_array_equal(
        statistics.metadata(train.with_columns(seeing=pl.lit(None)), none)[:, 1:], [[0, 1]] * 4
    )
