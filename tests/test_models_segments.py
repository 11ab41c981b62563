"""Segments inside the networks are those of scipy and photutils; their fluxes and errors are sums by brute force."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from photutils.segmentation import SegmentationImage, SourceCatalog
from scipy import ndimage
from torch import Tensor

from lensml.models import segments
from lensml.store.quantisation import BAD_LOG_VARIANCE

PIXELS, SCALE = 40, 0.2
AXIS = np.arange(PIXELS) - (PIXELS - 1) / 2
X, Y = np.meshgrid(AXIS, AXIS)
RULES = segments.Rules(pixels_min=4)
Images = NDArray[np.float64]


def blob(x: float, y: float, peak: float, width: float = 1.5) -> Images:
    return peak * np.exp(-0.5 * ((X - x) ** 2 + (Y - y) ** 2) / width**2)


def arc(start: float, end: float, peak: float, radius: float = 12.0) -> Images:
    angle = np.arctan2(Y, X)
    return peak * np.exp(-0.5 * ((np.hypot(X, Y) - radius) / 1.2) ** 2) * ((angle > start) & (angle < end))


def planes(flux: Images, sigma: Images, sky: Images, scale: float = SCALE) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(B, C, H, W) nJy with sigmas, infinite where bad, and sky sigmas (B, C): what a network is given."""
    unit = np.where(sky > 0, sky, 1)[..., None, None]
    good = np.isfinite(sigma) & (sky > 0)[..., None, None]
    residual = np.where(good, np.arcsinh(flux / unit), 0)
    log_variance = np.where(good, 2 * np.log(np.where(good, sigma, 1) / unit), BAD_LOG_VARIANCE)
    given = residual, log_variance, np.full(len(flux), scale), sky
    return tuple(torch.from_numpy(values).float() for values in given)  # type: ignore[return-value]


def scene(seed: int = 0) -> tuple[Images, Images, Images]:
    """Three objects of three bands: sources over noise, bands of different depths, a band missing, bad pixels."""
    rng = np.random.default_rng(seed)
    sky = np.array([[1.0, 2.0, 4.0], [3.0, 0.0, 1.0], [0.5, 0.5, 0.7]])
    light = np.stack([blob(9, 4, 8) + arc(-2.5, -1.0, 4), blob(-8, 8, 20, 2.5) + blob(3, -13, 12), arc(0.2, 2.9, 3)])
    colours = np.array([[1.0, 1.4, 2.0], [1.0, 1.0, 0.5], [1.0, 0.3, 1.2]])
    sigma = np.maximum(sky, 0.1)[..., None, None] * rng.uniform(0.9, 1.2, (3, 3, PIXELS, PIXELS))
    sigma[0, 1, 23:26, 25:30], sigma[2, :, 30:32, 5:35], sigma[1, 1] = np.inf, np.inf, np.inf
    noise = np.where(np.isfinite(sigma), sigma, 0) * rng.normal(size=sigma.shape)
    return light[:, None] * colours[..., None, None] + noise, sigma, sky


def smoothed(signal: Images, precision: Images) -> Images:
    def gaussian(image: Images, power: int) -> Images:
        kernel = np.exp(-0.5 * np.arange(-3, 4) ** 2.0) ** power
        for axis in (0, 1):
            image = ndimage.correlate1d(image, kernel, axis=axis, mode="constant")
        return image

    with np.errstate(invalid="ignore"):  # no data, no significance
        return gaussian(signal, 1) / np.sqrt(gaussian(precision, 2))


