"""Places in names against astropy, pairs against brute force, rules against planted defects and the real lenscat."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from astropy import units as u
from astropy.coordinates import FK4, Angle, Galactic, SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st

from lensml import config, schema
from lensml.catalog import designations, entry_pairs, misplaced, redshift_text, sky_catalogues
from lensml.sources import lenscat

ROOT = Path(__file__).parents[1]
LENSCAT = ROOT.parent / "shared" / "real" / "catalogues" / "lenscat_catalog.csv"
RULES = config.load(ROOT / "params.yaml").label_provenance.model_copy(
    update={"match_arcsec": 3.0, "duplicate_arcsec": 2.0, "name_tolerance_arcsec": 360.0}
)
needs_real = pytest.mark.skipif(not LENSCAT.is_file(), reason="no sample of real survey files beside the checkout")


def entry(name: str, ra: float | None, dec: float | None, label: str = "lens", **more: Any) -> dict[str, Any]:
    confidence = 0.0 if label == "unknown" else 1.0
    row = {"name": name, "ra": ra, "dec": dec, "label": label, "label_confidence": confidence, "z_text": ""}
    return row | {"label_source": "obs:a", "grade": "probable" if label == "unknown" else "", "kind": ""} | more


def catalogue(*rows: dict[str, Any]) -> pl.DataFrame:
    table = pl.DataFrame([{"entry": f"{n:05d}", "reference": "", **row} for n, row in enumerate(rows)], strict=False)
    missing = (pl.lit(None).alias(name) for name in schema.SKY_CLAIMS if name not in table.columns)
    return schema.check(table.with_columns(*missing), schema.SKY_CLAIMS, "test")


def places(name: str) -> list[tuple[float, float, float]]:
    return [row[1:] for row in designations.places(pl.Series([name])).iter_rows()]


@pytest.mark.parametrize(
    ("name", "ra", "dec", "rounding"),
    [
        ("SDSSJ0029-0055", "00h29m", "-00d55m", 15 * 60),
        ("SDSS J001213.49+173537.5", "00h12m13.49s", "17d35m37.5s", 0.15),
        ("CS82SL00:01:40-00:33:50", None, None, None),  # as 000140-003350, and in B1950 too: see below
        ("DESI-003.6745-13.5042", "3.6745d", "-13.5042d", 0.51),
        ("RXC J0018.5+1626", "00h18m30s", "16d26m", 90),
        ("HSTJ01247+0352", "01h24m42s", "03d52m", 90),
        ("RCS J092101+3818.5", "09h21m01s", "38d18m30s", 15),
        ("2MASSJ12293216+0337269", "12h29m32.16s", "3d37m26.9s", 0.15),
        ("[J111551+012937]", "11h15m51s", "01d29m37s", 15),
        ("JVASJ0000-00005", "00h00m", "-00d00m30s", 900),
    ],
)
def test_a_name_tells_the_place_that_astropy_reads(
    name: str, ra: str | None, dec: str | None, rounding: float | None
) -> None:
    found = places(name)
    if ra is None:
        assert len(found) == 2
        want = SkyCoord("00:01:40 -00:33:50", unit=(u.hourangle, u.deg))
        assert min(want.separation(SkyCoord(*place[:2], unit="deg")).arcsec for place in found) < 1e-6
        return
    want = SkyCoord(Angle(ra), Angle(dec))
    assert len(found) == 1
    assert want.separation(SkyCoord(*found[0][:2], unit="deg")).arcsec < 1e-6
    assert found[0][2] == pytest.approx(rounding, rel=0.3)


def test_names_without_j_are_read_in_both_equinoxes_and_g_is_galactic() -> None:
    old = SkyCoord("09h57m", "56d06m", frame=FK4(equinox="B1950", obstime="B1950")).icrs
    new = SkyCoord("09h57m", "56d06m")
    found = [SkyCoord(ra, dec, unit="deg") for ra, dec, _ in places("Q0957+561")]
    assert sorted(round(min(f.separation(w).arcsec for f in found), 6) for w in (old, new)) == [0, 0]
    ((ra, dec, _),) = places("PSZ2 G209.79+10.23")
    want = SkyCoord(209.79, 10.23, unit="deg", frame=Galactic()).icrs
    assert want.separation(SkyCoord(ra, dec, unit="deg")).arcsec < 1e-6


@pytest.mark.parametrize(
    "name",
    [
        "", "-", "283", "A2163", "4603-55999-719", "20190901v019-9900190001", "5821+4437", "SDSSJ2529-0055",
        "SDSSJ0061-0055", "SDSSJ0029-9155", "RBS-0172", "J0029-005512345", "DESI-403.6745-13.5042", "0028+1919",
    ],
)  # fmt: skip
def test_other_names_tell_no_place(name: str) -> None:
    assert places(name) == []


def test_parts_of_a_name_and_missing_names() -> None:
    table = designations.places(pl.Series(["1207 | J0012+0012 | DESI-010.2002+01.2345", None, "J0012+0012|J0012+0012"]))
    assert table["row"].to_list() == [0, 0, 2]
    assert designations.places(pl.Series([], dtype=pl.String)).height == 0


@given(
    ra=st.floats(0, 359.99), dec=st.floats(-89.9, 89.9), seconds=st.integers(0, 2), prefix=st.sampled_from(["J", "A J"])
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_a_name_made_by_astropy_comes_back_within_its_rounding(
    ra: float, dec: float, seconds: int, prefix: str
) -> None:
    sky = SkyCoord(ra, dec, unit="deg")
    hours = sky.ra.to_string(u.hourangle, sep="", precision=seconds, pad=True)
    name = prefix + hours + sky.dec.to_string(sep="", precision=max(seconds - 1, 0), pad=True, alwayssign=True)
    if hours.startswith("24"):
        return
    ((found_ra, found_dec, rounding),) = places(name)
    assert sky.separation(SkyCoord(found_ra, found_dec, unit="deg")).arcsec <= rounding
    assert misplaced.find(catalogue(entry(name, ra, dec)), 1.0).is_empty()


def find(*rows: tuple[str, float, float]) -> list[tuple[int, str, float, float]]:
    table = misplaced.find(catalogue(*(entry(*row) for row in rows)), 360.0)
    return [(row, cause, round(ra, 4), round(dec, 4)) for row, cause, ra, dec in table.iter_rows()]


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (("AGEL J080820+103142", 122.0851, 10.5284), None),
        (("AGEL J080820+103142", 2.0851, 0.5284), (misplaced.LOST, 122.0851, 10.5284)),  # the AGEL rows of lenscat
        (("AGEL J080820+103142", 2.0851, 10.5284), (misplaced.LOST, 122.0851, 10.5284)),
        (("AGEL J010128-334319", 15.3658, 0.7220), (misplaced.LOST, 15.3658, -33.7220)),
        (("Q0957+561", 150.33665, 55.89791), None),  # Walsh et al. 1979, by its name of 1950
        (("Q0957+561", 0.33665, 55.89791), (misplaced.LOST, 150.3366, 55.8979)),
        (("DES J015804+002918", 29.5185, -0.4884), (misplaced.SIGN, 29.5185, 0.4884)),
        (("J0332-3557", 58.25, -35.96), (misplaced.RA, 53.0, -35.95)),
        (("J2248.7-4431", 342.2, -38.5), (misplaced.DEC, 342.175, -44.5167)),
        (("J1340+4219", 100.0, 11.0), (misplaced.NEITHER, 205.0, 42.3167)),
        (("1207 | J1340+4219 | J134000+110000", 205.0, 11.0), None),  # one of its names agrees
        (("HSCJ2359+0000", 0.01, 0.0), None),  # across 0 h
        (("J1200+8955", 170.0, 89.93), None),  # hours mean little near the pole
    ],
)
def test_cause_and_the_place_it_may_be(row: tuple[str, float, float], found: tuple[str, float, float] | None) -> None:
    assert find(row) == ([] if found is None else [(0, *found)])


def test_names_filled_downwards_are_told_from_single_ones() -> None:
    rows = [(f"000008+0226{58 + n}", 0.0352 + 20 * n, 2.4494) for n in range(6)]
    assert [(row, cause) for row, cause, *_ in find(*rows)] == [(n, misplaced.COUNTED_UP) for n in range(1, 6)]
    assert misplaced.COUNTED_UP not in {cause for _, cause, *_ in find(*rows[:3])}


def test_pairs_equal_brute_force() -> None:
    rng = np.random.default_rng(4)
    ra, dec = rng.uniform(359.99, 360.01, 300) % 360, rng.uniform(-0.01, 0.01, 300)
    table = catalogue(*(entry("", r, d) for r, d in zip(ra, dec, strict=True)), entry("", None, None))
    sky = SkyCoord(ra, dec, unit="deg")
    distance = sky[:, None].separation(sky[None, :]).arcsec
    want = [(int(i), int(j)) for i, j in zip(*np.nonzero(np.triu(distance <= 8, 1)), strict=True)]
    assert want
    found = entry_pairs.near(table, 8.0)
    assert list(found.select("first", "second").iter_rows()) == want
    assert found["separation_arcsec"].to_list() == pytest.approx([distance[i, j] for i, j in want])


def test_one_name_at_two_places() -> None:
    table = catalogue(
        entry("A370", 39.97, -1.58), entry("a 370 | 12", 41.0, -1.58), entry("12", 100.0, 0.0), entry("11B", 1.0, 1.0),
        entry("11B", 2.0, 1.0), entry("J0512-5041", 78.003, -50.69), entry("J0512-5041", 78.163, -50.686),
    )  # fmt: skip
    assert list(entry_pairs.of_one_name(table, 360.0).select("first", "second").iter_rows()) == [(0, 1)]
    review = sky_catalogues.review("known", table, RULES)
    assert review.findings["object_id"].to_list() == ["known.00000", "known.00001"]
    assert review.findings["rule"].unique().to_list() == [sky_catalogues.ONE_NAME]
    assert review.claims["grade"].to_list()[:3] == [sky_catalogues.DOUBTFUL, sky_catalogues.DOUBTFUL, ""]


@pytest.mark.parametrize(
    ("text", "z", "kind"),
    [
        ("0.227", 0.227, redshift_text.NUMBER),
        (" 0.5 | nan", 0.5, redshift_text.NUMBER),
        ("0.50 |0.51", 0.505, redshift_text.AGREE),
        ("0.50 | 0.52", None, redshift_text.DIFFER),
        ("0.5 | 0.505 | 0.9 | nan", None, redshift_text.DIFFER),
        ("0.3?", None, redshift_text.UNCERTAIN),
        ("0.905? measured", None, redshift_text.UNCERTAIN),
        ("(0.42)", None, redshift_text.UNCERTAIN),
        ("0.5 | 0.55*", None, redshift_text.UNCERTAIN),
        ("not measured", None, redshift_text.NOT_MEASURED),
        ("measured", None, redshift_text.WITHHELD),
        ("-", None, redshift_text.NOTHING),
        ("", None, redshift_text.NOTHING),
        (None, None, redshift_text.NOTHING),
        ("nan | nan", None, redshift_text.NOTHING),
        ("L", None, redshift_text.OTHER),
        ("0", None, redshift_text.OTHER),
        ("-0.3", None, redshift_text.OTHER),
        ("99", None, redshift_text.OTHER),
    ],
)
def test_redshift_text(text: str | None, z: float | None, kind: str) -> None:
    found = redshift_text.read(pl.Series([text, "1"], dtype=pl.String))
    assert found["kind"].to_list() == [kind, redshift_text.NUMBER]
    assert found["z"][1] == 1.0
    assert found["z"][0] == (None if z is None else pytest.approx(z))


def test_a_doubtful_entry_is_a_candidate_at_both_places() -> None:
    table = catalogue(entry("AGEL J080820+103142", 2.0851, 0.5284), entry("J0029-0055", 7.28, -0.93))
    review = sky_catalogues.review("known", table, RULES)
    rows = review.claims.select("entry", "ra", "dec", "label", "grade").rows()
    assert rows[0] == ("00000", 2.0851, 0.5284, "unknown", sky_catalogues.DOUBTFUL)
    assert rows[1] == ("00000@name", pytest.approx(122.0851), pytest.approx(10.5284), *rows[0][3:])
    assert rows[2] == ("00001", 7.28, -0.93, "lens", "")
    assert review.findings.to_dicts() == [
        {
            "object_id": "known.00000",
            "claims": ["obs:a=lens@1.0"],
            "label": "unknown",
            "rule": f"{sky_catalogues.NOT_BELIEVED}: {misplaced.LOST}",
        }
    ]
    assert review.counts["doubtful_position"] == {misplaced.LOST: 1}


def pair(first: dict[str, Any], second: dict[str, Any]) -> tuple[list[tuple[str, str]], list[str]]:
    """Labels and grades of two near-duplicates after the rules, and which rules spoke."""
    one, other = entry("", 10.0, 5.0) | first, entry("", 10.0002, 5.0) | second
    found = [sky_catalogues.review("known", catalogue(*rows), RULES) for rows in ([one, other], [other, one])]
    assert found[0].counts["near_duplicates"] == 1
    decided = [sorted(review.claims.select("label", "grade").rows()) for review in found]
    assert decided[0] == decided[1]
    return decided[0], found[0].findings["rule"].unique().sort().to_list()


def test_of_near_duplicates_the_more_confident_decides() -> None:
    lens = {"label": "lens", "label_confidence": 1.0, "grade": "confident"}
    probable = {"label": "unknown", "label_confidence": 0.0, "grade": "probable"}
    nonlens = {"label": "nonlens", "label_confidence": 1.0, "grade": ""}
    assert pair(lens, probable) == ([("lens", "confident")] * 2, [sky_catalogues.OVERRULED])
    assert pair(lens, lens) == ([("lens", "confident")] * 2, [])
    assert pair(nonlens, probable) == ([("unknown", "probable")] * 2, [sky_catalogues.OVERRULED])
    assert pair(nonlens, lens) == ([("unknown", sky_catalogues.CONTRADICTED)] * 2, [sky_catalogues.TIED])
    sure = nonlens | {"label_confidence": 0.9}
    assert pair(sure, lens) == ([("lens", "confident")] * 2, [sky_catalogues.OVERRULED])
    assert pair(lens, {"label": "unknown", "label_confidence": 0.0, "grade": ""})[1] == []  # says nothing at all


def test_a_doubtful_entry_beside_a_sure_one_is_believed_again() -> None:
    rows = [entry("AGEL J080820+103142", 2.0851, 0.5284), entry("J0008+0031", 2.0852, 0.5284)]
    review = sky_catalogues.review("known", catalogue(*rows), RULES)
    assert review.claims.filter(~pl.col("entry").str.ends_with("@name"))["label"].to_list() == ["unknown", "lens"]
    # the two published grades do not disagree, so nothing but the doubt is found
    assert review.findings.height == 1


def test_empty_catalogue_and_repeated_entries() -> None:
    empty = sky_catalogues.review("known", catalogue(entry("", 1.0, 1.0)).clear(), RULES)
    assert (empty.claims.height, empty.findings.height, empty.counts["entries"]) == (0, 0, 0)
    twice = pl.concat([catalogue(entry("", 1.0, 1.0))] * 2)
    with pytest.raises(ValueError, match=r"entry must be unique, got 00000 twice \(source known\)"):
        sky_catalogues.review("known", twice, RULES)


def test_entries_number_the_rows_and_name_them() -> None:
    names = pl.Series(["A | B", "", None, "x" * 60])
    assert sky_catalogues.entries(names).to_list() == ["00001 A", "00002", "00003", "00004 " + "x" * 40]


@pytest.fixture(scope="module")
def real() -> pl.DataFrame:
    return lenscat.claims({LENSCAT.name: LENSCAT.read_bytes()}, {})


@needs_real
def test_lenscat_has_the_defects_that_are_known_of_it(real: pl.DataFrame) -> None:
    counts: Any = sky_catalogues.review("lenscat", real, RULES).counts
    assert counts["entries"] == 32838
    assert sum(counts["doubtful_position"].values()) >= 100
    assert counts["doubtful_position"][misplaced.COUNTED_UP] in (37, 38)
    assert 60 <= counts["doubtful_position"][misplaced.LOST] <= 75
    assert counts["near_duplicates"] == 109
    assert counts["near_duplicates_in_conflict"] == 30
    assert sum(counts["redshift_text"].values()) == 32838
    assert counts["redshift_text"][redshift_text.NOT_MEASURED] == 15633


@needs_real
def test_lenscat_restored_places_are_where_the_same_name_stands_elsewhere(real: pl.DataFrame) -> None:
    """The survey's own second rows are the truth: 33 of them, to within 5 arcsec but for rounding of positions."""
    found = misplaced.find(real, 360.0).filter(pl.col("cause") == misplaced.LOST)
    restored = {row: SkyCoord(ra, dec, unit="deg") for row, ra, dec in found.select("row", "ra", "dec").iter_rows()}
    separations = []
    for one, other in entry_pairs.of_one_name(real, 360.0).select("first", "second").iter_rows():
        bad, good = (one, other) if one in restored else (other, one)
        truth = SkyCoord(real["ra"][good], real["dec"][good], unit="deg")
        separations.append(restored[bad].separation(truth).arcsec)
    assert len(separations) >= 30
    assert np.median(separations) < 1
    assert np.mean(np.array(separations) < 12) > 0.95


@needs_real
def test_lenscat_names_read_as_astropy_reads_them(real: pl.DataFrame) -> None:
    second = r"([0-5]\d(?:\.\d+)?)"  # some say 60, which astropy warns of
    form = rf"J(\d{{2}})(\d{{2}}){second}([+-]\d{{2}})(\d{{2}}){second}$"
    single = real["name"].filter(~real["name"].str.contains("|", literal=True))
    names = single.filter(single.str.contains(form)).gather_every(25)
    assert len(names) > 300
    found = designations.places(names)
    words = names.str.replace(f"^.*{form}", "$1:$2:$3 $4:$5:$6").to_list()
    want = SkyCoord(words, unit=(u.hourangle, u.deg))
    assert found["row"].to_list() == list(range(len(names)))
    assert want.separation(SkyCoord(found["ra"].to_numpy(), found["dec"].to_numpy(), unit="deg")).arcsec.max() < 1e-6
