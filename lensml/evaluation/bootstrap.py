"""Intervals by drawing whole groups again: objects of one group are not independent."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Draws = dict[str, NDArray[np.float64]]
Statistic = Callable[[NDArray[np.int64]], Draws]
Report = dict[str, float | None]

CHUNK_ENTRIES: Final = 2_000_000  # (draw, object) weights held at once: bounds the memory, changes no result


def draw(statistic: Statistic, groups: Sequence[Any] | ArrayLike, draws: int, seed: int) -> Draws:
    """The statistic's figures, each (draw,), over groups drawn with replacement.

    `statistic` takes weights (draw, object): how often a draw holds each object. The same groups and seed give the same
    draws, so that the figures of two scores of the same objects may be subtracted.
    """
    index = np.unique(np.asarray(groups), return_inverse=True)[1]
    n = int(index.max()) + 1
    rng = np.random.default_rng(seed)
    size = max(1, CHUNK_ENTRIES // index.size)
    parts = []
    for start in range(0, draws, size):
        rows = min(size, draws - start)
        times = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(rows)])  # (draw, group)
        parts.append(statistic(times[:, index]))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def point(statistic: Statistic, objects: int) -> dict[str, float]:
    """The statistic's figures on the sample as it is."""
    return {name: float(value[0]) for name, value in statistic(np.ones((1, objects), np.int64)).items()}


def interval(values: NDArray[np.float64], level: float) -> tuple[float | None, float | None]:
    """The central interval of that level over the draws that have a value; (None, None) where none has."""
    known = values[~np.isnan(values)]
    if not known.size:
        return None, None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def figures(statistic: Statistic, groups: Sequence[Any] | ArrayLike, draws: int, level: float, seed: int) -> Report:
    """Each figure with its interval, flat: name, name_low, name_high; None where it is undefined."""
    drawn = draw(statistic, groups, draws, seed)
    found: Report = {}
    for name, value in point(statistic, np.asarray(groups).size).items():
        defined = not np.isnan(value)
        low, high = interval(drawn[name], level) if defined else (None, None)
        found |= {name: value if defined else None, f"{name}_low": low, f"{name}_high": high}
    return found
