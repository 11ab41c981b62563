"""Curves of a test set: small CSV files that DVC plots and compares, and one picture of them to look at."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lensml import config
from lensml.evaluation import calibration, metrics, purity
from lensml.evaluation.fusion import labels

POINTS_MAX: Final = 500  # of a curve
HISTOGRAM_BINS: Final = 40
DIGITS: Final = 6
COLOURS: Final = {"lens": "#e66100", "nonlens": "#2d7fb8"}
CURVES: Final = ("roc", "purity_completeness", "reliability", "scores")


def curves(table: pl.DataFrame, params: config.Evaluate) -> dict[str, pl.DataFrame]:
    """The curves of a table with label, logit and probability, by name; a curve that needs both classes is empty
    where there is one.
    """
    y, logit, p = labels(table), table["logit"].to_numpy(), table["probability"].to_numpy()
    counts = metrics.count(y, logit)
    return {
        "roc": _roc(counts),
        "purity_completeness": _purity(counts, params.prevalence),
        "reliability": calibration.reliability(y, p, params.calibration_bins),
        "scores": _histogram(y, logit),
    }


def write(found: dict[str, pl.DataFrame], kind: str, folder: Path) -> None:
    """Write each curve as `<curve>_<kind>.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, curve in found.items():
        curve.with_columns(pl.col(pl.Float64).round(DIGITS)).write_csv(folder / f"{name}_{kind}.csv")


def _roc(counts: metrics.Counts) -> pl.DataFrame:
    chosen = _thinned(_corners(counts.fp[0], counts.tp[0]))
    return pl.DataFrame({"fpr": counts.fpr[0][chosen], "tpr": counts.tpr[0][chosen]}).drop_nans()


def _purity(counts: metrics.Counts, prevalence: float) -> pl.DataFrame:
    """The purest threshold of each completeness, as measured and with one more false positive: no set of N non-lenses
    can vouch for a purity above that.
    """
    found = _thinned(np.flatnonzero(np.diff(counts.tp[0], prepend=0) > 0))
    tpr = counts.tpr[0][found]
    pure, one_more = (
        purity.purity(tpr, metrics.ratio(counts.fp[0][found] + more, counts.n_nonlens), prevalence) for more in (0, 1)
    )
    return pl.DataFrame({"completeness": tpr, "purity": pure, "purity_one_more_fp": one_more}).drop_nans()


def _histogram(y: NDArray[np.int64], logit: NDArray[np.float64]) -> pl.DataFrame:
    """How many lenses and non-lenses have a logit around each value."""
    edges = np.histogram_bin_edges(logit, HISTOGRAM_BINS)
    lens, nonlens = (np.histogram(logit[y == label], edges)[0] for label in (1, 0))
    return pl.DataFrame({"logit": (edges[1:] + edges[:-1]) / 2, "lens": lens, "nonlens": nonlens})


def _corners(x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """The points of a staircase at which it turns, and its ends."""
    dx, dy = np.diff(x), np.diff(y)
    return np.flatnonzero(np.concatenate([[True], dx[1:] * dy[:-1] != dx[:-1] * dy[1:], [True]]))


def _thinned(points: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most `POINTS_MAX` of the points, ends included: half spread evenly, half crowded at the first ones."""
    if points.size <= POINTS_MAX:
        return points
    half = POINTS_MAX // 2
    spread = np.concatenate([np.linspace(0, points.size - 1, half), np.geomspace(1, points.size - 1, half)])
    return points[np.unique(spread.round().astype(np.int64))]


def picture(table: pl.DataFrame, others: dict[str, str], params: config.Evaluate, heading: str, path: Path) -> None:
    """Draw all four curves into one PNG, in the same bytes every time.

    `others` names further columns of logits, by the word for the legend: their ROC is drawn beside the fusion's.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = curves(table, params)
    figure = Figure(figsize=(9.5, 8), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(heading, fontsize=11, ha="left", x=0.01)
    panels = figure.subplots(2, 2).ravel()
    _draw_roc(panels[0], table, others, found["roc"])
    _draw_purity(panels[1], found["purity_completeness"], params.prevalence)
    _draw_reliability(panels[2], found["reliability"])
    _draw_scores(panels[3], found["scores"])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})


def _draw_roc(axes: Any, table: pl.DataFrame, others: dict[str, str], fused: pl.DataFrame) -> None:
    y = labels(table)
    lowest = 0.5 / max(1, int((1 - y).sum()))  # stands for zero on the logarithmic axis
    for word, column in others.items():
        curve = _roc(metrics.count(y, table[column].to_numpy()))
        axes.plot(curve["fpr"].clip(lowest), curve["tpr"], lw=1, label=word, ls="--" if column == "baseline" else "-")
    axes.plot(fused["fpr"].clip(lowest), fused["tpr"], color="black", lw=2, label="fusion")
    axes.set(xscale="log", xlim=(lowest, 1), ylim=(0, 1.02), title="ROC")
    axes.set(xlabel="false-positive rate (left edge: none)", ylabel="true-positive rate")
    axes.legend(fontsize=8, loc="lower right")


def _draw_purity(axes: Any, curve: pl.DataFrame, prevalence: float) -> None:
    axes.plot(curve["completeness"], curve["purity"], color="black", lw=2, label="measured")
    axes.plot(curve["completeness"], curve["purity_one_more_fp"], color="grey", label="with one more false positive")
    axes.set(yscale="log", xlim=(0, 1.02), ylim=(prevalence / 2, 1.2), xlabel="completeness", ylabel="purity")
    axes.set_title(f"Purity where {prevalence:g} of the galaxies are lenses")
    axes.legend(fontsize=8, loc="upper right")


def _draw_reliability(axes: Any, curve: pl.DataFrame) -> None:
    axes.plot([0, 1], [0, 1], color="grey", lw=1, ls=":")
    axes.plot(curve["probability"], curve["lens_share"], color="black", marker="o", ms=5, lw=1)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="mean probability of a bin", ylabel="share of lenses in it")
    axes.set_title("Reliability (bins of equal mass)")


def _draw_scores(axes: Any, curve: pl.DataFrame) -> None:
    for name, colour in COLOURS.items():
        axes.step(curve["logit"], curve[name], where="mid", color=colour, label=name)
        axes.fill_between(curve["logit"], curve[name], step="mid", color=colour, alpha=0.25)
    axes.set(xlabel="logit of the fusion", ylabel="objects", title="Scores")
    axes.legend(fontsize=8)
