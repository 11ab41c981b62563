"""Stage `fuse`: one calibrated probability from the members' scores, fitted on validation only."""

from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer

from lensml import config, paths, schema
from lensml.evaluation import calibration, metrics, strata
from lensml.evaluation import fusion as fusing
from lensml.store import tables
from stages import In, Out, Param, main, stage


@stage
def fuse(
    scores: Annotated[dict[str, Path], In(paths.MODEL + "/val_scores.parquet", each="arch")],
    params: Annotated[config.Fuse, Param("fuse")],
    fusion: Annotated[Path, Out(paths.FUSION)],
    report: Annotated[Path, Out(paths.FUSE_REPORT)],
) -> None:
    """Fit the calibrated combination of the members' logits."""
    members = sorted(scores)
    table = fusing.gather({name: tables.read_parquet(scores[name], schema.SCORES) for name in members})
    labels = fusing.labels(table)
    logits = {name: table[name].to_numpy() for name in members}
    fitted = fusing.fit(labels, logits, params.ridge)
    fusing.write(fitted, fusion)
    probability, logit = fusing.apply(fitted, logits)
    tables.write_json(_report(fitted, table, pl.Series(logit), pl.Series(probability)), report)
    weights = ", ".join(f"{name} {weight:.3f}" for name, weight in zip(members, fitted.weights, strict=True))
    typer.echo(f"fuse: weights {weights} ({table.height} validation objects)")


def _report(fitted: fusing.Fusion, table: pl.DataFrame, logit: pl.Series, probability: pl.Series) -> dict[str, Any]:
    """Figures on the validation objects that the fusion was fitted on: how it was made, not how good it is."""
    labels = fusing.labels(table)
    columns = {"fusion": logit, **{name: table[name] for name in fitted.members}}
    found = {name: metrics.compute_bologna_metrics(labels, column) for name, column in columns.items()}
    weights = dict(zip(fitted.members, fitted.weights, strict=True))
    temperatures = {name: calibration.temperature(labels, table[name]) for name in fitted.members}
    brier = float(calibration.brier(labels, probability)[0])
    return strata.rounded({"validation": found, "weights": weights, "brier": brier, "temperatures": temperatures})


if __name__ == "__main__":
    main(fuse)
