"""Augmented stamps are those that another pointing, seeing or exposure would have given, variance and PSF with them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lensml.store.quantisation import BAD_LOG_VARIANCE
from lensml.training.augment import Augmented
from lensml.training.batches import DRAWS
from tests.fitting import AUGMENT

PIXELS, SCALE, FWHM = 24, 0.2, 0.8  # arcsec


def augmented(**most: float) -> Augmented:
    return Augmented(AUGMENT.model_copy(update={"turns": False, **most}))


def scene(flux: np.ndarray, variance: np.ndarray | float = 1.0) -> dict[str, Tensor]:
    """Planes (B, C, y, x) in sky sigma, with their noise's variance, as a batch; the PSF is a Gaussian."""
    stamps = torch.from_numpy(np.arcsinh(flux)).float()
    log_variance = torch.from_numpy(np.log(np.broadcast_to(variance, flux.shape))).float()
    psf = torch.from_numpy(gaussian(15, FWHM / SCALE / 2.3548)).float().expand(*flux.shape[:2], 15, 15)
    objects = len(flux)
    return {
        "stamps": stamps, "log_variance": log_variance, "psf": psf, "sky_sigma": torch.full(flux.shape[:2], 3.0),
        "pixel_scale": torch.full((objects,), SCALE), "psf_fwhm": torch.full((objects,), FWHM),
    }  # fmt: skip


def gaussian(pixels: int, sigma: float, centre: tuple[float, float] = (0, 0)) -> np.ndarray:
    y, x = np.mgrid[:pixels, :pixels] - (pixels - 1) / 2
    image = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * sigma**2))
    return image / image.sum()


def numbers(objects: int, **at: float) -> Tensor:
    """All in the middle, which is no shift, but for those named."""
    found = torch.full((objects, DRAWS), 0.5)
    for name, value in at.items():
        found[:, ("turn", "y", "x", "psf", "depth").index(name)] = value
    return found


def flux(batch: dict[str, Tensor]) -> np.ndarray:
    return torch.sinh(batch["stamps"].double()).numpy()


def test_nothing_is_changed_by_nothing() -> None:
    batch = scene(np.random.default_rng(1).normal(size=(3, 2, PIXELS, PIXELS)))
    out = augmented()(batch, torch.rand(3, DRAWS), 0)
    assert all(out[name] is batch[name] for name in batch)


@pytest.mark.parametrize("turns", [True, False])
def test_the_seed_and_the_numbers_decide(turns: bool) -> None:
    change = Augmented(AUGMENT.model_copy(update={"turns": turns, "shift_pixels": 0.5, "depth_mag": 1.0}))
    batch, drawn = scene(np.random.default_rng(1).normal(size=(3, 2, PIXELS, PIXELS))), torch.rand(3, DRAWS)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, two, other = (change(batch, drawn, seed)["stamps"] for seed in (4, 4, 5))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_shallower_exposure() -> None:
    """One magnitude: the sky is 10^0.4 times as noisy, and flux and variance are in units of that."""
    sky = np.random.default_rng(2).normal(size=(60, 1, PIXELS, PIXELS))
    batch = scene(sky + 1e4 * gaussian(PIXELS, 0.5), variance=1.0 + 1e3 * gaussian(PIXELS, 0.5))
    out = augmented(depth_mag=1.0)(batch, numbers(60, depth=1.0), 3)
    ratio = 10**0.4
    assert out["sky_sigma"].numpy() == pytest.approx(np.full((60, 1), 3 * ratio))
    off = flux(out)[:, :, :6]
    assert off.std() == pytest.approx(1, rel=0.02)
    assert off.mean() == pytest.approx(0, abs=0.04)
    assert flux(out).sum(axis=(2, 3)).mean() == pytest.approx(1e4 / ratio, rel=0.005)
    variance = out["log_variance"].exp().numpy()
    expected = (1e3 * gaussian(PIXELS, 0.5) + ratio**2) / ratio**2
    np.testing.assert_allclose(variance, np.broadcast_to(expected, variance.shape), rtol=1e-5)


