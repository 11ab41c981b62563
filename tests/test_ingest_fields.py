"""Stamps cut from fields: what they show against astropy's Cutout2D, their edges, and which field an object lies in."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS

from lensml.ingest import fields
from lensml.ingest.layout import Context, Files, Layout
from lensml.ingest.planes import Band
from lensml.schema import ContractError
from tests.planted import PARAMS, header, place

SHAPE = (60, 75)
SCALE = 0.5
IMAGE = np.random.default_rng(4).normal(size=SHAPE).astype(np.float32)
CONTEXT = Context(PARAMS.surveys["sdss"], PARAMS.convert, None)


def written(*hdus: Any) -> bytes:
    out = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(out)
    return out.getvalue()


def field(contents: Mapping[tuple[str, str], bytes], max_pixels: int = 1000) -> fields.Field:
    return fields.Field({key: (lambda c=content: c) for key, content in contents.items()}, 10**8, max_pixels)


def one(head: fits.Header, *more: Any) -> fields.Field:
    return field({("r", "image"): written(fits.PrimaryHDU(IMAGE, head), *more)})


def bands(files: Files, context: Context) -> dict[str, Band]:
    image = files.one("r", "image")
    assert image is not None
    flux = image.image(context.convert.max_pixels)
    return {"r": Band(np.asarray(flux, np.float32), ~np.isfinite(flux), SCALE)}


LAYOUT = Layout(lambda name: None, bands, "none")


def table(**places: tuple[float | None, float | None]) -> pl.DataFrame:
    rows = [(name, *at) for name, at in places.items()]
    return pl.DataFrame(rows, schema={"object_id": pl.String, "ra": pl.Float64, "dec": pl.Float64}, orient="row")


@pytest.mark.parametrize("angle_deg", [0.0, 30.0, 170.0])
@pytest.mark.parametrize("at", [(30, 20), (30.4, 19.7), (2, 58), (74, 0), (-0.4, 59.4)])
def test_a_stamp_is_astropys_cutout(angle_deg: float, at: tuple[float, float]) -> None:
    head = header(SHAPE, SCALE, angle_deg=angle_deg)
    seen = one(head).about(*place(head, *at), 11 * SCALE).fits("r", "image")[0]
    nearest = (round(at[0]), round(at[1]))
    expected = Cutout2D(IMAGE, nearest, 11, mode="partial", fill_value=np.nan, copy=True)
    assert seen.shape == (11, 11)
    assert np.array_equal(seen.image(100), expected.data, equal_nan=True)
    assert seen.origin == (nearest[1] - 5, nearest[0] - 5)  # type: ignore[attr-defined]
    assert seen.header["CRPIX1"] == head["CRPIX1"]  # the whole image's


@pytest.mark.parametrize(("side_arcsec", "pixels"), [(5.5, 11), (5.9, 11), (6.1, 13), (0.5, 1), (20.0, 41), (20.4, 41)])
def test_sides_are_odd_and_the_nearest(side_arcsec: float, pixels: int) -> None:
    head = header(SHAPE, SCALE)
    seen = one(head).about(*place(head, 30, 20), side_arcsec).fits("r", "image")[0]
    assert seen.shape == (pixels, pixels)
    assert abs(pixels * SCALE - side_arcsec) <= SCALE


def test_planes_without_a_wcs_are_seen_through_the_images_window() -> None:
    """Masks and weights often have none; a PSF is no plane of the field, and a vector and a table are none either."""
    head = header(SHAPE, SCALE)
    psf, vector = np.ones((9, 9), np.float32), np.arange(SHAPE[1], dtype=np.float32)
    column = fits.BinTableHDU.from_columns([fits.Column("A", "J", array=[1])])
    seen = one(head, fits.ImageHDU(2 * IMAGE), fits.ImageHDU(psf), fits.ImageHDU(vector), column)
    image, mask, stamp, row, rows = seen.about(*place(head, 30, 20), 11 * SCALE).fits("r", "image")
    assert np.array_equal(mask.image(100), 2 * image.image(100))
    assert np.array_equal(stamp.image(100), psf)
    assert (row.shape, rows.header["XTENSION"]) == ((75,), "BINTABLE")


def test_every_band_is_centred_by_its_own_wcs() -> None:
    heads = {"g": header(SHAPE, SCALE), "r": header(SHAPE, SCALE, shift=(4, -3))}
    seen = field({(name, "image"): written(fits.PrimaryHDU(IMAGE, head)) for name, head in heads.items()})
    seen.about(*place(heads["g"], 30, 20), 5 * SCALE)
    origins = {name: seen.fits(name, "image")[0].origin for name in heads}  # type: ignore[attr-defined]
    assert origins == {"g": (18, 28), "r": (15, 32)}
    assert seen.fits("i", "image") == []


def test_a_field_is_read_and_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    head, reads, decoded = header(SHAPE, SCALE), [], []
    content = written(fits.PrimaryHDU(IMAGE, head))
    seen = fields.Field({("r", "image"): lambda: reads.append(1) or content}, 10**8, 1000)  # type: ignore[func-returns-value]
    whole = fields.Extension.image
    monkeypatch.setattr(fields.Extension, "image", lambda own, limit: decoded.append(1) or whole(own, limit))
    places = {f"o{x}": place(head, x, 20) for x in range(20, 40)}
    stamps, refused = fields.cut(LAYOUT, seen, table(**places), CONTEXT, 11 * SCALE)
    assert (len(stamps), refused, len(reads), len(decoded)) == (20, [], 1, 1)
    for number, stamp in enumerate(stamps.values()):
        assert stamp.flux[0, 5, 5] == IMAGE[20, 20 + number]


@pytest.mark.parametrize("angle_deg", [0.0, 30.0])
def test_which_places_a_field_holds(angle_deg: float) -> None:
    head = header(SHAPE, SCALE, angle_deg=angle_deg)
    inside, outside = [(-0.4, -0.4), (74.4, 59.4), (30, 20)], [(-0.6, 3), (74.6, 3), (3, -0.6), (3, 59.6)]
    ra, dec = (np.array(v) for v in zip(*(place(head, *at) for at in inside + outside), strict=True))
    assert (one(head).depth(ra, dec) > 0).tolist() == [True] * 3 + [False] * 4


def test_the_other_side_of_the_sky_is_in_no_field() -> None:
    head = header(SHAPE, SCALE)
    places = [(150.1, 2.2), (330.1, -2.2), (330.1, 2.2), (0.0, 90.0), (0.0, -90.0), (240.1, 0.0)]
    ra, dec = (np.array(v) for v in zip(*places, strict=True))
    assert (one(head).depth(ra, dec) > 0).tolist() == [True] + [False] * 5


def test_an_object_goes_to_the_first_field_that_holds_it() -> None:
    heads = {
        "a": header(SHAPE, SCALE),
        "b": header(SHAPE, SCALE, shift=(30, 0)),
        "c": header(SHAPE, SCALE, at=(10, 10)),
    }
    objects = table(
        both=place(heads["a"], 30, 20), second=place(heads["b"], 5, 20), far=(10.0, 10.0), none=(200.0, 0.0)
    )
    found = fields.placed(objects, ((name, one(head)) for name, head in heads.items()))
    assert found.rows() == [("both", "a"), ("second", "b"), ("far", "c"), ("none", "")]
    assert dict(found.schema) == fields.PLACED


def test_an_object_without_a_place_cannot_be_cut_out() -> None:
    with pytest.raises(ContractError, match="must have ra and dec to be cut out, got none for lost"):
        fields.placed(table(fine=(150.1, 2.2), lost=(150.1, None)), [("a", one(header(SHAPE, SCALE)))])


def test_what_cannot_be_cut_is_refused_in_words() -> None:
    head = header(SHAPE, SCALE)
    objects = table(a=place(head, 30, 20))
    assert fields.cut(LAYOUT, field({("r", "image"): b"SIMPLE"}), objects, CONTEXT, 5.5)[1][0][0] == "a"
    stamps, refused = fields.cut(LAYOUT, one(head), objects, CONTEXT, 5000 * SCALE)
    assert (stamps, refused) == ({}, [("a", "a stamp must have at most 4096 pixels a side, got 5001.")])
    small = field({("r", "image"): written(fits.PrimaryHDU(IMAGE, head))}, max_pixels=50)
    _, refused = fields.cut(LAYOUT, small, objects, CONTEXT, 5.5)
    assert "must have two axes of 1 to 50 pixels, got (60, 75)" in refused[0][1]
    nowhere = field({("r", "image"): written(fits.PrimaryHDU(IMAGE))})
    _, refused = fields.cut(LAYOUT, nowhere, objects, CONTEXT, 5.5)
    assert refused == [("a", "a field must have an image with a WCS, got none.")]


def test_the_objects_name_reaches_the_layout() -> None:
    names = []
    head = header(SHAPE, SCALE)
    layout = Layout(lambda name: None, lambda f, c: names.append(c.object) or bands(f, c), "none")  # type: ignore[func-returns-value]
    fields.cut(layout, one(head), table(a=place(head, 30, 20), b=place(head, 31, 20)), CONTEXT, 5.5)
    assert names == ["a", "b"]


def test_pixels_are_those_of_the_sky_place_by_astropy() -> None:
    """A stamp of a rotated field, pixel by pixel through the WCS."""
    head = header(SHAPE, SCALE, angle_deg=25)
    at = place(head, 30, 20)
    stamp = fields.cut(LAYOUT, one(head), table(a=at), CONTEXT, 7 * SCALE)[0]["a"]
    x, y = WCS(head).all_world2pix(*at, 0)
    assert stamp.flux[0, 3 + 2, 3 - 1] == IMAGE[round(float(y)) + 2, round(float(x)) - 1]
