"""Batches of a split, made whole from its shards: pixels, metadata, label and weight."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensml import schema
from lensml.catalog import statistics as stats
from lensml.store.shards import ShardReader

LABEL_VALUES: Final = {"lens": 1.0, "nonlens": 0.0}
IMAGES: Final = ("stamps", "log_variance", "psf")  # what is turned together

Batch = dict[str, Tensor]


class Batches:
    """The batches of one split, the same for the same epoch however often they are asked for.

    Parameters
    ----------
    folder : of the split's shards
    statistics : of the train split, see `lensml.catalog.statistics.fit`
    batch_size : the most objects in a batch; sizes differ by one at the most, so that none is tiny
    seed : of the order and of the flips and quarter turns; None: the shards' order and no augmentation
    variance : add `log_variance`
    psf : add `psf`

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
        variance: bool = False,
        psf: bool = False,
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
        self._batch_size, self._seed, self._variance, self._psf = batch_size, seed, variance, psf

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return -(-len(self.reader) // self._batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """All batches of an epoch, each object once; see `take`."""
        rows = np.arange(len(self.reader))
        if self._seed is None:
            yield from (self.take(part) for part in self._parts(rows))
            return
        rng = np.random.default_rng((self._seed, epoch))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        for part in self._parts(rng.permutation(rows)):
            batch = self.take(part)
            yield batch | turned({name: batch[name] for name in IMAGES if name in batch}, generator)

    def take(self, rows: NDArray[np.integer]) -> Batch:
        """The objects in these rows of the index, as one batch.

        Returns
        -------
        stamps : (B, C, y, x) arcsinh(flux / sky_sigma); 0 where bad and in channels without data
        metadata : (B, C + 2 F), see `lensml.catalog.statistics.metadata`
        label : (B,) 1 lens, 0 non-lens, NaN neither
        weight : (B,), see `lensml.catalog.statistics.weights`
        row : (B,) int64
        log_variance : (B, C, y, x), if asked for; see `ShardReader.stamps`
        psf : (B, C, py, px), if asked for; unit sum, zeros in channels without one
        """
        flux, variance = self.reader.stamps(rows, self._variance)
        at = torch.from_numpy(rows.astype(np.int64))
        batch = {
            "stamps": torch.from_numpy(flux),
            "metadata": self.metadata[at],
            "label": self.label[at],
            "weight": self.weight[at],
            "row": at,
        }
        if variance is not None:
            batch["log_variance"] = torch.from_numpy(variance)
        if self._psf:
            batch["psf"] = torch.from_numpy(self.reader.psf(rows))
        return batch

    def _parts(self, rows: NDArray[np.integer]) -> list[NDArray[np.integer]]:
        return np.array_split(rows, len(self)) if len(rows) else []


def turned(images: Batch, generator: torch.Generator) -> Batch:
    """Every object in one of its eight flips and quarter turns, drawn anew; all images of an object in the same.

    images : (B, C, y, x) each, square
    """
    if not images:
        return {}
    draws = torch.randint(8, (next(iter(images.values())).shape[0],), generator=generator)
    return {name: _turn(image, draws) for name, image in images.items()}


def _turn(image: Tensor, draws: Tensor) -> Tensor:
    """Bit 0 flips x, bit 1 flips y, bit 2 exchanges x and y: together the eight symmetries of a square."""
    out = torch.empty_like(image)
    for draw in range(8):
        chosen = torch.nonzero(draws == draw).squeeze(1)
        axes = [axis for bit, axis in ((1, -1), (2, -2)) if draw & bit]
        part = image[chosen].flip(axes)
        out[chosen] = part.transpose(-1, -2) if draw & 4 else part
    return out
