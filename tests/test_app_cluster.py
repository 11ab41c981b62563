"""`lensml cluster` on a small model and on SMACS J0723: what is drawn and told, and every bad input in one line."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from lensml.app import cluster as command
from lensml.app.cli import app
from lensml.lensing.cluster import Curves
from tests.real_sample import REAL, needs_real
from tests.test_lensing_lenstool import MODEL

FOLDER = REAL / "smacs0723" / "ICLv2"
ARCS = b"""1.1 110.8 -73.397 0.1 0.1 0 1.449 0.0
1.2 110.81 -73.403 0.1 0.1 0 1.449 0.0
4.1 110.79 -73.401 0.1 0.1 0 0.0 0.0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("best.par").write_bytes(MODEL)
    Path("arcs.dat").write_bytes(ARCS)
    return tmp_path


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["cluster", *words])
    return done.exit_code, done.output


SMALL = ("best.par", "--images", "arcs.dat", "--redshift", "1.45", "--redshift", "9", "--step", "1")


def test_curves_are_drawn_and_told(folder: Path) -> None:
    code, told = run(*SMALL, "--out", "plots/curves.png")
    assert code == 0, told
    assert "plots/curves.png: 2 potentials at z 0.39" in told
    assert "z 1.45: D_ls/D_s 0.6448, " in told
    assert "z 9: D_ls/D_s 0.8353, " in told
    assert "3 images of 2 families: scatter median" in told
    assert "(family 1)" in told
    picture = imread("plots/curves.png")
    assert picture.shape[1] > 2 * picture.shape[0] > 1000
    orange = np.abs(picture[..., :3] - np.array([0xD5, 0x5E, 0x00]) / 255).max(axis=2) < 0.05
    assert orange[:, : picture.shape[1] // 2].sum() > 100  # the curves of the second redshift, in both planes
    assert orange[:, picture.shape[1] // 2 :].sum() > 100


def test_the_same_bytes_every_time(folder: Path) -> None:
    for name in ("a.png", "b.png"):
        assert run(*SMALL, "--out", name)[0] == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_without_images_and_without_curves(folder: Path) -> None:
    code, told = run("best.par", "--redshift", "0.4", "--out", "c.png", "--field", "60", "--step", "7.3")
    assert code == 0, told
    assert "no critical curve in the field" in told
    assert "images" not in told


def test_curves_that_leave_the_field_are_told(folder: Path) -> None:
    assert "cut by its edge (--field)" in run("best.par", "--redshift", "9", "--out", "c.png", "--field", "30")[1]
    assert "cut" not in run("best.par", "--redshift", "9", "--out", "c.png", "--field", "130", "--step", "1")[1]


def test_north_is_up_and_east_is_left(tmp_path: Path) -> None:
    """An image to the north-west of the reference stands in the upper right of the image plane."""
    places = pl.DataFrame({"family": ["1"], "x": [30.0], "y": [15.0]})
    families = pl.DataFrame({"family": ["1"], "images": [1], "z": [2.0], "rms_arcsec": [None]})
    drawn = []
    for shown in (None, places):
        path = tmp_path / "picture.png"
        curves = [Curves((), ())]
        command.picture("heading", [2.0], curves, curves, 120.0, shown, families, path)
        drawn.append(imread(path)[..., :3])
    left = drawn[1].shape[1] // 2
    axes = np.argwhere((drawn[1][:, :left] < 0.1).all(axis=2).mean(axis=0) > 0.5).ravel()  # the frame's two sides
    coloured = np.ptp(drawn[1][:, :left], axis=2) > 0.2  # all else is grey
    y, x = np.argwhere(coloured).mean(axis=0)
    assert (x - axes.min()) / np.ptp(axes) == pytest.approx(0.75, abs=0.01)
    assert y < drawn[1].shape[0] / 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("none.par", "--redshift", "2"), "none.par must be a Lenstool parameter file, got none"),
        (("arcs.dat", "--redshift", "2"), "arcs.dat: a parameter file must"),
        (("best.par", "--redshift", "0.39"), "z_source must be above z_lens 0.39, got 0.39"),
        (("best.par", "--redshift", "nan"), "z_source must be above z_lens 0.39, got nan"),
        (("best.par", *("--redshift", "2") * 6), "--redshift must be given 1 to 5 times, got 6"),
        (("best.par", "--redshift", "2", "--step", "0"), "step_arcsec must be in"),
        (("best.par", "--redshift", "2", "--field", "-1"), "width_arcsec must be positive"),
        (("best.par", "--redshift", "2", "--images", "none.dat"), "--images must be a list of multiple images, got"),
        (("best.par", "--redshift", "2", "--images", "best.par"), "best.par: "),
        (("best.par", "--redshift", "2", "--images", "free.dat"), "redshift of family 9 must be known, got none"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_one_line(folder: Path, words: tuple[str, ...], told: str) -> None:
    Path("free.dat").write_bytes(b"9.1 110.8 -73.4 0.1 0.1 0 0.0 0.0\n")
    code, output = run(*words, "--out", "c.png")
    assert code == 1
    assert output.startswith("error: ")
    assert told in output
    assert output.count("\n") == 1
    assert not Path("c.png").exists()


def test_a_huge_list_of_images_is_refused(folder: Path) -> None:
    with Path("arcs.dat").open("wb") as file:
        file.truncate(2**24 + 1)  # a hole: no bytes on the disk
    code, output = run(*SMALL, "--out", "c.png")
    assert (code, "arcs.dat must have at most 16777216 bytes" in output) == (1, True)


@needs_real
def test_smacs_0723(tmp_path: Path) -> None:
    words = ("--redshift", "1.45", "--redshift", "9", "--step", "1", "--out", str(tmp_path / "curves.png"))
    code, told = run(str(FOLDER / "best.par"), "--images", str(FOLDER / "arcs.dat"), *words)
    assert code == 0, told
    assert "60 images of 21 families: scatter median 0.068, at most 0.283 arcsec (family 4)" in told
