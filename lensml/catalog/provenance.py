"""Evidence to labels: which claims about an object count, which of them decides, and by which rule, in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

from lensml import config, schema

PRETRAIN: Final = "pretrain:"
OBSERVED: Final = ("obs:", "weak:")  # claims about the sky, whose candidates count
BY_RANK: Final = "the claim of the higher rank decides"
BY_CONFIDENCE: Final = "of claims of equal rank the more confident decides"
BY_NONE: Final = "claims of equal rank and confidence disagree: unknown"
BELOW: Final = "claims below confidence_min label nothing"
BY_CANDIDATE: Final = "a lens candidate is no negative: unknown"

_ID = pl.col("object_id")
_OF_LENSES: Final = ("flux_ratio", "theta_e_arcsec", "z_lens")
_OF_CLAIM: Final = ("label_source", "label_confidence", "grade")
_NO_NULLS = ("object_id", "source", "survey", "label", "label_source", "grade", "parent", "frame", "kind")


@dataclass(frozen=True)
class Decision:
    """What the claims amount to.

    Attributes
    ----------
    labels : schema.LABEL_TABLE, one row per object, by object_id
    conflicts : schema.CONFLICT_TABLE, one row per object whose claims disagree, by object_id
    """

    labels: pl.DataFrame
    conflicts: pl.DataFrame


def gather(parts: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """All sources' claims as one schema.EVIDENCE, checked, by object_id and label_source.

    Raises
    ------
    ContractError
        A source's evidence lacks a column.
    ValueError
        A value is outside its range, an object belongs to two sources, or a source claims twice in one breath.
    """
    if not parts:
        raise ValueError("sources must name at least one source, got none. Add one to params.yaml.")
    for source, part in parts.items():
        _check_values(source, schema.check(part, schema.EVIDENCE, f"evidence of {source}"))
    evidence = pl.concat([part.select(*schema.EVIDENCE) for part in parts.values()]).sort("object_id", "label_source")
    shared = evidence.filter(pl.col("source").n_unique().over("object_id") > 1)
    _refuse(shared, _ID, "object_id", "belong to one source", "Rename the objects of one source or drop the source")
    again = evidence.filter(pl.struct("object_id", "label_source").is_duplicated())
    _refuse(again, _ID, "object_id", "be named once by each label_source", "Drop the repeated rows")
    for column in ("survey", "parent"):
        values = evidence.filter(pl.col(column) != "")
        split = values.filter(pl.col(column).n_unique().over("object_id") > 1)
        _refuse(split, _ID, column, "be one for all claims about an object", "Make the claims agree")
    return evidence


def resolve(evidence: pl.DataFrame, rules: config.LabelProvenance) -> Decision:
    """Decide every object's label and use.

    A claim counts when it says lens or nonlens with at least `confidence_min` and is not for pretraining. Of the
    claims that count, those of the highest rank decide (`claim_ranks`, by the longest prefix of label_source), of
    these the most confident; if these still differ the object is unknown. A non-lens that an observer graded as a
    candidate (an observed claim that is unknown and has a grade) is unknown, with that grade. An object with a
    pretraining claim is used for nothing else; one without a label is only reported.

    Raises
    ------
    ValueError
        A label_source has no rank, or an object that is for pretraining has a label.
    """
    claims = _ranked(evidence, rules).sort(
        "object_id", "counts", "pretrain", "rank", "label_confidence", "label_source",
        descending=[False, True, True, True, True, False],
    )  # fmt: skip
    _refuse_pretrain_labels(claims)
    objects = _objects(claims).with_columns(_use().alias("use"))
    conflicts = objects.filter((pl.col("said") > 1) | pl.col("spared")).with_columns(_rule().alias("rule"))
    return Decision(
        schema.check(objects, schema.LABEL_TABLE, "labels"), schema.check(conflicts, schema.CONFLICT_TABLE, "conflicts")
    )


def report(decision: Decision) -> dict[str, object]:
    """Counts per source, label, label_source, use and rule, and of candidates by grade."""
    labels, conflicts = decision.labels, decision.conflicts
    candidates = labels.filter(pl.col("use") == "report", pl.col("grade") != "")
    return {
        "objects": labels.height,
        "label": _counts(labels, "label"),
        "use": _counts(labels, "use"),
        "candidate_grade": _counts(candidates, "grade"),
        "rule": _counts(conflicts, "rule"),
        "conflicts": conflicts.height,
        "source": _crossed(labels, "source"),
        "label_source": _crossed(labels, "label_source"),
    }


def _check_values(source: str, part: pl.DataFrame) -> None:
    nulls = part.filter(pl.any_horizontal(pl.col(name).is_null() for name in _NO_NULLS))
    _refuse(nulls, _ID, ", ".join(_NO_NULLS), "have a value (an empty text where there is none)", "Fill it in", source)
    foreign = part.filter(pl.col("source") != source)
    _refuse(foreign, pl.col("source"), "source", f"be {source}", "Correct the source's evidence", source)
    label = part.filter(~pl.col("label").is_in(schema.LABELS))
    _refuse(label, pl.col("label"), "label", f"be one of {', '.join(schema.LABELS)}", "Correct the label", source)
    sure = part.filter(~pl.col("label_confidence").is_between(0, 1).fill_null(False))
    where = pl.col("label_confidence")
    _refuse(sure, where, "label_confidence", "be in [0, 1]", "Correct the confidence", source)
    placed = pl.col("frame") != ""
    on_sky = pl.col("ra").is_finite() & pl.col("dec").is_between(-90, 90)
    whole = pl.when(placed).then(on_sky.fill_null(False)).otherwise(pl.col("ra").is_null() & pl.col("dec").is_null())
    where = pl.concat_str("ra", "dec", "frame", separator=" ", ignore_nulls=True)
    rule = "be finite with dec in [-90, 90] and a frame, or all absent"
    _refuse(part.filter(~whole), where, "ra, dec, frame", rule, "Correct or remove the position", source)


def _refuse(rows: pl.DataFrame, value: pl.Expr, name: str, rule: str, remedy: str, source: str = "") -> None:
    """Raise for the rows, if any, with three of them as examples."""
    if rows.is_empty():
        return
    some = rows.head(3).select(_ID.fill_null("no object_id"), value.cast(pl.String).fill_null("null").alias("value"))
    shown = [f"{key}" if key == got else f"{got} of {key}" for key, got in some.iter_rows()]
    origin = source or ", ".join(rows["source"].unique().sort().head(3))
    raise ValueError(
        f"{name} must {rule}, got {'; '.join(dict.fromkeys(shown))} ({rows.height} rows, source {origin}). {remedy}."
    )


def _ranked(evidence: pl.DataFrame, rules: config.LabelProvenance) -> pl.DataFrame:
    """The claims with their rank, whether they count, and whether they are for pretraining."""
    rank: pl.Expr = pl.lit(None, pl.Int64)
    for prefix in sorted(rules.claim_ranks, key=len):  # the longest is asked last, so it wraps and wins
        is_it = pl.col("label_source").str.starts_with(prefix)
        rank = pl.when(is_it).then(pl.lit(rules.claim_ranks[prefix])).otherwise(rank)
    ranked = evidence.with_columns(
        rank.alias("rank"),
        pl.col("label_source").str.starts_with(PRETRAIN).alias("pretrain"),
        (pl.col("label") != "unknown").alias("says"),
    )
    known = f"begin with one of {', '.join(sorted(rules.claim_ranks))}"
    strange = ranked.filter(pl.col("rank").is_null())
    remedy = "Correct it or add its prefix to label_provenance.claim_ranks"
    _refuse(strange, pl.col("label_source"), "label_source", known, remedy)
    sure = pl.col("label_confidence") >= rules.confidence_min
    return ranked.with_columns((pl.col("says") & sure & ~pl.col("pretrain")).alias("counts"))


def _refuse_pretrain_labels(claims: pl.DataFrame) -> None:
    label = pl.concat_str(pl.lit("label "), "label", pl.lit(" from "), "label_source")
    remedy = (
        f"A set for pretraining has no lens labels: make them unknown, or name another label_source than {PRETRAIN}"
    )
    _refuse(
        claims.filter(pl.col("pretrain") & pl.col("says")), label, f"label of a {PRETRAIN} claim", "be unknown", remedy
    )
    asked = claims.filter(pl.col("counts") & pl.col("pretrain").any().over("object_id"))
    remedy = "Drop the label, or the pretraining claim, so that the object has one use"
    _refuse(asked, label, "an object for pretraining", "have no label that counts for classification", remedy)


def _objects(claims: pl.DataFrame) -> pl.DataFrame:
    """One row per object from its claims, best first."""
    counts, label = pl.col("counts"), pl.col("label")
    top = counts & (pl.col("rank") == pl.col("rank").first())  # the first claim is the best that counts, if any does
    surest = top & (pl.col("label_confidence") == pl.col("label_confidence").first())
    shown = pl.concat_str("label_source", pl.lit("="), "label", pl.lit("@"), "label_confidence")
    position = pl.struct("frame", "ra", "dec").filter(pl.col("frame") != "").first()
    same = (label == label.first()) & (label == "lens")
    objects = claims.group_by("object_id", maintain_order=True).agg(
        pl.col("source", "survey", "label", "label_source", "label_confidence", "grade").first(),
        *(pl.col(name).filter(pl.col(name) != "").first().fill_null("") for name in ("parent", "kind")),
        *(pl.col(name).filter(same).drop_nulls().first() for name in _OF_LENSES),
        position.alias("position"),
        pl.struct(_OF_CLAIM).filter(_is_candidate()).first().alias("candidate"),
        shown.alias("claims"),
        label.filter("says").n_unique().alias("said"),
        label.filter("counts").n_unique().alias("counting"),
        label.filter(top).n_unique().alias("top"),
        label.filter(surest).n_unique().alias("surest"),
        pl.col("pretrain").any(),
    )
    return _spared(objects.unnest("position").with_columns(pl.col("frame").fill_null("")))


def _is_candidate() -> pl.Expr:
    observed = pl.any_horizontal(pl.col("label_source").str.starts_with(prefix) for prefix in OBSERVED)
    return observed & (pl.col("label") == "unknown") & (pl.col("grade") != "")


def _spared(objects: pl.DataFrame) -> pl.DataFrame:
    """The objects with their label, unknown where undecided or where a candidate would be a negative."""
    candidate = pl.col("candidate").is_not_null()
    objects = objects.with_columns(
        (candidate & (pl.col("surest") == 1) & (pl.col("label") == "nonlens")).alias("spared"),
        (candidate & (pl.col("counting") == 0) & (pl.col("grade") == "") & ~pl.col("pretrain")).alias("graded"),
    )
    decided, by_candidate = (pl.col("surest") == 1) & ~pl.col("spared"), pl.col("spared") | pl.col("graded")
    claim = {name: pl.col("candidate").struct.field(name) for name in _OF_CLAIM}
    return objects.with_columns(
        pl.when(decided).then("label").otherwise(pl.lit("unknown")).alias("label"),
        *(pl.when(decided).then(name).alias(name) for name in _OF_LENSES),
        *(pl.when(by_candidate).then(value).otherwise(name).alias(name) for name, value in claim.items()),
    )


def _use() -> pl.Expr:
    labelled = pl.when(pl.col("label") != "unknown").then(pl.lit("classify")).otherwise(pl.lit("report"))
    return pl.when("pretrain").then(pl.lit("pretrain")).otherwise(labelled)


def _rule() -> pl.Expr:
    by_claims = pl.when(pl.col("surest") == 1).then(pl.lit(BY_CONFIDENCE)).otherwise(pl.lit(BY_NONE))
    by_rank = pl.when(pl.col("top") == 1).then(pl.lit(BY_RANK)).otherwise(by_claims)
    above = pl.when(pl.col("counting") <= 1).then(pl.lit(BELOW)).otherwise(by_rank)
    return pl.when("spared").then(pl.lit(BY_CANDIDATE)).otherwise(above)


def _counts(table: pl.DataFrame, column: str) -> dict[str, int]:
    return dict(table.group_by(column).len().sort(column).iter_rows())


def _crossed(labels: pl.DataFrame, column: str) -> dict[str, dict[str, dict[str, int]]]:
    parts = labels.partition_by(column, as_dict=True)
    return {
        str(key): {name: _counts(part, name) for name in ("label", "use")} for (key,), part in sorted(parts.items())
    }
