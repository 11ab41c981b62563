"""Segments against Gaussians in closed form, photutils' catalogue, Monte Carlo and published Einstein radii."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from photutils.segmentation import SegmentationImage, SourceCatalog
from scipy import ndimage

from lensml import config
from lensml.imaging import host_light, segments
from lensml.imaging.cutouts import calibrate
from lensml.imaging.host_light import HostLight
from lensml.imaging.isophotes import Ellipses
from lensml.imaging.segments import SegmentRules, Segments
from lensml.sources import SOURCES
from tests import planted_hosts
from tests.planted_hosts import SIDE, blob, grid, noise, sersic
from tests.real_sample import REAL, ROOT, needs_real, source

SCALE = 0.2
RULES = SegmentRules(
    threshold_sigma=3.0,
    smoothing_fwhm_arcsec=0.5,
    pixels_min=5,
    deblend_levels=16,
    deblend_contrast=0.05,
    radius_arcsec=3.0,
)
COLOURS = np.array([1.0, 0.8, 0.5])  # the source's flux in each band
ARC = {"flux": 4000.0, "x": 0.0, "y": 8.0, "long": 4.0, "short": 1.5, "angle": 0.0}
SPOKE = {"flux": 3000.0, "x": -9.0, "y": 0.0, "long": 3.0, "short": 1.2, "angle": 0.0}


def without_host(residual, variance, centre=(0.0, 0.0)) -> HostLight:
    """Stamps that had no host, or from which it was taken off without error."""
    nothing, count = np.zeros_like(residual), len(residual)
    place = [np.full(count, part) for part in (*centre, 0.0, 0.0)]
    fitted = np.isfinite(variance).any(axis=(1, 2, 3))
    return HostLight(nothing, residual, nothing, nothing, Ellipses(*place), fitted)


def found_in(host: HostLight, variance, rho=0.0, rules=RULES, scale=SCALE) -> Segments:
    correlation = np.full(variance.shape[:2], rho)
    return segments.segment(host, variance, correlation, np.full(len(variance), scale), rules)


def bands_of(*sources: dict[str, float]) -> np.ndarray:
    return COLOURS[:, None, None] * sum(blob(**one) for one in sources)


def observed(truth, sky, count, seed, blur=0.0):
    """Flux, variance and the noise's correlation."""
    unit, rho = noise(np.random.default_rng(seed), (count, *truth.shape), blur)
    variance = np.broadcast_to(sky**2 + 0.2 * np.abs(truth), unit.shape)
    return (truth + unit * np.sqrt(variance)).astype(np.float32), variance.astype(np.float32), rho


@pytest.fixture(scope="module")
def pair() -> tuple[Segments, np.ndarray, np.ndarray]:
    """An arc above and a spoke to the left of the centre, faint noise; the segments, residual and variance."""
    residual, variance, _ = observed(bands_of(ARC, SPOKE), 0.5, 1, seed=1)
    return found_in(without_host(residual, variance), variance), residual, variance


def test_places_and_directions_of_planted_segments(pair):
    arc, spoke = (int(np.argmax(part)) for part in (pair[0].y_arcsec, -pair[0].x_arcsec))
    assert pair[0].per_object.tolist() == [2]
    for row, truth, alignment in ((arc, ARC, 0.0), (spoke, SPOKE, np.pi / 2)):
        place = np.array([pair[0].x_arcsec[row], pair[0].y_arcsec[row]])
        np.testing.assert_allclose(place, [truth["x"] * SCALE, truth["y"] * SCALE], atol=0.02)
        assert pair[0].radius_arcsec[row] == pytest.approx(np.hypot(*place))
        assert pair[0].alignment[row] == pytest.approx(alignment, abs=0.05)
        assert pair[0].elongation[row] > 1.6


def test_fluxes_of_planted_segments(pair):
    """The threshold is so low that the isophote holds 97 % of a Gaussian and more."""
    for row, truth in ((int(np.argmax(pair[0].y_arcsec)), ARC), (int(np.argmin(pair[0].x_arcsec)), SPOKE)):
        np.testing.assert_allclose(pair[0].flux[row], truth["flux"] * COLOURS, rtol=0.03)


