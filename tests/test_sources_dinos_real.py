"""The published systems of Project Dinos against h5py, their tables, and the ground's view of one of them."""

import itertools
import shutil
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
from brought import REAL, Brought, are_odd_with_unit_sum
from scipy import ndimage

from lensml.imaging import resample
from lensml.imaging.frames import Frame

ROOT = REAL / "hst-dinos"
PHOTOMETRY = ROOT / "tables" / "DINOSi_PHOTZPT_values.csv"
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="no sample data beside the checkout")
SYSTEMS = (  # all cameras, one to three bands
    *("SDSSJ0029-0055", "SDSSJ0252+0039", "SDSSJ0946+1006", "SDSSJ1313+4615", "SDSSJ1349+3612", "SL2SJ0214-0405"),
    "SL2SJ0225-0454",
)


def some(folder: Path, photometry: str | None = None) -> Path:
    for name in SYSTEMS:
        shutil.copytree(ROOT / name, folder / name)
    (folder / PHOTOMETRY.name).write_text(photometry or PHOTOMETRY.read_text())
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Brought:
    root = tmp_path_factory.mktemp("dinos")
    return Brought("dinos", some(root / "in"), root / "raw", "hst")


def test_every_system_is_labelled_as_published(tmp_path: Path) -> None:
    evidence = Brought("dinos", ROOT, tmp_path, "hst").evidence
    assert dict(evidence["label"].value_counts().iter_rows()) == {"lens": 29, "unknown": 3}
    tables = [pl.read_csv(path) for path in sorted((ROOT / "tables").glob("*_mass_params.csv"))]
    published = pl.concat([table.select("Lens_name", "R_Ein") for table in tables])
    ours = evidence.select(pl.col("object_id").str.strip_prefix("x.").alias("Lens_name"), "theta_e_arcsec", "label")
    both = published.join(ours, on="Lens_name")
    assert both.height == 21
    assert set(both["label"]) == {"lens"}
    np.testing.assert_allclose(both["theta_e_arcsec"], both["R_Ein"], atol=6e-4)


def test_real_systems_are_read_with_their_psfs(real: Brought) -> None:
    assert (real.names, real.refused) == (set(SYSTEMS), {})
    assert are_odd_with_unit_sum(real.psfs())


def test_magnitudes_are_those_of_the_published_zero_points(real: Brought) -> None:
    """A system of one band, which no resampling touches."""
    name, row = "SDSSJ1349+3612", pl.read_csv(PHOTOMETRY)
    (entry,) = row.filter(System=name, Band="F814W").iter_rows(named=True)
    zero_point = -2.5 * np.log10(entry["PHOTFLAM"]) - 21.10 - 5 * np.log10(entry["PHOTPLAM"]) + 18.692
    with h5py.File(ROOT / name / f"image_{name}_F814W.h5") as file:
        total, sky = file["image_data"][()].sum(), file["background_rms"][()]
    ours = 31.4 - 2.5 * np.log10(np.nansum(real.flux(name)))
    assert ours == pytest.approx(zero_point - 2.5 * np.log10(total), abs=1e-3)
    lowest = np.sqrt(real.variance(name).min())
    assert lowest == pytest.approx(sky * 10 ** (0.4 * (31.4 - zero_point)), rel=1e-4)


def test_systems_that_are_not_listed_get_their_cameras_zero_point(real: Brought, tmp_path: Path) -> None:
    """The listed ones, with the names in the table changed: all cameras come out as they are listed."""
    text = PHOTOMETRY.read_text()
    changed = some(tmp_path / "in", text.replace("SDSSJ", "other").replace("SL2SJ", "other"))
    found = Brought("dinos", changed, tmp_path / "raw", "hst")
    for name in set(SYSTEMS) - {"SDSSJ0946+1006"}:  # which is not listed at all
        ours, listed = found.magnitudes(name, 1.0), real.magnitudes(name, 1.0)
        assert list(ours) == list(listed)
        np.testing.assert_allclose(list(ours.values()), list(listed.values()), atol=0.03)


def test_bands_of_a_system_show_the_galaxy_at_one_place(real: Brought) -> None:
    """To a pixel; without the shifts SDSSJ0946+1006 is five apart."""
    apart = []
    for name in SYSTEMS:
        flux = np.nan_to_num(real.flux(name))
        half = flux.shape[-1] // 2
        core = [ndimage.gaussian_filter(image, 2)[half - 9 : half + 10, half - 9 : half + 10] for image in flux]
        places = np.array([np.unravel_index(np.argmax(image), image.shape) for image in core])
        apart.append(np.abs(places - places[-1]).max())
    assert max(apart) <= 1


def test_north_and_parity_are_those_of_the_ground(real: Brought, tmp_path: Path) -> None:
    """SL2SJ0214-0405 is in the CFHT sample with a WCS: what changes sign under a half turn (the arc) agrees."""
    ground = Brought("cfht", REAL / "cfht-sl2s", tmp_path / "raw", "cfht").flux("SL2SJ021411-040502")[2]
    cutouts, index = real.batch("SL2SJ0214-0405")
    assert cutouts.north_deg is not None
    flux, variance = np.nan_to_num(cutouts.flux[index, 0]), np.ones(cutouts.flux[index, 0].shape, np.float32)
    smooth = ndimage.gaussian_filter(np.where(cutouts.bad[index, 0], 0, flux), 0.7 / 2.355 / 0.05)

    with h5py.File(REAL / "hst-dinos" / "SL2SJ0214-0405" / "image_SL2SJ0214-0405_F814W.h5") as file:
        keys = (("ra_at_xy_0", "ra_shift"), ("dec_at_xy_0", "dec_shift"))
        place = [file[key][()] + file[shift][()] for key, shift in keys]
        x, y = np.linalg.solve(file["transform_pix2angle"][()], -np.array(place, dtype=float).ravel())

    def odd(image: np.ndarray) -> np.ndarray:
        return image - image[::-1, ::-1]

    def likeness(north_deg: float, mirrored: bool) -> dict[tuple[int, int], float]:
        """By offset within 0.2 arcsec, in quarters of a pixel: HST's positions and the ground's differ by as much."""
        frame, fine = Frame(*flux.shape, 0.05, -north_deg, mirrored, (y, x)), Frame(92, 92, 0.186 / 4)
        seen = resample.to_frame(smooth, variance, resample.between(frame, fine), 0.5).flux
        ring, found = np.hypot(*(np.indices((21, 21)) - 10)) > 4, {}  # where the arc is, and the deflector is not
        truth = odd(ground[10:-10, 10:-10])[ring]
        for v, u in itertools.product(range(0, 9, 2), repeat=2):
            image = seen[v : v + 84, u : u + 84].reshape(21, 4, 21, 4).sum(axis=(1, 3))
            found[v, u] = float(np.corrcoef(odd(image)[ring], truth)[0, 1])
        return found

    north = cutouts.north_deg[index]
    right = likeness(north, False)
    offset = max(right, key=lambda key: right[key])
    others = [likeness(north + turn, mirrored) for turn in (0, 90, 180, 270) for mirrored in (False, True)][1:]
    assert right[offset] > 0.75
    assert max(other[offset] for other in others) < right[offset] - 0.1
