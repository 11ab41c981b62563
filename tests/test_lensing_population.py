"""Who lenses whom, and who does not (oracles: integrals of published functions, closed forms, rendered light)."""

import dataclasses

import numpy as np
import pytest
import torch
from astropy.cosmology import FlatLambdaCDM
from pydantic import ValidationError
from scipy.integrate import cumulative_trapezoid
from scipy.stats import kstest

from lensml.config_population import Population
from lensml.lensing import artefacts, cosmology, deflectors, morphology, negatives, population, scene
from lensml.lensing.population import Host, Subject
from lensml.lensing.render import Grid, Psf, render_batch
from lensml.lensing.scene import Epl, Shear, Sie
from lensml.schema import ContractError
from tests.populating import HSC, HST, LAWS, hosts

KINDS = sorted(LAWS.negatives.kinds)


@pytest.fixture(scope="module")
def lensing() -> list[Host]:
    return hosts(HST, 300)


@pytest.fixture(scope="module")
def lenses() -> list[Subject]:
    drawn = hosts(HSC, 250)
    return [population.draw_lens(np.random.default_rng([2, k]), LAWS, HSC, host) for k, host in enumerate(drawn)]


def _vdf_pvalue(sigma: np.ndarray, power: float) -> float:
    """Of a Kolmogorov-Smirnov test against Choi et al. 2007 times sigma^power."""
    own = LAWS.deflectors
    grid = np.linspace(*own.sigma_v_km_s, 20001)
    x = grid / 161.0
    density = x ** (2.32 - 1 + power) * np.exp(-(x**2.67))
    grown = cumulative_trapezoid(density, grid, initial=0)
    return float(kstest(sigma, lambda s: np.interp(s, grid, grown / grown[-1])).pvalue)


def test_velocity_dispersions_are_of_the_published_function() -> None:
    sigma = np.asarray(deflectors.candidates(np.random.default_rng(0), LAWS, 6000, lensing=False).sigma_v_km_s)
    assert _vdf_pvalue(sigma, 0.0) > 1e-3
    assert _vdf_pvalue(sigma, 0.5) < 1e-6  # another function is told apart


def test_lenses_are_weighted_by_their_cross_section() -> None:
    sigma = np.asarray(deflectors.candidates(np.random.default_rng(0), LAWS, 6000).sigma_v_km_s)
    assert _vdf_pvalue(sigma, 4.0) > 1e-3


def test_redshifts_follow_the_volume() -> None:
    low, high = LAWS.deflectors.redshift
    grid = np.linspace(low, high, 2001)
    volume = FlatLambdaCDM(H0=70, Om0=0.3).differential_comoving_volume(grid).value
    grown = cumulative_trapezoid(volume, grid, initial=0)
    drawn = deflectors.candidates(np.random.default_rng(1), LAWS, 6000).redshift
    assert kstest(drawn, lambda z: np.interp(z, grid, grown / grown[-1])).pvalue > 1e-3


def test_candidates_lie_on_the_fundamental_plane() -> None:
    """Hyde & Bernardi 2009: log R = 1.4335 log sigma + 0.3150 mu - 8.8979, orthogonal scatter 0.058 dex."""
    drawn = deflectors.candidates(np.random.default_rng(2), LAWS, 8000, lensing=False)
    log_r, v = np.log10(drawn.radius_kpc), np.log10(drawn.sigma_v_km_s)
    arcsec_at_10_pc = drawn.radius_kpc * 1e3 / 10 * 206264.806
    mu = drawn.absolute_magnitude + 5 * np.log10(arcsec_at_10_pc) + 2.5 * np.log10(2 * np.pi)
    residual = log_r - 1.4335 * v - 0.3150 * mu + 8.8979
    assert residual.mean() == pytest.approx(0, abs=0.005)
    across = residual.std() / np.sqrt(1 + 1.4335**2 + 0.3150**2)
    assert across == pytest.approx(0.058, abs=0.01)
    size = 2.46 - 2.79 * v + 0.84 * v**2
    assert (log_r - size).mean() == pytest.approx(0, abs=0.01)


