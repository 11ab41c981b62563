"""Non-lenses like the lenses: drawn from a parent catalogue so that magnitude, size, redshift and seeing tell nothing.

The propensity is the probability that an object with these values is a positive; objects of equal propensity have, on
average, equal values, whatever the number of columns (Rosenbaum & Rubin 1983). One after the other the positives take,
of the free parents within a caliper of the propensity's logit (Austin 2011), the one whose values are nearest
(Rosenbaum & Rubin 1985): with few positives the average alone would leave chance differences. Our distance has each
column in units of its standard deviation; theirs is Mahalanobis's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lensml.catalog import candidates
from lensml.catalog.balance import Balance, compare, pooled_sd

NO_PARENT: Final = "no parent like it"
NO_FREE: Final = "too few free parents within the caliper"

_REACH: Final = 1.0  # pooled standard deviations in every column: beyond it two objects are not alike at all
_KNOTS: Final = 4  # of each column's cubic spline, evenly over the values that positives and parents share
_FREEDOM: Final = 1.0  # inverse of the ridge; with more, few positives explain themselves, and their logits drift away
_STEPS: Final = 1e6  # per unit of logit: the last bits of a matrix product depend on the processor, and decide nothing

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Matched:
    """What was drawn.

    Attributes
    ----------
    rows : rows of the parents, ascending, each once
    partner : (drawn,), the row of the positive that each was drawn for
    unmatched : object_id, found (how many parents), reason of the positives that got fewer than asked for, in the
        positives' order
    balance : how alike they are, before and after
    """

    rows: Rows
    partner: Rows
    unmatched: pl.DataFrame
    balance: Balance


def match(
    positives: pl.DataFrame,
    parents: pl.DataFrame,
    columns: Sequence[str],
    ratio: int,
    caliper: float,
    exclude_arcsec: float,
    seed: int,
    lenses: pl.DataFrame | None = None,
) -> Matched:
    """Draw `ratio` parents of its propensity for each positive, none of them twice.

    Whatever the order of the rows, the same objects are drawn: positives and parents are taken by object_id, and of
    parents equally near the smaller object_id is drawn.

    Parameters
    ----------
    positives, parents : object_id (unique), `columns`, and, where known, ra, dec (deg, ICRS)
    columns : what to balance, numeric; null, not finite, and -1 for a redshift, mean no value
    ratio : at least 1; everyone's first parent is drawn before anyone's second
    caliper : largest difference, in pooled standard deviations of the logit; 0.2 is usual (Austin 2011)
    exclude_arcsec : no parent this near to a positive or a lens is drawn
    seed : of the order in which the positives choose
    lenses : ra, dec (deg, ICRS) of lenses known beside the positives

    Raises
    ------
    ValueError
        A number is out of range; a column is missing, twice named or not numeric; an object_id is not unique; nothing
        is left of a table; positives and parents do not overlap; no parent is within the caliper.
    """
    _check_numbers(columns, ratio, caliper, exclude_arcsec)
    candidates.check(positives, columns, "positives")
    candidates.check(parents, columns, "parents")
    against = candidates.lacking(positives, columns)
    left_out = candidates.unfit(parents, positives, columns, exclude_arcsec, lenses)
    wanted = candidates.usable(positives, against, "positives")
    offered = candidates.usable(parents, left_out, "parents")
    x, y = candidates.values(positives, columns)[wanted], candidates.values(parents, columns)[offered]
    taker, alone = _draw(x, y, ratio, caliper, seed)
    drawn = np.flatnonzero(taker >= 0)
    rows, partner = offered[drawn], wanted[taker[drawn]]
    found = np.bincount(partner, minlength=positives.height)
    against[wanted[alone]] = NO_PARENT
    against[(against == "") & (found < ratio)] = NO_FREE
    told = positives.select("object_id", pl.Series("found", found), pl.Series("reason", against, pl.String))
    compared = compare(columns, x, y, x[taker[drawn]], y[drawn])
    reasons = candidates.counts(against), candidates.counts(left_out)
    order = np.argsort(rows)
    return Matched(
        rows[order],
        partner[order],
        told.filter(pl.col("reason") != ""),
        Balance(compared, len(x), len(y), len(drawn), *reasons),
    )


def nearest_free(x: Floats, y: Floats, logit_x: Rows, logit_y: Rows, choosers: Rows, width: int) -> Rows:
    """Let one positive after the other take the nearest parent that is still free and within its caliper.

    Parameters
    ----------
    x, y : (column, positive) and (column, parent), each column in units of its standard deviation
    logit_x, logit_y : (positive,) and (parent,), in whole steps, so that ties are ties
    choosers : positives in the order in which they choose; may repeat
    width : largest difference of logits

    Returns
    -------
    (parent,), the positive that took each, -1 where none did; of parents equally near the earlier is taken
    """
    order = np.argsort(logit_y, kind="stable")
    level, free = logit_y[order], np.ascontiguousarray(y[:, order])
    begin, end = np.searchsorted(level, logit_x - width), np.searchsorted(level, logit_x + width, side="right")
    taker = np.full(level.size, -1, np.int64)
    for chooser in choosers:
        first = begin[chooser]
        gap = free[:, first : end[chooser]] - x[:, chooser, None]
        distance = np.square(gap, out=gap).sum(axis=0)
        least = distance.min(initial=np.inf)
        if least < np.inf:
            nearest = first + np.flatnonzero(distance == least)
            place = nearest[order[nearest].argmin()]
            taker[order[place]] = chooser
            free[:, place] = np.inf  # taken: infinitely far from everyone
    return taker


def _draw(x: Floats, y: Floats, ratio: int, caliper: float, seed: int) -> tuple[Rows, Bools]:
    """For each parent the position of the positive that it is drawn for, or -1; and the positives without a like."""
    shared, likely = _common_support(x, y)
    logit_x, logit_y = _logits(x[shared], y[likely])
    width = int(caliper * pooled_sd(logit_x, logit_y))
    choosers = np.tile(np.random.default_rng(seed).permutation(logit_x.size), ratio)
    unit = _units(x[shared], y[likely])
    chosen = nearest_free((x[shared] / unit).T, (y[likely] / unit).T, logit_x, logit_y, choosers, width)
    if (chosen < 0).all():
        raise ValueError(f"caliper must let some parents through, got {caliper:g} ({_sizes(x, y)}). Raise it.")
    taker = np.full(len(y), -1, np.int64)
    taker[likely] = np.where(chosen < 0, -1, np.flatnonzero(shared)[chosen])
    return taker, ~shared


def _common_support(x: Floats, y: Floats) -> tuple[Bools, Bools]:
    """Which positives have a parent within reach in every column at once; which parents are within reach of these.

    The others have no say in the regression, where they would weigh most.
    """
    unit = _units(x, y)
    x, y = x / unit, y / unit
    shared = cKDTree(y).query(x, p=np.inf)[0] <= _REACH
    if not shared.any():
        raise ValueError(
            f"positives and parents must overlap, got no parent within {_REACH:g} standard deviation of a positive in "
            f"every column ({_sizes(x, y)}). Check the units, or take other parents."
        )
    low, high = x[shared].min(axis=0), x[shared].max(axis=0)
    return shared, ((low - y <= _REACH) & (y - high <= _REACH)).all(axis=1)


def _logits(x: Floats, y: Floats) -> tuple[Rows, Rows]:
    """Logit of the propensity of positives and parents, in steps: a spline of each column and all products of two.

    The logarithm of the ratio of two Gaussian densities is of this form, whatever their means, widths, correlations.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import PolynomialFeatures, SplineTransformer, StandardScaler

    both = np.concatenate([x, y])
    both = both[:, np.ptp(both, axis=0) > 0]
    if not both.shape[1]:
        return np.zeros(len(x), np.int64), np.zeros(len(y), np.int64)
    terms = make_union(
        SplineTransformer(_KNOTS, include_bias=False),
        PolynomialFeatures(interaction_only=True, include_bias=False),
    )
    # The mean gradient is of the order of the positives' share, which may be one in a million.
    regression = LogisticRegression(C=_FREEDOM, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    model = make_pipeline(StandardScaler(), terms, regression).fit(both, np.arange(len(both)) < len(x))
    logit = np.rint(model.decision_function(both) * _STEPS).astype(np.int64)
    return logit[: len(x)], logit[len(x) :]


def _units(x: Floats, y: Floats) -> Floats:
    """(column,), the pooled standard deviation; 1 where all values are one."""
    unit = np.array([pooled_sd(*pair) for pair in zip(x.T, y.T, strict=True)])
    return np.where(unit > 0, unit, 1.0)


def _sizes(x: Floats, y: Floats) -> str:
    return f"{len(x)} positives, {len(y)} parents"


def _check_numbers(columns: Sequence[str], ratio: int, caliper: float, exclude_arcsec: float) -> None:
    if not columns or len(set(columns)) < len(columns):
        raise ValueError(f"columns must name at least one column, each once, got {list(columns)}. Correct them.")
    if ratio < 1:
        raise ValueError(f"ratio must be at least 1, got {ratio}. Correct it.")
    if not 0 < caliper < math.inf:
        raise ValueError(f"caliper must be positive and finite, got {caliper:g}. 0.2 is usual.")
    if not 0 <= exclude_arcsec <= 648_000:  # half a turn
        raise ValueError(f"exclude_arcsec must be from 0 to 648000, got {exclude_arcsec:g}. Correct it.")
