"""CASTLES: pages in the layout of the survey's, with the HTML of the 1990s, from a bad server."""

from pathlib import Path

import polars as pl
import pytest
from astropy.coordinates import SkyCoord

from lensml import config, schema
from lensml.schema import ContractError
from lensml.sources import castles
from tests import bad_server

LENSES = [  # name, grade, z_s, z_l, RA, Dec as published
    ("Q0142-100", "A", "2.72", "0.49", "01:45:16.5", "-09:45:17"),
    ("B0218+357", "A", "0.96", "0.68", "02:21:05.48", "+35:56:13.78"),
    ("HE0435-1223", "B", "1.689", "(0.4)", "04:38:14.9", "&minus;12:17:14.4"),
    ("Q1208+101", "C", "3.80", "", "12:10:56.96", "+09:54:26.8"),
    ("Q0023+171", "C?", "0.946", "0.3?", "00:25:49.8", "-00:00:01"),
    ("B9999+999", "", "", "0.3/0.5", "", ""),
]
PLACES = {name: (ra, dec.replace("&minus;", "-")) for name, _, _, _, ra, dec in LENSES if ra}


def page(lenses: list[tuple[str, ...]], ends: bool = True, head: str = "") -> bytes:
    """The survey's table within the table that lays the page out; without end tags where the page leaves them out."""
    titles = "#", "", "Lens Name", "G", "z<SUB>s</SUB>", "z<SUB>l</SUB>", "RA (J2000)", "Dec (J2000)", "E(B-V)"
    end = {name: f"</{name}>" if ends else "" for name in ("TD", "TH", "TR")}
    header = "<TR>" + "".join(f"<TH>{title}{end['TH']}" for title in titles) + end["TR"]
    rows = []
    for number, (name, grade, z_s, z_l, ra, dec) in enumerate(lenses, 1):
        link = f'<A HREF="Individual/{name}.html">{name}</A>'
        cells = (f"<B>{number}</B>", '<IMG SRC="x.gif">', link, grade, z_s, z_l, ra, dec, "0.032")
        rows.append('<TR ALIGN="CENTER">' + "".join(f"<TD>{cell}\n{end['TD']}" for cell in cells) + end["TR"])
    table = f'<TABLE BORDER="1">{header}{"".join(rows)}</TABLE>'
    return f"<HTML><BODY>{head}<TABLE><TR><TD>CASTLES <P>{table}</TABLE></BODY>".encode()


def claims(*pages: bytes) -> pl.DataFrame:
    found = castles.claims({f"page{i}.html": content for i, content in enumerate(pages)}, {})
    return schema.check(found, schema.SKY_CLAIMS, "castles")


@pytest.mark.parametrize("ends", [True, False], ids=["end tags", "no end tags"])
def test_every_lens_with_its_grade_and_place(ends: bool) -> None:
    found = claims(page(LENSES, ends))
    assert found["name"].to_list() == [lens[0] for lens in LENSES]
    assert found["label"].to_list() == ["lens", "lens", "lens", "unknown", "unknown", "unknown"]
    assert found["label_confidence"].to_list() == [1.0, 1.0, 0.8, 0.5, 0.5, 0.5]
    assert found["grade"].to_list() == ["A", "A", "B", "C", "C?", "ungraded"]
    assert set(found["label_source"]) == {"obs:castles"}
    for name, ra, dec in found.filter(pl.col("ra").is_not_null()).select("name", "ra", "dec").iter_rows():
        sky = SkyCoord(*PLACES[name], unit=("hourangle", "deg"))
        assert (ra, dec) == pytest.approx((sky.ra.deg, sky.dec.deg), abs=1e-9)
    assert found.filter(pl.col("ra").is_null())["name"].to_list() == ["B9999+999"]


def test_a_declination_just_south_of_the_equator_stays_south() -> None:
    assert claims(page(LENSES)).row(4, named=True)["dec"] == pytest.approx(-1 / 3600)


def test_redshifts_are_numbers_only_where_the_text_is_one() -> None:
    found = claims(page(LENSES))
    assert found["z_lens"].to_list() == [0.49, 0.68, None, None, None, None]
    assert found["z_text"].to_list() == ["0.49", "0.68", "(0.4)", "", "0.3?", "0.3/0.5"]
    assert found["z_source"].to_list() == [2.72, 0.96, 1.689, 3.80, 0.946, None]


