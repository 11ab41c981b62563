"""One plane of a stack of stamps as a file: int16 codes (object, band, y, x) in a contiguous, uncompressed TIFF."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import tifffile
from numpy.typing import NDArray

from lensml.schema import ContractError
from lensml.store.quantisation import Codes


@dataclass(frozen=True)
class Plane:
    """A plane on disk; a row is read when it is asked for, and the file is mapped only meanwhile."""

    path: Path
    shape: tuple[int, ...]
    offset: int  # bytes

    def __getitem__(self, rows: NDArray[np.int64]) -> Codes:
        """Codes of some objects."""
        return np.memmap(self.path, np.int16, "r", self.offset, self.shape)[rows]


def write(path: Path, codes: Codes) -> None:
    """Write codes (object, band, y, x)."""
    offset = _write_header(path, codes.shape)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(np.ascontiguousarray(codes).data)


def write_spooled(path: Path, spool: IO[bytes], shape: tuple[int, ...]) -> None:
    """Write codes that stand in a file, piece by piece, so that a stack of any size takes no memory."""
    offset = _write_header(path, shape)
    spool.seek(0)
    with path.open("r+b") as file:
        file.seek(offset)
        shutil.copyfileobj(spool, file, 1 << 20)


def opened(path: Path) -> Plane:
    """Where the codes of a file are.

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
        raise ContractError(f"{path} must be a TIFF, got: {error}. Write it again.") from None
    if kind != np.int16 or len(shape) != 4 or offset is None:
        raise ContractError(f"{path} must be a stack of int16 stamps, got {kind} {shape}. Write it again.")
    if path.stat().st_size < offset + 2 * int(np.prod(shape)):
        raise ContractError(f"{path} must hold {shape} stamps, got a truncated file. Write it again.")
    return Plane(path, tuple(shape), offset)


def _write_header(path: Path, shape: tuple[int, ...]) -> int:
    """A TIFF with room for the codes, and the byte where they begin."""
    # truncate: one directory for the whole series; a directory per plane would be 40,000 in a full stack
    place = tifffile.imwrite(
        path,
        shape=shape,
        dtype=np.int16,
        photometric="minisblack",
        metadata={"axes": "TCYX"},
        truncate=True,
        returnoffset=True,
    )
    if place is None:
        raise OSError(f"{path} must be one piece, got several. Report it")
    return int(place[0])
