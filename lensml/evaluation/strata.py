"""Figures of a test set: simulated and real labels apart, and within each by survey, flux ratio and redshift."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tqdm import tqdm

from lensml import config
from lensml.evaluation import bootstrap, calibration, metrics, purity
from lensml.evaluation.fusion import labels

KINDS: Final = ("simulated", "real")
CALLED: Final = 0.0  # the logit above which a probability is above one half
HALF: Final = 0.5  # the completeness at which surveys quote their purity
DIGITS: Final = 6

Weights = NDArray[np.int64]


@dataclass(frozen=True)
class Rules:
    """How figures and intervals are made."""

    evaluate: config.Evaluate
    redshift_bins: int

    def figures(self, table: pl.DataFrame, statistic: bootstrap.Statistic) -> dict[str, Any]:
        """Each figure of the table with its interval."""
        p = self.evaluate
        return dict(bootstrap.figures(statistic, table["group_id"], p.bootstrap_draws, p.confidence_level, p.seed))

    def stratum(self, table: pl.DataFrame, statistic: bootstrap.Statistic) -> dict[str, Any]:
        """The same, and how many of each kind it stands on."""
        y = labels(table)
        return {"n_lens": int(y.sum()), "n_nonlens": int((1 - y).sum()), **self.figures(table, statistic)}


def label_kind() -> pl.Expr:
    """Whether an object's label is simulated or real."""
    return pl.when(pl.col("label_source").str.starts_with("sim:")).then(pl.lit("simulated")).otherwise(pl.lit("real"))


def report(table: pl.DataFrame, members: list[str], rules: Rules) -> dict[str, Any]:
    """All figures, by kind of label first: never a figure over simulated and real labels together.

    The table has object_id, group_id, survey, label, label_source, flux_ratio, z_phot, logit, probability, baseline and
    a column of logits per member.
    """
    kinds = table.with_columns(label_kind().alias("label_kind"))
    found = {}
    for kind in tqdm(KINDS, desc="intervals", unit="kind", disable=None):
        part = kinds.filter(pl.col("label_kind") == kind)
        if part.height:
            found[kind] = rounded(_kind(part, members, rules))
    return found


def _kind(table: pl.DataFrame, members: list[str], rules: Rules) -> dict[str, Any]:
    threshold = metrics.compute_tpr_at_fpr(labels(table), table["logit"], 0.1)[1]
    return {
        **rules.stratum(table, _all(table, rules.evaluate)),
        "comparable_with_challenge": metrics.comparable(int((table["label"] == "nonlens").sum())),
        "threshold_at_fpr_0.1": _finite(threshold),
        **_low_flux(table, threshold, rules),
        **_compared(table, members, rules),
        "by_survey": _by(table, pl.col("survey"), lambda part: rules.stratum(part, _brief(part))),
        "by_flux_ratio": _by_flux_ratio(table, threshold, rules),
        "by_redshift": _by_redshift(table, rules),
    }


def _all(table: pl.DataFrame, params: config.Evaluate) -> bootstrap.Statistic:
    y, logit, p = labels(table), table["logit"].to_numpy(), table["probability"].to_numpy()
    figures = {
        **metrics.FIGURES,
        "accuracy": metrics.accuracy(CALLED),
        "purity_at_completeness_0.5": purity.purity_at_completeness(HALF, params.prevalence),
        "purity_one_more_fp_at_completeness_0.5": purity.purity_at_completeness(HALF, params.prevalence, 1),
    }

    def statistic(weights: Weights) -> bootstrap.Draws:
        counts = metrics.count(y, logit, weights)
        found = {name: figure(counts) for name, figure in figures.items()}
        ece = calibration.ece(y, p, params.calibration_bins, weights)
        return {**found, "ece": ece, "brier": calibration.brier(y, p, weights)}

    return statistic


def _brief(table: pl.DataFrame) -> bootstrap.Statistic:
    """What a stratum is told by: few figures, so that a comparison of two runs stays readable."""
    y, logit = labels(table), table["logit"].to_numpy()

    def statistic(weights: Weights) -> bootstrap.Draws:
        counts = metrics.count(y, logit, weights)
        return {"auroc": metrics.auroc(counts), "accuracy": metrics.accuracy(CALLED)(counts)}

    return statistic


def _ranking(table: pl.DataFrame, column: str) -> bootstrap.Statistic:
    y, score = labels(table), table[column].to_numpy()

    def statistic(weights: Weights) -> bootstrap.Draws:
        counts = metrics.count(y, score, weights)
        return {"auroc": metrics.auroc(counts), "tpr_at_fpr_0.01": metrics.FIGURES["tpr_at_fpr_0.01"](counts)}

    return statistic


