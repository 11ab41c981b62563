"""RELICS cluster fields: the catalogue with its repeated columns, galaxies cut out, known multiple images kept out."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from lensml import config, paths, schema
from lensml.ingest import bring
from lensml.schema import ContractError
from lensml.sources import SOURCES, relics
from tests import bad_server
from tests.planted import PARAMS, header, opened, place, read, star

SHAPE = (240, 260)
SCALE = 0.06
STAMP = 31
RELICS = SOURCES["relics"]
CLUSTER = "rxc0949p17"
START = f"hlsp_relics_hst_acs-60mas_{CLUSTER}"
PHOTOMETRY = {"PHOTFLAM": 7.0332e-20, "PHOTPLAM": 8045.0}
NAMES = ("id", "RA", "Dec", "x", "y", "fwhm", "area", "stel", "ell")
BANDS = ("f435w", "f606w", "f814w", "f105w", "f125w", "f140w", "f160w")
PER_BAND = ("mag", "magerr", "flux", "fluxerr", "fluxnJy", "fluxnJyerr", "sig")
REDSHIFTS = ("zb", "zbmin", "zbmax", "tb", "odds", "chisq", "chisq2", "M0", "zml", "tml")
GALAXIES = {1: (60, 50, 20.0), 2: (150, 120, 21.5), 3: (152, 180, 22.5), 4: (200, 200, 25.5), 5: (3, 2, 21.0)}
ARC = (158, 186)  # the multiple image, 8.5 pixels or 0.51 arcsec from galaxy 3


def columns(repeats: int = 2) -> list[str]:
    """The names of a catalogue, those of F160W again and again."""
    bands = [*BANDS, *["f160w"] * repeats]
    return [*NAMES, *(f"{band}_{name}" for band in bands for name in PER_BAND), *REDSHIFTS]


def row(number: int, head: fits.Header, *, later: float = 1.0) -> list[float]:
    """A galaxy's line; what F160W holds again is `later` times the first."""
    x, y, magnitude = GALAXIES[number]
    flux = 10 ** (0.4 * (31.4 - magnitude))
    photometry: list[float] = []
    for factor in (*(1.0 for _ in BANDS), later, later):
        photometry += [magnitude, 0.01, flux / 10, 1.0, flux * factor, flux / 50, 50.0]
    return [
        number,
        *place(head, x, y),
        x + 1,
        y + 1,
        5,
        80,
        0.03,
        0.2,
        *photometry,
        0.4,
        0.3,
        0.6,
        4,
        0.9,
        1,
        1,
        20,
        0.4,
        4,
    ]


def catalogue(rows: Sequence[Sequence[float]], names: Sequence[str] | None = None) -> bytes:
    """As published: a long header, whose last line names the columns."""
    names = columns() if names is None else names
    prose = [f"# {number} {name}" for number, name in enumerate(names, 1)]
    lines = ["# RELICS photometric catalogue", "#", *prose, "#", "# " + "  ".join(names)]
    return "\n".join([*lines, *("  ".join(f"{value:.9g}" for value in values) for values in rows), ""]).encode()


def arcs(head: fits.Header, at: tuple[float, float] = ARC) -> bytes:
    ra, dec = place(head, *at)
    return f"#REFERENCE 0\n1.1 {ra:.9f} {dec:.9f} 0.2 0.1 0 2.5 24.0\n".encode()


def image(head: fits.Header) -> bytes:
    light = sum(star(SHAPE, x, y, 10 ** (0.4 * (25.95 - m)), 5.0) for x, y, m in GALAXIES.values())
    out = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(np.asarray(light, np.float32), head)]).writeto(out)
    return out.getvalue()


def field(head: fits.Header) -> dict[str, bytes]:
    """A cluster's files but for its list."""
    head = head.copy()
    head.update(PHOTOMETRY)
    out = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(np.full(SHAPE, 1e4, np.float32))]).writeto(out)
    return {
        f"{START}_f814w_v1_drz.fits": image(head),
        f"{START}_f814w_v1_wht.fits": out.getvalue(),
        f"hlsp_relics_hst_acs-wfc3ir_{CLUSTER}_multi_v1_cat.txt": catalogue([row(n, head) for n in GALAXIES]),
    }


def params(**given: Any) -> config.RelicsSource:
    plain = {"path": None, "downloads": [], "survey": "hst", "magnitude": [19, 24], "magnitude_band": "F814W"}
    plain |= {"stamp_arcsec": STAMP * SCALE, "arc_mask_arcsec": 0.31, "label_confidence": 0.6, "kind": "relics"}
    return config.RelicsSource.model_validate(plain | given)


