"""The stages fetch and convert as a user runs them, on a `cutouts` folder."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from cutouts_folder import write_cutouts
from ruamel.yaml import YAML

import stages
from lensml.imaging.cutouts import calibrate
from lensml.sources import SOURCES
from lensml.store import stamps as store
from stages.convert import convert
from stages.fetch import fetch

SIGMAS = {"g": 10.0, "r": 20.0, "i": 30.0}  # of write_cutouts, nJy


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with this project's params.yaml and one `cutouts` source of 20 objects, already fetched."""
    text = Path("params.yaml").read_text(encoding="utf-8")
    truth = write_cutouts(tmp_path / "in", 20)
    monkeypatch.chdir(tmp_path)
    write_params(text, jobs=1)
    stages.run(fetch, {"source": "mine"})
    return text, truth


def write_params(text, **convert_values):
    params = YAML(typ="safe").load(text)
    params["sources"] = {"mine": {"kind": "cutouts", "path": "in", "files_per_archive": 512}}
    params["convert"] |= {"objects_per_batch": 3, "objects_per_stack": 8} | convert_values
    writer = YAML(typ="safe")
    writer.sort_base_mapping_type_on_output = False  # the bands' order is the survey's
    with Path("params.yaml").open("w", encoding="utf-8") as file:
        writer.dump(params, file)


def digest(folder):
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def report():
    return json.loads(Path("metrics/convert/mine.json").read_text())


def test_round_trip_through_the_stacks(project):
    _, truth = project
    stages.run(convert, {"source": "mine"})
    seen = []
    for batch in store.iterate(Path("data/stamps/mine"), 5):
        for row, name in enumerate(batch.catalogue["object_id"]):
            native = name.removeprefix("mine.")
            bad, sigma = truth.bad[native], np.array([*SIGMAS.values()])[:, None, None]
            error = np.abs(batch.flux[row] - truth.flux[native])[~bad]
            limit = np.maximum(np.broadcast_to(sigma, bad.shape) / 16, 1e-3 * np.abs(truth.flux[native]))
            assert (error <= limit[~bad]).all()
            assert np.allclose(batch.variance[row][~bad], truth.variance[native][~bad], rtol=1e-3)
            assert np.array_equal(np.isinf(batch.variance[row]), bad)
            seen.append(native)
    assert seen == sorted(truth.flux)


def test_report_tells_noise_and_code_errors(project):
    stages.run(convert, {"source": "mine"})
    found = report()
    assert (found["objects"], found["converted"], found["refused"]) == (20, 20, [])
    for band, sigma in SIGMAS.items():
        entry = found["bands"]["hsc"][band]
        assert entry["objects"] == 20
        assert entry["sky_sigma_nJy_median"] == pytest.approx(sigma, rel=0.05)
        assert entry["sky_sigma_over_plane_median"] == pytest.approx(1, abs=0.05)
        assert 1e-4 < entry["code_error_faint_sky_sigma_max"] < 1 / 16
        assert 1e-4 < entry["code_error_bright_relative_max"] < 1e-3


def test_same_bytes_whatever_the_number_of_processes(project):
    text, _ = project
    stages.run(convert, {"source": "mine"})
    one = digest("data/stamps"), report()
    write_params(text, jobs=2)
    stages.run(convert, {"source": "mine"})
    assert (digest("data/stamps"), report()) == one
    assert len(list(Path("data/stamps/mine").glob("hsc-*"))) == 3  # 20 objects in stacks of 8


def test_refused_objects_are_listed_with_their_reason(project):
    Path("in/obj-0004.fits").write_bytes(b"")
    stages.run(fetch, {"source": "mine"})
    stages.run(convert, {"source": "mine"})
    assert report()["converted"] == 19
    (entry,) = report()["refused"]
    assert entry["object_id"] == "mine.obj-0004"
    assert "without the card SIMPLE" in entry["reason"]


def test_too_many_refused_fails_and_leaves_nothing(project):
    for number in (1, 2, 3):
        Path(f"in/obj-000{number}.fits").unlink()
    stages.run(fetch, {"source": "mine"})
    with pytest.raises(ValueError, match=r"refused objects of mine must be at most 10% .* got 3 of 20: .*no such file"):
        stages.run(convert, {"source": "mine"})
    assert not Path("data/stamps/mine").exists()
    assert not Path("metrics/convert/mine.json").exists()


def test_one_batch_of_the_stage_is_read_plus_calibrate(project):
    """The stage adds nothing to the pixels: same numbers as the two functions called by hand."""
    stages.run(convert, {"source": "mine"})
    params = stages.config.load(Path("params.yaml"))
    kind, raw = SOURCES["cutouts"], Path("data/raw/mine")
    unit = kind.batches("mine", raw, params.convert)[0]
    (cutouts,) = kind.read("mine", raw, unit, params.surveys, params.convert).cutouts
    expected, _ = calibrate(cutouts, params.surveys["hsc"], params.convert)
    first = next(store.iterate(Path("data/stamps/mine"), 3))
    assert first.catalogue.drop("stack", "row").equals(expected.catalogue)
