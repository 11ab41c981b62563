"""Legacy Surveys bricks and viewer cutouts, as published; bricks through a server that fails in every way it can."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from lensml import config, paths
from lensml.sources import SOURCES
from tests import bad_server
from tests.planted import Found, catalogue, header, opened, params, place, star

SHAPE = (120, 140)  # of a brick, which has 3600 x 3600
STAMP = 31
SCALE = 0.262
LEGACY = SOURCES["legacy"]
NMGY = 3630.78  # nJy
FLUX = {"g": 40.0, "r": 100.0}
BITS = {"NPRIMARY": 0, "BRIGHT": 1, "SATUR_G": 2, "SATUR_R": 3, "ALLMASK_G": 5, "ALLMASK_R": 6, "BAILOUT": 10}
BITS |= {"MEDIUM": 11, "GALAXY": 12, "SATUR_I": 14, "ALLMASK_I": 15}


def tiled(data: NDArray[Any], head: fits.Header, name: str, **cards: Any) -> bytes:
    """One plane of a brick, fpacked as published; floats without loss, so that they can be compared."""
    floats = data.dtype.kind == "f"
    kind = {"compression_type": "GZIP_2", "quantize_level": 0.0} if floats else {"compression_type": "RICE_1"}
    unit = fits.CompImageHDU(data, head, name=name, **kind)
    unit.header.update(**cards)
    out = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), unit]).writeto(out)
    return out.getvalue()


def brick(head: fits.Header, x: int, y: int, mask: NDArray[np.int32] | None = None) -> dict[str, bytes]:
    """The files of a brick with a star."""
    files, start = {}, "legacysurvey-1500p022"
    for band, flux in FLUX.items():
        image = star(SHAPE, x, y, flux)
        weight = np.full(SHAPE, 400.0, np.float32)
        weight[:2] = 0
        size = np.add.outer(np.arange(SHAPE[0]), np.arange(SHAPE[1])).astype(np.float32) / 100
        files[f"{start}-image-{band}.fits.fz"] = tiled(image, head, "COMPRESSED_IMAGE", BUNIT="nanomaggy")
        files[f"{start}-invvar-{band}.fits.fz"] = tiled(weight, head, "COMPRESSED_IMAGE", BUNIT="1/nanomaggy^2")
        files[f"{start}-psfsize-{band}.fits.fz"] = tiled(size, head, "COMPRESSED_IMAGE")
        files[f"{start}-nexp-{band}.fits.fz"] = b"not wanted"
    mask = np.zeros(SHAPE, np.int32) if mask is None else mask
    files[f"{start}-maskbits.fits.fz"] = tiled(mask, head, "MASKBITS")
    return files


def folder(tmp_path: Path, files: dict[str, bytes]) -> Path:
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(content)
    return tmp_path / "in"


def stamp_of(tmp_path: Path, files: dict[str, bytes], at: tuple[float, float]) -> Found:
    table = catalogue(tmp_path / "t.csv", {"a": at})
    source = params("legacy", folder(tmp_path, files), catalogue=table, stamp_arcsec=STAMP * SCALE)
    found, refused = opened(LEGACY, source, tmp_path / "raw")
    assert refused == {}
    return found["a"]


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_stamp_of_a_brick(tmp_path: Path, mirrored: bool) -> None:
    head = header(SHAPE, SCALE, mirrored=mirrored)
    stamp = stamp_of(tmp_path, brick(head, 80, 60), place(head, 80, 60))
    assert stamp.bands == ("g", "r")
    assert stamp.flux.shape == (2, STAMP, STAMP)
    for row, (band, flux) in enumerate(FLUX.items()):
        assert np.unravel_index(stamp.flux[row].argmax(), (STAMP, STAMP)) == (15, 15)
        assert stamp.magnitude(band) == pytest.approx(22.5 - 2.5 * np.log10(flux), abs=1e-3)
    assert stamp.variance is not None
    assert np.allclose(stamp.variance, NMGY**2 / 400, rtol=1e-5)
    assert stamp.psf_fwhm == pytest.approx([1.4, 1.4])
    assert not stamp.bad.any()
    assert (stamp.pixel_scale, stamp.north_deg) == (pytest.approx(SCALE), pytest.approx(-30))


def test_mask_bits_by_their_published_numbers(tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.int32)
    for column, bit in enumerate(BITS.values()):
        mask[60, 66 + column] = 1 << bit
    head = header(SHAPE, SCALE)
    stamp = stamp_of(tmp_path, brick(head, 80, 60, mask), place(head, 80, 60))
    names = list(BITS)
    assert stamp.saturated is not None
    seen = [{names[x - 1] for x in np.flatnonzero(row[15])} for row in (*stamp.bad, *stamp.saturated)]
    assert seen == [
        {"BRIGHT", "SATUR_G", "ALLMASK_G"},
        {"BRIGHT", "SATUR_R", "ALLMASK_R"},
        {"SATUR_G"},
        {"SATUR_R"},
    ]


def test_beyond_the_edge_is_bad(tmp_path: Path) -> None:
    head = header(SHAPE, SCALE)
    stamp = stamp_of(tmp_path, brick(head, 137, 1), place(head, 137, 1))
    expected = np.add.outer(np.arange(STAMP) < 14, np.arange(STAMP) > 17)
    assert np.array_equal(stamp.bad[0], expected)
    assert stamp.variance is not None
    assert not stamp.variance[0, :16].any()  # rows of no weight
    assert (stamp.variance[0, 16:, :18] > 0).all()


def written(*hdus: Any) -> bytes:
    out = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(out)
    return out.getvalue()


def cube(head: fits.Header, *, numbered: bool, planes: bool) -> bytes:
    """The viewer's fits-cutout."""
    head = head.copy()
    head.update(SURVEY="DECaLS", BANDS="gr", **({"BAND0": "g", "BAND1": "r"} if numbered else {}))
    images = np.stack([star((STAMP, STAMP), 15, 15, flux) for flux in FLUX.values()])
    mask = np.zeros((STAMP, STAMP), np.int16)
    mask[2, 3] = 1 << BITS["SATUR_R"]
    kinds = {"IMAGE": images} | ({"INVVAR": np.full_like(images, 400), "MASKBITS": mask} if planes else {})
    hdus: list[Any] = []
    for kind, data in kinds.items():
        own = head.copy()
        if planes:
            own["IMAGETYP"] = kind
        hdus.append(fits.ImageHDU(data, own) if hdus else fits.PrimaryHDU(data, own))
    return written(*hdus)


