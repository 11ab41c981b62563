"""Claims to labels against rules worked out by hand and a slow second reading; planted faults are named."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from lensml import config, schema
from lensml.catalog import one_sided, provenance
from lensml.sources import SOURCES
from lensml.store import tables
from stages.label_provenance import label_provenance

RANKS = {"sim:": 3, "obs:": 2, "obs:castles": 4, "weak:": 1, "pretrain:": 0}
RULES = config.LabelProvenance(
    match_arcsec=3.0,
    duplicate_arcsec=2.0,
    name_tolerance_arcsec=360.0,
    claim_ranks=RANKS,
    confidence_min=0.5,
    one_sided_limit=0.98,
    one_sided_allowed=[],
)
EMPTY: dict[str, Any] = {
    "survey": "hsc", "grade": "", "parent": "", "frame": "", "ra": None, "dec": None, "kind": "",
    "flux_ratio": None, "theta_e_arcsec": None, "z_lens": None,
}  # fmt: skip


def claim(object_id: str, label_source: str, label: str, confidence: float = 1.0, **more: Any) -> dict[str, Any]:
    row = {"object_id": object_id, "source": "one", "label_source": label_source, "label": label}
    return {**EMPTY, **row, "label_confidence": confidence, **more}


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=schema.EVIDENCE)


def decide(*rows: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    decision = provenance.resolve(provenance.gather({"one": table(*rows)}), RULES)
    assert decision.labels.height == 1
    return decision.labels.row(0, named=True), next(iter(decision.conflicts.to_dicts()), None)


@pytest.mark.parametrize(
    ("claims", "label", "label_source", "rule"),
    [
        ([("sim:a", "lens", 0.6), ("obs:b", "nonlens", 1.0)], "lens", "sim:a", provenance.BY_RANK),
        ([("obs:castles", "lens", 0.6), ("sim:b", "nonlens", 1.0)], "lens", "obs:castles", provenance.BY_RANK),
        ([("obs:a", "lens", 0.6), ("obs:b", "nonlens", 0.9)], "nonlens", "obs:b", provenance.BY_CONFIDENCE),
        ([("obs:a", "lens", 0.9), ("obs:b", "nonlens", 0.9)], "unknown", "obs:a", provenance.BY_NONE),
        ([("sim:a", "lens", 0.4), ("weak:b", "nonlens", 0.5)], "nonlens", "weak:b", provenance.BELOW),
        ([("sim:a", "lens", 0.4), ("weak:b", "nonlens", 0.4)], "unknown", "sim:a", provenance.BELOW),
        ([("obs:a", "lens", 0.6), ("obs:b", "lens", 0.9)], "lens", "obs:b", None),
        ([("sim:a", "unknown", 1.0), ("obs:b", "lens", 0.9)], "lens", "obs:b", None),
        ([("obs:a", "lens", 0.5)], "lens", "obs:a", None),
        ([("obs:a", "lens", 0.49)], "unknown", "obs:a", None),
    ],
)
def test_rule_decides(claims: list[tuple[str, str, float]], label: str, label_source: str, rule: str | None) -> None:
    for order in (claims, claims[::-1]):
        got, conflict = decide(*(claim("one.1", *c) for c in order))
        assert (got["label"], got["label_source"]) == (label, label_source)
        assert (conflict["rule"] if conflict else None) == rule
        assert got["use"] == ("report" if label == "unknown" else "classify")


def test_conflict_lists_every_claim_best_first() -> None:
    rows = [claim("one.1", "obs:a", "lens", 0.9), claim("one.1", "sim:b", "nonlens", 0.7)]
    assert decide(*rows)[1] == {
        "object_id": "one.1",
        "claims": ["sim:b=nonlens@0.7", "obs:a=lens@0.9"],
        "label": "nonlens",
        "rule": provenance.BY_RANK,
    }


def test_facts_come_from_the_claims_that_have_them() -> None:
    best = claim("one.1", "sim:a", "lens", 1.0)
    other = claim("one.1", "obs:b", "lens", 0.9, frame="icrs", ra=1.5, dec=-2.0, parent="p", kind="ring", grade="B")
    got, _ = decide(best, other)
    assert (got["frame"], got["ra"], got["dec"], got["parent"], got["kind"]) == ("icrs", 1.5, -2.0, "p", "ring")
    assert got["grade"] == ""


def test_lens_facts_are_only_for_lenses() -> None:
    lens = claim("one.1", "obs:a", "lens", 0.9, flux_ratio=0.2, theta_e_arcsec=1.0)
    assert decide(lens)[0]["theta_e_arcsec"] == 1.0
    assert decide(lens, claim("one.1", "sim:b", "nonlens"))[0]["theta_e_arcsec"] is None
    assert decide(lens, claim("one.1", "obs:b", "nonlens", 0.9))[0]["flux_ratio"] is None
    assert decide(claim("one.1", "obs:a", "lens", 0.1, flux_ratio=0.2))[0]["flux_ratio"] is None
    assert decide(claim("one.1", "obs:a", "lens", z_lens=0.3))[0]["z_lens"] == 0.3
    assert decide(claim("one.1", "obs:a", "nonlens", z_lens=0.3))[0]["z_lens"] is None


@pytest.mark.parametrize("observer", ["obs:lenscat", "weak:zoo"])
@pytest.mark.parametrize("negative", [("weak:z", 0.9), ("obs:survey", 1.0), ("sim:a", 1.0)])
def test_a_candidate_is_no_negative(observer: str, negative: tuple[str, float]) -> None:
    rows = [claim("one.1", negative[0], "nonlens", negative[1]), claim("one.1", observer, "unknown", 0.0, grade="C")]
    got, conflict = decide(*rows)
    assert (got["label"], got["use"], got["label_source"], got["grade"]) == ("unknown", "report", observer, "C")
    assert conflict is not None
    assert conflict["rule"] == provenance.BY_CANDIDATE
    assert conflict["claims"] == [f"{negative[0]}=nonlens@{negative[1]}", f"{observer}=unknown@0.0"]


def test_who_is_no_candidate_leaves_a_negative_alone() -> None:
    negative = claim("one.1", "weak:z", "nonlens")
    ungraded = claim("one.1", "obs:survey", "unknown", 0.0)
    simulated = claim("one.1", "sim:b", "unknown", 0.0, grade="C")
    for other in (ungraded, simulated):
        assert decide(negative, other)[0]["label"] == "nonlens"
    candidate = claim("one.1", "obs:lenscat", "unknown", 0.0, grade="C")
    assert decide(claim("one.1", "obs:slacs", "lens"), candidate)[0]["label"] == "lens"
    assert decide(claim("one.1", "obs:slacs", "lens"), candidate)[1] is None


def test_candidates_are_counted_by_grade_and_never_classified() -> None:
    rows = [
        claim("one.1", "obs:a", "unknown", 0.0),  # the survey that took the picture knows nothing
        claim("one.1", "obs:lenscat", "unknown", 0.0, grade="probable"),
        claim("one.2", "weak:z", "nonlens"),
        claim("one.2", "obs:lenscat", "unknown", 0.0, grade="probable"),
        claim("one.3", "obs:sled", "unknown", 0.0, grade="score 2"),
        claim("one.4", "obs:sled", "lens", grade="A"),
        claim("one.5", "pretrain:g", "unknown", 0.0),
        claim("one.5", "obs:sled", "unknown", 0.0, grade="score 2"),
    ]
    decision = provenance.resolve(provenance.gather({"one": table(*rows)}), RULES)
    assert decision.labels["use"].to_list() == ["report", "report", "report", "classify", "pretrain"]
    assert decision.labels["grade"].to_list() == ["probable", "probable", "score 2", "A", ""]
    assert provenance.report(decision)["candidate_grade"] == {"probable": 2, "score 2": 1}


def slow_label(claims: list[dict[str, Any]]) -> str:
    """The rule read aloud, one object at a time."""
    left = [c for c in claims if c["label"] != "unknown" and c["label_confidence"] >= 0.5]
    for key in (
        lambda c: max((len(p), r) for p, r in RANKS.items() if c["label_source"].startswith(p))[1],
        lambda c: c["label_confidence"],
    ):
        left = [c for c in left if key(c) == max(map(key, left))]
    labels = {c["label"] for c in left}
    return labels.pop() if len(labels) == 1 else "unknown"


def test_many_objects_equal_the_slow_reading_in_any_order() -> None:
    rng = random.Random(3)
    rows = []
    for number in range(300):
        for source in rng.sample(["sim:a", "obs:a", "obs:b", "obs:castles", "weak:z"], rng.randint(1, 4)):
            rows.append(claim(f"one.{number}", source, rng.choice(schema.LABELS), rng.choice([0.2, 0.5, 0.9])))
    by_object: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_object.setdefault(row["object_id"], []).append(row)
    want = {key: slow_label(claims) for key, claims in by_object.items()}
    first = provenance.resolve(provenance.gather({"one": table(*rows)}), RULES)
    assert dict(first.labels.select("object_id", "label").iter_rows()) == want
    conflicting = {k for k, v in by_object.items() if {"lens", "nonlens"} <= {c["label"] for c in v}}
    assert set(first.conflicts["object_id"]) == conflicting
    rng.shuffle(rows)
    again = provenance.resolve(provenance.gather({"one": table(*rows)}), RULES)
    assert again.labels.equals(first.labels)
    assert again.conflicts.equals(first.conflicts)
    report = provenance.report(first)
    assert report["objects"] == 300
    assert sum(report["rule"].values()) == report["conflicts"] == len(conflicting)  # type: ignore[attr-defined]


def test_pretraining_claim_keeps_an_object_from_classification() -> None:
    got, conflict = decide(claim("one.1", "pretrain:galaxiesml", "unknown"))
    assert (got["use"], got["label"], conflict) == ("pretrain", "unknown", None)
    rows = [claim("one.1", "pretrain:g", "unknown"), claim("one.1", "weak:z", "lens", 0.3)]
    assert decide(*rows)[0]["use"] == "pretrain"
    assert decide(*rows)[0]["label_source"] == "pretrain:g"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([claim("one.1", "pretrain:g", "lens")], r"label of a pretrain: claim must be unknown.*pretrain:g.*source one"),
        (
            [claim("one.1", "pretrain:g", "unknown"), claim("one.1", "obs:a", "lens")],
            r"an object for pretraining must have no label.*one\.1.*source one",
        ),
        ([claim("one.1", "guess:a", "lens")], r"label_source must begin with one of .*guess:a of one\.1"),
        ([claim("one.1", "obs:a", "maybe")], r"label must be one of lens.*maybe of one\.1"),
        ([claim("one.1", "obs:a", "lens", 1.01)], r"label_confidence must be in \[0, 1\], got 1\.01 of one\.1"),
        ([claim("one.1", "obs:a", "lens", float("nan"))], r"label_confidence must be in \[0, 1\]"),
        ([claim("one.1", "obs:a", "lens", None)], r"label_confidence must be in \[0, 1\], got null"),  # type: ignore[arg-type]
        ([claim("one.1", "obs:a", "lens"), claim("one.1", "obs:a", "lens")], r"named once by each label_source"),
        (
            [claim("one.1", "obs:a", "lens"), claim("one.1", "sim:a", "lens", survey="des")],
            r"survey must be one for all claims",
        ),
        ([claim("one.1", "obs:a", "lens", source="two")], r"source must be one, got two of one\.1"),
        ([claim("one.1", "obs:a", "lens", parent=None)], r"must have a value.*one\.1"),
        ([claim("one.1", "obs:a", "lens", frame="icrs", ra=1.0, dec=91.0)], r"ra, dec, frame must be finite"),
        ([claim("one.1", "obs:a", "lens", frame="icrs", ra=float("nan"), dec=1.0)], r"ra, dec, frame must be finite"),
        ([claim("one.1", "obs:a", "lens", frame="icrs")], r"ra, dec, frame must be finite"),
        ([claim("one.1", "obs:a", "lens", ra=1.0, dec=1.0)], r"ra, dec, frame must be finite"),
    ],
)
def test_fault_is_named(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decide(*rows)


def test_an_object_of_two_sources_is_named_with_at_most_three_examples() -> None:
    one = table(*(claim(f"x.{n}", "obs:a", "lens") for n in range(5)))
    two = one.with_columns(pl.lit("two").alias("source"))
    with pytest.raises(ValueError, match=r"object_id must belong to one source, got x\.0; x\.1.*source one, two") as e:
        provenance.gather({"one": one, "two": two})
    assert "x.3" not in str(e.value)


def test_no_source_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one source"):
        provenance.gather({})


def mix(**sources: tuple[int, int]) -> pl.DataFrame:
    """A label table with (lenses, non-lenses) per source."""
    rows = [
        claim(f"{name}.{label}{n}", "obs:a", label, source=name)
        for name, counts in sources.items()
        for label, count in zip(("lens", "nonlens"), counts, strict=True)
        for n in range(count)
    ]
    parts = {name: table(*(row for row in rows if row["source"] == name)) for name in sources}
    return provenance.resolve(provenance.gather(parts), RULES).labels


def allow(*names: str) -> config.LabelProvenance:
    return RULES.model_copy(update={"one_sided_allowed": list(names)})


def test_one_sided_source_is_refused_by_name_unless_allowed() -> None:
    labels = mix(castles=(50, 0), good=(500, 500))
    message = r"source castles must hold both labels, got castles with 50 lens and 0 nonlens.*one_sided_allowed"
    with pytest.raises(ValueError, match=message):
        one_sided.refuse_one_sided(labels, RULES)
    one_sided.refuse_one_sided(labels, allow("castles"))


@pytest.mark.parametrize(("counts", "refused"), [((98, 2), False), ((99, 1), True), ((2, 98), False), ((1, 99), True)])
def test_one_sided_limit_is_a_share(counts: tuple[int, int], refused: bool) -> None:
    labels = mix(one=counts)
    if refused:
        with pytest.raises(ValueError, match="source one must hold both labels"):
            one_sided.refuse_one_sided(labels, RULES)
    else:
        one_sided.refuse_one_sided(labels, RULES)


def test_two_one_sided_sources_do_not_make_a_balanced_set() -> None:
    labels = mix(castles=(50, 0), rings=(0, 50))
    with pytest.raises(ValueError, match=r"labels must not follow from the source.*castles with 50 lens.*rings with 0"):
        one_sided.refuse_one_sided(labels, allow("castles", "rings"))


def test_guess_from_source_is_the_balanced_accuracy_of_the_best_guess() -> None:
    assert one_sided.guess_from_source(mix(a=(5, 5))) == 0.5
    assert one_sided.guess_from_source(mix(a=(1, 9), b=(10, 90))) == pytest.approx(0.5)  # rare, but not by source
    assert one_sided.guess_from_source(mix(a=(5, 0), b=(0, 5))) == 1.0
    assert one_sided.guess_from_source(mix(a=(6, 2), b=(2, 6))) == pytest.approx(0.75)  # guess lens in a: 6/8 and 6/8
    assert one_sided.guess_from_source(mix(a=(6, 0))) == 0.5


def test_set_without_labels_is_refused_for_classification_by_name() -> None:
    rows = table(*(claim(f"g.{n}", "pretrain:g", "unknown", source="g") for n in range(4)))
    labels = provenance.resolve(provenance.gather({"g": rows}), RULES).labels
    with pytest.raises(ValueError, match=r"must hold objects labelled lens, got none \(g with 0 lens.*4 for pretrain"):
        one_sided.refuse_one_sided(labels, RULES)
    both = pl.concat([labels, mix(one=(5, 5))])
    one_sided.refuse_one_sided(both, RULES)
    with pytest.raises(ValueError, match=r"one_sided_allowed must name sources with labels, got g with 0 lens"):
        one_sided.refuse_one_sided(both, allow("g"))
    with pytest.raises(ValueError, match=r"got castels, which is no source"):
        one_sided.refuse_one_sided(both, allow("castels"))


def test_stage_writes_claims_labels_conflicts_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [claim("one.1", "obs:a", "lens"), claim("one.2", "obs:a", "nonlens"), claim("one.2", "sim:b", "lens")]
    rows += [
        claim("one.3", "obs:a", "nonlens"),
        claim("one.4", "pretrain:g", "unknown"),
        claim("one.5", "weak:z", "lens", 0.2),
    ]
    kind = SimpleNamespace(evidence=lambda source, raw: table(*rows), sky_claims=None)
    monkeypatch.setitem(SOURCES, "planted", kind)
    outs = [tmp_path / name for name in ("evidence", "labels", "conflicts", "report")]
    label_provenance.function({"one": tmp_path}, {"one": SimpleNamespace(kind="planted")}, RULES, *outs)
    assert tables.read_parquet(outs[0], schema.EVIDENCE).height == 6
    labels = tables.read_parquet(outs[1], schema.LABEL_TABLE)
    assert labels["label"].to_list() == ["lens", "lens", "nonlens", "unknown", "unknown"]
    assert labels["use"].to_list() == ["classify", "classify", "classify", "pretrain", "report"]
    assert tables.read_parquet(outs[2], schema.CONFLICT_TABLE)["object_id"].to_list() == ["one.2"]
    report = tables.read_json(outs[3])
    assert report["label_source"]["obs:a"] == {"label": {"lens": 1, "nonlens": 1}, "use": {"classify": 2}}
    assert report["rule"] == {provenance.BY_RANK: 1}
    assert report["label_guessed_from_source"] == 0.5
    assert report["catalogues"] == {}


def test_stage_attaches_what_catalogues_of_the_sky_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [(10.0, 5.0), (20.0, 5.0), (30.0, 5.0), (40.0, 5.0)]
    rows = [
        claim(f"one.{n}", "weak:z", "nonlens", 0.6, frame="icrs", ra=ra, dec=dec) for n, (ra, dec) in enumerate(places)
    ]
    known = [("a", 10.0002, "lens", 1.0, ""), ("b", 20.0002, "unknown", 0.0, "probable"), ("c", 33.0, "lens", 1.0, "")]
    nothing = {"name": "", "label_source": "obs:known", "kind": "", "z_text": "0.4", "reference": ""}
    entries = [
        {"entry": e, "ra": ra, "dec": 5.0, "label": label, "label_confidence": sure, "grade": grade, **nothing}
        for e, ra, label, sure, grade in known
    ]
    catalogue = pl.DataFrame(entries, schema_overrides=schema.SKY_CLAIMS).select(
        *(pl.col(n) if n in entries[0] else pl.lit(None, k).alias(n) for n, k in schema.SKY_CLAIMS.items())
    )
    objects = SimpleNamespace(evidence=lambda source, raw: table(*rows), sky_claims=None)
    empty = schema.EVIDENCE
    sky = SimpleNamespace(
        evidence=lambda source, raw: pl.DataFrame(schema=empty), sky_claims=lambda source, raw: catalogue
    )
    monkeypatch.setitem(SOURCES, "planted", objects)
    monkeypatch.setitem(SOURCES, "planted sky", sky)
    outs = [tmp_path / name for name in ("evidence", "labels", "conflicts", "report")]
    sources = {"one": SimpleNamespace(kind="planted"), "known": SimpleNamespace(kind="planted sky")}
    label_provenance.function({"one": tmp_path, "known": tmp_path}, sources, RULES, *outs)
    labels = tables.read_parquet(outs[1], schema.LABEL_TABLE)
    assert labels["label"].to_list() == ["lens", "unknown", "nonlens", "nonlens"]
    assert labels["source"].unique().to_list() == ["one"]
    assert tables.read_parquet(outs[2], schema.CONFLICT_TABLE)["rule"].to_list() == [
        provenance.BY_RANK,
        provenance.BY_CANDIDATE,
    ]
    counts = tables.read_json(outs[3])["catalogues"]["known"]
    assert (counts["entries"], counts["matched"], counts["unmatched"], counts["objects"]) == (3, 2, 1, 2)
    assert counts["redshift_text"] == {"a number": 3}
