"""The light of galaxies (oracles: published colours and sizes, integrals over pixels, number counts)."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import gamma, gammaincinv
from scipy.stats import kstest

from lensml.lensing import cosmology, early_types, galaxies, sed
from lensml.lensing.geometry import ellipticity
from lensml.lensing.scene import Ring, Sersic
from lensml.schema import ContractError
from tests.populating import HSC, LAWS

Float = NDArray[np.float64]


def _sersic(part: Sersic, x: Float, y: Float) -> Float:
    """Brightness of unit flux, from the definition."""
    b = gammaincinv(2 * part.n_sersic, 0.5)
    e, angle = np.hypot(part.e1, part.e2), np.arctan2(part.e2, part.e1) / 2
    q = (1 - e) / (1 + e)
    x, y = x - part.center_x, y - part.center_y
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    r = np.sqrt(q * u**2 + v**2 / q) / part.r_sersic
    n = part.n_sersic
    return np.exp(-b * r ** (1 / n)) * b ** (2 * n) / (2 * np.pi * n * part.r_sersic**2 * gamma(2 * n))


def _axes(side: float, pixels: int) -> tuple[Float, Float]:
    axis = (np.arange(pixels) - (pixels - 1) / 2) * side / pixels
    return np.meshgrid(axis, axis)


def test_old_galaxies_have_the_colours_of_luminous_red_ones() -> None:
    """Eisenstein et al. 2001 (AJ 122, 2267), table 1, passive model: g - r and r - i."""
    published = {0.1: (0.96, 0.42), 0.2: (1.23, 0.48), 0.3: (1.50, 0.56), 0.4: (1.63, 0.67), 0.5: (1.65, 0.90)}
    for z, (blue, red) in published.items():
        g, r, i = -2.5 * np.log10(sed.passive(["g", "r", "i"], z))
        assert g - r == pytest.approx(blue, abs=0.1)
        assert r - i == pytest.approx(red, abs=0.1)


def test_young_galaxies_follow_their_ultraviolet_slope() -> None:
    """f_nu ~ wavelength^(beta + 2) where the bands are ultraviolet and behind no forest."""
    found = sed.young(["g", "r", "i"], 2.2, -1.4)
    expected = sed.wavelengths(["g", "r", "i"]) ** 0.6
    np.testing.assert_allclose(found / found[0], expected / expected[0], rtol=0.02)


def test_the_lyman_limit_drops_a_band_out() -> None:
    u, g = sed.young(["u", "g"], 3.4, -2.0)
    assert u < 0.01 < 0.2 < g < 1


def test_a_band_that_sees_rest_frame_r_needs_no_colour() -> None:
    z = sed.REFERENCE_NM / sed.REST_R_NM - 1
    assert float(sed.passive_k_correction(z)) == pytest.approx(-2.5 * np.log10(1 + z), abs=1e-3)


def test_every_band_of_the_surveys_is_known() -> None:
    bands = {band for name in ("hsc", "hst", "euclid") for band in _survey_bands(name)}
    assert (sed.passive(sorted(bands), 0.4) > 0).all()
    with pytest.raises(ContractError, match="got Q"):
        sed.passive(["g", "Q"], 0.3)


def _survey_bands(name: str) -> list[str]:
    from lensml import config
    from tests.graph import ROOT

    return list(config.load(ROOT / "params.yaml").surveys[name].bands)


@pytest.mark.parametrize(("n", "q"), [(0.7, 0.9), (1.0, 0.4), (4.0, 0.7), (6.0, 1.0)])
def test_one_profile_is_measured_as_it_is(n: float, q: float) -> None:
    found = early_types.measure([Sersic(3.0, 0.8, n, *ellipticity(q, 0.7), 0.0, 0.0)])
    assert found.half_light_radius_arcsec == pytest.approx(0.8, rel=5e-3)
    assert found.axis_ratio == pytest.approx(q)
    assert found.sersic_index == pytest.approx(n, rel=0.04)


def test_hosts_have_half_of_their_light_within_their_radius() -> None:
    """Against the sum over pixels of round galaxies, of every number of components; and the flux that was asked for."""
    laws = LAWS.hosts.model_copy(
        update={
            "dust_share": 0.0, "axis_ratio_change": 0.0, "centre_offset": 0.0, "nucleus_light": (0.02, 0.03),
            "nucleus_share": 0.5,
        }
    )  # fmt: skip
    x, y = _axes(40.0, 1000)
    inside = np.hypot(x, y) < 1.5
    flux, lever = np.array([100.0, 300.0]), np.zeros(2)
    numbers = set()
    for seed in range(24):
        light, shape = early_types.draw_light(np.random.default_rng(seed), laws, 1.5, 1.0, 0.0, flux, lever)
        numbers.add(len(light))
        total = np.sum([part.flux for part in light], axis=0)
        np.testing.assert_allclose(total, flux)
        outer = [part for part in light if part.r_sersic > 0.3]  # the middle of a bulge is all inside
        image = sum((part.flux[0] * _sersic(part, x, y) for part in outer), np.zeros_like(x))
        beyond = image[~inside].sum() * 0.04**2
        missing = sum(part.flux[0] for part in outer) - image.sum() * 0.04**2  # beyond the image, or in a cusp
        assert (beyond + max(missing, 0)) / 100.0 == pytest.approx(0.5, abs=0.07)
        assert shape.half_light_radius_arcsec == 1.5
    assert numbers >= {1, 2, 3}


def test_envelopes_are_bluer_and_turned() -> None:
    lever = np.log(sed.wavelengths(["g", "i"]) / sed.REFERENCE_NM)
    rngs = (np.random.default_rng(seed) for seed in range(300))
    drawn = [early_types.draw_light(rng, LAWS.hosts, 1.0, 0.7, 0.5, np.ones(2), lever)[0] for rng in rngs]
    pairs = [light[:2] for light in drawn if len(light) > 1 and light[1].flux[0] > 0.04]
    bluer = [(e.flux[0] / e.flux[1]) / (b.flux[0] / b.flux[1]) for b, e in pairs]
    assert 1.02 < np.median(bluer) < 1.3
    twist = [np.rad2deg(np.angle(complex(e.e1, e.e2) / complex(b.e1, b.e2)) / 2) for b, e in pairs]
    assert 0.6 * LAWS.hosts.twist_deg < np.median(np.abs(twist)) / 0.6745 < 1.6 * LAWS.hosts.twist_deg


def test_dust_dims_and_nowhere_takes_more_than_there_is() -> None:
    laws = LAWS.hosts.model_copy(update={"dust_share": 1.0, "dust_depth": (0.5, 0.5)})
    x, y = _axes(4.0, 200)
    lost = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        light, _ = early_types.draw_light(rng, laws, 1.0, rng.uniform(0.4, 1), 0.3, np.ones(1), np.zeros(1))
        image = sum((part.flux[0] * _sersic(part, x, y) for part in light), np.zeros_like(x))
        assert (image > 0).all()
        lost.append((image / (image - light[-1].flux[0] * _sersic(light[-1], x, y))).min())
    assert 0.5 < min(lost) < 0.9


def test_sizes_are_those_of_late_types() -> None:
    """Van der Wel et al. 2014: 8.9 kpc (1 + z)^-0.75 at 5e10 Msun, and a shallow slope with luminosity."""
    rng, laws = np.random.default_rng(3), LAWS.discs
    for z in (0.3, 1.0):
        pivot = laws.pivot_magnitude - laws.pivot_evolution_mag * z
        apparent = pivot + float(cosmology.distance_modulus(z)) - 2.5 * np.log10(1 + z)
        for fainter in (0.0, 2.5):
            drawn = [galaxies.radius_arcsec(rng, laws, apparent + fainter, z) for _ in range(800)]
            kpc = np.exp(np.mean(np.log(drawn))) * cosmology.kpc_per_arcsec(z)
            expected = 8.9 * (1 + z) ** -0.75 * 10 ** (-0.4 * laws.radius_slope * fainter)
            assert kpc == pytest.approx(expected, rel=0.05)


def test_every_disc_has_unit_flux_where_it_is() -> None:
    kinds, clumps = set(), []
    for seed in range(200):
        parts = galaxies.draw_disc(np.random.default_rng(seed), LAWS.discs, 0.4, 0.12, 1.0, -0.5)
        flux = np.array([part.flux for part in parts])
        assert flux.sum() == pytest.approx(1)
        assert (flux > 0).all()
        assert (parts[0].center_x, parts[0].center_y) == (1.0, -0.5)
        assert max(np.hypot(p.center_x - 1.0, p.center_y + 0.5) for p in parts) < 6.0
        kinds |= {type(part) for part in parts}
        clumps.append(sum(isinstance(p, Sersic) and p.e1 == p.e2 == 0.0 for p in parts))
    assert kinds == {Sersic, Ring}
    assert (min(clumps), max(clumps)) == (0, LAWS.discs.clumps_max)


def test_sources_are_blue_and_some_are_red() -> None:
    rng = np.random.default_rng(4)
    colours = np.array([galaxies.draw_colour(rng, LAWS.discs, ["g", "i"], 1.5) for _ in range(500)])
    g_i = -2.5 * np.log10(colours[:, 0] / colours[:, 1])
    assert 0 < np.median(g_i) < 0.5
    assert 0.05 < (g_i > 0.6).mean() < 0.25


def test_neighbours_are_as_many_and_as_bright_as_the_field() -> None:
    own = LAWS.surroundings.model_copy(update={"stars_per_arcmin2": 0.0})
    found = [galaxies.draw_neighbours(np.random.default_rng(k), own, LAWS.discs, HSC) for k in range(1500)]
    expected = own.galaxies_per_arcmin2 * (HSC.side_arcsec / 60) ** 2
    assert np.mean([len(light) for light in found]) == pytest.approx(expected, rel=0.1)
    lights = [part for light in found for part in light]
    assert max(np.abs([(p.center_x, p.center_y) for p in lights]).max(axis=0)) < HSC.side_arcsec / 2
    bright, faint = own.magnitude

    def counts(m: Float) -> Float:
        rising = 10 ** (own.counts_slope * (np.asarray(m) - bright)) - 1
        return rising / (10 ** (own.counts_slope * (faint - bright)) - 1)

    i_band = [galaxies.magnitude_of(part.flux[2]) for part in lights]  # 755 nm: a few hundredths from 750
    assert kstest(i_band, lambda m: np.clip(counts(m), 0, 1)).pvalue > 1e-3
    assert kstest(np.array(i_band) - 0.5, lambda m: np.clip(counts(m), 0, 1)).pvalue < 1e-6


def test_faint_galaxies_are_further_away() -> None:
    """LSST Science Book 2009, eq. 3.8: mean redshift 3 (0.0417 i - 0.744)."""
    rng = np.random.default_rng(5)
    for magnitude in (22.0, 25.0):
        drawn = [galaxies.field_redshift(rng, magnitude) for _ in range(2000)]
        assert np.mean(drawn) == pytest.approx(3 * (0.0417 * magnitude - 0.744), rel=0.05)
