"""Colours: a galaxy's flux in a band relative to its flux at 750 nm."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lensml.schema import ContractError

# Pivot wavelengths, nm, of the bands that a simulation knows.
WAVELENGTHS_NM: Final = {
    "u": 365.0, "g": 480.0, "r": 622.0, "i": 755.0, "z": 890.0, "y": 975.0, "Y": 990.0,
    "VIS": 715.0, "F435W": 433.0, "F606W": 592.0, "F814W": 805.0,
}  # fmt: skip
_REFERENCE_NM: Final = 750.0
_BREAK_NM: Final = 400.0  # rest frame
_BREAK_WIDTH: Final = 0.02  # in ln wavelength
_BREAK_DEX: Final = 0.33  # of an old population
_SLOPE_BLUEWARD: Final = 3.0  # of f_nu against wavelength, old population, below the break
_SLOPE_REDWARD: Final = 1.7  # above it; flattens to half of this above 600 nm
_FLATTEN_NM: Final = 600.0


def passive(bands: Sequence[str], redshift: float) -> NDArray[np.float64]:
    """Relative f_nu of an old stellar population at a redshift: (band,). A broken power law with a 400 nm break."""
    rest = _log_rest(bands, redshift)
    return np.asarray(10 ** (_passive_dex(rest) - _passive_dex(_log_rest_of(_REFERENCE_NM, redshift))))


def power_law(bands: Sequence[str], slope: float) -> NDArray[np.float64]:
    """Relative f_nu of a young population, proportional to wavelength ** slope: (band,)."""
    return np.asarray((wavelengths(bands) / _REFERENCE_NM) ** slope)


def wavelengths(bands: Sequence[str]) -> NDArray[np.float64]:
    """Pivot wavelengths in nm: (band,).

    Raises
    ------
    ContractError
        A band is not one that a simulation knows.
    """
    unknown = [band for band in bands if band not in WAVELENGTHS_NM]
    if unknown:
        raise ContractError(f"bands must be of {', '.join(WAVELENGTHS_NM)}, got {', '.join(unknown)} (simulated).")
    return np.array([WAVELENGTHS_NM[band] for band in bands])


def _log_rest(bands: Sequence[str], redshift: float) -> NDArray[np.float64]:
    return np.asarray(np.log(wavelengths(bands) / (1 + redshift)))


def _log_rest_of(nm: float, redshift: float) -> NDArray[np.float64]:
    return np.asarray(np.log(nm / (1 + redshift)))


def _passive_dex(log_nm: NDArray[np.float64]) -> NDArray[np.float64]:
    blue = np.minimum(log_nm - np.log(_BREAK_NM), 0) * _SLOPE_BLUEWARD
    red = np.clip(log_nm - np.log(_BREAK_NM), 0, np.log(_FLATTEN_NM / _BREAK_NM)) * _SLOPE_REDWARD
    far = np.maximum(log_nm - np.log(_FLATTEN_NM), 0) * _SLOPE_REDWARD / 2
    step = _BREAK_DEX / (1 + np.exp(-(log_nm - np.log(_BREAK_NM)) / _BREAK_WIDTH))
    return np.asarray((blue + red + far) / np.log(10) + step)
