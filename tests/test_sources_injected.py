"""Arcs painted into hosts (oracles: the hosts as their own kind reads them, Poisson's law, closed forms, faults)."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from astropy.io import fits
from pydantic import ValidationError

from lensml.catalog import provenance
from lensml.catalog.groups import group_ids
from lensml.config_injected import InjectedSource
from lensml.imaging.cutouts import Cutouts, calibrate
from lensml.ingest.kind import Read
from lensml.schema import ContractError
from lensml.sources import SOURCES, injected_painting
from lensml.store import tables
from tests.cutouts_folder import survey, write_cutouts
from tests.injecting import cutouts, injected
from tests.real_sample import PIXELS, needs_real

SURVEYS = {"hsc": survey("hsc"), "des": survey("des"), "kids": survey("kids"), "sdss": survey("sdss")}
KIND = SOURCES["injected"]
SHARP = {"hsc": dict.fromkeys("gri", 1e9)}  # electrons: no photon noise to speak of


def folder(path: Path, n: int = 3, **how: Any) -> Path:
    write_cutouts(path, n, **({"labels": ("nonlens", None)} | how))
    return path


def fetched(params: InjectedSource, raw: Path) -> Path:
    KIND.fetch(params, SURVEYS, raw)
    return raw


def read(raw: Path, params: InjectedSource, source: str = "x") -> list[Read]:
    units = KIND.batches(source, raw, params.convert)
    return [KIND.read(source, raw, unit, SURVEYS, params.convert) for unit in units]


def objects(parts: list[Read]) -> dict[str, dict[str, Any]]:
    """Planes by object_id."""
    return {name: planes(c, k) for part in parts for c in part.cutouts for k, name in enumerate(c.object_id)}


def planes(batch: Cutouts, row: int) -> dict[str, Any]:
    names = ("flux", "variance", "bad", "psf", "pixel_scale", "saturated", "psf_fwhm", "north_deg")
    return {name: None if getattr(batch, name) is None else getattr(batch, name)[row] for name in names}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        (a is None and b is None) or a.tobytes() == b.tobytes()
        for a, b in zip(*map(dict.values, (one, other)), strict=True)
    )


@pytest.fixture(scope="module")
def sharp(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, InjectedSource]:
    """Three hosts without bad pixels, two lenses each, without photon noise."""
    root = tmp_path_factory.mktemp("sharp")
    params = injected(cutouts(folder(root / "hosts", mask=False)), per_host=2, electrons_per_nJy=SHARP)
    return fetched(params, root / "raw"), params


def test_a_twin_is_its_host_as_the_hosts_own_kind_reads_it(sharp: tuple[Path, InjectedSource]) -> None:
    raw, params = sharp
    own = SOURCES["cutouts"]
    units = own.batches("x", raw / "hosts", params.convert)
    hosts = objects([own.read("x", raw / "hosts", unit, SURVEYS, params.convert) for unit in units])
    found = objects(read(raw, params))
    assert set(found) == {f"{name}-{k}" for name in hosts for k in range(3)}
    for name, host in hosts.items():
        assert same(found[f"{name}-0"], host)
        assert not same(found[f"{name}-1"], host)
        assert not same(found[f"{name}-1"], found[f"{name}-2"])


def test_metadata_of_a_host_is_that_of_its_family(sharp: tuple[Path, InjectedSource]) -> None:
    (part,) = read(*sharp)
    (batch,) = part.cutouts
    assert batch.metadata["object_id"].to_list() == batch.object_id
    assert batch.source == "x"
    assert dict(batch.metadata.select("object_id", "z_spec").iter_rows())["x.obj-0002-2"] == pytest.approx(0.12)
    stamps, refused = calibrate(batch, SURVEYS["hsc"], sharp[1].convert)
    assert (stamps.catalogue.height, refused) == (9, [])


def test_the_flux_added_is_what_the_claimed_ratio_says(sharp: tuple[Path, InjectedSource]) -> None:
    raw, params = sharp
    found, claims = objects(read(raw, params)), KIND.evidence("x", raw)
    y, x = np.indices((48, 48)) - 23.5
    aperture = np.clip(2.5 / 0.168 - np.hypot(x, y) + 0.5, 0, 1)
    for row in claims.filter(pl.col("label") == "lens").iter_rows(named=True):
        host = found[row["object_id"][:-1] + "0"]["flux"].astype(np.float64)
        arcs = (found[row["object_id"]]["flux"] - host).sum()
        assert arcs / (arcs + (host * aperture).sum()) == pytest.approx(row["flux_ratio"], rel=1e-3)
        assert row["z_lens"] == pytest.approx(0.1 + 0.01 * int(row["object_id"][9:10]))
        assert 0.8 <= row["theta_e_arcsec"] <= 1.6


def test_claims_are_sound_and_a_family_stays_together(sharp: tuple[Path, InjectedSource]) -> None:
    claims = provenance.gather({"x": KIND.evidence("x", sharp[0])})
    assert claims.height == 9
    assert set(claims["label_source"]) == {"sim:injected"}
    assert claims.filter(pl.col("label") == "nonlens")["flux_ratio"].is_null().all()
    assert claims["parent"].to_list() == [f"obj-{k:04d}" for k in range(3) for _ in range(3)]
    original = SOURCES["cutouts"].evidence("own", sharp[0] / "hosts")
    everyone = pl.concat([claims, original]).with_columns(frame=pl.lit(""), ra=None, dec=None)  # by their names alone
    groups = everyone.with_columns(group_ids(everyone, 1.0)).group_by("group_id").agg("object_id")
    assert groups.height == 3
    assert groups["object_id"].list.len().to_list() == [4, 4, 4]


def test_a_lens_without_its_parent_would_be_found_apart(sharp: tuple[Path, InjectedSource]) -> None:
    claims = KIND.evidence("x", sharp[0]).with_columns(frame=pl.lit(""), ra=None, dec=None, parent=pl.lit(""))
    assert group_ids(claims, 1.0).n_unique() == 9


def test_truth_keeps_the_source_and_its_signal_to_noise(sharp: tuple[Path, InjectedSource]) -> None:
    truth = tables.read_json(sharp[0] / "MANIFEST.json")
    assert (truth["hosts"], truth["painted"], truth["refused"]) == (3, 3, 0)
    rows = pl.read_parquet(sharp[0] / "truth.parquet").filter(pl.col("label") == "lens")
    assert (rows["z_source"] > rows["z_lens"]).all()
    assert (rows["arc_snr"] >= 5).all()
    found = objects(read(*sharp))
    for row in rows.iter_rows(named=True):
        lens, host = found[f"x.{row['object_id']}"], found[f"x.{row['host']}-0"]
        arcs = (lens["flux"] - host["flux"]).astype(np.float64)
        assert np.sqrt((arcs**2 / host["variance"]).sum()) == pytest.approx(row["arc_snr"], rel=0.02)


def test_added_light_has_poisson_noise_and_the_variance_grows_by_it(tmp_path: Path) -> None:
    params = injected(
        cutouts(folder(tmp_path / "hosts", 1, mask=False)), electrons_per_nJy={"hsc": dict.fromkeys("gri", 4.0)}
    )
    raw = fetched(params, tmp_path / "raw")
    own = SOURCES["cutouts"]
    (unit,) = own.batches("x", raw / "hosts", params.convert)
    (batch,) = own.read("x", raw / "hosts", unit, SURVEYS, params.convert).cutouts
    known = {"obj-0000": injected_painting.Known(np.nan, np.nan)}
    seen, _ = injected_painting.look(batch, ["obj-0000"], known, SURVEYS["hsc"], params)
    drawn = injected_painting.draw_bright(seen[0], 1, params)
    added, grown = [], np.zeros(0)
    for k in range(400):
        flux, variance = np.zeros_like(batch.flux[0]), np.ones_like(batch.flux[0])
        again = dataclasses.replace(drawn, rng=np.random.default_rng(k))
        injected_painting.paint(flux, variance, batch.bad[0], seen[0], again)
        added.append(flux)
        grown = variance - 1
    arcs, noisy = drawn.arcs, np.stack(added)
    bright = arcs > 0.05 * arcs.max()
    miss = (noisy.mean(axis=0) - arcs)[bright] / np.sqrt(arcs[bright] / 4 / 400)
    assert np.abs(miss.mean()) < 5 / np.sqrt(bright.sum())
    assert miss.std() == pytest.approx(1, abs=0.15)
    np.testing.assert_allclose(grown[bright], arcs[bright] / 4, rtol=1e-4)
    assert (noisy.var(axis=0)[bright] / (arcs[bright] / 4)).mean() == pytest.approx(1, abs=0.03)


def test_bad_pixels_stay_as_they_are(tmp_path: Path) -> None:
    params = injected(cutouts(folder(tmp_path / "hosts")))
    found = objects(read(fetched(params, tmp_path / "raw"), params))
    for name in ("x.obj-0000", "x.obj-0001", "x.obj-0002"):
        twin, lens = found[f"{name}-0"], found[f"{name}-1"]
        assert twin["bad"].any()
        assert (twin["bad"] == lens["bad"]).all()
        assert lens["flux"][lens["bad"]].tobytes() == twin["flux"][lens["bad"]].tobytes()
        assert (lens["variance"] >= twin["variance"]).all()
        assert (lens["flux"] != twin["flux"])[:, 14:34, 14:34].mean() > 0.4  # elsewhere there is no arc


def test_saturated_pixels_and_unusable_variances_stay_as_they_are(sharp: tuple[Path, InjectedSource]) -> None:
    raw, params = sharp
    own = SOURCES["cutouts"]
    (unit,) = own.batches("x", raw / "hosts", params.convert)
    (batch,) = own.read("x", raw / "hosts", unit, SURVEYS, params.convert).cutouts
    assert batch.variance is not None
    bad, saturated = batch.bad.copy(), np.zeros_like(batch.bad)
    bad[:, :, 22:25, 22:25] = saturated[:, :, 22:25, 22:25] = True
    variance = batch.variance.copy()
    variance[:, :, 30, 30] = 0
    batch = dataclasses.replace(batch, bad=bad, saturated=saturated, variance=variance)
    seen, _ = injected_painting.look(
        batch, ["a", "b", "c"], {"a": injected_painting.Known(1.0, 0.4)}, SURVEYS["hsc"], params
    )
    made = injected_painting.multiplied(batch, [0, 0], ["x.a-0", "x.a-1"])
    assert made.variance is not None
    assert made.saturated is not None
    injected_painting.paint(
        made.flux[1], made.variance[1], made.bad[1], seen[0], injected_painting.draw(seen[0], 1, 0, params)
    )
    assert (made.saturated[1] == saturated[0]).all()
    assert (made.flux[1, :, 22:25, 22:25] == batch.flux[0, :, 22:25, 22:25]).all()
    assert (made.variance[1, :, 30, 30] == 0).all()


def test_the_same_seed_makes_the_same_bytes_in_any_number_of_processes(tmp_path: Path) -> None:
    hosts = cutouts(folder(tmp_path / "hosts", 5, pixels=32))
    found = [
        fetched(injected(hosts, jobs=jobs, batch_objects=size, seed=seed), tmp_path / name)
        for name, jobs, size, seed in (("a", 1, 4, 5), ("b", 2, 1, 5), ("c", 1, 4, 6))
    ]
    one, two, other = ({p.name: p.read_bytes() for p in raw.glob("*.*")} for raw in found)
    assert one == two
    assert one["truth.parquet"] != other["truth.parquet"]
    params = injected(hosts)
    stamps = [objects(read(raw, params)) for raw in found]
    assert all(same(stamps[0][name], stamps[1][name]) for name in stamps[0])
    assert not same(stamps[0]["x.obj-0000-1"], stamps[2]["x.obj-0000-1"])


def test_known_lenses_and_candidates_are_no_hosts(tmp_path: Path) -> None:
    path = folder(tmp_path / "hosts", 4, labels=("lens", "nonlens", None, None))
    table = pl.read_csv(path / "catalogue.csv").with_columns(grade=pl.Series(["", "", "B", ""]))
    table.write_csv(path / "catalogue.csv")
    params = injected(cutouts(path))
    raw = fetched(params, tmp_path / "raw")
    assert KIND.evidence("x", raw)["parent"].unique().sort().to_list() == ["obj-0001", "obj-0003"]
    assert sorted(objects(read(raw, params))) == [f"x.obj-000{k}-{m}" for k in (1, 3) for m in (0, 1)]
    assert tables.read_json(raw / "MANIFEST.json")["lenses_left_out"] == 2


def test_hosts_of_lenses_alone_are_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "hosts", 2, labels=("lens",))
    with pytest.raises(ContractError, match="hosts must hold galaxies that are no lenses, got 2 lenses or candidates"):
        fetched(injected(cutouts(path)), tmp_path / "raw")


def test_an_empty_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "hosts").mkdir()
    with pytest.raises(FileNotFoundError, match=r"hosts must hold one of catalogue.csv"):
        fetched(injected(cutouts(tmp_path / "hosts")), tmp_path / "raw")
    des = PIXELS["des_lrg"] | {"path": str(tmp_path / "hosts")}
    with pytest.raises(ContractError, match="must hold files of this kind of source, got none"):
        fetched(injected(des), tmp_path / "raw2")


def spoiled(path: Path, name: str, change: Any) -> None:
    """Change every image of an object's file."""
    with fits.open(path / f"{name}.fits", mode="update") as file:
        for hdu in file[1:]:
            if hdu.name.endswith("_SCI"):
                hdu.data = change(hdu.data.astype(np.float32))


