"""SDSS frames in the layout of their data model: variance against plain astropy, stars on their pixel."""

import bz2
import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from lensml.sources import SOURCES
from lensml.sources.sdss import gain_and_dark_variance
from tests.planted import PARAMS, Found, catalogue, header, opened, params, place, read, star

SHAPE = (149, 204)  # of a frame a tenth of the real 1489 x 2048
SDSS = SOURCES["sdss"]
SCALE = 0.396
NMGY = 3630.78  # nJy


def frame(head: fits.Header, image: NDArray[np.float32], band: str = "r", run: int = 2583, camcol: int = 2) -> bytes:
    """A frame's file: image, calibration, sky on a coarse grid, and astrometry."""
    rng = np.random.default_rng(ord(band))
    head = head.copy()
    head.update(RUN=run, CAMCOL=camcol, FILTER=band, BUNIT="nanomaggies")
    height, width = image.shape
    calibration = (0.005 * (1 + 0.1 * rng.random(width))).astype(np.float32)
    sky = (150 + 20 * rng.random((20, 26))).astype(np.float32)
    x, y = np.linspace(-0.4, 25.4, width, dtype=np.float32), np.linspace(-0.4, 19.4, height, dtype=np.float32)
    columns = [
        fits.Column("ALLSKY", f"{sky.size}E", dim=f"({sky.shape[1]},{sky.shape[0]})", array=sky[None]),
        fits.Column("XINTERP", f"{width}E", array=x[None]),
        fits.Column("YINTERP", f"{height}E", array=y[None]),
    ]
    astrometry = fits.BinTableHDU.from_columns([fits.Column("RUN", "J", array=[run])])
    hdus = [fits.PrimaryHDU(image.astype(np.float32), head), fits.ImageHDU(calibration)]
    out = io.BytesIO()
    fits.HDUList([*hdus, fits.BinTableHDU.from_columns(columns), astrometry]).writeto(out)
    return out.getvalue()


def variance_nmgy(content: bytes, gain: float, dark: float) -> NDArray[np.float64]:
    """As the data model says it, by astropy and another interpolator."""
    with fits.open(io.BytesIO(content)) as hdus:
        image, calibration, sky = hdus[0].data.astype(float), hdus[1].data.astype(float), hdus[2].data
        grid = sky["ALLSKY"][0].astype(float)
        rows, columns = (np.arange(n) for n in grid.shape)
        x, y = np.clip(sky["XINTERP"][0], 0, columns[-1]), np.clip(sky["YINTERP"][0], 0, rows[-1])
        at = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
        counts = image / calibration + RegularGridInterpolator((rows, columns), grid)(at)
        return np.asarray((counts / gain + dark) * calibration**2)


def folder(tmp_path: Path, files: dict[str, bytes]) -> Path:
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(content)
    return tmp_path / "in"


def stamps(tmp_path: Path, files: dict[str, bytes], places: dict[str, tuple[float, float]]) -> dict[str, Found]:
    """Stamps of 31 pixels about places, none refused."""
    table = catalogue(tmp_path / "objects.csv", places)
    source = params("sdss", folder(tmp_path, files), catalogue=table, stamp_arcsec=31 * SCALE)
    found, refused = opened(SDSS, source, tmp_path / "raw")
    assert refused == {}
    return found