def test_columns_are_found_by_their_titles() -> None:
    swapped = (
        b"<table><tr><td>Dec<td>RA<td>Grade<td>Lens name<tr><td>-09:45:17<td>01:45:16.5<td>B<td>Q0142-100"
        b"<tr><td>Dec<td>RA<td>Grade<td>Lens name</table>"
    )
    row = claims(swapped).row(0, named=True)
    assert (row["name"], row["label_confidence"], row["dec"]) == ("Q0142-100", 0.8, pytest.approx(-9.754722, abs=1e-6))
    assert claims(swapped).height == 1  # the titles below the table are no lens


def test_a_cell_across_columns_does_not_shift_the_others() -> None:
    content = page(LENSES).replace(b"<TH>#</TH><TH></TH>", b'<TH COLSPAN="2">#</TH>')
    assert claims(content)["ra"].to_list() == claims(page(LENSES))["ra"].to_list()


def test_a_lens_on_two_pages_is_two_entries() -> None:
    found = claims(page(LENSES[:1]), page([("Q0142-100", "C", "2.72", "0.49", "01:45:16.5", "-09:45:17")]))
    assert found.select("entry", "grade", "reference").rows() == [
        ("Q0142-100", "A", "page0.html"),
        ("Q0142-100#2", "C", "page1.html"),
    ]


HOSTILE = {
    "entities that grow": b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><p>&b;&b;',
    "a file of this machine": b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><p>&e;',
    "tables in tables": b"<table><tr><td>" * 5000,
    "spans without end": b'<table><tr><td colspan="99999999999999999999"><td colspan="-1"><td colspan="x">' * 100,
    "broken tags": b"<table <tr <td <!-- <![CDATA[ &#99999999999; </</table",
    "cells without a table": b"</td></table><td>A<tr><td>B",
    "unfinished tags": b"<a " * 300_000,
    "unfinished comments": b"<!--" * 300_000,
    "unfinished sections": b"<![CDATA[" * 100_000 + b"<![x[<!x<?" * 10_000,
    "unfinished values": b"<td a='>" * 50_000 + b'<td a=">',
    "a script without end": b"<script>" + b"</scrip" * 100_000,
    "no text": b"\xff\xfe\x00\x01" * 100,
}


@pytest.mark.parametrize("head", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_html_is_text_and_no_more(head: bytes) -> None:
    with pytest.raises(ContractError, match="lens name"):
        claims(head)


def test_a_row_in_a_comment_is_none() -> None:
    row = b'<TR ALIGN="CENTER">'
    first, second, rest = page(LENSES).split(row, 2)
    assert claims(first + b"<!-- " + row + second + b"-->" + row + rest)["name"][0] == LENSES[1][0]
    assert claims(page(LENSES).replace(b"Q0142-100</A>", b"Q0142-100</A><!-- <td>x</td> > -->"))["grade"][0] == "A"


def test_what_stands_before_the_table_does_no_harm() -> None:
    assert claims(page(LENSES, head=HOSTILE["entities that grow"].decode())).height == len(LENSES)


def test_a_page_without_a_readable_place_is_refused() -> None:
    with pytest.raises(ContractError, match=r"RA and Dec.*got '25\.5'"):
        claims(page([("Q1", "A", "1", "1", "25.5", "-3")]))


def test_no_page_is_refused() -> None:
    with pytest.raises(ContractError, match="no HTML page"):
        castles.claims({"castles.csv": b"name,G,RA,Dec\n"}, {})


@pytest.mark.parametrize("place", ["24:00:00", "01:60:00", "01:00:60", "1:2", "x"])
def test_what_is_no_time_of_day_is_no_place(place: str) -> None:
    found = claims(page([LENSES[0], ("Q1", "A", "1", "1", place, "+01:00:00")]))
    assert found["ra"].null_count() == found["dec"].null_count() == 1


def test_fetched_from_a_bad_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with bad_server.serve({"noimages.html": page(LENSES * 40), "index.html": page(LENSES)}) as server:
        downloads = [
            config.Download(mirrors=server.mirrors(name), sha256=server.sha256(name)) for name in sorted(server.files)
        ]
        params = config.CatalogueSource(kind="castles", path=None, downloads=downloads)
        castles.KIND.fetch(params, {}, tmp_path / "raw")
    assert ("drops", 0) not in server.requests  # what the liar had given was kept
    assert castles.KIND.sky_claims is not None
    found = castles.KIND.sky_claims("castles", tmp_path / "raw")
    assert found.height == 41 * len(LENSES)
    assert found["entry"].is_unique().all()
    assert castles.KIND.evidence("castles", tmp_path / "raw").is_empty()