def test_hosts_without_good_pixels_or_light_are_refused_and_counted(tmp_path: Path) -> None:
    path = folder(tmp_path / "hosts", 5)
    spoiled(path, "obj-0001", lambda image: np.full_like(image, np.nan))
    spoiled(path, "obj-0002", lambda image: -np.abs(image))
    (path / "obj-0003.fits").write_bytes(b"no FITS")
    params = injected(cutouts(path))
    raw = fetched(params, tmp_path / "raw")
    parts = read(raw, params)
    refused = dict(row for part in parts for row in part.refused)
    assert sorted(refused) == ["x.obj-0001-0", "x.obj-0002-0", "x.obj-0003-0"]
    assert refused["x.obj-0001-0"] == "band g: host must have good pixels in the aperture, got none (injected)"
    assert refused["x.obj-0002-0"].startswith("host must have light in the aperture, got -")
    assert sorted({name[:-2] for name in objects(parts)}) == ["x.obj-0000", "x.obj-0004"]
    assert KIND.evidence("x", raw).height == 4
    told = tables.read_json(raw / "MANIFEST.json")
    assert (told["hosts"], told["painted"], told["refused"]) == (5, 2, 3)


def test_a_host_with_some_nan_pixels_keeps_them(tmp_path: Path) -> None:
    path = folder(tmp_path / "hosts", 1, mask=False)

    def change(image: np.ndarray) -> np.ndarray:
        image[20:23, 20:23] = np.nan
        return image

    spoiled(path, "obj-0000", change)
    params = injected(cutouts(path))
    lens = objects(read(fetched(params, tmp_path / "raw"), params))["x.obj-0000-1"]
    assert np.isnan(lens["flux"][:, 20:23, 20:23]).all()
    assert np.isnan(lens["flux"]).sum() == 27


