"""The host's light against Sersic profiles in closed form, photutils' isophotes, Monte Carlo and planted rings."""

import numpy as np
import pytest
from photutils.isophote import Ellipse, EllipseGeometry
from sklearn.isotonic import IsotonicRegression

from lensml.imaging import host_light, isophotes
from lensml.imaging.host_light import HostLight
from tests.planted_hosts import RULES, SIDE, grid, noise, ring, sersic

FLUX = 1e5
SKY = 1.0


def stamps(*images: np.ndarray, sky: float = SKY) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objects of one band, noiseless: flux, variance with the light's photons, correlation."""
    flux = np.stack(images)[:, None].astype(np.float32)
    return flux, (sky**2 + 0.05 * np.abs(flux)).astype(np.float32), np.zeros((len(images), 1))


def noisy(image: np.ndarray, sky: float, count: int, seed: int, blur: float = 0.0):
    flux, variance, _ = stamps(*[image] * count, sky=sky)
    unit, rho = noise(np.random.default_rng(seed), flux.shape, blur)
    return (flux + unit * np.sqrt(variance)).astype(np.float32), variance, np.full((count, 1), rho)


def axes(found: HostLight) -> tuple[np.ndarray, np.ndarray]:
    """Axis ratio, and angle of the long axis."""
    e1, e2 = found.ellipses.e1, found.ellipses.e2
    e = np.hypot(e1, e2)
    return (1 - e) / (1 + e), np.arctan2(e2, e1) / 2 % np.pi


HOSTS = [  # radius, n, q, angle, x, y
    (8.0, 4.0, 0.7, 0.5, 0.3, -0.4),
    (6.0, 1.0, 0.5, 2.0, 0.0, 0.0),
    (20.0, 2.5, 0.85, 1.0, -1.2, 0.7),
    (10.0, 0.8, 0.4, 1.0, 0.5, 0.0),
]


@pytest.mark.parametrize("host", HOSTS)
def test_ellipses_and_light_of_sersic_profiles(host):
    _, _, q, angle, x, y = host
    image = sersic(FLUX, *host)
    found = host_light.subtract(*stamps(image), RULES)
    found_q, found_angle = axes(found)
    assert found_q[0] == pytest.approx(q, abs=0.03)
    assert found_angle[0] == pytest.approx(angle, abs=0.01 if q < 0.8 else 0.03)
    np.testing.assert_allclose([found.ellipses.center_x[0], found.ellipses.center_y[0]], [x, y], atol=0.05)
    beyond = np.hypot(*grid()) > 5  # the PSF makes the core rounder than the ellipse
    assert abs(found.residual[0, 0][beyond].sum()) < 0.01 * image.sum()
    assert abs(found.residual.sum()) < 0.04 * image.sum()


def test_ellipses_are_those_of_photutils():
    image = sersic(FLUX, 8, 4, 0.7, 0.5, 0.3, -0.4)
    found = host_light.subtract(*stamps(image), RULES)
    centre = (SIDE - 1) / 2
    ellipse = Ellipse(image, geometry=EllipseGeometry(centre + 0.3, centre - 0.4, 9.0, 0.25, 0.4))
    isophote = ellipse.fit_isophote(10.0)
    q, angle = axes(found)
    assert q[0] == pytest.approx(1 - isophote.eps, abs=0.02)
    assert angle[0] == pytest.approx(isophote.pa, abs=0.02)
    steps = np.linspace(0, 2 * np.pi, 60)
    along = [ellipse_at(centre + 0.3, centre - 0.4, 10.0, isophote.eps, isophote.pa, step) for step in steps]
    model = np.mean([found.model[0, 0][row, column] for row, column in along])
    assert model == pytest.approx(isophote.intens, rel=0.03)


def ellipse_at(x: float, y: float, sma: float, eps: float, pa: float, step: float) -> tuple[int, int]:
    u, v = sma * np.cos(step), sma * (1 - eps) * np.sin(step)
    return round(y + u * np.sin(pa) + v * np.cos(pa)), round(x + u * np.cos(pa) - v * np.sin(pa))


