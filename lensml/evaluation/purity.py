"""How many of the called objects are lenses, on a sky where lenses are rare."""

import numpy as np
from numpy.typing import ArrayLike

from lensml.evaluation.metrics import Counts, Figure, Floats, ratio


def purity(tpr: ArrayLike, fpr: ArrayLike, prevalence: float) -> Floats:
    """Share of lenses among the calls where a share `prevalence` of all galaxies are lenses; NaN without calls."""
    lenses, others = prevalence * np.asarray(tpr), (1 - prevalence) * np.asarray(fpr)
    return ratio(lenses, lenses + others)


def purity_at_completeness(completeness: float, prevalence: float, more: int = 0) -> Figure:
    """The purity at the highest threshold that finds at least that share of the lenses; NaN with one class.

    With `more` false positives than were found: without any, the purity is 1 on however small a set.
    """

    def figure(counts: Counts) -> Floats:
        pairs = zip(counts.tp, counts.n_lens, strict=True)
        first = [min(np.searchsorted(tp, completeness * n), tp.size - 1) for tp, n in pairs]
        rows = np.arange(len(first))
        tpr, fp = ratio(counts.tp[rows, first], counts.n_lens), counts.fp[rows, first]
        return purity(tpr, ratio(fp + more, counts.n_nonlens), prevalence)

    return figure
