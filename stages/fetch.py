"""Stage `fetch`: bring a source's raw files here."""

from pathlib import Path
from typing import Annotated

from lensml import config, paths
from lensml.sources import SOURCES
from stages import Out, Param, main, stage


@stage
def fetch(
    source: str,
    params: Annotated[config.Source, Param("sources.{source}")],
    surveys: Annotated[dict[str, config.Survey], Param("surveys")],
    raw: Annotated[Path, Out(paths.RAW)],
) -> None:
    """Simulate, download or pack a source's raw files, with a MANIFEST.json."""
    SOURCES[params.kind].fetch(params, surveys, raw)


if __name__ == "__main__":
    main(fetch)