def written(tmp_path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    return tmp_path / "in"


def claims(raw: Path) -> dict[str, tuple[str, str, float]]:
    table = RELICS.evidence("s", raw)
    schema.check(table, schema.EVIDENCE, "test")
    rows = table.select("object_id", "label", "grade", "label_confidence").rows()
    return {name.removeprefix("s."): tuple(rest) for name, *rest in rows}


@pytest.mark.parametrize("mirrored", [False, True])
def test_galaxies_of_a_cluster(tmp_path: Path, mirrored: bool) -> None:
    head = header(SHAPE, SCALE, mirrored=mirrored)
    folder = written(tmp_path, field(head) | {f"models/{CLUSTER}_arcs.dat": arcs(head)})
    found, refused = opened(RELICS, params(path=str(folder), arc_mask_arcsec=0.61), tmp_path / "raw")
    assert refused == {}
    assert claims(tmp_path / "raw") == {
        f"{CLUSTER}-1": ("nonlens", "", 0.6),
        f"{CLUSTER}-2": ("nonlens", "", 0.6),
        f"{CLUSTER}-3": ("unknown", relics.IMAGE_GRADE, 0.0),
        f"{CLUSTER}-5": ("nonlens", "", 0.6),
    }  # the fourth is too faint
    for number, (_, _, magnitude) in list(GALAXIES.items())[:3]:
        stamp = found[f"{CLUSTER}-{number}"]
        assert np.unravel_index(stamp.flux[0].argmax(), (STAMP, STAMP)) == (15, 15)
        assert number == 3 or stamp.magnitude("F814W") == pytest.approx(magnitude, abs=0.02)  # 3 is masked
        assert (stamp.metadata["z_phot"], stamp.metadata["z_err"]) == pytest.approx((0.4, 0.3 / 3.92))
        assert stamp.north_deg == pytest.approx(-30)
    assert np.array_equal(found[f"{CLUSTER}-5"].bad[0], edge(mirrored))


def edge(mirrored: bool) -> np.ndarray:
    bad = np.add.outer(np.arange(STAMP) < 13, np.arange(STAMP) < 12)
    return bad[:, ::-1] if mirrored else bad


def test_pixels_near_a_known_image_are_bad(tmp_path: Path) -> None:
    head = header(SHAPE, SCALE)
    folder = written(tmp_path, field(head) | {"arcs.dat": arcs(head)})
    found, _ = opened(RELICS, params(path=str(folder)), tmp_path / "raw")
    y, x = np.mgrid[:STAMP, :STAMP]
    expected = np.hypot(x - (15 + 6), y - (15 + 6)) * SCALE <= 0.31
    assert np.array_equal(found[f"{CLUSTER}-3"].bad[0], expected)
    assert claims(tmp_path / "raw")[f"{CLUSTER}-3"] == ("nonlens", "", 0.6)  # 0.51 arcsec away
    assert not found[f"{CLUSTER}-1"].bad.any()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_without_a_list_no_galaxy_is_a_negative(
    tmp_path: Path, elsewhere: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    head = header(SHAPE, SCALE)
    other = {"a2744_arcs.dat": arcs(header(SHAPE, SCALE, at=(3.58, -30.4)))} if elsewhere else {}
    folder = written(tmp_path, field(head) | other)
    _, refused = opened(RELICS, params(path=str(folder)), tmp_path / "raw")
    assert refused == {}
    assert set(claims(tmp_path / "raw").values()) == {("unknown", relics.NO_LIST_GRADE, 0.0)}
    told = bring.facts(tmp_path / "raw")["clusters"]
    assert told == {CLUSTER: "0 non-lenses, 4 unknown (no list of multiple images)"}
    assert f"warning: {CLUSTER}: 0 non-lenses, 4 unknown (no list of multiple images)" in capsys.readouterr().err


def test_only_clusters_with_a_list_give_negatives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heads = {CLUSTER: header(SHAPE, SCALE), "abell520": header(SHAPE, SCALE, at=(73.5, 2.9))}
    files = {f"{c}/{n.replace(CLUSTER, c)}": v for c, head in heads.items() for n, v in field(head).items()}
    folder = written(tmp_path, files | {"abell520/arcs.dat": arcs(heads["abell520"])})
    found, refused = opened(RELICS, params(path=str(folder)), tmp_path / "raw")
    assert (refused, len(found)) == ({}, 8)
    assert {name.split("-")[0] for name, (label, *_) in claims(tmp_path / "raw").items() if label == "nonlens"} == {
        "abell520"
    }
    assert "abell520" not in capsys.readouterr().err
    assert read(RELICS, tmp_path / "raw")[0].keys() == found.keys()


def test_repeated_columns_are_told_apart_by_position() -> None:
    head = header(SHAPE, SCALE)
    found = relics.columns(catalogue([row(1, head, later=0.5), row(2, head, later=0.5)]))
    assert len(found) == len(columns())
    assert np.allclose(found["f160w_fluxnjy#2"], found["f160w_fluxnjy"] / 2)
    assert np.allclose(found["f160w_fluxnjy#3"], found["f160w_fluxnjy"] / 2)
    assert np.allclose(found["f160w_fluxnjy"], [10 ** (0.4 * (31.4 - GALAXIES[n][2])) for n in (1, 2)])
    assert found["zb"].tolist() == [0.4, 0.4]


@pytest.mark.parametrize("differs", [False, True])
def test_a_place_that_stands_twice_must_be_one(differs: bool) -> None:
    line = [*row(1, header(SHAPE, SCALE)), 150.0]
    line[1] = 150.5 if differs else 150.0
    content = catalogue([line], [*columns(), "RA"])
    if differs:
        with pytest.raises(ContractError, match="must have one ra, got columns of it that differ"):
            relics.columns(content)
    else:
        assert relics.columns(content)["ra"].tolist() == [150.0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"# id RA Dec\n", "got no rows"),
        (b"", "got no rows"),
        (b"1 2 3\n", "got 0 names for 3 columns"),
        (b"# id RA Dec\n1 2 3 4\n", "got 3 names for 4 columns"),
        (b"# id RA Dec\n1 2 x\n", "must hold numbers"),
        (b"# id RA Dec\n1 2 3\n", "zb, zbmin, zbmax, got id, ra, dec"),
    ],
)
def test_a_bad_catalogue_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    files = field(header(SHAPE, SCALE)) | {f"hlsp_relics_hst_acs-wfc3ir_{CLUSTER}_multi_v1_cat.txt": content}
    with pytest.raises(ContractError, match=words) as caught:
        opened(RELICS, params(path=str(written(tmp_path, files))), tmp_path / "raw")
    assert str(caught.value).startswith(f"{CLUSTER}: ")
    assert "\n" not in str(caught.value)


