"""Bring every band of a survey to one PSF, with its noise; refuse in words what cannot be."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import joblib
import typer
from tqdm import tqdm

from lensml import config, paths
from lensml.imaging import psf
from lensml.imaging.psf_report import Tally
from lensml.store import stamps as store
from lensml.store import tables
from stages import In, Out, Param, main, stage


@stage
def psf_match(
    source: str,
    stamps: Annotated[Path, In(paths.STAMPS)],
    params: Annotated[config.PsfMatch, Param("psf_match")],
    surveys: Annotated[dict[str, config.Survey], Param("surveys")],
    per_stack: Annotated[int, Param("convert.objects_per_stack")],
    matched: Annotated[Path, Out(paths.MATCHED)],
    report: Annotated[Path, Out(paths.PSF_REPORT)],
) -> None:
    """Match the PSFs of a source's stamps."""
    catalogue, tally = store.read_catalogue(stamps), Tally(params.mode)
    unknown = sorted(set(catalogue["survey"]) - set(surveys))
    if unknown:
        raise ValueError(f"{paths.PARAMS}: surveys must state {', '.join(unknown)}, got none ({stamps}). Add it.")
    with (
        store.StampWriter(matched, per_stack) as writer,
        tqdm(total=catalogue.height, unit="stamp", desc=source) as bar,
    ):
        for done in _matched(stamps, surveys, params):
            writer.append(done.stamps)
            tally.add(done)
            bar.update(done.stamps.catalogue.height + len(done.refused))
    tally.check(source, params.refused_max)
    tables.write_json(tally.report(), report)
    typer.echo(f"{source}: {tally.matched} objects matched, {len(tally.refused)} refused")


def _matched(folder: Path, surveys: dict[str, config.Survey], params: config.PsfMatch) -> Iterator[psf.Matched]:
    """Batches in the catalogue's order."""
    batches = store.iterate(folder, params.batch_objects)
    yield from joblib.Parallel(n_jobs=params.jobs, return_as="generator")(
        joblib.delayed(psf.match_measured)(batch, surveys[batch.survey], params) for batch in batches
    )


if __name__ == "__main__":
    main(psf_match)