@pytest.mark.parametrize("planes", [False, True])
def test_a_cutout_of_the_viewer(tmp_path: Path, planes: bool) -> None:
    head = header((STAMP, STAMP), SCALE)
    files = {"galaxy-1.fits": cube(head, numbered=planes, planes=planes)}
    found, refused = opened(LEGACY, params("legacy", folder(tmp_path, files)), tmp_path / "raw")
    assert (refused, list(found)) == ({}, ["galaxy-1"])
    stamp = found["galaxy-1"]
    assert stamp.bands == ("g", "r")
    assert stamp.magnitude("r") == pytest.approx(22.5 - 2.5 * np.log10(FLUX["r"]), abs=1e-3)
    assert (stamp.metadata["ra"], stamp.metadata["dec"]) == pytest.approx(place(head, 15, 15))
    assert np.isnan(stamp.psf_fwhm).all()
    if planes:
        assert stamp.variance is not None
        assert stamp.saturated is not None
        assert np.allclose(stamp.variance, NMGY**2 / 400, rtol=1e-5)
        assert np.argwhere(stamp.saturated).tolist() == [[1, 2, 3]]
    else:
        assert stamp.variance is None
        assert stamp.saturated is None


def subimage(head: fits.Header, *, edge: bool) -> bytes:
    """`subimage`: per brick and band an image and its invvar; at a brick's edge the neighbour shows a part."""
    hdus: list[Any] = [fits.PrimaryHDU()]
    shapes = {"1500p020": (STAMP, 9), "1500p022": (STAMP, STAMP)} if edge else {"1500p022": (STAMP, STAMP)}
    for name, shape in shapes.items():
        for band, flux in FLUX.items():
            for kind, data in (("image", star((STAMP, STAMP), 15, 15, flux)), ("invvar", np.full((STAMP, STAMP), 400))):
                own = head.copy()
                own.update(BRICK=name, BAND=band, IMAGETYP=kind)
                hdus.append(fits.ImageHDU(data[:, : shape[1]].astype(np.float32), own))
    return written(*hdus)


