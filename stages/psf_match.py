"""Bring every band of a survey to one PSF, with its noise; refuse in words what cannot be."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from lensml import config, paths
from lensml.imaging.psf_report import Tally, match_rows
from lensml.store import stamps as store
from lensml.store import tables
from lensml.store.parallel import in_order
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
    objects, tally = store.objects(stamps), Tally(params.mode)
    unknown = sorted(set(objects) - set(surveys))
    if unknown:
        raise ValueError(f"{paths.PARAMS}: surveys must state {', '.join(unknown)}, got none ({stamps}). Add it.")
    work, units = partial(match_rows, stamps, surveys, params), store.units(stamps, params.batch_objects)
    with (
        store.StampWriter(matched, per_stack) as writer,
        tqdm(total=sum(objects.values()), unit="stamp", desc=source) as bar,
    ):
        for done in in_order(work, units, params.jobs, params.dask_scheduler):
            writer.append(done.encoded)
            tally.add(done)
            bar.update(done.encoded.catalogue.height + len(done.refused))
    tally.check(source, params.refused_max)
    tables.write_json(tally.report(), report)
    typer.echo(f"{source}: {tally.matched} objects matched, {len(tally.refused)} refused")


if __name__ == "__main__":
    main(psf_match)
