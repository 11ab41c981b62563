"""Distances and what lensing makes of them: tables from astropy, interpolated.

Flat universe, H0 = 70 km/s/Mpc, Omega_m = 0.3: what the scaling relations of the population were measured with.
Everything takes and gives numbers or arrays, which broadcast.
"""

import functools
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]

H0_KM_S_MPC: Final = 70.0
OMEGA_M: Final = 0.3
REDSHIFT_MAX: Final = 12.0  # of the tables
SPEED_OF_LIGHT_KM_S: Final = 299792.458
ARCSEC_PER_RAD: Final = 206264.80624709636
_C2_PER_G: Final = 2.089683e16  # Msun / kpc: c^2 / G
_ROWS: Final = 6001
_KPC_PER_MPC: Final = 1e3
_NEARBY_MPC: Final = 1e-9  # nothing is nearer: keeps a ratio finite


def comoving_distance_mpc(z: ArrayLike) -> Float:
    """Comoving distance, Mpc.

    Raises
    ------
    ValueError
        A redshift is not within 0 to `REDSHIFT_MAX`.
    """
    z = np.asarray(z, dtype=np.float64)
    wrong = z[~((z >= 0) & (z <= REDSHIFT_MAX))]
    if wrong.size:
        raise ValueError(
            f"redshift must be within 0 and {REDSHIFT_MAX:g}, got {wrong.flat[0]:g} (distances). Leave the object out."
        )
    return np.asarray(np.interp(np.log1p(z), *_table()))


@functools.cache
def _table() -> tuple[Float, Float]:
    """ln (1 + z) and the comoving distance in Mpc."""
    log_z = np.linspace(0, np.log1p(REDSHIFT_MAX), _ROWS)
    return log_z, np.asarray(_universe().comoving_distance(np.expm1(log_z)).value)


@functools.cache
def _universe() -> Any:
    from astropy.cosmology import FlatLambdaCDM  # takes half a second to load

    return FlatLambdaCDM(H0=H0_KM_S_MPC, Om0=OMEGA_M)


def kpc_per_arcsec(z: ArrayLike) -> Float:
    """Proper transverse scale."""
    distance = comoving_distance_mpc(z) / (1 + np.asarray(z))
    return np.asarray(distance * _KPC_PER_MPC / ARCSEC_PER_RAD)


def distance_modulus(z: ArrayLike) -> Float:
    """Apparent less absolute magnitude of the bolometric light; z > 0."""
    return np.asarray(5 * np.log10(comoving_distance_mpc(z) * (1 + np.asarray(z))) + 25)


def volume_density(z: ArrayLike) -> Float:
    """Comoving volume per redshift, up to a factor."""
    z = np.asarray(z, dtype=np.float64)
    expansion = np.sqrt(OMEGA_M * (1 + z) ** 3 + 1 - OMEGA_M)
    return np.asarray(comoving_distance_mpc(z) ** 2 / expansion)


def distance_ratio(z_lens: ArrayLike, z_source: ArrayLike) -> Float:
    """D_ls / D_s, which is 0 where the source is not behind the lens. Flat: comoving distances add."""
    lens, source = comoving_distance_mpc(z_lens), comoving_distance_mpc(z_source)
    return np.asarray(np.maximum(1 - lens / np.maximum(source, _NEARBY_MPC), 0))


def theta_e_arcsec(sigma_v_km_s: ArrayLike, z_lens: ArrayLike, z_source: ArrayLike) -> Float:
    """Einstein radius of a singular isothermal sphere, 4 pi (sigma / c)^2 D_ls / D_s.

    Raises
    ------
    ValueError
        A source is not behind its lens, or a velocity dispersion is negative.
    """
    sigma = np.asarray(sigma_v_km_s, dtype=np.float64)
    if not (sigma >= 0).all():
        raise ValueError(f"sigma_v_km_s must be at least 0, got {sigma[~(sigma >= 0)].flat[0]:g} (Einstein radius).")
    return np.asarray(_isothermal(sigma) * _ratio_behind(z_lens, z_source))


def sigma_v_km_s(theta_e: ArrayLike, z_lens: ArrayLike, z_source: ArrayLike) -> Float:
    """Velocity dispersion of the singular isothermal sphere with an Einstein radius (arcsec).

    Raises
    ------
    ValueError
        A source is not behind its lens, or an Einstein radius is negative.
    """
    radius = np.asarray(theta_e, dtype=np.float64)
    if not (radius >= 0).all():
        raise ValueError(f"theta_e must be at least 0, got {radius[~(radius >= 0)].flat[0]:g} (velocity dispersion).")
    return np.asarray(np.sqrt(radius / _ratio_behind(z_lens, z_source) / _isothermal(1.0)))


def sigma_cr_msun_per_arcsec2(z_lens: ArrayLike, z_source: ArrayLike) -> Float:
    """Critical surface density, solar masses per square arcsec in the lens plane; c^2 D_s / (4 pi G D_l D_ls).

    Raises
    ------
    ValueError
        A source is not behind its lens.
    """
    scale = kpc_per_arcsec(z_lens)
    distance_kpc = scale * ARCSEC_PER_RAD
    return np.asarray(_C2_PER_G / (4 * np.pi * distance_kpc * _ratio_behind(z_lens, z_source)) * scale**2)


def _isothermal(sigma: ArrayLike) -> Float:
    """Einstein radius where D_ls / D_s is 1, arcsec."""
    return np.asarray(4 * np.pi * (np.asarray(sigma) / SPEED_OF_LIGHT_KM_S) ** 2 * ARCSEC_PER_RAD)


def _ratio_behind(z_lens: ArrayLike, z_source: ArrayLike) -> Float:
    ratio = distance_ratio(z_lens, z_source)
    if not (ratio > 0).all():
        lens, source = (np.broadcast_to(z, ratio.shape)[~(ratio > 0)].flat[0] for z in (z_lens, z_source))
        raise ValueError(
            f"z_source must be beyond z_lens = {lens:g}, got {source:g} (a source in front is not lensed). "
            "Exchange them, or leave the object out."
        )
    return ratio