def test_sums_and_shapes_are_those_of_photutils(pair):
    found, residual, variance = pair
    labels = SegmentationImage(found.label[0] + 1)
    for band in range(3):
        catalogue = SourceCatalog(
            residual[0, band].astype(float), labels, error=np.sqrt(variance[0, band].astype(float))
        )
        np.testing.assert_allclose(found.flux[:, band], catalogue.segment_flux, rtol=1e-6)
        sigma = np.sqrt(found.covariance[:, band, band])
        np.testing.assert_allclose(sigma, catalogue.segment_flux_err, rtol=1e-5)
    significance = ndimage.gaussian_filter((residual / np.sqrt(variance))[0].sum(axis=0), 0.5 / SCALE / 2.3548)
    catalogue = SourceCatalog(significance.astype(float), labels)
    np.testing.assert_allclose(found.area_arcsec2, catalogue.area.value * SCALE**2)
    centre = (SIDE - 1) / 2
    np.testing.assert_allclose(found.x_arcsec, (catalogue.x_centroid - centre) * SCALE, atol=1e-3)
    np.testing.assert_allclose(found.y_arcsec, (catalogue.y_centroid - centre) * SCALE, atol=1e-3)
    np.testing.assert_allclose(found.elongation, catalogue.elongation.value, rtol=0.03)