def test_a_psf_larger_than_the_stamp_is_an_error(tmp_path: Path) -> None:
    path = folder(tmp_path / "hosts", 2, pixels=24, psf_pixels=41)
    with pytest.raises(ContractError, match=r"got none of 2: 2 x PSF must not exceed the stamp's 24 pixels, got"):
        fetched(injected(cutouts(path)), tmp_path / "raw")


def test_images_that_the_psf_blends_are_not_drawn(tmp_path: Path) -> None:
    hosts = cutouts(folder(tmp_path / "hosts", 8))  # PSF of 4 pixels of 0.168 arcsec
    raw = fetched(injected(hosts, theta_e_arcsec=[0.1, 0.8]), tmp_path / "raw")
    theta_e = KIND.evidence("x", raw)["theta_e_arcsec"].drop_nulls()
    assert len(theta_e) == 8
    assert theta_e.is_between(0.64, 0.8).all()
    with pytest.raises(ContractError, match=r"theta_e_arcsec must reach 0.6\d* for a PSF of 0.6\d*, got 0.5"):
        fetched(injected(hosts, theta_e_arcsec=[0.1, 0.5]), tmp_path / "raw2")


def test_arcs_that_never_are_bright_enough_refuse_the_host(tmp_path: Path) -> None:
    params = injected(cutouts(folder(tmp_path / "hosts", 2)), arc_snr_min=1e9, draws=2)
    with pytest.raises(ContractError, match=r"arcs must reach a signal-to-noise of 1e\+09 .* of 2 draws"):
        fetched(params, tmp_path / "raw")


