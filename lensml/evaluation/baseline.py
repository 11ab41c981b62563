"""What size, colour and brightness alone can do: a logistic regression on the catalogue, to hold a network against."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SHAPES = ("half_light_radius", "axis_ratio")


def score(train: pl.DataFrame, test: pl.DataFrame) -> Floats:
    """The test objects' log odds (object,), by a regression on the training objects with terms for each survey.

    Both tables have label, survey, bands, magnitude (one per band), half_light_radius and axis_ratio. A missing value
    becomes the training median of its survey and sets a flag.

    Raises
    ------
    ValueError
        The training objects are all of one class.
    """
    from sklearn.linear_model import LogisticRegression

    y = (train["label"] == "lens").to_numpy()
    if y.all() or not y.any():
        raise ValueError("the training objects must hold both lenses and non-lenses, got one class.")
    surveys = sorted(train["survey"].unique())
    blocks = [_block(train, test, survey) for survey in surveys]
    x_train, x_test = (np.concatenate([block[i] for block in blocks], axis=1) for i in (0, 1))
    model = LogisticRegression(max_iter=10_000).fit(x_train, y)
    return np.asarray(model.decision_function(x_test), np.float64)


def _block(train: pl.DataFrame, test: pl.DataFrame, survey: str) -> tuple[Floats, Floats]:
    """The columns of one survey, standardised on its training objects, zero for the objects of other surveys."""
    own = (train["survey"] == survey).to_numpy()
    bands = list(dict.fromkeys(band for names in train.filter(own)["bands"] for band in names))
    raw = _features(train, bands)
    median = np.array([_median(column) for column in raw[own].T])
    filled = np.where(np.isnan(raw[own]), median, raw[own])
    centre, scale = filled.mean(axis=0), filled.std(axis=0)
    scale[scale == 0] = 1

    def columns(table: pl.DataFrame) -> Floats:
        values = _features(table, bands)
        flags = np.isnan(values)
        inside = (table["survey"] == survey).to_numpy()[:, None]
        x = (np.where(flags, median, values) - centre) / scale
        return np.where(inside, np.concatenate([x, flags, inside], axis=1), 0.0)

    return columns(train), columns(test)


def _features(table: pl.DataFrame, bands: list[str]) -> Floats:
    """Magnitudes, colours of neighbouring bands and shape: (object, feature), NaN where missing."""
    magnitudes = np.full((table.height, len(bands)), np.nan)
    for row, (names, values) in enumerate(zip(table["bands"], table["magnitude"], strict=True)):
        for name, value in zip(names, values, strict=True):
            if name in bands and value is not None:
                magnitudes[row, bands.index(name)] = value
    shapes = table.select(pl.col(name).cast(pl.Float64).fill_null(float("nan")) for name in SHAPES).to_numpy()
    return np.concatenate([magnitudes, np.diff(magnitudes, axis=1), shapes], axis=1)


def _median(column: Floats) -> float:
    known = column[~np.isnan(column)]
    return float(np.median(known)) if known.size else 0.0