def _compared(table: pl.DataFrame, members: list[str], rules: Rules) -> dict[str, Any]:
    """Each member and the baseline, and the fusion less the member of the highest AUROC, all on the same draws."""
    rankings = {name: _ranking(table, name) for name in (*members, "baseline", "logit")}
    whole = {name: bootstrap.point(rankings[name], table.height)["auroc"] for name in members}
    best = max(sorted(members), key=lambda name: np.nan_to_num(whole[name]), default=None)

    def statistic(weights: Weights) -> bootstrap.Draws:
        each = {name: ranking(weights) for name, ranking in rankings.items()}
        fused = each.pop("logit")
        if best is not None:
            each["gain"] = {name: value - each[best][name] for name, value in fused.items()}
        return {f"{name}/{figure}": value for name, found in each.items() for figure, value in found.items()}

    flat = rules.figures(table, statistic)
    found: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        name, figure = key.split("/")
        found.setdefault(name, {})[figure] = value
    gain = {"best_member": best, **found.pop("gain", {})}
    return {"baseline": found.pop("baseline"), "gain_over_best_member": gain, "members": found}


def _low_flux(table: pl.DataFrame, threshold: float | None, rules: Rules) -> dict[str, Any]:
    """The share of lenses of low flux ratio missed at a false-positive rate of 0.1, and whether that is too many."""
    bins = metrics.flux_ratio_bins(_floats(table["flux_ratio"]), _edges(rules.evaluate))
    low = table.filter((pl.col("label") == "lens") & pl.Series(bins == "low"))
    if threshold is None or not low.height:
        return {"low_flux_fnr": None, "low_flux_n_lens": low.height, "low_flux_fnr_too_high": False}
    found = rules.figures(low, _missed(low, threshold))
    too_high = found["fnr"] > rules.evaluate.low_flux_fnr_warning
    ends = {f"low_flux_fnr{end}": found[f"fnr{end}"] for end in ("", "_low", "_high")}
    return {**ends, "low_flux_n_lens": low.height, "low_flux_fnr_too_high": too_high}


def _missed(table: pl.DataFrame, threshold: float) -> bootstrap.Statistic:
    y, logit = labels(table), table["logit"].to_numpy()
    return lambda weights: {"fnr": 1 - metrics.tpr_above(threshold)(metrics.count(y, logit, weights))}


def _by_flux_ratio(table: pl.DataFrame, threshold: float | None, rules: Rules) -> dict[str, Any]:
    """Each bin's lenses against all non-lenses, which have no flux ratio; missed at a false-positive rate of 0.1."""
    bins = pl.Series("bin", metrics.flux_ratio_bins(_floats(table["flux_ratio"]), _edges(rules.evaluate)))
    others, lenses = (
        table.filter(pl.col("label") == "nonlens"),
        table.with_columns(bins).filter(pl.col("label") == "lens"),
    )

    def figures(part: pl.DataFrame) -> dict[str, Any]:
        both = pl.concat([part, others])
        missed = {} if threshold is None else rules.figures(part, _missed(part, threshold))
        return {**missed, **rules.stratum(both, lambda w: {"auroc": _ranking(both, "logit")(w)["auroc"]})}

    return _by(lenses, pl.col("bin"), lambda part: figures(part.drop("bin")))


def _by_redshift(table: pl.DataFrame, rules: Rules) -> dict[str, Any]:
    """Bins of equal mass in the photometric redshift, the first the nearest, and "missing"."""
    z = _floats(table["z_phot"])
    known = z[z >= 0]
    name = np.full(z.size, "missing", dtype="U16")
    edges = np.quantile(known, np.linspace(0, 1, rules.redshift_bins + 1)) if known.size else np.empty(0)
    name[z >= 0] = (np.searchsorted(edges[1:-1], known, side="right") + 1).astype(str) if known.size else "missing"

    def figures(part: pl.DataFrame) -> dict[str, Any]:
        ends = {} if part["bin"][0] == "missing" else {"z_from": part["z_phot"].min(), "z_to": part["z_phot"].max()}
        return {**ends, **rules.stratum(part, _brief(part))}

    return _by(table.with_columns(pl.Series("bin", name)), pl.col("bin"), figures)


def _by(table: pl.DataFrame, key: pl.Expr, figures: Callable[[pl.DataFrame], dict[str, Any]]) -> dict[str, Any]:
    keyed = table.with_columns(key.alias("key"))
    return {str(k): figures(keyed.filter(pl.col("key") == k).drop("key")) for k in sorted(keyed["key"].unique())}


def _edges(params: config.Evaluate) -> tuple[float, float]:
    return params.flux_ratio_edges[0], params.flux_ratio_edges[1]


def _floats(column: pl.Series) -> NDArray[np.float64]:
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else value


def rounded(value: Any) -> Any:
    """The same with every float rounded to six digits after the point, as the metrics file holds them."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(value, DIGITS) if isinstance(value, float) else value
