"""The `cutouts` contract: what goes in comes out, and every hostile or broken input has its words."""

import bz2
import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from astropy.io import fits
from astropy.table import Table
from cutouts_folder import gaussian, survey, write_cutouts, write_object

from lensml import config, schema
from lensml.imaging.cutouts import calibrate
from lensml.ingest import fits_images, object_table
from lensml.sources import SOURCES, cutouts, cutouts_file

PARAMS = config.load(Path("params.yaml"))
CUTOUTS = SOURCES["cutouts"]
BANDS = ("g", "r", "i")


def params(folder):
    return config.CutoutsSource(kind="cutouts", path=str(folder), files_per_archive=512)


def fetched(tmp_path):
    CUTOUTS.fetch(params(tmp_path / "in"), PARAMS.surveys, tmp_path / "raw")
    return tmp_path / "raw"


def stamps_of(source, folder, units):
    """object_id -> (flux, variance, psf, catalogue row), and the refused."""
    found, refused = {}, []
    for unit in units:
        read = CUTOUTS.read(source, folder, unit, PARAMS.surveys, PARAMS.convert)
        refused += read.refused
        for batch in read.cutouts:
            stamps, reasons = calibrate(batch, PARAMS.surveys[batch.survey], PARAMS.convert)
            refused += reasons
            for row, entry in enumerate(stamps.catalogue.iter_rows(named=True)):
                found[entry["object_id"]] = (stamps.flux[row], stamps.variance[row], stamps.psf[row], entry)
    return found, dict(refused)


def reason(folder, name="obj-0001"):
    """Why an object of a plain folder is refused; all others must pass."""
    index = cutouts.open_folder(folder, PARAMS.surveys)
    found, refused = stamps_of("", folder, cutouts.split(index, 128))
    assert list(refused) == [name]
    assert len(found) == index.height - 1
    return refused[name]


@pytest.mark.parametrize("noise", ["VAR", "RMS", "IVAR"])
def test_round_trip(tmp_path, noise):
    truth = write_cutouts(tmp_path / "in", 5, noise=noise, zero_point=30.0)
    raw = fetched(tmp_path)
    found, refused = stamps_of("mine", raw, CUTOUTS.batches("mine", raw, PARAMS.convert))
    assert refused == {}
    assert list(found) == [f"mine.{name}" for name in truth.flux]
    for name, bad in truth.bad.items():
        flux, variance, psf, row = found[f"mine.{name}"]
        assert np.allclose(flux[~bad], truth.flux[name][~bad], rtol=1e-3)
        assert np.allclose(variance[~bad], truth.variance[name][~bad], rtol=1e-3)
        assert np.array_equal(np.isinf(variance), bad)
        assert not flux[bad].any()
        assert np.allclose(psf, truth.psf[name], atol=1e-6)
        assert row["pixel_scale"] == pytest.approx(0.168, rel=1e-6)
        assert row["bands"] == list(BANDS)


def test_archive_and_plain_folder_are_read_alike(tmp_path):
    write_cutouts(tmp_path / "in", 4)
    raw = fetched(tmp_path)
    packed, _ = stamps_of("", raw, CUTOUTS.batches("", raw, PARAMS.convert))
    index = cutouts.open_folder(tmp_path / "in", PARAMS.surveys)
    plain, _ = stamps_of("", tmp_path / "in", cutouts.split(index, 3))
    assert list(packed) == list(plain)
    for name in packed:
        for one, other in zip(packed[name][:3], plain[name][:3], strict=True):
            assert np.array_equal(one, other)


