"""What a kind of source is: the same few functions for a simulation, a survey, a challenge and a catalogue."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from lensml import config
from lensml.imaging.cutouts import Cutouts


@dataclass(frozen=True)
class Read:
    """What one work unit holds: cutouts in nJy, each entry of one survey and shape, and what could not be read."""

    cutouts: list[Cutouts]
    refused: list[tuple[str, str]]  # (object_id, reason in words)


@dataclass(frozen=True)
class SourceKind:
    """The functions of a kind of source; a work unit of `batches` is picklable and at most a batch of objects.

    Attributes
    ----------
    fetch : (the source's parameters, surveys, folder to write)
    evidence : (source, raw folder) to schema.EVIDENCE about its own objects
    batches, read : work units, and the pixels of one
    sky_claims : (source, raw folder) to schema.SKY_CLAIMS, of a catalogue, which has no objects of its own; else None
    """

    fetch: Callable[[Any, dict[str, config.Survey], Path], None]
    evidence: Callable[[str, Path], pl.DataFrame]
    batches: Callable[[str, Path, config.Convert], list[Any]]
    read: Callable[[str, Path, Any, dict[str, config.Survey], config.Convert], Read]
    sky_claims: Callable[[str, Path], pl.DataFrame] | None = None
