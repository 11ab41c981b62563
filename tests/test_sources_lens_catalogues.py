"""lenscat, SLACS and SLED in their published layouts, from the file to claims; faults are named; the real files."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lensml import config, schema
from lensml.catalog import crossmatch, provenance, sky_catalogues
from lensml.ingest.kind import SourceKind
from lensml.schema import ContractError
from lensml.sources import SOURCES, lenscat, slacs, sled
from tests.test_catalog_provenance import claim, table

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "real" / "catalogues"
PARAMS = config.load(ROOT / "params.yaml")
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no sample of real survey files beside the checkout")

LENSCAT = """name,RA [deg],DEC [deg],zlens,type,grading,ref
J0011-0845,2.83435,-8.7643,-,galaxy,confident,https://example.org
DESI-003.6745-13.5042 | J0014-1330,3.6745,-13.5042,0.5 | 0.505,galaxy,probable,"Huang, X. et al."
RXCJ2151.3-5521,327.84458,-55.35333,0.0385,cluster,probable,B\\"ohringer et al. (2004)
Abell 370,400.0,-1.58,0.3?,cluster,confirmed,a
nothing,,,not measured,group,,b
"""
SLACS = """# name RA dec zd zs Reff_arcsec theta_Ein
SDSSJ0029-0055 7.282417 -0.930694 0.227 0.931 2.30 0.96