def test_a_halo_larger_than_the_stamp_is_not_taken_for_sky():
    image = sersic(1e6, 40, 4, 0.8, 1.0)  # at the border 15 sky sigmas
    assert image[0].min() > 10 * SKY
    found = host_light.subtract(*stamps(image), RULES)
    border = np.concatenate([found.residual[0, 0, 0], found.residual[0, 0, :, -1]])
    assert np.abs(border).max() < 0.05 * image[0].min()


@pytest.mark.parametrize("sky", [1.0, 6.0])
@pytest.mark.parametrize(
    ("source", "least"),
    [({"contrast": 4.0}, 0.88), ({"contrast": 2.0, "arms": 4}, 0.78), ({"contrast": 0.0}, 0.40)],
    ids=["arc", "quad", "ring"],
)
@pytest.mark.parametrize("host", [(8.0, 4.0), (10.0, 2.0)])
def test_arcs_and_rings_survive(source, least, sky, host):
    """A tenth of the light, around a host that is twice as bright there; of the ring no ellipse is free."""
    truth, light = ring(FLUX / 9, 8.0, 1.7, **source), sersic(FLUX, *host, 0.75, 0.5, 0.3, -0.4)
    found = host_light.subtract(*noisy(light + truth, sky, 6, seed=3), RULES)
    isophote = truth > 0.2 * truth.max()
    taken = (found.model[:, 0] - light)[:, isophote].sum(axis=1)
    assert 1 - taken.mean() / truth[isophote].sum() > least
    if source["contrast"] == 0:
        assert 1 - plainly_taken(found, light + truth, light, isophote) / truth[isophote].sum() < 0.15


def plainly_taken(found: HostLight, image: np.ndarray, light: np.ndarray, isophote: np.ndarray) -> float:
    """Of the source by the fault: medians of the same ellipses, made monotonic by scikit-learn."""
    first = isophotes.Ellipses(*(part[:1] for part in found.ellipses))
    radius = np.sqrt(isophotes.squared_radius(first, image.shape))[0]
    bins = np.floor(radius).astype(int)
    medians = np.array([np.median(image[bins == k]) for k in range(bins.max() + 1)])
    falling = IsotonicRegression(increasing=False).fit_transform(np.arange(len(medians)), medians)
    return float((np.interp(radius, np.arange(len(medians)) + 0.5, falling) - light)[isophote].sum())


@pytest.mark.parametrize("blur", [0.0, 0.9])
def test_error_is_the_scatter_of_the_model(blur):
    light = sersic(FLUX, 8, 3, 0.75, 0.5)
    found = host_light.subtract(*noisy(light, 8.0, 60, seed=5, blur=blur), RULES)
    away = (np.hypot(*grid()) > 5) & (np.hypot(*grid()) < 20)
    scatter, error = found.model[:, 0].std(axis=0)[away], found.error[:, 0].mean(axis=0)[away]
    assert 0.4 < np.median(scatter / error) < 1.3
    offset = np.abs(found.model[:, 0].mean(axis=0) - light)[away]
    assert np.median(offset / error) < 1.5


def test_mismatch_says_what_an_ellipse_does_not_follow():
    """A host that is 6 % brighter at three corners, fainter between: the residual is the mismatch to a factor 2.5."""
    y, x = grid()
    some = (np.hypot(y, x) > 3) & (np.hypot(y, x) < 14)
    light = sersic(FLUX, 8, 2, 0.8, 0.5)
    spread = []
    for corners in (0.06, 0.0):
        image = light * (1 + corners * np.cos(3 * np.arctan2(y, x)))
        flux, variance, correlation = noisy(image, 1.0, 4, seed=4)
        found = host_light.subtract(flux, variance, correlation, RULES)
        beyond_noise = (found.residual[:, 0] ** 2 - variance[:, 0])[:, some].mean()
        spread.append((np.sqrt(max(beyond_noise, 0)), np.sqrt((found.mismatch[:, 0][:, some] ** 2).mean())))
    (uneven, told), (_, even) = spread
    assert 0.4 < told / uneven < 2.5
    assert told > 2 * even


def test_bands_share_an_ellipse_and_have_profiles_of_their_own():
    red, blue = sersic(FLUX, 6, 4, 0.7, 0.5), sersic(FLUX / 20, 12, 1, 0.7, 0.5)
    flux = np.stack([red, blue])[None].astype(np.float32)
    found = host_light.subtract(flux, np.full_like(flux, 0.1**2), np.zeros((1, 2)), RULES)
    beyond = np.hypot(*grid()) > 5
    for band, truth in enumerate((red, blue)):
        assert np.abs(found.residual[0, band][beyond].sum()) < 0.02 * truth.sum()


