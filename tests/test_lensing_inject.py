"""Lensed sources for real hosts (oracles: closed forms of flux, magnification and place; galaxies of known sigma)."""

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from lensml.lensing import cosmology, deflectors, inject, optics, sed
from lensml.lensing.inject import Host, Injection, Stamp
from lensml.lensing.scene import Epl, Point, Scene, Sersic, Shear, Sie
from lensml.schema import ContractError
from tests.populating import HSC, LAWS

BANDS = ("g", "r", "i")
STAMP = Stamp((61, 61), 0.2, 2)
NJY_20 = 10 ** (0.4 * (31.4 - 20.0))  # of 20 AB magnitudes


def host(**changes: object) -> Host:
    told = Host(np.array([4e3, 2e4, 3e4]), 0.3, 0.7, 0.6, (0.0, 0.0), np.nan)
    return dataclasses.replace(told, **changes)  # type: ignore[arg-type]


def psf(stamp: Stamp, bands: int = 3, fwhm: float = 0.7) -> NDArray[np.float32]:
    none = np.zeros((1, bands, 1, 1), dtype=np.float32)
    return inject.fine_psf(none, np.full((1, bands), fwhm), stamp, 3.0)


def drawn(k: int, own: Host, how: str = "catalogue") -> Injection:
    rng = np.random.default_rng([3, k])
    return inject.draw(rng, LAWS, own, BANDS, how, (0.8, 1.6))  # type: ignore[arg-type]


def source(x: float, y: float, radius: float = 0.05, flux: float = NJY_20) -> Sersic:
    return Sersic((flux,), radius, 1.0, 0.0, 0.0, x, y)


def centroid(image: NDArray[np.float32], pixel_scale: float) -> tuple[float, float]:
    """x and y, arcsec from the centre."""
    y, x = (pixel_scale * (np.arange(n) - (n - 1) / 2) for n in image.shape)
    return float((image * x).sum() / image.sum()), float((image * y[:, None]).sum() / image.sum())


def test_arcs_on_the_stamp_have_the_flux_that_the_ratio_asks_for() -> None:
    lenses = [drawn(k, host()) for k in range(8)]
    scaled, arcs = inject.rendered(lenses, STAMP, psf(STAMP))
    assert arcs.shape == (8, 3, 61, 61)
    for lens, image in zip(scaled, arcs, strict=True):
        wanted = lens.flux_ratio / (1 - lens.flux_ratio) * 5.4e4
        assert image.sum(dtype=np.float64) == pytest.approx(wanted, rel=1e-5)
    (again,), same = inject.rendered([scaled[0]], STAMP, psf(STAMP))  # the scaled source is that of these arcs
    np.testing.assert_allclose(same[0], arcs[0], rtol=1e-3, atol=1e-3 * arcs[0].max())
    assert again.source_magnitude == pytest.approx(scaled[0].source_magnitude, abs=1e-3)


def test_a_source_of_20_mag_adds_its_nanojanskys() -> None:
    image = inject.render([Scene((), (), (source(0.3, -0.2),))], STAMP, psf(STAMP, 1, 0.5))
    assert image.sum(dtype=np.float64) == pytest.approx(NJY_20, rel=0.01)  # the Moffat's wings end with its stamp


def test_a_lensed_source_adds_them_times_its_magnification() -> None:
    """2 theta_E / beta, of a singular isothermal sphere."""
    theta_e, beta = 1.5, 0.6
    mass = (Sie(theta_e, 0.0, 0.0, 0.0, 0.0, 0.0),)
    image = inject.render([Scene(mass, (), (source(beta, 0.0),))], STAMP, psf(STAMP, 1, 0.5))
    assert image.sum(dtype=np.float64) == pytest.approx(NJY_20 * 2 * theta_e / beta, rel=0.015)


@pytest.mark.parametrize("shape", [(61, 61), (60, 61), (61, 48), (48, 61), (60, 60)])
def test_a_point_like_source_lands_where_it_is_asked(shape: tuple[int, int]) -> None:
    stamp = Stamp(shape, 0.2, 2)
    image = inject.render([Scene((), (), (source(0.93, -0.57),))], stamp, psf(stamp, 1))
    assert image.shape == (1, 1, *shape)
    y, x = (round(v / 0.2 + (n - 1) / 2) for v, n in ((-0.57, shape[0]), (0.93, shape[1])))
    part = image[0, 0, y - 8 : y + 9, x - 8 : x + 9]
    found = np.array(centroid(part, 0.2))
    corner = np.array([x - (shape[1] - 1) / 2, y - (shape[0] - 1) / 2]) * 0.2
    np.testing.assert_allclose(found + corner, [0.93, -0.57], atol=0.004)


def test_a_star_of_the_host_s_psf_is_rendered_as_measured() -> None:
    seeing = optics.Seeing(*(np.array(v) for v in (0.9, 3.0, 0.05, -0.03)))
    measured = optics.moffat(seeing, 0.2, 25)[None, None]
    fine = inject.fine_psf(measured, np.array([[0.9]]), STAMP, 3.0)
    image = inject.render([Scene((), (Point((1.0,), 0.0, 0.0),), ())], STAMP, fine)[0, 0]
    np.testing.assert_allclose(image[18:43, 18:43], measured[0, 0], atol=2e-3 * measured.max())


