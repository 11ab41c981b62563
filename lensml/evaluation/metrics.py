"""Metrics of the Bologna lens-finding challenge (Metcalf et al. 2019, A&A 625, A119), by an exact sort of the scores.

An object is called a lens when its score is greater than the threshold; equal scores stand or fall together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Figure = Callable[["Counts"], Floats]

CHALLENGE_NONLENSES: Final = 50_000  # half of the challenge's test set of 100,000
COMPARABLE_FACTOR: Final = 2  # counts of false positives mean the same only on a set of about that size
NOT_COMPARABLE: Final = "  (not comparable with the challenge: another number of non-lenses)"
FLUX_RATIO_EDGES: Final = (0.1, 0.3)  # low, medium and high as the specification defines them


@dataclass(frozen=True)
class Counts:
    """Objects called lens at every threshold that changes anything, from none called to all called.

    thresholds (k,) descend and end with -inf; tp and fp (draw, k) count the lenses and the non-lenses above each.
    """

    thresholds: Floats
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]

    @property
    def n_lens(self) -> NDArray[np.int64]:
        return self.tp[:, -1]

    @property
    def n_nonlens(self) -> NDArray[np.int64]:
        return self.fp[:, -1]

    @property
    def tpr(self) -> Floats:
        return ratio(self.tp, self.tp[:, -1:])

    @property
    def fpr(self) -> Floats:
        return ratio(self.fp, self.fp[:, -1:])


def ratio(part: ArrayLike, whole: ArrayLike) -> Floats:
    """Part over whole, NaN where the whole is zero."""
    a, b = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b != 0)


def count(y_true: ArrayLike, scores: ArrayLike, weights: NDArray[np.int64] | None = None) -> Counts:
    """Count the calls at every threshold; `weights` (draw, object) say how often a draw holds each object.

    Raises
    ------
    ValueError
        Lengths differ, a label is not 0 or 1, or a score is not finite.
    """
    y, s = checked(y_true, scores)
    order = np.argsort(-s, kind="stable")
    y, s = y[order], s[order]
    w = np.ones((1, y.size), np.int64) if weights is None else weights[:, order]
    last = np.flatnonzero(np.append(s[1:] != s[:-1], True)[: s.size])  # of each run of equal scores
    total = np.zeros((2, len(w), last.size + 1), np.int64)
    total[0, :, 1:] = np.cumsum(w * y, axis=1)[:, last]
    total[1, :, 1:] = np.cumsum(w, axis=1)[:, last] - total[0, :, 1:]
    return Counts(np.append(s[last], -np.inf), total[0], total[1])


def checked(y_true: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.int64], Floats]:
    """Labels as int64 and scores as float64, each (object,)."""
    y, s = np.asarray(y_true), np.asarray(scores, np.float64)
    if y.shape != s.shape or y.ndim != 1:
        raise ValueError(f"y_true and the scores must be of one length, got shapes {y.shape} and {s.shape}.")
    if not np.isin(y, (0, 1)).all():
        raise ValueError(f"y_true must be 0 or 1, got {y[~np.isin(y, (0, 1))][0]}. Leave out what has no label.")
    if not np.isfinite(s).all():
        where = int(np.flatnonzero(~np.isfinite(s))[0])
        raise ValueError(f"every score must be finite, got {s[where]} (object {where} of {s.size}).")
    return y.astype(np.int64), s


def auroc(counts: Counts) -> Floats:
    """Area under the ROC: the chance that a lens outscores a non-lens, a tie counting one half; NaN with one class."""
    area = (np.diff(counts.fp) * (counts.tp[:, 1:] + counts.tp[:, :-1])).sum(axis=1) / 2
    return ratio(area, counts.n_lens * counts.n_nonlens)


def auprc(counts: Counts) -> Floats:
    """Average precision: the mean over lenses of the purity at their score; NaN with one class."""
    precision = np.nan_to_num(ratio(counts.tp, counts.tp + counts.fp))
    area = (np.diff(counts.tp) * precision[:, 1:]).sum(axis=1)
    return np.where(counts.n_nonlens > 0, ratio(area, counts.n_lens), np.nan)


def tpr_within(counts: Counts, false_positives: ArrayLike) -> Floats:
    """The highest TPR with at most that many false positives, for all draws or for each; NaN with one class."""
    limits = np.broadcast_to(false_positives, len(counts.fp))
    reached = [np.searchsorted(fp, limit, "right") - 1 for fp, limit in zip(counts.fp, limits, strict=True)]
    found = counts.tp[np.arange(len(reached)), reached]
    return np.where(counts.n_nonlens > 0, ratio(found, counts.n_lens), np.nan)


def tpr0(counts: Counts) -> Floats:
    """The highest TPR before the first false positive."""
    return tpr_within(counts, 0)


def tpr10(counts: Counts) -> Floats:
    """The highest TPR with fewer than ten false positives: a count, not a rate."""
    return tpr_within(counts, 9)


def tpr_at_fpr(rate: float) -> Figure:
    """The highest TPR at a false-positive rate of at most `rate`."""

    def figure(counts: Counts) -> Floats:
        near = np.floor(rate * counts.n_nonlens)[:, None] + [-1, 0, 1]  # the product may round to either side
        allowed = np.where(np.nan_to_num(ratio(near, counts.n_nonlens[:, None])) <= rate, near, -1)
        return tpr_within(counts, allowed.max(axis=1))

    return figure


def tpr_above(threshold: float) -> Figure:
    """The TPR of a fixed threshold: the completeness there."""

    def figure(counts: Counts) -> Floats:
        return ratio(counts.tp[:, np.searchsorted(-counts.thresholds, -threshold)], counts.n_lens)

    return figure


def accuracy(threshold: float) -> Figure:
    """The share of objects called rightly at a fixed threshold."""

    def figure(counts: Counts) -> Floats:
        at = np.searchsorted(-counts.thresholds, -threshold)
        right = counts.tp[:, at] + counts.n_nonlens - counts.fp[:, at]
        return ratio(right, counts.n_lens + counts.n_nonlens)

    return figure


FIGURES: Final[dict[str, Figure]] = {
    "auroc": auroc,
    "auprc": auprc,
    "tpr_at_fpr_0": tpr0,
    "tpr10": tpr10,
    "tpr_at_fpr_0.0001": tpr_at_fpr(1e-4),
    "tpr_at_fpr_0.001": tpr_at_fpr(1e-3),
    "tpr_at_fpr_0.01": tpr_at_fpr(1e-2),
    "tpr_at_fpr_0.1": tpr_at_fpr(0.1),
}


def compute_tpr_at_fpr(
    y_true: ArrayLike, y_probs: ArrayLike, fpr_threshold: float = 0.0
) -> tuple[float | None, float | None]:
    """The highest TPR at a false-positive rate of at most `fpr_threshold`, and the highest threshold that reaches it.

    The score must be greater than the threshold, which is -inf where every object is called. Both are None where there
    is one class only.
    """
    counts = count(y_true, y_probs)
    best = tpr_at_fpr(fpr_threshold)(counts)
    if np.isnan(best[0]):
        return None, None
    return float(best[0]), float(counts.thresholds[(counts.tpr[0] >= best[0]).argmax()])


def compute_flux_ratio_stratified_metrics(
    y_true: ArrayLike,
    y_probs: ArrayLike,
    flux_ratios: ArrayLike,
    threshold: float,
    edges: tuple[float, float] = FLUX_RATIO_EDGES,
) -> dict[str, dict[str, float | int | None]]:
    """Lenses by flux ratio (low, medium, high, unknown): how many, and the share found and missed at a threshold."""
    y, s = checked(y_true, y_probs)
    bins = flux_ratio_bins(flux_ratios, edges)
    found = {}
    for name in ("low", "medium", "high", "unknown"):
        scores = s[(y == 1) & (bins == name)]
        tpr = _number(ratio((scores > threshold).sum(), scores.size))
        found[name] = {"n_lens": int(scores.size), "tpr": tpr, "fnr": None if tpr is None else 1 - tpr}
    return found


def flux_ratio_bins(flux_ratios: ArrayLike, edges: tuple[float, float]) -> NDArray[np.str_]:
    """The name of each object's bin of lensed flux over total flux; "unknown" where it is NaN."""
    r = np.asarray(flux_ratios, float)
    return np.select([np.isnan(r), r < edges[0], r <= edges[1]], ["unknown", "low", "medium"], "high")


