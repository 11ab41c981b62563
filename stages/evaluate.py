"""Stage `evaluate`: the trained ensemble on the test split, the only stage that reads it."""

from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from lensml import config, paths, schema
from lensml.evaluation import exhibits, scoring, strata, summary
from lensml.evaluation import fusion as fusing
from lensml.store import tables
from stages import In, Out, Param, main, stage


@stage
def evaluate(
    test: Annotated[Path, In(paths.SHARDS.format(split="test"))],
    train_index: Annotated[Path, In(paths.SHARDS.format(split="train") + "/index.parquet")],
    models: Annotated[dict[str, Path], In(paths.MODEL + "/model.ckpt", each="arch")],
    fusion: Annotated[Path, In(paths.FUSION)],
    params: Annotated[config.Evaluate, Param("evaluate")],
    redshift_bins: Annotated[int, Param("split.redshift_bins")],
    threads: Annotated[int, Param("train.fit.threads")],
    evaluation: Annotated[Path, Out(paths.EVALUATION)],
    details: Annotated[Path, Out(paths.STRATA)],
    plots: Annotated[Path, Out(paths.PLOTS)],
    scores: Annotated[Path, Out(paths.TEST_SCORES)],
) -> None:
    """Measure the fusion, its members and a catalogue baseline on the test split."""
    members = sorted(models)
    train = tables.read_parquet(train_index, schema.SHARD_INDEX)
    table = scoring.table(test, train, models, fusing.read(fusion), threads)
    report = strata.report(table, members, strata.Rules(params, redshift_bins))
    tables.write_json(summary.headline(report), evaluation)
    tables.write_json(report, details)
    pictures = exhibits.write(table, test, members, params, plots)
    named = {name: f"logit_{name}" for name in members}
    contract = {**schema.TEST_SCORES, **dict.fromkeys(named.values(), pl.Float64)}
    tables.write_parquet(table.rename(named), contract, scores)
    typer.echo(summary.text(report, params))
    typer.echo(f"Figures: {paths.EVALUATION}  Pictures: {', '.join(f'{paths.PLOTS}/{name}' for name in pictures)}")


if __name__ == "__main__":
    main(evaluate)