def test_bad_pixels_are_not_read():
    light = sersic(FLUX, 8, 4, 0.7, 0.5)
    flux, variance, correlation = noisy(light, 1.0, 1, seed=6)
    clean = host_light.subtract(flux, variance, correlation, RULES)
    flux, variance = flux.copy(), variance.copy()
    flux[..., 10:14, :] = np.nan
    flux[..., 30, 24] = 1e30
    variance[..., 10:14, :] = variance[..., 30, 24] = np.inf
    found = host_light.subtract(flux, variance, correlation, RULES)
    assert np.isfinite(found.residual).all()
    assert (found.residual[np.isinf(variance)] == 0).all()
    away = np.hypot(*grid()) > 4
    np.testing.assert_allclose(found.model[0, 0][away], clean.model[0, 0][away], rtol=0.05, atol=0.3)


def test_nothing_to_see_is_no_host():
    empty, variance, correlation = noisy(np.zeros((SIDE, SIDE)), 1.0, 4, seed=7)
    variance[0], empty[0] = np.inf, np.nan
    found = host_light.subtract(empty, variance, correlation, RULES)
    assert found.fitted.tolist() == [False, True, True, True]
    for plane in (found.model, found.residual, found.error, found.mismatch):
        assert np.isfinite(plane).all()
        assert (plane[0] == 0).all()
    assert np.abs(found.model[1:]).mean() < 0.1  # of the sky's sigma
    none = host_light.subtract(empty[:0], variance[:0], correlation[:0], RULES)
    assert none.model.shape == (0, 1, SIDE, SIDE)


def test_a_band_without_good_pixels_is_left_alone():
    flux, variance, _ = stamps(sersic(FLUX, 8, 4, 0.7, 0.5))
    flux, variance = np.repeat(flux, 2, axis=1), np.repeat(variance, 2, axis=1)
    variance[:, 1] = np.inf
    found = host_light.subtract(flux, variance, np.full((1, 2), np.nan), RULES)
    assert (found.model[0, 1] == 0).all()
    assert axes(found)[0][0] == pytest.approx(0.7, abs=0.03)


def test_objects_do_not_depend_on_their_neighbours_nor_on_the_unit():
    images = [sersic(FLUX, *host) for host in HOSTS[:3]]
    flux, variance, correlation = stamps(*images)
    together = host_light.subtract(flux, variance, correlation, RULES)
    alone = host_light.subtract(flux[1:2], variance[1:2], correlation[1:2], RULES)
    np.testing.assert_allclose(alone.model[0], together.model[1], rtol=1e-4)
    unit = np.float32(1e-6)
    scaled = host_light.subtract(flux * unit, variance * unit**2, correlation, RULES)
    np.testing.assert_allclose(scaled.model / unit, together.model, rtol=0.02, atol=0.01)


def test_same_bytes_twice():
    given = noisy(sersic(FLUX, 8, 4, 0.7, 0.5), 3.0, 3, seed=8)
    first, second = (host_light.subtract(*given, RULES) for _ in range(2))
    assert first.model.tobytes() == second.model.tobytes()


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda f, v, c: (np.where(f == f.max(), np.nan, f), v, c), "a good pixel must have a finite flux"),
        (lambda f, v, c: (f, np.where(f == f.max(), 0, v), c), "and a positive variance, got .* and 0"),
        (lambda f, v, c: (f, np.where(f == f.max(), np.nan, v), c), "Make the variance of bad pixels infinite"),
        (lambda f, v, c: (f[0], v[0], c), "must be \\(object, band, y, x\\)"),
        (lambda f, v, c: (f, v[..., :-1], c), "must be \\(object, band, y, x\\)"),
        (lambda f, v, c: (f, v, c[:, 0]), "must be \\(object, band, y, x\\)"),
    ],
)
def test_bad_input_is_told(break_it, words):
    given = stamps(sersic(FLUX, 8, 4, 0.7, 0.5))
    with pytest.raises(ValueError, match=words):
        host_light.subtract(*break_it(*given), RULES)