def test_other_bad_input_in_one_line(tmp_path: Path) -> None:
    files = field(header(SHAPE, SCALE))
    folder = str(written(tmp_path, files))
    for given, words in (
        ({"magnitude_band": "F999W"}, "magnitude_band must be of the catalogue, got F999W"),
        ({"magnitude": [10, 11]}, "magnitude must leave galaxies, got none"),
    ):
        with pytest.raises(ContractError, match=words):
            opened(RELICS, params(path=folder, **given), tmp_path / "raw")
    (tmp_path / "in" / f"hlsp_relics_hst_acs-wfc3ir_{CLUSTER}_multi_v1_cat.txt").unlink()
    with pytest.raises(ContractError, match="must hold a catalogue"):
        opened(RELICS, params(path=folder), tmp_path / "raw")


def test_through_a_bad_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(paths, "DOWNLOAD", str(tmp_path / "download"))
    head = header(SHAPE, SCALE)
    with bad_server.serve(field(head) | {f"{CLUSTER}_arcs.dat": arcs(head)}) as server:
        downloads = [config.Download(mirrors=server.mirrors(n), sha256=server.sha256(n)) for n in server.files]
        found, refused = opened(RELICS, params(downloads=downloads), tmp_path / "raw")
    assert (refused, len(found)) == ({}, 4)
    assert {how for how, _ in server.requests} == {"dead", "wrong", "shorter", "liar", "drops"}
    origins = bring.facts(tmp_path / "raw")["origins"]
    assert [origin["verified"] for origin in origins] == [True] * 4


def test_the_planted_arc_is_where_astropy_says() -> None:
    head = header(SHAPE, SCALE)
    ra, dec = (float(word) for word in arcs(head).split(b"\n")[1].split()[1:3])
    assert WCS(head).all_world2pix(ra, dec, 0) == pytest.approx(ARC, abs=1e-3)
    assert PARAMS.surveys["hst"].bands["F814W"].psf_fwhm > 0
