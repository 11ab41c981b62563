"""Bologna challenge: files written here in the real layout, and the real sample where it lies beside the checkout."""

import gzip
import hashlib
import http.server
import io
import math
import pickle
import tarfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits

from lensml import config, schema
from lensml.schema import ContractError
from lensml.sources import SOURCES, bologna
from tests import bad_server

PARAMS = config.load(Path(__file__).parents[1] / "params.yaml")
REAL = Path(__file__).parents[1].parent / "shared" / "real" / "bologna-challenge1"
BAND_FOLDERS = {"R": 1, "I": 2, "G": 3, "U": 4}
MAGGIES_TO_NJY = 3.6307805477010e12  # 3631 Jy, the AB zero-point

needs_sample = pytest.mark.skipif(not REAL.is_dir(), reason=f"no sample of the real challenge at {REAL.name}")


def _fits(pixels: np.ndarray, scale_deg: float = 5.5556e-5, **cards: Any) -> bytes:
    header = fits.Header({"CD1_1": -scale_deg, "CD2_2": scale_deg} | cards)
    out = io.BytesIO()
    fits.PrimaryHDU(pixels.astype(">f4"), header).writeto(out)
    return out.getvalue()


def _pixels(number: int, band: str, shape: tuple[int, int] = (11, 13)) -> np.ndarray:
    seed = number * 10 + "RIGUV".index(band[0])
    return np.random.default_rng(seed).normal(0, 1e-12, shape)


def _ground(number: int, where: str = "Data.0/Public", **change: bytes) -> dict[str, bytes]:
    cards = {"RA": 1e-4 * (number - 100000), "DEC": -2e-4}
    return {
        f"{where}/Band{folder}/imageSDSS_{band}-{number}.fits": change.get(band)
        or _fits(_pixels(number, band), **cards)
        for band, folder in BAND_FOLDERS.items()
    }


def _labels(labels: dict[int, int]) -> bytes:
    lines = ["ID,is_lens,Einstein_area,numb_pix_lensed_image,flux_lensed_image_in_sigma"]
    return "\n".join(lines + [f"{n},{label},1e-10,50,100" for n, label in labels.items()]).encode()