def test_fetch_is_deterministic_and_counts_what_has_no_row(tmp_path):
    write_cutouts(tmp_path / "in", 3)
    (tmp_path / "in" / "stray.fits").write_bytes(b"")
    CUTOUTS.fetch(params(tmp_path / "in"), PARAMS.surveys, tmp_path / "a")
    for file in (tmp_path / "in").iterdir():
        file.touch()
    CUTOUTS.fetch(params(tmp_path / "in"), PARAMS.surveys, tmp_path / "b")
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["MANIFEST.json", "catalogue.parquet", "cutouts-00000.tar"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert '"files_without_row": 1' in (tmp_path / "a" / "MANIFEST.json").read_text()
    assert str(tmp_path) not in (tmp_path / "a" / "MANIFEST.json").read_text()


def test_archives_hold_files_per_archive_and_batches_one_survey(tmp_path, monkeypatch):
    write_cutouts(tmp_path / "in", 3, mask=False)
    write_cutouts(tmp_path / "more", 2, "des", prefix="des")
    (tmp_path / "more").joinpath("catalogue.csv").rename(tmp_path / "more.csv")
    for file in (tmp_path / "more").iterdir():
        file.rename(tmp_path / "in" / file.name)
    lines = (tmp_path / "more.csv").read_text().splitlines()[1:]
    with (tmp_path / "in" / "catalogue.csv").open("a") as catalogue:
        catalogue.write("\n".join(lines) + "\n")
    few = config.CutoutsSource.model_construct(kind="cutouts", path=str(tmp_path / "in"), files_per_archive=2)
    CUTOUTS.fetch(few, PARAMS.surveys, tmp_path / "raw")
    assert len(list((tmp_path / "raw").glob("*.tar"))) == 3
    units = CUTOUTS.batches("s", tmp_path / "raw", PARAMS.convert.model_copy(update={"objects_per_batch": 2}))
    assert [u["survey"].to_list() for u in units] == [["des"] * 2, ["hsc"] * 2, ["hsc"]]
    assert len(stamps_of("s", tmp_path / "raw", units)[0]) == 5


def test_evidence(tmp_path):
    write_cutouts(tmp_path / "in", 3)
    table = CUTOUTS.evidence("mine", fetched(tmp_path))
    schema.check(table, schema.EVIDENCE, "test")
    assert table["object_id"].to_list() == ["mine.obj-0000", "mine.obj-0001", "mine.obj-0002"]
    assert table["label"].to_list() == ["lens", "nonlens", "unknown"]
    assert table["label_source"].to_list() == ["obs:mine"] * 3
    assert table["label_confidence"].to_list() == [1.0, 1.0, 0.0]
    assert table["frame"].to_list() == ["icrs"] * 3


@pytest.mark.parametrize("form", ["parquet", "fits", "vot"])
def test_every_catalogue_format_gives_the_same_table(tmp_path, form):
    write_cutouts(tmp_path / "in", 3)
    expected = object_table.read(tmp_path / "in", PARAMS.surveys)
    table = pl.read_csv(tmp_path / "in" / "catalogue.csv")
    (tmp_path / "in" / "catalogue.csv").unlink()
    path = tmp_path / "in" / f"catalogue.{form}"
    if form == "parquet":
        table.write_parquet(path)
    else:
        columns = {
            name: table[name].fill_null("").to_list() if name == "label" else table[name].to_list()
            for name in table.columns
        }
        Table(columns).write(path, format={"fits": "fits", "vot": "votable"}[form])
    assert object_table.read(tmp_path / "in", PARAMS.surveys).equals(expected)


def catalogue_faults():
    """name -> csv, words."""
    return {
        "column": ("object_id,label\nobj-0000,lens\n", "must have the column.s. survey, got object_id, label"),
        "twice": ("object_id,survey\nobj-0000,hsc\nobj-0000,hsc\n", "object_id must be unique, got 'obj-0000'"),
        "path": ("object_id,survey\n../../etc/passwd,hsc\n", "object_id must be a plain name"),
        "separator": ("object_id,survey\na/b,hsc\n", "object_id must be a plain name"),
        "newline": ('object_id,survey\n"ab\ncd",hsc\n', "object_id must be a plain name"),
        "empty id": ("object_id,survey\n,hsc\n", "object_id must be a plain name"),
        "survey": (
            "object_id,survey\nobj-0000,panstarrs\n",
            "survey must be one of .*, got 'panstarrs' for object obj-0000",
        ),
        "label": ("object_id,survey,label\nobj-0000,hsc,Lens!\n", "label must be one of lens, nonlens, unknown"),
        "confidence": ("object_id,survey,label_confidence\nobj-0000,hsc,1.5\n", "label_confidence must lie in .0, 1."),
        "number": ("object_id,survey,z_spec\nobj-0000,hsc,far\n", "z_spec must be a number or empty, got 'far'"),
        "position": ("object_id,survey,dec\nobj-0000,hsc,-95\n", "dec must lie in"),
        "no rows": ("object_id,survey\n", "must have a row per object"),
        "ragged": ("object_id,survey\nobj-0000,hsc,1,2,3\n", "must be a readable csv table"),
        "empty file": ("", "must be a readable csv table"),
    }


@pytest.mark.parametrize("fault", catalogue_faults())
def test_broken_catalogue_stops_with_one_line_and_leaves_nothing(tmp_path, fault):
    write_cutouts(tmp_path / "in", 2)
    text, words = catalogue_faults()[fault]
    (tmp_path / "in" / "catalogue.csv").write_text(text)
    with pytest.raises(schema.ContractError, match=words):
        CUTOUTS.fetch(params(tmp_path / "in"), PARAMS.surveys, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_catalogue_that_is_missing_doubled_a_link_or_a_bomb(tmp_path):
    folder = tmp_path / "in"
    with pytest.raises(FileNotFoundError, match="must be a folder of cutouts"):
        object_table.read(folder, PARAMS.surveys)
    write_cutouts(folder, 1)
    catalogue = folder / "catalogue.csv"
    (folder / "catalogue.vot").write_text("")
    with pytest.raises(schema.ContractError, match=r"must hold one catalogue, got catalogue\.csv, catalogue\.vot"):
        object_table.read(folder, PARAMS.surveys)
    catalogue.rename(tmp_path / "elsewhere.csv")
    (folder / "catalogue.vot").write_text('<VOTABLE><STREAM href="file:///etc/passwd"/></VOTABLE>')
    with pytest.raises(schema.ContractError, match="a reference to another file"):
        object_table.read(folder, PARAMS.surveys)
    (folder / "catalogue.vot").rename(folder / "catalogue.fits")
    (folder / "catalogue.fits").write_bytes(gzip.compress(bytes(10**6)))
    with pytest.raises(schema.ContractError, match="content without the card SIMPLE"):
        object_table.read(folder, PARAMS.surveys)
    (folder / "catalogue.fits").unlink()
    catalogue.symlink_to(tmp_path / "elsewhere.csv")
    with pytest.raises(schema.ContractError, match="must not lead out of its folder"):
        object_table.read(folder, PARAMS.surveys)
    catalogue.unlink()
    with pytest.raises(FileNotFoundError, match="must hold one of"):
        object_table.read(folder, PARAMS.surveys)


def zipped(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.fits", content)
    return file.getvalue()


def bomb(content):
    """An image of 30,000 x 30,000 zeros, tile-compressed to a few kB."""
    header = fits.Header({"XTENSION": "BINTABLE", "BITPIX": 8, "NAXIS": 2, "NAXIS1": 8, "NAXIS2": 1, "PCOUNT": 0})
    header.update(GCOUNT=1, TFIELDS=1, TTYPE1="COMPRESSED_DATA", TFORM1="1PB(1)", ZIMAGE=True, ZCMPTYPE="GZIP_1")
    header.update(ZBITPIX=-32, ZNAXIS=2, ZNAXIS1=30000, ZNAXIS2=30000, EXTNAME="g_SCI")
    return content[:2880] + header.tostring().encode() + bytes(2880)


def huge(content):
    return content.replace(b"NAXIS1  =                   48", b"NAXIS1  =           2000000000", 1)


CONTENT = {
    "gzip": (gzip.compress, "must be plain FITS, got gzip content"),
    "bzip2": (bz2.compress, "must be plain FITS, got bzip2 content"),
    "zip": (zipped, "must be plain FITS, got zip content"),
    "text": (lambda content: b"<html>404</html>", "content without the card SIMPLE"),
    "empty": (lambda content: b"", "content without the card SIMPLE"),
    "truncated": (lambda content: content[: len(content) // 2], "it is truncated"),
    "in a header": (lambda content: content[:3000], "must have an END card"),
    "declared": (huge, "must hold .* bytes as its headers say"),
    "compressed": (bomb, "G_SCI must have two axes of 1 to 4096 pixels, got .30000, 30000."),
    "no image": (lambda content: content[:2880], "must have an extension <BAND>_SCI of g, r, i, z, y, got none"),
    "band": (
        lambda content: content.replace(b"'g_SCI   '", b"'Q_SCI   '"),
        "bands must be among g, r, i, z, y .*got Q",
    ),
    "twice": (
        lambda content: content.replace(b"'r_SCI   '", b"'g_SCI   '"),
        "must have every extension once, got g_SCI",
    ),
    "orphan": (lambda content: content.replace(b"'r_SCI   '", b"'r_SCX   '"), "must have a <BAND>_SCI for every plane"),
    "noise": (lambda content: content.replace(b"'r_VAR   '", b"'r_XXX   '"), "must all have a noise plane or none"),
    "bits": (
        lambda content: content.replace(b"BITPIX  =                  -32", b"BITPIX  =                   12", 1),
        "valid BITPIX",
    ),
    "zero-point": (
        lambda content: content.replace(b"MAGZERO =                 27.0", b"MAGZERO = 'bright'            ", 1),
        "MAGZERO must be a number",
    ),
}


@pytest.mark.parametrize("fault", CONTENT)
def test_defective_file_is_refused_in_words_and_alone(tmp_path, fault):
    write_cutouts(tmp_path, 3)
    change, words = CONTENT[fault]
    path = tmp_path / "obj-0001.fits"
    before = path.read_bytes()
    path.write_bytes(change(before))
    assert path.read_bytes() != before
    with pytest.raises(ValueError, match=words):
        raise ValueError(reason(tmp_path))


def test_file_that_is_no_file_of_the_folder_is_refused_also_by_fetch(tmp_path):
    write_cutouts(tmp_path / "in", 5)
    secret = tmp_path / "secret.fits"
    (tmp_path / "in" / "obj-0001.fits").rename(secret)
    (tmp_path / "in" / "obj-0001.fits").symlink_to(secret)
    (tmp_path / "in" / "obj-0002.fits").unlink()
    (tmp_path / "in" / "obj-0003.fits").unlink()
    (tmp_path / "in" / "obj-0003.fits").mkdir()
    (tmp_path / "in" / "obj-0004.fits").unlink()
    (tmp_path / "in" / "obj-0004.fits").symlink_to("obj-0004.fits")
    raw = fetched(tmp_path)
    found, refused = stamps_of("s", raw, CUTOUTS.batches("s", raw, PARAMS.convert))
    assert list(found) == ["s.obj-0000"]
    assert refused["s.obj-0001"] == "obj-0001.fits must not lead out of its folder, got a link to elsewhere"
    assert refused["s.obj-0002"] == "obj-0002.fits must be in the folder, got no such file"
    assert refused["s.obj-0003"] == "obj-0003.fits must be a regular file, got something else"
    assert refused["s.obj-0004"] == "obj-0004.fits must be in the folder, got no such file"


def test_too_large_a_file_or_stamp_is_refused(tmp_path):
    write_cutouts(tmp_path, 2)
    index = cutouts.open_folder(tmp_path, PARAMS.surveys)
    for change, words in (({"max_file_mib": 0}, "must be at most 0 MiB"), ({"max_pixels": 40}, "1 to 40 pixels")):
        convert = PARAMS.convert.model_copy(update=change)
        read = CUTOUTS.read("", tmp_path, index, PARAMS.surveys, convert)
        assert read.cutouts == []
        assert all(words in text for _, text in read.refused)


def test_forms_are_batched_apart_and_extension_names_read_without_case(tmp_path):
    write_cutouts(tmp_path, 4)
    truth = gaussian((50, 40), 6.0) * 1e4 + np.random.default_rng(1).normal(size=(50, 40)).astype(np.float32)
    write_object(tmp_path / "obj-0002.fits", ("R",), {"SCI": truth[None]})
    found, refused = stamps_of("", tmp_path, cutouts.split(cutouts.open_folder(tmp_path, PARAMS.surveys), 9))
    assert refused == {}
    assert found["obj-0002"][3]["bands"] == ["r"]
    assert found["obj-0002"][0].shape == (1, 50, 40)
    assert len(found) == 4


def test_psf_of_another_size_per_band(tmp_path):
    """DES: 21 pixels in one band, 29 in the next, 43 x 41 and even ones elsewhere; the peak stays in the middle."""
    pixels = np.random.default_rng(1).normal(size=(48, 48)).astype(np.float32)
    hdus = [fits.PrimaryHDU()]
    for band, shape in (("g", (21, 21)), ("r", (43, 41)), ("i", (20, 20))):
        centre = None if shape[0] % 2 else (9.5, 9.5)
        hdus += [fits.ImageHDU(pixels), fits.ImageHDU(3 * gaussian(shape, 4.0, centre))]
        hdus[-2].header["EXTNAME"], hdus[-1].header["EXTNAME"] = f"{band}_SCI", f"{band}_PSF"
    file = io.BytesIO()
    fits.HDUList(hdus).writeto(file)
    psf = cutouts_file.parse(file.getvalue(), survey(), PARAMS.convert).psf
    assert psf.shape == (3, 43, 43)
    assert [np.unravel_index(p.argmax(), p.shape) for p in psf] == [(21, 21)] * 3
    assert np.allclose(psf.sum(axis=(1, 2)), 3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "i8", "f4", "f8", "u2"])
def test_images_are_astropy_s(kind):
    """Every BITPIX, unsigned integers by BZERO, text with quotes, exponents with D."""
    values = np.random.default_rng(2).uniform(0, 200, (7, 5)).astype(kind)
    hdu = fits.ImageHDU(values, name="A_SCI")
    hdu.header["NOTE"], hdu.header["YES"], hdu.header["NUMBER"] = "it's / here", True, 1.5e-20
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(Table({"a": [1, 2]})), hdu]).writeto(file)
    content = file.getvalue().replace(b"1.5E-20", b"1.5D-20")
    primary, table, image = fits_images.extensions(content)
    with fits.open(io.BytesIO(content)) as oracle:
        assert np.array_equal(image.image(10), oracle[2].data)
        for card in ("EXTNAME", "NOTE", "YES", "NUMBER", "BITPIX"):
            assert image.header[card] == oracle[2].header[card]
    with pytest.raises(ValueError, match="must be an image, got BINTABLE"):
        table.image(10)
    with pytest.raises(ValueError, match="must have two axes"):
        primary.image(10)


def test_blank_is_not_a_number():
    hdu = fits.ImageHDU(np.array([[1, -32768]], dtype="i2"), name="A_SCI")
    hdu.header["BLANK"] = -32768
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(file)
    assert np.array_equal(fits_images.extensions(file.getvalue())[1].image(10), [[1, np.nan]], equal_nan=True)
