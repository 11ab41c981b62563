"""The defects that published catalogues of lenses have, found by rule: what a catalogue says once they are seen to.

An entry whose name tells another place than its position is not believed: it becomes a candidate at both places, so
that neither can become a negative. Of near-duplicates that disagree the more confident decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lensml import config, schema
from lensml.catalog import designations, entry_pairs, misplaced, redshift_text

DOUBTFUL: Final = "doubtful position"  # grade of an entry that is not believed
CONTRADICTED: Final = "contradicted"  # grade where a catalogue says lens and non-lens with equal confidence
ELSEWHERE: Final = "@name"  # end of the entry that stands where a doubtful one may stand instead

NOT_BELIEVED: Final = "the position is not that of the name, so the entry is a candidate at both"  # the cause follows
ONE_NAME: Final = "one name stands at two places, so it is a candidate at both"
OVERRULED: Final = "of near-duplicates the more confident decides, and a lens candidate is no negative"
TIED: Final = "near-duplicates of equal confidence disagree, so they are candidates"

CANDIDATE: Final = (pl.col("label") == "unknown") & (pl.col("grade") != "")

_SAYS: Final = pl.col("label") != "unknown"
_SHOWN: Final = pl.concat_str("label_source", pl.lit("="), "label", pl.lit("@"), "label_confidence")
_DECIDED: Final = ("label", "label_source", "label_confidence", "grade")
_NAME_LENGTH: Final = 40  # of an entry: enough to know it by


@dataclass(frozen=True)
class Review:
    """A catalogue after the rules.

    Attributes
    ----------
    claims : schema.SKY_CLAIMS, with an entry more for each place where a doubtful entry may stand instead
    findings : schema.CONFLICT_TABLE, a row per rule that changed an entry
    counts : numbers for a report
    """

    claims: pl.DataFrame
    findings: pl.DataFrame
    counts: dict[str, object]


def entries(names: pl.Series) -> pl.Series:
    """Entries of a catalogue whose rows have no identifier: the row's number, from 1, and the first of its names."""
    width = max(5, len(str(len(names))))
    first = pl.col("name").fill_null("").str.split("|").list.first().str.strip_chars().str.head(_NAME_LENGTH)
    number = pl.int_range(1, pl.len() + 1).cast(pl.String).str.zfill(width)
    entry = pl.concat_str(number, first, separator=" ").str.strip_chars()
    return names.alias("name").to_frame().select(entry.alias("entry")).to_series()


def review(source: str, claims: pl.DataFrame, rules: config.LabelProvenance) -> Review:
    """Look through a catalogue's entries and decide what is believed.

    Parameters
    ----------
    source : key of params.yaml: sources; its entries are `<source>.<entry>` in the findings
    claims : schema.SKY_CLAIMS

    Raises
    ------
    ValueError
        An entry is named twice.
    """
    claims = claims.sort("entry")
    twice = claims.filter(pl.col("entry").is_duplicated())["entry"]
    if len(twice):
        raise ValueError(f"entry must be unique, got {twice[0]} twice (source {source}). Correct the catalogue.")
    doubtful, pairs = doubts(claims, rules), entry_pairs.near(claims, rules.duplicate_arcsec)
    conflicts = conflicting(claims, pairs)
    believed, disbelieved = _disbelieve(claims, doubtful)
    agreed, overruled = _agree(believed, conflicts)
    elsewhere = believed[doubtful["row"]].with_columns(pl.col("entry") + ELSEWHERE, doubtful["ra"], doubtful["dec"])
    findings = pl.concat([disbelieved, overruled]).with_columns(
        object_id=pl.concat_str(pl.lit(f"{source}."), "object_id")
    )
    return Review(
        pl.concat([agreed, elsewhere.drop_nulls(["ra", "dec"])]).sort("entry"),
        schema.check(findings.sort("object_id", "rule"), schema.CONFLICT_TABLE, f"findings of {source}"),
        {
            "entries": claims.height,
            "without_position": claims.height - claims.drop_nulls(["ra", "dec"]).height,
            "doubtful_position": _tally(doubtful["cause"]),
            "one_name_two_places": entry_pairs.of_one_name(claims, rules.name_tolerance_arcsec).height,
            "near_duplicates": pairs.height,
            "near_duplicates_in_conflict": conflicts.height,
            "redshift_text": _tally(redshift_text.read(claims["z_text"])["kind"]),
        },
    )


def doubts(claims: pl.DataFrame, rules: config.LabelProvenance) -> pl.DataFrame:
    """misplaced.MISPLACED of the entries that are not believed: by their own name, or as another of that name differs.

    Of two entries of one name that which stands where the name says is believed; where the name tells no place neither
    is, and ra and dec are null.
    """
    found = misplaced.find(claims, rules.name_tolerance_arcsec)
    told = pl.concat([found["row"], designations.places(claims["name"])["row"]])
    pairs = entry_pairs.of_one_name(claims, rules.name_tolerance_arcsec)
    rest = pl.concat([pairs["first"], pairs["second"]]).unique().to_frame("row")
    rest = rest.filter(~pl.col("row").is_in(told.implode()))
    nowhere = (pl.lit(None, pl.Float64).alias(name) for name in ("ra", "dec"))
    return pl.concat([found, rest.select("row", pl.lit(ONE_NAME).alias("cause"), *nowhere)]).sort("row")


