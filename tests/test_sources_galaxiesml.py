"""GalaxiesML: files in the published layout, whole and broken, in memory that does not grow, from a bad server."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import pytest

from lensml import config, schema
from lensml.imaging.cutouts import calibrate
from lensml.schema import ContractError
from lensml.sources import galaxiesml, galaxiesml_file
from tests import bad_server

ROOT = Path(__file__).parents[1]
PARAMS = config.load(ROOT / "params.yaml")
HSC = PARAMS.surveys["hsc"]
NAME = "5x64x64_training_with_morphology.hdf5"
AB_27 = 57.54399373371573  # nJy of AB magnitude 27, 10^(0.4 (31.4 - 27))
BANDS = "grizy"


def columns(n: int, first: int = 0) -> dict[str, np.ndarray]:
    """All of the published keys but the image, of galaxies that differ in every one that is read."""
    k = np.arange(first, first + n)
    shapes = {
        f"{band}_{name}": np.full(n, 1.0, dtype=np.float32)
        for band in BANDS
        for name in ("cmodel_mag", "cmodel_magsigma", "isophotal_area", "major_axis", "minor_axis", "petro_rad")
    }
    return {
        **shapes,
        **{f"{band}_ellipticity": 0.1 + 0.01 * i + 0.001 * (k % 100) for i, band in enumerate(BANDS)},
        **{f"{band}_half_light_radius": 3.0 + i + 0.1 * (k % 50) for i, band in enumerate(BANDS)},
        **{f"{band}_sersic_index": 1.0 + i + 0.01 * (k % 100) for i, band in enumerate(BANDS)},
        **{f"{band}_pos_angle": k % 180 - 90.0 for band in BANDS},
        "specz_redshift": 0.1 + 0.0001 * k,
        "specz_redshift_err": np.full(n, 1e-4),
        "specz_flag_homogeneous": np.ones(n, dtype=bool),
        "specz_name": np.array([b"zcosmos"] * n),
        "specz_ra": 150.0 + 0.001 * k,
        "object_id": 74643924559360902 + k,
        "ra": 150.0 + 0.001 * k,
        "dec": 2.0 - 0.001 * k,
        "coord": np.zeros((n, 3)),
        "skymap_id": k,
        "x_coord": np.full(n, 32.0),
        "y_coord": np.full(n, 32.0),
    }


def write(path: Path, n: int, first: int = 0, side: int = 64, change: dict[str, Any] | None = None) -> Path:
    """A file of noise, with one pixel per galaxy and band that says which it is: at y = 20 + band, x = 40."""
    rng = np.random.default_rng(n)
    image = rng.normal(0, 0.1, (n, 5, side, side)).astype(np.float32)
    for band in range(5):
        image[:, band, 20 + band, 40] = 10 * np.arange(first, first + n) + band
    with h5py.File(path, "w") as file:
        for name, values in {"image": image, **columns(n, first), **(change or {})}.items():
            if values is not None:
                file.create_dataset(name, data=values)
    return path


def fetched(path: Path, raw: Path) -> Path:
    params = config.GalaxiesmlSource(kind="galaxiesml", path=str(path), downloads=[], survey="hsc")
    galaxiesml.KIND.fetch(params, PARAMS.surveys, raw)
    return raw


def read_all(raw: Path, size: int = 7) -> list[Any]:
    convert = PARAMS.convert.model_copy(update={"objects_per_batch": size})
    units = galaxiesml.KIND.batches("gml", raw, convert)
    return [galaxiesml.KIND.read("gml", raw, unit, PARAMS.surveys, convert).cutouts[0] for unit in units]


def test_pixels_in_njy_with_axes_and_bands_in_their_order(tmp_path: Path) -> None:
    parts = read_all(fetched(write(tmp_path / NAME, 20), tmp_path / "raw"))
    assert [len(part.object_id) for part in parts] == [7, 7, 6]
    flux = np.concatenate([part.flux for part in parts])
    assert flux.shape == (20, 5, 64, 64)
    for band in range(5):
        np.testing.assert_allclose(
            flux[:, band, 20 + band, 40], (10 * np.arange(20) + band) * AB_27, rtol=1e-6, atol=1e-6
        )
    part = parts[0]
    assert part.bands == ("g", "r", "i", "z", "y")
    assert part.variance is None
    assert part.psf is None
    assert set(part.pixel_scale) == {0.168}
    assert parts[1].object_id[0] == "gml.74643924559360909"


def test_redshift_and_shape_travel_as_targets(tmp_path: Path) -> None:
    table = read_all(fetched(write(tmp_path / NAME, 20), tmp_path / "raw"))[1].metadata
    k = np.arange(7, 14)
    np.testing.assert_allclose(table["z_spec"], 0.1 + 0.0001 * k)
    np.testing.assert_allclose(table["sersic_index"], 3.0 + 0.01 * k)  # i is the third band
    np.testing.assert_allclose(table["half_light_radius"], (5.0 + 0.1 * k) * 0.168)
    np.testing.assert_allclose(table["axis_ratio"], 1 - (0.12 + 0.001 * k))
    np.testing.assert_allclose(table["dec"], 2.0 - 0.001 * k)


def test_what_is_impossible_is_missing(tmp_path: Path) -> None:
    n = 6
    change = {
        "specz_redshift": np.array([0.5, np.nan, -9, 0.5, 99, 0.5]),
        "specz_flag_homogeneous": np.array([1, 1, 1, 0, 1, 1], dtype=bool),
        "i_sersic_index": np.array([2, np.nan, -1, 0, 50, np.inf]),
        "i_half_light_radius": np.array([2, np.nan, -1, 0, 5, np.inf]),
        "i_ellipticity": np.array([0.2, np.nan, -1, 1, 0, 2]),
    }
    path = write(tmp_path / NAME, n, change=change)
    table = read_all(fetched(path, tmp_path / "raw"))[0].metadata
    assert table["z_spec"].to_list() == [0.5, -1, -1, -1, -1, 0.5]
    assert table["sersic_index"].to_list() == [2, None, None, None, None, None]
    assert table["half_light_radius"].to_list() == pytest.approx([0.336, None, None, None, 0.84, None])
    assert table["axis_ratio"].to_list() == pytest.approx([0.8, None, None, None, 1.0, None])


def test_a_pixel_that_is_no_number_is_bad_and_only_that(tmp_path: Path) -> None:
    path = write(tmp_path / NAME, 3)
    with h5py.File(path, "r+") as file:
        file["image"][1, 2, 3, 4] = np.nan
        file["image"][2, 0, 5, 6] = np.inf
    bad = read_all(fetched(path, tmp_path / "raw"))[0].bad
    assert np.argwhere(bad).tolist() == [[1, 2, 3, 4], [2, 0, 5, 6]]


def test_calibrated_the_catalogue_has_the_targets(tmp_path: Path) -> None:
    cutouts = read_all(fetched(write(tmp_path / NAME, 7), tmp_path / "raw"))[0]
    stamps, refused = calibrate(cutouts, HSC, PARAMS.convert)
    assert refused == []
    given = cutouts.metadata
    for name in ("z_spec", "half_light_radius", "sersic_index", "axis_ratio"):
        assert stamps.catalogue[name].to_list() == given[name].to_list()
    sigma = np.array(stamps.catalogue["sky_sigma"].to_list())
    np.testing.assert_allclose(sigma, 0.1 * AB_27, rtol=0.06)


def test_no_galaxy_is_a_lens_or_none(tmp_path: Path) -> None:
    evidence = galaxiesml.KIND.evidence("gml", fetched(write(tmp_path / NAME, 5), tmp_path / "raw"))
    evidence = schema.check(evidence, schema.EVIDENCE, "evidence")
    assert set(evidence["label"]) == {"unknown"}
    assert set(evidence["label_source"]) == {"pretrain:galaxiesml"}
    assert set(evidence["frame"]) == {"icrs"}
    assert set(evidence["survey"]) == {"hsc"}
    assert set(evidence["parent"]) == {""}
    np.testing.assert_allclose(evidence["ra"], 150 + 0.001 * np.arange(5))


def test_galaxies_of_one_number_are_two_objects_with_one_parent(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / NAME, 4, change={"object_id": np.array([5, 6, 5, 7])})
    write(folder / NAME.replace("training", "validation"), 2, change={"object_id": np.array([6, 8])})
    (folder / "5x64x64_training_with_morphology.csv").write_text("object_id\n5\n")
    raw = fetched(folder, tmp_path / "raw")
    evidence = galaxiesml.KIND.evidence("gml", raw)
    names = ["gml.5", "gml.6", "gml.5-2", "gml.7", "gml.6-2", "gml.8"]
    assert evidence["object_id"].to_list() == names
    assert evidence["parent"].to_list() == ["gml.5", "gml.6", "gml.5", "", "gml.6", ""]
    assert [name for part in read_all(raw, 3) for name in part.object_id] == names


def test_both_sizes_of_the_same_galaxies_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / NAME, 2)
    write(folder / NAME.replace("64x64", "127x127"), 2, side=127)
    with pytest.raises(ContractError, match=r"of 127 pixels.*of 64 pixels.*two sources"):
        fetched(folder, tmp_path / "raw")


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no image": ({"image": None}, "image must be there"),
    "no redshift": ({"specz_redshift": None}, "specz_redshift must be there"),
    "bands last": ({"image": np.zeros((4, 64, 64, 5), np.float32)}, "image must have the shape"),
    "an unknown size": ({"image": np.zeros((4, 5, 32, 32), np.float32)}, "image must have the shape"),
    "four bands": ({"image": np.zeros((4, 4, 64, 64), np.float32)}, "image must have the shape"),
    "bytes of a JPEG": ({"image": np.zeros((4, 5, 64, 64), np.uint8)}, "image must be float32"),
    "another length": ({"i_sersic_index": np.ones(3)}, r"i_sersic_index must have the shape \(4,\)"),
    "numbers as text": ({"ra": np.array([b"1.5"] * 4)}, "ra must hold numbers"),
    "identifiers rounded": ({"object_id": np.arange(4.0)}, "object_id must hold numbers"),
    "objects": ({"dec": np.array(["x", "y", "z", "w"], dtype=h5py.string_dtype())}, "dec must hold numbers"),
    "off the sky": ({"dec": np.array([1.0, 2, -91, 3])}, "150.002, -91 in row 2"),
    "nowhere": ({"ra": np.array([1.0, np.nan, 2, 3])}, "nan, 1.999 in row 1"),
    "no galaxies": ({"image": np.zeros((0, 5, 64, 64), np.float32)}, "hold 1 to"),
}


@pytest.mark.parametrize(("change", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_another_layout_is_refused_by_key(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        fetched(write(tmp_path / NAME, 4, change=change), tmp_path / "raw")


def external_link(path: Path) -> None:
    write(path.with_name("other.hdf5"), 4)
    with h5py.File(path, "r+") as file:
        del file["image"]
        file["image"] = h5py.ExternalLink("other.hdf5", "image")


def soft_link(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["ra"]
        file["ra"] = h5py.SoftLink("/dec")


def unused_external_link(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["extra"] = h5py.ExternalLink("/etc/passwd", "/")


def virtual(path: Path) -> None:
    layout = h5py.VirtualLayout((4, 5, 64, 64), np.float32)
    layout[:] = h5py.VirtualSource(str(write(path.with_name("other.hdf5"), 4)), "image", (4, 5, 64, 64))
    with h5py.File(path, "r+") as file:
        del file["image"]
        file.create_virtual_dataset("image", layout)


def stored_elsewhere(path: Path) -> None:
    path.with_name("secret.bin").write_bytes(bytes(4 * 8))
    with h5py.File(path, "r+") as file:
        del file["ra"]
        where = [(str(path.with_name("secret.bin")), 0, 4 * 8)]
        file.create_dataset("ra", (4,), np.float64, external=where)


def bomb(path: Path) -> None:
    """Two million images of zeros that were never written."""
    n = 2_000_000
    with h5py.File(path, "w") as file:
        file.create_dataset("image", (n, 5, 64, 64), np.float32, chunks=(1, 5, 64, 64), compression="gzip")
        for name in (*galaxiesml_file.COLUMNS, "object_id"):
            file.create_dataset(name, (n,), np.int64, chunks=(1000,), compression="gzip")


def one_great_chunk(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["image"]
        shape = (4000, 5, 64, 64)
        file.create_dataset("image", shape, np.float32, chunks=shape, compression="gzip")


def a_group(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["image"]
        file.create_group("image")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (external_link, "image must be data of this file, got ExternalLink"),
        (soft_link, "ra must be data of this file, got SoftLink"),
        (unused_external_link, "extra must be data of this file"),
        (virtual, "image must be data of this file"),
        (stored_elsewhere, "ra must be data of this file"),
        (bomb, "image must unpack to at most"),
        (one_great_chunk, "image must have chunks of at most"),
        (a_group, "image must be an array"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_file_that_is_more_or_less_than_its_bytes_is_refused(
    tmp_path: Path, harm: Callable[[Path], None], words: str
) -> None:
    path = write(tmp_path / NAME, 4)
    harm(path)
    with pytest.raises(ContractError, match=words):
        fetched(path, tmp_path / "raw")


def test_a_damaged_file_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / NAME
    content = write(path, 4).read_bytes()
    for damaged in (b"", b"no HDF5", content[:-5000], content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ContractError, match="must be a whole HDF5 file"):
            galaxiesml_file.check(path)


def test_a_damaged_chunk_is_one_clear_line(tmp_path: Path) -> None:
    path = write(tmp_path / NAME, 4)
    with h5py.File(path, "r+") as file:
        image = file["image"][:]
        del file["image"]
        packed = file.create_dataset("image", data=image, chunks=(1, 5, 64, 64), compression="gzip")
        where = packed.id.get_chunk_info(2).byte_offset
    content = bytearray(path.read_bytes())
    content[where + 100 : where + 200] = bytes(100)
    path.write_bytes(content)
    raw = fetched(path, tmp_path / "raw")
    assert galaxiesml_file.read(raw / NAME, 0, 2)[0].shape == (2, 5, 64, 64)
    with pytest.raises(ContractError, match="must be a whole HDF5 file"):
        galaxiesml_file.read(raw / NAME, 2, 4)


def test_the_survey_must_have_the_bands(tmp_path: Path) -> None:
    path = write(tmp_path / NAME, 2)
    for survey in ("des", "nowhere"):
        params = config.GalaxiesmlSource(kind="galaxiesml", path=str(path), downloads=[], survey=survey)
        with pytest.raises(ContractError, match=r"surveys"):
            galaxiesml.KIND.fetch(params, PARAMS.surveys, tmp_path / survey)


def test_no_hdf5_is_refused(tmp_path: Path) -> None:
    (tmp_path / "galaxies.csv").write_text("object_id\n1\n")
    with pytest.raises(ContractError, match="must hold HDF5 files"):
        fetched(tmp_path / "galaxies.csv", tmp_path / "raw")


READ_ALL = r"""
import re, sys
from pathlib import Path
from lensml import config
from lensml.sources import galaxiesml
peak = lambda: int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])  # KiB, of this process only
params, raw = config.load(Path(sys.argv[1])), Path(sys.argv[2])
convert = params.convert.model_copy(update={"objects_per_batch": int(sys.argv[3])})
units = galaxiesml.KIND.batches("gml", raw, convert)[: int(sys.argv[4])]
read = lambda unit: galaxiesml.KIND.read("gml", raw, unit, params.surveys, convert).cutouts[0]
read(galaxiesml.Slice(units[0].file, 0, 1))
before = peak()
print(sum(len(read(unit).object_id) for unit in units), (peak() - before) // 1024)
"""


def grown_mib(raw: Path, batch: int, units: int) -> tuple[int, int]:
    """Galaxies read by a process of its own, and by how much its peak memory grew from the first galaxy on."""
    command = [sys.executable, "-c", READ_ALL, str(ROOT / "params.yaml"), str(raw), str(batch), str(units)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    galaxies, grown = done.stdout.split()
    return int(galaxies), int(grown)


def write_10_000(path: Path) -> None:
    """819 MB of pixels, all but a few of which are 0, so that they are stored in a few."""
    n, step = 10_000, 64
    noise = np.random.default_rng(1).normal(0, 0.1, (step, 5, 6, 6)).astype(np.float32)
    with h5py.File(path, "w") as file:
        for name, values in columns(n).items():
            file.create_dataset(name, data=values)
        layout = {"chunks": (step, 5, 64, 64), "compression": "gzip", "compression_opts": 1}
        image = file.create_dataset("image", (n, 5, 64, 64), np.float32, **layout)
        block = np.zeros((step, 5, 64, 64), np.float32)
        block[:, :, 29:35, 29:35] = noise
        for start in range(0, n, step):
            image[start : start + step] = block[: n - start]


def test_10_000_galaxies_from_a_bad_server_a_slice_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    write_10_000(tmp_path / NAME)
    with bad_server.serve({NAME: (tmp_path / NAME).read_bytes()}) as server:
        download = config.Download(mirrors=server.mirrors(NAME), sha256=server.sha256(NAME))
        params = config.GalaxiesmlSource(kind="galaxiesml", path=None, downloads=[download], survey="hsc")
        galaxiesml.KIND.fetch(params, PARAMS.surveys, tmp_path / "raw")
    assert (tmp_path / "raw" / NAME).read_bytes() == (tmp_path / NAME).read_bytes()
    assert galaxiesml.KIND.evidence("gml", tmp_path / "raw").height == 10_000
    galaxies, grown = grown_mib(tmp_path / "raw", 128, 100)
    assert galaxies == 10_000
    assert grown < 60  # of 780
    assert grown_mib(tmp_path / "raw", 2000, 1)[1] > 150  # what is read at once would show


def test_a_wrong_checksum_from_every_mirror_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with bad_server.serve({NAME: write(tmp_path / NAME, 2).read_bytes()}) as server:
        download = config.Download(mirrors=[server.url("wrong", NAME)], sha256=server.sha256(NAME))
        params = config.GalaxiesmlSource(kind="galaxiesml", path=None, downloads=[download], survey="hsc")
        with pytest.raises(ConnectionError, match="another file"):
            galaxiesml.KIND.fetch(params, PARAMS.surveys, tmp_path / "raw")


def test_the_bytes_of_a_fetch_are_the_same_twice(tmp_path: Path) -> None:
    path = write(tmp_path / NAME, 5)
    one, two = (fetched(path, tmp_path / name) for name in ("one", "two"))
    for file in sorted(one.iterdir()):
        assert file.read_bytes() == (two / file.name).read_bytes()
    assert isinstance(pl.read_parquet(one / "objects.parquet"), pl.DataFrame)
