"""Entries of a sky catalogue whose name tells another place than their position, and what seems to have happened."""

from typing import Any, Final

import numpy as np
import polars as pl
from astropy.coordinates import angular_separation
from numpy.typing import NDArray

from lensml.catalog import designations

COUNTED_UP: Final = "names count up by one from entry to entry, so the names are wrong"
LOST: Final = "whole hours or degrees of the position are lost or mistaken"
SIGN: Final = "the declinations differ in their sign"
DEC: Final = "the right ascensions agree, the declinations do not"
RA: Final = "the declinations agree, the right ascensions do not"
NEITHER: Final = "neither coordinate agrees"
CAUSES: Final = (COUNTED_UP, LOST, SIGN, DEC, RA, NEITHER)  # the first that fits is told

MISPLACED: Final = {"row": pl.UInt32, "cause": pl.String, "ra": pl.Float64, "dec": pl.Float64}

_RUN: Final = 5  # as many names in a row, each one more than the last, are no coincidence
_HOUR: Final = 15.0  # deg
_ARCSEC: Final = 3600.0  # per deg

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


def find(claims: pl.DataFrame, tolerance_arcsec: float) -> pl.DataFrame:
    """Entries that stand further from every place in their name than the tolerance and the name's own rounding.

    Parameters
    ----------
    claims : name, ra, dec (deg, ICRS; null: not looked at), in the catalogue's order

    Returns
    -------
    MISPLACED, a row per such entry: its row, the cause, and where it may stand instead (deg, ICRS): with the hours,
    degrees or sign of the name where these are what is missing, else the place in the name, as coarse as that is.
    """
    where = claims.with_row_index("row").select("row", ra_stated="ra", dec_stated="dec").drop_nulls()
    table = designations.places(claims["name"]).join(where, on="row", how="inner", maintain_order="left")
    separation = _separation_arcsec(table)
    table = table.with_columns(excess=separation - table["rounding_arcsec"].to_numpy() - tolerance_arcsec)
    table = table.filter(pl.col("excess").min().over("row") > 0)
    cause, ra, dec = _diagnosis(table, tolerance_arcsec)
    run = _counted_up(claims["name"])[table["row"].to_numpy()]
    order = np.where(run, CAUSES.index(COUNTED_UP), cause)
    restored = order <= CAUSES.index(SIGN)
    told = table.select("row", "excess", order=order, restored=restored, ra=ra, dec=dec)
    told = told.sort("row", ~pl.col("restored"), "excess", "order", "ra", "dec")
    told = told.unique("row", keep="first", maintain_order=True)
    words = pl.Series("cause", [CAUSES[place] for place in told["order"]], pl.String)
    return told.with_columns(words).select(*MISPLACED)


def _separation_arcsec(table: pl.DataFrame) -> Floats:
    columns = (np.radians(table[name].to_numpy()) for name in ("ra", "dec", "ra_stated", "dec_stated"))
    separation: Floats = np.degrees(angular_separation(*columns)) * _ARCSEC
    return separation


def _diagnosis(table: pl.DataFrame, tolerance_arcsec: float) -> tuple[Places, Floats, Floats]:
    """(place,) of CAUSES for each place in a name, and the right ascension and declination that the entry may mean."""
    ra, dec, ra_stated, dec_stated = (table[name].to_numpy() for name in ("ra", "dec", "ra_stated", "dec_stated"))
    dec_slack = (table["rounding_arcsec"].to_numpy() + tolerance_arcsec) / _ARCSEC
    ra_slack = dec_slack / np.maximum(np.cos(np.radians(dec)), dec_slack / _HOUR)
    ra_off = (ra - ra_stated + 180) % 360 - 180
    hours = _HOUR * np.round(ra_off / _HOUR)
    degrees = np.round(abs(dec) - abs(dec_stated))
    same_ra, same_dec = abs(ra_off) <= ra_slack, abs(dec - dec_stated) <= dec_slack
    rest_of_dec = (abs(dec_stated) < 1) & (abs(abs(dec) - abs(dec_stated) - degrees) <= dec_slack) & (degrees > 0)
    lost = (abs(ra_off - hours) <= ra_slack) & (same_dec | rest_of_dec)
    sign = same_ra & (abs(dec + dec_stated) <= dec_slack)
    cases = [(LOST, lost), (SIGN, sign), (DEC, same_ra), (RA, same_dec)]
    cause = np.select([case for _, case in cases], [CAUSES.index(word) for word, _ in cases], CAUSES.index(NEITHER))
    whole_dec = np.where(same_dec, dec_stated, np.copysign(abs(dec_stated) + degrees, dec))
    return (
        cause,
        np.select([lost, sign], [(ra_stated + hours) % 360, ra_stated], ra),
        np.select([lost, sign], [whole_dec, -dec_stated], dec),
    )


def _counted_up(names: pl.Series) -> NDArray[np.bool_]:
    """(entry,), True in a run of names like 000008+022659, 000008+022660, ...: a table filled downwards."""
    parts: Any = names.str.extract_groups(r"^(.*?)(\d{1,9})\s*$").struct.rename_fields(["stem", "digits"])
    table = parts.struct.unnest().with_columns(number=pl.col("digits").cast(pl.Int64))
    like_last = (pl.col("stem") == pl.col("stem").shift()) & (pl.col("number") == pl.col("number").shift() + 1)
    run = table.with_columns(run=(~like_last.fill_null(False)).cum_sum())
    return run.select(pl.len().over("run") >= _RUN).to_series().to_numpy()