def test_einstein_radii_are_those_of_dispersion_and_redshifts(lensing: list[Host]) -> None:
    for host in lensing:
        ratio = 1 - cosmology.comoving_distance_mpc(host.redshift) / cosmology.comoving_distance_mpc(
            host.source_redshift
        )
        expected = 4 * np.pi * (host.sigma_v_km_s / 299792.458) ** 2 * float(ratio) * 206264.806
        assert host.theta_e_arcsec == pytest.approx(expected)
        assert host.mass[0].theta_e == host.theta_e_arcsec


def test_every_survey_selects_its_own_lenses(lensing: list[Host]) -> None:
    for view, drawn in ((HST, lensing), (HSC, hosts(HSC, 60))):
        radii, magnitudes = ([getattr(h, name) for h in drawn] for name in ("theta_e_arcsec", "magnitude"))
        least = max(view.theta_e_arcsec[0], LAWS.deflectors.theta_e_over_fwhm_min * view.psf_fwhm_arcsec)
        assert least <= min(radii) < max(radii) <= view.theta_e_arcsec[1]
        assert view.host_magnitude[0] <= min(magnitudes) < max(magnitudes) <= view.host_magnitude[1]
    blurred = HSC._replace(psf_fwhm_arcsec=1.5)
    assert min(h.theta_e_arcsec for h in hosts(blurred, 10)) >= 1.5 * LAWS.deflectors.theta_e_over_fwhm_min


def test_bright_nearby_lenses_are_like_the_slacs_sample(lensing: list[Host]) -> None:
    """Bolton et al. 2008, Auger et al. 2009: medians z 0.2, sigma 250 km/s, theta_E 1.2 arcsec, R_eff 2 arcsec."""
    near = [h for h in lensing if h.magnitude < 18 and h.redshift < 0.4]
    assert len(near) > 80
    assert np.median([h.redshift for h in near]) == pytest.approx(0.2, abs=0.08)
    assert np.median([h.sigma_v_km_s for h in near]) == pytest.approx(250, abs=35)
    assert np.median([h.theta_e_arcsec for h in near]) == pytest.approx(1.2, abs=0.3)
    assert 1.2 < np.median([h.half_light_radius_arcsec for h in near]) < 3
    assert np.mean([h.half_light_radius_arcsec > HST.side_arcsec / 2 for h in near]) > 0.05  # larger than the stamp
    assert 2.5 < np.median([h.sersic_index for h in near]) < 4.5


def test_mass_follows_light_as_in_the_slacs_sample(lensing: list[Host]) -> None:
    """Koopmans et al. 2006: position angles within 10 deg rms, axis ratios within 11 %."""
    turned, flatter, slopes, shear = [], [], [], []
    for host in lensing:
        main = host.mass[0]
        e = np.hypot(main.e1, main.e2)
        flatter.append((1 - e) / (1 + e) / host.axis_ratio)
        if 0.7 < host.axis_ratio < 0.9:
            turn = complex(main.e1, main.e2) / np.exp(2j * host.angle)
            turned.append(np.rad2deg(np.angle(turn) / 2))
        slopes += [main.gamma] if isinstance(main, Epl) else []
        shear += [np.hypot(m.gamma1, m.gamma2) for m in host.mass if isinstance(m, Shear)]
    assert np.std(turned) == pytest.approx(10, abs=5)
    assert np.median(flatter) == pytest.approx(1, abs=0.05)
    assert np.mean(slopes) == pytest.approx(LAWS.deflectors.density_slope[0], abs=0.04)
    assert np.median(shear) == pytest.approx(LAWS.deflectors.shear[0], rel=0.1)
    assert 0.35 < len(slopes) / len(lensing) < 0.65


def test_satellites_have_mass_and_light_at_one_place(lensing: list[Host]) -> None:
    satellites = [(h, m) for h in lensing for m in h.mass[2:]]
    assert len(satellites) / len(lensing) == pytest.approx(LAWS.deflectors.satellite_share, abs=0.05)
    for host, mass in satellites:
        assert isinstance(mass, Sie)
        assert mass.theta_e < 0.5 * host.theta_e_arcsec
        assert (mass.center_x, mass.center_y) == (host.neighbours[-1].center_x, host.neighbours[-1].center_y)


def test_flux_ratios_cover_their_range(lenses: list[Subject]) -> None:
    ratio = np.array([lens.flux_ratio for lens in lenses])
    assert (ratio < 0.1).mean() >= 0.25
    assert (ratio > 0.3).mean() > 0.05
    assert ratio.min() < 0.015
    assert ratio.max() > 0.6
    magnitudes = [lens.source_magnitude for lens in lenses]
    assert min(m for m in magnitudes if m is not None) >= LAWS.sources.magnitude[0] - 1e-6


