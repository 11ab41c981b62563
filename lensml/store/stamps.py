"""Stamps on disk: a catalogue and stacks of 16-bit TIFFs, thousands of objects to a file; written and read in parts."""

import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final

import numpy as np
import polars as pl

from lensml import schema
from lensml.store import planes, quantisation, tables
from lensml.store.planes import Plane
from lensml.store.stamp_batch import PLANES, Encoded, Stamps, coded, encode, lists

__all__ = [
    "CATALOGUE",
    "PLANES",
    "Encoded",
    "StampWriter",
    "Stamps",
    "coded",
    "encode",
    "iterate",
    "objects",
    "read",
    "read_catalogue",
    "units",
]

CATALOGUE: Final = "catalogue.parquet"
_SPOOL: Final = ".spool"
_GROUP_ROWS: Final = 8192  # of the catalogue that are read or written at once


@dataclass
class _Stack:
    name: str
    files: dict[str, IO[bytes]]
    shapes: dict[str, tuple[int, ...]]  # of one object
    rows: int = 0
    parts: int = 0  # of the catalogue


class StampWriter:
    """Write stamps at constant memory: codes and rows of the catalogue go to a spool, and from there to their files.

    A context manager; when its block ends well, `folder` holds the catalogue and the stacks. When it does not, the
    spool is removed and there is no catalogue.
    """

    def __init__(self, folder: Path, objects_per_stack: int) -> None:
        if objects_per_stack < 1:
            raise ValueError(f"objects_per_stack must be at least 1, got {objects_per_stack}.")
        self._folder, self._spool, self._limit = folder, folder / _SPOOL, objects_per_stack
        self._open: dict[tuple[object, ...], _Stack] = {}
        self._names = 0

    def __enter__(self) -> "StampWriter":
        if (self._folder / CATALOGUE).exists():
            raise FileExistsError(f"{self._folder} must be empty, got a catalogue. Remove it first")
        self._spool.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                for stack in list(self._open.values()):
                    self._finish(stack)
                self._write_catalogue()
        finally:
            for stack in self._open.values():
                for file in stack.files.values():
                    file.close()
            shutil.rmtree(self._spool, ignore_errors=True)

    def append(self, stamps: Stamps | Encoded) -> None:
        """Add a batch.

        Raises
        ------
        ValueError
            A flux, variance or PSF has no 16-bit code.
        ContractError
            The catalogue breaks its contract.
        """
        if not stamps.catalogue.height:
            return
        encoded = stamps if isinstance(stamps, Encoded) else encode(stamps)
        begin = 0
        while begin < encoded.catalogue.height:
            begin += self._fill(encoded, begin)

    def _fill(self, encoded: Encoded, begin: int) -> int:
        """Put as many objects from `begin` on as the stack still takes; returns how many."""
        stack = self._stack(encoded)
        count = min(self._limit - stack.rows, encoded.catalogue.height - begin)
        for name, file in stack.files.items():
            file.write(np.ascontiguousarray(encoded.codes[name][begin : begin + count]).data)
        rows = pl.Series("row", range(stack.rows, stack.rows + count), dtype=pl.Int64)
        part = encoded.catalogue[begin : begin + count].with_columns(pl.lit(stack.name).alias("stack"), rows)
        path = self._spool / f"{stack.name}.{stack.parts:07d}.parquet"
        _write_part(schema.check(part, schema.CATALOGUE, f"catalogue of {self._folder}"), path)
        stack.rows, stack.parts = stack.rows + count, stack.parts + 1
        if stack.rows == self._limit:
            self._finish(stack)
        return count

    def _stack(self, encoded: Encoded) -> _Stack:
        if encoded.form not in self._open:
            name = f"{encoded.form[0]}-{self._names:05d}"
            self._names += 1
            files: dict[str, IO[bytes]] = {p: (self._spool / f"{name}.{p}").open("w+b") for p in PLANES}
            self._open[encoded.form] = _Stack(name, files, {p: encoded.codes[p].shape[1:] for p in PLANES})
        return self._open[encoded.form]

    def _finish(self, stack: _Stack) -> None:
        """Turn a stack's spool into its TIFFs."""
        (self._folder / stack.name).mkdir()
        for plane, file in stack.files.items():
            shape = (stack.rows, *stack.shapes[plane])
            planes.write_spooled(self._folder / stack.name / f"{plane}.tif", file, shape)
            file.close()
            Path(file.name).unlink()
        self._open = {key: value for key, value in self._open.items() if value is not stack}

    def _write_catalogue(self) -> None:
        """All parts, by stack, as one table."""
        parts = sorted(self._spool.glob("*.parquet"))
        if not parts:
            tables.write_parquet(pl.DataFrame(schema=schema.CATALOGUE), schema.CATALOGUE, self._folder / CATALOGUE)
            return
        table = pl.scan_parquet(parts)
        twice = table.select("object_id").filter(pl.col("object_id").is_duplicated()).collect()
        if twice.height:
            raise schema.ContractError(
                f"object_id must be unique, got {twice['object_id'][0]} twice ({self._folder}). Rename one."
            )
        whole = self._spool / CATALOGUE
        try:
            table.sink_parquet(whole, compression="zstd", statistics=False, row_group_size=_GROUP_ROWS)
        except pl.exceptions.PolarsError as error:  # a full disk, above all
            raise OSError(f"{self._folder / CATALOGUE} must be written, got: {error}") from None
        os.replace(whole, self._folder / CATALOGUE)