def _tar_gz(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def _params(path: Path | None, challenge: str = "ground", **more: Any) -> config.BolognaSource:
    keys = {"kind": "bologna", "challenge": challenge, "path": path and str(path), "downloads": [], "lens_rule": None}
    return config.BolognaSource.model_validate(keys | more)


def _fetched(tmp_path: Path, params: config.BolognaSource) -> Path:
    raw = tmp_path / "raw"
    SOURCES["bologna"].fetch(params, PARAMS.surveys, raw)
    return raw


def _read(raw: Path, batch: int = 128) -> tuple[dict[str, tuple[Any, int]], dict[str, str]]:
    """object_id -> (cutouts, its index), and object_id -> reason."""
    convert = PARAMS.convert.model_copy(update={"objects_per_batch": batch})
    units = pickle.loads(pickle.dumps(bologna.batches("bg", raw, convert)))
    results = [bologna.read("bg", raw, unit, PARAMS.surveys, convert) for unit in units]
    assert all(len(unit) <= batch for unit in units)
    good = {n: (c, i) for result in results for c in result.cutouts for i, n in enumerate(c.object_id)}
    return good, {name: reason for result in results for name, reason in result.refused}


def test_the_training_archive_with_archives_inside(tmp_path: Path) -> None:
    """GroundBasedTraining.tar.gz holds Data.0.tar.gz and Data.1.tar.gz; private images have the same names."""
    one = _ground(100000) | {k.replace("Public", "Private"): b"no" for k in _ground(100000)}
    files = {
        "Data.0.tar.gz": _tar_gz(one | {"Data.0/Private/Band1/NoLensImage/imageSDSS_R-100000.fits": b"no"}),
        "Data.1.tar.gz": _tar_gz(_ground(100001, "Data.1/Public")),
        "classifications.csv": _labels({100000: 1, 100001: 0}),
    }
    (tmp_path / "t.tar.gz").write_bytes(_tar_gz(files))
    raw = _fetched(tmp_path, _params(tmp_path / "t.tar.gz"))
    table = bologna.evidence("bg", raw)
    assert table["label"].to_list() == ["lens", "nonlens"]
    good, refused = _read(raw)
    assert (list(good), refused) == (["bg.100000", "bg.100001"], {})
    cutouts, _ = good["bg.100001"]
    assert (cutouts.survey, cutouts.bands) == ("bologna_ground", ("u", "g", "r", "i"))
    expected = [_pixels(100001, band).astype("f4") * MAGGIES_TO_NJY for band in "UGRI"]
    np.testing.assert_allclose(cutouts.flux[1], expected, rtol=1e-3)  # 31.4 is rounded: 3631 Jy is 8.9 + 22.5
    np.testing.assert_allclose(cutouts.pixel_scale, 0.2, rtol=1e-4)
    assert cutouts.variance is None
    assert cutouts.psf is None


def test_evidence_keeps_the_contract_and_positions_in_degrees(tmp_path: Path) -> None:
    raw = _fetched(tmp_path, _params(_folder(tmp_path / "in", _ground(100003) | {"classifications.csv": _labels({})})))
    row = schema.check(bologna.evidence("bg", raw), schema.EVIDENCE, "").row(0, named=True)
    assert (row["label"], row["label_confidence"], row["frame"]) == ("unknown", 0.0, "bologna")
    assert row["ra"] == pytest.approx(3e-4 * 180 / math.pi)
    assert row["dec"] == pytest.approx(-2e-4 * 180 / math.pi)
    assert (row["flux_ratio"], row["label_source"], row["survey"]) == (None, "sim:bologna", "bologna_ground")


def test_positions_never_reach_the_catalogue(tmp_path: Path) -> None:
    good, _ = _read(_fetched(tmp_path, _params(_folder(tmp_path / "in", _ground(100003)))))
    assert good["bg.100003"][0].metadata.columns == ["object_id"]


def test_the_truth_of_the_test_set_is_no_source(tmp_path: Path) -> None:
    files = _ground(100001, "Data_KiDS_Big.3/Public") | _ground(100002, "Data_KiDS_Big.4/Public")
    files["ground_catalog.4.csv"] = b"# 1 ID\n# 2 no_source\nID,no_source,x\n100001,0,1\n100002,1,1\n"
    files["space_catalog.4.csv"] = b"ID,no_source\n100001,1\n100002,0\n"
    table = bologna.evidence("bg", _fetched(tmp_path, _params(_folder(tmp_path / "in", files))))
    assert dict(table.select("object_id", "label").iter_rows()) == {"bg.100001": "lens", "bg.100002": "nonlens"}


def test_masked_pixels_are_bad_and_nothing_else_is(tmp_path: Path) -> None:
    pixels = _pixels(100001, "R").astype("f4")
    pixels[2, 3], pixels[4, 5], pixels[6, 7] = 100, np.nan, 99.99999
    good, _ = _read(_fetched(tmp_path, _params(_folder(tmp_path / "in", _ground(100001, R=_fits(pixels))))))
    cutouts, _ = good["bg.100001"]
    assert np.argwhere(cutouts.bad).tolist() == [[0, 2, 2, 3], [0, 2, 4, 5]]
    assert (cutouts.flux[cutouts.bad] == 0).all()


def test_an_object_with_fewer_bands_is_read_with_those(tmp_path: Path) -> None:
    files = {k: v for k, v in _ground(100001).items() if "SDSS_I" not in k} | _ground(100002)
    good, _ = _read(_fetched(tmp_path, _params(_folder(tmp_path / "in", files))))
    assert good["bg.100001"][0].bands == ("u", "g", "r")
    assert good["bg.100002"][0].bands == ("u", "g", "r", "i")


def test_what_cannot_be_used_is_refused_with_its_reason(tmp_path: Path) -> None:
    whole = _fits(_pixels(1, "R"))
    huge = whole.replace(b"NAXIS1  =                   13", b"NAXIS1  =             99999999")
    bad = {
        100001: ("byte-identical", {"U": _fits(_pixels(100001, "R"))}),
        100002: ("truncated", {"G": whole[:3000]}),
        100003: ("plain FITS", {"G": b"<html>not found</html>"}),
        100004: ("two axes", {"G": _fits(np.ones((2, 11, 13)))}),
        100005: ("truncated", {"G": huge}),
        100006: ("one shape", {"G": _fits(_pixels(1, "G", (5, 5)))}),
        100007: ("END card", {"G": whole[:400]}),
    }
    files = {name: c for n, (_, change) in bad.items() for name, c in _ground(n, **change).items()} | _ground(100020)
    files["classifications.csv"] = _labels({100010: 1})
    good, refused = _read(_fetched(tmp_path, _params(_folder(tmp_path / "in", files))), batch=3)
    assert list(good) == ["bg.100020"]
    assert refused.pop("bg.100010") == "a label but no image"
    assert refused.keys() == {f"bg.{n}" for n in bad}
    for number, (words, _) in bad.items():
        assert words in refused[f"bg.{number}"]


def test_a_label_without_image_is_in_the_evidence_too(tmp_path: Path) -> None:
    files = _ground(100001) | {"classifications.csv": _labels({100001: 0, 100002: 1})}
    table = bologna.evidence("bg", _fetched(tmp_path, _params(_folder(tmp_path / "in", files))))
    assert table.select("object_id", "label", "frame", "ra").rows()[1] == ("bg.100002", "lens", "", None)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"classifications.csv": b"ID,nonsense\n1,2\n"}, "columns ID and is_lens"),
        ({"classifications.csv": b"ID,is_lens\n100001,maybe\n"}, "whole numbers"),
        ({"classifications.csv": b""}, "CSV table"),
        ({"classifications.csv": _labels({100001: 1}), "b/classifications.csv": _labels({100001: 0})}, "one thing"),
        ({"lens/imageSDSS_R-100001.fits": b"x"}, "one image per band"),
    ],
)
def test_claims_that_make_no_sense_are_refused(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    raw = _fetched(tmp_path, _params(_folder(tmp_path / "in", _ground(100001) | files)))
    with pytest.raises(ContractError, match=words):
        bologna.evidence("bg", raw)


def test_fetch_is_byte_stable_and_names_no_machine(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "in", _ground(100001) | {"classifications.csv": _labels({100001: 1})})
    for out in ("1", "2"):
        bologna.fetch(_params(folder), PARAMS.surveys, tmp_path / out)
    for file in ("files-00000.tar", "index.parquet", "MANIFEST.json"):
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()
    assert str(tmp_path) not in (tmp_path / "1" / "MANIFEST.json").read_text()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"path": "nowhere"}, FileNotFoundError, "nowhere must be"),
        ({"challenge": "space"}, ContractError, "files of this kind of source"),
    ],
)
def test_fetch_refuses_in_words(tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str) -> None:
    folder = _folder(tmp_path / "in", _ground(100001))
    params = _params(folder).model_copy(update=change)
    with pytest.raises(error, match=words):
        bologna.fetch(params, PARAMS.surveys, tmp_path / "raw")


