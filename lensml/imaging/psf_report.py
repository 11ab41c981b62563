"""PSF matching of a folder of stamps, unit by unit, and what it did: counts, refusals, how near the targets came."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lensml import config
from lensml.imaging import psf
from lensml.store import stamps as store
from lensml.store.sketch import Sketch

QUANTILES: Final = {"median": 0.5, "p95": 0.95, "max": 1.0}


@dataclass(frozen=True)
class Done:
    """A matched unit as codes: a quarter of the bytes on their way to the process that writes."""

    survey: str
    bands: tuple[str, ...]
    encoded: store.Encoded
    refused: psf.Refused
    residual: NDArray[np.float64]  # (object, band); see psf.Matched
    fwhm_arcsec: NDArray[np.float64]


def match_rows(folder: Path, surveys: dict[str, config.Survey], params: config.PsfMatch, rows: pl.DataFrame) -> Done:
    """Read, match and encode the objects of some rows of a folder's catalogue, all of one stack."""
    (batch,) = store.read(folder, rows, rows.height)
    matched = psf.match_measured(batch, surveys[batch.survey], params)
    encoded = store.encode(matched.stamps)
    return Done(batch.survey, batch.bands, encoded, matched.refused, matched.residual, matched.fwhm_arcsec)


class Tally:
    """Add up units; memory grows with the refused only."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self.matched = 0
        self.refused: list[tuple[str, str]] = []
        self._targets: dict[str, float] = {}
        self._measured: dict[tuple[str, str, str], Sketch] = defaultdict(Sketch)

    def add(self, done: Done) -> None:
        """Count a unit."""
        self.refused += done.refused
        self.matched += done.encoded.catalogue.height
        if not len(done.residual):
            return
        self._targets[done.survey] = float(done.encoded.catalogue["target_psf_fwhm"][0])
        for name, values in (("residual", done.residual), ("fwhm_arcsec", done.fwhm_arcsec)):
            for column, band in enumerate(done.bands):
                self._measured[done.survey, name, band].add(values[:, column])

    def report(self) -> dict[str, Any]:
        """Counts, targets and per-band quantiles by survey, and the reason of each refusal."""
        surveys: dict[str, Any] = {
            survey: {"target_fwhm_arcsec": target, "residual": {}, "fwhm_arcsec": {}}
            for survey, target in self._targets.items()
        }
        for (survey, name, band), sketch in self._measured.items():
            surveys[survey][name][band] = {words: sketch.quantile(level) for words, level in QUANTILES.items()}
        return {
            "mode": self._mode,
            "objects": self.matched + len(self.refused),
            "matched": self.matched,
            "refused": len(self.refused),
            "refusals": dict(self.refused),
            "surveys": surveys,
        }

    def check(self, source: str, refused_max: float) -> None:
        """Hold the refused share against its limit.

        Raises
        ------
        ValueError
            More of the objects were refused.
        """
        share = len(self.refused) / max(1, self.matched + len(self.refused))
        if share > refused_max:
            name, reason = self.refused[0]
            raise ValueError(
                f"psf_match of {source} must refuse at most {refused_max:g} of its objects (psf_match.refused_max), "
                f"got {share:.3g} ({name}: {reason}). Raise the survey's target_psf_fwhm, or leave such objects out."
            )
