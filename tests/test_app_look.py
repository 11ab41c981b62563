"""`lensml look` on a small folder of stamps: what is shown, and every bad input in one line."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from lensml import paths, schema
from lensml.app import inspect
from lensml.app.cli import app
from lensml.evaluation import composite, gallery
from lensml.store import stamps, tables

PARAMS = Path(__file__).parents[1] / "params.yaml"
STAMPS = Path(paths.STAMPS.format(source="simulated"))


def batch(survey: str, bands: list[str], n: int) -> stamps.Stamps:
    rng = np.random.default_rng(len(bands))
    values = {name: [None] * n for name in schema.CATALOGUE if name not in ("stack", "row")}
    values |= {
        "object_id": [f"simulated.{survey}-{i:06}" for i in range(n)],
        "survey": [survey] * n,
        "bands": [bands] * n,
        "sky_sigma": [[2.0] * len(bands)] * n,
        "pixel_scale": [0.2] * n,
        "psf_origin": [["file"] * len(bands)] * n,
        "fwhm_halfmax": [[0.6 + 0.1 * i for i in range(len(bands))]] * n,
        "sky_sigma_over_plane": [[None] * len(bands)] * n,
        "variance_scale": [[None] * len(bands)] * n,
        "noise_correlation": [[0.1] * len(bands)] * n,
        "north_deg": [30.0, *[None] * (n - 1)],
        "quality": [1.0] * n,
        "quality_limit": [""] * n,
        "psf_matched": [False] * n,
    }
    table = pl.DataFrame(values, schema_overrides={k: v for k, v in schema.CATALOGUE.items() if k in values})
    shape = (n, len(bands), 20, 20)
    flux, variance = rng.normal(0, 2, shape).astype(np.float32), np.full(shape, 4, np.float32)
    flux[1, 0, 3, 4], variance[1, 0, 3, 4] = 0, np.inf
    psf = np.zeros((n, len(bands), 5, 5), np.float32)
    psf[2, :, 2, 2] = 1
    return stamps.Stamps(table, flux, variance, psf)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stamps of 10 HSC and 4 Euclid objects; the first three HSC ones are labelled, one has a score."""
    monkeypatch.chdir(tmp_path)
    Path(paths.PARAMS).write_text(PARAMS.read_text())
    with stamps.StampWriter(STAMPS, 8) as writer:
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
    shown = inspect.choose(inspect.known(STAMPS, "convert@simulated"), 7, None)
    assert set(shown["survey"]) == {"hsc", "euclid"}
    tiles = inspect.draw(STAMPS, inspect.choose(inspect.known(STAMPS, "convert@simulated"), 100, None))
    assert len(tiles) == 14
    lines = {tile.lines[0]: (tile.lines[1:3], tile.label) for tile in tiles}
    assert lines["simulated.hsc-000000"] == (("lens (sim:lensml)", "hsc (y i g), score 0.8750"), "lens")
    assert lines["simulated.hsc-000001"] == (("nonlens (sim:lensml)", "hsc (y i g)"), "nonlens")
    assert lines["simulated.euclid-000000"] == (("unknown (no label)", "euclid (VIS)"), "unknown")


def test_a_tile_carries_its_scale_its_north_its_bad_pixels_and_its_psf(project: Path) -> None:
    tiles = {t.lines[0]: t for t in inspect.draw(STAMPS, inspect.known(STAMPS, "convert@simulated"))}
    first, second, third = (tiles[f"simulated.hsc-{i:06}"] for i in range(3))
    assert (first.pixel_scale, first.north_deg, second.north_deg) == (0.2, 30.0, None)
    tinted = (second.picture == composite.BAD_TINT).all(axis=2)
    assert np.argwhere(tinted).tolist() == [[3, 4]]
    assert (first.psf, third.psf is None) == (None, False)


def row(**changes: object) -> dict[str, object]:
    """A catalogue's row of three bands with everything known."""
    return {
        "bands": ["g", "r", "i"],
        "psf_origin": ["file", "stars", "table"],
        "fwhm_halfmax": [0.9, 0.764, 0.7],
        "psf_matched": False,
        "psf_residual": None,
        "sky_sigma_over_plane": [0.62, 0.9, 1.704],
        "variance_scale": [0.39, 1.0, 2.9],
        "noise_correlation": [-0.003, 0.1, 0.25],
        "quality": 0.874,
        "quality_limit": "edge",
    } | changes


