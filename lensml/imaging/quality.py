"""How far a stamp can be trusted: one score in [0, 1], and what lowers it most.

The score is the product of four, each of the worst band: the share of good pixels within the image's edges; how much
of the stamp lies beyond them; how much of the aperture is saturated; how much noisier the sky is than the survey's.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lensml import config
from lensml.imaging import photometry

WORDS: Final = ("bad pixels", "edge", "saturation", "shallow")  # in the order of `Scores`

PerObject = NDArray[np.float64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Scores:
    """Per object: the product, and which of WORDS is lowest ("" where all are 1)."""

    quality: PerObject
    limit: list[str]


def score(
    bad: Bool,
    saturated: Bool | None,
    shallowness: NDArray[np.float64],
    pixel_scale: PerObject,
    rules: config.Quality,
) -> Scores:
    """Score stamps.

    Parameters
    ----------
    bad, saturated : (object, band, y, x); saturated None: nothing is known of it
    shallowness : (object, band), sky sigma over the survey's typical one; not finite counts as 1
    pixel_scale : (object,) arcsec
    """
    beyond = _beyond_edge(bad)
    inside = ~beyond
    good = (~bad & inside).sum(axis=(-2, -1)) / np.maximum(inside.sum(axis=(-2, -1)), 1)
    parts = np.stack(
        [
            good.min(axis=1),
            _falling(beyond.mean(axis=(-2, -1)).max(axis=1), 0.0, rules.edge_max),
            _falling(_saturated_share(saturated, pixel_scale, rules), 0.0, rules.saturated_max),
            _falling(np.log(_finite(shallowness)).max(axis=1), *np.log(rules.shallow)),
        ]
    )
    worst = parts.argmin(axis=0)
    words = [WORDS[k] if parts[k, row] < 1 else "" for row, k in enumerate(worst.tolist())]
    return Scores(parts.prod(axis=0), words)


def _falling(value: PerObject, full: float, none: float) -> PerObject:
    """1 up to `full`, 0 from `none` on, linear between."""
    return np.clip((none - value) / (none - full), 0, 1)


def _beyond_edge(bad: Bool) -> Bool:
    """Whole rows and columns of bad pixels that reach the stamp's border: there the image ended."""
    rows, columns = np.asarray(bad.all(axis=-1)), np.asarray(bad.all(axis=-2))
    y, x = (np.logical_and.accumulate(lines, axis=-1) for lines in (rows, columns))
    y |= np.logical_and.accumulate(rows[..., ::-1], axis=-1)[..., ::-1]
    x |= np.logical_and.accumulate(columns[..., ::-1], axis=-1)[..., ::-1]
    return np.asarray(y[..., :, None] | x[..., None, :])


def _saturated_share(saturated: Bool | None, pixel_scale: PerObject, rules: config.Quality) -> PerObject:
    if saturated is None:
        return np.zeros(len(pixel_scale))
    weight = photometry.aperture((saturated.shape[-2], saturated.shape[-1]), rules.aperture_arcsec / pixel_scale)
    share = np.einsum("obyx,oyx->ob", saturated, weight) / np.maximum(weight.sum(axis=(1, 2)), 1)[:, None]
    return np.asarray(share.max(axis=1), dtype=np.float64)


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(values) & (values > 0), values, 1.0)
