"""Groups against a brute-force closure over all pairs, with separations from astropy."""

import numpy as np
import polars as pl
import pytest
from astropy.coordinates import angular_separation
from hypothesis import given, settings
from hypothesis import strategies as st

from lensml.catalog import groups

ARCSEC = 1 / 3600
COLUMNS = {
    "object_id": pl.String, "source": pl.String, "parent": pl.String, "frame": pl.String,
    "ra": pl.Float64, "dec": pl.Float64,
}  # fmt: skip
Row = tuple[str, str, str, str, float | None, float | None]


def partition(rows: list[Row], arcsec: float = 2.0) -> set[frozenset[str]]:
    table = pl.DataFrame(rows, schema=COLUMNS, orient="row")
    found = table.with_columns(groups.group_ids(table, arcsec))
    return {frozenset(part["object_id"]) for part in found.partition_by("group_id")}


def brute_force(rows: list[Row], arcsec: float) -> set[frozenset[str]]:
    """Every pair is asked; sets are merged until nothing changes."""
    ids = {row[0] for row in rows}
    where = {key: {key} for key in ids}
    for i, one in enumerate(rows):
        for other in rows[:i]:
            if linked(one, other, ids, arcsec):
                merged = where[one[0]] | where[other[0]]
                where.update(dict.fromkeys(merged, merged))
    return {frozenset(found) for found in where.values()}


def parents(row: Row, ids: set[str]) -> set[str]:
    """The objects that a row's parent may be: its source's own first, then one named in full, then any by that name."""
    at_home = {key for key in ids - {row[0]} if row[2] and key == f"{row[1]}.{row[2]}"}
    exact = {key for key in ids if row[2] and key == row[2]}
    return at_home or exact or {key for key in ids if row[2] and key.partition(".")[2] == bare(row)}


def linked(one: Row, other: Row, ids: set[str], arcsec: float) -> bool:
    if one[0] in parents(other, ids) or other[0] in parents(one, ids) or parents(one, ids) & parents(other, ids):
        return True
    known = [{bare(row), f"{row[1]}.{bare(row)}"} for row in (one, other) if row[2] and not near_home(row, ids)]
    if len(known) == 2 and known[0] & known[1]:
        return True
    if not one[3] or one[3] != other[3]:
        return False
    apart = angular_separation(*np.deg2rad(np.array([*one[4:], *other[4:]], dtype=float)))
    return bool(np.rad2deg(apart) * 3600 <= arcsec)


def bare(row: Row) -> str:
    return row[2].removeprefix(f"{row[1]}.")


def near_home(row: Row, ids: set[str]) -> bool:
    return f"{row[1]}.{row[2]}" in ids - {row[0]} or row[2] in ids


def near(arcsec: float) -> st.SearchStrategy[float]:
    return st.integers(-6, 6).map(lambda n: n * arcsec)


CENTRES = [(0.0, 0.0), (359.9999, 10.0), (10.0, 90.0), (200.0, -90.0), (180.0, 89.9999), (360.0, 0.0)]


@st.composite
def skies(draw: st.DrawFn) -> list[Row]:
    rows: list[Row] = []
    for number in range(draw(st.integers(1, 14))):
        source, frame = draw(st.sampled_from(["a", "b"])), draw(st.sampled_from(["", "icrs", "icrs", "bologna"]))
        parent = draw(st.sampled_from(["", "", "", "p", "a.p", f"{number // 2}", "2", "a.3", "b.5"]))
        ra, dec = draw(st.sampled_from(CENTRES))
        dec = float(np.clip(dec + draw(near(0.7)) * ARCSEC, -90, 90))
        ra = (ra + draw(near(0.7)) * ARCSEC / max(np.cos(np.deg2rad(dec)), 1e-6)) % 360
        rows.append((f"{source}.{number}", source, parent, frame, ra if frame else None, dec if frame else None))
    return rows


@settings(max_examples=150, deadline=None, derandomize=True)
@given(skies(), st.sampled_from([1.0, 2.0, 3.3]))
def test_groups_equal_brute_force(rows: list[Row], arcsec: float) -> None:
    assert partition(rows, arcsec) == brute_force(rows, arcsec)


@pytest.mark.parametrize("dec", [-90.0, -89.999, -45.0, 0.0, 60.0, 89.9999])
def test_random_skies_across_the_wrap(dec: float) -> None:
    rng = np.random.default_rng(int(dec * 10) % 1000)
    place = np.clip(dec + rng.normal(0, 8, 120) * ARCSEC, -90, 90)
    ra = (rng.normal(0, 8, 120) * ARCSEC / np.maximum(np.cos(np.deg2rad(place)), 1e-4)) % 360
    rows: list[Row] = [(f"a.{n}", "a", "", "icrs", float(ra[n]), float(place[n])) for n in range(120)]
    sizes = set()
    for arcsec in (1.0, 2.0, 4.0):
        found = partition(rows, arcsec)
        assert found == brute_force(rows, arcsec)
        sizes.add(len(found))
    assert len(sizes) > 1


