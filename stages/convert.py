"""Stage `convert`: a source's raw files to calibrated 16-bit stamps."""

from pathlib import Path
from typing import Annotated

import typer

from lensml import config, paths
from lensml.ingest.conversion import Account, convert_all
from lensml.sources import SOURCES
from lensml.store.stamps import StampWriter
from lensml.store.tables import write_json
from stages import In, Out, Param, main, stage


@stage
def convert(
    source: str,
    raw: Annotated[Path, In(paths.RAW)],
    kind: Annotated[str, Param("sources.{source}.kind")],
    params: Annotated[config.Convert, Param("convert")],
    surveys: Annotated[dict[str, config.Survey], Param("surveys")],
    stamps: Annotated[Path, Out(paths.STAMPS)],
    report: Annotated[Path, Out(paths.CONVERT_REPORT)],
) -> None:
    """Convert a source to nJy, measure its noise and PSF, and write 16-bit stacks with a catalogue."""
    account = Account()
    with StampWriter(stamps, params.objects_per_stack) as writer:
        for converted in convert_all(SOURCES[kind], source, raw, surveys, params):
            for encoded in converted.encoded:
                writer.append(encoded)
            account.add(converted)
    if SOURCES[kind].sky_claims is None:  # a catalogue of the sky has no objects to convert
        account.check(source, params.refused_max)
    write_json(account.report(), report)
    counts = account.report()
    typer.echo(f"convert {source}: {counts['converted']} objects, {len(counts['refused'])} refused")


if __name__ == "__main__":
    main(convert)
