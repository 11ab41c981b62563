"""Matched negatives: a folder of galaxies whose brightness is not the lenses', and what is drawn from it."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lensml import config
from lensml.sources import matched_negatives
from tests.cutouts_folder import write_cutouts

PARAMS = config.load(Path(__file__).parents[1] / "params.yaml")
PARENTS, LENSES = 240, 24


def folder(root: Path) -> Path:
    """Galaxies of all magnitudes; the files hold next to nothing."""
    write_cutouts(root, PARENTS, bands=("r",), pixels=20, psf=False, noise=None, mask=False)
    rng = np.random.default_rng(2)
    table = pl.read_csv(root / "catalogue.csv").with_columns(
        pl.lit("unknown").alias("label"),
        pl.Series("magnitude", rng.uniform(16, 24, PARENTS)),
        pl.Series("half_light_radius", rng.uniform(0.3, 3, PARENTS)),
        pl.Series("z_spec", rng.uniform(0.1, 0.9, PARENTS)),
    )
    table.write_csv(root / "catalogue.csv")
    return root


def positives(path: Path) -> Path:
    rng = np.random.default_rng(3)
    pl.DataFrame(
        {
            "object_id": [f"lens-{k}" for k in range(LENSES)],
            "magnitude": rng.normal(18.5, 0.5, LENSES),
            "half_light_radius": rng.normal(2.0, 0.3, LENSES),
            "z_spec": rng.normal(0.4, 0.08, LENSES),
            "ra": rng.uniform(10, 10 + PARENTS, LENSES),
            "dec": np.full(LENSES, 60.0),
        }
    ).write_csv(path)
    return path


def source(tmp_path: Path, **change: object) -> config.MatchedNegativesSource:
    values = {
        "kind": "matched_negatives", "path": str(folder(tmp_path / "in")), "files_per_archive": 512,
        "positives": str(positives(tmp_path / "lenses.csv")), "known_lenses": None,
        "columns": ["magnitude", "half_light_radius", "redshift"], "ratio": 1, "caliper": 0.5,
        "exclude_arcsec": 5.0, "label_confidence": 0.8, "seed": 1,
    }  # fmt: skip
    return config.MatchedNegativesSource.model_validate(values | change)


def test_what_is_drawn_is_like_the_lenses_is_labelled_and_alone_is_packed(tmp_path: Path) -> None:
    params = source(tmp_path)
    matched_negatives.fetch(params, PARAMS.surveys, tmp_path / "raw")
    claims = matched_negatives.KIND.evidence("mn", tmp_path / "raw")
    assert 5 <= claims.height <= LENSES
    assert set(claims["label"]) == {"nonlens"}
    assert set(claims["label_source"]) == {"obs:hard_negative"}
    assert set(claims["label_confidence"]) == {0.8}
    told = json.loads((tmp_path / "raw" / "balance.json").read_text())
    assert told["drawn"] == claims.height
    assert abs(told["columns"]["magnitude"]["smd_before"]) > 0.5
    assert abs(told["columns"]["magnitude"]["smd_after"]) < abs(told["columns"]["magnitude"]["smd_before"]) / 2
    units = matched_negatives.KIND.batches("mn", tmp_path / "raw", PARAMS.convert)
    reads = [matched_negatives.KIND.read("mn", tmp_path / "raw", u, PARAMS.surveys, PARAMS.convert) for u in units]
    assert sorted(n for read in reads for c in read.cutouts for n in c.object_id) == claims["object_id"].to_list()
    table = pl.read_csv(tmp_path / "in" / "catalogue.csv")
    drawn = table.filter(pl.col("object_id").is_in([name.removeprefix("mn.") for name in claims["object_id"]]))
    assert abs(drawn["magnitude"].mean() - 18.5) < 1.0  # of all galaxies it is 20


def test_a_known_lens_is_never_drawn(tmp_path: Path) -> None:
    params = source(tmp_path)
    matched_negatives.fetch(params, PARAMS.surveys, tmp_path / "raw")
    drawn = matched_negatives.KIND.evidence("mn", tmp_path / "raw")
    lens = drawn.row(0, named=True)
    known = pl.DataFrame({"object_id": ["k"], "ra": [lens["ra"]], "dec": [lens["dec"] + 1 / 3600]})
    known.write_csv(tmp_path / "known.csv")
    again = params.model_copy(update={"known_lenses": str(tmp_path / "known.csv")})
    matched_negatives.fetch(again, PARAMS.surveys, tmp_path / "raw2")
    assert lens["object_id"] not in set(matched_negatives.KIND.evidence("mn", tmp_path / "raw2")["object_id"])


def test_the_same_parameters_give_the_same_bytes(tmp_path: Path) -> None:
    params = source(tmp_path)
    for out in ("1", "2"):
        matched_negatives.fetch(params, PARAMS.surveys, tmp_path / out)
    files = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert files == ["MANIFEST.json", "balance.json", "catalogue.parquet", "cutouts-00000.tar"]
    assert all((tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes() for name in files)


def test_a_missing_table_and_a_missing_column_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        matched_negatives.fetch(source(tmp_path / "a", positives="nowhere.csv"), PARAMS.surveys, tmp_path / "raw")
    lacking = tmp_path / "lacking.csv"
    lacking.write_text("object_id\nx\n")
    with pytest.raises(ValueError, match="magnitude"):
        matched_negatives.fetch(source(tmp_path / "b", positives=str(lacking)), PARAMS.surveys, tmp_path / "raw")
