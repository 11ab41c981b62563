"""Drizzled Hubble images in the layouts of the archive and of high-level products; zero-points against astropy."""

import io
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from lensml.sources import SOURCES
from lensml.sources.hst import place as place_of
from tests.cutouts_folder import gaussian
from tests.planted import Found, catalogue, header, opened, params, place, star

SHAPE = (101, 121)
HST = SOURCES["hst"]
SCALE = 0.05
PHOTOMETRY = {  # PHOTFLAM, PHOTPLAM of ACS/WFC and WFC3/IR
    "F814W": (7.0332e-20, 8045.0),
    "F606W": (7.8625e-20, 5921.9),
    "F160W": (1.9276e-20, 15369.2),
}


def njy(flux: float, band: str) -> float:
    """Electrons per second, by astropy."""
    flam, plam = PHOTOMETRY[band]
    density = flux * flam * u.erg / u.s / u.cm**2 / u.AA
    return float(density.to_value(u.nJy, u.spectral_density(plam * u.AA)))


def photometry(band: str) -> dict[str, float]:
    return dict(zip(("PHOTFLAM", "PHOTPLAM"), PHOTOMETRY[band], strict=True))


def written(*hdus: Any) -> bytes:
    out = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(out)
    return out.getvalue()


def drizzled(
    band: str,
    head: fits.Header,
    image: NDArray[np.float32],
    *,
    primary: dict[str, Any] | None = None,
    science: dict[str, Any] | None = None,
    error: bool = False,
) -> bytes:
    """SCI, WHT, CTX; the photometry in the primary header unless said."""
    top = fits.PrimaryHDU()
    top.header.update(photometry(band) | {"FILTER1": "CLEAR1L", "FILTER2": band} if primary is None else primary)
    weight = np.full(image.shape, 2500, np.float32)
    weight[:, :2] = 0
    parts = {"SCI": image.astype(np.float32), "WHT": weight, "CTX": np.ones(image.shape, np.int32)}
    if error:
        parts["ERR"] = np.full(image.shape, 0.5, np.float32)
    hdus = [fits.ImageHDU(data, head, name) for name, data in parts.items()]
    hdus[0].header.update({"BUNIT": "ELECTRONS/S"} | (science or {}))
    return written(top, *hdus)


