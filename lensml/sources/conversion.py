"""From a work unit of a source to 16-bit codes, and the account of a whole conversion: refusals, noise, code errors."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from joblib import Parallel, delayed
from tqdm import tqdm

from lensml import config
from lensml.imaging.cutouts import calibrate
from lensml.sources.kind import SourceKind
from lensml.store import quantisation
from lensml.store.stamps import Encoded, Stamps, encode

Errors = dict[tuple[str, str], tuple[float, float]]  # (survey, band) -> largest faint, largest bright


@dataclass(frozen=True)
class Converted:
    """One work unit: batches of one form each, the refused, and the largest errors of the code."""

    encoded: list[Encoded]
    refused: list[tuple[str, str]]
    errors: Errors


@dataclass
class Account:
    """What happened to every object of a source."""

    refused: list[tuple[str, str]] = field(default_factory=list)
    errors: Errors = field(default_factory=dict)
    noise: list[pl.DataFrame] = field(default_factory=list)

    def add(self, converted: Converted) -> None:
        self.refused += converted.refused
        columns = ("survey", "bands", "sky_sigma", "sky_sigma_over_plane", "noise_correlation")
        self.noise += [part.catalogue.select(columns) for part in converted.encoded]
        _largest(self.errors, converted.errors)

    def check(self, source: str, refused_max: float) -> None:
        """Raise ValueError when a larger share than `refused_max` was refused, or nothing is left."""
        count = self._converted + len(self.refused)
        if len(self.refused) > refused_max * count or not self._converted:
            reasons = Counter(reason for _, reason in self.refused).most_common(3)
            words = "; ".join(f"{times} x {reason}" for reason, times in reasons) or "the source has no objects"
            raise ValueError(
                f"refused objects of {source} must be at most {refused_max:.0%} (convert.refused_max), "
                f"got {len(self.refused)} of {count}: {words}."
            )

    def report(self) -> dict[str, Any]:
        """For metrics/: counts, every refused object with its reason, and per survey and band noise and code errors."""
        return {
            "objects": self._converted + len(self.refused),
            "converted": self._converted,
            "refused": [{"object_id": name, "reason": reason} for name, reason in sorted(self.refused)],
            "bands": self._bands(),
        }

    @property
    def _converted(self) -> int:
        return sum(part.height for part in self.noise)

    def _bands(self) -> dict[str, dict[str, Any]]:
        if not self.noise:
            return {}
        lists = ["bands", "sky_sigma", "sky_sigma_over_plane", "noise_correlation"]
        long = pl.concat(self.noise).explode(lists).rename({"bands": "band"})
        table = long.group_by("survey", "band").agg(
            pl.len().alias("objects"),
            pl.col("sky_sigma").median().alias("sky_sigma_nJy_median"),
            pl.col("sky_sigma").min().alias("sky_sigma_nJy_min"),
            pl.col("sky_sigma").max().alias("sky_sigma_nJy_max"),
            pl.col("sky_sigma_over_plane").median().alias("sky_sigma_over_plane_median"),
            pl.col("noise_correlation").median().alias("noise_correlation_median"),
        )
        found: dict[str, dict[str, Any]] = {}
        for row in table.sort("survey", "band").to_dicts():
            survey, band = row.pop("survey"), row.pop("band")
            faint, bright = self.errors[survey, band]
            codes = {"code_error_faint_sky_sigma_max": faint, "code_error_bright_relative_max": bright}
            found.setdefault(survey, {})[band] = row | codes
        return found


def convert_all(
    kind: SourceKind, source: str, raw: Path, surveys: dict[str, config.Survey], convert: config.Convert
) -> Iterator[Converted]:
    """Every work unit of a source, converted by `convert.jobs` processes, in the units' order whatever their number.

    Raises
    ------
    ValueError, OSError
        The raw folder is broken as a whole; see the source's `batches` and `read`.
    """
    units = kind.batches(source, raw, convert)
    parallel = Parallel(n_jobs=convert.jobs, return_as="generator", batch_size=1)
    done = parallel(delayed(convert_unit)(kind, source, raw, unit, surveys, convert) for unit in units)
    yield from tqdm(done, f"convert {source}", total=len(units), unit=" batches", disable=None)


def convert_unit(
    kind: SourceKind, source: str, raw: Path, unit: Any, surveys: dict[str, config.Survey], convert: config.Convert
) -> Converted:
    """Read, calibrate and encode one work unit."""
    read = kind.read(source, raw, unit, surveys, convert)
    refused, encoded, errors = list(read.refused), [], Errors()
    for cutouts in read.cutouts:
        stamps, reasons = calibrate(cutouts, surveys[cutouts.survey], convert)
        refused += reasons
        if stamps.catalogue.height:
            encoded.append(encode(stamps))
            _largest(errors, code_errors(stamps, encoded[-1]))
    return Converted(encoded, refused, errors)


def code_errors(stamps: Stamps, encoded: Encoded) -> Errors:
    """Per band the largest error of the code: over sky sigma below 1 sky sigma, over the flux above."""
    decoded = quantisation.decode_flux(encoded.codes["flux"], stamps.sky_sigma)
    sigma = stamps.sky_sigma.astype(np.float32)[..., None, None]
    error, size = np.abs(decoded - stamps.flux) / sigma, np.abs(stamps.flux) / sigma
    faint = np.where(size <= 1, error, 0).max(axis=(0, 2, 3))
    bright = (error / np.maximum(size, 1) * (size > 1)).max(axis=(0, 2, 3))
    return {(stamps.survey, b): (float(faint[k]), float(bright[k])) for k, b in enumerate(stamps.bands)}


def _largest(errors: Errors, more: Errors) -> None:
    for key, (faint, bright) in more.items():
        before = errors.get(key, (0.0, 0.0))
        errors[key] = max(before[0], faint), max(before[1], bright)
