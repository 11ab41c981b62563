"""Colours: a galaxy's flux in a band relative to its flux at 750 nm, as simple spectra at the bands' pivots make it."""

import functools
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lensml.schema import ContractError

Float = NDArray[np.float64]

# Pivot wavelengths, nm, of every band of params.yaml: surveys (SVO Filter Profile Service).
WAVELENGTHS_NM: Final = {
    "u": 365.0, "g": 480.0, "r": 622.0, "i": 755.0, "z": 890.0, "y": 975.0, "Y": 990.0,
    "VIS": 715.0, "NIR_Y": 1081.0, "NIR_J": 1367.0, "NIR_H": 1771.0,
    "F390W": 392.4, "F435W": 433.0, "F475X": 494.0, "F555W": 536.0, "F606W": 592.0, "F600LP": 747.0, "F814W": 805.0,
    "F105W": 1055.0, "F125W": 1249.0, "F140W": 1392.0, "F160W": 1537.0,
}  # fmt: skip
REFERENCE_NM: Final = 750.0
REST_R_NM: Final = 622.0  # where absolute magnitudes of early types are quoted
_BREAK_NM: Final = 400.0  # rest frame
_BREAK_WIDTH: Final = 0.05  # in ln wavelength: a filter's width
# Old populations, f_nu by powers of wavelength; their colours are those of Eisenstein et al. 2001 (AJ 122, 2267).
_OLD_BREAK_DEX: Final = 0.33
_OLD_SLOPES: Final = (4.0, 2.74, 1.5, 0.8, -0.5)  # below the break, above it, and above each of the following
_OLD_CORNERS_NM: Final = (600.0, 900.0, 1600.0)
_SHORTEST_NM: Final = 20.0  # beyond these there is no slope
_LONGEST_NM: Final = 5000.0
# Young populations: the UV slope below the break; beyond it they redden with the same slope, roughly.
_YOUNG_BREAK_DEX: Final = (0.12, 0.10)  # at beta = -2, and per unit of beta
_YOUNG_SLOPE: Final = (0.3, 0.5)  # the same, of f_nu redward of the break
_LYMAN_ALPHA_NM: Final = 121.6
_LYMAN_LIMIT_NM: Final = 91.2
_LIMIT_DEX: Final = -3.0  # what is left below it
_MADAU: Final = (0.0036, 3.46)  # optical depth of the Lyman alpha forest (Madau 1995, ApJ 441, 18, eq. 12)


def wavelengths(bands: Sequence[str]) -> Float:
    """Pivot wavelengths in nm: (band,).

    Raises
    ------
    ContractError
        A band is not one that a simulation knows.
    """
    return _wavelengths(tuple(bands))


@functools.cache
def _wavelengths(bands: tuple[str, ...]) -> Float:
    unknown = [band for band in bands if band not in WAVELENGTHS_NM]
    if unknown:
        raise ContractError(f"bands must be of {', '.join(WAVELENGTHS_NM)}, got {', '.join(unknown)} (simulated).")
    found = np.array([WAVELENGTHS_NM[band] for band in bands])
    found.flags.writeable = False
    return found


def passive(bands: Sequence[str], redshift: float, tilt: float = 0.0) -> Float:
    """Relative f_nu of an old stellar population: (band,). `tilt` is added to its slope with wavelength."""
    nm = wavelengths(bands)
    dex = _passive_dex(nm / (1 + redshift)) - _passive_dex(REFERENCE_NM / (1 + redshift))
    return np.asarray(10**dex * (nm / REFERENCE_NM) ** tilt)


def young(bands: Sequence[str], redshift: float, beta_uv: float) -> Float:
    """Relative f_nu of a star-forming galaxy: (band,).

    A power law f_lambda ~ wavelength ** beta_uv below a weak break at 400 nm, a flatter one above it, and the Lyman
    alpha forest in front of it. Where 750 nm itself is absorbed, relative to what it would be.
    """
    nm = wavelengths(bands)
    dex = _young_dex(nm / (1 + redshift), beta_uv) - _young_dex(REFERENCE_NM / (1 + redshift), beta_uv)
    return np.asarray(10 ** (dex + _forest_dex(nm, redshift)))


def power_law(bands: Sequence[str], slope: float) -> Float:
    """Relative f_nu, proportional to wavelength ** slope: (band,)."""
    return np.asarray((wavelengths(bands) / REFERENCE_NM) ** slope)


def passive_k_correction(redshift: ArrayLike) -> Float:
    """Apparent magnitude at 750 nm, less the absolute one at rest-frame 622 nm and the distance modulus; passive."""
    z = np.asarray(redshift, dtype=np.float64)
    dex = np.interp(np.log1p(z), *_k_table())
    return np.asarray(-2.5 * (dex + np.log10(1 + z)))


@functools.cache
def _k_table() -> tuple[Float, Float]:
    log_z = np.linspace(0, np.log(13.0), 2001)
    return log_z, _passive_dex(REFERENCE_NM * np.exp(-log_z)) - _passive_dex(REST_R_NM)


def _passive_dex(rest_nm: ArrayLike) -> Float:
    log_nm = np.log(np.asarray(rest_nm, dtype=np.float64))
    x = log_nm - np.log(_BREAK_NM)
    return np.asarray(np.interp(log_nm, *_passive_corners()) / np.log(10) + _OLD_BREAK_DEX * _step(x))


@functools.cache
def _passive_corners() -> tuple[Float, Float]:
    """ln wavelength and ln f_nu where the slope changes, without the break."""
    log_nm = np.log([_SHORTEST_NM, _BREAK_NM, *_OLD_CORNERS_NM, _LONGEST_NM])
    return log_nm, np.concatenate([[0.0], np.cumsum(np.diff(log_nm) * _OLD_SLOPES)])


def _young_dex(rest_nm: ArrayLike, beta_uv: float) -> Float:
    x = np.log(rest_nm) - np.log(_BREAK_NM)
    (break_dex, break_more), (slope, slope_more) = _YOUNG_BREAK_DEX, _YOUNG_SLOPE
    redder = beta_uv + 2
    rising = np.minimum(x, 0) * redder + np.maximum(x, 0) * (slope + slope_more * redder)
    return np.asarray(rising / np.log(10) + max(break_dex + break_more * redder, 0.0) * _step(x))


def _step(x: Float) -> Float:
    """From 0 below the break to 1 above it; x in ln wavelength."""
    return np.asarray(0.5 + 0.5 * np.tanh(x / (2 * _BREAK_WIDTH)))


def _forest_dex(nm: Float, redshift: float) -> Float:
    """Transmission of intergalactic hydrogen, at most 0."""
    scale, power = _MADAU
    depth = scale * (nm / _LYMAN_ALPHA_NM) ** power / np.log(10)
    lost = np.where(nm < _LYMAN_ALPHA_NM * (1 + redshift), -np.minimum(depth, -_LIMIT_DEX), 0.0)
    return np.where(nm < _LYMAN_LIMIT_NM * (1 + redshift), _LIMIT_DEX, lost)