def folder(tmp_path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    return tmp_path / "in"


def one(tmp_path: Path, files: dict[str, bytes], **given: Any) -> Found:
    """The only object of some files."""
    found, refused = opened(HST, params("hst", folder(tmp_path, files), **given), tmp_path / "raw")
    assert refused == {}
    assert len(found) == 1
    return next(iter(found.values()))


def refusal(tmp_path: Path, files: dict[str, bytes]) -> str:
    found, refused = opened(HST, params("hst", folder(tmp_path, files)), tmp_path / "raw")
    assert not found
    (words,) = refused.values()
    assert "\n" not in words
    return words


@pytest.mark.parametrize("where", ["primary", "science", "both"])
def test_photometry_stands_in_either_header(tmp_path: Path, where: str) -> None:
    cards = photometry("F814W") | {"FILTER": "F814W"}
    given = {"primary": cards if where != "science" else {}, "science": cards if where != "primary" else {}}
    content = drizzled("F814W", header(SHAPE, SCALE), star(SHAPE, 60, 50, 100), **given)
    stamp = one(tmp_path, {"j8pu42010_drc.fits": content})
    assert stamp.bands == ("F814W",)
    assert stamp.magnitude("F814W") == pytest.approx((njy(100, "F814W") * u.nJy).to_value(u.ABmag), abs=2e-3)
    assert stamp.variance is not None
    assert np.allclose(stamp.variance[0, :, 2:], njy(1, "F814W") ** 2 / 2500, rtol=4e-3)
    assert not stamp.variance[0, :, :2].any()  # no weight


@pytest.mark.parametrize("mirrored", [False, True])
def test_filters_of_one_object_are_laid_on_each_other(tmp_path: Path, mirrored: bool) -> None:
    heads = {
        "F606W": header(SHAPE, SCALE, mirrored=mirrored),
        "F814W": header((91, 131), SCALE, mirrored=mirrored, shift=(3, -6)),
    }
    at = place(heads["F606W"], 60, 50)
    images = {"F606W": star(SHAPE, 60, 50, 100), "F814W": star((91, 131), 60 + 5 + 3, 50 - 5 - 6, 100)}
    files = {f"SDSSJ0946_{band}_drz.fits": drizzled(band, heads[band], images[band]) for band in heads}
    stamp = one(tmp_path, files)
    assert stamp.bands == ("F606W", "F814W")
    peaks = [np.unravel_index(image.argmax(), image.shape) for image in stamp.flux]
    assert peaks[0] == peaks[1]
    table = catalogue(tmp_path / "t.csv", {"a": at})
    found, refused = opened(
        HST, params("hst", tmp_path / "in", catalogue=table, stamp_arcsec=21 * SCALE), tmp_path / "raw-cut"
    )
    assert refused == {}
    cut = found["a"]
    assert [np.unravel_index(image.argmax(), (21, 21)) for image in cut.flux] == [(10, 10), (10, 10)]
    assert cut.north_deg == pytest.approx(-30)


@pytest.mark.parametrize("mirrored", [False, True])
def test_coarser_filters_come_onto_the_finest_pixels(tmp_path: Path, mirrored: bool) -> None:
    heads = {
        "F814W": header(SHAPE, SCALE, mirrored=mirrored),
        "F160W": header((61, 71), 2 * SCALE, mirrored=mirrored, shift=(3, -4)),
    }
    x, y = (float(v) for v in WCS(heads["F160W"]).all_world2pix(*place(heads["F814W"], 70, 40), 0))
    images = {"F814W": star(SHAPE, 70, 40, 100), "F160W": star((61, 71), x, y, 100)}
    stamp = one(tmp_path, {f"x_{band}_drz.fits": drizzled(band, heads[band], images[band]) for band in heads})
    assert (stamp.bands, stamp.flux.shape) == (("F814W", "F160W"), (2, *SHAPE))
    grid = np.mgrid[: SHAPE[0], : SHAPE[1]]
    light = np.where(stamp.bad, 0, np.nan_to_num(stamp.flux))
    centres = [[(plane * axis).sum() / plane.sum() for axis in grid] for plane in light]
    assert centres[0] == pytest.approx([40, 50 if mirrored else 70], abs=0.01)
    assert centres[1] == pytest.approx(centres[0], abs=0.05)


def test_products_with_a_file_for_each_plane(tmp_path: Path) -> None:
    head, start = header(SHAPE, SCALE), "hlsp_relics_hst_acs-30mas_abell520_f814w_v1"
    head.update(photometry("F814W"))
    weight = np.full(SHAPE, 2500, np.float32)
    files = {
        f"{start}_drz.fits": written(fits.PrimaryHDU(star(SHAPE, 60, 50, 100), head)),
        f"{start}_wht.fits": written(fits.PrimaryHDU(weight)),
        "hlsp_relics_hst_acs-30mas_abell520_total_v1_drz.fits": b"a sum of filters, for detection",
        "abell520_f814w_psf.fits": written(fits.PrimaryHDU(gaussian((31, 31), 3))),
    }
    table = catalogue(tmp_path / "t.csv", {"a": place(head, 60, 50), "edge": place(head, 119, 99)})
    source = params("hst", folder(tmp_path, files), catalogue=table, stamp_arcsec=21 * SCALE)
    found, refused = opened(HST, source, tmp_path / "raw")
    assert refused == {}
    assert np.unravel_index(found["a"].flux[0].argmax(), (21, 21)) == (10, 10)
    assert found["a"].variance is not None
    assert np.allclose(found["a"].variance, njy(1, "F814W") ** 2 / 2500, rtol=4e-3)
    assert found["a"].psf is not None
    assert found["a"].psf[0].argmax() == 15 * 31 + 15
    assert np.array_equal(found["edge"].bad[0], np.add.outer(np.arange(21) > 11, np.arange(21) > 11))


def test_an_error_plane_is_worth_more_than_a_weight(tmp_path: Path) -> None:
    content = drizzled("F814W", header(SHAPE, SCALE), star(SHAPE, 60, 50, 100), error=True)
    stamp = one(tmp_path, {"x_drz.fits": content})
    assert stamp.variance is not None
    assert np.allclose(stamp.variance, (0.5 * njy(1, "F814W")) ** 2, rtol=4e-3)


def test_an_image_in_electrons_is_divided_by_its_exposure(tmp_path: Path) -> None:
    science = {"BUNIT": "ELECTRONS", "EXPTIME": 2000.0}
    content = drizzled("F160W", header(SHAPE, SCALE), star(SHAPE, 60, 50, 2e5), science=science)
    stamp = one(tmp_path, {"x_F160W_drz.fits": content})
    assert stamp.magnitude("F160W") == pytest.approx((njy(100, "F160W") * u.nJy).to_value(u.ABmag), abs=2e-3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SDSSJ0946/F814W_drz.fits", ("SDSSJ0946", "F814W", "drz")),
        ("a/SDSSJ0946_f814w_drc.fits.gz", ("SDSSJ0946", "F814W", "drz")),
        ("hst_10886_01_acs_wfc_f850lp_j9op01_drc.fits", ("hst_10886_01_acs_wfc", "F850LP", "drz")),
        ("j9op01010_drz.fits", ("j9op01010", "", "drz")),
        ("hlsp_clash_hst_wfc3ir_macs1149_f105w_v1_wht.fits", ("macs1149", "F105W", "wht")),
        ("hlsp_clash_hst_wfc3ir_macs1149_total_v1_drz.fits", None),
        ("j9op01010_flt.fits", None),
    ],
)
def test_names(name: str, expected: tuple[str, str, str] | None) -> None:
    found = place_of(name)
    assert (None if found is None else (found.object, found.band, found.plane)) == expected


