"""What a reviewer would try on a reader of other people's files: damaged cards, rotations, overlaps, links."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from lensml import config
from lensml.imaging import units
from lensml.ingest import bring, fits_images, sky
from lensml.ingest.alignment import aligned
from lensml.ingest.planes import Band, assemble, frame
from tests.planted import PARAMS, header, place, star

SURVEY = PARAMS.surveys["hst"]


def compressed() -> bytes:
    image = np.random.default_rng(1).normal(size=(32, 32)).astype("f4")
    out = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(image, name="SCI")]).writeto(out)
    return out.getvalue()


@pytest.mark.parametrize("card", ["TFORM1", "TTYPE1", "ZVAL1", "ZTILE1", "ZCMPTYPE", "ZBITPIX"])
@pytest.mark.parametrize("value", ["-5", "'junk'", "99999999999"])
def test_a_compressed_image_with_a_damaged_card_is_refused_and_nothing_else_happens(card: str, value: str) -> None:
    whole = compressed()
    begin = whole.index(f"{card:8}=".encode())
    damaged = whole[:begin] + f"{card:8}= {value:>20}".ljust(80).encode() + whole[begin + 80 :]
    with contextlib.suppress(ValueError):
        assert fits_images.extensions(damaged)[1].image(4096).shape == (32, 32)


@pytest.mark.parametrize("angle_deg", [0.0, 25.0, -130.0])
def test_crota2_is_the_rotation_that_astropy_reads(angle_deg: float) -> None:
    cards = {"CDELT1": -5e-5, "CDELT2": 5e-5, "CROTA2": angle_deg, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}
    found = units.north_and_parity(cards)
    assert found is not None
    pixel_scale = WCS(fits.Header(cards)).pixel_scale_matrix
    same = units.north_and_parity({f"CD{i + 1}_{j + 1}": float(pixel_scale[i, j]) for i in (0, 1) for j in (0, 1)})
    assert same is not None
    assert found[0] == pytest.approx(same[0], abs=1e-9)
    assert found[1] == same[1] is False


@pytest.mark.parametrize("card", ["CRVAL1", "CRPIX2"])
def test_a_place_that_is_no_number_is_no_place(card: str) -> None:
    head = header((21, 21), 0.05)
    head[card] = "abc"
    out = io.BytesIO()
    fits.PrimaryHDU(np.zeros((21, 21), "f4"), head).writeto(out)
    assert sky.centre(out.getvalue(), 2**20) is None
    with pytest.raises(ValueError, match="CRVAL and CRPIX must be finite numbers"):
        sky.wcs(fits_images.extensions(out.getvalue())[0].header)


def test_images_of_one_scale_that_are_turned_against_each_other_meet_at_one_place() -> None:
    """The second is turned by ten degrees and begins elsewhere: a star stays one star."""
    flux, images, bands = 1e4, {}, {}
    first = header((61, 61), 0.05, angle_deg=0)
    ra, dec = place(first, 33.0, 28.0)
    for name, head in (("F606W", header((61, 61), 0.05, angle_deg=10, shift=(6, -4))), ("F814W", first)):
        x, y = WCS(head).all_world2pix(ra, dec, 0)
        out = io.BytesIO()
        fits.PrimaryHDU(star((61, 61), float(x), float(y), flux), head).writeto(out)
        images[name] = fits_images.extensions(out.getvalue())[0]
        pixels = images[name].image(4096).astype(np.float32)
        bands[name] = Band(pixels, np.zeros(pixels.shape, bool), **frame(images[name].header, SURVEY))
    found = assemble(aligned(bands, images))
    y, x = np.indices(found.flux.shape[1:])
    for plane, bad in zip(found.flux, found.bad, strict=True):
        light = np.where(bad, 0, plane).astype(np.float64)
        assert (light * x).sum() / light.sum() == pytest.approx(33.0, abs=0.05)
        assert (light * y).sum() / light.sum() == pytest.approx(28.0, abs=0.05)


def test_plain_files_leave_links_hidden_files_and_an_old_manifest_where_they_are(tmp_path: Path) -> None:
    here = tmp_path / "in"
    here.mkdir()
    for name in ("x.hdf5", ".DS_Store", bring.MANIFEST):
        (here / name).write_bytes(name.encode())
    source = config.FilesSource(path=str(here), downloads=[])
    assert [path.name for path in bring.plain(source, "CC0", tmp_path / "raw")] == ["x.hdf5"]
    (tmp_path / "private.hdf5").write_bytes(b"private")
    (here / "link.hdf5").symlink_to(tmp_path / "private.hdf5")
    with pytest.raises(ValueError, match="must not lead out"):
        bring.plain(source, "CC0", tmp_path / "raw2")


def test_an_image_s_header_tells_where_an_object_is_and_its_psf_s_copy_does_not(tmp_path: Path) -> None:
    """kids reads msk, psf, sci: the PSF's header is the image's, and its centre half a stamp away."""
    from lensml.sources import kids
    from tests.planted import opened, params

    head = header((201, 201), 0.2)
    (tmp_path / "in").mkdir()
    fits.PrimaryHDU(star((201, 201), 100, 100, 1e-9), head).writeto(tmp_path / "in" / "a_r_sci.fits")
    fits.PrimaryHDU(star((25, 25), 12, 12, 1.0), head).writeto(tmp_path / "in" / "a_r_psf.fits")
    found, refused = opened(kids.KIND, params("kids", tmp_path / "in"), tmp_path / "raw")
    assert refused == {}
    ra, dec = place(head, 100.0, 100.0)
    assert (found["a"].metadata["ra"], found["a"].metadata["dec"]) == (pytest.approx(ra), pytest.approx(dec))


def test_an_object_in_two_fields_is_cut_from_the_one_that_has_it_whole(tmp_path: Path) -> None:
    from lensml.sources import kids
    from tests.planted import catalogue, opened, params

    (tmp_path / "in").mkdir()
    edge, middle = header((101, 101), 0.2), header((101, 101), 0.2, shift=(48, 0))
    for name, head in (("a", edge), ("b", middle)):  # what is at the edge of a is in the middle of b
        fits.PrimaryHDU(np.ones((101, 101), "f4") * 1e-10, head).writeto(tmp_path / "in" / f"{name}_r_sci.fits")
    where = {"one": place(middle, 50.0, 50.0)}
    source = params("kids", tmp_path / "in", catalogue=catalogue(tmp_path / "t.csv", where), stamp_arcsec=4.0)
    found, refused = opened(kids.KIND, source, tmp_path / "raw")
    assert refused == {}
    assert not found["one"].bad.any()
