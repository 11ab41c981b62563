"""Who lenses whom (oracles: astropy's distances, scikit-learn's logistic regression, SNR from first principles)."""

from pathlib import Path

import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM
from scipy.stats import ks_2samp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lensml import config
from lensml.lensing import morphology, observe, population, sed
from lensml.schema import ContractError

PARAMS = config.load(Path(__file__).parents[1] / "params.yaml")
SOURCE = PARAMS.sources["simulated"]
N = 160  # of each class
APERTURE = PARAMS.convert.aperture_arcsec


def _camera(name: str) -> observe.Camera:
    survey, own = PARAMS.surveys[name], SOURCE.surveys[name]
    bands = [survey.bands[b] for b in own.bands]
    fwhm, sigma = np.array([b.psf_fwhm for b in bands]), np.array([b.sky_sigma_nJy for b in bands])
    return observe.Camera(
        tuple(own.bands), own.stamp_pixels, survey.pixel_scale, 1, fwhm, sigma, own.electrons_per_nJy,
        own.read_noise_electrons,
    )  # fmt: skip


class Sample:
    """Twins of one survey: N lenses, then N non-lenses of the same hosts, drawn as the source draws them."""

    def __init__(self, name: str, snr_min: float = SOURCE.arc_snr_min, n: int = N) -> None:
        self.camera = _camera(name)
        own, width = SOURCE.surveys[name], self.camera.pixels * self.camera.pixel_scale
        hosts = [population.draw_host(np.random.default_rng([1, k]), own, width) for k in range(n)] * 2
        rngs = [np.random.default_rng([2, k]) for k in range(2 * n)]
        kinds = [population.LENS] * n + [str(r.choice(list(morphology.KINDS))) for r in rngs[n:]]

        def draw(k: int) -> population.Subject:
            return population.draw_subject(rngs[k], kinds[k], hosts[k], self.camera.bands, SOURCE.flux_ratio)

        fwhm = np.tile(self.camera.psf_fwhm, (2 * n, 1))
        self.light = observe.expose([draw(k) for k in range(2 * n)], draw, fwhm, self.camera, snr_min)
        self.is_lens, self.host = np.arange(2 * n) < n, np.arange(2 * n) % n
        pairs = zip(rngs, self.light.flux, strict=True)
        self.flux = np.stack([observe.add_noise(rng, flux, self.camera)[0] for rng, flux in pairs])


@pytest.fixture(scope="module", params=["hsc", "euclid"])
def sample(request: pytest.FixtureRequest) -> Sample:
    return Sample(request.param)


def _catalogue(flux: np.ndarray, pixel_scale: float) -> np.ndarray:
    """Aperture magnitudes, colours, half-light radius and moment axis ratio: (object, feature)."""
    pixels = flux.shape[-1]
    axis = (np.arange(pixels) - (pixels - 1) / 2) * pixel_scale
    x, y = np.meshgrid(axis, axis)
    r = np.hypot(x, y)
    magnitude = -2.5 * np.log10(np.clip(flux[..., r < APERTURE].sum(axis=-1), 1, None))
    order = np.argsort(r[r < 2 * APERTURE])
    growth = np.cumsum(flux.sum(axis=1)[:, r < 2 * APERTURE][:, order], axis=1)
    half = r[r < 2 * APERTURE][order][(growth > growth[:, -1:] / 2).argmax(axis=1)]
    light = np.clip(flux.mean(axis=1), 0, None) * (r < APERTURE)
    xx, yy, xy = ((light * m).sum(axis=(1, 2)) / light.sum(axis=(1, 2)) for m in (x * x, y * y, x * y))
    root = np.sqrt((xx - yy) ** 2 / 4 + xy**2)
    ratio = np.sqrt(((xx + yy) / 2 - root) / ((xx + yy) / 2 + root))
    return np.column_stack([magnitude, -np.diff(magnitude, axis=1), np.log(half), ratio])


def _auroc(features: np.ndarray, sample: Sample) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = GroupKFold(4).split(features, sample.is_lens, sample.host)
    chance = cross_val_predict(model, features, sample.is_lens, cv=list(folds), method="predict_proba")[:, 1]
    return float(roc_auc_score(sample.is_lens, chance))


def test_measured_catalogues_do_not_tell_lenses(sample: Sample) -> None:
    assert _auroc(_catalogue(sample.flux, sample.camera.pixel_scale), sample) < 0.75


def test_noiseless_catalogues_do_not_tell_lenses_either(sample: Sample) -> None:
    features = np.column_stack([_catalogue(sample.light.flux, sample.camera.pixel_scale), sample.light.flux_ratio])
    assert _auroc(features, sample) < 0.75


def test_a_planted_tell_is_found(sample: Sample) -> None:
    flux = sample.light.flux * np.where(sample.is_lens, 1.6, 1.0)[:, None, None, None]
    assert _auroc(np.column_stack([_catalogue(flux, 0.1), _catalogue(sample.light.flux, 0.1)]), sample) > 0.9


