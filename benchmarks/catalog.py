"""Seconds and memory of labels and split for 300,000 objects: `python -m benchmarks.catalog`."""

import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lensml import config, paths, schema
from lensml.catalog import leaks, one_sided, provenance, split

OBJECTS = 300_000
SECONDS = 60.0
GIGABYTES = 2.0
SURVEYS = {"hsc": 0.168, "des": 0.263, "euclid": 0.1, "hst": 0.05}


def evidence(source: str, count: int, rng: np.random.Generator) -> pl.DataFrame:
    """Claims of a source: a tenth disputed, a fifth with a shared host, half on a sky that reuses its sight-lines."""
    label = rng.choice(["lens", "nonlens"], count)
    host = np.where(rng.random(count) < 0.2, rng.integers(0, count // 4, count), -1)
    sight_line = rng.integers(0, count // 3, count)
    seen = rng.random(count) < 0.5
    claims = pl.DataFrame(
        {
            "object_id": pl.Series([f"{source}.{n:07d}" for n in range(count)]),
            "survey": rng.choice(list(SURVEYS), count),
            "label": label,
            "label_source": "sim:benchmark",
            "label_confidence": 1.0,
            "parent": [f"{source}-host{h}" if h >= 0 else "" for h in host],
            "frame": np.where(seen, "icrs", ""),
            "ra": pl.Series(np.where(seen, sight_line * 0.7 % 360 + rng.normal(0, 1e-5, count), np.nan)).fill_nan(None),
            "dec": pl.Series(np.where(seen, sight_line * 0.37 % 140 - 70, np.nan)).fill_nan(None),
        }
    ).with_columns(pl.lit(source).alias("source"))
    claims = claims.with_columns(
        *(pl.lit("").alias(n) for n in ("grade", "kind")),
        *(pl.lit(None, pl.Float64).alias(n) for n in ("flux_ratio", "theta_e_arcsec")),
    )
    other = pl.when(pl.col("label") == "lens").then(pl.lit("nonlens")).otherwise(pl.lit("lens")).alias("label")
    disputed = claims[: count // 10].with_columns(other, pl.lit("obs:benchmark").alias("label_source"))
    return pl.concat([claims, disputed]).select(*schema.EVIDENCE)


def catalogue(labels: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Facts of converted objects, five bands each."""
    count = labels.height
    facts: dict[str, Any] = {name: [None] * count for name in schema.CATALOGUE}
    facts |= {name: labels[name] for name in ("object_id", "source", "survey")}
    facts["pixel_scale"] = labels["survey"].replace_strict(SURVEYS)
    facts |= {name: rng.uniform(0.1, 1.5, count) for name in ("psf_fwhm", "seeing")}
    facts |= {
        "z_phot": rng.gamma(2.0, 0.4, count),
        "z_spec": np.full(count, -1.0),
        "quality": rng.uniform(0.6, 1, count),
    }
    facts["magnitude"] = pl.Series(rng.normal(21, 1, (count, 5)), dtype=pl.Array(pl.Float64, 5)).arr.to_list()
    return pl.DataFrame(facts, schema=schema.CATALOGUE, strict=False)


def main() -> int:
    """Print seconds and peak memory; 1 where a limit is broken."""
    params = config.load(Path(paths.PARAMS))
    rng = np.random.default_rng(0)
    parts = {name: evidence(name, OBJECTS // 3, rng) for name in ("a", "b", "c")}
    begin = time.perf_counter()
    decision = provenance.resolve(provenance.gather(parts), params.label_provenance)
    one_sided.refuse_one_sided(decision.labels, params.label_provenance)
    labelled = time.perf_counter()
    facts = catalogue(decision.labels, rng)
    ready = time.perf_counter()
    made = split.make(decision.labels, facts, params.split)
    leaks.audit(made, decision.labels, params.split.same_sky_arcsec)
    done = time.perf_counter()
    seconds = labelled - begin + done - ready
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform != "darwin" else 1024**3)
    claims, disputed = sum(part.height for part in parts.values()), decision.conflicts.height
    print(f"labels: {claims:,} claims, {OBJECTS:,} objects, {disputed:,} conflicts, {labelled - begin:.1f} s")
    print(
        f"split:  {made['group_id'].n_unique():,} groups, {made['stratum'].n_unique():,} strata, {done - ready:.1f} s"
    )
    print(f"both:   {seconds:.1f} s (limit {SECONDS:g}), {peak:.2f} GiB at most (limit {GIGABYTES:g})")
    return int(seconds > SECONDS or peak > GIGABYTES)


if __name__ == "__main__":
    sys.exit(main())
