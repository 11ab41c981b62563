"""What PSF matching did to a source: counts, who was refused and why, how near the targets were reached."""

from collections import defaultdict
from typing import Any, Final

import numpy as np

from lensml.imaging.psf import Matched

QUANTILES: Final = {"median": 0.5, "p95": 0.95, "max": 1.0}


class Tally:
    """Add up batches; memory grows by a few numbers per object."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self.matched = 0
        self.refused: list[tuple[str, str]] = []
        self._targets: dict[str, float] = {}
        self._residual: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._fwhm: dict[tuple[str, str], list[float]] = defaultdict(list)

    def add(self, batch: Matched) -> None:
        """Count a batch."""
        self.refused += batch.refused
        self.matched += batch.stamps.catalogue.height
        if not len(batch.residual):
            return
        self._targets[batch.stamps.survey] = float(batch.stamps.catalogue["target_psf_fwhm"][0])
        for column, band in enumerate(batch.stamps.bands):
            key = (batch.stamps.survey, band)
            self._residual[key] += batch.residual[:, column].tolist()
            self._fwhm[key] += batch.fwhm_arcsec[:, column].tolist()

    def report(self) -> dict[str, Any]:
        """Counts, targets and per-band quantiles by survey, and the reason of each refusal."""
        surveys: dict[str, Any] = {
            survey: {"target_fwhm_arcsec": target, "residual": {}, "fwhm_arcsec": {}}
            for survey, target in self._targets.items()
        }
        for name, values in (("residual", self._residual), ("fwhm_arcsec", self._fwhm)):
            for (survey, band), column in values.items():
                surveys[survey][name][band] = _quantiles(column)
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


def _quantiles(values: list[float]) -> dict[str, float]:
    return {name: float(np.quantile(values, level)) for name, level in QUANTILES.items()}
