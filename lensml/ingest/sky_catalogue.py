"""A kind of source that is a catalogue of places in the sky: claims, and no objects of its own."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import polars as pl

from lensml import config, schema
from lensml.ingest import archive, bring
from lensml.ingest.kind import Read, SourceKind

_TABLES: Final = (".csv", ".parquet", ".fits", ".txt", ".cat", ".html", ".htm", ".dat", ".json")
MAX_BYTES: Final = 2**30  # of one table

Parse = Callable[[dict[str, bytes], dict[str, Any]], pl.DataFrame]  # files by name, the source's parameters


def kind(parse: Parse, licence: str) -> SourceKind:
    """A source kind from the function that makes schema.SKY_CLAIMS of the catalogue's files.

    `parse` gets every table of the source by its name within the folder or archive, and the source's parameters as a
    mapping; it raises ContractError where a table is not as documented.
    """
    return SourceKind(partial(_fetch, parse, licence), _no_evidence, _no_batches, _no_pixels, partial(_claims, parse))


def _fetch(
    parse: Parse, licence: str, params: config.FilesSource, surveys: dict[str, config.Survey], out: Path
) -> None:
    """Bring the tables, and read them once, so that a catalogue that is none fails here."""
    bring.packed(params, _is_table, licence, out, params=params.model_dump(exclude={"path", "downloads"}))
    _claims(parse, "", out)


def _claims(parse: Parse, source: str, raw: Path) -> pl.DataFrame:
    members, told = bring.members(raw), bring.facts(raw)["params"]
    large = next((member for member in members if member.size > MAX_BYTES), None)
    if large is not None:
        raise schema.ContractError(f"{large.name} must be a table of at most {MAX_BYTES} bytes, got {large.size}.")
    claims = parse({member.name: archive.read(raw, member) for member in members}, told)
    return schema.check(claims, schema.SKY_CLAIMS, f"catalogue {source or told['kind']}").sort("entry")


def _is_table(name: str) -> bool:
    return name.lower().endswith(_TABLES)


def _no_evidence(source: str, raw: Path) -> pl.DataFrame:
    return pl.DataFrame(schema=schema.EVIDENCE)


def _no_batches(source: str, raw: Path, convert: config.Convert) -> list[Any]:
    return []


def _no_pixels(source: str, raw: Path, unit: Any, surveys: dict[str, config.Survey], convert: config.Convert) -> Read:
    return Read([], [])
