"""One batch of simulated objects: seeds, hosts shared by twins, pixels in counts, and what is true of each object."""

import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lensml import config
from lensml.schema import MISSING_REDSHIFT

if TYPE_CHECKING:  # at run time only where pixels are made: they bring torch
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
    "dispersion_km_s": pl.Float64, "z_source": pl.Float64, "host_magnitude": pl.Float64, "z_phot": pl.Float64,
    "z_err": pl.Float64, "z_spec": pl.Float64, "half_light_radius": pl.Float64, "axis_ratio": pl.Float64,
    "sersic_index": pl.Float64,
}  # fmt: skip


class Unit(NamedTuple):
    """Consecutive objects of one survey."""

    survey: str
    start: int
    stop: int


class Counts(NamedTuple):
    """How many objects of each label a survey has; they stand in this order, and twins share their place in it."""

    lens: int
    nonlens: int
    unknown: int

    def place(self, index: int) -> tuple[str, int]:
        """Label and host of an object."""
        for label, count in zip(self._fields, self, strict=True):
            if index < count:
                return label, index + (max(self.lens, self.nonlens) if label == "unknown" else 0)
            index -= count
        raise IndexError(index)


def counts_of(params: config.SimulatedSource, survey: str) -> Counts:
    """A survey's share of the objects; the first surveys take what does not divide."""
    place, n = list(params.surveys).index(survey), len(params.surveys)
    return Counts(*((total - place + n - 1) // n for total in (params.lenses, params.non_lenses, params.unlabelled)))


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
    """
    import torch

    from lensml.lensing import observe

    torch.set_num_threads(1)  # sums in one order
    camera = _camera(params, unit.survey, survey)
    drawn = [_Draw(params, unit.survey, counts, i, camera) for i in range(unit.start, unit.stop)]
    fwhm = np.stack([camera.draw_fwhm(d.rng) for d in drawn])
    light = observe.expose([d.subject() for d in drawn], lambda i: drawn[i].subject(), fwhm, camera, params.arc_snr_min)
    noisy = [observe.add_noise(d.rng, flux, camera) for d, flux in zip(drawn, light.flux, strict=True)]
    flux, variance, bad = (np.stack(planes) for planes in zip(*noisy, strict=True))
    scale = njy_per_count(survey)
    arrays: dict[str, NDArray[Any]] = {
        "counts": _on_steps(flux / scale, camera.sky_sigma / scale),
        "variance": _rounded(variance / scale**2, _VARIANCE_BITS),
        "bad": bad.astype(np.uint8),
        "psf": _rounded(camera.psf(fwhm).numpy(), _PSF_BITS),
    }
    facts = zip(drawn, light.subjects, light.flux_ratio.tolist(), light.extra_snr.tolist(), strict=True)
    rows = [_truth(draw, subject, ratio, snr) for draw, subject, ratio, snr in facts]
    return arrays, pl.DataFrame(rows, schema=TRUTH)


class _Draw:
    """One object's place, random numbers and host."""

    def __init__(
        self, params: config.SimulatedSource, survey: str, counts: Counts, index: int, camera: "Camera"
    ) -> None:
        from lensml.lensing import morphology, population

        self.survey, self.index, self.params, self.bands = survey, index, params, camera.bands
        self.label, self.place = counts.place(index)
        self.rng = _rng(params, survey, _OBJECT, index)
        self.host_rng = _rng(params, survey, _HOST, self.place)
        width, unlabelled = camera.pixels * camera.pixel_scale, self.label == "unknown"
        self.host: Host = population.draw_host(self.host_rng, params.surveys[survey], width, galaxy=unlabelled)
        names = {"lens": [population.LENS], "nonlens": list(morphology.KINDS), "unknown": [population.GALAXY]}
        self.kind = str(self.rng.choice(names[self.label]))

    def subject(self) -> "Subject":
        """What is beside the host, drawn anew at each call."""
        from lensml.lensing import population

        return population.draw_subject(self.rng, self.kind, self.host, self.bands, self.params.flux_ratio)


def _truth(draw: _Draw, subject: "Subject", flux_ratio: float, snr: float) -> dict[str, Any]:
    """Twins have the same measured redshift and shape, which can therefore tell no lens from its twin."""
    host, known, lens = subject.host, draw.label == "unknown", draw.label == "lens"
    error = _REDSHIFT_ERROR * (1 + host.redshift)
    z_phot = host.redshift + draw.host_rng.normal(0, error)
    measured = np.exp(draw.host_rng.normal(0, 0.0 if known else _SHAPE_ERROR, 3))
    return {
        "object_id": f"{draw.survey}-{draw.index:06d}", "survey": draw.survey, "row": draw.index, "label": draw.label,
        "kind": subject.kind, "parent": f"{draw.survey}-host-{draw.place:06d}",
        "flux_ratio": flux_ratio if lens else None, "theta_e_arcsec": host.theta_e if lens else None,
        "extra_snr": snr, "dispersion_km_s": host.dispersion_km_s if lens else None,
        "z_source": host.source_redshift if lens else None, "host_magnitude": host.magnitude,
        "z_phot": max(z_phot, 0.0), "z_err": error, "z_spec": host.redshift if known else MISSING_REDSHIFT,
        "half_light_radius": host.light.radius * measured[0], "axis_ratio": min(host.axis_ratio * measured[1], 1.0),
        "sersic_index": host.light.sersic * measured[2],
    }  # fmt: skip


def _camera(params: config.SimulatedSource, name: str, survey: config.Survey) -> "Camera":
    from lensml.lensing.observe import Camera

    own = params.surveys[name]
    bands = [survey.bands[band] for band in own.bands]
    return Camera(
        tuple(own.bands), own.stamp_pixels, survey.pixel_scale, params.supersampling,
        np.array([b.psf_fwhm for b in bands]), np.array([b.sky_sigma_nJy for b in bands]), own.electrons_per_nJy,
        own.read_noise_electrons,
    )  # fmt: skip


def _rng(params: config.SimulatedSource, survey: str, stream: int, index: int) -> np.random.Generator:
    return np.random.default_rng([params.seed, zlib.crc32(survey.encode()), stream, index])


def _on_steps(counts: NDArray[np.float64], sky_sigma: NDArray[np.float64]) -> NDArray[np.float32]:
    step = (2 ** np.floor(np.log2(sky_sigma / _SKY_STEPS)))[:, None, None]
    return np.asarray(np.round(counts / step) * step, dtype=np.float32)


def _rounded(values: NDArray[Any], bits: int) -> NDArray[np.float32]:
    drop = _MANTISSA_BITS - bits
    raw = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return np.asarray((raw + (1 << (drop - 1))) >> drop << drop, dtype=np.uint32).view(np.float32)