def test_a_band_without_electrons_is_an_error(tmp_path: Path) -> None:
    params = injected(cutouts(folder(tmp_path / "hosts", 1)), electrons_per_nJy={"hsc": {"g": 1.0}})
    with pytest.raises(ContractError, match="electrons_per_nJy must hold r, i of hsc, got g"):
        fetched(params, tmp_path / "raw")


def test_hosts_without_a_psf_get_the_survey_s_and_no_variance_stays_none(tmp_path: Path) -> None:
    path = folder(tmp_path / "hosts", 2, psf=False, noise=None)
    params = injected(cutouts(path))
    found = objects(read(fetched(params, tmp_path / "raw"), params))
    assert found["x.obj-0000-1"]["variance"] is None
    assert (found["x.obj-0000-1"]["flux"] != found["x.obj-0000-0"]["flux"]).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hosts": {"kind": "lenscat", "path": "x", "downloads": []}}, "hosts"),
        ({"hosts": {"kind": "injected"}}, "hosts"),
        ({"theta_e_arcsec": [2.0, 1.0]}, "least first"),
        ({"theta_e_arcsec": [-1.0, 1.0]}, "greater than 0"),
        ({"moffat_beta": 1.0}, "moffat_beta"),
        ({"electrons_per_nJy": {"hsc": {"g": 0.0}}}, "electrons_per_nJy"),
        ({"color": "blue"}, "color"),
    ],
)
def test_parameters_are_strict(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        injected(**({"hosts": cutouts(Path("x"))} | change))


@needs_real
@pytest.mark.xdist_group("real_sample")
@pytest.mark.parametrize(
    ("name", "how", "theta_e"), [("des_lrg", "light", [0.7, 3.0]), ("kids_sdss", "catalogue", [1.2, 2.5])]
)
def test_real_hosts_take_arcs(tmp_path: Path, name: str, how: str, theta_e: list[float]) -> None:
    params = injected(PIXELS[name], theta_e_from=how, theta_e_arcsec=theta_e, arc_snr_min=20.0, per_host=2)
    raw = fetched(params, tmp_path)
    parts, claims = read(raw, params), KIND.evidence("x", raw)
    assert [row for part in parts for row in part.refused] == []
    found = objects(parts)
    assert len(found) == claims.height == {"des_lrg": 15, "kids_sdss": 30}[name]
    stamps = [calibrate(c, SURVEYS[c.survey], params.convert)[0] for part in parts for c in part.cutouts]
    assert sum(s.catalogue.height for s in stamps) == len(found)
    for lens in claims.filter(pl.col("label") == "lens").iter_rows(named=True):
        added = found[lens["object_id"]]["flux"] - found[lens["object_id"][:-1] + "0"]["flux"]
        assert np.nansum(added, dtype=np.float64) > 0
    assert group_ids(claims, 1.0).n_unique() == 5  # KiDS and SDSS see the same galaxies
