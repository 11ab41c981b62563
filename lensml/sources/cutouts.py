"""A user's own folder of cutouts: a catalogue, and one multi-extension FITS per object."""

import os
from pathlib import Path
from typing import Any, Final

import polars as pl
from tqdm import tqdm

from lensml import config
from lensml.ingest import archive, bring, object_table
from lensml.ingest.batches import batched
from lensml.ingest.kind import Read, SourceKind
from lensml.ingest.planes import Cutout
from lensml.sources import cutouts_file
from lensml.store import tables

CATALOGUE: Final = "catalogue.parquet"
MANIFEST: Final = "MANIFEST.json"

_MEMBER: Final[dict[str, Any]] = {  # where an object's bytes are, and why they are not to be had
    "archive": pl.String,
    "offset": pl.Int64,
    "size": pl.Int64,
    "reason": pl.String,  # "" when the file is there
}
INDEX: Final[dict[str, Any]] = object_table.COLUMNS | _MEMBER


def open_folder(folder: Path, surveys: dict[str, config.Survey]) -> pl.DataFrame:
    """The catalogue of a plain folder with where each object's bytes are: INDEX, sorted by survey and object_id.

    `split` makes work units of it and `read` reads them, in the folder as in the archives that `fetch` makes.

    Raises
    ------
    FileNotFoundError, ContractError
        See `lensml.ingest.object_table.read`.
    """
    table = object_table.read(folder, surveys)
    root = folder.resolve()
    members = [_member(root, name) for name in table["object_id"]]
    return table.hstack(pl.DataFrame(members, schema=_MEMBER, orient="row"))


def split(index: pl.DataFrame, objects: int) -> list[pl.DataFrame]:
    """Work units of at most `objects` rows of one survey each, in the index's order."""
    parts = index.partition_by("survey", maintain_order=True)
    return [part[begin : begin + objects] for part in parts for begin in range(0, part.height, objects)]


def fetch(params: config.CutoutsSource, surveys: dict[str, config.Survey], out: Path) -> None:
    """Pack a folder into archives, the index and MANIFEST.json.

    Raises
    ------
    FileNotFoundError, ContractError
        The folder breaks the contract as a whole. An object without a usable file stays in the index with the reason.
    """
    pack(Path(params.path), open_folder(Path(params.path), surveys), params.files_per_archive, "cutouts", out)


def pack(folder: Path, index: pl.DataFrame, files_per_archive: int, kind: str, out: Path) -> None:
    """Pack the files of an index (INDEX, from `open_folder`) into archives beside it and the manifest."""
    usable = index.filter(pl.col("reason") == "")
    out.mkdir(parents=True, exist_ok=True)
    members = []
    for number, begin in enumerate(range(0, usable.height, files_per_archive)):
        names = usable["archive"][begin : begin + files_per_archive].to_list()
        members += archive.pack(folder, names, out / f"cutouts-{number:05d}.tar")
    packed = pl.DataFrame(
        [(m.name.removesuffix(".fits"), m.archive, m.offset, m.size) for m in members],
        schema={"object_id": pl.String, **{name: kind for name, kind in _MEMBER.items() if name != "reason"}},
        orient="row",
    )
    index = index.drop("archive", "offset", "size").join(packed, on="object_id", how="left", maintain_order="left")
    tables.write_parquet(index, INDEX, out / CATALOGUE)
    extra = len({path.name for path in folder.glob("*.fits")} - {f"{name}.fits" for name in index["object_id"]})
    extra -= (folder / "catalogue.fits").is_file()
    tables.write_json({"kind": kind, **_manifest(out, index, extra)}, out / MANIFEST)


def evidence(source: str, raw: Path) -> pl.DataFrame:
    """The user's labels as claims, schema.EVIDENCE; an object without a label claims `unknown`."""
    return object_table.claims(source, tables.read_parquet(raw / CATALOGUE, INDEX))


def batches(source: str, raw: Path, convert: config.Convert) -> list[pl.DataFrame]:
    """Work units of a fetched folder."""
    return split(tables.read_parquet(raw / CATALOGUE, INDEX), convert.objects_per_batch)


def read(
    source: str, raw: Path, unit: pl.DataFrame, surveys: dict[str, config.Survey], convert: config.Convert
) -> Read:
    """Read a work unit from its archives, or from a plain folder; an object that cannot be read is refused in words."""
    opened: dict[str, Cutout] = {}
    refused: list[tuple[str, str]] = []
    for row in unit.iter_rows(named=True):
        name = object_id(source, row["object_id"])
        try:
            opened[name] = _open(raw, row, surveys[row["survey"]], convert)
        except (ValueError, OSError) as error:
            refused.append((name, " ".join(str(error).split())))
    metadata = unit.select(
        pl.Series("object_id", [object_id(source, n) for n in unit["object_id"]]), *object_table.METADATA
    )
    return Read(batched(source, unit["survey"][0] if unit.height else "", opened, metadata), refused)


def object_id(source: str, name: str) -> str:
    """The project's name of a user's object; the user's own where there is no source."""
    return f"{source}.{name}" if source else name


KIND: Final = SourceKind(fetch, evidence, batches, read)


def _member(root: Path, name: str) -> tuple[str, int, int, str]:
    file = f"{name}.fits"
    path = root / file
    if not Path(os.path.realpath(path)).is_relative_to(root):
        return file, 0, 0, f"{file} must not lead out of its folder, got a link to elsewhere"
    if not path.exists():
        return file, 0, 0, f"{file} must be in the folder, got no such file"
    if not path.is_file():
        return file, 0, 0, f"{file} must be a regular file, got something else"
    return file, 0, path.stat().st_size, ""


def _open(raw: Path, row: dict[str, Any], survey: config.Survey, convert: config.Convert) -> Cutout:
    if row["reason"]:
        raise ValueError(row["reason"])
    if row["size"] > convert.max_file_mib * 2**20:
        raise ValueError(
            f"file must be at most {convert.max_file_mib} MiB (convert.max_file_mib), got {row['size'] / 2**20:.0f}"
        )
    member = archive.Member(row["archive"], f"{row['object_id']}.fits", row["offset"], row["size"])
    return cutouts_file.parse(archive.read(raw, member), survey, convert)


def _manifest(out: Path, index: pl.DataFrame, extra: int) -> dict[str, Any]:
    files = sorted(path for path in out.iterdir() if path.is_file())
    return {
        "licence": "the folder's owner's",
        "objects": index.height,
        "objects_without_file": index.filter(pl.col("reason") != "").height,
        "files_without_row": extra,
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": bring.sha256(path)}
            for path in tqdm(files, "checksums", unit=" files", disable=None)
        },
    }
