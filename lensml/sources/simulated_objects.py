"""One batch of simulated objects: seeds, hosts shared by twins, pixels in counts, and what is true of each object."""

import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lensml import config
from lensml.schema import MISSING_REDSHIFT

if TYPE_CHECKING:  # at run time only where pixels are made: they bring torch
    from lensml.lensing.deflectors import View
    from lensml.lensing.observe import Camera
    from lensml.lensing.population import Host, Subject

_NJY_ZERO_POINT: Final = 31.4
_SKY_STEPS: Final = 32  # pixels are kept to the power of two below sky sigma / this: what compresses (cf. fpack)
_VARIANCE_BITS: Final = 8  # of the mantissa: 0.2 %
_PSF_BITS: Final = 12
_MANTISSA_BITS: Final = 23  # IEEE 754 single
_HOST, _OBJECT = range(2)  # streams of random numbers: of a host, which twins share, and of an object
_REDSHIFT_ERROR: Final = 0.03  # of photometric redshifts, times 1 + z
_SHAPE_ERROR: Final = 0.08  # relative, of radius, index and axis ratio as a survey's pipeline measures them

TRUTH: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "object_id": pl.String, "survey": pl.String, "row": pl.Int64, "label": pl.String, "kind": pl.String,
    "parent": pl.String, "flux_ratio": pl.Float64, "theta_e_arcsec": pl.Float64, "extra_snr": pl.Float64,
    "sigma_v_km_s": pl.Float64, "z_source": pl.Float64, "host_magnitude": pl.Float64, "z_phot": pl.Float64,
    "z_err": pl.Float64, "z_spec": pl.Float64, "half_light_radius": pl.Float64, "axis_ratio": pl.Float64,
    "sersic_index": pl.Float64,
}  # fmt: skip


class Unit(NamedTuple):
    """Consecutive objects of one survey."""

    survey: str
    start: int
    stop: int


class Counts(NamedTuple):
    """How many objects of each sort a survey has; they stand in this order, and a lens and its twin share a host."""

    lens: int
    twin: int
    negative: int
    unlabelled: int

    def place(self, index: int) -> tuple[str, int]:
        """Sort and host of an object."""
        for sort, count in zip(self._fields, self, strict=True):
            if index < count:
                first = {"negative": self.lens, "unlabelled": self.lens + self.negative}.get(sort, 0)
                return sort, index + first
            index -= count
        raise IndexError(index)


LABELS: Final = {"lens": "lens", "twin": "nonlens", "negative": "nonlens", "unlabelled": "unknown"}


def counts_of(params: config.SimulatedSource, survey: str) -> Counts:
    """A survey's share of the objects; the first surveys take what does not divide."""
    place, n = list(params.surveys).index(survey), len(params.surveys)
    lenses, negatives, unlabelled = (
        (total - place + n - 1) // n for total in (params.lenses, params.hard_negatives, params.unlabelled)
    )
    return Counts(lenses, lenses, negatives, unlabelled)


def njy_per_count(survey: config.Survey) -> float:
    """What a count of a survey's coadd is worth."""
    return float(10 ** (0.4 * (_NJY_ZERO_POINT - survey.zero_point)))


def simulate(
    unit: Unit, counts: Counts, params: config.SimulatedSource, survey: config.Survey
) -> tuple[dict[str, NDArray[Any]], pl.DataFrame]:
    """Pixels and truth of one unit.

    Returns
    -------
    arrays
        counts, variance (counts^2), bad (1 = do not use), each (object, band, y, x), and psf (object, band, py, px)
    truth
        of TRUTH

    Raises
    ------
    ContractError
        An arc stays too faint however often it is drawn, or no galaxy is as the survey's selection asks for.
    """
    import torch

    from lensml.lensing import observe
    from lensml.sources import simulated_light

    torch.set_num_threads(1)  # sums in one order
    camera = _camera(params, unit.survey, survey)
    bank = simulated_light.psf_bank_of(params, unit.survey, survey)
    view = _view(params, unit.survey, survey)
    drawn = [Drawn(params, unit.survey, counts, i, camera, view) for i in range(unit.start, unit.stop)]
    seen = simulated_light.expose(drawn, bank, camera, params.supersampling, params.arc_snr_min)
    psf = bank.stamp[[d.psf for d in drawn]]
    records = [
        observe.record(d.rng, flux, own, d.exposure, camera, d.artefact)
        for d, flux, own in zip(drawn, seen.flux, psf, strict=True)
    ]
    flux, variance, bad = (np.stack(planes) for planes in zip(*records, strict=True))
    scale = njy_per_count(survey)
    arrays: dict[str, NDArray[Any]] = {
        "counts": _on_steps(flux / scale, camera.sky_sigma / scale),
        "variance": _rounded(variance / scale**2, _VARIANCE_BITS),
        "bad": bad.astype(np.uint8),
        "psf": _rounded(psf, _PSF_BITS),
    }
    rows = [_truth(d, float(ratio), float(snr)) for d, ratio, snr in zip(drawn, seen.flux_ratio, seen.snr, strict=True)]
    return arrays, pl.DataFrame(rows, schema=TRUTH)