def test_mass_follows_the_light_s_ellipse() -> None:
    found = [drawn(k, host(axis_ratio=0.6, angle=0.6)).scene.mass[0] for k in range(60)]
    angle = [np.arctan2(m.e2, m.e1) / 2 for m in found if isinstance(m, Sie | Epl)]
    assert np.median(angle) == pytest.approx(0.6, abs=0.05)
    assert 0.02 < np.std(angle) < 0.3
    q = [(1 - np.hypot(m.e1, m.e2)) / (1 + np.hypot(m.e1, m.e2)) for m in found if isinstance(m, Sie | Epl)]
    assert np.median(q) == pytest.approx(0.6, abs=0.05)


def test_a_round_host_s_mass_has_any_angle() -> None:
    masses = [drawn(k, host(axis_ratio=1.0, angle=0.0)).scene.mass[0] for k in range(60)]
    angle = np.array([np.arctan2(m.e2, m.e1) for m in masses if isinstance(m, Sie | Epl)])
    assert np.hypot(np.cos(angle).mean(), np.sin(angle).mean()) < 0.4


def test_mass_and_source_stand_about_the_host_s_centre() -> None:
    here, there = (drawn(1, host(centre_arcsec=at)).scene for at in ((0.0, 0.0), (0.3, -0.2)))
    for a, b in zip((*here.mass, *here.source_light), (*there.mass, *there.source_light), strict=True):
        assert (b.center_x - a.center_x, b.center_y - a.center_y) == pytest.approx((0.3, -0.2))
    assert any(isinstance(m, Shear) for m in here.mass)
    assert here.lens_light == ()


@pytest.mark.parametrize("redshift_known", [True, False])
def test_a_host_s_light_tells_its_velocity_dispersion(redshift_known: bool) -> None:
    """Galaxies of the population, whose sigma is known, are given as hosts by their light alone."""
    misses = []
    for k in range(60):
        true = deflectors.draw_deflector(np.random.default_rng([8, k]), LAWS, HSC)
        flux = 10 ** (0.4 * (31.4 - true.magnitude)) * sed.passive(BANDS, true.redshift)
        own = host(flux=flux, redshift=true.redshift if redshift_known else np.nan)
        found = inject.draw(np.random.default_rng([9, k]), LAWS, own, BANDS, "light", HSC.theta_e_arcsec)
        sigma = cosmology.sigma_v_km_s(found.theta_e_arcsec, found.z_lens, found.z_source)
        misses.append(float(np.log10(sigma / true.sigma_v_km_s)))
        assert HSC.theta_e_arcsec[0] <= found.theta_e_arcsec <= HSC.theta_e_arcsec[1]
        assert found.z_source > found.z_lens
    assert np.median(misses) == pytest.approx(0, abs=0.025)
    assert np.std(misses) < 0.1  # of the fundamental plane, once for the host and once for its like


def test_a_catalogue_s_einstein_radius_is_taken_and_its_redshifts_fit() -> None:
    found = [drawn(k, host(theta_e_arcsec=1.234, redshift=np.nan)) for k in range(20)]
    assert {lens.theta_e_arcsec for lens in found} == {1.234}
    sigma = [cosmology.sigma_v_km_s(1.234, lens.z_lens, lens.z_source) for lens in found]
    assert 180 < np.median(sigma) < 350
    assert len({lens.z_lens for lens in found}) > 10


def test_without_a_catalogue_the_range_is_used() -> None:
    found = [drawn(k, host()).theta_e_arcsec for k in range(40)]
    assert min(found) >= 0.8
    assert max(found) <= 1.6
    assert np.std(found) > 0.15


def test_bad_hosts_and_psfs_are_refused_in_words() -> None:
    with pytest.raises(ContractError, match=r"host must have light in the aperture, got -1 nJy"):
        drawn(0, host(flux=np.array([-1.0, 0.0, 0.0])))
    with pytest.raises(ContractError, match="host must have light in the aperture, got nan nJy"):
        drawn(0, host(flux=np.array([np.nan, 1.0, 1.0])))
    with pytest.raises(ContractError, match=r"theta_e_arcsec must be what a galaxy .* can have, got 0.8 to 1.6"):
        drawn(0, host(flux=np.full(3, 10.0)), "light")  # 29 mag
    with pytest.raises(ContractError, match="redshift of a host must be before some source"):
        drawn(0, host(redshift=7.0))
    large = np.ones((1, 3, 63, 63), dtype=np.float32)
    with pytest.raises(ValueError, match="PSF must not exceed the stamp's 61 pixels, got 63"):
        inject.fine_psf(large, np.ones((1, 3)), STAMP, 3.0)


def test_the_same_random_numbers_make_the_same_lens() -> None:
    assert drawn(4, host()) == drawn(4, host())
    assert drawn(4, host()) != drawn(5, host())
