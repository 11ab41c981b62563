"""Real survey files, each set through its own kind of source, against what was published or measured of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from lensml import config
from lensml.imaging import psf
from lensml.imaging.cutouts import Cutouts, calibrate
from lensml.sources import SOURCES
from lensml.store.stamps import Stamps
from tests.real_sample import PIXELS, REAL, ROOT, needs_real, source

PARAMS = config.load(ROOT / "params.yaml")
OBJECTS = {  # objects, of which refused
    "bologna_ground": (12, 1),  # 100013 has two bands twice
    "bologna_space": (16, 0),
    "cfht_sl2s": (1, 0),
    "des_lrg": (5, 0),
    "euclid_q1": (1, 0),
    "hsc_stars": (10, 0),
    "hsc_hst_blends": (2, 0),
    "hst_cosmos": (50, 0),
    "hst_delensed": (22, 0),
    "hst_dinos": (32, 0),
    "hst_slacs": (2, 0),
    "kids_field": (1, 0),
    "kids_sdss": (10, 0),
}

pytestmark = [needs_real, pytest.mark.xdist_group("real_sample")]


@dataclass(frozen=True)
class Ingested:
    """A set that went in."""

    evidence: pl.DataFrame
    cutouts: list[Cutouts]
    stamps: list[Stamps]
    refused: dict[str, str]

    def stamp(self, name: str) -> tuple[Stamps, int]:
        """The batch and the row of an object."""
        return next(
            (s, list(s.catalogue["object_id"]).index(name)) for s in self.stamps if name in s.catalogue["object_id"]
        )

    @property
    def catalogue(self) -> pl.DataFrame:
        return pl.concat([stamps.catalogue for stamps in self.stamps])

    def per_band(self, column: str) -> dict[str, float]:
        """The median of a per-band column."""
        long = self.catalogue.select("bands", column).explode("bands", column)
        return dict(long.group_by("bands").agg(pl.col(column).median()).iter_rows())


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ingested]:
    done: dict[str, Ingested] = {}

    def get(name: str) -> Ingested:
        if name not in done:
            done[name] = ingest(name, tmp_path_factory.mktemp(name))
        return done[name]

    return get


def ingest(name: str, raw: Path) -> Ingested:
    params = source(name)
    kind = SOURCES[params.kind]
    kind.fetch(params, PARAMS.surveys, raw)
    cutouts, stamps, refused = [], [], []
    for unit in kind.batches("x", raw, PARAMS.convert):
        read = kind.read("x", raw, unit, PARAMS.surveys, PARAMS.convert)
        refused += read.refused
        for batch in read.cutouts:
            made, out = calibrate(batch, PARAMS.surveys[batch.survey], PARAMS.convert)
            refused += out
            cutouts.append(batch)
            stamps += [made] if made.catalogue.height else []
    return Ingested(kind.evidence("x", raw), cutouts, stamps, dict(refused))


def aperture_magnitude(stamps: Stamps, row: int, radius_arcsec: float) -> NDArray[np.float64]:
    """AB per band in a round aperture about the stamp's centre."""
    flux = np.where(np.isfinite(stamps.variance[row]), stamps.flux[row], 0).astype(np.float64)
    y, x = (np.arange(n) - (n - 1) / 2 for n in flux.shape[1:])
    inside = np.hypot(y[:, None], x) * stamps.pixel_scale[row] < radius_arcsec
    return np.asarray(31.4 - 2.5 * np.log10(flux[:, inside].sum(axis=1)))


@pytest.mark.parametrize("name", PIXELS)
def test_every_object_goes_in_or_is_refused_in_words(ingested: Callable[[str], Ingested], name: str) -> None:
    found, (objects, refused) = ingested(name), OBJECTS[name]
    assert found.evidence.height == objects
    assert len(found.refused) == refused, found.refused
    assert found.catalogue.height == objects - refused
    for stamps in found.stamps:
        assert np.isfinite(stamps.flux).all()
        sums = stamps.psf.sum(axis=(2, 3))
        np.testing.assert_allclose(sums[sums != 0], 1, atol=1e-4)
        assert stamps.psf.shape[-1] % 2 == 1
    assert found.catalogue["quality"].is_between(0, 1).all()