def conflicting(claims: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs that say different things: another label, or another grade where both have one."""
    one, other = (claims[pairs[end]].select("label", "grade") for end in ("first", "second"))
    table = pl.concat([one, other.rename({"label": "label_2", "grade": "grade_2"})], how="horizontal")
    graded, graded_2 = pl.col("grade") != "", pl.col("grade_2") != ""
    speak = (_SAYS | graded) & ((pl.col("label_2") != "unknown") | graded_2)
    labels, grades = pl.col("label") != pl.col("label_2"), pl.col("grade") != pl.col("grade_2")
    return pairs.filter(table.select(speak & (labels | (graded & graded_2 & grades))).to_series())


def one_voice(claims: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Of all rows with the same keys the one that decides, in the order of the keys.

    What says lens or non-lens goes before candidates, these before what says nothing, the more confident before the
    less, then by entry; but a candidate goes before a non-lens. Where the most confident disagree they are a
    candidate, graded CONTRADICTED.

    Parameters
    ----------
    claims : schema.SKY_CLAIMS and the keys
    """
    refuted = CANDIDATE.any().over(keys) & (pl.col("label") == "nonlens")
    order = [*(pl.col(key) for key in keys), ~_SAYS, ~CANDIDATE, -pl.col("label_confidence"), pl.col("entry")]
    ordered = claims.filter(~refuted).sort(order)
    top = _SAYS & (pl.col("label_confidence") == pl.col("label_confidence").first())
    torn = pl.col("label").filter(top).n_unique() > 1
    voices = ordered.group_by(keys, maintain_order=True).agg(pl.all().first(), torn.alias("torn"))
    return _as_candidates(voices, pl.col("torn"), CONTRADICTED).drop("torn")


def _as_candidates(claims: pl.DataFrame, which: pl.Expr, grade: str) -> pl.DataFrame:
    candidate = {"label": "unknown", "label_confidence": 0.0, "grade": grade}
    return claims.with_columns(pl.when(which).then(pl.lit(v)).otherwise(k).alias(k) for k, v in candidate.items())


def _disbelieve(claims: pl.DataFrame, doubtful: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The claims with the doubtful ones as candidates, and the findings."""
    believed = _as_candidates(claims, pl.int_range(pl.len()).is_in(doubtful["row"].implode()), DOUBTFUL)
    findings = claims[doubtful["row"]].select(
        pl.col("entry").alias("object_id"),
        pl.concat_list(_SHOWN).alias("claims"),
        pl.lit("unknown").alias("label"),
        doubtful["cause"].alias("rule"),
    )
    by_name = pl.concat_str(pl.lit(f"{NOT_BELIEVED}: "), "rule")
    rule = pl.when(pl.col("rule") == ONE_NAME).then("rule").otherwise(by_name)
    return believed, findings.with_columns(rule.alias("rule"))


def _agree(claims: pl.DataFrame, conflicts: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The claims with those of conflicting near-duplicates made one, and the findings."""
    ends = [conflicts[name].to_numpy() for name in ("first", "second")]
    graph = coo_array((np.ones(conflicts.height), ends), shape=(claims.height, claims.height))
    cluster = connected_components(graph, directed=False)[1]
    members = claims.with_row_index("row").with_columns(cluster=cluster)[np.unique(ends)]
    voices = one_voice(members, ["cluster"]).select("cluster", *(pl.col(name).alias(f"{name}_2") for name in _DECIDED))
    said = members.sort(-pl.col("label_confidence"), "entry").group_by("cluster").agg(_SHOWN.alias("claims"))
    members = members.join(voices, on="cluster").join(said, on="cluster")
    less_sure = pl.col("label_confidence") < pl.col("label_confidence_2")
    changed = members.filter((pl.col("label") != pl.col("label_2")) | less_sure)
    tied = pl.col("grade_2") == CONTRADICTED
    findings = changed.select(
        pl.col("entry").alias("object_id"),
        "claims",
        pl.col("label_2").alias("label"),
        pl.when(tied).then(pl.lit(TIED)).otherwise(pl.lit(OVERRULED)).alias("rule"),
    )
    changes = changed.select("row", *(pl.col(f"{name}_2").alias(name) for name in _DECIDED))
    return claims.with_row_index("row").update(changes, on="row").drop("row"), findings


def _tally(words: pl.Series) -> dict[str, int]:
    return dict(words.value_counts().sort(words.name).iter_rows())
