"""What might have been otherwise at the telescope (oracles: Gaussians, scipy's transforms, a planted linear loss)."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from lensml.models import stretch
from lensml.models.perturbations import BUDGET, STEP, Budget, Perturbation, drawn, perturbed, worst
from lensml.models.robust_resnet import RobustResNet, build

PIXELS, BANDS, METADATA = 33, 2, 5
AXIS = np.arange(PIXELS) - (PIXELS - 1) / 2
PEAK = 1e5  # sky sigma: what is put back of the noise is nothing beside it


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


def gaussian(variance: float, y: float = 0.0, x: float = 0.0) -> NDArray[np.float64]:
    """Light of PEAK in all its pixels together times 2 pi, of that variance in pixels^2."""
    return PEAK / variance * np.exp(-0.5 * ((AXIS[:, None] - y) ** 2 + (AXIS - x) ** 2) / variance)


def stamps(*flux: NDArray[np.floating]) -> Tensor:
    """One object of these bands."""
    return torch.from_numpy(np.arcsinh(np.stack(flux))).float()[None]


def nothing(objects: int = 1, bands: int = 1) -> Perturbation:
    zero = torch.zeros(objects)
    return Perturbation(zero, zero, torch.zeros(objects, 2), torch.zeros(objects, bands, 3))


def light(seen: Tensor) -> NDArray[np.float64]:
    """Flux of the first object's first band."""
    return np.sinh(seen[0, 0].double().numpy())


def test_the_stretch_is_asinh_and_back() -> None:
    flux = np.concatenate([-np.geomspace(1e12, 1e-6, 400), [0.0], np.geomspace(1e-6, 1e12, 400)])
    stretched = stretch.asinh(torch.from_numpy(flux).float())
    np.testing.assert_allclose(stretched.numpy(), np.arcsinh(flux), rtol=3e-6)
    np.testing.assert_allclose(stretch.sinh(stretched).numpy(), np.sinh(stretched.double().numpy()), rtol=3e-6)


def test_no_perturbation_changes_nothing() -> None:
    before = stamps(gaussian(9.0), np.random.default_rng(0).normal(size=(PIXELS, PIXELS)))
    torch.testing.assert_close(perturbed(before, nothing(bands=2)), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("y", "x"), [(0.5, -0.5), (0.3, 0.0), (-0.1, 0.4)])
def test_a_shift_moves_the_light_as_the_shift_theorem_does(y: float, x: float) -> None:
    before = gaussian(6.0)
    after = light(perturbed(stamps(before), nothing()._replace(shift=torch.tensor([[y, x]]))))
    theorem = np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(before), (y, x))).real
    np.testing.assert_allclose(after / before.max(), theorem / before.max(), atol=4e-3)
    np.testing.assert_allclose(after / before.max(), gaussian(6.0, y, x) / before.max(), atol=4e-3)


@pytest.mark.parametrize("sigma", [0.2, 0.4, 0.7])
def test_a_blur_broadens_the_light_as_a_gaussian_does(sigma: float) -> None:
    before = gaussian(6.0)
    after = light(perturbed(stamps(before), nothing()._replace(spread=torch.tensor([sigma**2]))))
    filtered = np.fft.ifft2(ndimage.fourier_gaussian(np.fft.fft2(before), sigma)).real
    np.testing.assert_allclose(after / before.max(), filtered / before.max(), atol=2e-3)
    np.testing.assert_allclose(after / before.max(), gaussian(6.0 + sigma**2) / before.max(), atol=2e-3)


def test_shift_and_blur_together_keep_the_light_and_move_its_moments_exactly() -> None:
    what = nothing()._replace(shift=torch.tensor([[0.37, -0.21]]), spread=torch.tensor([0.16]))
    after = light(perturbed(stamps(gaussian(4.0)), what))
    along_y, along_x = after.sum(axis=1) / after.sum(), after.sum(axis=0) / after.sum()
    assert after.sum() == pytest.approx(gaussian(4.0).sum(), rel=1e-3)
    assert along_y @ AXIS == pytest.approx(0.37, abs=2e-3)
    assert along_x @ AXIS == pytest.approx(-0.21, abs=2e-3)
    assert along_x @ (AXIS + 0.21) ** 2 == pytest.approx(4.16, abs=0.02)


def test_a_background_is_a_plane_of_its_own_in_each_band() -> None:
    flat = np.full((PIXELS, PIXELS), 2.0)
    what = nothing(bands=2)._replace(background=torch.tensor([[[0.3, 0.1, -0.2], [-0.1, 0.0, 0.0]]]))
    seen = torch.sinh(perturbed(stamps(flat, flat), what))[0].numpy()
    side = AXIS / AXIS.max()
    np.testing.assert_allclose(seen[0], 2.3 + 0.1 * side[:, None] - 0.2 * side, rtol=1e-5)
    np.testing.assert_allclose(seen[1], 1.9, rtol=1e-5)


@pytest.mark.parametrize("noise", [0.0, 0.8])
def test_the_sky_keeps_its_noise_under_shift_and_blur_and_gains_what_is_added(noise: float) -> None:
    sky = torch.asinh(torch.randn(60, 1, 40, 40))
    what = Perturbation(
        torch.full((60,), noise), torch.full((60,), 0.16), torch.full((60, 2), 0.5), torch.zeros(60, 1, 3)
    )
    after = torch.sinh(perturbed(sky, what))[..., 4:-4, 4:-4]  # at the border fewer neighbours are averaged
    assert float(after.var()) == pytest.approx(1 + noise**2, rel=0.03)


