"""COSMOS galaxies in GalSim's layout: which HDU is whose, units, noise, and damaged files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from brought import REAL, Brought, are_odd_with_unit_sum

from lensml.schema import ContractError

ROOT = REAL / "hst-cosmos"
needs_real = pytest.mark.skipif(not ROOT.is_dir(), reason="no sample data beside the checkout")
NANOJANSKY = 10 ** (0.4 * (31.4 - 25.94))


def catalogue(count: int, **changed: Any) -> Table:
    columns: dict[str, Any] = {
        "IDENT": np.arange(100, 100 + count, dtype=np.int32),
        "RA": np.linspace(149.5, 150.5, count),
        "DEC": np.full(count, 2.2),
        "NOISE_VARIANCE": np.full(count, 4e-6),
        "PIXEL_SCALE": np.full(count, 0.03),
        "GAL_FILENAME": ["images.fits"] * count,
        "GAL_HDU": np.arange(count)[::-1].astype(np.int32),
        "PSF_FILENAME": ["psfs.fits"] * count,
        "PSF_HDU": np.arange(count).astype(np.int32),
    }
    return Table(columns | changed)


def stamps(count: int) -> list[np.ndarray]:
    """Each with its number in its first pixel."""
    rng = np.random.default_rng(3)
    images = [rng.normal(0.0, 2e-3, (20 + number, 24)).astype(np.float32) for number in range(count)]
    for number, image in enumerate(images):
        image[0, 0] = 0.01 * number
    return images


def write(folder: Path, images: list[np.ndarray], name: str = "images.fits", primary: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    units = [fits.PrimaryHDU(images[0])] if primary else [fits.PrimaryHDU(), fits.ImageHDU(images[0])]
    fits.HDUList([*units, *map(fits.ImageHDU, images[1:])]).writeto(folder / name, overwrite=True)


def psfs(count: int) -> list[np.ndarray]:
    y, x = np.indices((23, 17))
    return [np.exp(-((y - 11) ** 2 + (x - 8) ** 2) / (6 + n)).astype(np.float32) for n in range(count)]


def brought(tmp_path: Path, **limits: Any) -> Brought:
    return Brought("cosmos", tmp_path / "in", tmp_path / "raw", "hst", limits)


def test_every_row_gets_the_hdu_that_it_names(tmp_path: Path) -> None:
    images = stamps(5)
    write(tmp_path / "in", images)
    write(tmp_path / "in", psfs(5), "psfs.fits")
    catalogue(5).write(tmp_path / "in" / "c.fits")
    found = brought(tmp_path, objects_per_batch=2)
    for row in range(5):
        name = f"cosmos-{100 + row}"
        np.testing.assert_allclose(found.flux(name)[0], images[4 - row] * NANOJANSKY, rtol=1e-5)
        cutouts, index = found.batch(name)
        assert cutouts.psf is not None
        psf = cutouts.psf[index, 0]
        assert psf[11, 13] / psf[11, 11] == pytest.approx(np.exp(-4 / (6 + row)), rel=1e-5)
    expected = (4e-6 + np.maximum(images[4], 0) / 2000) * NANOJANSKY**2
    np.testing.assert_allclose(found.variance("cosmos-100")[0], expected, rtol=1e-5)
    claim = found.claim("cosmos-102")
    assert (claim["label"], claim["label_source"], claim["ra"], claim["frame"]) == (
        "nonlens",
        "obs:cosmos",
        150.0,
        "icrs",
    )


def test_a_cut_sample_goes_row_by_row(tmp_path: Path) -> None:
    """Its HDU numbers are those of the larger file, its first HDU holds nothing."""
    images = stamps(4)
    write(tmp_path / "in", images, "galaxies.fits", primary=False)
    write(tmp_path / "in", psfs(4), "psfs.fits", primary=False)
    catalogue(4, GAL_HDU=np.array([0, 50, 90, 7]), PSF_FILENAME=["other.fits"] * 4).write(tmp_path / "in" / "c.fits")
    found = brought(tmp_path)
    for row in range(4):
        np.testing.assert_allclose(found.flux(f"cosmos-{100 + row}")[0], images[row] * NANOJANSKY, rtol=1e-5)
        assert found.batch(f"cosmos-{100 + row}")[0].psf is not None


def test_a_sersic_fit_beside_the_catalogue_is_taken_where_it_is_viable(tmp_path: Path) -> None:
    write(tmp_path / "in", stamps(2))
    catalogue(2).write(tmp_path / "in" / "c.fits")
    shapes = {"IDENT": [101, 100], "zphot": [0.5, 0.7], "hlr": [[0.3, 0, 0], [0.4, 0, 0]], "viable_sersic": [0, 1]}
    Table(shapes | {"sersicfit": [[1, 5, 2.5, 0.6], [1, 9, 3.5, 0.8]]}).write(tmp_path / "in" / "c_fits.fits")
    metadata = {name: row for name, *row in _metadata(brought(tmp_path))}
    assert metadata == {"x.cosmos-100": [0.7, 3.5, 0.8, 0.4], "x.cosmos-101": [0.5, None, None, None]}


def _metadata(found: Brought) -> list[tuple[Any, ...]]:
    columns = ("object_id", "z_phot", "sersic_index", "axis_ratio", "half_light_radius")
    return [row for batch in found.batches for row in batch.metadata.select(*columns).iter_rows()]


def test_what_is_wrong_with_one_galaxy_is_said_of_it(tmp_path: Path) -> None:
    write(tmp_path / "in", [np.zeros((3, 20, 20), np.float32) if n == 2 else s for n, s in enumerate(stamps(4))])
    catalogue(4, GAL_HDU=[0, 1, 2, 9]).write(tmp_path / "in" / "c.fits")
    found = brought(tmp_path)
    assert "must have two axes" in found.refused["cosmos-102"]
    assert "must hold the image 9" in found.refused["cosmos-103"]
    assert found.names == {"cosmos-100", "cosmos-101"}


def test_a_file_above_the_limit_refuses_its_objects(tmp_path: Path) -> None:
    write(tmp_path / "in", stamps(2))
    catalogue(2).write(tmp_path / "in" / "c.fits")
    assert all("max_field_mib" in words for words in brought(tmp_path, max_field_mib=0).refused.values())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"GAL_FILENAME": ["../images.fits"] * 3}, "must name plain files"),
        ({"GAL_FILENAME": ["lost.fits"] * 3}, "got no lost.fits and no galaxies.fits"),
        ({"IDENT": [1, 1, 2]}, "be unique"),
        ({"DEC": [1.0, 2.0, 91.0]}, r"dec must lie in"),
    ],
)
def test_a_wrong_catalogue_is_refused_in_words(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    write(tmp_path / "in", stamps(3))
    catalogue(3, **changed).write(tmp_path / "in" / "c.fits")
    with pytest.raises(ContractError, match=words):
        brought(tmp_path)


@pytest.mark.parametrize(("file", "keep"), [("images.fits", 4000), ("c.fits", 3000), ("c.fits", 5900)])
def test_a_truncated_file_is_named(tmp_path: Path, file: str, keep: int) -> None:
    write(tmp_path / "in", stamps(3))
    catalogue(3).write(tmp_path / "in" / "c.fits")
    path = tmp_path / "in" / file
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ContractError, match=rf"{file} must be whole FITS"):
        brought(tmp_path)


def test_a_folder_without_a_catalogue_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "in", stamps(2))
    with pytest.raises(ContractError, match="must have a catalogue with IDENT"):
        brought(tmp_path)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Brought:
    return Brought("cosmos", ROOT, tmp_path_factory.mktemp("cosmos"), "hst")


@needs_real
def test_all_real_galaxies_are_read(real: Brought) -> None:
    assert (len(real.names), real.refused) == (50, {})
    assert set(real.evidence["label"]) == {"nonlens"}
    assert sum(psf.shape[0] for psf in real.psfs()) == 40
    assert are_odd_with_unit_sum(real.psfs())


@needs_real
def test_fluxes_are_the_catalogues(real: Brought) -> None:
    """MAG is SExtractor's; faint ones have neighbours and cut wings in their stamps, so that only the others serve."""
    for row in fits.getdata(ROOT / "brighter" / "real_galaxy_catalog_23.5.fits"):
        assert real.magnitudes(f"cosmos-{row['IDENT']}", 60.0)["F814W"] == pytest.approx(row["MAG"], abs=0.12)
    rows = [row for row in fits.getdata(ROOT / "catalogue.fits") if row["MAG"] < 23.7]
    apart = [real.magnitudes(f"cosmos-{row['IDENT']}", 60.0)["F814W"] - row["MAG"] for row in rows]
    assert len(apart) >= 8
    assert np.median(np.abs(apart)) < 0.1
    assert np.max(np.abs(apart)) < 0.35


@needs_real
def test_the_published_noise_is_that_of_the_stamps(real: Brought) -> None:
    ratios = []
    for name in real.names:
        flux, variance = real.flux(name)[0], real.variance(name)[0]
        border = np.concatenate([flux[0], flux[-1]])
        ratios.append(1.4826 * np.median(np.abs(border - np.median(border))) / np.sqrt(variance.min()))
    assert 0.8 < np.median(ratios) < 1.1


@needs_real
def test_redshifts_and_fits_are_those_beside_the_catalogue(real: Brought) -> None:
    table = fits.getdata(ROOT / "brighter" / "real_galaxy_catalog_23.5_fits.fits")
    ours = {name: rest for name, *rest in _metadata(real)}
    for row in table:
        radius = row["sersicfit"][1] * np.sqrt(row["sersicfit"][3]) * 0.03  # circularised, arcsec
        expected = [row["zphot"], row["sersicfit"][2], row["sersicfit"][3], radius]
        np.testing.assert_allclose(ours[f"x.cosmos-{row['IDENT']}"], expected, rtol=1e-3)
