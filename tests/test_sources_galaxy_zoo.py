"""Galaxy Zoo: vote tables in the published layouts against rules counted by hand, and the real table of rings."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from astropy.coordinates import SkyCoord

from lensml import config, schema
from lensml.catalog import crossmatch, provenance
from lensml.schema import ContractError
from lensml.sources import castles, galaxy_zoo
from tests import bad_server
from tests.real_sample import REAL, needs_real

PARAMS: dict[str, Any] = {
    "votes_min": 20,
    "fraction_min": 0.7,
    "weak_confidence": 0.3,
    "hard_negative_confidence": 0.9,
}
HARD, WEAK = ("nonlens", "obs:hard_negative", 0.9), ("nonlens", "weak:gzoo", 0.3)
CANDIDATE = ("unknown", "weak:gzoo", 0.5)

ML = [  # smooth, featured, artifact, spiral yes, no, odd yes, no; then what is to be said
    ("smooth", (30, 5, 1, 2, 3, 0, 36), WEAK, "smooth"),
    ("spiral", (3, 37, 0, 28, 12, 4, 36), HARD, "spiral"),  # 28 of 40 is 0.7
    ("nearly", (3, 37, 0, 27, 13, 4, 36), WEAK, "featured"),
    ("few", (3, 27, 0, 19, 0, 4, 26), WEAK, "featured"),  # 19 votes are too few
    ("odd spiral", (3, 37, 0, 40, 0, 30, 10), WEAK, "odd"),  # odd, and who knows why
    ("star", (3, 2, 30, 0, 0, 0, 5), WEAK, "artifact"),
]
ML_COLUMNS = [
    *("smooth-or-featured-gz2_smooth", "smooth-or-featured-gz2_featured-or-disk", "smooth-or-featured-gz2_artifact"),
    *("has-spiral-arms-gz2_yes", "has-spiral-arms-gz2_no", "something-odd-gz2_yes", "something-odd-gz2_no"),
]
HART = [  # smooth, features, spiral, no spiral, ring, lens or arc, merger, other
    ("ring", (10, 30, 9, 21, 18, 1, 0, 1), HARD, "ring"),
    ("ring spiral", (10, 30, 30, 0, 18, 1, 0, 1), HARD, "ring"),
    ("merger", (30, 10, 0, 5, 0, 2, 21, 0), HARD, "merger"),
    ("arc", (30, 10, 0, 5, 4, 12, 2, 5), CANDIDATE, "odd"),
    ("arc spiral", (3, 37, 37, 0, 0, 3, 0, 2), WEAK, "odd"),  # an arc for 3 of 5: too few for a candidate
    ("arc or ring", (3, 37, 0, 37, 10, 10, 0, 0), CANDIDATE, "odd"),
    ("spiral", (3, 37, 37, 0, 0, 1, 0, 2), HARD, "spiral"),  # an arc for 1 of 3
]
HART_COLUMNS = [
    *("t01_smooth_or_features_a01_smooth_count", "t01_smooth_or_features_a02_features_or_disk_count"),
    *("t04_spiral_a08_spiral_count", "t04_spiral_a09_no_spiral_count", "t08_odd_feature_a19_ring_count"),
    *("t08_odd_feature_a20_lens_or_arc_count", "t08_odd_feature_a24_merger_count", "t08_odd_feature_a23_other_count"),
]
DECALS = [  # smooth, featured; merging none, minor, major, merger; then what is to be said
    ("merger", (20, 20, 5, 2, 3, 30), HARD, "merger"),
    ("disturbed", (20, 20, 0, 10, 20, 10), WEAK, "smooth"),
    ("alone", (0, 40, 40, 0, 0, 0), WEAK, "featured"),
]
DECALS_COLUMNS = [
    *("smooth-or-featured-dr5_smooth", "smooth-or-featured-dr5_featured-or-disk", "merging-dr5_none"),
    *("merging-dr5_minor-disturbance", "merging-dr5_major-disturbance", "merging-dr5_merger"),
]
Case = tuple[str, tuple[int, ...], tuple[str, str, float], str]


def table(cases: list[Case], columns: list[str]) -> pl.DataFrame:
    places = pl.DataFrame(
        {"id_str": [c[0] for c in cases], "ra": [10.0 + i for i in range(len(cases))], "dec": [1.0] * len(cases)}
    )
    votes = pl.DataFrame([c[1] for c in cases], schema=columns, orient="row")
    return pl.concat([places, votes], how="horizontal").with_columns(filename=pl.lit("x.jpg"))


def parquet(rows: pl.DataFrame) -> bytes:
    content = io.BytesIO()
    rows.write_parquet(content)
    return content.getvalue()


def claims(**files: pl.DataFrame | bytes) -> pl.DataFrame:
    named = {f"{name}.csv": t.write_csv().encode() if isinstance(t, pl.DataFrame) else t for name, t in files.items()}
    return schema.check(galaxy_zoo.claims(named, PARAMS), schema.SKY_CLAIMS, "galaxy_zoo")


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("cases", "columns"),
    [(ML, ML_COLUMNS), (HART, HART_COLUMNS), (DECALS, DECALS_COLUMNS)],
    ids=["GZ2 for machine learning", "GZ2 of Hart et al.", "DECaLS"],
)
def test_what_the_votes_say(cases: list[Case], columns: list[str], form: str) -> None:
    rows = table(cases, columns)
    content = parquet(rows) if form == "parquet" else rows.write_csv().encode()
    found = galaxy_zoo.claims({f"catalog.{form}": content}, PARAMS)
    said = found.select("name", "label", "label_source", "label_confidence", "kind").rows()
    assert said == [(name, *claim, kind) for name, _, claim, kind in cases]
    assert found["ra"].to_list() == rows["ra"].to_list()


def test_only_a_candidate_has_a_grade() -> None:
    found = claims(hart=table(HART, HART_COLUMNS))
    graded = found.filter(pl.col("grade") != "").select("grade", "label").unique().rows()
    assert graded == [("gz lens or arc", "unknown")]


def test_both_surveys_in_one_source_and_both_campaigns_in_one_table() -> None:
    two = table(DECALS, DECALS_COLUMNS)
    two = two.with_columns(pl.col(name).alias(name.replace("dr5", "dr8")) for name in DECALS_COLUMNS)
    found = claims(decals=two, gz2=table(ML, ML_COLUMNS))
    assert found.height == 2 * len(DECALS) + len(ML)
    assert found["entry"].is_unique().all()
    assert set(found["entry"].str.split(".").list.first()) == {"decals-dr5", "decals-dr8", "gz2-gz2"}


def test_the_first_decals_asked_otherwise() -> None:
    """neither, tidal debris, both (a merger with debris), merger."""
    names = ["merging-dr12_neither", "merging-dr12_tidal-debris", "merging-dr12_both", "merging-dr12_merger"]
    columns = ["smooth-or-featured-dr12_smooth", "smooth-or-featured-dr12_featured-or-disk", *names]
    cases: list[Case] = [("m", (9, 9, 3, 3, 7, 7), HARD, ""), ("n", (9, 9, 4, 3, 7, 7), WEAK, "")]
    found = claims(t=table(cases, columns))
    assert found["label_source"].to_list() == ["obs:hard_negative", "weak:gzoo"]


def test_an_object_without_votes_is_no_claim() -> None:
    none = ("none", (0,) * 7, WEAK, "")
    rows = table([*ML, none], ML_COLUMNS).with_columns(pl.col(ML_COLUMNS).replace(0, None))
    assert claims(t=rows)["name"].to_list() == [case[0] for case in ML]
    with pytest.raises(ContractError, match="with votes"):
        claims(t=table([none], ML_COLUMNS))


def test_places_come_from_the_name_where_there_are_no_columns() -> None:
    names = ["J000411.19+020924.0", "J112953.88-000427.4"]
    cases: list[Case] = [(name, ML[0][1], WEAK, "") for name in names]
    found = claims(t=table(cases, ML_COLUMNS).drop("ra", "dec"))
    sky = SkyCoord(["00:04:11.19 +02:09:24.0", "11:29:53.88 -00:04:27.4"], unit=("hourangle", "deg"))
    np.testing.assert_allclose(found["ra"], sky.ra.deg, atol=1e-9)
    np.testing.assert_allclose(found["dec"], sky.dec.deg, atol=1e-9)


def test_18_digits_of_an_identifier_survive_csv() -> None:
    rows = table(ML[:2], ML_COLUMNS).with_columns(pl.Series("id_str", [587722981741363294, 587722981741363295]))
    assert claims(t=rows.rename({"id_str": "dr7objid"}))["name"].to_list()[1] == "587722981741363295"


BROKEN: dict[str, tuple[bytes, str]] = {
    "another table": (b"name,ra,dec,mag\nx,1,2,3\n", "columns of votes"),
    "no place": (table(ML, ML_COLUMNS).drop("ra", "dec").write_csv().encode(), "positions"),
    "off the sky": (table(ML, ML_COLUMNS).with_columns(dec=pl.lit(91.0)).write_csv().encode(), r"91\.0 of smooth"),
    "negative votes": (table([("x", (-1, *(5,) * 6), WEAK, "")], ML_COLUMNS).write_csv().encode(), "others of x"),
    "words": (table(ML, ML_COLUMNS).write_csv().replace(",36,", ",many,").encode(), "readable"),
    "no name": (table(ML, ML_COLUMNS).write_csv().replace("star", "").encode(), "1 without a name"),
    "twice": (table(ML[:1] * 2, ML_COLUMNS).write_csv().encode(), "twice"),
    "empty": (b"", "readable"),
    "rings by a fraction": (b"id_str,ring,ra,dec\nx,0.7,1,2\n", "others of x"),
    "no identifier": (table(ML, ML_COLUMNS).drop("id_str").write_csv().encode(), "one of iauname"),
}


@pytest.mark.parametrize(("content", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_table_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        claims(t=content)


def test_a_damaged_parquet_file_is_refused() -> None:
    content = parquet(table(ML, ML_COLUMNS))
    for damaged in (
        content[:-20],
        content[: len(content) // 2] + content[len(content) // 2 + 50 :],
        b"PAR1",
        b"x" * 99,
    ):
        with pytest.raises(ContractError, match="readable"):
            galaxy_zoo.claims({"t.parquet": damaged}, PARAMS)


def test_no_table_is_refused() -> None:
    with pytest.raises(ContractError, match=r"none in README\.txt"):
        galaxy_zoo.claims({"README.txt": b"hello"}, PARAMS)


def test_a_known_lens_is_never_a_hard_negative() -> None:
    """Five unlabelled cutouts where the volunteers see spirals; at four of them CASTLES has an entry."""
    spirals: list[Case] = [(f"g{i}", ML[1][1], HARD, "") for i in range(5)]
    votes = claims(gz=table(spirals, ML_COLUMNS))  # ra 10, 11, ...; dec 1
    rows = "".join(
        f"<tr><td>L{i}<td>{grade}<td>00:{40 + 4 * i}:00.05<td>+01:00:00.5"
        for i, grade in enumerate(["A", "B", "C", ""])
    )
    lenses = castles.claims({"x.html": f"<table><tr><th>Lens<th>G<th>RA<th>Dec{rows}</table>".encode()}, {})
    nothing = dict.fromkeys(("flux_ratio", "theta_e_arcsec", "z_lens"), pl.lit(None, pl.Float64))
    objects = votes.select(
        object_id="s." + pl.col("name"), source=pl.lit("s"), survey=pl.lit("hsc"), label=pl.lit("unknown"),
        label_source=pl.lit("obs:s"), label_confidence=pl.lit(0.0), grade=pl.lit(""), parent=pl.lit(""),
        frame=pl.lit("icrs"), ra="ra", dec="dec", kind=pl.lit(""), **nothing,
    )  # fmt: skip
    rules = config.load(Path(__file__).parents[1] / "params.yaml").label_provenance
    rules = rules.model_copy(
        update={"claim_ranks": {"obs:": 3, "obs:hard_negative": 2, "weak:": 1}, "match_arcsec": 3.0}
    )
    attached, _ = crossmatch.attach(objects, {"castles": lenses, "gz": votes}, rules.match_arcsec)
    labels = provenance.resolve(pl.concat([objects, attached]), rules).labels
    assert labels["label"].to_list() == ["lens", "lens", "unknown", "unknown", "nonlens"]
    assert labels["grade"].to_list() == ["A", "B", "C", "ungraded", ""]
    assert labels["use"].to_list() == ["classify", "classify", "report", "report", "classify"]


@needs_real
def test_the_real_rings() -> None:
    content = (REAL / "catalogues" / "galaxy-zoo-rings" / "example_ring_catalog_basic.csv").read_bytes()
    found = claims(rings=content)
    rings = pl.read_csv(content).sort("id_str")
    assert (found.sort("name")["kind"] == "ring").to_list() == (rings["ring"] == 1).to_list()
    assert found["label_source"].value_counts().sort("label_source").rows() == [
        ("obs:hard_negative", 235),
        ("weak:gzoo", 235),
    ]
    name = rings["id_str"]
    text = name.str.slice(1, 2) + " " + name.str.slice(3, 2) + " " + name.str.slice(5, 5) + " "
    text += name.str.slice(10, 3) + " " + name.str.slice(13, 2) + " " + name.str.slice(15)
    sky = SkyCoord(text.to_list(), unit=("hourangle", "deg"))
    np.testing.assert_allclose(found.sort("name")["ra"], sky.ra.deg, atol=1e-9)
    np.testing.assert_allclose(found.sort("name")["dec"], sky.dec.deg, atol=1e-9)


def test_240_000_galaxies_from_a_bad_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    n, rng = 240_000, np.random.default_rng(4)
    votes = rng.integers(0, 40, (n, len(HART_COLUMNS)))
    hart = pl.DataFrame(votes, schema=HART_COLUMNS).with_columns(
        dr7objid=587722981741363294 + pl.int_range(n), ra=pl.Series(rng.uniform(0, 360, n)), dec=pl.lit(1.0)
    )
    decals = table(DECALS, DECALS_COLUMNS)
    with bad_server.serve({"gz2_hart16.csv": hart.write_csv().encode(), "decals.parquet": parquet(decals)}) as server:
        downloads = [
            config.Download(mirrors=server.mirrors(name), sha256=server.sha256(name)) for name in sorted(server.files)
        ]
        params = config.GalaxyZooSource(kind="galaxy_zoo", path=None, downloads=downloads, **PARAMS)
        galaxy_zoo.KIND.fetch(params, {}, tmp_path / "raw")
    assert galaxy_zoo.KIND.sky_claims is not None
    found = galaxy_zoo.KIND.sky_claims("gz", tmp_path / "raw")
    smooth, featured, spiral, not_spiral, ring, lens, merger, other = votes.T  # the rules once more, in numpy
    asked = ring + lens + merger + other
    arc = (lens > 0) & (lens >= np.max([ring, merger, other], axis=0))
    is_spiral = (spiral + not_spiral >= 20) & (spiral / np.maximum(spiral + not_spiral, 1) >= 0.7)
    is_ring, is_merger = ((asked >= 20) & (x / np.maximum(asked, 1) >= 0.7) for x in (ring, merger))
    voted = smooth + featured > 0
    assert found.height == voted.sum() + len(DECALS)
    assert (found["label_source"] == "obs:hard_negative").sum() - 1 == (
        (is_spiral | is_ring | is_merger) & ~arc & voted
    ).sum()
    assert (found["label"] == "unknown").sum() == (arc & (asked >= 20) & voted).sum()
