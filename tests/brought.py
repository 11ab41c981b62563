"""A source of survey files, brought and read: what the tests of the kinds ask for."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lensml import config
from lensml.imaging.cutouts import Cutouts, calibrate
from lensml.ingest.kind import Read
from lensml.sources import SOURCES

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "real"  # sample data beside the checkout
PARAMS = config.load(ROOT / "params.yaml")
_PLAIN: dict[str, Any] = {"downloads": [], "catalogue": None, "bands": None, "stamp_arcsec": None}


class Brought:
    """Objects by their own names; `convert` is that of params.yaml, but for what `limits` says."""

    def __init__(
        self, kind: str, path: Path, raw: Path, survey: str, limits: dict[str, Any] | None = None, **facts: Any
    ) -> None:
        self._convert = PARAMS.convert.model_copy(update=limits or {})
        told = {"kind": kind, "path": str(path), "survey": survey, **_PLAIN, **facts}
        self._source, self._raw = SOURCES[kind], raw
        self._source.fetch(config.SurveySource.model_validate(told), PARAMS.surveys, raw)
        self.evidence = self._source.evidence("x", raw)

    @cached_property
    def _reads(self) -> list[Read]:
        units = self._source.batches("x", self._raw, self._convert)
        return [self._source.read("x", self._raw, unit, PARAMS.surveys, self._convert) for unit in units]

    @property
    def refused(self) -> dict[str, str]:
        return {name.removeprefix("x."): words for read in self._reads for name, words in read.refused}

    @property
    def batches(self) -> list[Cutouts]:
        return [cutouts for read in self._reads for cutouts in read.cutouts]

    @cached_property
    def _where(self) -> dict[str, tuple[Cutouts, int]]:
        return {n.removeprefix("x."): (c, i) for c in self.batches for i, n in enumerate(c.object_id)}

    @property
    def names(self) -> set[str]:
        return set(self._where)

    def claim(self, name: str) -> dict[str, Any]:
        return self.evidence.row(by_predicate=pl.col("object_id") == f"x.{name}", named=True)

    def batch(self, name: str) -> tuple[Cutouts, int]:
        return self._where[name]

    def flux(self, name: str) -> np.ndarray:
        """(band, y, x) nJy, bad pixels as NaN."""
        cutouts, index = self._where[name]
        return np.where(cutouts.bad[index], np.nan, cutouts.flux[index])

    def variance(self, name: str) -> np.ndarray:
        cutouts, index = self._where[name]
        assert cutouts.variance is not None
        return cutouts.variance[index]

    def magnitudes(self, name: str, radius_arcsec: float) -> dict[str, float]:
        """AB by band, in an aperture around the stamp's centre."""
        cutouts, index = self._where[name]
        pixels = self.flux(name)
        y, x = (np.arange(n) - (n - 1) / 2 for n in pixels.shape[1:])
        inside = np.hypot(y[:, None], x) * cutouts.pixel_scale[index] < radius_arcsec
        total = np.nansum(pixels[:, inside], axis=1)
        return dict(zip(cutouts.bands, (31.4 - 2.5 * np.log10(total)).tolist(), strict=True))

    def psfs(self) -> list[np.ndarray]:
        """(object, band, y, x) of every batch that has any, after calibration; nothing may be refused there."""
        found = [calibrate(cutouts, PARAMS.surveys[cutouts.survey], PARAMS.convert) for cutouts in self.batches]
        assert [words for _, refused in found for words in refused] == []
        return [stamps.psf for stamps, _ in found if stamps.psf.shape[-1] > 1]


def are_odd_with_unit_sum(psfs: list[np.ndarray]) -> bool:
    odd = all(psf.shape[-1] == psf.shape[-2] and psf.shape[-1] % 2 == 1 for psf in psfs)
    return odd and all(np.allclose(psf.sum(axis=(-2, -1)), 1, atol=1e-5) for psf in psfs)