@pytest.mark.parametrize("edge", [False, True])
def test_a_subimage_of_the_viewer(tmp_path: Path, edge: bool) -> None:
    files = {"galaxy-1.fits": subimage(header((STAMP, STAMP), SCALE), edge=edge)}
    found, refused = opened(LEGACY, params("legacy", folder(tmp_path, files)), tmp_path / "raw")
    assert refused == {}
    stamp = found["galaxy-1"]
    assert (stamp.bands, stamp.flux.shape) == (("g", "r"), (2, STAMP, STAMP))
    assert [stamp.magnitude(b) for b in FLUX] == pytest.approx(
        [22.5 - 2.5 * np.log10(f) for f in FLUX.values()], abs=1e-3
    )
    assert stamp.variance is not None
    assert np.allclose(stamp.variance, NMGY**2 / 400, rtol=1e-5)


def bad_cutout(how: str) -> bytes:
    head, image = header((STAMP, STAMP), SCALE), np.ones((2, STAMP, STAMP), np.float32)
    head["BANDS"] = "gr"
    if how == "no bands":
        del head["BANDS"]
    if how == "a band twice":
        head["BANDS"] = "gg"
    if how == "three bands":
        head["BANDS"] = "grz"
    if how == "other bands":
        head["BANDS"] = "XY"
    if how == "no overlap":
        return written(fits.PrimaryHDU(None, head))
    return written(fits.PrimaryHDU(image, head))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no bands", "must name its bands, each once (BANDS), got none"),
        ("a band twice", "must name its bands, each once"),
        ("three bands", "a layer for each of 3 band(s), got 2"),
        ("other bands", "must have images in some of g, r, i, z, got"),
        ("no overlap", "must hold an image, got none (no overlap with the survey?)"),
    ],
)
def test_a_bad_cutout_is_refused_in_one_line(tmp_path: Path, how: str, words: str) -> None:
    source = params("legacy", folder(tmp_path, {"x.fits": bad_cutout(how)}))
    found, refused = opened(LEGACY, source, tmp_path / "raw")
    assert not found
    assert words in refused["x"]
    assert "\n" not in refused["x"]


def test_a_damaged_brick_is_refused_in_one_line(tmp_path: Path) -> None:
    head = header(SHAPE, SCALE)
    files = brick(head, 80, 60)
    name = "legacysurvey-1500p022-image-r.fits.fz"
    damaged = bytearray(files[name])
    damaged[-2880 * 3 :] = bytes(2880 * 3)
    table = catalogue(tmp_path / "t.csv", {"a": place(head, 80, 60)})
    source = params(
        "legacy", folder(tmp_path, files | {name: bytes(damaged)}), catalogue=table, stamp_arcsec=STAMP * SCALE
    )
    found, refused = opened(LEGACY, source, tmp_path / "raw")
    assert not found
    assert "must be a whole compressed image" in refused["a"]
    assert "\n" not in refused["a"]


def test_a_brick_through_a_bad_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(paths, "DOWNLOAD", str(tmp_path / "download"))
    head = header(SHAPE, SCALE)
    files = {name: content for name, content in brick(head, 80, 60).items() if "nexp" not in name}
    table = catalogue(tmp_path / "t.csv", {"a": place(head, 80, 60)})
    with bad_server.serve(files) as server:
        downloads = [config.Download(mirrors=server.mirrors(name), sha256=server.sha256(name)) for name in files]
        source = params("legacy", tmp_path, catalogue=table, stamp_arcsec=STAMP * SCALE)
        source = source.model_copy(update={"path": None, "downloads": downloads})
        found, refused = opened(LEGACY, source, tmp_path / "raw")
    assert refused == {}
    assert {how for how, _ in server.requests} == {"dead", "wrong", "shorter", "liar", "drops"}
    assert found["a"].magnitude("r") == pytest.approx(22.5 - 2.5 * np.log10(FLUX["r"]), abs=1e-3)


def test_a_brick_that_never_comes_whole_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(paths, "DOWNLOAD", str(tmp_path / "download"))
    name = "legacysurvey-1500p022-image-r.fits.fz"
    with bad_server.serve(brick(header(SHAPE, SCALE), 80, 60)) as server:
        download = config.Download(mirrors=server.mirrors(name)[:-1], sha256=server.sha256(name))
        source = params("legacy", tmp_path).model_copy(update={"path": None, "downloads": [download]})
        with pytest.raises(ConnectionError, match="must come whole from one of 4 mirror"):
            opened(LEGACY, source, tmp_path / "raw")