def test_sources_are_multiply_imaged_and_behind(lenses: list[Subject]) -> None:
    for lens in lenses:
        x, y = lens.host.centre_arcsec
        first = lens.scene.source_light[0]
        away = np.hypot(first.center_x - x, first.center_y - y)
        assert away <= LAWS.sources.impact_max * lens.host.theta_e_arcsec + 1e-9
        assert lens.z_source is not None
        assert lens.z_source > lens.host.redshift


def test_a_twin_is_the_lens_without_mass_and_source(lenses: list[Subject]) -> None:
    for lens in lenses:
        twin = population.draw_twin(lens.host)
        assert twin.scene.lens_light == lens.scene.lens_light
        assert (twin.scene.mass, twin.scene.source_light, twin.extra) == ((), (), ())
        assert len(lens.scene.mass) >= 2
        assert twin.host is lens.host


def test_lenses_are_drawn_again_behind_the_same_host(lenses: list[Subject]) -> None:
    host, rng = lenses[0].host, np.random.default_rng(7)
    first, second = (population.draw_lens(rng, LAWS, HSC, host) for _ in range(2))
    assert first.scene.source_light != second.scene.source_light
    assert first.scene[:2] == second.scene[:2]
    again = population.draw_lens(np.random.default_rng(7), LAWS, HSC, host)
    assert again == first


def _image(subject: Subject) -> torch.Tensor:
    kernel = torch.zeros(1, len(HSC.bands), 3, 3, dtype=torch.float64)
    kernel[..., 1, 1] = 1
    parameters = scene.collate([subject.scene._replace(lens_light=())], torch.float64)
    return render_batch(parameters, Grid(48, 0.168, 2), Psf(kernel))


def test_a_source_is_scaled_to_its_share_of_the_rendered_light(lenses: list[Subject]) -> None:
    for lens in lenses[:4]:
        host_flux = lens.host.flux.sum()
        scale = population.source_scale(lens.flux_ratio, float(_image(lens).sum()), host_flux)
        scaled = population.with_source_scaled(lens, float(scale))
        arcs = float(_image(scaled).sum())
        assert arcs / (arcs + host_flux) == pytest.approx(lens.flux_ratio, rel=1e-6)
        assert scaled.scene[:2] == lens.scene[:2]
        unlensed = np.sum([part.flux for part in scaled.scene.source_light], axis=0)
        assert scaled.source_magnitude == pytest.approx(31.4 - 2.5 * np.log10(unlensed[2]), abs=0.1)  # i, 755 nm


@pytest.mark.parametrize("kind", KINDS)
def test_every_negative_is_unlensed_and_shines(kind: str) -> None:
    for k, host in enumerate(hosts(HSC, 6)):
        drawn = negatives.draw_negative(np.random.default_rng([3, k]), LAWS, HSC, host, kind)
        assert drawn.kind == kind
        assert (drawn.scene.mass, drawn.scene.source_light, drawn.z_source) == ((), (), None)
        total = np.sum([part.flux for part in drawn.scene.lens_light], axis=0)
        assert total.shape == (len(HSC.bands),)
        assert (total > 0).all()
        assert (drawn.artefact is not None) == (kind in negatives.ARTEFACTS)
        if kind in morphology.BESIDE:
            extra = np.sum([part.flux for part in drawn.extra], axis=0)
            assert (extra > 0).all()
            assert extra.sum() / (extra.sum() + host.flux.sum()) == pytest.approx(drawn.flux_ratio)
            assert drawn.scene.lens_light[-len(drawn.extra) :] == drawn.extra


def test_artefacts_are_the_cameras_and_lie_where_arcs_lie() -> None:
    host = hosts(HSC, 1)[0]
    assert set(negatives.ARTEFACTS.values()) <= set(artefacts.KINDS)
    for kind in negatives.ARTEFACTS:
        drawn = negatives.draw_negative(np.random.default_rng(5), LAWS, HSC, host, kind)
        assert drawn.artefact_at is not None
        assert 0.6 < np.hypot(*drawn.artefact_at) / host.theta_e_arcsec < 1.5


