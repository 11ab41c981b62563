"""Which objects can be matched at all: they have every value, and no parent is a positive or stands on a known lens."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lensml import schema
from lensml.catalog.groups import chord, unit_vectors

IS_POSITIVE: Final = "is a positive"
NEAR_LENS: Final = "near a positive or a known lens"
_ROUNDING: Final = 1e-15  # of unit vectors, 2e-10 arcsec; the tree leaves out what stands at the bound itself

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Reasons = NDArray[np.object_]  # words, "" where there is nothing against an object


def unfit(
    parents: pl.DataFrame,
    positives: pl.DataFrame,
    columns: Sequence[str],
    exclude_arcsec: float,
    lenses: pl.DataFrame | None,
) -> Reasons:
    """(parent,), why each cannot be drawn, "" where it can. Parameters as of `propensity.match`."""
    reason = lacking(parents, columns)
    for others in (positives,) if lenses is None else (positives, lenses):
        reason[near(parents, others, exclude_arcsec)] = NEAR_LENS
    reason[parents["object_id"].is_in(positives["object_id"].implode()).to_numpy()] = IS_POSITIVE
    return reason


def near(objects: pl.DataFrame, others: pl.DataFrame, arcsec: float) -> Bools:
    """(object,), True where one of the others is within `arcsec`; what has no ra, dec (deg, ICRS) is near nothing."""
    found = np.zeros(objects.height, np.bool_)
    rows, points = _places(objects)
    _, targets = _places(others)
    if len(rows) and len(targets):
        bound = chord(arcsec) + _ROUNDING
        found[rows] = np.isfinite(cKDTree(targets).query(points, distance_upper_bound=bound)[0])
    return found


def lacking(table: pl.DataFrame, columns: Sequence[str]) -> Reasons:
    """(object,), the first column without a value, in words; "" where none is missing."""
    absent = np.isnan(values(table, columns))
    reason = np.full(table.height, "", np.object_)
    for k in reversed(range(len(columns))):
        reason[absent[:, k]] = f"no value in {columns[k]}"
    return reason


def values(table: pl.DataFrame, columns: Sequence[str]) -> Floats:
    """(object, column), NaN where there is no value: null, not finite, or -1 in a column of redshifts (z, z_phot)."""
    found = table.select(pl.col(name).cast(pl.Float64).fill_null(float("nan")) for name in columns).to_numpy()
    redshift = np.array([bool({"z", "redshift"} & set(name.lower().split("_"))) for name in columns])
    return np.where(np.isfinite(found) & ~(redshift & (found == schema.MISSING_REDSHIFT)), found, np.nan)


def usable(table: pl.DataFrame, reason: Reasons, where: str) -> Rows:
    """Rows with nothing against them, by object_id.

    Raises
    ------
    ValueError
        There is none.
    """
    order = table["object_id"].arg_sort().to_numpy().astype(np.int64)
    rows = order[reason[order] == ""]
    if not rows.size:
        got = "; ".join(f"{words}: {count}" for words, count in counts(reason).items()) or "an empty table"
        raise ValueError(f"{where} must hold objects to match, got none ({got}). Hand in others, or fewer columns.")
    return rows


def counts(reason: Reasons) -> dict[str, int]:
    """How often each reason stands there, in the reasons' order."""
    words, count = np.unique(reason[reason != ""].astype(str), return_counts=True)
    return dict(zip(words.tolist(), count.tolist(), strict=True))


def check(table: pl.DataFrame, columns: Sequence[str], where: str) -> None:
    """Hold a table against what matching needs: object_id, each once, and numeric columns.

    Raises
    ------
    ValueError
        The message names the table, the column and the remedy.
    """
    missing = [name for name in ("object_id", *columns) if name not in table.columns]
    if missing:
        raise ValueError(
            f"{where} must have the column(s) {', '.join(missing)}, got {', '.join(table.columns)}. Add or rename them."
        )
    for name in columns:
        if not table[name].dtype.is_numeric():
            raise ValueError(f"{where} must have numbers in {name}, got {table[name].dtype}. Make it one number each.")
    twice = table.filter(pl.col("object_id").is_duplicated())["object_id"]
    if len(twice):
        raise ValueError(f"{where} must have each object_id once, got {twice[0]} twice. Remove the repeats.")


def _places(table: pl.DataFrame) -> tuple[Rows, Floats]:
    """Rows that have a position, and these as unit vectors."""
    if not {"ra", "dec"} <= set(table.columns):
        return np.zeros(0, np.int64), np.zeros((0, 3))
    place = values(table, ("ra", "dec"))
    rows = np.flatnonzero(np.isfinite(place).all(axis=1))
    return rows, unit_vectors(place[rows, 0], place[rows, 1])
