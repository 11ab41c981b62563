"""Simulated stamps as a survey would deliver them: arrays per survey in counts, and the truth of each object."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tqdm import tqdm

from lensml import config
from lensml.imaging.cutouts import Cutouts
from lensml.ingest.kind import Read, SourceKind
from lensml.schema import EVIDENCE, ContractError
from lensml.sources.simulated_objects import TRUTH, Counts, Unit, counts_of, njy_per_count, simulate
from lensml.store import tables
from lensml.store.parallel import in_order

_LABEL_SOURCE: Final = {"lens": "sim:lensml", "nonlens": "sim:lensml", "unknown": "pretrain:lensml"}
MANIFEST: Final = "MANIFEST.json"
_ARRAYS: Final = ("counts", "variance", "bad", "psf")  # (object, band, y, x), a .npy file each
_KNOWN: Final = ("z_phot", "z_spec", "z_err", "half_light_radius", "axis_ratio", "sersic_index")  # as a survey would


def fetch(params: config.SimulatedSource, surveys: dict[str, config.Survey], out: Path) -> None:
    """Render every object; the bytes depend on the parameters, not on the number of jobs.

    Raises
    ------
    ContractError
        A survey or a band is not in the parameters, or a population cannot be drawn.
    """
    for name in params.surveys:
        _check(name, params, surveys)
    out.mkdir(parents=True, exist_ok=True)
    counts = {name: counts_of(params, name) for name in params.surveys}
    units = [u for name, c in counts.items() for u in _units(name, sum(c), params.batch_objects)]
    found = in_order(partial(_simulated, params, surveys, counts), units, params.jobs)
    truth = []
    for unit, (arrays, rows) in tqdm(zip(units, found, strict=True), "simulating", len(units), disable=None):
        for key in _ARRAYS:
            _append(_path(out, unit.survey, key), arrays[key], unit.start, sum(counts[unit.survey]))
        truth.append(rows)
    tables.write_parquet(pl.concat(truth or [pl.DataFrame(schema=TRUTH)]), TRUTH, out / "truth.parquet")
    _write_manifest(params, out)


def _simulated(
    params: config.SimulatedSource, surveys: dict[str, config.Survey], counts: dict[str, Counts], unit: Unit
) -> tuple[dict[str, NDArray[Any]], pl.DataFrame]:
    return simulate(unit, counts[unit.survey], params, surveys[unit.survey])


def evidence(name: str, raw: Path) -> pl.DataFrame:
    """One claim per object: the simulation knows."""
    truth = tables.read_parquet(raw / "truth.parquet", TRUTH)
    nothing = pl.lit(None, dtype=pl.Float64)
    return truth.select(
        object_id=name + "." + pl.col("object_id"), source=pl.lit(name), survey="survey", label="label",
        label_source=pl.col("label").replace_strict(_LABEL_SOURCE), label_confidence=pl.lit(1.0), grade=pl.lit(""),
        parent=name + "." + pl.col("parent"), frame=pl.lit(""), ra=nothing, dec=nothing, kind="kind",
        flux_ratio="flux_ratio", theta_e_arcsec="theta_e_arcsec",
        z_lens=pl.when(pl.col("label") == "lens").then("z_spec"),
    ).select(*EVIDENCE)  # fmt: skip


def batches(name: str, raw: Path, convert: config.Convert) -> list[Unit]:
    """Consecutive rows of the surveys' files."""
    truth = tables.read_parquet(raw / "truth.parquet", TRUTH)
    lengths = truth.group_by("survey", maintain_order=True).len().rows()
    return [unit for survey, n in lengths for unit in _units(survey, n, convert.objects_per_batch)]


def read(name: str, raw: Path, unit: Unit, surveys: dict[str, config.Survey], convert: config.Convert) -> Read:
    """One batch in nJy."""
    truth = tables.read_parquet(raw / "truth.parquet", TRUTH)
    rows = truth.filter(pl.col("survey") == unit.survey)[unit.start : unit.stop]
    identifiers = [f"{name}.{i}" for i in rows["object_id"]]
    bands = tuple(tables.read_json(raw / MANIFEST)["bands"][unit.survey])
    stored = {key: np.load(_path(raw, unit.survey, key), mmap_mode="r")[unit.start : unit.stop] for key in _ARRAYS}
    survey = surveys[unit.survey]
    scale = njy_per_count(survey)
    cutouts = Cutouts(
        identifiers, name, unit.survey, bands, stored["counts"] * np.float32(scale),
        stored["variance"] * np.float32(scale**2), stored["bad"] > 0, stored["psf"],
        np.full(len(rows), survey.pixel_scale), rows.select(pl.Series("object_id", identifiers), *_KNOWN),
    )  # fmt: skip
    return Read([cutouts], [])


def _units(survey: str, objects: int, size: int) -> list[Unit]:
    return [Unit(survey, start, min(start + size, objects)) for start in range(0, objects, size)]


def _check(name: str, params: config.SimulatedSource, surveys: dict[str, config.Survey]) -> None:
    if name not in surveys:
        raise ContractError(f"surveys must hold {name}, got {', '.join(surveys)} (simulated). Add it to params.yaml.")
    unknown = [band for band in params.surveys[name].bands if band not in surveys[name].bands]
    if unknown:
        known = ", ".join(surveys[name].bands)
        raise ContractError(f"surveys.{name}.bands must hold {', '.join(unknown)}, got {known} (simulated). Add them.")


def _path(folder: Path, survey: str, key: str) -> Path:
    return folder / f"{survey}-{key}.npy"


def _append(path: Path, values: NDArray[Any], start: int, objects: int) -> None:
    """Write a batch behind the others; the first one states how many there will be.

    Plain bytes, because the HDF5 library ends the process with a segmentation fault when the disk is full.
    """
    with path.open("wb" if start == 0 else "ab") as file:
        if start == 0:
            shape = (objects, *values.shape[1:])
            layout = {"descr": values.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, layout)
        file.write(np.ascontiguousarray(values).tobytes())


def _write_manifest(params: config.SimulatedSource, out: Path) -> None:
    files = {}
    for path in sorted(out.iterdir()):
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.name] = {"sha256": checksum, "bytes": path.stat().st_size, "licence": "MIT"}
    bands = {name: own.bands for name, own in params.surveys.items()}
    tables.write_json({"origin": "simulated", "seed": params.seed, "bands": bands, "files": files}, out / MANIFEST)


KIND = SourceKind(fetch, evidence, batches, read)
