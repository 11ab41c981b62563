"""Decide every object's label and use from the claims of all sources."""

from pathlib import Path
from typing import Annotated

import typer

from lensml import config, paths, schema
from lensml.catalog import one_sided, provenance
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
    """Decide every object's label and use from the claims of all sources."""
    claims = provenance.gather({name: SOURCES[sources[name].kind].evidence(name, raw[name]) for name in sorted(raw)})
    decision = provenance.resolve(claims, rules)
    one_sided.refuse_one_sided(decision.labels, rules)
    tables.write_parquet(claims, schema.EVIDENCE, evidence)
    tables.write_parquet(decision.labels, schema.LABEL_TABLE, labels)
    tables.write_parquet(decision.conflicts, schema.CONFLICT_TABLE, conflicts)
    guess = one_sided.guess_from_source(decision.labels)
    tables.write_json({**provenance.report(decision), "label_guessed_from_source": guess}, report)
    typer.echo(f"{decision.labels.height} objects labelled, {decision.conflicts.height} with conflicting claims")


if __name__ == "__main__":
    main(label_provenance)
