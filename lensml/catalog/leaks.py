"""The leak audit: no part of the data knows another. Written apart from what it audits."""

from itertools import combinations
from typing import Final, NoReturn

import numpy as np
import polars as pl
from scipy.spatial import cKDTree

from lensml import schema

APART: Final = tuple(pair for pair in combinations(schema.SPLITS, 2) if pair != ("pretrain", "train"))
_NAMES: Final = {"object_id": pl.String, "name": pl.String}
_USED_FOR: Final = {"pretrain": "pretrain", "train": "classify", "val": "classify", "test": "classify"}


def audit(
    splits: pl.DataFrame, labels: pl.DataFrame, same_sky_arcsec: float, content: pl.DataFrame | None = None
) -> dict[str, int]:
    """Check that splits share no object, use, group, parent, place on the sky or pixels.

    Pretraining may share these with training, with nothing else.

    Parameters
    ----------
    splits : schema.SPLIT_TABLE
    labels : schema.LABEL_TABLE
    same_sky_arcsec : positions of one frame closer than this are one place
    content : object_id and content (a hash of an object's pixels), if known

    Returns
    -------
    How many objects each check compared.

    Raises
    ------
    ContractError
        There is a leak; the message names the pair and its splits.
    """
    placed = splits.filter(pl.col("split") != "").select("object_id", "source", "group_id", "split")
    _each_object_once(placed)
    facts = labels.select("object_id", "use", "parent", "frame", "ra", "dec")
    table = placed.join(facts, on="object_id", how="left", maintain_order="left", validate="1:1").sort("object_id")
    _each_in_its_use(table)
    compared = {"object": placed.height, "use": table.height}
    compared["group"] = _shared(table, "group_id", "a group")
    compared["parent"] = _parents(table, labels)
    compared["position"] = _positions(table, same_sky_arcsec)
    if content is not None:
        known = table.join(content.select("object_id", "content"), on="object_id", how="inner")
        compared["content"] = _shared(known, "content", "pixel content")
    return compared


def _each_object_once(placed: pl.DataFrame) -> None:
    strange = placed.filter(~pl.col("split").is_in(schema.SPLITS))
    if strange.height:
        known = ", ".join(schema.SPLITS)
        raise schema.ContractError(f"split must be one of {known}, got {strange['split'][0]}. Run `dvc repro split`.")
    twice = placed.filter(pl.col("object_id").is_duplicated()).sort("object_id", "split")
    if twice.height:
        _leak("an object", twice["object_id"][0], *_ends(twice.head(2)))


def _each_in_its_use(table: pl.DataFrame) -> None:
    wrong = table.filter(pl.col("use").ne_missing(pl.col("split").replace_strict(_USED_FOR, return_dtype=pl.String)))
    if wrong.height:
        row = wrong.row(0, named=True)
        raise schema.ContractError(
            f"{row['split']} must hold objects for {_USED_FOR[row['split']]} only, got {row['object_id']} of source "
            f"{row['source']}, whose use is {row['use'] or 'not stated'}. Correct its label_source or leave it out."
        )


def _shared(table: pl.DataFrame, column: str, name: str) -> int:
    """Raise if a value of the column is in two splits that must be apart."""
    for one, other in APART:
        left, right = (table.filter(pl.col("split") == split) for split in (one, other))
        both = left.join(right, on=column, how="inner", suffix="_other", maintain_order="left_right")
        if both.height:
            row = both.row(0, named=True)
            _leak(name, row[column], f"{row['object_id']} in {one}", f"{row['object_id_other']} in {other}")
    return table.height


def _parents(table: pl.DataFrame, labels: pl.DataFrame) -> int:
    """Raise if an object is apart from its parent, or from another that names a parent alike.

    The parent is sought among all objects: in the child's own source, by its object_id, then by its name in any source.
    """
    everyone = set(labels["object_id"])
    children = table.filter(pl.col("parent") != "")
    names: list[tuple[str, str]] = []
    lost: set[str] = set()
    for object_id, source, parent in children.select("object_id", "source", "parent").iter_rows():
        full, short = f"{source}.{parent}", parent.removeprefix(f"{source}.")
        if full in everyone and full != object_id:
            names.append((object_id, full))
        elif parent in everyone:
            names.append((object_id, parent))
        else:
            names += [(object_id, short), (object_id, f"{source}.{short}")]
            lost.add(short)
    own = table.select("object_id", pl.col("object_id").alias("name"))
    native = table.select("object_id", pl.col("object_id").str.strip_prefix(pl.col("source") + ".").alias("name"))
    native = native.filter(pl.col("name").is_in(lost))
    known = pl.concat([pl.DataFrame(names, schema=_NAMES, orient="row"), own, native])
    _shared(known.join(table, on="object_id", how="left", maintain_order="left"), "name", "a parent")
    return children.height


def _positions(table: pl.DataFrame, arcsec: float) -> int:
    """Raise if an object's nearest neighbour in a split that must be apart is within the radius."""
    known = table.filter(pl.col("frame") != "")
    for sky in known.partition_by("frame", maintain_order=True):
        parts = {str(key[0]): part for key, part in sky.partition_by("split", as_dict=True).items()}
        for one, other in APART:
            if one in parts and other in parts:
                _neighbours(parts[one], parts[other], arcsec)
    return known.height


def _neighbours(one: pl.DataFrame, other: pl.DataFrame, arcsec: float) -> None:
    chord = 2 * np.sin(np.deg2rad(arcsec / 3600) / 2)
    distance, nearest = cKDTree(_vectors(other)).query(_vectors(one), distance_upper_bound=chord)
    close = np.flatnonzero(np.isfinite(distance))
    if close.size:
        row = int(close[0])
        apart = np.rad2deg(2 * np.arcsin(distance[row] / 2)) * 3600
        pair = pl.concat([one[row : row + 1], other[int(nearest[row]) : int(nearest[row]) + 1]])
        _leak("a place on the sky", f"{apart:.3g} arcsec apart, within {arcsec:g}", *_ends(pair))


def _vectors(sky: pl.DataFrame) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    a, d = (np.deg2rad(sky[name].to_numpy()) for name in ("ra", "dec"))
    return np.column_stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])


def _ends(pair: pl.DataFrame) -> tuple[str, str]:
    one, other = (f"{row['object_id']} in {row['split']}" for row in pair.to_dicts())
    return one, other


def _leak(what: str, value: str, one: str, other: str) -> NoReturn:
    raise schema.ContractError(f"splits must not share {what}, got {one} and {other} ({value}). Run `dvc repro split`.")