@pytest.mark.parametrize("ending", ["", ".bz2", ".gz"])
def test_a_whole_frame(tmp_path: Path, ending: str) -> None:
    head = header(SHAPE, SCALE)
    content = frame(head, star(SHAPE, 120, 50, 100.0))
    packed = {"": content, ".bz2": bz2.compress(content), ".gz": gzip.compress(content)}[ending]
    source = params("sdss", folder(tmp_path, {f"frame-r-002583-2-0136.fits{ending}": packed}))
    found, refused = opened(SDSS, source, tmp_path / "raw")
    assert (refused, list(found)) == ({}, ["002583-2-0136"])
    whole = found["002583-2-0136"]
    assert whole.magnitude("r") == pytest.approx(22.5 - 2.5 * np.log10(100.0), abs=1e-3)
    assert whole.variance is not None
    assert np.allclose(whole.variance[0], variance_nmgy(content, 4.6, 1.0) * NMGY**2, rtol=1e-5)
    assert (whole.pixel_scale, whole.north_deg) == (pytest.approx(SCALE), pytest.approx(-30.0))
    ra, dec = place(head, (SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2)
    assert (whole.metadata["ra"], whole.metadata["dec"]) == (pytest.approx(ra, abs=1e-9), pytest.approx(dec, abs=1e-9))


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_star_lands_on_the_central_pixel(tmp_path: Path, mirrored: bool) -> None:
    head = header(SHAPE, SCALE, mirrored=mirrored)
    content = frame(head, star(SHAPE, 120, 50, 100.0) + star(SHAPE, 126, 50, 10.0))
    found = stamps(tmp_path, {"frame-r-002583-2-0136.fits.bz2": bz2.compress(content)}, {"a": place(head, 120, 50)})
    stamp = found["a"]
    assert stamp.flux.shape == (1, 31, 31)
    assert np.unravel_index(stamp.flux[0].argmax(), (31, 31)) == (15, 15)
    expected = variance_nmgy(content, 4.6, 1.0)[35:66, 105:136] * NMGY**2
    neighbour = (15, 9) if mirrored else (15, 21)  # turned, so that east is left of north
    assert stamp.flux[0][neighbour] > 5 * stamp.flux[0][15, 30 - neighbour[1]]
    assert stamp.variance is not None
    assert np.allclose(stamp.variance[0], expected[:, ::-1] if mirrored else expected, rtol=1e-5)
    assert stamp.north_deg == pytest.approx(-30.0)


def test_beyond_the_edge_is_bad(tmp_path: Path) -> None:
    head = header(SHAPE, SCALE)
    content = frame(head, star(SHAPE, 3, 2, 100.0))
    stamp = stamps(tmp_path, {"frame-r-002583-2-0136.fits": content}, {"a": place(head, 3, 2)})["a"]
    assert stamp.bad[0, :13].all()
    assert stamp.bad[0, :, :12].all()
    assert not stamp.bad[0, 13:, 12:].any()
    assert stamp.variance is not None
    assert np.allclose(stamp.variance[0, 13:, 12:], variance_nmgy(content, 4.6, 1.0)[:18, :19] * NMGY**2, rtol=1e-5)
    assert not stamp.variance[0][stamp.bad[0]].any()


def test_bands_begin_elsewhere(tmp_path: Path) -> None:
    """The drift scan's filters see a field one after the other: whole frames are laid on each other by their WCS."""
    heads = {"g": header(SHAPE, SCALE), "r": header(SHAPE, SCALE, shift=(7, -4))}
    seen = {"g": (120, 50), "r": (127, 46)}
    files = {f"frame-{b}-002583-2-0136.fits": frame(heads[b], star(SHAPE, *seen[b], 100.0), b) for b in heads}
    source = params("sdss", folder(tmp_path, files))
    whole = opened(SDSS, source, tmp_path / "raw")[0]["002583-2-0136"]
    assert whole.bands == ("g", "r")
    assert whole.flux.shape == (2, SHAPE[0] - 4, SHAPE[1] - 7)
    assert [np.unravel_index(image.argmax(), image.shape) for image in whole.flux] == [(46, 120), (46, 120)]
    table = catalogue(tmp_path / "objects.csv", {"a": place(heads["g"], 120, 50)})
    cut = params("sdss", tmp_path / "in", catalogue=table, stamp_arcsec=31 * SCALE)
    stamp = opened(SDSS, cut, tmp_path / "raw-cut")[0]["a"]
    assert [np.unravel_index(image.argmax(), (31, 31)) for image in stamp.flux] == [(15, 15), (15, 15)]


def test_objects_find_their_field(tmp_path: Path) -> None:
    heads = {"0136": header(SHAPE, SCALE), "0137": header(SHAPE, SCALE, at=(151.0, 2.2))}
    files = {
        f"frame-r-002583-2-{n}.fits": frame(heads[n], star(SHAPE, 60, 70, flux))
        for n, flux in (("0136", 50.0), ("0137", 80.0))
    }
    places = {"first": place(heads["0136"], 60, 70), "second": place(heads["0137"], 60, 70), "lost": (270.0, -60.0)}
    table = catalogue(tmp_path / "objects.csv", places)
    source = params("sdss", folder(tmp_path, files), catalogue=table, stamp_arcsec=31 * SCALE)
    found, refused = opened(SDSS, source, tmp_path / "raw")
    magnitudes = {name: stamp.magnitude("r") for name, stamp in found.items()}
    expected = {"first": 22.5 - 2.5 * np.log10(50), "second": 22.5 - 2.5 * np.log10(80)}
    assert magnitudes == pytest.approx(expected, abs=1e-3)
    assert refused == {"lost": "an object must lie in a field of the source, got a place in none."}
    assert read(SDSS, tmp_path / "raw")[1] == refused


@pytest.mark.parametrize(
    ("band", "camcol", "run", "gain", "dark"),
    [
        ("u", 2, 1100, 1.595, 12.6025),
        ("u", 2, 1101, 1.825, 12.6025),
        ("g", 1, 94, 3.32, 15.6025),
        ("i", 4, 1500, 4.885, 6.25),
        ("i", 4, 1501, 4.885, 7.5625),
        ("z", 5, 8162, 3.48, 2.1025),
        ("z", 6, 8162, 4.69, 1.21),
    ],
)
def test_published_gains(band: str, camcol: int, run: int, gain: float, dark: float) -> None:
    assert gain_and_dark_variance(band, camcol, run) == (gain, dark)


def spoilt(how: str) -> bytes:
    content = frame(header(SHAPE, SCALE), star(SHAPE, 100, 70, 10.0))
    with fits.open(io.BytesIO(content)) as hdus:
        hdus = fits.HDUList([hdu.copy() for hdu in hdus])
    if how == "image only":
        del hdus[1:]
    if how == "short calibration":
        hdus[1].data = hdus[1].data[:-1].copy()
    if how == "no sky":
        hdus[2] = fits.BinTableHDU.from_columns([fits.Column("OTHER", "E", array=[1.0])])
    if how == "small sky":
        columns = hdus[2].columns
        kept = [fits.Column(c.name, c.format, dim=c.dim, array=c.array) for c in columns if c.name != "XINTERP"]
        hdus[2] = fits.BinTableHDU.from_columns([*kept, fits.Column("XINTERP", "9E", array=np.zeros((1, 9)))])
    if how == "an image for a sky":
        hdus[2] = fits.ImageHDU(np.zeros((5, 5), dtype=np.float32))
    if how == "no run":
        del hdus[0].header["RUN"]
    if how == "camcol 7":
        hdus[0].header["CAMCOL"] = 7
    out = io.BytesIO()
    hdus.writeto(out)
    return out.getvalue()[: -3000 if how == "truncated" else None]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("image only", "image, calibration and sky, got 1 HDU"),
        ("short calibration", "calibration must be 204 numbers"),
        ("no sky", "must have ALLSKY, XINTERP, YINTERP"),
        ("small sky", "must reach over it, got 149 x 9"),
        ("an image for a sky", "must be a table"),
        ("no run", "RUN must be an integer, got None"),
        ("camcol 7", "CAMCOL must be 1 to 6, got 7"),
        ("truncated", "it is truncated"),
    ],
)
def test_a_bad_frame_is_refused_in_one_line(tmp_path: Path, how: str, words: str) -> None:
    source = params("sdss", folder(tmp_path, {"frame-r-002583-2-0136.fits": spoilt(how)}))
    found, refused = opened(SDSS, source, tmp_path / "raw")
    assert not found
    assert words in refused["002583-2-0136"]
    assert "\n" not in refused["002583-2-0136"]


def test_other_files_are_left(tmp_path: Path) -> None:
    files = {"psField-002583-2-0136.fit": b"x", "frame-irg-002583-2-0136.jpg": b"x"}
    with pytest.raises(ValueError, match="must hold files of this kind of source, got none"):
        opened(SDSS, params("sdss", folder(tmp_path, files)), tmp_path / "raw")
    assert PARAMS.surveys["sdss"].zero_point == 22.5