def test_a_survey_without_constants_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"surveys\.bologna_ground must be"):
        bologna.fetch(_params(_folder(tmp_path / "in", _ground(100001))), {}, tmp_path / "raw")


def test_download_from_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = _tar_gz({"Data.0.tar.gz": gzip.compress(gzip.decompress(_tar_gz(_ground(100001))), mtime=0)})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/t.tar.gz" else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words: object) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        sha256 = hashlib.sha256(content).hexdigest()
        download = {"mirrors": [f"{address}/dead.tar.gz", f"{address}/t.tar.gz"], "sha256": sha256}
        params = _params(None, downloads=[download])
        raw = _fetched(tmp_path, params)
        server.shutdown()
        thread.join()
    assert bologna.evidence("bg", raw)["object_id"].to_list() == ["bg.100001"]
    assert sha256 in (raw / "MANIFEST.json").read_text()
    assert list((tmp_path / "data/resume/download").iterdir()) == []


RULE = {"n_source_im_min": 0, "mag_eff_min": 1.6, "n_pix_source_min": 20}


def _two(number: int) -> dict[str, bytes]:
    """VIS 60 x 60 at 0.1 arcsec, NISP 20 x 20 at 0.3: one blob of the same flux in all, at the stamp's centre."""
    files = {}
    for band, side, scale in (("VIS", 60, 0.1), ("Y", 20, 0.3), ("J", 20, 0.3), ("H", 20, 0.3)):
        y, x = (np.indices((side, side)) - (side - 1) / 2) * scale
        blob = np.exp(-(x**2 + y**2) / 2 / 0.6**2)
        noise = np.random.default_rng([number, ord(band[0])]).normal(0, 1e-5, blob.shape) * blob.max()
        card = {"RA": 1e-4 * (number - 200000), "DEC": 0.0}
        files[f"Public/EUC_{band}/imageEUC_{band}-{number}.fits"] = _fits(
            1e-9 * (blob / blob.sum() + noise), scale / 3600, **card
        )
    return files