def _write_part(rows: pl.DataFrame, path: Path) -> None:
    content = io.BytesIO()  # polars tells a full disk as an error of its own; Python's write as an OSError
    rows.write_parquet(content, compression="lz4", statistics=False)
    path.write_bytes(content.getbuffer())


def read_catalogue(folder: Path) -> pl.DataFrame:
    """The catalogue of a folder of stamps, schema v2, in the order of its stacks.

    Raises
    ------
    FileNotFoundError, ContractError
        See `lensml.store.tables.read_parquet`.
    """
    return tables.read_parquet(folder / CATALOGUE, schema.CATALOGUE)


def objects(folder: Path) -> dict[str, int]:
    """How many objects of each survey a folder of stamps holds.

    Raises
    ------
    FileNotFoundError, ContractError
        The catalogue is missing or broken.
    """
    counted = _catalogue(folder).group_by("survey").len().sort("survey").collect()
    return dict(counted.rows())


def units(folder: Path, batch: int) -> Iterator[pl.DataFrame]:
    """The catalogue in its order, `batch` or fewer rows of one stack at a time, at constant memory.

    Raises
    ------
    FileNotFoundError, ContractError
        The catalogue is missing or broken.
    """
    for begin in range(0, sum(objects(folder).values()), _GROUP_ROWS):
        rows = _catalogue(folder).slice(begin, _GROUP_ROWS).collect()
        for part in rows.partition_by("stack", maintain_order=True):
            yield from (part[first : first + batch] for first in range(0, part.height, batch))


def iterate(folder: Path, batch: int) -> Iterator[Stamps]:
    """All stamps, decoded, in the order of the catalogue, `batch` or fewer at a time; no batch straddles a stack.

    Raises
    ------
    FileNotFoundError, ContractError
        The catalogue or a stack is missing or broken.
    """
    return read(folder, read_catalogue(folder), batch)


def read(folder: Path, rows: pl.DataFrame, batch: int = 256) -> Iterator[Stamps]:
    """The stamps of chosen rows of the catalogue, in the rows' order, stack by stack as their stacks first appear.

    Raises
    ------
    FileNotFoundError, ContractError
        A stack is missing or broken.
    """
    for part in rows.partition_by("stack", maintain_order=True):
        stack = {plane: planes.opened(folder / part["stack"][0] / f"{plane}.tif") for plane in PLANES}
        _check_stack(folder, part, stack)
        for begin in range(0, part.height, batch):
            yield _decode(part[begin : begin + batch], stack)


def _check_stack(folder: Path, part: pl.DataFrame, stack: dict[str, Plane]) -> None:
    where = folder / part["stack"][0]
    bands = part["bands"].list.len().unique().to_list()
    lengths = {plane.shape[0] for plane in stack.values()}
    last = int(part["row"].max())  # type: ignore[arg-type]
    if len(lengths) > 1 or bands != [stack["flux"].shape[1]] or last >= min(lengths):
        raise schema.ContractError(
            f"{where} must agree with its catalogue, got stacks of {sorted(lengths)} objects for row {last} "
            f"and {stack['flux'].shape[1]} bands for {bands}. Run the stage that writes it."
        )


def _decode(rows: pl.DataFrame, stack: dict[str, Plane]) -> Stamps:
    chosen = rows["row"].to_numpy()
    sky_sigma = lists(rows["sky_sigma"], stack["flux"].shape[1])
    return Stamps(
        rows,
        quantisation.decode_flux(stack["flux"][chosen], sky_sigma),
        quantisation.decode_variance(stack["variance"][chosen], sky_sigma),
        quantisation.decode_psf(stack["psf"][chosen]),
    )


def _catalogue(folder: Path) -> pl.LazyFrame:
    """The catalogue, not yet read, its columns held against the contract."""
    path = folder / CATALOGUE
    if not path.is_file():
        raise FileNotFoundError(f"{path} must exist, got none. Run the stage that writes it")
    try:
        table = pl.scan_parquet(path)
        schema.check(pl.DataFrame(schema=table.collect_schema()), schema.CATALOGUE, str(path))
    except pl.exceptions.PolarsError as error:
        raise schema.ContractError(
            f"{path} must be Parquet, got {str(error).splitlines()[0]}. Write it again."
        ) from None
    return table.select(list(schema.CATALOGUE))