@pytest.mark.parametrize(
    ("cards", "words"),
    [
        ({"FILTER": "F814W"}, "must have a zero-point (PHOTFLAM, MAGZERO, FLUXMAG0), got none"),
        ({"FILTER1": "CLEAR1L", "FILTER2": "CLEAR2L"} | photometry("F814W"), "must name one filter, got none"),
        (
            {"FILTER1": "F606W", "FILTER2": "POL0V"} | photometry("F606W"),
            "must name one filter, got ['F606W', 'POL0V']",
        ),
        ({"FILTER": "F999W"} | photometry("F814W"), "got F999W"),
        ({"FILTER": "F814W", "PHOTFLAM": 0.0, "PHOTPLAM": 8045.0}, "PHOTFLAM must be positive, got 0"),
    ],
)
def test_a_bad_header_is_refused_in_one_line(tmp_path: Path, cards: dict[str, Any], words: str) -> None:
    content = drizzled("F814W", header(SHAPE, SCALE), star(SHAPE, 60, 50, 100), primary=cards)
    assert words in refusal(tmp_path, {"x_drz.fits": content})


@pytest.mark.parametrize("how", ["no image", "no exposure", "truncated"])
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, how: str) -> None:
    head, image = header(SHAPE, SCALE), star(SHAPE, 60, 50, 100)
    content = {
        "no image": written(fits.PrimaryHDU()),
        "no exposure": drizzled("F814W", head, image, science={"BUNIT": "ELECTRONS"}),
        "truncated": drizzled("F814W", head, image)[:-9000],
    }[how]
    words = {
        "no image": "must have an image (SCI), got none",
        "no exposure": "EXPTIME must be positive for an image in ELECTRONS, got None",
        "truncated": "it is truncated",
    }[how]
    assert words in refusal(tmp_path, {"x_F814W_drz.fits": content})


def test_one_noise_plane_for_two_filters_is_refused(tmp_path: Path) -> None:
    head, image = header(SHAPE, SCALE), star(SHAPE, 60, 50, 100)
    head.update(photometry("F814W"))
    files = {f"x_{band}_drz.fits": written(fits.PrimaryHDU(image, head)) for band in ("F606W", "F814W")}
    files["x_F814W_wht.fits"] = written(fits.PrimaryHDU(np.ones(SHAPE, np.float32)))
    assert "must all have a noise plane or none, got 1 of 2" in refusal(tmp_path, files)