class Drawn:
    """One object's place, random numbers, host, and the conditions it is seen under, which twins share too."""

    def __init__(
        self,
        params: config.SimulatedSource,
        survey: str,
        counts: Counts,
        index: int,
        camera: "Camera",
        view: "View",
    ) -> None:
        from lensml.lensing import observe, population

        self.survey, self.index, self.laws, self.view = survey, index, params.population, view
        self.sort, self.place = counts.place(index)
        self.host_rng, self.rng = _rng(params, survey, _HOST, self.place), _rng(params, survey, _OBJECT, index)
        self.psf = int(self.host_rng.integers(params.surveys[survey].observing.psfs))
        self.exposure = observe.expose(self.host_rng, camera)
        self.in_catalogue = bool(self.host_rng.uniform() >= params.catalogue_missing)
        self.host: Host = population.draw_host(self.host_rng, self.laws, self.view)
        self.subject: Subject = self._subject(None)

    def again(self) -> None:
        """Draw what is behind the host or beside it anew, of the same kind."""
        self.subject = self._subject(self.subject.kind)

    def _subject(self, kind: str | None) -> "Subject":
        from lensml.lensing import negatives, population

        if self.sort == "lens":
            return population.draw_lens(self.rng, self.laws, self.view, self.host)
        if self.sort == "twin":
            return population.draw_twin(self.host)
        if self.sort == "negative":
            return negatives.draw_negative(self.rng, self.laws, self.view, self.host, kind)
        return negatives.draw_galaxy(self.rng, self.laws, self.view, kind)

    @property
    def artefact(self) -> tuple[str, tuple[float, float]] | None:
        """That the camera is to add, and where."""
        name, at = self.subject.artefact, self.subject.artefact_at
        return (name, at) if name is not None and at is not None else None


def _truth(draw: Drawn, flux_ratio: float, snr: float) -> dict[str, Any]:
    """Twins have the same measured redshift and shape, which can therefore tell no lens from its twin."""
    host, known, lens = draw.subject.host, draw.sort == "unlabelled", draw.sort == "lens"
    error = _REDSHIFT_ERROR * (1 + host.redshift)
    z_phot = max(host.redshift + draw.host_rng.normal(0, error), 0.0)
    measured = np.exp(draw.host_rng.normal(0, 0.0 if known else _SHAPE_ERROR, 3))
    shape = (
        host.half_light_radius_arcsec * measured[0], min(host.axis_ratio * measured[1], 1.0),
        host.sersic_index * measured[2],
    )  # fmt: skip
    listed = known or draw.in_catalogue
    return {
        "object_id": f"{draw.survey}-{draw.index:06d}", "survey": draw.survey, "row": draw.index,
        "label": LABELS[draw.sort], "kind": draw.subject.kind, "parent": f"{draw.survey}-host-{draw.place:06d}",
        "flux_ratio": flux_ratio if lens else None, "theta_e_arcsec": host.theta_e_arcsec if lens else None,
        "extra_snr": snr, "sigma_v_km_s": host.sigma_v_km_s if lens else None,
        "z_source": draw.subject.z_source if lens else None, "host_magnitude": host.magnitude,
        "z_phot": z_phot if listed else MISSING_REDSHIFT, "z_err": error if listed else MISSING_REDSHIFT,
        "z_spec": host.redshift if known else MISSING_REDSHIFT,
        **dict(zip(("half_light_radius", "axis_ratio", "sersic_index"), shape if listed else (None,) * 3, strict=True)),
    }  # fmt: skip


def _camera(params: config.SimulatedSource, name: str, survey: config.Survey) -> "Camera":
    from lensml.lensing.observe import Camera

    own = params.surveys[name]
    sigma = np.array([survey.bands[band].sky_sigma_nJy for band in own.bands])
    return Camera(tuple(own.bands), own.stamp_pixels, survey.pixel_scale, sigma, own.observing)


def _view(params: config.SimulatedSource, name: str, survey: config.Survey) -> "View":
    from lensml.lensing.deflectors import View

    own = params.surveys[name]
    sharpest = min(survey.bands[band].psf_fwhm for band in own.bands)
    side = own.stamp_pixels * survey.pixel_scale
    return View(tuple(own.bands), side, sharpest, own.selection.host_magnitude, own.selection.theta_e_arcsec)


def _rng(params: config.SimulatedSource, survey: str, stream: int, index: int) -> np.random.Generator:
    return np.random.default_rng([params.seed, zlib.crc32(survey.encode()), stream, index])


def _on_steps(counts: NDArray[np.float64], sky_sigma: NDArray[np.float64]) -> NDArray[np.float32]:
    step = (2 ** np.floor(np.log2(sky_sigma / _SKY_STEPS)))[:, None, None]
    return np.asarray(np.round(counts / step) * step, dtype=np.float32)


def _rounded(values: NDArray[Any], bits: int) -> NDArray[np.float32]:
    drop = _MANTISSA_BITS - bits
    raw = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return np.asarray((raw + (1 << (drop - 1))) >> drop << drop, dtype=np.uint32).view(np.float32)