def test_the_figures_of_psf_noise_and_quality_stand_in_words() -> None:
    assert inspect.psf_line(row(), 1) == 'PSF 0.76" (r, stars)'
    assert inspect.psf_line(row(psf_matched=True, psf_residual=0.0123), 2) == 'PSF 0.70" (i, table), matched to 1.2%'
    assert inspect.noise_lines(row()) == (
        "noise 0.62..1.70 of its plane, 2 of 3 rescaled",
        "lag-1 correlation 0.00..0.25",
    )
    right = row(variance_scale=[1.0] * 3, sky_sigma_over_plane=[1.001] * 3, noise_correlation=[None] * 3)
    assert inspect.noise_lines(right) == ("noise 1.00 of its plane", "lag-1 correlation unknown")
    without = row(variance_scale=[None] * 3, sky_sigma_over_plane=[None] * 3)
    assert inspect.noise_lines(without)[0] == "noise measured, no plane"
    assert inspect.quality_line(row()) == "quality 0.87: edge"
    assert inspect.quality_line(row(quality=1.0, quality_limit="")) == "quality 1.00"


def report(refused: dict[str, str]) -> None:
    found = [{"object_id": name, "reason": reason} for name, reason in refused.items()]
    tables.write_json({"refused": found}, Path(paths.CONVERT_REPORT.format(source="simulated")))


def test_what_was_refused_is_counted_by_reason_and_stands_beneath(project: Path) -> None:
    assert inspect.refused("simulated", False) == []
    CliRunner().invoke(app, ["look", "simulated", "--out", "without.png"])
    report({"a": "dark", "b": "torn", "c": "torn", "d": "torn", "e": "torn"})
    told = ["5 refused by convert:", "  4 x torn (b, c, d, ...)", "  1 x dark (a)"]
    assert inspect.refused("simulated", False) == told
    tables.write_json({"refusals": {"f": "too wide"}}, Path(paths.PSF_REPORT.format(source="simulated")))
    assert inspect.refused("simulated", True) == [*told, "1 refused by psf_match:", "  1 x too wide (f)"]
    done = CliRunner().invoke(app, ["look", "simulated", "--out", "with.png"])
    assert done.exit_code == 0, done.output
    assert imread("with.png").shape[0] - imread("without.png").shape[0] == 3 * gallery.LINE


def test_of_very_many_reasons_the_rest_is_counted(project: Path) -> None:
    report({str(i): f"reason {i:02}" for i in range(40)})
    told = inspect.refused("simulated", False)
    assert told[0] == "40 refused by convert:"
    assert len(told) + int(re.findall(r"and (\d+) more reasons", told[-1])[0]) == 42


def test_matched_stamps_are_shown_where_there_are_some(project: Path) -> None:
    done = CliRunner().invoke(app, ["look", "simulated", "--matched"])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "Run `dvc repro psf_match@simulated`" in done.stderr
    with stamps.StampWriter(Path(paths.MATCHED.format(source="simulated")), 8) as writer:
        writer.append(batch("hsc", ["g", "r", "i"], 3))
    done = CliRunner().invoke(app, ["look", "simulated", "--matched"])
    assert "3 stamps in look-simulated.png" in done.stdout


def test_a_sheet_has_the_same_bytes_twice(project: Path) -> None:
    for name in ("a.png", "b.png"):
        assert CliRunner().invoke(app, ["look", "simulated", "--out", name]).exit_code == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_a_catalogue_of_the_sky_has_no_stamps(project: Path) -> None:
    entry = "sources:\n  known: {kind: lenscat, path: lenscat.csv, downloads: []}\n"
    Path(paths.PARAMS).write_text(PARAMS.read_text().replace("sources:\n", entry, 1))
    done = CliRunner().invoke(app, ["look", "known"])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "SOURCE must have stamps, got known, a catalogue of the sky (kind lenscat)" in done.stderr


def test_without_labels_and_scores_stamps_are_shown_all_the_same(project: Path) -> None:
    Path(paths.LABELS).unlink()
    Path(paths.TEST_SCORES).unlink()
    assert CliRunner().invoke(app, ["look", "simulated"]).exit_code == 0
    assert Path("look-simulated.png").is_file()


@pytest.mark.parametrize("label", ["lens", "unknown"])
def test_only_one_label(project: Path, label: str) -> None:
    shown = inspect.choose(inspect.known(STAMPS, "convert@simulated"), 100, label)
    assert shown.height == {"lens": 2, "unknown": 11}[label]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "SOURCE must be one of simulated, got nowhere"),
        (["simulated", "--count", "0"], "--count must be 1 to 600, got 0"),
        (["simulated", "--count", "601"], "--count must be 1 to 600, got 601"),
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
