"""Distances and Einstein radii (oracles: astropy, closed forms of the isothermal sphere, a published lens)."""

import astropy.constants as c
import astropy.units as u
import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM

from lensml.lensing import cosmology

UNIVERSE = FlatLambdaCDM(H0=70, Om0=0.3)
Z = np.array([0.01, 0.1, 0.3, 0.7, 1.5, 3.0, 7.0])


def test_distances_are_astropys() -> None:
    np.testing.assert_allclose(cosmology.comoving_distance_mpc(Z), UNIVERSE.comoving_distance(Z).value, rtol=1e-6)
    np.testing.assert_allclose(cosmology.distance_modulus(Z), UNIVERSE.distmod(Z).value, atol=1e-5)
    scale = 1 / UNIVERSE.arcsec_per_kpc_proper(Z).value
    np.testing.assert_allclose(cosmology.kpc_per_arcsec(Z), scale, rtol=1e-6)


def test_volume_is_astropys_up_to_a_factor() -> None:
    found = cosmology.volume_density(Z) / UNIVERSE.differential_comoving_volume(Z).value
    np.testing.assert_allclose(found / found[0], 1, rtol=1e-5)


def test_the_ratio_of_distances_is_astropys() -> None:
    behind = UNIVERSE.angular_diameter_distance(0.3, Z[3:]) / UNIVERSE.angular_diameter_distance(Z[3:])
    np.testing.assert_allclose(cosmology.distance_ratio(0.3, Z[3:]), behind.value, rtol=1e-5)
    np.testing.assert_array_equal(cosmology.distance_ratio(0.3, [0.3, 0.2, 0.0]), 0)


def test_einstein_radius_and_dispersion_are_inverse() -> None:
    ratio = float(UNIVERSE.angular_diameter_distance(0.3, 1.5) / UNIVERSE.angular_diameter_distance(1.5))
    expected = (4 * np.pi * (250 * u.km / u.s / c.c) ** 2 * ratio).to(u.dimensionless_unscaled) * u.rad
    assert float(cosmology.theta_e_arcsec(250.0, 0.3, 1.5)) == pytest.approx(expected.to(u.arcsec).value, rel=1e-5)
    sigma = np.array([150.0, 250.0, 350.0])
    radii = cosmology.theta_e_arcsec(sigma, 0.4, 2.0)
    np.testing.assert_allclose(cosmology.sigma_v_km_s(radii, 0.4, 2.0), sigma, rtol=1e-12)


def test_the_critical_density_is_that_of_its_definition() -> None:
    lens, source = UNIVERSE.angular_diameter_distance(0.3), UNIVERSE.angular_diameter_distance(1.5)
    between = UNIVERSE.angular_diameter_distance(0.3, 1.5)
    expected = c.c**2 / (4 * np.pi * c.G) * source / (lens * between) * (lens * u.arcsec.to(u.rad)) ** 2
    assert float(cosmology.sigma_cr_msun_per_arcsec2(0.3, 1.5)) == pytest.approx(expected.to(u.Msun).value, rel=1e-4)


def test_the_mass_within_the_einstein_radius_is_the_isothermal_spheres() -> None:
    """pi theta_E^2 Sigma_cr = pi sigma^2 R / G, within a projected radius R."""
    theta = float(cosmology.theta_e_arcsec(250.0, 0.3, 1.5))
    radius = theta * float(cosmology.kpc_per_arcsec(0.3)) * u.kpc
    expected = (np.pi * (250 * u.km / u.s) ** 2 * radius / c.G).to(u.Msun).value
    found = np.pi * theta**2 * float(cosmology.sigma_cr_msun_per_arcsec2(0.3, 1.5))
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_published_lens() -> None:
    """SDSS J0037-0942: sigma 279 +- 14 km/s, redshifts 0.1955 and 0.6322, 1.53 arcsec (Bolton et al. 2008)."""
    assert float(cosmology.theta_e_arcsec(279.0, 0.1955, 0.6322)) == pytest.approx(1.53, rel=2 * 14 / 279)


@pytest.mark.parametrize("z_source", [0.2, 0.5])
def test_a_source_that_is_not_behind_is_refused(z_source: float) -> None:
    for refusing in (cosmology.theta_e_arcsec, cosmology.sigma_v_km_s):
        with pytest.raises(ValueError, match=r"z_source must be beyond z_lens = 0\.5"):
            refusing(1.0, 0.5, z_source)
    with pytest.raises(ValueError, match="z_source must be beyond"):
        cosmology.sigma_cr_msun_per_arcsec2(0.5, [2.0, z_source])


def test_what_is_unphysical_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma_v_km_s must be at least 0, got -1"):
        cosmology.theta_e_arcsec(-1.0, 0.1, 0.5)
    with pytest.raises(ValueError, match="theta_e must be at least 0, got nan"):
        cosmology.sigma_v_km_s(float("nan"), 0.1, 0.5)
    with pytest.raises(ValueError, match="redshift must be within 0 and 12, got 13"):
        cosmology.comoving_distance_mpc([0.5, 13.0])
