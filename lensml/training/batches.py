"""Batches of a split, made whole from its shards: pixels, metadata, label and weight."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensml import schema
from lensml.catalog import statistics as stats
from lensml.store.shards import ShardReader

LABEL_VALUES: Final = {"lens": 1.0, "nonlens": 0.0}
IMAGES: Final = ("stamps", "log_variance", "psf")  # what is turned together
DRAWS: Final = 5  # numbers for each object that decide how it is augmented

Batch = dict[str, Tensor]
Augment = Callable[[Batch, Tensor, int], Batch]  # of a batch, `DRAWS` numbers in [0, 1) for each object, and a seed


def turned_by_draw(batch: Batch, numbers: Tensor, seed: int) -> Batch:
    """Every object in one of its eight flips and quarter turns; an `Augment`."""
    return batch | turned_by(batch, (8 * numbers[:, 0]).long())


class Batches:
    """The batches of one split, the same for the same epoch however often they are asked for.

    Parameters
    ----------
    folder : of the split's shards
    statistics : of the train split, see `lensml.catalog.statistics.fit`
    batch_size : the most objects in a batch; sizes differ by one at the most, so that none is tiny
    seed : of the order and of the augmentation; None: the shards' order and no augmentation
    beside : of `lensml.models.network.BESIDE`, what is added; also psf_fwhm (B,), arcsec, NaN where unknown
    augment : how objects are changed, each epoch anew

    Raises
    ------
    FileNotFoundError, ContractError
        The shards are missing, broken, or not of the size that the statistics state.
    """

    def __init__(
        self,
        folder: Path,
        statistics: stats.Statistics,
        batch_size: int,
        seed: int | None,
        beside: tuple[str, ...] = (),
        augment: Augment = turned_by_draw,
    ) -> None:
        self.reader = ShardReader(folder, tuple(statistics["bands"]))
        sides = self.reader.stamp_pixels, statistics["stamp_pixels"]
        if len(self.reader) and sides[0] != sides[1]:
            raise schema.ContractError(
                f"{folder} must hold stamps of {sides[1]} pixels, got {sides[0]}. Run stage shard."
            )
        index = self.reader.index
        self.object_ids: list[str] = index["object_id"].to_list()
        self.metadata = torch.from_numpy(stats.metadata(index, statistics))
        self.label = torch.tensor([LABEL_VALUES.get(label, np.nan) for label in index["label"]], dtype=torch.float32)
        self.weight = torch.from_numpy(stats.weights(index, statistics))
        self.theta_e_arcsec = torch.from_numpy(stats.values(index, "theta_e_arcsec")).float()
        self._told = {name: _column(index, name) for name in ("pixel_scale", "psf_fwhm")}
        self._told["sky_sigma"] = _per_channel(index, self.reader.bands)
        self._batch_size, self._seed, self._beside, self._augment = batch_size, seed, beside, augment

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return -(-len(self.reader) // self._batch_size)

    def epoch(self, epoch: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """All batches of an epoch, each object once; see `take`.

        Of `world` processes that share every batch between them this is the one of number `rank`: it gets the objects
        rank, rank + world, ... of each. Which they are and how they are turned, shifted and broadened does not depend
        on `world`; the noise of their pixels does.

        Raises
        ------
        ValueError
            A batch has not an object for every process.
        """
        rows = np.arange(len(self.reader))
        if self._seed is None:
            yield from (self.take(_share(part, rank, world)) for part in self._parts(rows))
            return
        rng = np.random.default_rng((self._seed, epoch))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        for number, part in enumerate(self._parts(rng.permutation(rows))):
            numbers = torch.rand(len(part), DRAWS, generator=generator)
            seed = np.random.SeedSequence((self._seed, epoch, number, rank)).generate_state(1)[0]
            yield self._augment(self.take(_share(part, rank, world)), numbers[rank::world], int(seed))

    def take(self, rows: NDArray[np.integer]) -> Batch:
        """The objects in these rows of the index, as one batch.

        Returns
        -------
        stamps : (B, C, y, x) arcsinh(flux / sky_sigma); 0 where bad and in channels without data
        metadata : (B, C + 2 F), see `lensml.catalog.statistics.metadata`
        label : (B,) 1 lens, 0 non-lens, NaN neither
        weight : (B,), see `lensml.catalog.statistics.weights`
        row : (B,) int64
        theta_e_arcsec : (B,), NaN where nobody knows it
        log_variance : (B, C, y, x), if asked for; see `ShardReader.stamps`
        psf : (B, C, py, px), if asked for; unit sum, zeros in channels without one
        pixel_scale : (B,) arcsec, if asked for
        sky_sigma : (B, C) nJy per pixel, if asked for; 0 in channels without data
        """
        flux, variance = self.reader.stamps(rows, "log_variance" in self._beside)
        at = torch.from_numpy(rows.astype(np.int64))
        batch = {
            "stamps": torch.from_numpy(flux),
            "metadata": self.metadata[at],
            "label": self.label[at],
            "weight": self.weight[at],
            "row": at,
            "theta_e_arcsec": self.theta_e_arcsec[at],
        }
        if variance is not None:
            batch["log_variance"] = torch.from_numpy(variance)
        if "psf" in self._beside:
            batch["psf"] = torch.from_numpy(self.reader.psf(rows))
        return batch | {name: values[at] for name, values in self._told.items() if name in self._beside}

    def _parts(self, rows: NDArray[np.integer]) -> list[NDArray[np.integer]]:
        return np.array_split(rows, len(self)) if len(rows) else []


def _share(part: NDArray[np.integer], rank: int, world: int) -> NDArray[np.integer]:
    if len(part) < world:
        raise ValueError(
            f"a batch must have an object for each of {world} processes, got {len(part)}. Raise batch_size, or lower "
            "train.fit.hardware.devices (params.yaml)."
        )
    return part[rank::world]


def _column(index: pl.DataFrame, name: str) -> Tensor:
    """NaN where it is null."""
    return torch.from_numpy(index[name].cast(pl.Float64).fill_null(np.nan).to_numpy().astype(np.float32))


def _per_channel(index: pl.DataFrame, channels: tuple[str, ...]) -> Tensor:
    """sky_sigma of the channels, (object, channel), 0 where there is no such band."""
    rows = index.with_row_index("row").select("row", "bands", "sky_sigma").explode("bands", "sky_sigma")
    rows = rows.filter(pl.col("bands").is_in(channels))
    found = np.zeros((index.height, len(channels)), np.float32)
    found[rows["row"], [channels.index(band) for band in rows["bands"]]] = rows["sky_sigma"]
    return torch.from_numpy(found)


def turned_by(batch: Batch, draws: Tensor) -> Batch:
    """The images of a batch, each object's in the way that its number (B,) from 0 to 7 says."""
    return {name: _turn(batch[name], draws) for name in IMAGES if name in batch}


def _turn(image: Tensor, draws: Tensor) -> Tensor:
    """Bit 0 flips x, bit 1 flips y, bit 2 exchanges x and y: together the eight symmetries of a square."""
    out = torch.empty_like(image)
    for draw in range(8):
        chosen = torch.nonzero(draws == draw).squeeze(1)
        axes = [axis for bit, axis in ((1, -1), (2, -2)) if draw & bit]
        part = image[chosen].flip(axes)
        out[chosen] = part.transpose(-1, -2) if draw & 4 else part
    return out
