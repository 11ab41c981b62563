"""The simulated source: stable bytes, units, claims, and nothing in its metadata that tells a lens."""

import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import polars as pl
import pytest

from lensml import config, schema
from lensml.schema import ContractError
from lensml.sources import SOURCES, simulated
from lensml.sources.simulated_objects import Counts, simulate

PARAMS = config.load(Path(__file__).parents[1] / "params.yaml")
SOURCE = PARAMS.sources["simulated"]
TINY = SOURCE.model_copy(
    update={
        "lenses": 9, "hard_negatives": 7, "unlabelled": 5, "jobs": 1, "batch_objects": 4,
        "surveys": {name: SOURCE.surveys[name] for name in ("hsc", "euclid")},
    }
)  # fmt: skip
METADATA = ("z_phot", "half_light_radius", "axis_ratio", "sersic_index")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("raw") / "simulated"
    SOURCES["simulated"].fetch(TINY, PARAMS.surveys, out)
    return out


def _read(raw: Path, objects_per_batch: int = 3) -> list[simulated.Cutouts]:
    convert = PARAMS.convert.model_copy(update={"objects_per_batch": objects_per_batch})
    units = simulated.batches("sim", raw, convert)
    return [c for u in units for c in simulated.read("sim", raw, u, PARAMS.surveys, convert).cutouts]