def test_negatives_are_drawn_by_their_weights() -> None:
    wanted = LAWS.model_copy(
        update={"negatives": LAWS.negatives.model_copy(update={"kinds": {"shells": 1.0, "ghost": 3.0, "pair": 0.0}})}
    )
    host = hosts(HSC, 1)[0]
    kinds = [negatives.draw_negative(np.random.default_rng(k), wanted, HSC, host).kind for k in range(400)]
    assert set(kinds) == {"shells", "ghost"}
    assert kinds.count("ghost") / 400 == pytest.approx(0.75, abs=0.08)


def test_galaxies_of_the_field_are_of_all_types() -> None:
    drawn = [negatives.draw_galaxy(np.random.default_rng(k), LAWS, HSC) for k in range(250)]
    assert {subject.kind for subject in drawn} == set(LAWS.galaxies.kinds)
    faintest = HSC.host_magnitude[1] + LAWS.galaxies.fainter_mag
    for subject in drawn:
        host = subject.host
        assert HSC.host_magnitude[0] <= host.magnitude <= faintest
        assert host.magnitudes[2] == pytest.approx(host.magnitude, abs=0.15)  # i, 755 nm; dust dims
        assert host.half_light_radius_arcsec > 0
        assert 0 < host.axis_ratio <= 1
        assert 0.2 < host.sersic_index < 9


def test_early_types_are_redder_than_discs() -> None:
    def colour(kind: str) -> float:
        drawn = [negatives.draw_galaxy(np.random.default_rng(k), LAWS, HSC, kind).host.magnitudes for k in range(40)]
        return float(np.median([m[0] - m[2] for m in drawn]))

    assert colour("early") > colour("disc") + 0.5


def test_what_cannot_lens_is_refused(lenses: list[Subject]) -> None:
    host = lenses[0].host
    with pytest.raises(ContractError, match="z_source must be beyond the lens"):
        population.draw_lens(
            np.random.default_rng(0), LAWS, HSC, dataclasses.replace(host, source_redshift=host.redshift - 0.05)
        )
    galaxy = negatives.draw_galaxy(np.random.default_rng(0), LAWS, HSC, "disc").host
    with pytest.raises(ContractError, match="theta_e_arcsec must be above 0, got 0"):
        population.draw_lens(np.random.default_rng(0), LAWS, HSC, galaxy)
    for radius, q, message in ((-1.0, 0.8, "theta_e must be above 0"), (1.0, 0.0, "axis_ratio must be within")):
        with pytest.raises(ContractError, match=message):
            deflectors.draw_mass(np.random.default_rng(0), LAWS.deflectors, radius, q, 0.0)


def test_lenses_that_no_galaxy_is_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deflectors, "_ROUNDS", 5)
    with pytest.raises(ContractError, match="theta_e_arcsec and host_magnitude must be those that a galaxy can have"):
        deflectors.draw_deflector(np.random.default_rng(0), LAWS, HSC._replace(theta_e_arcsec=(40.0, 50.0)))


def test_unknown_kinds_and_empty_images_are_refused(lenses: list[Subject]) -> None:
    with pytest.raises(ContractError, match="got quasar"):
        negatives.draw_negative(np.random.default_rng(0), LAWS, HSC, lenses[0].host, "quasar")
    with pytest.raises(ContractError, match="lensed_flux must be above 0"):
        population.source_scale([0.1, 0.1], [1.0, 0.0], 1.0)
    with pytest.raises(ContractError, match="flux_ratio must be within 0 and 1, got 1"):
        population.source_scale(1.0, 1.0, 1.0)
    with pytest.raises(ContractError, match="subject must be a lens, got twin"):
        population.with_source_scaled(population.draw_twin(lenses[0].host), 2.0)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("sources", "flux_ratio", [0.5, 0.1]), ("deflectors", "density_slope_range", [0.9, 2.0]),
        ("hosts", "axis_ratio_min", 0.0), ("discs", "beta_uv", [-2.0, -0.1]), ("negatives", "kinds", {"lens": 1.0}),
        ("galaxies", "kinds", {"early": 0.0}), ("sources", "redshift_max", 0.01),
    ],
)  # fmt: skip
def test_unphysical_populations_are_refused(section: str, key: str, value: object) -> None:
    written = LAWS.model_dump()
    written[section][key] = value
    with pytest.raises(ValidationError):
        Population.model_validate(written)