def test_bad_pixels_and_missing_bands_stay_nothing_and_touch_nothing() -> None:
    flat = np.full((PIXELS, PIXELS), PEAK)
    flat[10:13, 4:9] = 0
    flat[:, -6:] = 0
    before = stamps(flat, np.zeros_like(flat))
    what = drawn(before, BUDGET)
    after = perturbed(before, what)
    assert torch.equal(after == 0, before == 0)
    np.testing.assert_allclose(light(after)[flat > 0], PEAK, rtol=1e-4)


def test_bfloat16_does_not_reach_the_pixels() -> None:
    before, what = stamps(gaussian(6.0)), nothing()._replace(shift=torch.tensor([[0.5, 0.5]]))
    with torch.autocast("cpu", torch.bfloat16):
        half = perturbed(before, what)
    np.testing.assert_allclose(light(half) / PEAK, light(perturbed(before, what)) / PEAK, atol=1e-4)  # bfloat16: 1e-3


def test_draws_fill_the_budget_and_stay_within() -> None:
    what = drawn(torch.zeros(4000, 3, 4, 4), BUDGET)
    inside(what, BUDGET)
    for values, low, high in (
        (what.noise, 0, BUDGET.noise),
        (what.spread, 0, BUDGET.blur**2),
        (what.shift, -BUDGET.shift, BUDGET.shift),
        (what.background[..., 0], -BUDGET.background, BUDGET.background),
        (what.background[..., 1:], -BUDGET.slope, BUDGET.slope),
    ):
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
        assert float(values.std()) == pytest.approx((high - low) / np.sqrt(12), rel=0.05)


def inside(what: Perturbation, budget: Budget) -> None:
    for values, low, high in (
        (what.noise, 0, budget.noise),
        (what.spread, 0, budget.blur**2),
        (what.shift, -budget.shift, budget.shift),
        (what.background[..., 0], -budget.background, budget.background),
        (what.background[..., 1:], -budget.slope, budget.slope),
    ):
        assert low - 1e-7 <= float(values.min())
        assert float(values.max()) <= high + 1e-7


def test_the_worst_for_a_planted_linear_loss_is_the_closed_form() -> None:
    """A loss that is the flux, rising along x: background up, slope up along x, and light moved towards +x.

    A start u, uniform in [-1, 1], and a step of 1.25 end at min(1, u + 1.25): 0.859 of the budget on average.
    """
    number, weight = 3000, torch.from_numpy(1 + 0.5 * AXIS[8:-8] / AXIS.max()).float()
    before = stamps(gaussian(3.0)[8:-8, 8:-8] / 100 + 5).expand(number, -1, -1, -1)

    def losses(seen: Tensor) -> Tensor:
        return (torch.sinh(seen) * weight).mean(dim=(1, 2, 3))

    what = worst(losses, before, BUDGET)
    inside(what, BUDGET)
    mean = 1 - (2 - STEP) ** 2 / 4
    assert float(what.background[..., 0].mean()) == pytest.approx(mean * BUDGET.background, rel=0.01)
    assert float(what.background[..., 2].mean()) == pytest.approx(mean * BUDGET.slope, rel=0.01)
    assert float(what.shift[:, 1].mean()) == pytest.approx(mean * BUDGET.shift, rel=0.01)
    assert float(what.background[..., 0].min()) >= (STEP - 1) * BUDGET.background * (1 - 1e-5)
    clean, hard, random = (losses(perturbed(before, w)).mean() for w in (nothing(number), what, drawn(before, BUDGET)))
    assert hard > random
    assert hard - clean > 0.8 * BUDGET.background


def batch(objects: int) -> dict[str, Tensor]:
    rng = np.random.default_rng(5)
    flux = rng.normal(size=(objects, BANDS, PIXELS, PIXELS)) + gaussian(6.0) / 1e3
    flux[0, 1] = 0
    metadata = torch.from_numpy(rng.normal(size=(objects, METADATA))).float()
    label = torch.from_numpy(rng.integers(0, 2, objects)).float()
    return {"stamps": torch.from_numpy(np.arcsinh(flux)).float(), "metadata": metadata, "label": label}


def test_the_worst_for_a_network_is_within_the_budget_and_leaves_its_gradients_alone() -> None:
    net, given = build("tiny", "grizy"[:BANDS], PIXELS, METADATA).train(), batch(6)
    inside(worst(lambda seen: net(seen, given["metadata"]), given["stamps"], BUDGET), BUDGET)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_only_training_perturbs() -> None:
    net, given = build("tiny", "grizy"[:BANDS], PIXELS, METADATA).eval(), batch(5)
    with torch.inference_mode():
        seen = net.logit(given)
        assert torch.equal(net.explained(given).logit, seen)
        assert not torch.equal(net.train().logit(given), seen)


@pytest.mark.parametrize("adversarial", [True, False])
@pytest.mark.parametrize("objects", [1, 9])
def test_a_training_step_reaches_every_parameter(adversarial: bool, objects: int) -> None:
    net = RobustResNet("tiny", BANDS, METADATA, adversarial).train()
    explained = net.explained(batch(objects))
    assert explained.logit.shape == (objects,)
    assert not bool(explained.failed.any())
    assert explained.losses == {}
    explained.logit.square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)] == []


def test_the_same_seed_is_the_same_attack() -> None:
    net, given = build("tiny", "grizy"[:BANDS], PIXELS, METADATA).train(), batch(9)
    logits = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        logits.append(net.explained(given).logit)
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
