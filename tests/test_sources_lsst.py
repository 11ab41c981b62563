"""Rubin deep_coadd cutouts in nJy with named mask planes, through a server that fails in every way it can."""

import io
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from lensml import config, paths
from lensml.sources import SOURCES
from tests import bad_server
from tests.cutouts_folder import gaussian
from tests.planted import catalogue, header, opened, params, place, star

SHAPE = (41, 51)
LSST = SOURCES["lsst"]
SCALE = 0.2
PLANES = {"BAD": 0, "SAT": 1, "CR": 3, "DETECTED": 5, "NO_DATA": 8}


def coadd(head: fits.Header, flux: NDArray[np.float32], mask: NDArray[np.int32] | None = None) -> bytes:
    """IMAGE, MASK, VARIANCE as the science pipelines write them."""
    mask = np.zeros(flux.shape, np.int32) if mask is None else mask
    planes = {"IMAGE": flux.astype(np.float32), "MASK": mask, "VARIANCE": np.full(flux.shape, 9, np.float32)}
    hdus = [fits.PrimaryHDU()]
    for name, data in planes.items():
        hdus.append(fits.ImageHDU(data, head, name))
        hdus[-1].header.update(EXTTYPE=name, BUNIT="nJy" if name == "IMAGE" else "")
        if name == "MASK":
            for plane, bit in PLANES.items():
                hdus[-1].header[f"HIERARCH MP_{plane}" if len(plane) > 5 else f"MP_{plane}"] = bit
    out = io.BytesIO()
    fits.HDUList(hdus).writeto(out)
    return out.getvalue()


def psf() -> bytes:
    out = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(gaussian((25, 25), 3.5))]).writeto(out)
    return out.getvalue()


def folder(tmp_path: Path, files: dict[str, bytes]) -> Path:
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(content)
    return tmp_path / "in"


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_cutout(tmp_path: Path, mirrored: bool) -> None:
    head = header(SHAPE, SCALE, mirrored=mirrored)
    mask = np.zeros(SHAPE, np.int32)
    for plane, column in zip(PLANES, range(5), strict=True):
        mask[3, column] = 1 << PLANES[plane]
    fluxes = {"g": 1e3, "i": 5e3}
    files = {f"obj_{band}.fits": coadd(head, star(SHAPE, 25, 20, flux), mask) for band, flux in fluxes.items()}
    found, refused = opened(LSST, params("lsst", folder(tmp_path, files | {"obj_i_psf.fits": psf()})), tmp_path / "raw")
    assert (refused, list(found)) == ({}, ["obj"])
    stamp = found["obj"]
    assert stamp.bands == ("g", "i")
    assert [stamp.magnitude(band) for band in stamp.bands] == pytest.approx(
        [31.4 - 2.5 * np.log10(flux) for flux in fluxes.values()], abs=1e-3
    )
    assert stamp.variance is not None
    assert (stamp.variance == 9).all()
    seen = slice(None, None, -1) if mirrored else slice(None)
    assert np.array_equal(stamp.bad[0][3, seen][:6], [True, True, True, False, True, False])
    assert stamp.bad.sum() == 8
    assert stamp.saturated is not None
    assert np.array_equal(stamp.saturated[0][3, seen][:3], [False, True, False])
    assert stamp.psf is not None
    assert not stamp.psf[0].any()  # g has none
    assert stamp.psf[1].argmax() == 12 * 25 + 12
    assert (stamp.pixel_scale, stamp.north_deg) == (pytest.approx(SCALE), pytest.approx(-30))


def test_stamps_of_a_patch(tmp_path: Path) -> None:
    head = header((80, 90), SCALE)
    patch = coadd(head, star((80, 90), 60, 30, 1e3) + star((80, 90), 2, 77, 2e3))
    table = catalogue(tmp_path / "t.csv", {"middle": place(head, 60, 30), "corner": place(head, 2, 77)})
    source = params("lsst", folder(tmp_path, {"patch_r.fits": patch}), catalogue=table, stamp_arcsec=21 * SCALE)
    found, refused = opened(LSST, source, tmp_path / "raw")
    assert refused == {}
    for stamp in found.values():
        assert np.unravel_index(np.nanargmax(stamp.flux[0]), (21, 21)) == (10, 10)
    assert not found["middle"].bad.any()
    assert np.array_equal(found["corner"].bad[0], np.add.outer(np.arange(21) > 12, np.arange(21) < 8))


@pytest.mark.parametrize("how", ["no image", "no plane names", "wrong mask", "unit"])
def test_a_bad_cutout_is_refused_in_one_line(tmp_path: Path, how: str) -> None:
    with fits.open(io.BytesIO(coadd(header(SHAPE, SCALE), star(SHAPE, 25, 20, 1e3)))) as hdus:
        hdus = fits.HDUList([hdu.copy() for hdu in hdus])
    if how == "no image":
        hdus[1].header["EXTTYPE"] = "OTHER"
    if how == "no plane names":
        for plane in PLANES:
            del hdus[2].header[f"MP_{plane}"]
    if how == "wrong mask":
        hdus[2].data = hdus[2].data[:-1].copy()
    if how == "unit":
        hdus[1].header["BUNIT"] = "photons"
    out = io.BytesIO()
    hdus.writeto(out)
    words = {
        "no image": "must have an image",
        "no plane names": "must name its planes",
        "wrong mask": "must have its image's shape (41, 51), got (40, 51)",
        "unit": "BUNIT must be nJy",
    }
    source = params("lsst", folder(tmp_path, {"obj_r.fits": out.getvalue()}))
    found, refused = opened(LSST, source, tmp_path / "raw")
    assert not found
    assert words[how] in refused["obj"]
    assert "\n" not in refused["obj"]


def test_through_a_bad_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(paths, "DOWNLOAD", str(tmp_path / "download"))
    head = header(SHAPE, SCALE)
    files = {"obj_r.fits": coadd(head, star(SHAPE, 25, 20, 1e3)), "obj_r_psf.fits": psf()}
    with bad_server.serve(files) as server:
        downloads = [config.Download(mirrors=server.mirrors(name), sha256=server.sha256(name)) for name in files]
        source = params("lsst", tmp_path).model_copy(update={"path": None, "downloads": downloads})
        found, refused = opened(LSST, source, tmp_path / "raw")
        asked = {how for how, _ in server.requests}
    assert refused == {}
    assert asked == {"dead", "wrong", "shorter", "liar", "drops"}
    assert found["obj"].magnitude("r") == pytest.approx(31.4 - 2.5 * np.log10(1e3), abs=1e-3)
    assert found["obj"].psf is not None
