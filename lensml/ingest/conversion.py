"""From a work unit of a source to 16-bit codes, and the account of a whole conversion: refusals, noise, PSF, errors."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from lensml import config
from lensml.imaging.cutouts import calibrate
from lensml.ingest.kind import SourceKind
from lensml.store import quantisation
from lensml.store.parallel import in_order
from lensml.store.sketch import Sketch
from lensml.store.stamps import Encoded, Stamps, encode

Errors = dict[tuple[str, str], tuple[float, float]]  # (survey, band) -> largest faint, largest bright

_MEASURED: Final = {  # column of the catalogue -> its name in the report, and the quantiles that are given
    "sky_sigma": ("sky_sigma_nJy", {"min": 0.0, "median": 0.5, "max": 1.0}),
    "sky_sigma_over_plane": ("sky_sigma_over_plane", {"median": 0.5}),
    "variance_scale": ("variance_scale", {"median": 0.5}),
    "noise_correlation": ("noise_correlation", {"median": 0.5}),
    "fwhm_halfmax": ("fwhm_halfmax_arcsec", {"median": 0.5}),
    "fwhm_moment": ("fwhm_moment_arcsec", {"median": 0.5}),
}


@dataclass(frozen=True)
class Converted:
    """One work unit: batches of one form each, the refused, and the largest errors of the code."""

    encoded: list[Encoded]
    refused: list[tuple[str, str]]
    errors: Errors


@dataclass
class Account:
    """What happened to every object of a source; memory grows with the refused only."""

    refused: list[tuple[str, str]] = field(default_factory=list)
    errors: Errors = field(default_factory=dict)
    converted: int = 0
    limits: Counter[str] = field(default_factory=Counter)  # what keeps stamps below full quality
    origins: dict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    measured: dict[tuple[str, str, str], Sketch] = field(default_factory=lambda: defaultdict(Sketch))

    def add(self, converted: Converted) -> None:
        self.refused += converted.refused
        _largest(self.errors, converted.errors)
        for part in converted.encoded:
            self._add(part)

    def _add(self, part: Encoded) -> None:
        table = part.catalogue
        survey, bands = table["survey"][0], table["bands"][0].to_list()
        self.converted += table.height
        self.limits.update(limit for limit in table["quality_limit"] if limit)
        for row, band in enumerate(bands):
            self.origins[survey, band].update(table["psf_origin"].list.get(row).to_list())
            for name in _MEASURED:
                self.measured[survey, band, name].add(table[name].list.get(row).fill_null(np.nan).to_numpy())

    def check(self, source: str, refused_max: float) -> None:
        """Raise ValueError when a larger share than `refused_max` was refused, or nothing is left."""
        count = self.converted + len(self.refused)
        if len(self.refused) > refused_max * count or not self.converted:
            reasons = Counter(reason for _, reason in self.refused).most_common(3)
            words = "; ".join(f"{times} x {reason}" for reason, times in reasons) or "the source has no objects"
            raise ValueError(
                f"refused objects of {source} must be at most {refused_max:.0%} (convert.refused_max), "
                f"got {len(self.refused)} of {count}: {words}."
            )

    def report(self) -> dict[str, Any]:
        """For metrics/: counts, every refused object with its reason, and noise, PSF and code errors by band."""
        return {
            "objects": self.converted + len(self.refused),
            "converted": self.converted,
            "refused": [{"object_id": name, "reason": reason} for name, reason in sorted(self.refused)],
            "quality_limit": dict(sorted(self.limits.items())),
            "bands": self._bands(),
        }

    def _bands(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for (survey, band), origins in sorted(self.origins.items()):
            faint, bright = self.errors[survey, band]
            row: dict[str, Any] = {
                "objects": origins.total(),
                "psf_origin": dict(sorted(origins.items())),
                "code_error_faint_sky_sigma_max": faint,
                "code_error_bright_relative_max": bright,
            }
            for column, (name, levels) in _MEASURED.items():
                sketch = self.measured[survey, band, column]
                row |= {f"{name}_{word}": sketch.quantile(level) for word, level in levels.items()}
            found.setdefault(survey, {})[band] = row
        return found


def convert_all(
    kind: SourceKind, source: str, raw: Path, surveys: dict[str, config.Survey], convert: config.Convert
) -> Iterator[Converted]:
    """Every work unit of a source, in the units' order, whatever does the work (`convert.jobs`, `dask_scheduler`).

    Raises
    ------
    ValueError, OSError
        The raw folder is broken as a whole; see the source's `batches` and `read`.
    """
    units = kind.batches(source, raw, convert)
    work = partial(convert_unit, kind, source, raw, surveys, convert)
    done = in_order(work, units, convert.jobs, convert.dask_scheduler)
    yield from tqdm(done, f"convert {source}", total=len(units), unit=" batches", disable=None)


def convert_unit(
    kind: SourceKind, source: str, raw: Path, surveys: dict[str, config.Survey], convert: config.Convert, unit: Any
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
