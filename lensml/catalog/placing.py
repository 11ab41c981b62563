"""Which converted object goes into which split's shards, and the last guard of what may not."""

from typing import Any, Final

import polars as pl

from lensml import schema
from lensml.catalog.statistics import CLASSES

_FROM_LABELS: Final = ("label", "label_source", "label_confidence", "kind", "flux_ratio", "theta_e_arcsec", "use")
LOST: Final = "not among the PSF-matched stamps"
_OUT: Final = pl.Schema({"object_id": pl.String, "reason": pl.String})


def place(
    catalogue: pl.DataFrame, labels: pl.DataFrame, splits: pl.DataFrame, source: str
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The catalogue's rows with their label, group and split; and (object_id, reason) of a source's other objects.

    Parameters
    ----------
    catalogue : schema.CATALOGUE of one source
    labels, splits : schema.LABEL_TABLE and schema.SPLIT_TABLE of all sources

    Raises
    ------
    ContractError
        An object has no label, or is in a split that its use forbids.
    """
    wanted = splits.filter(pl.col("source") == source).select("object_id", "group_id", "split", "reason")
    told = labels.select("object_id", *_FROM_LABELS)
    joined = catalogue.join(wanted, on="object_id", how="left", maintain_order="left").join(
        told, on="object_id", how="left", maintain_order="left"
    )
    check_uses(joined.filter(pl.col("split").fill_null("") != ""), source)
    kept = joined.filter(pl.col("split").is_in(schema.SPLITS))
    unsplit = joined.filter(pl.col("split").is_null()).select("object_id", pl.lit("in no split").alias("reason"))
    left = wanted.filter(pl.col("split") == "").select("object_id", "reason")
    lost = wanted.filter(pl.col("split") != "").join(catalogue, on="object_id", how="anti", maintain_order="left")
    lost = lost.select("object_id", pl.lit(LOST).alias("reason"))
    return kept.drop("reason"), pl.concat([left, lost, unsplit]).cast(_OUT)


def check_uses(placed: pl.DataFrame, source: str) -> None:
    """Hold every object's split against its use: what is for pretraining never teaches or tests a classifier.

    Raises
    ------
    ContractError
        The message names the source, an object and the remedy.
    """
    classified = pl.col("split").is_in(["train", "val", "test"])
    rules = [
        (pl.col("use").is_null(), "have a label"),
        (~pl.col("split").is_in(schema.SPLITS), f"be in one of {', '.join(schema.SPLITS)}"),
        (classified & (pl.col("use") != "classify"), "stay out of train, val and test: it is not for classification"),
        (~classified & (pl.col("use") != "pretrain"), "stay out of pretrain: it is for classification or reports"),
        (classified & ~pl.col("label").is_in(CLASSES), "be lens or nonlens to be classified"),
    ]
    for broken, rule in rules:
        wrong = placed.filter(broken)
        if wrong.height:
            row = wrong.row(0, named=True)
            raise schema.ContractError(
                f"{row['object_id']} of source {source} must {rule}, got use {row['use']}, label {row['label']}, "
                f"split {row['split']} ({wrong.height} such objects). Run the stages label-provenance and split."
            )


def summary(index: dict[str, pl.DataFrame], left: pl.DataFrame, splits: pl.DataFrame) -> dict[str, Any]:
    """Counts of what went into each split and why the rest did not; objects lost after the split stage by name."""
    before = splits.filter(pl.col("split") == "")
    late = left.join(before, on="object_id", how="anti").sort("object_id")
    return {
        "splits": {
            name: {"objects": table.height, **{by: counts(table[by]) for by in ("label", "source", "survey")}}
            for name, table in index.items()
        },
        "left_out": counts(left["reason"]),
        "left_out_here": dict(zip(late["object_id"], late["reason"], strict=True)),
    }


def counts(column: pl.Series) -> dict[str, int]:
    """How often each value of a column stands there, in the values' order."""
    table = column.value_counts().sort(column.name)
    return dict(zip(table[column.name].to_list(), table["count"].to_list(), strict=True))