SDSSJ0037-0942 9.471708 -9.705583 0.195 0.632 2.30 1.53
"""
SLED = """name,ra,dec,z_lens,z_source,lens_type,flag_confirmed,flag_contaminant,contaminant_type,candidate_score
"SDSSJ0029-0055, J0029",7.282417,-0.930694,0.227,0.931,GALAXY,True,False,,
ring,9.5,-9.7,,,,0,1,Ring Galaxy,1.0
maybe,10.5,-9.7,,,,False,False,,2.5
unscored,11.5,-9.7,,,,False,False,,
both,12.5,-9.7,,,,True,True,Spiral,
"""


def brought(name: str, file: Path, out: Path) -> pl.DataFrame:
    """What a kind of source makes of a file, through fetch and back from its raw folder."""
    kind: SourceKind = SOURCES[name]
    kind.fetch(config.CatalogueSource(kind=name, path=str(file), downloads=[]), PARAMS.surveys, out)  # type: ignore[arg-type]
    assert kind.evidence(name, out).is_empty()
    assert kind.sky_claims is not None
    return kind.sky_claims(name, out)


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_lenscat(tmp_path: Path) -> None:
    found = brought("lenscat", written(tmp_path, "catalog.csv", LENSCAT), tmp_path / "raw")
    assert found["entry"].to_list()[1:3] == ["00002 DESI-003.6745-13.5042", "00003 RXCJ2151.3-5521"]
    assert found["label"].to_list() == ["lens", "unknown", "unknown", "lens", "unknown"]
    assert found["grade"].to_list() == ["confident", "probable", "probable", "confirmed", "ungraded"]
    assert found["label_confidence"].to_list() == [1, 0, 0, 1, 0]
    assert found["z_lens"].to_list() == [None, pytest.approx(0.5025), 0.0385, None, None]
    assert found["z_text"].to_list() == ["-", "0.5 | 0.505", "0.0385", "0.3?", "not measured"]
    assert found["ra"].to_list() == [2.83435, 3.6745, 327.84458, None, None]  # no place on the sphere, no place at all
    assert found["dec"].to_list() == [-8.7643, -13.5042, -55.35333, None, None]
    assert found["reference"].to_list()[1:3] == ["Huang, X. et al.", 'B\\"ohringer et al. (2004)']
    assert found["label_source"].unique().to_list() == ["obs:lenscat"]


def test_slacs(tmp_path: Path) -> None:
    found = brought("slacs", written(tmp_path, "SLACS_table.cat", SLACS), tmp_path / "raw")
    assert found.select("name", "ra", "dec", "label", "grade", "z_lens", "z_source", "theta_e_arcsec").rows() == [
        ("SDSSJ0029-0055", 7.282417, -0.930694, "lens", "A", 0.227, 0.931, 0.96),
        ("SDSSJ0037-0942", 9.471708, -9.705583, "lens", "A", 0.195, 0.632, 1.53),
    ]


def test_sled_has_contaminants(tmp_path: Path) -> None:
    found = brought("sled", written(tmp_path, "sled_export.csv", SLED), tmp_path / "raw")
    assert found.select("label", "label_source", "label_confidence", "grade", "kind").rows() == [
        ("lens", "obs:sled", 1.0, "confirmed", "galaxy"),
        ("nonlens", "obs:hard_negative", 1.0, "contaminant", "ring galaxy"),
        ("unknown", "obs:sled", 0.0, "score 2.5", ""),
        ("unknown", "obs:sled", 0.0, "candidate", ""),
        ("unknown", "obs:sled", 0.0, "confirmed and contaminant", ""),
    ]
    assert found["name"][0] == "SDSSJ0029-0055 | J0029"
    assert found["z_source"].to_list() == [0.931, None, None, None, None]


@pytest.mark.parametrize(
    ("kind", "files", "message"),
    [
        (lenscat, {}, r"lenscat must be one file ending on \.csv, got none among no files"),
        (lenscat, {"a.csv": b"", "b.csv": b""}, r"must be one file ending on \.csv, got a\.csv, b\.csv"),
        (lenscat, {"a.csv": b""}, r"a\.csv must have the column\(s\) name, RA \[deg\].*got nothing"),
        (lenscat, {"a.csv": b"name,RA\n"}, r"a\.csv must have the column\(s\) RA \[deg\].*got name, RA"),
        (lenscat, {"a.csv": b"\xff\xfe"}, r"a\.csv must be UTF-8, got invalid start byte at byte 0"),
        (lenscat, {"a.csv": LENSCAT.encode() + b"x,1\n"}, r"a\.csv must have 7 cells in every row, got 2 in row 7"),
        (
            lenscat,
            {"a.csv": LENSCAT.replace("2.83435", "00:11:20").encode()},
            r"RA \[deg\] must be a number or empty, got '00:11:20' \(a\.csv, 1 such row",
        ),
        (slacs, {"a.cat": SLACS.replace("0.96", "wide").encode()}, r"theta_Ein must be a number or empty, got 'wide'"),
        (slacs, {"a.cat": SLACS.replace("zs", "zd").encode()}, r"must have the column\(s\) zs"),
        (slacs, {"a.cat": SLACS.replace("Reff_arcsec", "zs").encode()}, r"must name each column once"),
        (sled, {"a.csv": SLED.replace("True", "maybe").encode()}, r"flag_confirmed must be true or false, got 'maybe'"),
    ],
)
def test_another_file_is_named(kind: Any, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        kind.claims(files, {})


def test_a_table_without_rows_says_nothing() -> None:
    for kind, name, text in ((lenscat, "a.csv", LENSCAT), (slacs, "a.cat", SLACS), (sled, "a.csv", SLED)):
        found = kind.claims({name: text.splitlines()[0].encode() + b"\n"}, {})
        assert schema.check(found, schema.SKY_CLAIMS, "test").is_empty()


def test_a_contaminant_is_a_negative_unless_another_catalogue_has_it_as_a_candidate(tmp_path: Path) -> None:
    claims = brought("sled", written(tmp_path, "sled.csv", SLED), tmp_path / "raw")
    objects = table(claim("one.1", "obs:survey", "unknown", 0.0, frame="icrs", ra=9.5, dec=-9.7))
    rules = PARAMS.label_provenance
    other = sky_catalogues.review("lenscat", _lenscat_at(9.5, -9.7), rules).claims
    for sky, label in (({"sled": claims}, "nonlens"), ({"sled": claims, "lenscat": other}, "unknown")):
        found, _ = crossmatch.attach(objects, sky, 3.0)
        decision = provenance.resolve(provenance.gather({"one": pl.concat([objects, found])}), rules)
        assert decision.labels["label"].to_list() == [label]
        assert decision.labels["kind"].to_list() == ["ring galaxy"] or label == "unknown"


def _lenscat_at(ra: float, dec: float) -> pl.DataFrame:
    head = LENSCAT.splitlines()[0]
    return lenscat.claims({"a.csv": f"{head}\nx,{ra},{dec},-,galaxy,probable,r\n".encode()}, {})


@needs_real
def test_every_lens_of_slacs_is_matched_in_lenscat_within_5_arcsec(tmp_path: Path) -> None:
    known = brought("slacs", REAL / "SLACS_table.cat", tmp_path / "slacs")
    rules = PARAMS.label_provenance
    catalogue = brought("lenscat", REAL / "lenscat_catalog.csv", tmp_path / "lenscat")
    reviewed = sky_catalogues.review("lenscat", catalogue, rules).claims
    objects = table(
        *(
            claim(f"one.{name}", "obs:survey", "unknown", 0.0, frame="icrs", ra=ra, dec=dec)
            for name, ra, dec in known.select("name", "ra", "dec").iter_rows()
        )
    )
    found, counts = crossmatch.attach(objects, {"lenscat": reviewed, "slacs": known}, 5.0)
    assert known.height == 59
    assert counts["lenscat"]["objects"] == counts["slacs"]["objects"] == 59
    decision = provenance.resolve(provenance.gather({"one": pl.concat([objects, found])}), rules)
    assert decision.labels["label"].unique().to_list() == ["lens"]
    assert decision.labels["theta_e_arcsec"].sort().to_list() == known["theta_e_arcsec"].sort().to_list()
    # matched by place, yet the redshifts agree: these are the same galaxies
    both = found.filter(pl.col("label_source") == "obs:lenscat").join(
        found.filter(pl.col("label_source") == "obs:slacs"), on="object_id"
    )
    assert both.select((pl.col("z_lens") - pl.col("z_lens_right")).abs().median()).item() < 0.005