def scatter(image: Images) -> float:
    sample = np.sort(np.abs(image[::3, ::3][np.isfinite(image[::3, ::3])]))
    return max(1.0, 1.4826 * sample[len(sample) // 2]) if len(sample) else 1.0


def expected(flux: Images, sigma: Images, sky: Images) -> list[dict[str, object]]:
    """Band by band, pixel by pixel, segment by segment."""
    rows = []
    for owner in range(len(flux)):
        there = sky[owner] > 0
        inverse = np.where(np.isfinite(sigma[owner]), 1 / sigma[owner] ** 2, 0) * there[:, None, None]
        raised = np.array([scatter(smoothed(f * w, w)) for f, w in zip(flux[owner], inverse, strict=True)])
        inverse /= raised[:, None, None] ** 2
        outside = np.hypot(X, Y) >= 3
        signal, precision = (flux[owner] * inverse).sum(axis=0) * outside, inverse.sum(axis=0) * outside
        image = smoothed(signal, precision)
        more = scatter(image)
        image /= more
        label, number = ndimage.label((image > 3) & outside, np.ones((3, 3)))
        found = []
        for one in range(1, number + 1):
            inside = label == one
            y, x = ndimage.center_of_mass(image * inside)
            shape = SourceCatalog(image, SegmentationImage(inside.astype(int)))
            good = inside & (inverse > 0)
            bad = good.sum(axis=(1, 2)) < 0.5 * inside.sum()
            variance = np.divide(1, inverse, where=inverse > 0, out=np.zeros_like(inverse))
            found.append(
                {
                    "owner": owner,
                    "pixels": inside.sum(),
                    "x_arcsec": (x - (PIXELS - 1) / 2) * SCALE,
                    "y_arcsec": (y - (PIXELS - 1) / 2) * SCALE,
                    "snr": signal[inside].sum() / np.sqrt(precision[inside].sum()) / more,
                    "moments": np.array([shape.covariance[0].value[i] for i in ((0, 0), (1, 1), (0, 1))]) * SCALE**2,
                    "bad": bad,
                    "flux": np.where(bad, 0, np.where(good, flux[owner], 0).sum(axis=(1, 2))),
                    "variance": np.where(bad, np.inf, np.where(good, variance, 0).sum(axis=(1, 2))),
                }
            )
        kept = [f for f in found if f["pixels"] >= 4 and np.hypot(f["x_arcsec"], f["y_arcsec"]) <= 5]
        rows += sorted(kept, key=lambda f: -f["snr"])
    return rows


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_segments_are_those_of_scipy_and_photutils(seed: int) -> None:
    given = scene(seed)
    found, wanted = segments.detected(*planes(*given), rules=RULES), expected(*given)
    assert len(wanted) >= 5
    for name in found._fields:
        values = np.array([row[name] for row in wanted], dtype=np.float64)
        np.testing.assert_allclose(getattr(found, name).double().numpy(), values, 2e-4, 2e-4, err_msg=name)
    assert found.owner.dtype == torch.int64
    assert found.bad.dtype == torch.bool


@pytest.mark.parametrize("shape", [(1, 16, 16), (4, 33, 20), (3, 48, 48)])
@pytest.mark.parametrize("density", [0.05, 0.3, 0.45, 0.9])
def test_components_are_those_of_scipy(shape: tuple[int, int, int], density: float) -> None:
    masks = np.random.default_rng(1).random(shape) < density
    pixel, part = segments.components(torch.from_numpy(masks))
    labels, offset = np.full(masks.size, -1), 0
    for owner, mask in enumerate(masks):
        label, number = ndimage.label(mask, np.ones((3, 3)))
        labels[owner * mask.size : (owner + 1) * mask.size] = np.where(label > 0, label - 1 + offset, -1).ravel()
        offset += number
    np.testing.assert_array_equal(pixel.numpy(), np.flatnonzero(masks))
    np.testing.assert_array_equal(part.numpy(), labels[labels >= 0])


def test_a_spiral_is_one_component_however_long() -> None:
    turn = np.linspace(0, 12 * np.pi, 4000)
    mask = np.zeros((1, 64, 64), dtype=np.bool_)
    mask[0, (32 + 0.8 * turn * np.sin(turn)).astype(int), (32 + 0.8 * turn * np.cos(turn)).astype(int)] = True
    assert int(segments.components(torch.from_numpy(mask))[1].max()) == 0


def without_noise(*light: Images, sky: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    flux = np.stack(light)[:, None]
    return planes(flux, np.full_like(flux, sky), np.full((len(flux), 1), sky))


def test_an_arc_broken_in_two_stays_two() -> None:
    found = segments.detected(*without_noise(arc(0.0, 2.0, 9), arc(0.0, 0.7, 9) + arc(1.3, 2.0, 9)))
    assert found.owner.tolist() == [0, 1, 1]
    assert float(found.pixels[0]) > float(found.pixels[1:].sum())


def test_the_whole_light_of_an_isolated_source_is_its_flux() -> None:
    """A Gaussian's flux is 2 pi width^2 times its peak; its errors are those of its pixels alone."""
    found = segments.detected(*without_noise(blob(8, -5, 3000), sky=2.0))
    assert float(found.flux[0, 0]) == pytest.approx(2 * np.pi * 1.5**2 * 3000, rel=1e-3)
    assert float(found.variance[0, 0]) == pytest.approx(4 * float(found.pixels[0]), rel=1e-5)
    np.testing.assert_allclose([float(found.x_arcsec[0]), float(found.y_arcsec[0])], [8 * SCALE, -5 * SCALE], atol=1e-3)


def test_the_brightest_within_the_radius_are_kept_in_order() -> None:
    corners = [(-14, -14), (14, -14), (-14, 14), (14, 14), (0, -14), (0, 14)]
    light = np.sum([blob(x, y, 10.0 + 10 * i) for i, (x, y) in enumerate(corners)], axis=0)
    given = without_noise(np.zeros_like(light), light)
    found = segments.detected(*given, rules=segments.Rules(per_object_max=3))
    np.testing.assert_allclose(found.x_arcsec / SCALE, [0, 0, 14], atol=0.1)
    assert found.snr.tolist() == sorted(found.snr.tolist(), reverse=True)
    near = segments.detected(*given, rules=segments.Rules(radius_arcsec=3.0))
    np.testing.assert_allclose(near.y_arcsec / SCALE, [14, -14], atol=0.1)
    assert near.owner.tolist() == [1, 1]


def test_what_stays_of_the_core_is_no_segment() -> None:
    found = segments.detected(*without_noise(blob(0, 0, 500, 0.7), blob(0, 0, 500, 0.7) + blob(9, 0, 20)))
    assert found.owner.tolist() == [1]
    assert float(found.x_arcsec[0]) == pytest.approx(9 * SCALE, abs=0.02)


def test_correlated_noise_raises_errors_by_the_closed_form() -> None:
    """Noise of unit variance, smoothed to sigma s, under the Gaussian of 1: 4 pi s^2 / (s^2 + 1) times the white's."""
    rng, s = np.random.default_rng(4), 1.5
    white = rng.normal(size=(40, 1, PIXELS + 20, PIXELS + 20))
    noise = ndimage.gaussian_filter(white, (0, 0, s, s))[..., 10:-10, 10:-10] * np.sqrt(4 * np.pi * s**2)
    noise[:, :, 5:10, 5:10] += 60  # the same segment in all of them
    flux = np.concatenate([noise, noise[:1]])
    flux[-1, 0] = np.where(flux[-1, 0] > 30, 60, rng.normal(size=(PIXELS, PIXELS)))
    found = segments.detected(*planes(flux, np.ones_like(flux), np.ones((41, 1))), rules=segments.Rules(8.0))
    raised = (found.variance[:, 0] / found.pixels).numpy()
    assert raised[:-1].mean() == pytest.approx(4 * np.pi * s**2 / (s**2 + 1), rel=0.15)
    assert raised[-1] == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize("width", [0.0, 2.0])
def test_noise_alone_has_few_segments(width: float) -> None:
    noise = np.random.default_rng(3).normal(size=(64, 3, PIXELS, PIXELS))
    noise = ndimage.gaussian_filter(noise, (0, 0, width, width))
    noise /= noise.std()
    found = segments.detected(*planes(noise, np.ones_like(noise), np.ones((64, 3))))
    assert len(found.owner) < 0.5 * 64


def test_nothing_at_all_has_no_segment() -> None:
    none = torch.zeros(2, 3, 16, 16)
    for sky in (torch.zeros(2, 3), torch.ones(2, 3)):
        found = segments.detected(none, torch.full_like(none, BAD_LOG_VARIANCE), torch.ones(2), sky)
        assert [len(values) for values in found] == [0] * len(found)
        assert found.flux.shape == (0, 3)


def test_an_object_is_the_same_alone_and_the_gradient_reaches_its_pixels() -> None:
    given = planes(*scene())
    whole = segments.detected(*given)
    alone = segments.detected(*(values[1:2] for values in given))
    for name in ("x_arcsec", "flux", "variance", "snr"):
        torch.testing.assert_close(getattr(whole, name)[whole.owner == 1], getattr(alone, name), rtol=1e-5, atol=1e-6)
    residual = given[0].requires_grad_(True)
    segments.detected(residual, *given[1:]).flux.sum().backward()
    assert residual.grad is not None
    assert bool(torch.isfinite(residual.grad).all())
    assert float(residual.grad.abs().sum()) > 0