def test_des_magnitudes_are_the_catalogue_s_though_every_header_says_i(ingested: Callable[[str], Ingested]) -> None:
    """1774311, the whole stamp: g 21.1, r 19.7, i 19.2 at zero-point 30."""
    stamps, row = ingested("des_lrg").stamp("x.1774311")
    total = 31.4 - 2.5 * np.log10(stamps.flux[row].sum(axis=(1, 2), dtype=np.float64))
    np.testing.assert_allclose(total, [21.1, 19.7, 19.2], atol=0.15)


def test_des_bands_that_are_not_stated_are_refused_and_not_guessed(tmp_path: Path) -> None:
    params = source("des_lrg").model_copy(update={"bands": None})
    SOURCES["des"].fetch(params, PARAMS.surveys, tmp_path)
    (unit,) = SOURCES["des"].batches("x", tmp_path, PARAMS.convert)
    read = SOURCES["des"].read("x", tmp_path, unit, PARAMS.surveys, PARAMS.convert)
    assert len(read.refused) == 5
    assert all("State the source's `bands`" in words for _, words in read.refused)


def test_euclid_noise_planes_are_found_to_be_wrong_and_are_rescaled(ingested: Callable[[str], Ingested]) -> None:
    """Sky sigma over the RMS plane of MER (measured elsewhere): VIS .66, NISP .25 to .33, ground .35 to .42."""
    found = ingested("euclid_q1")
    ratio, scale, rho = (found.per_band(c) for c in ("sky_sigma_over_plane", "variance_scale", "noise_correlation"))
    assert ratio["VIS"] == pytest.approx(0.66, rel=0.06)
    for band in ("NIR_Y", "NIR_J", "NIR_H"):
        assert 0.25 * 0.94 < ratio[band] < 0.33
        assert 0.75 <= rho[band] <= 0.88
    for band in ("u", "g", "r", "z"):
        assert 0.35 * 0.99 < ratio[band] < 0.42
        assert 0.65 <= rho[band] <= 0.82
    for band, value in ratio.items():
        assert scale[band] == pytest.approx(value**2)


def test_euclid_psf_widths_are_those_measured_elsewhere(ingested: Callable[[str], Ingested]) -> None:
    halfmax, moment = (ingested("euclid_q1").per_band(c) for c in ("fwhm_halfmax", "fwhm_moment"))
    assert halfmax["VIS"] == pytest.approx(0.17, abs=0.02)
    assert moment["VIS"] == pytest.approx(0.20, abs=0.02)
    for band in ("NIR_Y", "NIR_J", "NIR_H"):
        assert 0.37 < halfmax[band] < 0.55
        assert halfmax[band] < moment[band] < 0.58


def test_euclid_stands_where_its_name_says(ingested: Callable[[str], Ingested]) -> None:
    """EUCL J174517.55+655612.5; CRVAL is the tile's centre, degrees away."""
    row = ingested("euclid_q1").evidence.row(0, named=True)
    assert row["ra"] == pytest.approx(15 * (17 + 45 / 60 + 17.55 / 3600), abs=0.5 / 3600)
    assert row["dec"] == pytest.approx(65 + 56 / 60 + 12.5 / 3600, abs=0.5 / 3600)


def test_hst_zero_points_are_those_of_the_published_table(ingested: Callable[[str], Ingested]) -> None:
    """AB = -2.5 log10 PHOTFLAM - 21.10 - 5 log10 PHOTPLAM + 18.692, of each image that the table lists."""
    table = pl.read_csv(REAL / "hst-dinos" / "tables" / "DINOSi_PHOTZPT_values.csv")
    batches, checked = ingested("hst_dinos").cutouts, 0
    for row in table.iter_rows(named=True):
        name, path = (
            f"x.{row['System']}",
            REAL / "hst-dinos" / row["System"] / f"image_{row['System']}_{row['Band']}.h5",
        )
        batch = next((c for c in batches if name in c.object_id), None)
        if batch is None or not path.exists():
            continue
        with h5py.File(path) as file:
            image = file["image_data"][()]
        at = batch.object_id.index(name), batch.bands.index(row["Band"])
        if batch.flux[at].shape != image.shape or batch.bad[at].any():
            continue  # resampled to the finer pixels of another band, or not the file's pixels alone
        zero_point = -2.5 * np.log10(row["PHOTFLAM"]) - 21.10 - 5 * np.log10(row["PHOTPLAM"]) + 18.692
        expected = image.astype(np.float64).sum() * 10 ** (0.4 * (31.4 - zero_point))
        assert batch.flux[at].sum(dtype=np.float64) == pytest.approx(expected, rel=5e-3)  # 5 mmag
        checked += 1
    assert checked >= 15


