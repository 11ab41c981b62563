"""The psf_match stage: the function's results on disk, refusals reported and bounded, bytes independent of workers."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from lensml import config, schema
from lensml.imaging import psf
from lensml.store import stamps as store
from stages.psf_match import psf_match

PARAMS = config.load(Path(__file__).parents[1] / "params.yaml")


def gaussian(fwhm_pixels: float, side: int = 25) -> NDArray[np.float64]:
    axis = np.arange(side) - side // 2
    image = np.exp(-4 * np.log(2) * (axis[:, None] ** 2 + axis**2) / fwhm_pixels**2)
    return np.asarray(image / image.sum())


def catalogue(fwhm: list[float], bands: list[str]) -> pl.DataFrame:
    count = len(fwhm)
    each = [[1.0] * len(bands)] * count
    values = {
        "object_id": [f"s.{i:03d}" for i in range(count)],
        "survey": ["kids"] * count,
        "bands": [bands] * count,
        "pixel_scale": [0.2] * count,
        "sky_sigma": each,
        "noise_correlation": [[0.0] * len(bands)] * count,
        "fwhm_halfmax": [[fwhm_pixels * 0.2] * len(bands) for fwhm_pixels in fwhm],
        "psf_matched": [False] * count,
        "psf_origin": [["file"] * len(bands)] * count,
        "quality": [1.0] * count,
        "quality_limit": [""] * count,
    }
    full = {name: values.get(name, [None] * count) for name in schema.CATALOGUE}
    return pl.DataFrame(full, schema=schema.CATALOGUE)


def source(broad: tuple[int, ...] = (), count: int = 23) -> store.Stamps:
    rng = np.random.default_rng(1)
    flux = rng.normal(0, 1, (count, 2, 40, 40)).astype(np.float32)
    fwhm = [9.0 if i in broad else 3.4 for i in range(count)]
    psfs = np.stack([np.stack([gaussian(pixels)] * 2) for pixels in fwhm])
    return store.Stamps(catalogue(fwhm, ["g", "r"]), flux, np.ones_like(flux), psfs.astype(np.float32))


def run(
    folder: Path, stamps: store.Stamps, jobs: int = 1, refused_max: float = 0.2, dask_scheduler: str | None = None
) -> tuple[Path, dict[str, Any]]:
    with store.StampWriter(folder / "stamps", 8) as writer:
        writer.append(stamps)
    params = PARAMS.psf_match.model_copy(
        update={
            "jobs": jobs,
            "batch_objects": 5,
            "refused_max": refused_max,
            "mode": "per_survey",
            "dask_scheduler": dask_scheduler,
        }
    )
    report = folder / "report.json"
    psf_match.function("s", folder / "stamps", params, PARAMS.surveys, 8, folder / "matched", report)
    return folder / "matched", json.loads(report.read_text())


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_disk_holds_what_the_function_makes(tmp_path: Path) -> None:
    stamps = source()
    matched, report = run(tmp_path, stamps)
    expected, _ = psf.match(stamps, PARAMS.surveys["kids"], PARAMS.psf_match)
    found = list(store.iterate(matched, 100))
    names = [name for batch in found for name in batch.catalogue["object_id"]]
    assert names == stamps.catalogue["object_id"].to_list()
    flux = np.concatenate([batch.flux for batch in found])
    np.testing.assert_allclose(flux, expected.flux, atol=2e-3)  # two quantisations
    assert report["matched"] == report["objects"] == 23
    assert report["surveys"]["kids"]["target_fwhm_arcsec"] == PARAMS.surveys["kids"].target_psf_fwhm
    assert report["surveys"]["kids"]["residual"]["g"]["max"] < 0.01


def test_the_refused_are_reported_by_name(tmp_path: Path) -> None:
    matched, report = run(tmp_path, source(broad=(2, 7)))
    assert sorted(report["refusals"]) == ["s.002", "s.007"]
    assert "narrower than the target" in report["refusals"]["s.002"]
    assert store.read_catalogue(matched).height == 21 == report["matched"]


def test_too_many_refused_fail(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must refuse at most 0\.2 .* got 0\.304 \(s\.000: PSF in band g must"):
        run(tmp_path, source(broad=tuple(range(7))))


def test_bytes_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    one, _ = run(tmp_path / "one", source(broad=(3,)), jobs=1)
    two, _ = run(tmp_path / "two", source(broad=(3,)), jobs=2)
    assert hashes(one) == hashes(two)


def test_off_copies(tmp_path: Path) -> None:
    stamps = source(count=3)
    with store.StampWriter(tmp_path / "stamps", 8) as writer:
        writer.append(stamps)
    params = PARAMS.psf_match.model_copy(update={"mode": "off", "jobs": 1})
    psf_match.function("s", tmp_path / "stamps", params, PARAMS.surveys, 8, tmp_path / "m", tmp_path / "r.json")
    assert hashes(tmp_path / "m") == hashes(tmp_path / "stamps")
    assert json.loads((tmp_path / "r.json").read_text())["matched"] == 3


def test_a_survey_that_params_do_not_state(tmp_path: Path) -> None:
    stamps = source(count=3)
    strange = stamps.catalogue.with_columns(pl.lit("nowhere").alias("survey"))
    with pytest.raises(ValueError, match="surveys must state nowhere"):
        run(tmp_path, store.Stamps(strange, stamps.flux, stamps.variance, stamps.psf))
