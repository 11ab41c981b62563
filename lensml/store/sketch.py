"""Quantiles of any number of values at bounded memory."""

from collections import Counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

STEP: Final = 2e-4  # of arcsinh(value / FLOOR): half of it is the relative error of a quantile
FLOOR: Final = 1e-9  # below it the error is absolute


class Sketch:
    """Values counted in bins as wide as a fixed share of the value (as DDSketch, Masson et al. 2019, VLDB 12, 2195).

    The same whatever the order in which values come; the least and the greatest are kept as they are.
    """

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self._least, self._greatest = np.inf, -np.inf

    def add(self, values: NDArray[np.floating]) -> None:
        """Count finite values; others are left out."""
        known = np.asarray(values, dtype=np.float64)
        known = known[np.isfinite(known)]
        if not known.size:
            return
        codes, counts = np.unique(np.rint(np.arcsinh(known / FLOOR) / STEP).astype(np.int64), return_counts=True)
        self._bins.update(dict(zip(codes.tolist(), counts.tolist(), strict=True)))
        self._least, self._greatest = min(self._least, float(known.min())), max(self._greatest, float(known.max()))

    def __len__(self) -> int:
        return self._bins.total()

    def quantile(self, level: float) -> float | None:
        """The value below which a share `level` of the values lies, to 1e-4 of it; 0 is the least, 1 the greatest.

        None where nothing was counted.
        """
        if not self._bins:
            return None
        codes = np.array(sorted(self._bins))
        upto = np.cumsum([self._bins[code] for code in codes.tolist()])
        value = float(FLOOR * np.sinh(codes[np.searchsorted(upto, level * (upto[-1] - 1), side="right")] * STEP))
        return float(np.clip(value, self._least, self._greatest)) if 0 < level < 1 else self._end(level)

    def _end(self, level: float) -> float:
        return self._greatest if level > 0 else self._least