def _truth_of_two(rows: dict[int, tuple[int, float, int]], header: bool) -> bytes:
    """28 lines of comments, then 27 columns; some copies name them."""
    names = [str(k) for k in range(27)]
    places = {1: "ID", 12: "n_pix_source", 16: "n_source_im", 17: "mag_eff"}
    for place, name in places.items():
        names[place] = name
    lines = [f"# {k}" for k in range(28)] + ([",".join(["", *names[1:]])] if header else [])
    for index, (number, (images, magnification, pixels)) in enumerate(rows.items()):
        values = ["0"] * 27
        values[0], values[1], values[12] = str(index), str(number), str(pixels)
        values[16], values[17] = str(images), str(magnification)
        lines.append(",".join(values))
    return "\n".join(lines).encode()


@pytest.mark.parametrize("header", [True, False])
def test_the_second_challenge_s_label_is_a_rule_and_not_a_column(tmp_path: Path, header: bool) -> None:
    truth = {
        200001: (1, 1.7, 21),
        200002: (1, 1.6, 21),
        200003: (0, 3.0, 99),
        200004: (2, 2.0, 20),
        200005: (4, 9.0, 99),
    }
    files = _two(200001) | _two(200005) | {"image_catalog2.0train.csv": _truth_of_two(truth, header)}
    folder = _folder(tmp_path / "in", files)
    table = bologna.evidence("b2", _fetched(tmp_path, _params(folder, "two", lens_rule=RULE)))
    assert table.filter(pl.col("label") == "lens")["object_id"].to_list() == ["b2.200001", "b2.200005"]
    assert set(table["label"]) == {"lens", "nonlens"}
    assert set(table["frame"]) == {"bologna_two", ""}
    looser = _params(folder, "two", lens_rule=RULE | {"mag_eff_min": 1.5})
    bologna.fetch(looser, PARAMS.surveys, tmp_path / "2")
    assert (bologna.evidence("b2", tmp_path / "2")["label"] == "lens").sum() == 3


def test_the_infrared_of_the_second_challenge_is_resampled_to_the_visible_and_keeps_flux_and_place(
    tmp_path: Path,
) -> None:
    truth = _truth_of_two({200001: (1, 2.0, 99), 200009: (1, 2.0, 99)}, True)
    files = _two(200001) | {"image_catalog2.0train.csv": truth}
    good, refused = _read(_fetched(tmp_path, _params(_folder(tmp_path / "in", files), "two", lens_rule=RULE)))
    assert refused == {"bg.200009": "a label but no image"}
    cutouts, row = good["bg.200001"]
    assert cutouts.bands == ("VIS", "NIR_Y", "NIR_J", "NIR_H")
    assert cutouts.flux.shape == (1, 4, 60, 60)
    flux = np.where(cutouts.bad[row], 0, cutouts.flux[row]).astype(np.float64)
    np.testing.assert_allclose(flux.sum(axis=(1, 2)), 1e-9 * MAGGIES_TO_NJY, rtol=2e-3)
    y, x = np.indices((60, 60)) - 29.5
    for band in flux:
        assert abs((band * y).sum() / band.sum()) < 0.1
        assert abs((band * x).sum() / band.sum()) < 0.1


