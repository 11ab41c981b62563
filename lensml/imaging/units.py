"""What a header's numbers mean: nJy from its zero-point, arcsec from its WCS."""

import math
from collections.abc import Mapping
from typing import Final

from lensml import config

AB_NANOJANSKY: Final = 31.4  # AB magnitude of 1 nJy
_SAME_ZERO_POINT: Final = 0.01  # mag: headers round
_FLUX_UNITS: Final = {  # zero-point of a pixel's unit
    "njy": 31.4,
    "ujy": 23.9,
    "mjy": 16.4,
    "jy": 8.9,
    "maggies": 0.0,
    "maggy": 0.0,
    "nanomaggies": 22.5,
    "nanomaggy": 22.5,
    "nmgy": 22.5,
}
_COUNT_UNITS: Final = {"", "adu", "count", "counts", "counts/s", "cts", "dn", "dn/s", "e-", "e-/s", "e/s"} | {
    "data value",  # of SWarp's coadds
    "electron",
    "electrons",
    "electron/s",
    "electrons/s",
}  # say nothing about the zero-point
_SCALE_DECIMALS: Final = 9
_DEGREES: Final = {"": 1.0, "deg": 1.0, "degree": 1.0, "arcmin": 1 / 60, "arcsec": 1 / 3600, "rad": 180 / math.pi}


def nanojansky_per_unit(header: Mapping[str, object], survey: config.Survey) -> float:
    """The factor from a header's pixel values to nJy, 10^(0.4 (31.4 - zero-point)).

    The zero-point is what `MAGZERO`, `PHOTFLAM` with `PHOTPLAM` (-2.5 log10 PHOTFLAM - 5 log10 PHOTPLAM - 2.408; STScI
    ACS), `FLUXMAG0` (2.5 log10) or a flux unit in `BUNIT` says; where the header is silent, the survey's.

    Raises
    ------
    ValueError
        The header names an unknown unit, half a pair or no number, or its cards disagree by more than 0.01 mag.
    """
    stated = _stated(header)
    if stated and max(stated.values()) - min(stated.values()) > _SAME_ZERO_POINT:
        words = ", ".join(f"{name} {value:.3f}" for name, value in stated.items())
        raise ValueError(f"zero-point must be one, got {words} in one header. Correct the card that is wrong.")
    zero_point = next(iter(stated.values())) if stated else survey.zero_point
    if not -100 < zero_point < 100:
        raise ValueError(f"zero-point must lie within 100 mag of 0, got {zero_point:g}. Correct the header.")
    return 10 ** (0.4 * (AB_NANOJANSKY - zero_point))


def pixel_scale_arcsec(header: Mapping[str, object], survey: config.Survey) -> float:
    """Pixel scale: the square root of |det CD| (rotation and parity do not matter); the survey's without a WCS.

    To nine decimals: what is beyond them is the rounding of degrees, and must not change a stamp.

    Raises
    ------
    ValueError
        The WCS is singular, half there, in an unknown unit, or no number.
    """
    matrix = _matrix(header)
    if matrix is None:
        return survey.pixel_scale
    unit = str(header.get("CUNIT1") or "").strip().lower()
    if unit not in _DEGREES:
        raise ValueError(f"CUNIT1 must be one of {', '.join(sorted(_DEGREES))}, got {unit}. Use deg.")
    (a, b), (c, d) = matrix
    scale = math.sqrt(abs(a * d - b * c)) * _DEGREES[unit] * 3600
    if not 1e-4 < scale < 60:
        raise ValueError(f"pixel scale must lie between 0.0001 and 60 arcsec, got {scale:g}. Correct the WCS.")
    return round(scale, _SCALE_DECIMALS)


def north_and_parity(header: Mapping[str, object]) -> tuple[float, bool] | None:
    """Where north is and whether the image is mirrored; None without a WCS.

    Returns
    -------
    north_deg : from +y towards -x, in (-180, 180]
    mirrored : True where east is to the right of north (det CD > 0), as no sky is seen
    """
    matrix = _matrix(header)
    if matrix is None:
        return None
    (a, b), (c, d) = matrix
    determinant = a * d - b * c
    if not determinant:
        raise ValueError("the WCS must not be singular, got a CD matrix of determinant 0. Correct the WCS.")
    x, y = -b / determinant, a / determinant  # the pixel step that leads north: CD^-1 (0, 1)
    return math.degrees(math.atan2(-x, y)) + 0.0, determinant > 0  # + 0.0: no negative zero


def _stated(header: Mapping[str, object]) -> dict[str, float]:
    """Every zero-point that the header states, by its card."""
    stated = {}
    if "MAGZERO" in header:
        stated["MAGZERO"] = _number(header, "MAGZERO")
    if "PHOTFLAM" in header or "PHOTPLAM" in header:
        flam, plam = _positive(header, "PHOTFLAM"), _positive(header, "PHOTPLAM")
        stated["PHOTFLAM"] = -2.5 * math.log10(flam) - 5 * math.log10(plam) - 2.408
    if "FLUXMAG0" in header:
        stated["FLUXMAG0"] = 2.5 * math.log10(_positive(header, "FLUXMAG0"))
    unit = str(header.get("BUNIT") or "").strip().lower()
    if unit in _FLUX_UNITS:
        stated["BUNIT"] = _FLUX_UNITS[unit]
    elif unit not in _COUNT_UNITS:
        raise ValueError(f"BUNIT must be nJy, maggies, nanomaggies or counts, got {unit[:40]}. Convert the image.")
    return stated


def _matrix(header: Mapping[str, object]) -> list[list[float]] | None:
    if any(f"CD{i}_{j}" in header for i in (1, 2) for j in (1, 2)):  # a card left out is 0 (FITS 4.0, 8.1)
        return [[_number(header, f"CD{i}_{j}", 0.0) for j in (1, 2)] for i in (1, 2)]
    if "CDELT1" not in header and "CDELT2" not in header:
        return None
    step = [_number(header, "CDELT1"), _number(header, "CDELT2")]
    if "CROTA2" in header and not any(f"PC{i}_{j}" in header for i in (1, 2) for j in (1, 2)):  # FITS 4.0, 8.3
        turn = math.radians(_number(header, "CROTA2"))
        cosine, sine = math.cos(turn), math.sin(turn)
        return [[step[0] * cosine, -step[1] * sine], [step[0] * sine, step[1] * cosine]]
    return [[step[i] * _number(header, f"PC{i + 1}_{j + 1}", float(i == j)) for j in (0, 1)] for i in (0, 1)]


def _positive(header: Mapping[str, object], card: str) -> float:
    value = _number(header, card)
    if value <= 0:
        raise ValueError(f"{card} must be positive, got {value:g}. Correct the header.")
    return value


def _number(header: Mapping[str, object], card: str, missing: float | None = None) -> float:
    value = header.get(card, missing)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{card} must be a number, got {value!r:.40}. Correct the header.")
    return float(value)
