"""HSC blends as npz archives: planes by filter, and archives that nobody should open."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brought import REAL, Brought, are_odd_with_unit_sum

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no sample data beside the checkout")
NANOJANSKY = 10 ** (0.4 * (31.4 - 27.0))
PSF = np.exp(-((np.hypot(*(np.indices((11, 11)) - 5))) ** 2) / 4)


def scarlet(folder: Path, name: str = "blend", **changed: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2)
    arrays = {
        "images": rng.normal(0, 1, (3, 20, 22)).astype(np.float32),
        "variance": np.full((3, 20, 22), 0.25, np.float32),
        "mask": np.zeros((3, 20, 22), np.int32),
        "psfs": np.stack([PSF] * 3),
        "filters": np.array(["i", "g", "u"]),
        "catalog": np.array([(1.0, 2.0)], dtype=[("x", "f8"), ("y", "f8")]),
    }
    np.savez(folder / f"{name}.npz", **{k: v for k, v in (arrays | changed).items() if v is not None})


def test_scarlet_planes_are_taken_by_filter(tmp_path: Path) -> None:
    mask = np.zeros((3, 20, 22), np.int32)
    for x, bit in enumerate((0, 1, 3, 7, 8, 2, 4, 5, 12)):
        mask[0, 1, x] = 1 << bit
    scarlet(tmp_path / "in", mask=mask)
    scarlet(tmp_path / "in", "psf_sim")
    found = Brought("scarlet", tmp_path / "in", tmp_path / "raw", "hsc")
    assert found.names == {"blend"}
    cutouts, index = found.batch("blend")
    assert cutouts.bands == ("g", "i")
    with np.load(tmp_path / "in" / "blend.npz") as file:
        np.testing.assert_allclose(cutouts.flux[index], file["images"][[1, 0]] * NANOJANSKY, rtol=1e-5)
    np.testing.assert_allclose(found.variance("blend"), 0.25 * NANOJANSKY**2, rtol=1e-5)
    assert np.argwhere(cutouts.bad[index]).tolist() == [[1, 1, x] for x in range(5)]  # BAD SAT CR SUSPECT NO_DATA
    assert cutouts.saturated is not None
    assert np.argwhere(cutouts.saturated[index]).tolist() == [[1, 1, 1]]


def pickled(path: Path) -> None:
    np.savez(path, images=np.array([[1], [2, 3]], dtype=object), filters=np.array(["g"]))


def bomb(path: Path) -> None:
    """300 MiB of zeros in less than one."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (1, 6270, 6270)}
    )  # fmt: skip
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            for _ in range(300):
                member.write(bytes(2**20))
        archive.writestr("filters.npy", array(np.array(["g"])))


def array(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def said(shape: tuple[int, ...]) -> Any:
    """An array that says more of itself than is there."""

    def make(path: Path) -> None:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", header.getvalue() + bytes(800))
            archive.writestr("filters.npy", array(np.array(["g"])))

    return make


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[400] ^= 0xFF  # in the first array: its checksum does not fit any more
    path.write_bytes(content)


def changed(**arrays: Any) -> Any:
    return lambda path: scarlet(path.parent, path.stem, **arrays)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (pickled, "Python objects (a pickle)"),
        (bomb, "more than 268435456 (convert.max_file_mib)"),
        (said((1, 10**9, 10**9)), "which is more than is there"),
        (said((1, 100, 100)), "which is more than is there"),
        (truncated, "must be a whole npz"),
        (flipped, "must be a whole npz"),
        (lambda path: path.write_bytes(b"PK\x03\x04 and nothing"), "must be a whole npz"),
        (lambda path: path.write_bytes(array(PSF)), "must be a whole npz"),
        (changed(filters=None), "must hold filters, got images"),
        (changed(filters=np.array(["g", "g", "r"])), "filters must be names, each once"),
        (changed(filters=np.array(["u", "v", "w"])), "got u, v, w"),
        (changed(images=np.zeros((3, 20))), "images must be numbers (filter, y, x)"),
        (changed(images=np.zeros((2, 20, 22))), "images must be numbers"),
        (changed(variance=np.full((3, 20, 22), "1")), "variance must be numbers"),
        (changed(mask=np.zeros((3, 20, 21), np.int32)), "mask plane must have its image's shape"),
        (changed(images=np.zeros((3, 1, 5000), np.float32)), "at most 4096 pixels a side"),
    ],
)
def test_scarlet_refuses_a_hostile_archive_in_one_line(tmp_path: Path, make: Any, words: str) -> None:
    scarlet(tmp_path / "in", "wrong")
    make(tmp_path / "in" / "wrong.npz")
    scarlet(tmp_path / "in", "right")
    found = Brought("scarlet", tmp_path / "in", tmp_path / "raw", "hsc")
    assert words in found.refused["wrong"]
    assert "\n" not in found.refused["wrong"]
    assert found.names == {"right"}


@needs_real
def test_real_hsc_blends_are_read_and_pickles_are_not(tmp_path: Path) -> None:
    found = Brought("scarlet", REAL / "hsc-hst-blends", tmp_path / "raw", "hsc")
    assert (found.names, found.refused) == ({"hsc_cosmos", "hsc_cosmos_35"}, {})
    assert set(found.evidence["label_source"]) == {"obs:scarlet"}
    for name in found.names:
        colours = -np.diff(list(found.magnitudes(name, 3.0).values()))
        assert (colours > 0).all()
        assert (colours < 2.5).all()
    flux, sigma = found.flux("hsc_cosmos_35"), np.sqrt(found.variance("hsc_cosmos_35"))
    scatter = 1.4826 * np.nanmedian(np.abs(np.diff(flux, n=2, axis=-1) / sigma[..., 1:-1]), axis=(1, 2)) / np.sqrt(6)
    assert (np.abs(scatter - 1) < 0.25).all()
    assert are_odd_with_unit_sum(found.psfs())
    (tmp_path / "in").mkdir()
    content = (REAL / "hsc-hst-blends" / "test_resampling" / "Multiresolution_tests.npz").read_bytes()
    (tmp_path / "in" / "other.npz").write_bytes(content)
    other = Brought("scarlet", tmp_path / "in", tmp_path / "raw2", "hsc")
    assert "Python objects" in other.refused["other"]
