"""An evaluation in a few lines to read."""

from collections.abc import Mapping
from typing import Any, Final

from lensml import config
from lensml.evaluation import metrics

# What two runs are compared by; each with the ends of its interval where it has one.
HEADLINE: Final = (
    *("auroc", "auprc", "tpr_at_fpr_0", "tpr10", "tpr_at_fpr_0.01", "tpr_at_fpr_0.1"),
    *("low_flux_fnr", "ece", "n_lens", "n_nonlens", "comparable_with_challenge"),
)


def headline(report: Mapping[str, Any]) -> dict[str, Any]:
    """The few figures of `strata.report` that one compares runs by, by kind of label."""
    return {kind: _headline(part) for kind, part in report.items()}


def _headline(part: Mapping[str, Any]) -> dict[str, Any]:
    names = [name + end for name in HEADLINE for end in ("", "_low", "_high") if name + end in part]
    aurocs = {f"auroc_{name}": member["auroc"] for name, member in part["members"].items()}
    return {name: part[name] for name in names} | aurocs | {"auroc_catalogue": part["baseline"]["auroc"]}


def text(report: Mapping[str, Any], params: config.Evaluate) -> str:
    """The figures of `strata.report`, by kind of label, and what to worry about."""
    return "\n".join(line for kind, part in report.items() for line in _kind(kind, part, params))


def _kind(kind: str, part: Mapping[str, Any], params: config.Evaluate) -> list[str]:
    gain = part["gain_over_best_member"]
    aurocs = {"members": part["members"], "surveys": part["by_survey"]}
    lines = [
        f"{kind} labels: {metrics.format_bologna_metrics(part)}",
        f"  {'ece':<18} {_number(part['ece'])}{_interval(part, 'ece')}",
        *(
            f"  auroc, {by}: " + ", ".join(f"{k} {_number(v['auroc'])}" for k, v in of.items())
            for by, of in aurocs.items()
        ),
        f"  auroc, fusion over {gain['best_member']}: {_signed(gain['auroc'])}{_interval(gain, 'auroc')}",
        f"  auroc, regression on the catalogue: {_number(part['baseline']['auroc'])}",
    ]
    if part["low_flux_fnr_too_high"]:
        lines.append(
            f"  WARNING: {part['low_flux_fnr']:.0%} of the {part['low_flux_n_lens']} lenses with a flux ratio below "
            f"{params.flux_ratio_edges[0]} are missed at a false-positive rate of 0.1; more than "
            f"{params.low_flux_fnr_warning:.0%} is too many."
        )
    return lines


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(part: Mapping[str, Any], name: str) -> str:
    return "" if part[f"{name}_low"] is None else f"  [{part[f'{name}_low']:.4f}, {part[f'{name}_high']:.4f}]"
