"""HSC, DES, KiDS and Euclid files in the layouts that the surveys deliver, with a star of known flux and place."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from lensml.schema import ContractError
from lensml.sources import des, euclid, hsc, kids
from tests.cutouts_folder import gaussian
from tests.planted import DEC, RA, header, opened, params, star

SHAPE, FLUX = (41, 41), 1e4  # pixels; nJy, AB 21.4
MIDDLE = 20.0
AB = 31.4 - 2.5 * np.log10(FLUX)


def image(
    zero_point: float, shape: tuple[int, int] = SHAPE, x: float = MIDDLE, y: float = MIDDLE
) -> NDArray[np.float32]:
    """A star in the unit of a zero-point."""
    return (star(shape, x, y, FLUX) * 10 ** (0.4 * (zero_point - 31.4))).astype(np.float32)


def write(path: Path, *units: fits.PrimaryHDU | fits.ImageHDU) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList(list(units)).writeto(path)


def extension(
    data: NDArray[Any] | None, name: str = "", head: fits.Header | None = None, **cards: Any
) -> fits.ImageHDU:
    unit = fits.ImageHDU(data, head, name=name or None)
    unit.header.update(cards)
    return unit


# HSC


def hsc_file(
    path: Path, mask: NDArray[np.int32] | None = None, shape: tuple[int, int] = SHAPE, shift: int = 0, **cards: Any
) -> None:
    """das_cutout: an empty primary with FLUXMAG0; image, mask and variance by EXTTYPE, empty where not asked for."""
    primary = fits.PrimaryHDU()
    primary.header["FLUXMAG0"] = 63095734448.0194
    head = header(SHAPE, 0.168, angle_deg=0)
    head["CRPIX2"] -= shift
    planes = {"MP_BAD": 0, "MP_SAT": 1, "MP_CR": 3, "HIERARCH MP_DETECTED": 5, "HIERARCH MP_NO_DATA": 8}
    units = [extension(image(27.0)[shift:, :][: shape[0], : shape[1]], head=head, EXTTYPE="IMAGE")]
    if mask is None:
        units += [extension(None), extension(None)]
    else:
        units.append(extension(mask, EXTTYPE="MASK", **planes))
        units.append(extension(np.full(mask.shape, 4.0, np.float32), EXTTYPE="VARIANCE"))
    write(path, primary, *units)


def test_hsc_planes_are_known_by_their_type_and_mask_planes_by_their_name(tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.int32)
    mask[0, 1], mask[2, 3], mask[4, 5], mask[6, 7], mask[8, 9] = 1, 2, 8, 32, 256  # BAD, SAT, CR, DETECTED, NO_DATA
    for band in "GI":
        hsc_file(tmp_path / "in" / f"3-cutout-HSC-{band}-8279-pdr2_wide.fits", mask)
    write(
        tmp_path / "in" / "3-psf-calexp-pdr2_wide-HSC-I-8279-0,6-30.59--6.28.fits",
        fits.PrimaryHDU(gaussian((43, 41), 4.0)),
    )
    found, refused = opened(hsc.KIND, params("hsc", tmp_path / "in"), tmp_path / "raw")
    assert refused == {}
    one = found["3"]
    assert one.bands == ("g", "i")
    assert one.variance is not None
    assert one.saturated is not None
    assert np.argwhere(one.bad[0]).tolist() == [[0, 1], [2, 3], [4, 5], [8, 9]]
    assert np.argwhere(one.saturated[0]).tolist() == [[2, 3]]
    np.testing.assert_allclose(one.variance, 4.0 * 57.544**2, rtol=1e-4)  # nJy per count at zero-point 27
    assert one.magnitude("i") == pytest.approx(AB, abs=1e-3)
    assert one.psf is not None
    assert not one.psf[0].any()  # of g there is none
    assert one.psf[1].shape == (43, 43)
    assert (one.metadata["ra"], one.metadata["dec"]) == (pytest.approx(RA, abs=1e-6), pytest.approx(DEC, abs=1e-6))


def test_hsc_mask_and_variance_that_were_not_asked_for_are_empty_and_are_not_read(tmp_path: Path) -> None:
    hsc_file(tmp_path / "in" / "a-cutout-HSC-I-1-pdr3_wide.fits")
    found, _ = opened(hsc.KIND, params("hsc", tmp_path / "in"), tmp_path / "raw")
    assert found["a"].variance is None
    assert found["a"].saturated is None
    assert not found["a"].bad.any()


def test_hsc_cutouts_that_are_a_pixel_short_are_laid_on_each_other_by_their_wcs(tmp_path: Path) -> None:
    hsc_file(tmp_path / "in" / "a-cutout-HSC-G-1-pdr3_wide.fits")
    hsc_file(tmp_path / "in" / "a-cutout-HSC-R-1-pdr3_wide.fits", shape=(40, 41), shift=1)
    found, refused = opened(hsc.KIND, params("hsc", tmp_path / "in"), tmp_path / "raw")
    assert refused == {}
    assert found["a"].flux.shape == (2, 40, 41)
    np.testing.assert_array_equal(found["a"].flux[0], found["a"].flux[1])


def test_hsc_image_that_is_empty_and_mask_without_names_are_refused_in_words(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a-cutout-HSC-G-1-pdr3_wide.fits", fits.PrimaryHDU(), extension(None, EXTTYPE="IMAGE"))
    unit = extension(np.zeros(SHAPE, np.int32), EXTTYPE="MASK")
    good = extension(image(27.0), EXTTYPE="IMAGE")
    write(tmp_path / "in" / "b-cutout-HSC-G-1-pdr3_wide.fits", fits.PrimaryHDU(), good, unit)
    (tmp_path / "in" / "c-cutout-HSC-G-1-pdr3_wide.fits").write_bytes(b"<html>login</html>")
    found, refused = opened(hsc.KIND, params("hsc", tmp_path / "in"), tmp_path / "raw")
    assert found == {}
    assert "must have an image (EXTTYPE IMAGE)" in refused["a"]
    assert "must name its planes" in refused["b"]
    assert "plain FITS" in refused["c"]


# DES


def des_units(zero_point: float = 30.0, **cards: Any) -> list[fits.ImageHDU]:
    mask = np.zeros(SHAPE, np.int16)
    mask[1, 2], mask[3, 4] = 1, 2
    head = header(SHAPE, 0.263)
    return [
        extension(image(zero_point), "SCI", head, MAGZERO=zero_point, BUNIT="electrons", **cards),
        extension(mask, "MSK"),
        extension(np.full(SHAPE, 0.04, np.float32), "WGT"),
    ]


def test_des_bands_in_files_of_their_own(tmp_path: Path) -> None:
    for band in "gr":
        write(tmp_path / "in" / f"DES_77_{band}.fits", fits.PrimaryHDU(), *des_units())
    found, refused = opened(des.KIND, params("des", tmp_path / "in"), tmp_path / "raw")
    assert refused == {}
    one = found["77"]
    assert one.bands == ("g", "r")
    assert one.variance is not None
    assert one.saturated is not None
    np.testing.assert_allclose(one.variance, 25 * (10 ** (0.4 * 1.4)) ** 2, rtol=1e-5)  # 1 / WGT, in nJy
    assert np.argwhere(one.bad[0]).tolist() == [[1, 2], [3, 4]]
    assert np.argwhere(one.saturated[1]).tolist() == [[3, 4]]
    assert one.magnitude("g") == pytest.approx(AB, abs=1e-3)
    assert one.north_deg == pytest.approx(30.0, abs=1e-6) or one.north_deg == pytest.approx(-30.0, abs=1e-6)


def test_des_file_of_several_bands_takes_them_from_filter_if_that_tells_them_apart(tmp_path: Path) -> None:
    units = [unit for band in "ig" for unit in des_units(FILTER=f"{band} DECam SDSS c0001")]
    write(tmp_path / "in" / "DES_5.fits", fits.PrimaryHDU(), *units)
    found, refused = opened(des.KIND, params("des", tmp_path / "in"), tmp_path / "raw")
    assert refused == {}
    assert found["5"].bands == ("g", "i")


def test_des_file_whose_headers_are_copies_needs_the_order_stated(tmp_path: Path) -> None:
    units = [unit for zero_point in (30.0, 29.0) for unit in des_units(zero_point, FILTER="i DECam")]
    write(tmp_path / "in" / "DES_5.fits", fits.PrimaryHDU(), *units)
    _, refused = opened(des.KIND, params("des", tmp_path / "in"), tmp_path / "1")
    assert "FILTER must tell the 2 images apart, got i, i" in refused["5"]
    found, refused = opened(des.KIND, params("des", tmp_path / "in", bands=["r", "g"]), tmp_path / "2")
    assert (found["5"].bands, refused) == (("g", "r"), {})
    _, refused = opened(des.KIND, params("des", tmp_path / "in", bands=["r", "g", "i"]), tmp_path / "3")
    assert "an image for each of r, g, i, got 2" in refused["5"]


def test_des_saturation_by_the_header_where_there_is_no_mask(tmp_path: Path) -> None:
    peak = float(image(30.0).max())
    unit = extension(image(30.0), "SCI", header(SHAPE, 0.263), MAGZERO=30.0, SATURATE=0.9 * peak)
    write(tmp_path / "in" / "DES_1_r.fits", fits.PrimaryHDU(), unit)
    found, _ = opened(des.KIND, params("des", tmp_path / "in"), tmp_path / "raw")
    assert found["1"].saturated is not None
    assert np.argwhere(found["1"].saturated[0]).tolist() == [[20, 20]]


# KiDS


def test_kids_planes_are_files_and_maggies(tmp_path: Path) -> None:
    stem, head = "KiDS_DR4.0_185.0_0.5", header(SHAPE, 0.2, angle_deg=0)
    weight, mask = np.full(SHAPE, 1e24, np.float32), np.zeros(SHAPE, np.int32)
    weight[0, 0], mask[7, 8] = 0, 16
    for plane, data in (("sci", image(0.0)), ("wei", weight), ("msk", mask)):
        write(tmp_path / "in" / f"{stem}_r_{plane}.fits", fits.PrimaryHDU(data, head))
    found, refused = opened(kids.KIND, params("kids", tmp_path / "in"), tmp_path / "raw")
    assert refused == {}
    one = found[stem]
    assert one.magnitude("r") == pytest.approx(AB, abs=1e-3)
    assert one.variance is not None
    np.testing.assert_allclose(np.sqrt(one.variance[0][1:]), 1e-12 * 3.6307805e12, rtol=2e-3)
    assert one.variance[0, 0, 0] == 0  # calibration makes it bad
    assert np.argwhere(one.bad[0]).tolist() == [[7, 8]]
    assert one.pixel_scale == pytest.approx(0.2)


def test_kids_two_passes_of_one_band_are_refused_and_not_mixed(tmp_path: Path) -> None:
    for band in ("i1", "i2"):
        write(tmp_path / "in" / f"tile_{band}_sci.fits", fits.PrimaryHDU(image(0.0), header(SHAPE, 0.2)))
    with pytest.raises(ContractError, match="one file of each band and plane"):
        opened(kids.KIND, params("kids", tmp_path / "in"), tmp_path / "raw")


# Euclid


def euclid_file(path: Path, planes: dict[str, NDArray[Any]], zero_point: float = 24.6) -> None:
    units = [fits.PrimaryHDU()]
    for name, data in planes.items():
        cards = {"MAGZERO": zero_point} if name.endswith(("FLUX", "BGSUB")) else {}
        units.append(extension(data, name, header(SHAPE, 0.1, angle_deg=0) if cards else None, **cards))
    write(path, *units)


def euclid_planes(band: str, kind: str = "FLUX") -> dict[str, NDArray[Any]]:
    rms = np.full(SHAPE, 0.01, np.float32)
    rms[5, 6] = 1e16
    return {f"{band}_{kind}": image(24.6), f"{band}_PSF": gaussian((21, 21), 3.0), f"{band}_RMS": rms}


def test_euclid_both_names_of_the_image_and_the_ground_s_bands_by_their_filter(tmp_path: Path) -> None:
    planes = (
        euclid_planes("VIS") | euclid_planes("NIR_Y", "BGSUB") | euclid_planes("MEGACAM_u") | euclid_planes("DES_g")
    )
    euclid_file(tmp_path / "in" / "EUCLJ1.fits", planes)
    found, refused = opened(euclid.KIND, params("euclid", tmp_path / "in"), tmp_path / "raw")
    assert refused == {}
    one = found["EUCLJ1"]
    assert one.bands == ("u", "g", "VIS", "NIR_Y")
    assert one.magnitude("VIS") == pytest.approx(AB, abs=1e-3)
    assert one.variance is not None
    np.testing.assert_allclose(one.variance[2, 0, 0], (0.01 * 10 ** (0.4 * 6.8)) ** 2, rtol=1e-4)
    assert (one.variance[:, 5, 6] == 0).all()  # 1e16: no measurement


def test_euclid_takes_the_bands_that_are_asked_for(tmp_path: Path) -> None:
    euclid_file(tmp_path / "in" / "a.fits", euclid_planes("VIS") | euclid_planes("HSC_z"))
    euclid_file(tmp_path / "in" / "b.fits", euclid_planes("HSC_z"))
    found, refused = opened(euclid.KIND, params("euclid", tmp_path / "in", bands=["VIS"]), tmp_path / "raw")
    assert found["a"].bands == ("VIS",)
    assert "must have images in some of VIS, got z" in refused["b"]


def test_euclid_two_images_of_one_band_and_no_band_at_all_are_refused(tmp_path: Path) -> None:
    euclid_file(tmp_path / "in" / "a.fits", euclid_planes("HSC_g") | euclid_planes("DES_g"))
    euclid_file(tmp_path / "in" / "b.fits", {"XYZ_FLUX": image(24.6)})
    _, refused = opened(euclid.KIND, params("euclid", tmp_path / "in"), tmp_path / "raw")
    assert "must have every plane once" in refused["a"]
    assert "got XYZ" in refused["b"]


# What all have in common


def test_the_user_s_table_labels_objects_and_names_those_without_files(tmp_path: Path) -> None:
    euclid_file(tmp_path / "in" / "a.fits", euclid_planes("VIS"))
    euclid_file(tmp_path / "in" / "b.fits", euclid_planes("VIS"))
    table = pl.DataFrame({"object_id": ["a", "lost"], "label": ["lens", "nonlens"], "z_spec": [0.3, 0.4]})
    table.write_csv(tmp_path / "objects.csv")
    source = params("euclid", tmp_path / "in", catalogue=str(tmp_path / "objects.csv"))
    found, refused = opened(euclid.KIND, source, tmp_path / "raw")
    assert set(found) == {"a", "b"}
    assert refused == {"lost": "an object must have files, got a row of the catalogue without."}
    assert found["a"].metadata["z_spec"] == 0.3
    claims = {row["object_id"]: row for row in euclid.KIND.evidence("s", tmp_path / "raw").to_dicts()}
    assert {name: row["label"] for name, row in claims.items()} == {
        "s.a": "lens",
        "s.b": "unknown",
        "s.lost": "nonlens",
    }
    assert (claims["s.a"]["label_confidence"], claims["s.b"]["label_confidence"]) == (1.0, 0.0)
    assert (claims["s.a"]["frame"], claims["s.lost"]["frame"]) == ("icrs", "")


def test_what_cannot_be_a_source_is_refused_as_a_whole(tmp_path: Path) -> None:
    euclid_file(tmp_path / "in" / "a.fits", euclid_planes("VIS"))
    with pytest.raises(ValueError, match="survey must be one of"):
        opened(euclid.KIND, params("euclid", tmp_path / "in", survey="nowhere"), tmp_path / "1")
    with pytest.raises(FileNotFoundError, match="must be a table, got no such file"):
        opened(euclid.KIND, params("euclid", tmp_path / "in", catalogue="nowhere.csv"), tmp_path / "2")
    with pytest.raises(ValueError, match="catalogue must name the objects"):
        opened(euclid.KIND, params("euclid", tmp_path / "in", stamp_arcsec=2.0), tmp_path / "3")


def test_a_fetched_folder_is_the_same_bytes_twice(tmp_path: Path) -> None:
    for name in ("b", "a"):
        euclid_file(tmp_path / "in" / f"{name}.fits", euclid_planes("VIS"))
    for out in ("1", "2"):
        opened(euclid.KIND, params("euclid", tmp_path / "in"), tmp_path / out)
    names = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert all((tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes() for name in names)
