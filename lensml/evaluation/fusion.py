"""One calibrated probability from the members' logits: a logistic combination fitted on validation.

P(lens) = expit(intercept + sum weight_m * logit_m), with weights >= 0: a member that sees a lens never speaks against
one, however much it repeats what the others say. The fit is the minimum of a convex function: no seed, one answer.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit

from lensml import schema
from lensml.evaluation.metrics import checked
from lensml.store import tables

Floats = NDArray[np.float64]
GRADIENT_TOLERANCE: Final = 1e-10


@dataclass(frozen=True)
class Fusion:
    """The combination: members in the order of their weights, and on how many lenses and non-lenses it was fitted."""

    members: tuple[str, ...]
    weights: tuple[float, ...]
    intercept: float
    n_lens: int
    n_nonlens: int


def gather(scores: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """One row per object, sorted, with each member's logit in the column of its name.

    Raises
    ------
    ContractError
        A member lacks an object that another has, or two members tell an object's label differently.
    """
    names = sorted(scores)
    keys = [name for name in schema.SCORES if name != "logit"]
    gathered = scores[names[0]].sort("object_id").rename({"logit": names[0]})
    for name in names[1:]:
        other = scores[name].sort("object_id")
        if not other.select(keys).equals(gathered.select(keys)):
            raise schema.ContractError(
                f"the scores of {name} and {names[0]} must be of the same objects with the same labels, got others "
                f"({other.height} and {gathered.height} rows). Train both on the same shards."
            )
        gathered = gathered.with_columns(other["logit"].alias(name))
    return gathered


def labels(table: pl.DataFrame) -> NDArray[np.int64]:
    """1 for a lens, 0 for a non-lens, (object,).

    Raises
    ------
    ContractError
        An object has another label.
    """
    other = table.filter(~pl.col("label").is_in(["lens", "nonlens"]))
    if other.height:
        raise schema.ContractError(
            f"a scored object must be labelled lens or nonlens, got {other['label'][0]} ({other['object_id'][0]})."
        )
    return (table["label"] == "lens").to_numpy().astype(np.int64)


def fit(y_true: ArrayLike, logits: Mapping[str, ArrayLike], ridge: float) -> Fusion:
    """Least log loss plus ridge / 2 * |weights|^2, weights not negative.

    Raises
    ------
    ValueError
        There is one class only, or a logit is not finite.
    """
    members = tuple(sorted(logits))
    z = np.stack([checked(y_true, logits[name])[1] for name in members], axis=1)  # (object, member)
    y = np.asarray(y_true, np.int64)
    n_lens, n_nonlens = int(y.sum()), int((1 - y).sum())
    if not n_lens or not n_nonlens:
        raise ValueError(
            f"validation must hold both lenses and non-lenses to fit a fusion, got {n_lens} and {n_nonlens}. "
            "Add labelled objects of the other kind."
        )
    weights, intercept = _minimum(y, z, ridge)
    return Fusion(members, tuple(float(w) for w in weights), intercept, n_lens, n_nonlens)


def _minimum(y: NDArray[np.int64], z: Floats, ridge: float) -> tuple[Floats, float]:
    x = np.column_stack([z, np.ones(len(z))])

    def loss(b: Floats) -> tuple[float, Floats]:
        u = x @ b
        value = np.logaddexp(0, u).sum() - y @ u + ridge / 2 * b[:-1] @ b[:-1]
        return float(value), x.T @ (expit(u) - y) + ridge * np.append(b[:-1], 0)

    start = np.zeros(x.shape[1])
    bounds = [(0.0, None)] * z.shape[1] + [(None, None)]
    options = {"ftol": 0.0, "gtol": GRADIENT_TOLERANCE, "maxiter": 10_000, "maxfun": 20_000}
    best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return best[:-1], float(best[-1])


def apply(fusion: Fusion, logits: Mapping[str, ArrayLike]) -> tuple[Floats, Floats]:
    """The calibrated probability and its logit, each (object,).

    Raises
    ------
    ValueError
        A member's logits are missing.
    """
    missing = [name for name in fusion.members if name not in logits]
    if missing:
        raise ValueError(
            f"a fusion of {', '.join(fusion.members)} needs every member's logits, got none of {', '.join(missing)}. "
            "Run `dvc repro fuse`."
        )
    logit = np.full(np.asarray(logits[fusion.members[0]]).shape, fusion.intercept, float)
    for name, weight in zip(fusion.members, fusion.weights, strict=True):
        logit = logit + weight * np.asarray(logits[name], np.float64)
    return np.asarray(expit(logit)), logit


def write(fusion: Fusion, path: Path) -> None:
    """Write it as JSON."""
    tables.write_json(asdict(fusion), path)


def read(path: Path) -> Fusion:
    """Read it again.

    Raises
    ------
    FileNotFoundError, ContractError
        There is no such file, or it is no fusion.
    """
    value = tables.read_json(path)
    try:
        found = Fusion(
            tuple(value["members"]),
            tuple(float(weight) for weight in value["weights"]),
            float(value["intercept"]),
            int(value["n_lens"]),
            int(value["n_nonlens"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise schema.ContractError(f"{path} must be a fusion, got a fault in {error}. Run `dvc repro fuse`.") from None
    if len(found.members) != len(found.weights):
        raise schema.ContractError(f"{path} must weigh every member, got {found.weights}. Run `dvc repro fuse`.")
    return found
