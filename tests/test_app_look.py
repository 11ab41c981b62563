"""`lensml look` on a small folder of stamps: what is shown, and every bad input in one line."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from lensml import paths, schema
from lensml.app import inspect
from lensml.app.cli import app
from lensml.store import stamps, tables

PARAMS = Path(__file__).parents[1] / "params.yaml"


def batch(survey: str, bands: list[str], n: int) -> stamps.Stamps:
    rng = np.random.default_rng(len(bands))
    values = {name: [None] * n for name in schema.CATALOGUE if name not in ("stack", "row")}
    values |= {
        "object_id": [f"simulated.{survey}-{i:06}" for i in range(n)],
        "survey": [survey] * n,
        "bands": [bands] * n,
        "sky_sigma": [[2.0] * len(bands)] * n,
        "pixel_scale": [0.2] * n,
    }
    table = pl.DataFrame(values, schema_overrides={k: v for k, v in schema.CATALOGUE.items() if k in values})
    shape = (n, len(bands), 20, 20)
    flux = rng.normal(0, 2, shape).astype(np.float32)
    return stamps.Stamps(table, flux, np.full(shape, 4, np.float32), np.zeros((n, len(bands), 5, 5), np.float32))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stamps of 10 HSC and 4 Euclid objects; the first three HSC ones are labelled, one has a score."""
    monkeypatch.chdir(tmp_path)
    Path(paths.PARAMS).write_text(PARAMS.read_text())
    with stamps.StampWriter(Path(paths.STAMPS.format(source="simulated")), 8) as writer:
        writer.append(batch("hsc", ["g", "r", "i", "z", "y"], 10))
        writer.append(batch("euclid", ["VIS"], 4))
    ids = [f"simulated.hsc-{i:06}" for i in range(3)]
    label_table(ids)
    score = pl.DataFrame({name: [None] for name in schema.TEST_SCORES}, schema=schema.TEST_SCORES)
    score = score.with_columns(pl.lit(ids[0]).alias("object_id"), pl.lit(0.875).alias("probability"))
    tables.write_parquet(score, schema.TEST_SCORES, Path(paths.TEST_SCORES))
    return tmp_path


def label_table(ids: list[str]) -> None:
    empty = pl.DataFrame({name: [None] * len(ids) for name in schema.LABEL_TABLE}, schema=schema.LABEL_TABLE)
    names = [pl.Series("object_id", ids), pl.Series("label", ["lens", "nonlens", "lens"])]
    table = empty.with_columns(*names, pl.lit("sim:lensml").alias("label_source"))
    tables.write_parquet(table, schema.LABEL_TABLE, Path(paths.LABELS))


def test_a_sheet_is_written_with_as_many_stamps_as_asked_for(project: Path) -> None:
    done = CliRunner().invoke(app, ["look", "simulated", "--count", "5", "--out", "sheet.png"])
    assert done.exit_code == 0, done.output
    assert "5 stamps in sheet.png" in done.stdout
    assert imread("sheet.png").shape[1] > 500


def test_every_survey_is_shown_and_the_known_score_label_and_source_stand_above(project: Path) -> None:
    shown = inspect.choose(inspect.known("simulated"), 7, None)
    assert set(shown["survey"]) == {"hsc", "euclid"}
    tiles = inspect.draw(Path("data/stamps/simulated"), inspect.choose(inspect.known("simulated"), 100, None))
    assert len(tiles) == 14
    lines = {tile.lines[0]: (tile.lines[1:], tile.label) for tile in tiles}
    assert lines["simulated.hsc-000000"] == (("lens (sim:lensml)", "hsc, score 0.8750"), "lens")
    assert lines["simulated.hsc-000001"] == (("nonlens (sim:lensml)", "hsc"), "nonlens")
    assert lines["simulated.euclid-000000"] == (("unknown (no label)", "euclid"), "unknown")


def test_without_labels_and_scores_stamps_are_shown_all_the_same(project: Path) -> None:
    Path(paths.LABELS).unlink()
    Path(paths.TEST_SCORES).unlink()
    assert CliRunner().invoke(app, ["look", "simulated"]).exit_code == 0
    assert Path("look-simulated.png").is_file()


@pytest.mark.parametrize("label", ["lens", "unknown"])
def test_only_one_label(project: Path, label: str) -> None:
    shown = inspect.choose(inspect.known("simulated"), 100, label)
    assert shown.height == {"lens": 2, "unknown": 11}[label]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "SOURCE must be one of simulated, got nowhere"),
        (["simulated", "--count", "0"], "--count must be at least 1, got 0"),
        (["simulated", "--label", "lense"], "--label must be one of lens, nonlens, unknown, got lense"),
    ],
)
def test_bad_input_is_one_line(project: Path, arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["look", *arguments])
    assert done.exit_code == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(project.glob("*.png"))


def test_a_source_that_is_not_converted_and_a_broken_catalogue_are_named(project: Path) -> None:
    (project / "data/stamps/simulated/catalogue.parquet").write_bytes(b"PAR1 no")
    done = CliRunner().invoke(app, ["look", "simulated"])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "catalogue.parquet must be Parquet" in done.stderr
    (project / "data/stamps").rename(project / "data/elsewhere")
    done = CliRunner().invoke(app, ["look", "simulated"])
    assert "Run `dvc repro convert@simulated`" in done.stderr