def pulls(found: Segments, truth: np.ndarray, place: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Flux less what of the source is in the segment, and the covariance, of each object's segment at a place."""
    near = np.hypot(found.x_arcsec / SCALE - place[0], found.y_arcsec / SCALE - place[1]) < 3
    rows = [int(np.flatnonzero(near & (found.owner == k))[0]) for k in np.unique(found.owner[near])]
    inside = [found.label[found.owner[row]] == row for row in rows]
    miss = np.array([found.flux[row] - truth[:, part].sum(axis=1) for row, part in zip(rows, inside, strict=True)])
    return miss, found.covariance[rows]


@pytest.mark.parametrize("blur", [0.0, 0.6, 1.2])
def test_errors_are_the_scatter_of_noise_that_is_correlated(blur):
    truth = bands_of(ARC)
    flux, variance, rho = observed(truth, 6.0, 150, seed=2, blur=blur)
    miss, covariance = pulls(found_in(without_host(flux, variance), variance, rho), truth, (0, 8))
    assert len(miss) > 140
    pull = miss / np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    np.testing.assert_allclose(pull.std(axis=0), 1, atol=0.2)
    assert np.abs(pull.mean(axis=0)).max() < 0.7  # an isophote follows what noise adds
    if blur:  # the fault: noise taken for white
        sigma = np.sqrt(np.diagonal(found_in(without_host(flux, variance), variance).covariance, axis1=1, axis2=2))
        assert (miss.std(axis=0) > 1.4 * np.median(sigma, axis=0)).all()


@pytest.mark.parametrize(("n", "radius"), [(4.0, 8.0), (1.0, 6.0)])
def test_errors_hold_around_a_host_that_was_taken_off(n, radius):
    """The whole way, from stamps; the host is brighter than the arc where it is, and redder."""
    truth = bands_of(ARC)
    host = np.array([0.4, 0.7, 1.0])[:, None, None] * sersic(1e5, radius, n, 0.75, 0.5, 0.3, -0.4)
    flux, variance, rho = observed(truth + host, 6.0, 60, seed=3, blur=0.6)
    correlation = np.full(flux.shape[:2], rho)
    light = host_light.subtract(flux, variance, correlation, planted_hosts.RULES)
    miss, covariance = pulls(found_in(light, variance, rho), truth, (0, 8))
    assert len(miss) > 55
    chi2 = np.einsum("ob,obc,oc->o", miss, np.linalg.inv(covariance), miss) / 3
    assert 0.3 < chi2.mean() < 2


def test_errors_of_the_host_are_shared_as_they_say():
    """One error of a band along a segment, and one of all bands: closed form."""
    residual, variance, _ = observed(bands_of(ARC), 0.5, 1, seed=4)
    plain = without_host(residual, variance)
    factors = np.array([1.0, 2.0, 3.0], np.float32)[None, :, None, None]
    told = plain._replace(error=0.01 * factors + plain.error, mismatch=0.02 * factors + plain.mismatch)
    found, noise_only = found_in(told, variance), found_in(plain, variance)
    (pixels,) = np.round(found.area_arcsec2 / SCALE**2)
    base = np.array([variance[0, band][found.label[0] == 0].sum() for band in range(3)])
    shared = 0.02 * pixels * factors.ravel()
    expected = np.diag(base + (0.01 * pixels * factors.ravel()) ** 2) + np.outer(shared, shared)
    np.testing.assert_allclose(found.covariance[0], expected, rtol=1e-4)
    assert (np.diag(noise_only.covariance[0].diagonal()) == noise_only.covariance[0]).all()


def test_colours_and_their_covariance():
    """The mean against the planted ratios, the covariance against drawn fluxes; nothing for what is not positive."""
    residual, variance, _ = observed(bands_of(ARC), 0.5, 1, seed=5)
    found = found_in(without_host(residual, variance), variance)
    colour, covariance = segments.colours(found)
    np.testing.assert_allclose(colour[0], -2.5 * np.log10(COLOURS[:-1] / COLOURS[1:]), atol=0.03)
    drawn = np.random.default_rng(6).multivariate_normal(found.flux[0], found.covariance[0], 200_000)
    magnitude = -2.5 * np.log10(drawn)
    np.testing.assert_allclose(covariance[0], np.cov((magnitude[:, :-1] - magnitude[:, 1:]).T), rtol=0.05)
    faint = found._replace(flux=found.flux * [1, -1, 1])
    assert np.isnan(segments.colours(faint)[0]).all()
    unseen = found._replace(bad=np.array([[False, False, True]]))
    assert np.isnan(segments.colours(unseen)[0]).tolist() == [[False, True]]
    assert np.isnan(segments.colours(unseen)[1][0]).tolist() == [[False, True], [True, True]]


def test_bands_are_summed_over_the_same_pixels():
    """A band that misses a third of the arc takes the others along; one that misses most of it is bad alone."""
    residual, variance, _ = observed(bands_of(ARC), 0.5, 1, seed=7)
    _, x = grid()
    for missing, bad in ((x > 2, [False] * 3), (np.abs(x) < 20, [False, True, False])):
        spoiled = variance.copy()
        spoiled[0, 1][missing] = np.inf
        light = np.where(np.isfinite(spoiled), residual, 0)
        found = found_in(without_host(light, spoiled), spoiled)
        assert found.bad[0].tolist() == bad
        some = (found.label[0] == 0) & (any(bad) | ~missing)
        sums = residual[0][:, some].sum(axis=1)
        np.testing.assert_allclose(found.flux[0][~found.bad[0]], sums[~found.bad[0]], rtol=1e-5)
        if any(bad):
            assert found.flux[0, 1] == 0
            assert np.isinf(found.covariance[0, 1, 1])


def test_noise_alone_has_few_segments_and_they_are_counted():
    flux, variance, rho = observed(np.zeros((3, SIDE, SIDE)), 1.0, 60, seed=8, blur=0.9)
    found = found_in(without_host(flux, variance), variance, rho)
    assert found.objects == 60
    assert found.per_object.sum() == len(found.owner) <= 6
    as_if_white = found_in(without_host(flux, variance), variance, 0.0)  # the fault
    assert len(as_if_white.owner) > 60


def test_nothing_found_has_no_rows():
    nothing = np.zeros((4, 3, SIDE, SIDE), np.float32)
    variance = np.ones_like(nothing)
    variance[1] = np.inf
    found = found_in(without_host(nothing, variance), variance)
    assert (found.objects, len(found.owner), found.per_object.tolist()) == (4, 0, [0, 0, 0, 0])
    assert (found.flux.shape, found.covariance.shape, found.snr.shape) == ((0, 3), (0, 3, 3), (0,))
    assert segments.colours(found)[1].shape == (0, 2, 2)
    assert (found.label == -1).all()
    none = found_in(without_host(nothing[:0], variance[:0]), variance[:0])
    assert (none.objects, none.label.shape) == (0, (0, SIDE, SIDE))


def test_two_blobs_that_touch_are_taken_apart():
    touching = [{**ARC, "x": side * 4.0, "long": 1.8} for side in (-1, 1)]
    residual, variance, _ = observed(bands_of(*touching), 0.5, 1, seed=9)
    found = found_in(without_host(residual, variance), variance)
    np.testing.assert_allclose(sorted(found.x_arcsec / SCALE), [-4, 4], atol=0.4)
    whole = found_in(
        without_host(residual, variance), variance, rules=RULES.model_copy(update={"deblend_contrast": 0.99})
    )
    assert len(whole.owner) == 1


def test_far_segments_are_left_out_by_the_host_s_centre():
    residual, variance, _ = observed(bands_of(ARC), 0.5, 1, seed=10)
    assert len(found_in(without_host(residual, variance, (0.0, -8.0)), variance).owner) == 0  # 3.2 arcsec away
    (radius,) = found_in(without_host(residual, variance, (0.0, 4.0)), variance).radius_arcsec
    assert radius == pytest.approx(4 * SCALE, abs=0.02)


def test_owner_and_label_say_whose_a_segment_is():
    truth = np.stack([bands_of(ARC), np.zeros((3, SIDE, SIDE)), bands_of(SPOKE, ARC)])
    unit, _ = noise(np.random.default_rng(11), truth.shape, 0.0)
    residual, variance = (truth + 0.5 * unit).astype(np.float32), np.full(truth.shape, 0.25, np.float32)
    found = found_in(without_host(residual, variance), variance)
    assert found.owner.tolist() == [0, 2, 2]
    assert [sorted(set(part.ravel().tolist()) - {-1}) for part in found.label] == [[0], [], [1, 2]]
    assert found.snr[1] >= found.snr[2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h, v, c, s: (h, v, c, np.zeros(1)), r"pixel_scale must be positive, one per object \(1\), got \[0.0\]"),
        (lambda h, v, c, s: (h, v, c, np.full(1, np.nan)), "pixel_scale must be positive"),
        (lambda h, v, c, s: (h, v, c, np.ones(2)), "pixel_scale must be positive, one per object"),
        (lambda h, v, c, s: (h, v[:, :2], c, s), "flux, variance and correlation must be"),
        (lambda h, v, c, s: (h, np.where(v == v.max(), np.nan, v), c, s), "a good pixel must have a finite flux"),
        (
            lambda h, v, c, s: (h._replace(residual=h.residual * np.nan), v, c, s),
            "a good pixel must have a finite flux",
        ),
    ],
)
def test_bad_input_is_told(change, words):
    residual, variance, _ = observed(bands_of(ARC), 0.5, 1, seed=12)
    given = (without_host(residual, variance), variance, np.zeros((1, 3)), np.full(1, SCALE))
    with pytest.raises(ValueError, match=words):
        segments.segment(*change(*given), RULES)


