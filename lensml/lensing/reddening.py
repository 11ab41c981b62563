"""How much dust dims a band: published extinction laws of the Milky Way kind, through `dust_extinction`."""

from typing import Final

import astropy.units as u
import numpy as np
from dust_extinction.baseclasses import BaseExtRvModel
from dust_extinction.parameter_averages import CCM89, F99, G23
from numpy.typing import ArrayLike, NDArray

LAWS: Final[dict[str, type[BaseExtRvModel]]] = {"G23": G23, "F99": F99, "CCM89": CCM89}
_NM_PER_MICRON: Final = 1000.0


def extinction_per_a_v(wavelengths_nm: ArrayLike, z_dust: ArrayLike, r_v: float, law: str) -> NDArray[np.float64]:
    """The reddening vector k = A_band / A_V, where A_V is of the dust's own rest frame: (..., band).

    Of dust in a lens galaxy z_dust is the lens's redshift, of dust of our own 0. k r_v is A_band / E(B-V).

    Parameters
    ----------
    wavelengths_nm
        pivot wavelengths as observed, nm: (band,)
    z_dust
        redshift of the dust, >= 0: (...), one row of k for each
    r_v
        A_V / E(B-V); 3.1 is the Milky Way's mean
    law
        G23 (Gordon et al. 2023, ApJ 950, 86), F99 (Fitzpatrick 1999, PASP 111, 63) or CCM89 (Cardelli et al. 1989,
        ApJ 345, 245)

    Raises
    ------
    ValueError
        An unknown law, or a wavelength, redshift or r_v outside what the law was measured for.
    """
    if law not in LAWS:
        raise ValueError(f"law must be one of {', '.join(LAWS)}, got {law} (reddening). Choose one of them.")
    curve = LAWS[law]
    low, high = curve.Rv_range
    if not low <= r_v <= high:
        raise ValueError(f"r_v must be within {low} to {high}, got {r_v:g} (reddening by {law}). 3.1 is the mean.")
    rest = _rest_nm(np.asarray(wavelengths_nm, dtype=np.float64), np.asarray(z_dust, dtype=np.float64))
    _refuse_beyond(rest, curve, law)
    k = curve(Rv=r_v)(rest.ravel() / _NM_PER_MICRON * u.micron)
    return np.asarray(k, dtype=np.float64).reshape(rest.shape)


def _rest_nm(observed: NDArray[np.float64], z_dust: NDArray[np.float64]) -> NDArray[np.float64]:
    wrong = z_dust[~(np.isfinite(z_dust) & (z_dust >= 0))]
    if wrong.size:
        raise ValueError(f"z_dust must be at least 0, got {wrong[0]:g} (reddening). Leave out what has no redshift.")
    return np.asarray(observed / (1 + z_dust[..., None]))


def _refuse_beyond(rest: NDArray[np.float64], curve: type[BaseExtRvModel], law: str) -> None:
    low, high = (_NM_PER_MICRON / x for x in reversed(curve.x_range))
    beyond = rest[~((rest >= low) & (rest <= high))]
    if beyond.size:
        raise ValueError(
            f"wavelengths_nm must be within {low:.0f} to {high:.0f} nm in the dust's rest frame, got {beyond[0]:.1f} "
            f"(reddening by {law}). Leave the band out, or take a law that reaches it."
        )
