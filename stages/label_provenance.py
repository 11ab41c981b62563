"""Decide every object's label and use from the claims of all sources."""

from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from lensml import config, paths, schema
from lensml.catalog import crossmatch, one_sided, provenance, sky_catalogues
from lensml.sources import SOURCES
from lensml.store import tables
from stages import In, Out, Param, main, stage


@stage
def label_provenance(
    raw: Annotated[dict[str, Path], In(paths.RAW, each="source")],
    sources: Annotated[dict[str, config.Source], Param("sources")],
    rules: Annotated[config.LabelProvenance, Param("label_provenance")],
    evidence: Annotated[Path, Out(paths.EVIDENCE)],
    labels: Annotated[Path, Out(paths.LABELS)],
    conflicts: Annotated[Path, Out(paths.CONFLICTS)],
    report: Annotated[Path, Out(paths.LABEL_REPORT)],
) -> None:
    """Decide every object's label and use from the claims of all sources and of the catalogues of the sky."""
    kinds = {name: SOURCES[sources[name].kind] for name in sorted(raw)}
    claims = provenance.gather({name: kind.evidence(name, raw[name]) for name, kind in kinds.items()})
    reviews = {
        name: sky_catalogues.review(name, kind.sky_claims(name, raw[name]), rules)
        for name, kind in kinds.items()
        if kind.sky_claims is not None
    }
    attached, matches = crossmatch.attach(claims, {name: r.claims for name, r in reviews.items()}, rules.match_arcsec)
    claims = provenance.gather(_by_source(pl.concat([claims, attached])))
    decision = provenance.resolve(claims, rules)
    one_sided.refuse_one_sided(decision.labels, rules)
    disagreements = pl.concat([decision.conflicts, *(found.findings for found in reviews.values())])
    tables.write_parquet(claims, schema.EVIDENCE, evidence)
    tables.write_parquet(decision.labels, schema.LABEL_TABLE, labels)
    tables.write_parquet(disagreements.sort("object_id", "rule"), schema.CONFLICT_TABLE, conflicts)
    counts = {name: {**found.counts, **matches[name]} for name, found in reviews.items()}
    guess = one_sided.guess_from_source(decision.labels)
    told = {**provenance.report(decision), "catalogues": counts, "label_guessed_from_source": guess}
    tables.write_json(told, report)
    typer.echo(f"{decision.labels.height} objects labelled, {decision.conflicts.height} with conflicting claims")


def _by_source(claims: pl.DataFrame) -> dict[str, pl.DataFrame]:
    return {str(source): part for (source,), part in claims.partition_by("source", as_dict=True).items()}


if __name__ == "__main__":
    main(label_provenance)
