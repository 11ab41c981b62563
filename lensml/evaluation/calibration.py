"""Are the probabilities what they say? Brier score, equal-mass calibration error, reliability, temperature."""

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from lensml.evaluation.metrics import checked, ratio

Floats = NDArray[np.float64]
LOG_TEMPERATURE_BOUNDS: Final = (-5.0, 5.0)


def equal_mass_bins(probability: ArrayLike, bins: int) -> NDArray[np.int64]:
    """Each object's bin, by rank, with about as many objects in each; equal probabilities share a bin."""
    p = np.asarray(probability, float)
    _, which, counts = np.unique(p, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2  # mean rank of each value, from 0
    return np.floor((middle[which] + 0.5) * bins / p.size).astype(np.int64).clip(0, bins - 1)


def ece(y_true: ArrayLike, probability: ArrayLike, bins: int, weights: NDArray[np.int64] | None = None) -> Floats:
    """Expected calibration error (draw,): mean over objects of |mean probability - share of lenses| of their bin.

    The bins are those of the sample as it is, also for draws of it (`weights` (draw, object)).
    """
    y, p = checked(y_true, probability)
    w = np.ones((1, y.size), np.int64) if weights is None else weights
    member = np.eye(bins)[equal_mass_bins(p, bins)]  # (object, bin)
    excess = np.abs(w @ (member * (p - y)[:, None])).sum(axis=1)
    return ratio(excess, w.sum(axis=1))


def brier(y_true: ArrayLike, probability: ArrayLike, weights: NDArray[np.int64] | None = None) -> Floats:
    """Mean squared distance (draw,) of probability and label."""
    y, p = checked(y_true, probability)
    w = np.ones((1, y.size), np.int64) if weights is None else weights
    return ratio(w @ (p - y) ** 2, w.sum(axis=1))


def reliability(y_true: ArrayLike, probability: ArrayLike, bins: int) -> pl.DataFrame:
    """Per equal-mass bin, from low to high: mean probability, share of lenses, number of objects."""
    y, p = checked(y_true, probability)
    table = pl.DataFrame({"bin": equal_mass_bins(p, bins), "probability": p, "lens": y})
    return (
        table.group_by("bin")
        .agg(pl.col("probability").mean(), pl.col("lens").mean().alias("lens_share"), pl.len().alias("n"))
        .sort("bin")
        .drop("bin")
    )


def temperature(y_true: ArrayLike, logits: ArrayLike) -> float:
    """The T > 0 for which expit(logit / T) has the least log loss (Guo et al. 2017, arXiv:1706.04599).

    Raises
    ------
    ValueError
        There is one class only: any T would do.
    """
    y, z = checked(y_true, logits)
    if y.min(initial=1) == y.max(initial=0):
        raise ValueError("a temperature needs both lenses and non-lenses, got one class. Add the other to validation.")
    sign = 1 - 2 * y

    def loss(log_t: float) -> float:
        return float(np.logaddexp(0, sign * z / np.exp(log_t)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=LOG_TEMPERATURE_BOUNDS, method="bounded").x))


def probability(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """The probability of a lens."""
    return np.asarray(expit(np.asarray(logits, float) / temperature))
