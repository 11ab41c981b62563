"""How alike two sets of objects are, column by column: standardised mean difference, variances, distributions."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Balance:
    """How alike positives and their negatives are.

    Attributes
    ----------
    columns : per column `smd` (standardised mean difference, positive minus other; below 0.1 is balanced, Austin 2011),
        `variance_ratio` (positives over others) and `ks` (Kolmogorov-Smirnov distance, [0, 1]), each
        `_before` (all positives, all parents),
        `_after` (the positives that were matched, once per parent drawn for them; the drawn) and
        `_all` (all positives, unmatched ones too; the drawn: what a network sees that is trained on them all);
        NaN or infinite where a variance is zero or of one object
    positives, parents, drawn : numbers of objects in these, all with a value in every column
    unmatched : positives that got fewer than asked for, by reason; those that lack a value too
    left_out : parents that could not be drawn, by reason
    """

    columns: dict[str, dict[str, float]]
    positives: int
    parents: int
    drawn: int
    unmatched: dict[str, int]
    left_out: dict[str, int]


def report(balance: Balance) -> dict[str, Any]:
    """The balance for a JSON file; null where a number is not finite."""

    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    columns = {name: {key: finite(value) for key, value in row.items()} for name, row in balance.columns.items()}
    return {**asdict(balance), "columns": columns}


def compare(
    columns: Sequence[str], x: Floats, y: Floats, matched: Floats, drawn: Floats
) -> dict[str, dict[str, float]]:
    """`Balance.columns`: positives `x`, parents `y`, the `matched` positives and the `drawn`, each (object, column)."""
    pairs = {"before": (x, y), "after": (matched, drawn), "all": (x, drawn)}
    return {
        name: {
            f"{key}_{when}": value
            for when, (one, other) in pairs.items()
            for key, value in _apart(one[:, k], other[:, k]).items()
        }
        for k, name in enumerate(columns)
    }


def pooled_sd(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Root of the mean of two samples' variances, as it stands under the standardised mean difference."""
    return math.sqrt((_variance(x) + _variance(y)) / 2)


def _apart(x: Floats, y: Floats) -> dict[str, float]:
    with np.errstate(divide="ignore", invalid="ignore"):
        smd = np.divide(x.mean() - y.mean(), pooled_sd(x, y))
        ratio = np.divide(_variance(x), _variance(y))
    return {"smd": float(smd), "variance_ratio": float(ratio), "ks": _ks(x, y)}


def _ks(x: Floats, y: Floats) -> float:
    """Largest distance of two samples' cumulative distributions; scipy's warns of small samples' significance."""
    both = np.concatenate([x, y])
    share, other = (np.searchsorted(np.sort(sample), both, side="right") / sample.size for sample in (x, y))
    return float(np.abs(share - other).max())


def _variance(x: NDArray[Any]) -> float:
    return float(np.var(x, ddof=1)) if x.size > 1 else 0.0
