"""Which object is for training, validation or test: by groups, balanced in strata, steady when objects are added."""

import hashlib
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lensml import config, schema
from lensml.catalog import groups, strata

PARTS: Final = ("train", "val", "test")
NOT_CONVERTED: Final = "no stamps: see the report of convert"
LOW_QUALITY: Final = "quality below quality_threshold"
REPORTED: Final = "no label: reported only"
TOUCHES: Final = "for pretraining, but its group is in val or test"
HEAVY: Final = 0.005  # of all objects, or of a label: a group that could alone move a fraction by half a point

_FACTS = ("pixel_scale", "z_spec", "z_phot", "magnitude", "psf_fwhm", "seeing")
_TRAIN, _VAL, _TEST = range(3)

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]
Int = NDArray[np.int64]


def make(labels: pl.DataFrame, catalogue: pl.DataFrame, split: config.Split) -> pl.DataFrame:
    """Split the objects.

    Parameters
    ----------
    labels : schema.LABEL_TABLE
    catalogue : schema.CATALOGUE of all sources; of it object_id, quality and the strata's columns are used

    Returns
    -------
    schema.SPLIT_TABLE, by object_id: every object of `labels`, those left out with a reason

    Raises
    ------
    ContractError
        The catalogue has an object that `labels` has not.
    ValueError
        There are fewer than three groups to classify.
    """
    members = _members(labels, catalogue, split)
    chosen = members.filter((pl.col("use") == "classify") & (pl.col("reason") == ""))
    table = _groups(chosen)
    if table.height < len(PARTS):
        raise ValueError(
            f"split must have at least {len(PARTS)} groups with labels and stamps, got {table.height} "
            f"({chosen.height} objects of {labels.height}). Add objects, or see metrics/convert for what was refused."
        )
    kinds = strata.factors(table, split)
    table = table.with_columns(kinds["label"].alias("class"), strata.merge_rare(kinds, split.stratum_min_groups))
    table = table.with_columns(pl.Series("part", [PARTS[part] for part in assign(table, split)], pl.String))
    return _per_object(members, table.select("group_id", "stratum", "part"))


def assign(table: pl.DataFrame, split: config.Split) -> Int:
    """The part (0 train, 1 val, 2 test) of each group.

    Heavy groups go first, the largest foremost, each where most is wanting. Then class by class each stratum is cut at
    its shares in the order of a hash of seed and group, so that an object added moves no others than those next to the
    cut. A stratum may miss its share by `stratum_slack` deviations of chance, a class as a whole may not: within
    that slack one hash value cuts all strata of a class, and that value hardly moves.

    Parameters
    ----------
    table : group_id, lens, nonlens, class (strata.CLASSES), stratum
    """
    counts = table.select("lens", "nonlens").to_numpy().astype(np.float64)
    place = _hash(table["group_id"], split.seed)
    stratum = table["stratum"].rank("dense").to_numpy().astype(np.int64)
    wanted = np.outer([split.fractions.train, split.fractions.val, split.fractions.test], counts.sum(axis=0))
    part = np.full(table.height, -1, dtype=np.int64)
    _place_heavy(part, counts, place, wanted)
    for name in strata.CLASSES:
        rows = np.flatnonzero((table["class"] == name).to_numpy() & (part < 0))
        if rows.size:
            need = _need(part, counts, wanted, {"lens": [0], "nonlens": [1]}.get(name, [0, 1]))
            part[rows] = _cut(place[rows], counts[rows].sum(axis=1), stratum[rows], need, split.stratum_slack)
    _leave_none_empty(part, counts, place)
    return part


