"""The seven factors that a split is balanced in, and what becomes of combinations that are rare."""

from typing import Final

import numpy as np
import polars as pl

from lensml import config

FACTORS: Final = ("label", "survey", "pixel_scale", "redshift", "magnitude", "psf_fwhm", "seeing")  # dearest first
CLASSES: Final = ("mixed with few lenses", "mixed in equal parts", "mixed with many lenses", "lens", "nonlens")
MISSING: Final = "?"
_DIGITS: Final = 6  # of an arcsec: what a WCS computes as 0.0999999999 is 0.1


def factors(groups: pl.DataFrame, split: config.Split) -> pl.DataFrame:
    """The seven factors as words, one row per group.

    Parameters
    ----------
    groups : lens, nonlens (members with that label), and of the group's first member survey, pixel_scale, z_spec,
        z_phot, magnitude (list), psf_fwhm, seeing
    """
    redshift = pl.coalesce(pl.when(pl.col(z) >= 0).then(z) for z in ("z_spec", "z_phot"))
    values = groups.with_columns(redshift.alias("redshift"), pl.col("magnitude").list.drop_nulls().list.median())
    edges = {
        "pixel_scale": split.pixel_scale_edges,
        "psf_fwhm": split.psf_fwhm_edges,
        "seeing": split.seeing_edges,
    }
    return pl.DataFrame(
        [
            groups.select(_label_class().alias("label"))["label"],
            groups["survey"],
            _words(values["pixel_scale"], _between(values["pixel_scale"], edges["pixel_scale"])),
            _words(values["redshift"], _equal_parts(values["redshift"], split.redshift_bins)),
            _words(values["magnitude"], _equal_parts(values["magnitude"], split.magnitude_bins)),
            _words(values["psf_fwhm"], _between(values["psf_fwhm"], edges["psf_fwhm"])),
            _words(values["seeing"], _between(values["seeing"], edges["seeing"])),
        ]
    )


def merge_rare(table: pl.DataFrame, least: int) -> pl.Series:
    """The stratum of each group: its factors joined, the last ones as `*` where they alone would be rare.

    A combination of fewer than `least` groups is merged with the other rare ones that differ in the last factor only,
    then in the last two, and so on; the label is never merged.
    """
    work = table.with_columns(pl.lit(None, pl.String).alias("stratum"))
    for kept in range(len(FACTORS), 0, -1):
        stars = [pl.lit("*") for _ in FACTORS[kept:]]
        key = pl.concat_str(*FACTORS[:kept], *stars, separator="|")
        free = pl.col("stratum").is_null()
        enough = free.sum().over(FACTORS[:kept]) >= (least if kept > 1 else 0)
        work = work.with_columns(pl.when(free & enough).then(key).otherwise("stratum").alias("stratum"))
    return work["stratum"]


def _label_class() -> pl.Expr:
    lens, nonlens = pl.col("lens"), pl.col("nonlens")
    few, equal, many, pure_lens, pure_nonlens = (pl.lit(name) for name in CLASSES)
    mixed = pl.when(lens < nonlens).then(few).when(lens == nonlens).then(equal).otherwise(many)
    return pl.when(nonlens == 0).then(pure_lens).when(lens == 0).then(pure_nonlens).otherwise(mixed)


def _between(values: pl.Series, edges: list[float]) -> pl.Series:
    """Bins with their edges in the middle ones: [0.8, 1.2] gives < 0.8, 0.8 to 1.2, > 1.2."""
    inner, last = sorted(edges)[:-1], sorted(edges)[-1:]
    rounded = values.round(_DIGITS)
    bins = sum(((rounded >= edge).cast(pl.Int64) for edge in inner), start=pl.zeros(len(values), pl.Int64, eager=True))
    return bins + sum((rounded > edge).cast(pl.Int64) for edge in last)


def _equal_parts(values: pl.Series, bins: int) -> pl.Series:
    """Bins of equal numbers, as far as equal values allow."""
    known = values.drop_nulls().to_numpy()
    edges = np.unique(np.quantile(known, np.arange(1, bins) / bins)) if known.size and bins > 1 else np.zeros(0)
    found = np.searchsorted(edges, values.fill_null(0).to_numpy(), side="right")
    return pl.Series(found, dtype=pl.Int64)


def _words(values: pl.Series, bins: pl.Series) -> pl.Series:
    name = values.name
    table = pl.DataFrame({"value": values, "bin": bins})
    known = pl.col("value").is_not_null() & pl.col("value").is_not_nan()
    return table.select(pl.when(known).then(pl.col("bin").cast(pl.String)).otherwise(pl.lit(MISSING)).alias(name))[name]