def test_bytes_do_not_depend_on_the_number_of_jobs(raw: Path, tmp_path: Path) -> None:
    with joblib.parallel_config(backend="threading"):  # processes would each load torch, for seconds
        simulated.fetch(TINY.model_copy(update={"jobs": 2}), PARAMS.surveys, tmp_path)
    names = sorted(p.name for p in raw.iterdir())
    arrays = [f"{survey}-{key}.npy" for survey in ("euclid", "hsc") for key in ("bad", "counts", "psf", "variance")]
    assert names == ["MANIFEST.json", *arrays, "truth.parquet"]
    assert all((raw / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


def test_another_seed_gives_other_pixels_and_seed_zero_is_a_seed() -> None:
    unit, counts = simulated.Unit("euclid", 0, 2), Counts(2, 0, 0, 0)
    found = []
    for seed in (SOURCE.seed, 0, 0):
        arrays, _ = simulate(unit, counts, TINY.model_copy(update={"seed": seed}), PARAMS.surveys["euclid"])
        found.append(arrays["counts"])
    assert not np.array_equal(found[0], found[1])
    assert np.array_equal(found[1], found[2])


def test_evidence_is_one_claim_per_object_and_each_lens_shares_its_parent_with_its_twin(raw: Path) -> None:
    table = schema.check(simulated.evidence("sim", raw), schema.EVIDENCE, "evidence")
    assert table["object_id"].n_unique() == table.height == 30
    assert dict(table.group_by("label").len().rows()) == {"lens": 9, "nonlens": 16, "unknown": 5}
    assert dict(table.select("label", "label_source").unique().rows())["unknown"] == "pretrain:lensml"
    lenses, twins = (table.filter(pl.col("kind") == kind) for kind in ("lens", "twin"))
    assert lenses["parent"].n_unique() == 9
    assert sorted(lenses["parent"]) == sorted(twins["parent"])
    others = table.filter(~pl.col("kind").is_in(["lens", "twin"]))
    assert not set(others["parent"]) & set(lenses["parent"])
    assert lenses.select("flux_ratio", "theta_e_arcsec").null_count().sum_horizontal().item() == 0
    assert table.filter(pl.col("label") != "lens").select(pl.col("theta_e_arcsec").count()).item() == 0


def test_a_twin_is_its_lens_without_the_arc() -> None:
    """Their difference is noise but for the arc: its total is the truth's flux ratio of the lens's light."""
    lenses, counts = 12, Counts(12, 12, 0, 0)
    units = simulated.Unit("euclid", 0, lenses), simulated.Unit("euclid", lenses, 2 * lenses)
    (lens, truth), (twin, _) = (simulate(unit, counts, TINY, PARAMS.surveys["euclid"]) for unit in units)
    good = (lens["bad"] + twin["bad"]) == 0
    arc = ((lens["counts"] - twin["counts"]) * good).sum(axis=(1, 2, 3))
    host = 10 ** (-0.4 * (truth["host_magnitude"].to_numpy() - PARAMS.surveys["euclid"].zero_point))
    ratio = truth["flux_ratio"].to_numpy()
    shares = (arc / (host * ratio / (1 - ratio)))[ratio > 0.05]
    assert len(shares) > 4
    assert np.median(shares) == pytest.approx(1.0, abs=0.3)  # VIS is not quite 750 nm; noise, the sky's residue


def test_batches_cover_every_object_once_whatever_their_size(raw: Path) -> None:
    claimed = simulated.evidence("sim", raw)["object_id"].to_list()
    for size in (1, 3, 100):
        found = _read(raw, size)
        assert [i for c in found for i in c.object_id] == claimed
        assert max(len(c.object_id) for c in found) <= size


def test_pixels_are_counts_at_the_zero_point_and_the_noise_is_true(raw: Path) -> None:
    cutouts = _read(raw, 100)
    njy = np.load(raw / "euclid-counts.npy") * 10 ** (0.4 * (31.4 - PARAMS.surveys["euclid"].zero_point))
    (euclid,) = [c for c in cutouts if c.survey == "euclid"]
    np.testing.assert_allclose(euclid.flux, njy, rtol=1e-5)
    assert euclid.variance is not None
    corner = (slice(None), 0, slice(0, 12), slice(0, 12))
    step = np.diff(euclid.flux[corner]) / np.sqrt(2 * euclid.variance[corner][..., 1:])
    assert np.median(np.abs(step)) == pytest.approx(0.6745, abs=0.06)
    assert euclid.bands == ("VIS",)


def test_psfs_have_their_band_and_stay_below_the_target(raw: Path) -> None:
    for cutouts in _read(raw, 100):
        assert cutouts.psf is not None
        side = cutouts.psf.shape[-1]
        assert side % 2 == 1
        assert side <= PARAMS.convert.psf_pixels_max
        np.testing.assert_allclose(cutouts.psf.sum(axis=(2, 3)), 1, atol=1e-3)
        assert (cutouts.psf.reshape(*cutouts.psf.shape[:2], -1).argmax(axis=-1) == side**2 // 2).all()


def test_bad_pixels_are_flagged(raw: Path) -> None:
    big = [np.abs(c.flux / np.sqrt(c.variance))[c.bad] for c in _read(raw, 100)]
    assert sum(map(len, big)) > 0


def test_metadata_tells_no_lens_from_its_twin(raw: Path) -> None:
    table = pl.concat([c.metadata for c in _read(raw, 100)]).join(simulated.evidence("sim", raw), on="object_id")
    assert table.filter(pl.col("label") != "unknown")["z_spec"].unique().to_list() == [schema.MISSING_REDSHIFT]
    assert table.filter(pl.col("label") == "unknown")["z_spec"].min() > 0
    pairs = table.filter(pl.col("kind").is_in(["lens", "twin"]))
    for name in METADATA:
        assert pairs.group_by("parent").agg(pl.col(name).n_unique())[name].max() == 1


def test_a_share_of_objects_is_in_no_catalogue(tmp_path: Path) -> None:
    none = TINY.model_copy(update={"catalogue_missing": 1.0, "unlabelled": 2})
    simulated.fetch(none, PARAMS.surveys, tmp_path / "raw")
    table = pl.read_parquet(tmp_path / "raw" / "truth.parquet")
    labelled, known = table.filter(pl.col("label") != "unknown"), table.filter(pl.col("label") == "unknown")
    assert labelled.select("half_light_radius", "axis_ratio", "sersic_index").null_count().row(0) == (25, 25, 25)
    assert set(labelled["z_phot"]) == {schema.MISSING_REDSHIFT}
    assert known["half_light_radius"].null_count() == 0


def test_the_manifest_names_every_file_and_no_date(raw: Path) -> None:
    text = (raw / "MANIFEST.json").read_text()
    assert all(name in text for name in ("hsc-psf.npy", "euclid-counts.npy", "truth.parquet"))
    assert str(raw) not in text
    assert "date" not in text


@pytest.mark.parametrize(
    ("own", "message"),
    [({"moon": SOURCE.surveys["hsc"]}, "surveys must hold moon"),
     ({"hsc": SOURCE.surveys["euclid"]}, r"surveys\.hsc\.bands must hold VIS")],
)  # fmt: skip
def test_an_unknown_survey_or_band_is_refused_before_anything_is_written(tmp_path: Path, own, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        simulated.fetch(TINY.model_copy(update={"surveys": own}), PARAMS.surveys, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_objects_are_shared_out_and_placed() -> None:
    counts = Counts(2, 2, 1, 1)
    places = [counts.place(i) for i in range(6)]
    assert places == [("lens", 0), ("lens", 1), ("twin", 0), ("twin", 1), ("negative", 2), ("unlabelled", 3)]


def test_reading_needs_no_torch() -> None:
    code = "import sys, lensml.sources; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