def _members(labels: pl.DataFrame, catalogue: pl.DataFrame, split: config.Split) -> pl.DataFrame:
    """Every object with its group, its facts where it was converted, and the reason if it cannot be used."""
    strange = catalogue.join(labels, on="object_id", how="anti")
    if strange.height:
        raise schema.ContractError(
            f"every object of the catalogues must have a row in the labels, got {strange.height} without, such as "
            f"{strange['object_id'][0]}. Run `dvc repro label_provenance`."
        )
    facts = catalogue.select("object_id", "quality", "quality_limit", *_FACTS, pl.lit(True).alias("converted"))
    low = (pl.col("quality") < split.quality_threshold).fill_null(True)
    why = pl.when(pl.col("quality_limit") != "").then(pl.lit(": ") + pl.col("quality_limit")).otherwise(pl.lit(""))
    converted = pl.when(low).then(pl.lit(LOW_QUALITY) + why.fill_null("")).otherwise(pl.lit(""))
    labelled = pl.when(pl.col("converted").is_null()).then(pl.lit(NOT_CONVERTED)).otherwise(converted)
    reason = pl.when(pl.col("use") == "report").then(pl.lit(REPORTED)).otherwise(labelled)
    members = labels.sort("object_id").with_columns(groups.group_ids(labels.sort("object_id"), split.same_sky_arcsec))
    joined = members.join(facts, on="object_id", how="left", maintain_order="left", validate="1:1")
    return joined.with_columns(reason.alias("reason"))


def _groups(chosen: pl.DataFrame) -> pl.DataFrame:
    """One row per group, by group_id: how many of each label, and its first member's facts."""
    return (
        chosen.group_by("group_id", maintain_order=True)
        .agg(
            *((pl.col("label") == label).sum().cast(pl.Int64).alias(label) for label in ("lens", "nonlens")),
            *(pl.col(name).first() for name in ("survey", *_FACTS)),
        )
        .sort("group_id")
    )


def _per_object(members: pl.DataFrame, table: pl.DataFrame) -> pl.DataFrame:
    joined = members.join(table, on="group_id", how="left", maintain_order="left")
    usable, use = pl.col("reason") == "", pl.col("use")
    touching = usable & (use == "pretrain") & pl.col("part").is_in(["val", "test"]).fill_null(False)
    joined = joined.with_columns(pl.when(touching).then(pl.lit(TOUCHES)).otherwise("reason").alias("reason"))
    mine = pl.when(use == "pretrain").then(pl.lit("pretrain")).otherwise("part")
    return schema.check(
        joined.with_columns(
            pl.when(usable).then(mine).otherwise(pl.lit("")).alias("split"),
            pl.when(usable & (use == "classify")).then("stratum").otherwise(pl.lit("")).alias("stratum"),
        ),
        schema.SPLIT_TABLE,
        "splits",
    )