def test_the_second_challenge_from_a_bad_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pack and its corrected truth table are two downloads; every mirror but the last fails in its own way."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    numbers = range(200001, 200013)
    pack = _tar_gz({name: content for number in numbers for name, content in _two(number).items()})
    truth = _truth_of_two({number: (number % 2, 2.0, 99) for number in numbers}, True)
    files = {"datapack2.0train.tar.gz": pack, "image_catalog2.0train_v2.csv": truth}
    with bad_server.serve(files) as server:
        downloads = [{"mirrors": server.mirrors(name), "sha256": server.sha256(name)} for name in files]
        params = _params(None, "two", downloads=downloads, lens_rule=RULE)
        raw = _fetched(tmp_path, params)
        wrong = _params(None, "two", downloads=[downloads[0] | {"sha256": "0" * 64}], lens_rule=RULE)
        with pytest.raises(ConnectionError, match="must come whole"):
            bologna.fetch(wrong, PARAMS.surveys, tmp_path / "not")
    assert bologna.evidence("b2", raw)["label"].to_list() == ["lens", "nonlens"] * 6
    good, refused = _read(raw)
    assert (len(good), refused) == (12, {})
    assert not (tmp_path / "not" / "MANIFEST.json").exists()


def test_the_rule_is_stated_for_the_second_challenge_only(tmp_path: Path) -> None:
    for challenge, rule in (("two", None), ("ground", RULE)):
        with pytest.raises(ValueError, match="lens_rule must be stated"):
            _params(tmp_path, challenge, lens_rule=rule)


@needs_sample
@pytest.mark.parametrize(("challenge", "objects", "lenses"), [("ground", 12, 6), ("space", 16, 8)])
def test_the_real_sample(tmp_path: Path, challenge: str, objects: int, lenses: int) -> None:
    raw = _fetched(tmp_path, _params(REAL, challenge))
    table = bologna.evidence("bg", raw)
    assert (table.height, (table["label"] == "lens").sum()) == (objects, lenses)
    good, refused = _read(raw)
    assert len(good) + len(refused) == objects
    assert refused == ({"bg.100013": "bands u and r are byte-identical"} if challenge == "ground" else {})
    (cutouts,) = {id(c): c for c, _ in good.values()}.values()
    sky = 1.4826 * np.median(np.abs(cutouts.flux - np.median(cutouts.flux, (0, 2, 3), keepdims=True)), (0, 2, 3))
    maggies = {"ground": [2.0e-12, 1.3e-12, 1.6e-12, 3.3e-12], "space": [8e-13]}[challenge]  # measured elsewhere
    np.testing.assert_allclose(sky, np.array(maggies) * MAGGIES_TO_NJY, rtol=0.35)
    assert sorted(cutouts.bad.sum((2, 3)).ravel())[-3:] == ([15, 49, 212] if challenge == "ground" else [0, 0, 0])


@needs_sample
def test_one_sight_line_has_one_position(tmp_path: Path) -> None:
    table = bologna.evidence("bg", _fetched(tmp_path, _params(REAL)))
    same = table.filter(pl.col("object_id").is_in([f"bg.{n}" for n in (100014, 100019, 100008, 100013)]))
    places = SkyCoord(same["ra"].to_numpy(), same["dec"].to_numpy(), unit="deg")
    assert same["label"].to_list() == ["nonlens", "nonlens", "lens", "lens"]
    assert max(places[0].separation(places[1:]).arcsec) < 0.04
