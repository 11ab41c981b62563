"""The sample of real survey files beside the checkout, as sources of params.yaml, each set of a kind of its own."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from lensml import config

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "real"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no sample of real survey files beside the checkout")


def _survey(kind: str, folder: str, survey: str, **more: Any) -> dict[str, Any]:
    told = {"kind": kind, "path": str(REAL / folder), "downloads": [], "survey": survey}
    return told | {"catalogue": None, "bands": None, "stamp_arcsec": None} | more


def _bologna(challenge: str) -> dict[str, Any]:
    told = {"kind": "bologna", "challenge": challenge, "path": str(REAL / "bologna-challenge1")}
    return told | {"downloads": [], "lens_rule": None}


def _catalogue(kind: str, file: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "path": str(REAL / file), "downloads": []} | more


PIXELS: dict[str, dict[str, Any]] = {
    "bologna_ground": _bologna("ground"),
    "bologna_space": _bologna("space"),
    "cfht_sl2s": _survey("cfht", "cfht-sl2s", "cfht"),
    "des_lrg": _survey("des", "des-lrg", "des", bands=["g", "r", "i"]),  # the headers say i three times
    "euclid_q1": _survey("euclid", "euclid-q1", "euclid"),
    "hsc_stars": _survey("hsc", "hsc-stars", "hsc"),
    "hsc_hst_blends": _survey("scarlet", "hsc-hst-blends", "hsc"),
    "hst_cosmos": _survey("cosmos", "hst-cosmos", "hst"),
    "hst_delensed": {"kind": "cutouts", "path": str(REAL / "hst-delensed"), "files_per_archive": 8192},
    "hst_dinos": _survey("dinos", "hst-dinos", "hst"),
    "hst_slacs": _survey("autolens", "hst-slacs", "hst", bands=["F814W"]),
    "kids_field": _survey("kids", "kids-field", "kids"),
    "kids_sdss": _survey("profit", "kids-sdss", "kids"),
}
CATALOGUES: dict[str, dict[str, Any]] = {
    "lenscat": _catalogue("lenscat", "catalogues/lenscat_catalog.csv"),
    "slacs": _catalogue("slacs", "catalogues/SLACS_table.cat"),
    "rings": _catalogue(
        "galaxy_zoo", "catalogues/galaxy-zoo-rings",
        votes_min=10, fraction_min=0.5, weak_confidence=0.3, hard_negative_confidence=0.7,
    ),
    "smacs0723": _catalogue("multiple_images", "smacs0723/ICLv2"),
}  # fmt: skip


def source(name: str) -> Any:
    """The parameters of a set, checked as params.yaml's are."""
    return TypeAdapter(config.Source).validate_python({**PIXELS, **CATALOGUES}[name])
