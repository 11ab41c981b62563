"""What is learnt from the train split before any network: how features are standardised, what a label weighs."""

from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lensml import config, schema

CLASSES: Final = ("lens", "nonlens")

Float = NDArray[np.float32]
Statistics = dict[str, Any]  # see `fit`; plain types, as it goes into JSON and checkpoints


def fit(train: pl.DataFrame, params: config.Shard) -> Statistics:
    """Statistics of the train split's index.

    Returns
    -------
    bands, stamp_pixels, pixel_scale_min, common_pixel_scale : the network's channels, in order, and its grid
    features : per feature {median, mean, std, missing}; missing is the share without a value
    counts : objects per label
    source_weights : per label source and label, see `source_weights`

    Raises
    ------
    ValueError
        There are not both lenses and non-lenses.
    """
    counts = {label: train.filter(pl.col("label") == label).height for label in CLASSES}
    if not all(counts.values()):
        raise ValueError(f"the train split must hold lenses and non-lenses, got {counts}. Add a source of the other")
    return {
        "schema_version": schema.SCHEMA_VERSION,
        "bands": list(params.bands),
        "stamp_pixels": params.stamp_pixels,
        "pixel_scale_min": params.pixel_scale_min,
        "common_pixel_scale": params.common_pixel_scale,
        "features": {name: _describe(values(train, name)) for name in params.features},
        "counts": counts,
        "source_weights": source_weights(train),
    }


def source_weights(train: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Per label source and label: the weight with which a source's lenses weigh as much as its non-lenses.

    What tells the sources apart then tells nothing about the label. The weights of a source sum to its number of
    objects; a source of one label only (which must be allowed by name) weighs 1.
    """
    cells = train.group_by("label_source", "label").len().sort("label_source", "label")
    weights: dict[str, dict[str, float]] = {}
    for source, part in cells.group_by("label_source", maintain_order=True):
        total = int(part["len"].sum())
        weights[str(source[0])] = {
            label: total / (part.height * n) for label, n in zip(part["label"], part["len"], strict=True)
        }
    return weights


def metadata(table: pl.DataFrame, statistics: Statistics) -> Float:
    """What a network is told beside the pixels: (object, [band flags | standardised features | missing flags]).

    `table` has the columns bands and the features: a split's index, or a catalogue of stamps on the network's grid.
    A missing value becomes the train split's median and is flagged.
    """
    flags = np.array([[band in own for band in statistics["bands"]] for own in table["bands"].to_list()], np.float32)
    columns = [values(table, name) for name in statistics["features"]]
    filled = [
        (np.where(np.isnan(column), of["median"], column) - of["mean"]) / of["std"]
        for column, of in zip(columns, statistics["features"].values(), strict=True)
    ]
    missing = [np.isnan(column) for column in columns]
    parts = [np.asarray(part, np.float32).reshape(len(columns), table.height).T for part in (filled, missing)]
    return np.concatenate([flags.reshape(table.height, len(statistics["bands"])), *parts], axis=1)


def weights(table: pl.DataFrame, statistics: Statistics) -> Float:
    """(object,): confidence of the label times the weight of its source; 1 x confidence for an unseen source."""
    of = statistics["source_weights"]
    pairs = zip(table["label_source"], table["label"], table["label_confidence"], strict=True)
    return np.array(
        [of.get(source, {}).get(label, 1.0) * confidence for source, label, confidence in pairs], np.float32
    )


def values(table: pl.DataFrame, feature: str) -> NDArray[np.float64]:
    """A feature, NaN where it is missing (null, not finite, or a redshift of -1)."""
    column = np.array(table[feature].cast(pl.Float64).fill_null(np.nan).to_numpy(), dtype=np.float64)
    missing = ~np.isfinite(column)
    if feature.startswith("z_"):
        missing |= column == schema.MISSING_REDSHIFT
    return np.where(missing, np.nan, column)


def _describe(column: NDArray[np.float64]) -> dict[str, float]:
    known = column[np.isfinite(column)]
    if not known.size:
        return {"median": 0.0, "mean": 0.0, "std": 1.0, "missing": 1.0}
    return {
        "median": float(np.median(known)),
        "mean": float(known.mean()),
        "std": float(known.std()) if np.ptp(known) > 0 else 1.0,  # a constant feature says nothing and is 0
        "missing": 1 - known.size / max(1, column.size),
    }
