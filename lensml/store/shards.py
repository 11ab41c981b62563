"""Shards on disk: WebDataset tar files of 16-bit stamps with an index, so that any batch is read by its offsets."""

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lensml import schema
from lensml.store import quantisation, tables

INDEX: Final = "index.parquet"
PLANES: Final = ("flux", "variance", "psf")
# Columns that the writer fills
PLACED: Final = ("key", "shard", *(f"{plane}_offset" for plane in PLANES), "stamp_pixels", "psf_pixels")

Float = NDArray[np.float32]
Codes = NDArray[np.int16]


class ShardWriter:
    """Write one split: per object `<key>.flux.npy`, `<key>.variance.npy`, `<key>.psf.npy` (codes) and `<key>.json`.

    Codes are (band, y, x), see `lensml.store.quantisation`; the JSON holds the index's other columns and nothing else.

    A context manager; when its block ends well, `folder` holds the shards and their index.
    """

    def __init__(self, folder: Path, objects_per_shard: int) -> None:
        self._folder, self._limit = folder, objects_per_shard
        self._tar: tarfile.TarFile | None = None
        self._index: list[pl.DataFrame] = []
        self._count = 0

    def __enter__(self) -> "ShardWriter":
        if (self._folder / INDEX).exists():
            raise FileExistsError(f"{self._folder} must be empty, got an index. Remove it first")
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._tar is not None:
            self._tar.close()
        if kind is None:
            table = pl.concat(self._index) if self._index else pl.DataFrame(schema=schema.SHARD_INDEX)
            tables.write_parquet(table, schema.SHARD_INDEX, self._folder / INDEX)

    def append(self, index: pl.DataFrame, flux: Float, variance: Float, psf: Float | None = None) -> None:
        """Add a batch of objects with the same bands.

        Parameters
        ----------
        index : schema.SHARD_INDEX without the columns `PLACED`; other columns go nowhere
        flux, variance : (object, band, y, x), nJy and nJy^2, on the network's grid; variance infinite where bad
        psf : (object, band, py, px), odd, centred at py // 2, zeros where a band has none; None: no band has one

        Raises
        ------
        ValueError
            A flux, variance or PSF has no 16-bit code, or the arrays do not belong to the rows.
        ContractError
            A column is missing or has another type.
        """
        sky_sigma = np.array(index["sky_sigma"].to_list(), dtype=np.float64).reshape(index.height, -1)
        if flux.shape != variance.shape or flux.shape[:2] != sky_sigma.shape or flux.shape[2] != flux.shape[3]:
            raise ValueError(f"flux must be (object, band, y, x) of {sky_sigma.shape} squares, got {flux.shape}.")
        psf = np.zeros((*flux.shape[:2], 1, 1), np.float32) if psf is None else psf
        if psf.shape[:2] != flux.shape[:2] or psf.shape[2] != psf.shape[3]:
            raise ValueError(f"psf must be (object, band, y, x) of {sky_sigma.shape} squares, got {psf.shape}.")
        told = {name: kind for name, kind in schema.SHARD_INDEX.items() if name not in PLACED}
        table = schema.check(index, told, f"index of {self._folder}")
        codes = (
            quantisation.encode_flux(flux, sky_sigma),
            quantisation.encode_variance(variance, sky_sigma),
            quantisation.encode_psf(psf),
        )
        placed = [self._add(row, planes) for row, *planes in zip(table.iter_rows(named=True), *codes, strict=True)]
        where = pl.DataFrame(placed, schema={name: schema.SHARD_INDEX[name] for name in PLACED}, orient="row")
        self._index.append(table.hstack(where).select(list(schema.SHARD_INDEX)))

    def _add(self, row: dict[str, object], planes: list[Codes]) -> tuple[str | int, ...]:
        """One object into the shard that is open; returns the columns `PLACED`."""
        shard, full = divmod(self._count, self._limit)
        name = f"shard-{shard:05d}.tar"
        if full == 0:
            self._next(name)
        key = f"{self._count:09d}"
        self._count += 1
        offsets = [self._array(f"{key}.{plane}.npy", codes) for plane, codes in zip(PLANES, planes, strict=True)]
        self._member(f"{key}.json", json.dumps(row, sort_keys=True, ensure_ascii=False).encode())
        return key, name, *offsets, planes[0].shape[-1], planes[2].shape[-1]

    def _next(self, name: str) -> None:
        if self._tar is not None:
            self._tar.close()
        # Plain USTAR: other formats put names and times into extra headers
        self._tar = tarfile.open(self._folder / name, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def _array(self, name: str, codes: Codes) -> int:
        """Write a NumPy file; returns where in the shard its first value stands."""
        file = io.BytesIO()
        np.save(file, np.ascontiguousarray(codes))
        return self._member(name, file.getvalue()) + len(file.getvalue()) - codes.nbytes

    def _member(self, name: str, content: bytes) -> int:
        if self._tar is None:
            raise RuntimeError("no shard is open")
        info = tarfile.TarInfo(name)  # mtime, uid, gid 0, no names: the same bytes every time
        info.size = len(content)
        begin = self._tar.offset + tarfile.BLOCKSIZE
        self._tar.addfile(info, io.BytesIO(content))
        return begin


def read_index(folder: Path) -> pl.DataFrame:
    """The index of a split: a row per object in the order of its shards.

    Raises
    ------
    FileNotFoundError, ContractError
        See `lensml.store.tables.read_parquet`.
    """
    return tables.read_parquet(folder / INDEX, schema.SHARD_INDEX)


def digest(folder: Path) -> str:
    """sha256 over a split's index and shards: two splits with the same digest hold the same bytes."""
    whole = hashlib.sha256()
    for path in sorted([folder / INDEX, *folder.glob("*.tar")]):
        with path.open("rb") as file:
            whole.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


@dataclass(frozen=True, slots=True)
class _Own:
    """Where the bands of an object go."""

    count: int  # of its bands
    length: int  # of its codes
    some: bool  # it does not fill all channels
    channels: Any  # if they are all taken, in order and neighbours, a slice of the flat channels; else which channels
    chosen: list[int] | None  # which of its bands are taken; None in the first case


class ShardReader:
    """Any batch of a split, through memory maps; one reader to a thread.

    Parameters
    ----------
    folder : of one split
    bands : the channels, in order; a band of an object that is none of them is not read

    Raises
    ------
    FileNotFoundError, ContractError
        The index or a shard is missing, truncated or broken.
    """

    def __init__(self, folder: Path, bands: tuple[str, ...]) -> None:
        self.index = read_index(folder)
        self.bands = bands
        self.stamp_pixels, self.psf_pixels = (_one(self.index, name, folder) for name in ("stamp_pixels", "psf_pixels"))
        self._maps = [_open(folder, part) for part in self.index.partition_by("shard", maintain_order=True)]
        self._shard = self.index["shard"].rle_id().to_list()
        self._offsets = {plane: (self.index[f"{plane}_offset"] // 2).to_list() for plane in PLANES}  # in int16
        of = self.index["bands"].to_list()
        stamps, psf = (_placed(of, bands, side**2) for side in (self.stamp_pixels, self.psf_pixels))
        self._bands = {"flux": stamps, "variance": stamps, "psf": psf}
        self._scratch: Codes = np.empty(0, np.int16)

    def __len__(self) -> int:
        return self.index.height

    def stamps(self, rows: NDArray[np.integer], variance: bool = False) -> tuple[Float, Float | None]:
        """Network input of rows of the index.

        Returns
        -------
        arcsinh(flux / sky_sigma), (object, channel, y, x), 0 where bad or where there is no such band
        ln(variance / sky_sigma^2) likewise if `variance`, `BAD_LOG_VARIANCE` there; otherwise None
        """
        step = np.float32(quantisation.STEP)
        flux = np.multiply(self._gather("flux", rows), step, dtype=np.float32)
        return flux, np.multiply(self._gather("variance", rows), step, dtype=np.float32) if variance else None

    def psf(self, rows: NDArray[np.integer]) -> Float:
        """PSFs of rows of the index: (object, channel, py, px), unit sum, zeros where a channel has none."""
        return quantisation.decode_psf(self._gather("psf", rows))

    def codes(self, plane: str, rows: NDArray[np.integer]) -> Codes:
        """The 16-bit codes (object, channel, y, x) of one of `PLANES`; see `lensml.store.quantisation`."""
        return self._gather(plane, rows).copy()

    def _gather(self, plane: str, rows: NDArray[np.integer]) -> Codes:
        """`codes` in this reader's scratch array, good until the next call: a fresh array costs more than its copy."""
        side = self.psf_pixels if plane == "psf" else self.stamp_pixels
        size = len(rows) * len(self.bands) * side**2
        if size > self._scratch.size:
            self._scratch = np.empty(size, np.int16)
        codes = self._scratch[:size].reshape(len(rows), len(self.bands) * side**2)
        fill, offsets, bands = quantisation.BAD if plane == "variance" else 0, self._offsets[plane], self._bands[plane]
        for out, row in zip(codes, rows.tolist(), strict=True):
            own, begin = bands[row], offsets[row]
            values = self._maps[self._shard[row]][begin : begin + own.length]
            if own.some:
                out.fill(fill)
            if own.chosen is None:
                out[own.channels] = values
            else:
                out.reshape(len(self.bands), -1)[own.channels] = values.reshape(own.count, -1)[own.chosen]
        return codes.reshape(len(rows), len(self.bands), side, side)


def _one(index: pl.DataFrame, name: str, folder: Path) -> int:
    """The value that a column has in every row; 0 where there are none."""
    values: list[int] = index[name].unique().sort().to_list()
    if len(values) > 1:
        raise schema.ContractError(f"{folder} must hold stamps of one {name}, got {values}. Run the stage shard.")
    return values[0] if values else 0


def _open(folder: Path, part: pl.DataFrame) -> Codes:
    """One shard as int16, checked to be as long as its index says."""
    path = folder / part["shard"][0]
    if not path.is_file():
        raise FileNotFoundError(f"{path} must exist, got none. Run the stage shard")
    ends = part["psf_offset"] + part["bands"].list.len().cast(pl.Int64) * part["psf_pixels"] ** 2 * 2
    end = int(ends.max())  # type: ignore[arg-type]
    if path.stat().st_size < end:
        raise schema.ContractError(f"{path} must have {end} bytes or more, got a truncated file. Run the stage shard.")
    with path.open("rb") as file:
        file.seek(int(part["flux_offset"][0]) - 128)
        if file.read(6) != b"\x93NUMPY":
            raise schema.ContractError(f"{path} must agree with its index, got other content. Run the stage shard.")
    # ndarray, not memmap: slicing the subclass costs more than the copy of a stamp
    return np.asarray(np.memmap(path, dtype=np.int16, mode="r"))


def _placed(of: list[list[str]], bands: tuple[str, ...], plane: int) -> list[_Own]:
    """Per object whose bands are these, `plane` values each."""
    kinds = {own: _own(own, bands, plane) for own in {tuple(own) for own in of}}
    return [kinds[tuple(own)] for own in of]


def _own(own: tuple[str, ...], bands: tuple[str, ...], plane: int) -> _Own:
    chosen = [i for i, band in enumerate(own) if band in bands]
    channels = [bands.index(own[i]) for i in chosen]
    some, length = len(channels) < len(bands), len(own) * plane
    if len(chosen) == len(own) and own and channels == list(range(channels[0], channels[0] + len(own))):
        return _Own(len(own), length, some, slice(channels[0] * plane, channels[0] * plane + length), None)
    return _Own(len(own), length, some, channels, chosen)
