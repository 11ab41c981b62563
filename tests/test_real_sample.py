"""Real survey files through the `cutouts` contract, held against what their publishers say of them."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from astropy.io import fits

from lensml import config
from lensml.sources import SOURCES
from tests import real_sample

PARAMS = config.load(Path(__file__).parents[1] / "params.yaml")
COUNTS = {"des-lrg": (5, 1), "kids-sdss": (10, 5), "hst-dinos": (24, 24), "hst-cosmos": (50, 1)}  # objects, parents

pytestmark = real_sample.needs_real


class Folder:
    """A folder made, fetched and read: object_id -> (cutouts, its index)."""

    def __init__(self, name: str, root: Path) -> None:
        kind, self.raw = SOURCES["cutouts"], root / "raw"
        folder = real_sample.FOLDERS[name](root / "in")
        params = config.CutoutsSource(kind="cutouts", path=str(folder), files_per_archive=512)
        kind.fetch(params, PARAMS.surveys, self.raw)
        self.evidence = kind.evidence("x", self.raw)
        units = kind.batches("x", self.raw, PARAMS.convert)
        reads = [kind.read("x", self.raw, unit, PARAMS.surveys, PARAMS.convert) for unit in units]
        self.refused = [item for read in reads for item in read.refused]
        self.good = {n: (c, i) for read in reads for c in read.cutouts for i, n in enumerate(c.object_id)}

    def pixels(self, name: str) -> np.ndarray:
        """(band, y, x) nJy, bad pixels as NaN."""
        cutouts, index = self.good[f"x.{name}"]
        return np.where(cutouts.bad[index], np.nan, cutouts.flux[index])

    def magnitudes(self, name: str, radius_arcsec: float) -> np.ndarray:
        """AB, in an aperture around the stamp's centre."""
        cutouts, index = self.good[f"x.{name}"]
        pixels = self.pixels(name)
        y, x = (np.arange(n) - (n - 1) / 2 for n in pixels.shape[1:])
        inside = np.hypot(y[:, None], x) * cutouts.pixel_scale[index] < radius_arcsec
        return 31.4 - 2.5 * np.log10(np.nansum(pixels[:, inside], axis=1))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Folder] = {}

    def get(name: str) -> Folder:
        return made.setdefault(name, made.get(name) or Folder(name, tmp_path_factory.mktemp(name)))

    return get


@pytest.mark.parametrize("name", COUNTS)
def test_every_object_is_read_and_grouped_by_its_parent(folders: Any, name: str) -> None:
    folder = folders(name)
    objects, parents = COUNTS[name]
    assert folder.refused == []
    assert len(folder.good) == folder.evidence.height == objects
    assert folder.evidence["parent"].n_unique() == parents


def test_des_bands_are_those_of_the_extensions_order(folders: Any) -> None:
    """Catalogue magnitudes of 1774311: g 21.1, r 19.7, i 19.2, though every header says i."""
    np.testing.assert_allclose(folders("des-lrg").magnitudes("DES_1774311", 4.0), [21.1, 19.7, 19.2], atol=0.25)


def test_kids_and_sdss_see_the_same_flux(folders: Any) -> None:
    folder = folders("kids-sdss")
    for galaxy in {name.removesuffix("_KiDS").removesuffix("_SDSS").removeprefix("x.") for name in folder.good}:
        kids, sdss = (folder.magnitudes(f"{galaxy}_{survey}", 4.0) for survey in ("KiDS", "SDSS"))
        assert abs(kids - sdss) < 0.12


def test_dinos_lenses_are_those_confirmed_and_their_frames_are_rotated(folders: Any) -> None:
    folder = folders("hst-dinos")
    assert dict(folder.evidence["label"].value_counts().iter_rows()) == {"lens": 22, "unknown": 2}
    scales = np.array([cutouts.pixel_scale[index] for cutouts, index in folder.good.values()])
    np.testing.assert_allclose(np.sort(scales), [0.0498] * 2 + [0.05] * 22, rtol=2e-3)  # WFPC2, ACS
    published = pl.read_csv(real_sample.REAL / "hst-dinos" / "tables" / "SLACS_mass_params.csv")
    ours = folder.evidence.select(pl.col("object_id").str.strip_prefix("x.").alias("Lens_name"), "theta_e_arcsec")
    both = published.join(ours, on="Lens_name")
    assert both.height >= 10
    np.testing.assert_allclose(both["theta_e_arcsec"], both["R_Ein"], atol=6e-4)


def test_dinos_noise_planes_are_the_noise_of_the_pixels(folders: Any) -> None:
    """Second differences hold next to no galaxy: their scatter is sqrt(6) sigma, less what drizzling has smoothed."""
    folder, ratios = folders("hst-dinos"), []
    for name, (cutouts, index) in folder.good.items():
        second = np.diff(folder.pixels(name.removeprefix("x."))[0], n=2, axis=1)
        sigma = np.sqrt(cutouts.variance[index][0][:, 1:-1])
        ratios.append(1.4826 * np.nanmedian(np.abs(second / sigma)) / np.sqrt(6))
    assert 0.3 < np.median(ratios) < 1.3


def test_cosmos_fluxes_are_the_catalogues(folders: Any) -> None:
    folder, bright = folders("hst-cosmos"), real_sample.REAL / "hst-cosmos" / "brighter"
    for row in fits.getdata(bright / "real_galaxy_catalog_23.5.fits"):
        (total,) = folder.magnitudes(f"cosmos-{row['IDENT']}", 60.0)
        assert total == pytest.approx(row["MAG"], abs=0.12)
