"""A user's own folder of cutouts: a catalogue, and one multi-extension FITS per object."""

import hashlib
import os
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from tqdm import tqdm

from lensml import config, schema
from lensml.imaging.cutouts import Cutouts
from lensml.sources import archive, cutouts_catalogue, cutouts_file
from lensml.sources.cutouts_file import Cutout
from lensml.sources.kind import Read, SourceKind
from lensml.store import tables

CATALOGUE: Final = "catalogue.parquet"
MANIFEST: Final = "MANIFEST.json"

_MEMBER: Final[dict[str, Any]] = {  # where an object's bytes are, and why they are not to be had
    "archive": pl.String,
    "offset": pl.Int64,
    "size": pl.Int64,
    "reason": pl.String,  # "" when the file is there
}
INDEX: Final[dict[str, Any]] = cutouts_catalogue.COLUMNS | _MEMBER


def open_folder(folder: Path, surveys: dict[str, config.Survey]) -> pl.DataFrame:
    """The catalogue of a plain folder with where each object's bytes are: INDEX, sorted by survey and object_id.

    `split` makes work units of it and `read` reads them, in the folder as in the archives that `fetch` makes.

    Raises
    ------
    FileNotFoundError, ContractError
        See `lensml.sources.cutouts_catalogue.read`.
    """
    table = cutouts_catalogue.read(folder, surveys)
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
    folder = Path(params.path)
    index = open_folder(folder, surveys)
    usable = index.filter(pl.col("reason") == "")
    out.mkdir(parents=True, exist_ok=True)
    members = []
    for number, begin in enumerate(range(0, usable.height, params.files_per_archive)):
        names = usable["archive"][begin : begin + params.files_per_archive].to_list()
        members += archive.pack(folder, names, out / f"cutouts-{number:05d}.tar")
    packed = pl.DataFrame(
        [(m.name.removesuffix(".fits"), m.archive, m.offset, m.size) for m in members],
        schema={"object_id": pl.String, **{name: kind for name, kind in _MEMBER.items() if name != "reason"}},
        orient="row",
    )
    index = index.drop("archive", "offset", "size").join(packed, on="object_id", how="left", maintain_order="left")
    tables.write_parquet(index, INDEX, out / CATALOGUE)
    extra = len({path.name for path in folder.glob("*.fits")} - {f"{name}.fits" for name in index["object_id"]})
    tables.write_json(_manifest(out, index, extra - (folder / "catalogue.fits").is_file()), out / MANIFEST)


def evidence(source: str, raw: Path) -> pl.DataFrame:
    """The user's labels as claims, schema.EVIDENCE; an object without a label claims `unknown`."""
    index = tables.read_parquet(raw / CATALOGUE, INDEX)
    known = pl.col("label").is_not_null() & (pl.col("label") != "unknown")
    claims = index.with_columns(
        pl.col("object_id").map_elements(lambda name: object_id(source, name), return_dtype=pl.String),
        pl.lit(source).alias("source"),
        pl.col("label").fill_null("unknown"),
        pl.col("label_source").fill_null(f"obs:{source}"),
        pl.col("label_confidence").fill_null(pl.when(known).then(1.0).otherwise(0.0)),
        pl.when(pl.col("ra").is_null() | pl.col("dec").is_null())
        .then(pl.lit(""))
        .otherwise(pl.col("frame").fill_null("icrs"))
        .alias("frame"),
        *(pl.col(name).fill_null("") for name in ("grade", "parent", "kind")),
    )
    return schema.check(claims, schema.EVIDENCE, f"evidence of {source}")


def batches(source: str, raw: Path, convert: config.Convert) -> list[pl.DataFrame]:
    """Work units of a fetched folder."""
    return split(tables.read_parquet(raw / CATALOGUE, INDEX), convert.objects_per_batch)


def read(
    source: str, raw: Path, unit: pl.DataFrame, surveys: dict[str, config.Survey], convert: config.Convert
) -> Read:
    """Read a work unit from its archives, or from a plain folder; an object that cannot be read is refused in words."""
    opened: list[tuple[str, Cutout]] = []
    refused: list[tuple[str, str]] = []
    for row in unit.iter_rows(named=True):
        try:
            opened.append((row["object_id"], _open(raw, row, surveys[row["survey"]], convert)))
        except (ValueError, OSError) as error:
            refused.append((object_id(source, row["object_id"]), " ".join(str(error).split())))
    opened.sort(key=lambda item: repr(item[1].form))  # stable: the catalogue's order within a form
    groups = [list(group) for _, group in groupby(opened, key=lambda item: repr(item[1].form))]
    return Read([_batch(source, unit, group) for group in groups], refused)


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
    return cutouts_file.parse(archive.read(raw, member), survey, convert.max_pixels)


def _batch(source: str, unit: pl.DataFrame, group: list[tuple[str, Cutout]]) -> Cutouts:
    names, objects = [name for name, _ in group], [cutout for _, cutout in group]
    first = objects[0]
    metadata = unit.select("object_id", *cutouts_catalogue.METADATA).filter(pl.col("object_id").is_in(names))
    renamed = metadata["object_id"].to_list()
    return Cutouts(
        object_id=[object_id(source, name) for name in names],
        source=source,
        survey=unit["survey"][0],
        bands=first.bands,
        flux=np.stack([o.flux for o in objects]),
        variance=None if first.variance is None else np.stack([o.variance for o in objects if o.variance is not None]),
        bad=np.stack([o.bad for o in objects]),
        psf=None if first.psf is None else np.stack([o.psf for o in objects if o.psf is not None]),
        pixel_scale=np.array([o.pixel_scale for o in objects]),
        metadata=metadata.with_columns(pl.Series("object_id", [object_id(source, name) for name in renamed])),
    )


def _manifest(out: Path, index: pl.DataFrame, extra: int) -> dict[str, Any]:
    files = sorted(path for path in out.iterdir() if path.is_file())
    return {
        "kind": "cutouts",
        "licence": "the folder's owner's",
        "objects": index.height,
        "objects_without_file": index.filter(pl.col("reason") != "").height,
        "files_without_row": extra,
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
            for path in tqdm(files, "checksums", unit=" files", disable=None)
        },
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
