"""Sources that have one label only teach the source, not the sky: refused unless told otherwise."""

import polars as pl

from lensml import config


def refuse_one_sided(labels: pl.DataFrame, rules: config.LabelProvenance) -> None:
    """Check the objects that are for classification, source by source and as a whole.

    Parameters
    ----------
    labels : schema.LABEL_TABLE

    Raises
    ------
    ValueError
        There is nothing to tell apart; a source that is not allowed to be one-sided is; a source allowed to be has no
        labels at all; or over all sources the label follows from the source. The message names the source.
    """
    table = _by_source(labels)
    _refuse_unlabelled(table, rules)
    _refuse_sources(table, rules)
    guess = guess_from_source(labels)
    if guess > rules.one_sided_limit:
        counts = "; ".join(_words(row) for row in table.filter(pl.col("lens") + pl.col("nonlens") > 0).to_dicts())
        raise ValueError(
            f"labels must not follow from the source, got a source that tells lens from nonlens with balanced accuracy "
            f"{guess:.3f} > label_provenance.one_sided_limit {rules.one_sided_limit:g} ({counts}). "
            f"Add a source that has both labels in number."
        )


def guess_from_source(labels: pl.DataFrame) -> float:
    """Balanced accuracy of the best guess of the label from the source alone: 0.5 nothing told, 1 everything.

    It is (1 + total variation distance between the sources of the lenses and of the non-lenses) / 2, so a rare label
    does not hide it; 0.5 where a label is absent.
    """
    table = _by_source(labels)
    lens, nonlens = table["lens"].to_numpy(), table["nonlens"].to_numpy()
    if not lens.sum() or not nonlens.sum():
        return 0.5
    return float(0.5 + 0.25 * abs(lens / lens.sum() - nonlens / nonlens.sum()).sum())


def _by_source(labels: pl.DataFrame) -> pl.DataFrame:
    """Columns source, lens, nonlens (objects to classify), pretrain, report (objects of that use)."""
    use, classify = pl.col("use"), pl.col("use") == "classify"
    return (
        labels.group_by("source")
        .agg(
            *((classify & (pl.col("label") == name)).sum().alias(name) for name in ("lens", "nonlens")),
            *((use == name).sum().alias(name) for name in ("pretrain", "report")),
        )
        .sort("source")
    )


def _refuse_unlabelled(table: pl.DataFrame, rules: config.LabelProvenance) -> None:
    for label in ("lens", "nonlens"):
        if not table[label].sum():
            raise ValueError(
                f"sources must hold objects labelled {label}, got none ({'; '.join(map(_words, table.to_dicts()))}). "
                f"Add a source with {label} labels of at least label_provenance.confidence_min."
            )
    for name in rules.one_sided_allowed:
        row = table.filter(pl.col("source") == name).to_dicts()
        if not row or not row[0]["lens"] + row[0]["nonlens"]:
            got = _words(row[0]) if row else f"{name}, which is no source"
            raise ValueError(
                f"label_provenance.one_sided_allowed must name sources with labels, got {got}. "
                f"A source without labels is never classified: remove it from the list."
            )


def _refuse_sources(table: pl.DataFrame, rules: config.LabelProvenance) -> None:
    for row in table.filter(~pl.col("source").is_in(rules.one_sided_allowed)).to_dicts():
        total = row["lens"] + row["nonlens"]
        share = max(row["lens"], row["nonlens"]) / total if total else 0.0
        if share > rules.one_sided_limit:
            missing = "nonlens" if row["lens"] > row["nonlens"] else "lens"
            raise ValueError(
                f"source {row['source']} must hold both labels, got {_words(row)}: a share of {share:.3f} > "
                f"label_provenance.one_sided_limit {rules.one_sided_limit:g}. Add {missing} objects to it, or, if this "
                f"is meant, add {row['source']} to label_provenance.one_sided_allowed."
            )


def _words(row: dict[str, int]) -> str:
    extra = "".join(f", {row[use]} for {use}" for use in ("pretrain", "report") if row[use])
    return f"{row['source']} with {row['lens']} lens and {row['nonlens']} nonlens{extra}"
