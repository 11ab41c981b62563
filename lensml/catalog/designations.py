"""The place that an object's name tells: SDSSJ0029-0055, Q0957+561, MS 0002.4+1604, DESI-003.6745-13.5042.

Names made of coordinates follow the IAU's rules for designations: pairs of digits for hours (or degrees), minutes and
seconds, an odd last digit is a tenth; J says equinox J2000, without it the equinox may be B1950; G says galactic.
"""

from typing import Final

import numpy as np
import polars as pl
from astropy import units as u
from astropy.coordinates import FK4, ICRS, BaseCoordinateFrame, Galactic, SkyCoord

PLACES: Final = {"row": pl.UInt32, "ra": pl.Float64, "dec": pl.Float64, "rounding_arcsec": pl.Float64}

# What stands before and after: no further number, for 4603-55999-719 is a plate, a day and a fibre.
_PAIRS: Final = r"(?:^|([A-Za-z]) ?|[^0-9.+\-A-Za-z])(\d{4,8})(?:\.(\d+))?([+\-])(\d{2,8})(?:\.(\d+))?(?:$|[^0-9.+\-])"
_DEGREES: Final = r"(?:^|([A-Za-z])[ -]?|[^0-9.+\-A-Za-z])(\d{3})\.(\d{2,})([+\-])(\d{2})\.(\d{2,})(?:$|[^0-9.+\-])"
_GROUPS: Final = ("letter", "ra_digits", "ra_fraction", "sign", "dec_digits", "dec_fraction")
_ANONYMOUS: Final = 6  # as many digits tell a right ascension even where no letter stands before them
_ARCSEC: Final = 3600.0  # per degree


def places(names: pl.Series) -> pl.DataFrame:
    """Every place that a name may mean.

    Parts of a name joined by "|" are read one by one; a part without J is read in both equinoxes. A part whose hours,
    degrees or minutes are none tells no place; seconds may be anything, for names have been counted up.

    Returns
    -------
    PLACES, by row: the row of `names`, ra and dec (deg, ICRS), and how far the name's last digits let them be off
    (arcsec on the sky).
    """
    parts = names.alias("name").to_frame().with_row_index("row").drop_nulls("name")
    plain = pl.col("name").str.replace_all(":", "").str.replace_all("[\u2212\u2013]", "-")  # minus sign, en dash
    parts = parts.with_columns(plain.str.split("|")).explode("name").unique(maintain_order=True)
    pairs = _found(parts, _PAIRS).filter(_is_designation())
    pairs = pairs.select("row", pl.col("letter").fill_null(""), *_from_pairs()).filter("valid").drop("valid")
    degrees = _found(parts, _DEGREES).select("row", pl.col("letter").fill_null(""), *_from_degrees())
    pairs, degrees = (part.filter(pl.col("ra") < 360, pl.col("dec").abs() <= 90) for part in (pairs, degrees))
    galactic = pl.col("letter") == "G"
    found = [
        pairs,
        _to_icrs(pairs.filter(pl.col("letter") != "J"), FK4(equinox="B1950", obstime="B1950")),
        degrees.filter(~galactic),
        _to_icrs(degrees.filter(galactic), Galactic()),
    ]
    return pl.concat(found).select(pl.col(name).cast(kind) for name, kind in PLACES.items()).unique().sort(*PLACES)


def _found(parts: pl.DataFrame, pattern: str) -> pl.DataFrame:
    """The rows whose name has the pattern, with its groups."""
    groups = pl.col("name").str.extract_groups(pattern).struct.rename_fields(list(_GROUPS))
    return parts.select("row", groups.alias("groups")).unnest("groups").drop_nulls("ra_digits")


def _is_designation() -> pl.Expr:
    """Right ascension and declination of like precision, and a letter before those that might be another number."""
    ra, dec = (_length(f"{axis}_digits") for axis in ("ra", "dec"))
    return dec.is_between(ra - 2, ra + 1) & ((ra >= _ANONYMOUS) | pl.col("letter").is_not_null())


def _from_pairs() -> list[pl.Expr]:
    ra, ra_step, ra_valid = _sexagesimal("ra")
    dec, dec_step, dec_valid = _sexagesimal("dec")
    rounding = _rounding(15 * ra_step, dec_step, dec)
    return [(15 * ra).alias("ra"), (_sign() * dec).alias("dec"), rounding, (ra_valid & dec_valid).alias("valid")]


def _sexagesimal(axis: str) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """Value and worth of the last digit, in hours or degrees, and whether the minutes are minutes."""
    digits, pairs = pl.col(f"{axis}_digits"), pl.min_horizontal(_length(f"{axis}_digits") // 2, pl.lit(3))
    first, second, third = (
        pl.when(pairs > k).then(digits.str.slice(2 * k, 2)).cast(pl.Float64).fill_null(0.0) for k in range(3)
    )
    fraction = pl.concat_str(digits.str.slice(2 * pairs), pl.col(f"{axis}_fraction").fill_null(""))
    last = pl.lit(60.0).pow(1 - pairs)  # worth of one of the last pair
    rest = pl.concat_str(pl.lit("0."), fraction, pl.lit("0")).cast(pl.Float64) * last
    step = last * pl.lit(10.0).pow(-fraction.str.len_chars().cast(pl.Int64))
    return first + second / 60 + third / 3600 + rest, step, second < 60


def _from_degrees() -> list[pl.Expr]:
    ra, dec = (
        pl.concat_str(f"{axis}_digits", pl.lit("."), f"{axis}_fraction").cast(pl.Float64) for axis in ("ra", "dec")
    )
    ra_step, dec_step = (pl.lit(10.0).pow(-_length(f"{axis}_fraction")) for axis in ("ra", "dec"))
    return [ra.alias("ra"), (_sign() * dec).alias("dec"), _rounding(ra_step, dec_step, dec)]


def _length(column: str) -> pl.Expr:
    return pl.col(column).str.len_chars().cast(pl.Int64)


def _sign() -> pl.Expr:
    return pl.when(pl.col("sign") == "-").then(-1.0).otherwise(1.0)


def _rounding(ra_step: pl.Expr, dec_step: pl.Expr, dec: pl.Expr) -> pl.Expr:
    """Arcsec on the sky of one unit of the last digits (steps in deg), for names are truncated, or rounded."""
    return (_ARCSEC * ((ra_step * dec.radians().cos()) ** 2 + dec_step**2).sqrt()).alias("rounding_arcsec")


def _to_icrs(table: pl.DataFrame, frame: BaseCoordinateFrame) -> pl.DataFrame:
    """The same numbers read in another frame."""
    if table.is_empty():
        return table
    sky = SkyCoord(table["ra"].to_numpy() * u.deg, table["dec"].to_numpy() * u.deg, frame=frame).transform_to(ICRS())
    return table.with_columns(ra=np.asarray(sky.ra.deg), dec=np.asarray(sky.dec.deg))
