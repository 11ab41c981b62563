"""Claims of catalogues about objects against brute force over all pairs, and the rule for several entries."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from astropy.coordinates import SkyCoord

from lensml import schema
from lensml.catalog import crossmatch, provenance, sky_catalogues
from tests.test_catalog_provenance import claim, table
from tests.test_catalog_sky_catalogues import catalogue, entry

HOME = {"frame": "icrs", "ra": 10.0, "dec": 5.0}
ARCSEC = 1 / 3600


def attach(objects: pl.DataFrame, arcsec: float = 3.0, **sky: pl.DataFrame) -> pl.DataFrame:
    return crossmatch.attach(objects, sky, arcsec)[0]


def test_pairs_equal_brute_force() -> None:
    rng = np.random.default_rng(8)
    places, known = (np.stack([rng.uniform(-0.02, 0.02, n) % 360, rng.uniform(-0.02, 0.02, n)]) for n in (200, 150))
    rows = [
        claim(f"one.{n:03d}", "weak:z", "nonlens", frame="icrs", ra=ra, dec=dec) for n, (ra, dec) in enumerate(places.T)
    ]
    rows.append(claim("one.x", "weak:z", "nonlens"))
    rows.append(claim("one.y", "weak:z", "nonlens", frame="bologna", ra=0.0, dec=0.0))
    sky = catalogue(*(entry("", ra, dec) for ra, dec in known.T), entry("", None, None))
    near = SkyCoord(*places, unit="deg")[:, None].separation(SkyCoord(*known, unit="deg")[None]).arcsec <= 10
    found, counts = crossmatch.attach(table(*rows), {"known": sky}, 10.0)
    assert found["object_id"].to_list() == [f"one.{n:03d}" for n in np.flatnonzero(near.any(1))]
    assert counts == {
        "known": {
            "matched": int(near.any(0).sum()),
            "unmatched": 151 - int(near.any(0).sum()),
            "objects": int(near.any(1).sum()),
        }
    }
    assert 0 < counts["known"]["matched"] < 150


def test_a_claim_is_about_the_object_and_says_what_the_entry_says() -> None:
    objects = table(claim("one.1", "weak:z", "nonlens", parent="p", kind="spiral", survey="des", **HOME))
    sky = catalogue(entry("", 10 + ARCSEC, 5.0, kind="galaxy", grade="A", z_lens=0.3, theta_e_arcsec=1.2))
    want: dict[str, Any] = {
        **claim("one.1", "obs:a", "lens", parent="p", survey="des", **HOME),
        **{"kind": "galaxy", "grade": "A", "z_lens": 0.3, "theta_e_arcsec": 1.2},
    }
    assert attach(objects, known=sky).to_dicts() == [{name: want[name] for name in schema.EVIDENCE}]
    nonlens = catalogue(entry("", 10.0, 5.0, "nonlens", z_lens=0.3, theta_e_arcsec=1.2))
    assert attach(objects, known=nonlens).select("z_lens", "theta_e_arcsec").row(0) == (None, None)


def test_the_limit_is_the_separation_on_the_sphere() -> None:
    objects = table(claim("one.1", "weak:z", "nonlens", frame="icrs", ra=0.0, dec=60.0))
    for ra, matched in ((-5.9 * ARCSEC % 360, 1), (6.1 * ARCSEC, 0)):  # cos 60 deg = 1/2
        assert attach(objects, 3.0, known=catalogue(entry("", ra, 60.0))).height == matched


LENS = ("lens", 1.0, "")
CANDIDATE = ("unknown", 0.0, "C")
NONLENS = ("nonlens", 1.0, "")
TORN = ("unknown", 0.0, sky_catalogues.CONTRADICTED)


@pytest.mark.parametrize(
    ("entries", "decided"),
    [
        ([LENS, CANDIDATE], LENS),
        ([NONLENS, CANDIDATE], CANDIDATE),
        ([LENS, NONLENS, CANDIDATE], LENS),
        ([LENS, NONLENS], TORN),
        ([LENS, ("nonlens", 0.9, "")], LENS),
        ([("lens", 0.8, "B"), ("lens", 1.0, "A")], ("lens", 1.0, "A")),
        ([CANDIDATE, ("unknown", 0.0, "")], CANDIDATE),
        ([CANDIDATE, ("unknown", 0.5, "")], CANDIDATE),
    ],
)
def test_several_entries_on_one_object_are_one_claim(entries: list[Any], decided: Any) -> None:
    objects = table(claim("one.1", "weak:z", "nonlens", **HOME))
    for order in (entries, entries[::-1]):
        sky = catalogue(
            *(
                entry("", 10.0, 5 + n * ARCSEC, label, label_confidence=sure, grade=grade)
                for n, (label, sure, grade) in enumerate(order)
            )
        )
        found = attach(objects, known=sky)
        assert found.select("label", "label_confidence", "grade").rows() == [decided]


def test_claims_of_several_catalogues_and_of_the_source_itself_can_be_gathered() -> None:
    objects = table(
        claim("one.1", "obs:slacs", "lens", grade="own", **HOME), claim("one.1", "weak:z", "nonlens", **HOME)
    )
    one = catalogue(entry("", 10.0, 5.0, label_source="obs:slacs"), entry("", 10.0, 5.0, label_source="obs:lenscat"))
    other = catalogue(entry("", 10.0, 5.0, label_source="obs:lenscat"))
    found = attach(objects, one=one, other=other)
    assert found["label_source"].to_list() == ["obs:lenscat"]
    gathered = provenance.gather({"one": pl.concat([objects, found])})
    assert gathered["label_source"].to_list() == ["obs:lenscat", "obs:slacs", "weak:z"]


def test_nothing_to_match() -> None:
    objects = table(claim("one.1", "weak:z", "nonlens", **HOME))
    assert crossmatch.attach(objects, {}, 3.0)[1] == {}
    empty = {"matched": 0, "unmatched": 0, "objects": 0}
    nothing = catalogue(entry("", 10.0, 5.0)).clear()
    assert crossmatch.attach(objects, {"known": nothing}, 3.0)[0].is_empty()
    found, counts = crossmatch.attach(objects.clear(), {"known": catalogue(entry("", 10.0, 5.0))}, 3.0)
    assert found.is_empty()
    assert counts == {"known": empty | {"unmatched": 1}}


def test_a_galaxy_for_pretraining_is_never_labelled_by_its_neighbourhood() -> None:
    objects = table(claim("one.1", "pretrain:z", "unknown", **HOME), claim("one.2", "weak:z", "nonlens", **HOME))
    found, counts = crossmatch.attach(objects, {"known": catalogue(entry("", 10.0, 5.0))}, 3.0)
    assert found["object_id"].to_list() == ["one.2"]
    assert counts["known"]["objects"] == 1