@dataclass(frozen=True)
class Around:
    """A real lens or its twin: radii of its segments over the published Einstein radius, and their significance."""

    radius: np.ndarray
    snr: np.ndarray

    def has_images(self) -> bool:
        """Images of one source are at 0 to 2 Einstein radii of an isothermal lens, near which most of the light is."""
        return bool(((self.radius > 0.5) & (self.radius < 1.8) & (self.snr > 8)).any())


@needs_real
@pytest.mark.parametrize(("name", "at_least", "at_most"), [("hst_dinos", 25, 29), ("hst_delensed", 0, 5)])
def test_real_lenses_have_images_about_their_einstein_radius_and_twins_have_few(name, at_least, at_most, tmp_path):
    """29 confirmed lenses in all bands; the 22 twins have their host's light, noise and PSF, and no arc."""
    rules = RULES.model_copy(update={"smoothing_fwhm_arcsec": 0.15, "pixels_min": 8})
    table = pl.read_csv(REAL / "hst-dinos" / "labels.csv").filter(pl.col("label") == "lens")
    radii = dict(table.select("object", "theta_E_arcsec").iter_rows())
    params, kind = config.load(ROOT / "params.yaml"), SOURCES[source(name).kind]
    kind.fetch(source(name), params.surveys, tmp_path)
    seen: dict[str, Around] = {}
    for unit in kind.batches("x", tmp_path, params.convert):
        for cutouts in kind.read("x", tmp_path, unit, params.surveys, params.convert).cutouts:
            stamps, _ = calibrate(cutouts, params.surveys[cutouts.survey], params.convert)
            rho = np.array(stamps.catalogue["noise_correlation"].to_list(), np.float64)
            light = host_light.subtract(stamps.flux, stamps.variance, rho, planted_hosts.RULES)
            found = segments.segment(light, stamps.variance, rho, stamps.pixel_scale, rules)
            for index, object_id in enumerate(stamps.catalogue["object_id"]):
                lens = object_id.removeprefix("x.").removesuffix("_twin")
                rows = found.owner == index
                if lens in radii:
                    seen[lens] = Around(found.radius_arcsec[rows] / radii[lens], found.snr[rows])
    assert len(seen) == (29 if name == "hst_dinos" else 22)
    assert at_least <= sum(one.has_images() for one in seen.values()) <= at_most
