"""Lists of multiple images as Lenstool has them, small ones and the real one of SMACS J0723."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lensml import config, schema
from lensml.schema import ContractError
from lensml.sources import multiple_images
from tests.real_sample import REAL, needs_real

LIST = b"""#REFERENCE 0
1.1 110.84 -73.451 0.1 0.1 0 1.449 0.0
1.2 110.85 -73.455 0.1 0.1 0 1.449

# 9.1 110.86 -73.456 0.1 0.1 0 1.0 0.0
c4.1 0.5 +12.25 0.1 0.1 -51.1 0.0 22.4
"""


def claims(**files: bytes) -> pl.DataFrame:
    found = multiple_images.claims({name.replace("_dat", ".dat"): content for name, content in files.items()}, {})
    return schema.check(found, schema.SKY_CLAIMS, "multiple_images")


def test_positions_and_redshifts() -> None:
    found = multiple_images.positions(LIST)
    assert found.columns == ["id", "ra", "dec", "z"]
    assert found.rows() == [
        ("1.1", 110.84, -73.451, 1.449),
        ("1.2", 110.85, -73.455, 1.449),
        ("c4.1", 0.5, 12.25, None),
    ]


def test_an_image_of_a_cluster_lens_is_neither_a_lens_nor_none() -> None:
    found = claims(arcs_dat=LIST)
    assert found["label"].to_list() == ["unknown"] * 3
    assert set(found["grade"]) == {"multiple image"}
    assert set(found["kind"]) == {"cluster"}
    assert set(found["label_source"]) == {"obs:multiple_images"}
    assert found["z_source"].to_list() == [1.449, 1.449, None]
    assert found["z_lens"].null_count() == 3


def test_lists_of_several_clusters_have_entries_of_their_own() -> None:
    found = multiple_images.claims({"a/arcs.dat": LIST, "b/arcs.dat": LIST, "b/galcat.cat": b"cluster members"}, {})
    assert found["entry"].to_list() == [f"{c}.arcs.{i}" for c in "ab" for i in ("1.1", "1.2", "c4.1")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"1.1 110.84 -73.451 0.1 0.1 0\n", r"id ra dec a b theta z.*line 1"),
        (b"1.1 110.84 -73.451 0.1 0.1 0 z\n", "line 1"),
        (LIST + b"2.1 361 0 1 1 0 1\n", "line 7"),
        (LIST + b"2.1 36 -91 1 1 0 1\n", "line 7"),
        (LIST + b"2.1 36 nan 1 1 0 1\n", "line 7"),
        (LIST + b"2.1 36 0 1 1 0 -1\n", "line 7"),
        (LIST + b"1.1 36 0 1 1 0 1\n", r"1\.1 twice"),
        (b"#REFERENCE 3 110.8 -73.4\n1.1 0.5 0.5 1 1 0 1\n", "in degrees"),
        (b"# nothing\n\n", "got none"),
        (b"\xff\xfe\x00", "must be text"),
    ],
)
def test_a_broken_list_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(ContractError, match=rf"arcs\.dat: .*{words}"):
        claims(arcs_dat=content)


def test_no_list_and_two_of_one_name_are_refused() -> None:
    with pytest.raises(ContractError, match=r"must hold a list.*got galcat\.cat"):
        multiple_images.claims({"galcat.cat": LIST}, {})
    with pytest.raises(ContractError, match="must differ in name"):
        multiple_images.claims({"arcs.dat": LIST, "arcs.txt": LIST}, {})


@needs_real
def test_the_real_list(tmp_path: Path) -> None:
    folder = REAL / "smacs0723" / "ICLv2"
    params = config.CatalogueSource(kind="multiple_images", path=str(folder), downloads=[])
    multiple_images.KIND.fetch(params, {}, tmp_path)
    assert multiple_images.KIND.sky_claims is not None
    found = multiple_images.KIND.sky_claims("smacs0723", tmp_path)
    oracle = np.genfromtxt(folder / "arcs.dat")
    by_place = found.sort("ra")
    order = np.argsort(oracle[:, 1])
    np.testing.assert_array_equal(by_place["ra"], oracle[order, 1])
    np.testing.assert_array_equal(by_place["dec"], oracle[order, 2])
    assert found.height == 60
    assert found["name"].str.split(".").list.first().n_unique() == 21  # families
    assert found["z_source"].null_count() == (oracle[:, 6] == 0).sum()