def _hash(group_id: pl.Series, seed: int) -> Float:
    """A number in [0, 1) for each group, the same whatever other groups there are."""
    digests = b"".join(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest() for name in group_id)
    return (np.frombuffer(digests, dtype=">u8") >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _place_heavy(part: Int, counts: Float, place: Float, wanted: Float) -> None:
    """Put heavy groups, largest first, where they fit and the largest share is wanting; else where most is wanting."""
    size, total = counts.sum(axis=1), np.maximum(counts.sum(axis=0), 1)
    heavy = (size > 1) & ((size > HEAVY * counts.sum()) | (counts > HEAVY * total).any(axis=1))
    left = wanted.copy()
    for row in sorted(np.flatnonzero(heavy), key=lambda r: (-size[r], place[r])):
        mine = counts[row] > 0
        share = (left[:, mine] / wanted[:, mine]).mean(axis=1)
        fits = (left[:, mine] + 1 > counts[row, mine]).all(axis=1)
        order = np.where(fits, share, -np.inf) if fits.any() else left[:, mine].sum(axis=1)
        part[row] = int(np.argmax(order))
        left[part[row]] -= counts[row]


def _need(part: Int, counts: Float, wanted: Float, labels: list[int]) -> Float:
    """(train, val, test): the shares of what is still wanting of these labels."""
    have = np.stack([counts[part == p][:, labels].sum() for p in (_TRAIN, _VAL, _TEST)])
    need = np.maximum(wanted[:, labels].sum(axis=1) - have, 0)
    return need / need.sum()


def _cut(place: Float, size: Float, stratum: Int, shares: Float, slack: float) -> Int:
    """Parts of the groups of a class."""
    train = _first(place, size, stratum, shares[_TRAIN], slack, np.zeros(place.size, dtype=np.bool_))
    both = _first(place, size, stratum, min(shares[_TRAIN] + shares[_VAL], 1.0), slack, train)
    return np.where(train, _TRAIN, np.where(both, _VAL, _TEST))


def _first(place: Float, size: Float, stratum: Int, share: float, slack: float, inside: Bool) -> Bool:
    """The groups of the first `share` by hash, in every stratum nearly and in all together exactly."""
    order = np.lexsort((place, stratum))
    kind = stratum[order]
    before = np.cumsum(size[order]) - size[order] / 2  # the size up to the middle of each group
    total, squares = np.bincount(stratum, weights=size), np.bincount(stratum, weights=size**2)
    begin = np.concatenate([[0.0], np.cumsum(total)])[kind]
    rank = np.empty(place.size)
    rank[order] = before - begin
    chance = np.sqrt(share * (1 - share) * squares)
    width = np.maximum(slack * chance, squares / np.maximum(total, 1) / 2)[
        stratum
    ]  # half a group: no share is met to less
    goal = share * total[stratum]
    key = np.where(inside | (rank < goal - width), -1.0, np.where(rank >= goal + width, 2.0, place))
    queue = np.lexsort((place, key))
    middle = np.empty(place.size)
    middle[queue] = np.cumsum(size[queue]) - size[queue] / 2
    return (middle < share * size.sum()) | inside


def _leave_none_empty(part: Int, counts: Float, place: Float) -> None:
    """Give a part that lacks a label, or everything, the smallest group of the part that has most groups of it."""
    size = counts.sum(axis=1)
    for has in (counts[:, 0] > 0, counts[:, 1] > 0, size > 0):
        for lacking in range(len(PARTS)):
            have = np.array([np.count_nonzero(has & (part == p)) for p in range(len(PARTS))])
            if have[lacking] or have.sum() < len(PARTS):
                continue
            donors = np.flatnonzero(has & (part == np.argmax(have)))
            part[donors[np.lexsort((-place[donors], size[donors]))[0]]] = lacking


def report(splits: pl.DataFrame, labels: pl.DataFrame) -> dict[str, object]:
    """Counts, fractions of the classified objects, share of lenses, strata and left-out objects of a split.

    `share_of_lenses_spread` is the largest difference between two of train, val and test.
    """
    table = splits.join(labels.select("object_id", "label"), on="object_id", how="left", maintain_order="left")
    parts = {part: table.filter(pl.col("split") == part) for part in PARTS}
    classified = sum(part.height for part in parts.values())
    lenses = {name: _share(part["label"] == "lens") for name, part in parts.items()}
    used = pl.concat(parts.values())
    left = table.filter(pl.col("split") == "")
    return {
        "objects": table.height,
        "groups": table["group_id"].n_unique(),
        "largest_group": int(table["group_id"].value_counts()["count"].max() or 0),  # type: ignore[arg-type]
        "count": {name: table.filter(pl.col("split") == name).height for name in schema.SPLITS},
        "label": {name: dict(sorted(part["label"].value_counts().iter_rows())) for name, part in parts.items()},
        "fraction": {name: part.height / classified for name, part in parts.items()},
        "share_of_lenses": lenses,
        "share_of_lenses_spread": max(lenses.values()) - min(lenses.values()),
        "strata": used["stratum"].n_unique(),
        "in_merged_strata": used.filter(pl.col("stratum").str.contains("*", literal=True)).height,
        "merged_strata": sum("*" in name for name in used["stratum"].unique()),
        "left_out": dict(sorted(left["reason"].value_counts().iter_rows())),
    }


def _share(which: pl.Series) -> float:
    return float(which.mean() or 0.0)  # type: ignore[arg-type]