def test_a_shifted_scene_is_the_scene_elsewhere() -> None:
    """A source sampled there to begin with; the noise that is drawn is a 10,000th of its peak."""
    batch = scene(1e6 * np.stack([gaussian(PIXELS, 2.0)[None]] * 2))
    out = augmented(shift_pixels=0.6)(batch, numbers(2, y=1.0, x=0.25), 3)
    by = [np.abs(flux(out)[0, 0] - 1e6 * gaussian(PIXELS, 2.0, (y, x))).max() for y, x in ((0.6, -0.3), (-0.6, 0.3))]
    assert min(by) < 0.01 * flux(batch).max()
    assert max(by) > 0.1 * flux(batch).max()
    np.testing.assert_allclose(out["psf"], batch["psf"], atol=1e-6)
    assert torch.equal(out["sky_sigma"], batch["sky_sigma"])


def test_a_broader_psf_is_that_of_stamp_and_psf_alike() -> None:
    """A star is the PSF, before and after; the variance of its light grows as the FWHM's square says."""
    batch = scene(1e6 * gaussian(PIXELS, FWHM / SCALE / 2.3548)[None, None])
    out = augmented(psf_jitter=0.05)(batch, numbers(1, psf=1.0), 3)
    width = second(out["psf"][0, 0].double().numpy())
    assert width == pytest.approx(1.05**2 * second(batch["psf"][0, 0].double().numpy()), rel=0.01)
    assert second(flux(out)[0, 0, 4:-5, 4:-5]) == pytest.approx(width, rel=0.01)
    assert out["psf"].sum(dim=(2, 3)).numpy() == pytest.approx(np.ones((1, 1)))


def second(image: np.ndarray) -> float:
    """Second moment along y, pixels^2, about the centroid."""
    y = np.arange(len(image))[:, None]
    centre = (image * y).sum() / image.sum()
    return float((image * (y - centre) ** 2).sum() / image.sum())


def test_the_variance_is_that_of_the_pixels() -> None:
    """3000 exposures of one scene, whose noise is Poisson's: the scatter of what comes out, pixel by pixel."""
    variance = 1 + 4 * gaussian(12, 2.0) / gaussian(12, 2.0).max()
    noise = np.sqrt(variance) * np.random.default_rng(4).normal(size=(3000, 1, 12, 12))
    batch = scene(1e3 + noise, variance)
    change = augmented(shift_pixels=0.5, psf_jitter=0.05, depth_mag=0.5)
    out = change(batch, numbers(3000, y=0.9, x=0.2, psf=1.0, depth=1.0), 3)
    stated = out["log_variance"].exp().numpy()
    assert np.ptp(stated, axis=0).max() < 1e-4
    inner = (slice(None), slice(None), slice(3, -3), slice(3, -3))
    ratio = flux(out)[inner].var(axis=0) / stated[inner][0]
    assert np.abs(ratio - 1).max() < 0.12  # 4 sigma of a variance from 3000
    assert ratio.mean() == pytest.approx(1, abs=0.02)


def test_bad_pixels_and_missing_bands_stay() -> None:
    batch = scene(np.random.default_rng(1).normal(size=(2, 2, PIXELS, PIXELS)))
    bad = torch.rand(batch["stamps"].shape, generator=torch.Generator().manual_seed(1)) < 0.1
    bad[0, 1] = True
    batch["stamps"][bad] = 0
    batch["log_variance"][bad] = BAD_LOG_VARIANCE
    batch["psf"] = batch["psf"].clone()
    batch["psf"][0, 1] = 0
    change = augmented(shift_pixels=0.5, psf_jitter=0.05, depth_mag=0.5)
    out = change(batch, torch.rand(2, DRAWS, generator=torch.Generator().manual_seed(2)), 3)
    assert torch.equal(out["stamps"] == 0, bad)
    assert torch.equal(out["log_variance"] == BAD_LOG_VARIANCE, bad)
    assert torch.isfinite(out["log_variance"]).all()
    assert not out["psf"][0, 1].any()


def test_a_psf_that_cannot_be_so_broad_is_refused() -> None:
    batch = scene(np.zeros((1, 1, PIXELS, PIXELS)))
    batch["psf_fwhm"] *= 3
    with pytest.raises(ValueError, match=r"psf_jitter must broaden no PSF by more than 0\.49 pixel\^2, got 11"):
        augmented(psf_jitter=0.2)(batch, numbers(1, psf=1.0), 3)
    batch["psf_fwhm"] *= torch.nan  # unknown: as it is
    assert augmented(psf_jitter=0.2)(batch, numbers(1, psf=1.0), 3)["stamps"].isfinite().all()