def test_dinos_lenses_are_those_confirmed(ingested: Callable[[str], Ingested]) -> None:
    found = ingested("hst_dinos").evidence
    truth = pl.read_csv(REAL / "hst-dinos" / "labels.csv")
    lenses = set(found.filter(pl.col("label") == "lens")["object_id"].str.strip_prefix("x."))
    assert lenses <= set(truth.filter(pl.col("label") == "lens")["object"])
    published = pl.read_csv(REAL / "hst-dinos" / "tables" / "SLACS_mass_params.csv")
    ours = found.select(pl.col("object_id").str.strip_prefix("x.").alias("Lens_name"), "theta_e_arcsec").drop_nulls()
    both = published.join(ours, on="Lens_name")
    assert both.height >= 10
    np.testing.assert_allclose(both["theta_e_arcsec"], both["R_Ein"], atol=6e-4)


def test_cosmos_fluxes_are_the_catalogue_s(ingested: Callable[[str], Ingested]) -> None:
    bright = REAL / "hst-cosmos" / "brighter"
    for row in fits.getdata(bright / "real_galaxy_catalog_23.5.fits"):
        name = next(n for n in ingested("hst_cosmos").catalogue["object_id"] if n.endswith(str(row["IDENT"])))
        stamps, k = ingested("hst_cosmos").stamp(name)
        assert aperture_magnitude(stamps, k, 60.0)[0] == pytest.approx(row["MAG"], abs=0.12)


@pytest.mark.parametrize("radius_arcsec", [3.0, 4.0, 6.0])
def test_kids_and_sdss_see_the_same_galaxy_alike_through_one_psf(
    ingested: Callable[[str], Ingested], radius_arcsec: float
) -> None:
    """r magnitudes in round apertures of 3, 4 and 6 arcsec radius, both brought to one Gaussian of 1.9 arcsec."""
    rules = PARAMS.psf_match.model_copy(update={"mode": "common", "common_target_fwhm": 1.9})
    found: dict[str, dict[str, float]] = {}
    for stamps in ingested("kids_sdss").stamps:
        matched, refused = psf.match(stamps, PARAMS.surveys[stamps.survey], rules)
        assert refused == []
        for row, name in enumerate(matched.catalogue["object_id"]):
            galaxy = found.setdefault(name.rsplit("_", 1)[0], {})
            galaxy[stamps.survey] = float(aperture_magnitude(matched, row, radius_arcsec)[0])
    assert len(found) == 5
    differences = [galaxy["kids"] - galaxy["sdss"] for galaxy in found.values()]
    assert np.abs(differences).max() < 0.15, differences


def test_a_galaxy_in_two_surveys_has_one_parent(ingested: Callable[[str], Ingested]) -> None:
    assert ingested("kids_sdss").evidence["parent"].n_unique() == 5


def test_sentinels_are_bad_pixels(ingested: Callable[[str], Ingested]) -> None:
    """slacs1430+4105 has a noise of 1e8 on its bad pixels."""
    noise_map = fits.getdata(REAL / "hst-slacs" / "slacs1430+4105" / "noise_map.fits")
    stamps, row = ingested("hst_slacs").stamp("x.slacs1430+4105")
    assert (noise_map == 1e8).any()
    assert np.isinf(stamps.variance[row, 0][noise_map == 1e8]).all()


def test_bologna_s_masked_pixels_are_bad(ingested: Callable[[str], Ingested]) -> None:
    counts = sorted(int(n) for c in ingested("bologna_ground").cutouts for n in c.bad.sum(axis=(2, 3)).ravel())
    assert counts[-3:] == [15, 49, 212]
