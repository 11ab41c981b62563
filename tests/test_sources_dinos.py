"""Project Dinos: frames, units, noise and labels against planted files, and what is refused."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import pytest
from brought import PARAMS, Brought
from scipy import ndimage

from lensml.schema import ContractError

PHOTOMETRY = "System,Band,Instrument,PHOTFLAM,PHOTPLAM\nA,F814W,ACS,7.0e-20,8045.0\nB,F606W,WFPC2,1.9e-18,6001.0\n"
LABELS = (
    "object,label,label_basis,z_lens,theta_E_arcsec\n"
    'A,lens,mass model (Dinos I),0.2,1.1\nC,lens-candidate,"target, no model",-1.0,\nD,lens,seen in a picture,0.3,1.2\n'
    "E,lens,SLACS Auger+2009 grade-A,0.4,1.3\nF,lens,SLACS grade-B,0.5,1.4\n"
)


def matrix(scale: float, north_deg: float, mirrored: bool = False) -> np.ndarray:
    """Arcsec (east, north) per pixel (x, y); north from +y towards -x, and east 90 degrees further."""
    turn = np.radians(north_deg)
    north, east = np.array([-np.sin(turn), np.cos(turn)]), np.array([-np.cos(turn), -np.sin(turn)])
    return scale * np.array([-east if mirrored else east, north])


def write(
    folder: Path, name: str = "A", band: str = "F814W", at: tuple[float, float] = (30.0, 33.0), **changed: Any
) -> Path:
    """A system's image and PSF: a blob at the pixel `at` (y, x), which the shift brings to the origin."""
    frame = changed.pop("frame", matrix(0.05, 30.0))
    y, x = np.indices((64, 64))
    image = 5 * np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / 8).astype(np.float32)
    shift = -(frame @ (np.array(at[::-1]) - 32))
    first = -(frame @ np.array([32.0, 32.0]))
    values = {
        "image_data": image,
        "exposure_time": np.full((64, 64), 500.0),
        "background_rms": 0.01,
        "transform_pix2angle": frame,
        **dict(zip(("ra_at_xy_0", "dec_at_xy_0", "ra_shift", "dec_shift"), [*first, *shift], strict=True)),
    }
    (folder / name).mkdir(parents=True, exist_ok=True)
    path = folder / name / f"image_{name}_{band}.h5"
    with h5py.File(path, "w") as file:
        for key, value in (values | changed).items():
            if value is not None:
                file[key] = value
    with h5py.File(folder / name / f"psf_{name}_{band}.h5", "w") as file:
        file["kernel_point_source"] = np.exp(-(np.hypot(*np.indices((21, 21)) - 10) ** 2) / 4).astype(">f4") * 0.3
    return path


def tables(folder: Path, labels: str | None = LABELS, photometry: str = PHOTOMETRY) -> None:
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    (folder / "tables" / "DINOSi_PHOTZPT_values.csv").write_text(photometry)
    if labels is not None:
        (folder / "labels.csv").write_text(labels)


def brought(tmp_path: Path, **limits: Any) -> Brought:
    return Brought("dinos", tmp_path / "in", tmp_path / "raw", "hst", limits)