def test_flux_ratios_reach_from_faint_arcs_to_bright_ones(sample: Sample) -> None:
    ratio = sample.light.flux_ratio[sample.is_lens]
    assert (ratio < 0.1).mean() >= 0.25
    assert ratio.min() < 0.05
    assert ratio.max() > 0.5


def test_imitators_have_the_flux_ratios_of_lenses(sample: Sample) -> None:
    ratio = sample.light.flux_ratio
    assert ks_2samp(ratio[sample.is_lens], ratio[~sample.is_lens & (ratio > 0)]).pvalue > 1e-3


def test_flux_ratio_is_the_share_of_the_light(sample: Sample) -> None:
    """Against the host's closed-form flux and the stamp's pixels, for hosts without neighbours."""
    for k in np.flatnonzero(sample.is_lens)[:40]:
        subject = sample.light.subjects[k]
        if not subject.host.neighbours:
            colours = sed.passive(sample.camera.bands, subject.host.redshift)
            host = 10 ** (0.4 * (31.4 - subject.host.magnitude)) * colours
            inside = sample.light.flux[k].sum()
            extra = host.sum() * subject.flux_ratio / (1 - subject.flux_ratio)
            assert extra + 0.5 * host.sum() < inside < (extra + host.sum()) * 1.1


def test_every_arc_is_significant_and_every_radius_allowed(sample: Sample) -> None:
    assert sample.light.extra_snr[sample.is_lens].min() >= SOURCE.arc_snr_min
    radii = [s.host.theta_e for s in sample.light.subjects]
    name = "hsc" if len(sample.camera.bands) > 1 else "euclid"
    low, high = SOURCE.surveys[name].theta_e_arcsec
    assert low <= min(radii) < max(radii) <= high


def test_signal_to_noise_of_one_pixel() -> None:
    camera = _camera("euclid")
    extra, base = np.zeros((1, 1, 8, 8)), np.full((1, 1, 8, 8), 100.0)
    extra[0, 0, 3, 3] = 50.0
    variance = camera.sky_sigma[0] ** 2 + (camera.read_noise_electrons / 10.0) ** 2 + 150.0 / 10.0
    assert observe.signal_to_noise(extra, base, camera)[0] == pytest.approx(50.0 / np.sqrt(variance))


def test_noise_is_what_its_variance_says() -> None:
    camera = _camera("euclid")
    flux, variance, bad = observe.add_noise(np.random.default_rng(5), np.full((1, 400, 400), 80.0), camera)
    residual = ((flux - 80.0) / np.sqrt(variance))[~bad]
    assert residual.mean() == pytest.approx(0, abs=0.02)
    assert residual.std() == pytest.approx(1, abs=0.01)


def test_an_arc_out_of_reach_is_refused() -> None:
    with pytest.raises(ContractError, match="arc_snr_min must be within reach"):
        Sample("euclid", snr_min=1e6, n=2)


def test_einstein_radii_are_astropys() -> None:
    cosmology = FlatLambdaCDM(H0=70, Om0=0.3)
    ratio = 1 - cosmology.comoving_distance(0.3) / cosmology.comoving_distance(1.5)  # D_ls / D_s where space is flat
    expected = 4 * np.pi * (250 / 299792.458) ** 2 * float(ratio) * 206264.806
    found = population.einstein_radius_arcsec(np.array([250.0, 250.0]), 0.3, np.array([1.5, 0.2]))
    np.testing.assert_allclose(found, [expected, 0.0], rtol=1e-4)


def test_an_einstein_radius_no_galaxy_has_is_refused() -> None:
    own = SOURCE.surveys["hsc"].model_copy(update={"theta_e_arcsec": [40.0, 50.0]})
    with pytest.raises(ContractError, match="theta_e_arcsec must hold"):
        population.draw_host(np.random.default_rng(0), own, 8.0)


@pytest.mark.parametrize("kind", [*morphology.KINDS, "source"])
def test_every_morphology_has_unit_flux(kind: str) -> None:
    draw = morphology.source if kind == "source" else morphology.KINDS[kind]
    for seed in range(20):
        elements = draw(np.random.default_rng(seed), 1.5)
        assert sum(e.flux for e in elements) == pytest.approx(0.0 if kind == "elliptical" else 1.0)
        assert all(e.flux > 0 for e in elements)


def test_old_galaxies_are_red_and_redder_when_the_break_passes() -> None:
    """g - r and r - i of passive galaxies at z = 0.3: 1.3 to 1.5 and 0.5 (Eisenstein et al. 2001, fig. 1)."""
    g, r, i = -2.5 * np.log10(sed.passive(["g", "r", "i"], 0.3))
    assert 1.2 < g - r < 1.7
    assert 0.3 < r - i < 0.7
    blue = -2.5 * np.log10(sed.power_law(["g", "r"], 0.35))
    assert 0 < blue[0] - blue[1] < 0.2


def test_an_unknown_band_is_refused() -> None:
    with pytest.raises(ContractError, match="got Q"):
        sed.passive(["g", "Q"], 0.3)
