"""Stamps on disk: a catalogue and stacks of 16-bit TIFFs, thousands of objects to a file, read through a memory map."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Final

import numpy as np
import polars as pl
import tifffile
from numpy.typing import NDArray

from lensml import schema
from lensml.store import quantisation, tables

CATALOGUE: Final = "catalogue.parquet"
PLANES: Final = ("flux", "variance", "psf")
_SPOOL: Final = ".spool"

Float = NDArray[np.float32]
Codes = NDArray[np.int16]


@dataclass(frozen=True)
class Stamps:
    """A batch of one survey's objects with the same bands and the same shape.

    Attributes
    ----------
    catalogue : schema.CATALOGUE; stack and row may be absent
    flux : (object, band, y, x), nJy; 0 where bad
    variance : (object, band, y, x), nJy^2; infinite where bad
    psf : (object, band, py, px), unit sum, odd square, centre at py // 2; zeros where there is none
    """

    catalogue: pl.DataFrame
    flux: Float
    variance: Float
    psf: Float

    def __post_init__(self) -> None:
        shape = (self.catalogue.height, len(self.bands))
        for name in PLANES:
            array = getattr(self, name)
            if array.ndim != 4 or array.shape[:2] != shape:
                raise ValueError(f"{name} must be (object, band, y, x) with {shape} first, got {array.shape}.")
        if self.flux.shape != self.variance.shape:
            raise ValueError(f"variance must have the flux's shape {self.flux.shape}, got {self.variance.shape}.")
        if self.catalogue.select(pl.struct("survey", "bands").n_unique()).item() > 1:
            raise ValueError("a batch of stamps must be of one survey and one set of bands, got several. Split it.")

    @property
    def survey(self) -> str:
        return str(self.catalogue["survey"][0])

    @property
    def bands(self) -> tuple[str, ...]:
        return tuple(self.catalogue["bands"][0]) if self.catalogue.height else ()

    @property
    def pixel_scale(self) -> NDArray[np.float64]:
        """(object,), arcsec per pixel."""
        return self.catalogue["pixel_scale"].to_numpy()

    @property
    def sky_sigma(self) -> NDArray[np.float64]:
        """(object, band), nJy per pixel."""
        return _lists(self.catalogue["sky_sigma"], len(self.bands))


@dataclass(frozen=True)
class Encoded:
    """Stamps as 16-bit codes, a quarter of the bytes: what a worker hands to the one process that writes."""

    catalogue: pl.DataFrame
    codes: dict[str, Codes]  # per plane, (object, band, y, x)

    @property
    def form(self) -> tuple[object, ...]:
        """What objects of one stack share."""
        first = self.catalogue.row(0, named=True)
        return first["survey"], tuple(first["bands"]), *(self.codes[plane].shape[1:] for plane in PLANES)


def encode(stamps: Stamps) -> Encoded:
    """The 16-bit codes of a batch.

    Raises
    ------
    ValueError
        A flux, variance or PSF has no 16-bit code.
    """
    codes = {
        "flux": quantisation.encode_flux(stamps.flux, stamps.sky_sigma),
        "variance": quantisation.encode_variance(stamps.variance, stamps.sky_sigma),
        "psf": quantisation.encode_psf(stamps.psf),
    }
    return Encoded(stamps.catalogue, codes)


@dataclass
class _Stack:
    name: str
    files: dict[str, IO[bytes]]
    shapes: dict[str, tuple[int, ...]]  # of one object
    rows: int = 0
    catalogue: list[pl.DataFrame] = field(default_factory=list)


class StampWriter:
    """Write stamps at constant memory: codes go to a spool, and a full stack from there into its TIFFs.

    A context manager; when its block ends well, `folder` holds the catalogue and the stacks. When it does not, the
    spool is removed and there is no catalogue.
    """

    def __init__(self, folder: Path, objects_per_stack: int) -> None:
        if objects_per_stack < 1:
            raise ValueError(f"objects_per_stack must be at least 1, got {objects_per_stack}.")
        self._folder, self._limit = folder, objects_per_stack
        self._open: dict[tuple[object, ...], _Stack] = {}
        self._done: list[_Stack] = []
        self._names = 0

    def __enter__(self) -> "StampWriter":
        if (self._folder / CATALOGUE).exists():
            raise FileExistsError(f"{self._folder} must be empty, got a catalogue. Remove it first")
        (self._folder / _SPOOL).mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                for stack in list(self._open.values()):
                    self._finish(stack)
                self._write_catalogue()
        finally:
            for stack in [*self._open.values(), *self._done]:
                for file in stack.files.values():
                    file.close()
            shutil.rmtree(self._folder / _SPOOL, ignore_errors=True)

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
            file.write(encoded.codes[name][begin : begin + count].tobytes())
        rows = pl.Series("row", range(stack.rows, stack.rows + count), dtype=pl.Int64)
        part = encoded.catalogue[begin : begin + count].with_columns(pl.lit(stack.name).alias("stack"), rows)
        stack.catalogue.append(schema.check(part, schema.CATALOGUE, f"catalogue of {self._folder}"))
        stack.rows += count
        if stack.rows == self._limit:
            self._finish(stack)
        return count

    def _stack(self, encoded: Encoded) -> _Stack:
        if encoded.form not in self._open:
            name = f"{encoded.form[0]}-{self._names:05d}"
            self._names += 1
            spool = self._folder / _SPOOL
            files: dict[str, IO[bytes]] = {plane: (spool / f"{name}.{plane}").open("w+b") for plane in PLANES}
            self._open[encoded.form] = _Stack(name, files, {p: encoded.codes[p].shape[1:] for p in PLANES})
        return self._open[encoded.form]

    def _finish(self, stack: _Stack) -> None:
        """Turn a stack's spool into its TIFFs."""
        (self._folder / stack.name).mkdir()
        for plane, file in stack.files.items():
            file.flush()
            codes = np.memmap(Path(file.name), dtype=np.int16, mode="r", shape=(stack.rows, *stack.shapes[plane]))
            write_plane(self._folder / stack.name / f"{plane}.tif", codes)
            del codes
            file.close()
            Path(file.name).unlink()
        self._open = {key: value for key, value in self._open.items() if value is not stack}
        self._done.append(stack)

    def _write_catalogue(self) -> None:
        parts = [part for stack in sorted(self._done, key=lambda s: s.name) for part in stack.catalogue]
        table = pl.concat(parts) if parts else pl.DataFrame(schema=schema.CATALOGUE)
        twice = table.filter(pl.col("object_id").is_duplicated())
        if twice.height:
            raise schema.ContractError(
                f"object_id must be unique, got {twice['object_id'][0]} twice ({self._folder}). Rename one."
            )
        tables.write_parquet(table, schema.CATALOGUE, self._folder / CATALOGUE)


