"""What a kind of source is: four functions, the same for a simulation, a challenge and a user's folder."""

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
    """The functions of a kind of source; a work unit of `batches` is picklable and at most a batch of objects."""

    fetch: Callable[[Any, dict[str, config.Survey], Path], None]
    evidence: Callable[[str, Path], pl.DataFrame]
    batches: Callable[[str, Path, config.Convert], list[Any]]
    read: Callable[[str, Path, Any, dict[str, config.Survey], config.Convert], Read]