def test_a_twin_stays_with_the_lens_it_was_made_from() -> None:
    rows: list[Row] = [
        ("hst.lens-1", "hst", "", "", None, None),
        ("hst.twin-1", "hst", "lens-1", "", None, None),
        ("hst.twin-2", "hst", "hst.lens-1", "", None, None),
        ("other.twin", "other", "hst.lens-1", "", None, None),
        ("other.lens-1", "other", "", "", None, None),
        ("third.twin", "third", "lens-2", "", None, None),
        ("other.lens-2", "other", "", "", None, None),
        ("fourth.lens-2", "fourth", "lens-2", "", None, None),
        ("hst.sole", "hst", "", "", None, None),
        ("hst.orphan-1", "hst", "lost", "", None, None),
        ("hst.orphan-2", "hst", "hst.lost", "", None, None),
    ]
    assert partition(rows) == {
        frozenset({"hst.lens-1", "hst.twin-1", "hst.twin-2", "other.twin"}),
        frozenset({"other.lens-1"}),
        frozenset({"third.twin", "other.lens-2", "fourth.lens-2"}),
        frozenset({"hst.sole"}),
        frozenset({"hst.orphan-1", "hst.orphan-2"}),
    }


def test_a_twin_of_its_parents_name_in_another_source_stays_with_it() -> None:
    rows: list[Row] = [("twins.J1", "twins", "J1", "", None, None), ("lenses.J1", "lenses", "", "", None, None)]
    assert len(partition(rows)) == 1


def test_sources_that_number_their_objects_alike_are_not_mixed() -> None:
    rows: list[Row] = []
    for source in "ab":
        rows += [(f"{source}.{n}", source, str(n // 2 + 100) if n < 100 else "", "", None, None) for n in range(150)]
    assert len(partition(rows)) == 100


def test_frames_are_different_skies() -> None:
    rows: list[Row] = [("a.1", "a", "", "icrs", 1.0, 1.0), ("a.2", "a", "", "bologna", 1.0, 1.0)]
    assert len(partition(rows)) == 2


def test_name_is_of_the_smallest_object_whatever_the_order() -> None:
    rows: list[Row] = [(f"a.{n}", "a", f"p{n % 3}", "", None, None) for n in range(9)]
    table = pl.DataFrame(rows, schema=COLUMNS, orient="row")
    names = dict(zip(table["object_id"], groups.group_ids(table, 2.0), strict=True))
    turned = table.reverse()
    assert dict(zip(turned["object_id"], groups.group_ids(turned, 2.0), strict=True)) == names
    fewer = table.head(6)  # the smallest of every group is still there
    assert dict(zip(fewer["object_id"], groups.group_ids(fewer, 2.0), strict=True)).items() <= names.items()


def test_a_pile_at_one_place_costs_its_size() -> None:
    rows: list[Row] = [(f"a.{n:06d}", "a", "", "icrs", 0.0, 0.0) for n in range(30_000)]
    assert len(partition(rows)) == 1


def test_used_sight_lines_cost_their_objects() -> None:
    rng = np.random.default_rng(1)
    line = rng.integers(0, 5, 30_000)  # 6,000 objects each, 90 million pairs in all
    ra, dec = 10.0 + line + rng.normal(0, 0.02, 30_000) * ARCSEC, rng.normal(0, 0.02, 30_000) * ARCSEC
    rows: list[Row] = [(f"a.{n:06d}", "a", "", "icrs", float(ra[n]), float(dec[n])) for n in range(30_000)]
    assert sorted(map(len, partition(rows))) == sorted(np.bincount(line))


@pytest.mark.parametrize(("gap", "count"), [(1.999, 1), (2.001, 2)])
def test_clouds_whose_nearest_points_are_not_their_first(gap: float, count: int) -> None:
    cloud = np.linspace(0.1, 0, 40)
    offsets = 0.3 + np.concatenate([-cloud, gap + cloud])  # the farthest first, and no edge of a cell between
    rows: list[Row] = [(f"a.{n}", "a", "", "icrs", 50.0, float(x * ARCSEC)) for n, x in enumerate(offsets)]
    assert len(partition(rows)) == count


def test_nothing_gives_nothing() -> None:
    assert groups.group_ids(pl.DataFrame(schema=COLUMNS), 2.0).to_list() == []