def compute_bologna_metrics(
    y_true: ArrayLike, y_probs: ArrayLike, flux_ratios: ArrayLike | None = None
) -> dict[str, float | int | bool | None]:
    """All figures of the challenge; None where there is one class only.

    `low_flux_fnr` is the share of lenses of low flux ratio missed at the threshold of `tpr_at_fpr_0.1`. Scores may be
    logits or probabilities: only their order counts (float32 probabilities saturate into ties at 1).
    """
    counts = count(y_true, y_probs)
    found: dict[str, float | int | bool | None] = {name: _number(f(counts)) for name, f in FIGURES.items()}
    n_lens, n_nonlens = int(counts.n_lens[0]), int(counts.n_nonlens[0])
    found |= {"n_lens": n_lens, "n_nonlens": n_nonlens, "comparable_with_challenge": comparable(n_nonlens)}
    found["low_flux_fnr"] = None
    threshold = compute_tpr_at_fpr(y_true, y_probs, 0.1)[1]
    if flux_ratios is not None and threshold is not None:
        low = compute_flux_ratio_stratified_metrics(y_true, y_probs, flux_ratios, threshold)["low"]
        found["low_flux_fnr"] = low["fnr"]
    return found


def comparable(n_nonlens: int) -> bool:
    """Whether TPR0 and TPR10, which count false positives, can be held against the challenge's own."""
    return CHALLENGE_NONLENSES / COMPARABLE_FACTOR <= n_nonlens <= CHALLENGE_NONLENSES * COMPARABLE_FACTOR


def format_bologna_metrics(metrics: Mapping[str, Any]) -> str:
    """The figures as lines of text, with intervals where `<name>_low` and `<name>_high` stand beside them."""
    lines = [f"{metrics['n_lens']} lenses, {metrics['n_nonlens']} non-lenses"]
    for name in (*FIGURES, "low_flux_fnr"):
        value, low, high = (metrics.get(f"{name}{end}") for end in ("", "_low", "_high"))
        interval = "" if low is None or high is None else f"  [{low:.4f}, {high:.4f}]"
        note = "" if name not in ("tpr_at_fpr_0", "tpr10") or metrics["comparable_with_challenge"] else NOT_COMPARABLE
        lines.append(f"  {name:<18} " + ("-" if value is None else f"{value:.4f}{interval}{note}"))
    return "\n".join(lines)


def _number(values: Floats) -> float | None:
    value = float(np.ravel(values)[0])
    return None if np.isnan(value) else value