def test_units_noise_and_frame_are_the_files(tmp_path: Path) -> None:
    path = write(tmp_path / "in")
    mask = np.zeros((64, 64), dtype=np.float32)
    mask[3, 5] = 1
    with h5py.File(path.parent / "mask_A_F814W.h5", "w") as file:
        file["mask"] = mask
    tables(tmp_path / "in")
    found = brought(tmp_path)
    cutouts, index = found.batch("A")
    zero_point = -2.5 * np.log10(7.0e-20) - 21.10 - 5 * np.log10(8045.0) + 18.692
    factor = 10 ** (0.4 * (31.4 - zero_point))
    with h5py.File(path) as file:
        image = file["image_data"][()]
    np.testing.assert_allclose(cutouts.flux[index, 0], image * factor, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(found.variance("A")[0], (0.01**2 + image / 500) * factor**2, rtol=1e-5)
    assert np.argwhere(cutouts.bad[index, 0]).tolist() == [[3, 5]]
    assert cutouts.pixel_scale[index] == pytest.approx(0.05)
    assert cutouts.north_deg is not None
    assert cutouts.north_deg[index] == pytest.approx(30.0)


def test_a_mirrored_frame_is_turned_back(tmp_path: Path) -> None:
    write(tmp_path / "in", frame=matrix(0.05, 30.0, mirrored=True), at=(30.0, 40.0))
    tables(tmp_path / "in")
    found = brought(tmp_path)
    cutouts, index = found.batch("A")
    assert np.unravel_index(np.argmax(cutouts.flux[index, 0]), (64, 64)) == (30, 63 - 40)
    assert cutouts.north_deg is not None
    assert cutouts.north_deg[index] == pytest.approx(-30.0)


def test_a_pixel_without_exposure_is_not_used(tmp_path: Path) -> None:
    seconds = np.full((64, 64), 500.0)
    seconds[7, 9] = 0
    write(tmp_path / "in", exposure_time=seconds)
    tables(tmp_path / "in")
    assert np.argwhere(brought(tmp_path).variance("A")[0] <= 0).tolist() == [[7, 9]]


def test_bands_of_other_frames_meet_where_the_shifts_say(tmp_path: Path) -> None:
    write(tmp_path / "in", at=(30.0, 33.0))
    write(tmp_path / "in", band="F606W", frame=matrix(0.1, -100.0), at=(36.0, 25.0))
    tables(tmp_path / "in")
    found = brought(tmp_path)
    flux = np.nan_to_num(found.flux("A"))
    places = [ndimage.center_of_mass(image) for image in flux]
    np.testing.assert_allclose(places, [(30.0, 33.0)] * 2, atol=0.05)
    assert found.batch("A")[0].bands == ("F606W", "F814W")


@pytest.mark.parametrize(
    ("name", "scale", "band", "flam_plam"),
    [
        ("A", 0.05, "F814W", (7.0e-20, 8045.0)),  # listed
        ("Z", 0.05, "F814W", (7.0e-20, 8045.0)),  # not listed: of the same camera
        ("Z", 0.1, "F606W", (1.9e-18, 6001.0)),
        ("Z", 0.0498, "F606W", (1.9e-18, 6001.0)),
        ("Z", 0.05, "F606W", None),  # no row of this camera: the survey's
        ("Z", 0.03, "F814W", None),  # no camera of the set
    ],
)
def test_zero_points_are_of_the_system_or_else_of_the_camera(
    tmp_path: Path, name: str, scale: float, band: str, flam_plam: tuple[float, float] | None
) -> None:
    write(tmp_path / "in", name, band, frame=matrix(scale, 0.0))
    tables(tmp_path / "in", labels=None)
    peak = brought(tmp_path).flux(name).max()
    zero_point = PARAMS.surveys["hst"].zero_point
    if flam_plam:
        zero_point = -2.5 * np.log10(flam_plam[0]) - 5 * np.log10(flam_plam[1]) - 2.408
    assert 31.4 - 2.5 * np.log10(peak / 5) == pytest.approx(zero_point, abs=1e-4)


def test_only_a_mass_model_or_grade_a_makes_a_lens(tmp_path: Path) -> None:
    for name in "ACDEF":
        write(tmp_path / "in", name)
    tables(tmp_path / "in")
    found = brought(tmp_path)
    told = found.evidence.select("label", "grade", "theta_e_arcsec", "z_lens", "parent").rows()
    assert told == [
        ("lens", "", 1.1, 0.2, "A"),
        ("unknown", "candidate", None, None, "C"),
        ("unknown", "candidate", None, None, "D"),
        ("lens", "A", 1.3, 0.4, "E"),
        ("unknown", "B", None, None, "F"),
    ]
    redshifts = pl.concat([batch.metadata.select("object_id", "z_spec") for batch in found.batches]).sort("object_id")
    assert redshifts["z_spec"].to_list() == [0.2, None, 0.3, 0.4, 0.5]  # -1 stands for none


def test_without_labels_the_mass_models_are_the_lenses(tmp_path: Path) -> None:
    for name in "AB":
        write(tmp_path / "in", name)
    tables(tmp_path / "in", labels=None)
    (tmp_path / "in" / "tables" / "SLACS_mass_params.csv").write_text("Lens_name,R_Ein,q\nA,1.25,0.7\n")
    (tmp_path / "in" / "tables" / "dinos_spectra.csv").write_text(",name,z_lens\n1,A,0.22\n")
    told = brought(tmp_path).evidence.select("label", "theta_e_arcsec", "z_lens").rows()
    assert told == [("lens", 1.25, 0.22), ("unknown", None, None)]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def garbage(path: Path) -> None:
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\xff" * 4000)


def relink(link: Any) -> Any:
    def change(path: Path) -> None:
        with h5py.File(path, "a") as file:
            file["elsewhere"] = np.ones((64, 64))
            del file["image_data"]
            file["image_data"] = link

    return change


def replaced(key: str, **what: Any) -> Any:
    def change(path: Path) -> None:
        with h5py.File(path, "a") as file:
            del file[key]
            file.create_dataset(key, **what)

    return change


def virtual(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["image_data"]
        layout = h5py.VirtualLayout((64, 64), dtype="f4")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape=(64, 64))
        file.create_virtual_dataset("image_data", layout)


def group(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["image_data"]
        file.create_group("image_data")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (truncate, "must be whole"),
        (garbage, "must be whole"),
        (relink(h5py.ExternalLink("/etc/passwd", "/x")), "leads elsewhere"),
        (relink(h5py.SoftLink("/elsewhere")), "leads elsewhere"),
        (virtual, "must hold numbers, all in the file"),
        (group, "leads elsewhere"),
        (
            replaced("image_data", shape=(64, 64), dtype="f4", external=[("/etc/passwd", 0, 64 * 64 * 4)]),
            "all in the file",
        ),
        (replaced("image_data", data=np.full((64, 64), b"x", dtype=h5py.string_dtype())), "must hold numbers"),
        (replaced("image_data", data=np.full((64, 64), "1", dtype="S1")), "must hold numbers"),
        (replaced("image_data", shape=(5000, 5000), dtype="f4", chunks=(100, 100), compression="gzip"), "at most 4096"),
        (replaced("image_data", shape=(10**9, 10**9), dtype="f4", chunks=(10, 10)), "at most 4096"),
        (replaced("image_data", shape=(2, 64, 64), dtype="f4"), "must have 2 axes"),
        (replaced("exposure_time", shape=(32, 64), dtype="f4"), "must have the image's shape"),
        (replaced("transform_pix2angle", data=np.zeros((2, 2))), "must not be singular"),
        (replaced("transform_pix2angle", data=np.full((2, 2), np.nan)), "must be 2 x 2 and finite"),
        (replaced("background_rms", data=np.ones(3)), "must have 0 axes"),
    ],
)
def test_a_hostile_file_is_refused_in_one_line(tmp_path: Path, change: Any, words: str) -> None:
    change(write(tmp_path / "in", "A"))
    write(tmp_path / "in", "B")
    tables(tmp_path / "in", labels=None)
    found = brought(tmp_path)
    assert words in found.refused["A"]
    assert "\n" not in found.refused["A"]
    assert found.names == {"B"}


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    path, rng = write(tmp_path / "in"), np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, 2500, 6):  # where the structure stands
        content[place] = rng.integers(256)
    path.write_bytes(content)
    write(tmp_path / "in", "B")
    tables(tmp_path / "in", labels=None)
    found = brought(tmp_path)
    assert found.names | set(found.refused) == {"A", "B"}


@pytest.mark.parametrize(
    ("table", "text", "words"),
    [
        ("labels.csv", "object,label\nA,lens\n", "must have the column"),
        ("labels.csv", LABELS + LABELS.splitlines()[1] + "\n", "must have a system once"),
        ("labels.csv", LABELS.replace("1.1", "wide"), "must be a number"),
    ],
)
def test_a_wrong_table_is_refused_in_words(tmp_path: Path, table: str, text: str, words: str) -> None:
    write(tmp_path / "in")
    tables(tmp_path / "in")
    (tmp_path / "in" / table).write_text(text)
    with pytest.raises(ContractError, match=words):
        brought(tmp_path)
