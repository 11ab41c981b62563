"""`lensml export`: a split as a LitData dataset, which `litdata.StreamingDataset` streams from a folder or a bucket."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import fsspec
import numpy as np
import typer
from botocore.exceptions import BotoCoreError
from fsspec.implementations.local import LocalFileSystem
from tqdm import tqdm

from lensml import paths, schema
from lensml.errors import one_line_errors
from lensml.store import shards, tables

INDEX: Final = "index.json"  # LitData's; written last: without it there is no dataset
_READ_OBJECTS: Final = 64  # at a time: bounds the memory, changes no result


def export(
    split: Annotated[str, typer.Argument(help=f"One of {', '.join(schema.SPLITS)}.")],
    out: Annotated[str, typer.Argument(help="A new folder, or an address such as s3://bucket/train.")],
    chunk_mib: Annotated[int, typer.Option(min=1, help="Size of a file of the dataset.")] = 64,
) -> None:
    """Write a split as a LitData dataset. An S3 server of your own: AWS_ENDPOINT_URL."""
    with one_line_errors():
        if split not in schema.SPLITS:
            raise ValueError(f"SPLIT must be one of {', '.join(schema.SPLITS)}, got {split}. Correct the name.")
        channels = tables.read_json(Path(paths.STATISTICS))["bands"]
        reader = shards.ShardReader(Path(paths.SHARDS.format(split=split)), tuple(channels))
        try:
            write(reader, out, chunk_mib << 20)
        except ImportError as error:
            remedy = "Install it (litdata: pip install 'lensml[cloud]')"
            raise OSError(f"an export to {out} must find its packages, got: {error}. {remedy}") from None
        except BotoCoreError as error:
            raise OSError(f"OUT must be reachable, got {out}: {error}. Correct the address or sign in") from None
        typer.echo(f"{len(reader)} objects in {out}")


def write(reader: shards.ShardReader, out: str, chunk_bytes: int) -> None:
    """Write the split as a LitData dataset, in the order of its index, chunk by chunk at constant memory and disk.

    Chunks hold the same bytes every time, LitData's index.json the time of writing: an export is no output of a stage.

    Parameters
    ----------
    reader : of the split; its bands are the channels
    out : a local folder, or an address that fsspec knows; nothing may be there
    chunk_bytes : the most that a file holds, if an object is not larger

    Raises
    ------
    FileExistsError
        There is something at `out`.
    ValueError
        The split is empty.
    OSError
        `out` cannot be written.
    """
    if not len(reader):
        raise ValueError("the split must hold objects to be exported, got none.")
    filesystem, root = _empty(out)
    from litdata.streaming.writer import BinaryWriter  # takes seconds

    with tempfile.TemporaryDirectory() as name:
        writer = BinaryWriter(name, chunk_bytes=chunk_bytes)
        for at, item in enumerate(tqdm(items(reader), "export", len(reader), unit="object", disable=None)):
            _send(writer.add_item(at, item), filesystem, root)
        for chunk in writer.done():
            _send(chunk, filesystem, root)
        writer.merge()
        _send(f"{name}/{INDEX}", filesystem, root)


def items(reader: shards.ShardReader) -> Iterator[dict[str, Any]]:
    """What a LitData dataset holds of each object: 16-bit codes that NumPy alone decodes, and the index's columns.

    Every array has the same channels, so that batches stack; what an object has no band for is 0, its variance 32767.

    Yields
    ------
    flux : int16 (channel, y, x); flux in nJy is sinh(0.001 x code) x sky_sigma
    variance : int16 likewise; in nJy^2 exp(0.001 x code) x sky_sigma^2, infinite (do not use) where 32767
    psf : int16 (channel, py, px); PSF is sinh(code / 3000) over its sum
    metadata : JSON of the index's columns, without any place in the sky or in a shard; lists follow its `bands`,
        arrays its `channels`
    """
    told = reader.index.drop(shards.PLACED)
    for begin in range(0, len(reader), _READ_OBJECTS):
        part = told[begin : begin + _READ_OBJECTS]
        rows = np.arange(begin, begin + part.height)
        codes = [reader.codes(plane, rows) for plane in shards.PLANES]
        for row, *planes in zip(part.iter_rows(named=True), *codes, strict=True):
            metadata = json.dumps(row | {"channels": reader.bands}, sort_keys=True, ensure_ascii=False)
            yield dict(zip(shards.PLANES, planes, strict=True)) | {"metadata": metadata}


def _empty(out: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of an address, and the path there."""
    filesystem, root = fsspec.core.url_to_fs(out, skip_instance_cache=True)  # nor what it remembers of earlier uses
    if filesystem.find(root):
        raise FileExistsError(f"OUT must be empty, got files in {out}. Name another, or remove them first")
    if isinstance(filesystem, LocalFileSystem):  # an object store has no folders; a bucket is not ours to make
        filesystem.makedirs(root, exist_ok=True)
    return filesystem, root


def _send(file: str | None, filesystem: fsspec.AbstractFileSystem, root: str) -> None:
    """A file that is ready goes where it belongs, and from here."""
    if file is not None:
        filesystem.put_file(file, f"{root}/{Path(file).name}")
        Path(file).unlink()
