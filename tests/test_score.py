"""`lensml score` on the test split written out as a user's folder gives the scores of `evaluate`."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from astropy.io import fits

from lensml import config
from lensml.sources import SOURCES
from tests import graph
from tests.cutouts_folder import wcs

pytestmark = [pytest.mark.graph, pytest.mark.xdist_group("graph")]
CARRIED = ["z_phot", "sersic_index", "half_light_radius", "axis_ratio", "seeing"]


def write_out(project: Path, folder: Path) -> pl.DataFrame:
    """The test split's cutouts as the simulation made them, in the `cutouts` contract, in nJy."""
    params = config.load(project / "params.yaml")
    test = pl.read_parquet(project / "data/shards/test/index.parquet")
    wanted = set(test["object_id"])
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    kind, raw = SOURCES["simulated"], project / "data/raw/simulated"
    for unit in kind.batches("simulated", raw, params.convert):
        for cutouts in kind.read("simulated", raw, unit, params.surveys, params.convert).cutouts:
            known = cutouts.metadata.rows_by_key("object_id", named=True, unique=True)
            for i, name in enumerate(cutouts.object_id):
                if name not in wanted:
                    continue
                card = {"BUNIT": "nJy", **wcs(float(cutouts.pixel_scale[i]), 0.0)}
                hdus: list[Any] = [fits.PrimaryHDU()]
                for j, band in enumerate(cutouts.bands):
                    hdus.append(fits.ImageHDU(cutouts.flux[i, j], fits.Header(card), f"{band}_SCI"))
                    hdus.append(fits.ImageHDU(cutouts.variance[i, j], name=f"{band}_VAR"))
                    hdus.append(fits.ImageHDU(cutouts.bad[i, j].astype(np.uint8), name=f"{band}_MASK"))
                    hdus.append(fits.ImageHDU(cutouts.psf[i, j], name=f"{band}_PSF"))
                fits.HDUList(hdus).writeto(folder / f"{name}.fits")
                carried = {column: known[name].get(column) for column in CARRIED}
                rows.append({"object_id": name, "survey": cutouts.survey} | carried)
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(folder / "catalogue.parquet")
    return test


def test_scores_equal_those_of_evaluate(graph_done: Path, tmp_path: Path) -> None:
    test = write_out(graph_done, tmp_path / "folder")
    out = tmp_path / "candidates.parquet"
    graph.run(graph_done, "lensml", "score", str(tmp_path / "folder"), "--out", str(out))
    scored = pl.read_parquet(out)
    assert sorted(scored["object_id"]) == sorted(test["object_id"])
    assert scored["reason"].to_list() == [""] * scored.height
    joined = pl.read_parquet(graph_done / "data/test_scores.parquet").join(scored, on="object_id", suffix="_scored")
    assert joined.height == test.height
    np.testing.assert_allclose(joined["logit"], joined["score"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(joined["probability"], joined["probability_scored"], rtol=0, atol=1e-5)
    for member in ("enhanced_vit", "robust_resnet", "film_conditioned"):
        np.testing.assert_allclose(joined[f"logit_{member}"], joined[f"score_{member}"], rtol=0, atol=1e-5)


def write_one(folder: Path, name: str, survey: str, band: str, value: float = 1.0) -> None:
    rng = np.random.default_rng(1)
    card = fits.Header({"BUNIT": "nJy", **wcs(0.168, 0.0)})
    image = (rng.normal(size=(48, 48)) * value).astype(np.float32)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image, card, f"{band}_SCI")]).writeto(folder / f"{name}.fits")


def test_what_cannot_be_scored_is_refused_in_words(graph_done: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write_one(folder, "good", "hsc", "r")
    write_one(folder, "unknown_band", "hsc", "K")
    write_one(folder, "nan", "hsc", "r", np.nan)
    (folder / "truncated.fits").write_bytes((folder / "good.fits").read_bytes()[:6000])
    (folder / "zip.fits").write_bytes(b"PK\x03\x04" + b"\0" * 1000)
    names = ["good", "unknown_band", "nan", "truncated", "zip", "absent"]
    pl.DataFrame({"object_id": names, "survey": "hsc"}).write_csv(folder / "catalogue.csv")
    out = tmp_path / "candidates.parquet"
    graph.run(graph_done, "lensml", "score", str(folder), "--out", str(out))
    found = dict(pl.read_parquet(out).select("object_id", "reason").iter_rows())
    assert found.pop("good") == ""
    assert sorted(found) == sorted(names[1:])
    assert all(reason and "\n" not in reason for reason in found.values()), found
    assert "K" in found["unknown_band"]


@pytest.mark.parametrize("survey", ["galex", "hsc"])
def test_a_folder_that_cannot_be_scored_is_one_line(graph_done: Path, tmp_path: Path, survey: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write_one(folder, "a", "hsc", "r")
    pl.DataFrame({"object_id": ["a"], "survey": survey}).write_csv(folder / "catalogue.csv")
    project = ["--project", str(tmp_path)] if survey == "hsc" else []
    said = graph.run(
        graph_done, "lensml", "score", str(folder), "--out", str(tmp_path / "c.parquet"), *project, ok=False
    )
    assert said.returncode == 1
    assert said.stderr.startswith("error: ")
    assert said.stderr.count("\n") == 1
    assert not (tmp_path / "c.parquet").exists()