def coded(stamps: Stamps) -> Stamps:
    """The batch as it would be read back from disk: through the 16-bit codes, without the disk."""
    flux = quantisation.encode_flux(stamps.flux, stamps.sky_sigma)
    variance = quantisation.encode_variance(stamps.variance, stamps.sky_sigma)
    return Stamps(
        stamps.catalogue,
        quantisation.decode_flux(flux, stamps.sky_sigma),
        quantisation.decode_variance(variance, stamps.sky_sigma),
        quantisation.decode_psf(quantisation.encode_psf(stamps.psf)),
    )


def write_plane(path: Path, codes: Codes) -> None:
    """Write int16 codes (object, band, y, x) as one contiguous, uncompressed TIFF image series."""
    # truncate: one directory for the whole series; a directory per plane would be 40,000 in a full stack
    tifffile.imwrite(path, codes, photometric="minisblack", metadata={"axes": "TCYX"}, truncate=True)


def open_plane(path: Path) -> Codes:
    """Codes (object, band, y, x) through a memory map.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ContractError
        It is no TIFF of ours, or truncated.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} must exist, got none. Run the stage that writes it")
    try:
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            shape, kind, offset = series.get_shape(squeeze=False), series.dtype, series.dataoffset
    except (tifffile.TiffFileError, IndexError, ValueError, KeyError) as error:
        raise schema.ContractError(f"{path} must be a TIFF, got: {error}. Write it again.") from None
    if kind != np.int16 or len(shape) != 4 or offset is None:
        raise schema.ContractError(f"{path} must be a stack of int16 stamps, got {kind} {shape}. Write it again.")
    if path.stat().st_size < offset + 2 * int(np.prod(shape)):
        raise schema.ContractError(f"{path} must hold {shape} stamps, got a truncated file. Write it again.")
    return np.memmap(path, dtype=series.dtype, mode="r", offset=offset, shape=shape)


def read_catalogue(folder: Path) -> pl.DataFrame:
    """The catalogue of a folder of stamps, schema v2, in the order of its stacks.

    Raises
    ------
    FileNotFoundError, ContractError
        See `lensml.store.tables.read_parquet`.
    """
    return tables.read_parquet(folder / CATALOGUE, schema.CATALOGUE)


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
        planes = {plane: open_plane(folder / part["stack"][0] / f"{plane}.tif") for plane in PLANES}
        _check_stack(folder, part, planes)
        for begin in range(0, part.height, batch):
            yield _decode(part[begin : begin + batch], planes)


def _check_stack(folder: Path, part: pl.DataFrame, planes: dict[str, Codes]) -> None:
    where = folder / part["stack"][0]
    bands = part["bands"].list.len().unique().to_list()
    lengths = {codes.shape[0] for codes in planes.values()}
    last = int(part["row"].max())  # type: ignore[arg-type]
    if len(lengths) > 1 or bands != [planes["flux"].shape[1]] or last >= min(lengths):
        raise schema.ContractError(
            f"{where} must agree with its catalogue, got stacks of {sorted(lengths)} objects for row {last} "
            f"and {planes['flux'].shape[1]} bands for {bands}. Run the stage that writes it."
        )


def _decode(rows: pl.DataFrame, planes: dict[str, Codes]) -> Stamps:
    chosen = rows["row"].to_numpy()
    sky_sigma = _lists(rows["sky_sigma"], planes["flux"].shape[1])
    return Stamps(
        rows,
        quantisation.decode_flux(planes["flux"][chosen], sky_sigma),
        quantisation.decode_variance(planes["variance"][chosen], sky_sigma),
        quantisation.decode_psf(planes["psf"][chosen]),
    )


def _lists(column: pl.Series, width: int) -> NDArray[np.float64]:
    """A column of lists of equal length as (object, width)."""
    values = column.explode().to_numpy() if len(column) else np.zeros(0)
    return np.asarray(values, dtype=np.float64).reshape(len(column), width)
