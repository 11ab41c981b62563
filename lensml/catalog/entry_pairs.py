"""Entries of one catalogue that are one thing: near each other in the sky, or of one name at two places."""

from typing import Final

import polars as pl
from astropy import units as u
from astropy.coordinates import SkyCoord, search_around_sky

from lensml.catalog import designations

PAIRS: Final = {"first": pl.UInt32, "second": pl.UInt32, "separation_arcsec": pl.Float64}

_DIGITS_MIN: Final = 3  # of a name that is no running number such as 11B


def near(claims: pl.DataFrame, arcsec: float) -> pl.DataFrame:
    """PAIRS: rows of entries that stand within `arcsec` of each other, first < second."""
    placed = claims.with_row_index("row").drop_nulls(["ra", "dec"])
    sky = _sky(placed)
    found, rows = search_around_sky(sky, sky, arcsec * u.arcsec), placed["row"].to_numpy()
    ends = rows[found.indices_to_first_set], rows[found.indices_to_second_set]
    pairs = pl.DataFrame([*ends, found.angular_separation.to_value(u.arcsec)], schema=PAIRS)
    return pairs.filter(pl.col("first") < pl.col("second")).sort("first", "second")


def of_one_name(claims: pl.DataFrame, tolerance_arcsec: float) -> pl.DataFrame:
    """PAIRS: the first entry of a name and each other that stands further off than the tolerance and the rounding.

    Names are compared part by part without spaces and regard to case; those that tell a place may be off by their last
    digits. A number, or what has fewer than three digits, is no name.
    """
    rounding = designations.places(claims["name"]).group_by("row").agg(pl.col("rounding_arcsec").max())
    parts = claims.with_row_index("row").select("row", "ra", "dec", pl.col("name").str.to_uppercase().str.split("|"))
    parts = parts.explode("name").with_columns(pl.col("name").str.replace_all(r"\s", "")).drop_nulls()
    named = pl.col("name").str.contains("[A-Z]") & (pl.col("name").str.count_matches(r"\d") >= _DIGITS_MIN)
    parts = parts.filter(named).unique(["row", "name"], maintain_order=True)
    parts = parts.filter(pl.col("name").is_duplicated()).join(rounding, on="row", how="left")
    parts = parts.with_columns(pl.col("rounding_arcsec").fill_null(0.0))
    first = parts.sort("row").unique("name", keep="first", maintain_order=True)
    pairs = first.join(parts, on="name", suffix="_2").filter(pl.col("row") < pl.col("row_2"))
    separation = _sky(pairs).separation(_sky(pairs, "_2")).to_value(u.arcsec)
    pairs = pairs.with_columns(separation_arcsec=separation)
    pairs = pairs.filter(pl.col("separation_arcsec") > tolerance_arcsec + pl.col("rounding_arcsec"))
    pairs = pairs.select(pl.col("row").alias("first"), pl.col("row_2").alias("second"), "separation_arcsec")
    return pairs.unique(["first", "second"]).sort("first", "second")


def _sky(table: pl.DataFrame, suffix: str = "") -> SkyCoord:
    ra, dec = (table[name + suffix].to_numpy() for name in ("ra", "dec"))
    return SkyCoord(ra * u.deg, dec * u.deg)
