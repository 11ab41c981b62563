"""How sure a network is (oracles: scipy's entropy on planted logits, the dropout of its layers by hand)."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from scipy.stats import entropy
from torch import Tensor, nn

from lensml.models import bayesian_ensemble
from lensml.models.bayesian_ensemble import DROPOUT, SAMPLES, BayesianEnsemble, build, mean_logit, predictive

BANDS, PIXELS, METADATA = 2, 20, 5


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(6)


def batch(objects: int, pixels: int = PIXELS) -> dict[str, Tensor]:
    stamps = torch.randn(objects, BANDS, pixels, pixels)
    stamps[..., pixels // 2, pixels // 2] = 9
    stamps[0, 1] = 0
    return {"stamps": stamps, "metadata": torch.randn(objects, METADATA), "pixel_scale": torch.full((objects,), 0.2)}


def planted() -> np.ndarray:
    return np.random.default_rng(2).normal(scale=3, size=(SAMPLES, 50))


def test_what_samples_say_is_what_scipy_says() -> None:
    logits = planted()
    found = predictive(torch.from_numpy(logits))
    each, mean = expit(logits), expit(logits).mean(axis=0)
    whole = entropy(np.stack([mean, 1 - mean]))
    expected = entropy(np.stack([each, 1 - each])).mean(axis=0)
    np.testing.assert_allclose(found.probability, mean, rtol=1e-12)
    np.testing.assert_allclose(found.entropy, whole, rtol=1e-10)
    np.testing.assert_allclose(found.mutual_information, whole - expected, rtol=1e-9)
    np.testing.assert_allclose(mean_logit(torch.from_numpy(logits)), logit(mean), rtol=1e-10)
    assert bool((found.mutual_information >= 0).all())
    assert bool((found.entropy <= math.log(2)).all())


def test_samples_that_contradict_each_other_share_a_bit_and_samples_that_agree_none() -> None:
    half = torch.tensor([60.0, -60.0]).repeat_interleave(SAMPLES // 2)
    told = predictive(torch.stack([half, torch.full((SAMPLES,), 0.0), torch.full((SAMPLES,), 300.0)], dim=1))
    bit = math.log(2)
    np.testing.assert_allclose(told.entropy, [bit, bit, 0], atol=1e-6)
    np.testing.assert_allclose(told.mutual_information, [bit, 0, 0], atol=1e-6)
    np.testing.assert_allclose(told.probability, [0.5, 0.5, 1.0], atol=1e-6)


def test_a_certain_sample_keeps_its_logit() -> None:
    """Where every probability rounds to 1 the mean's logit is still that of 1 - mean: ln of the mean of exp(-logit)."""
    logits = torch.tensor([[50.0], [40.0]])
    assert float(mean_logit(logits)) == pytest.approx(-math.log((math.exp(-50) + math.exp(-40)) / 2), rel=1e-6)


def test_prediction_averages_the_dropout_of_its_masks_by_hand() -> None:
    net, given = build("tiny", "gr", PIXELS, METADATA).eval(), batch(4)
    assert isinstance(net, BayesianEnsemble)
    beside = {"pixel_scale": given["pixel_scale"]}
    with torch.inference_mode():
        found = net.logit(given)
        joined = net._joined(given["stamps"], given["metadata"], **beside)
        mean = torch.zeros(4, dtype=torch.float64)
        for mask in net.masks:
            hidden = nn.functional.gelu(net.hidden(joined * mask[: joined.shape[1]])) * mask[joined.shape[1] :]
            mean += net.head(hidden).squeeze(1).double().sigmoid() / SAMPLES
        told = net.uncertainty(given["stamps"], given["metadata"], **beside)
    np.testing.assert_allclose(found, logit(mean.numpy()), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(told.probability, mean, rtol=1e-5)
    assert bool((told.mutual_information > 0).all())
    assert bool((told.mutual_information <= told.entropy).all())


def test_masks_drop_the_stated_share_and_keep_the_mean() -> None:
    net = build("base", "gr", PIXELS, METADATA)
    masks = net.get_buffer("masks")
    assert masks.shape[0] == SAMPLES
    assert float((masks == 0).float().mean()) == pytest.approx(DROPOUT, abs=0.01)
    assert float(masks.mean()) == pytest.approx(1.0, abs=0.01)
    assert "masks" not in net.state_dict()


def test_without_dropout_the_samples_agree() -> None:
    net, given = BayesianEnsemble("tiny", BANDS, PIXELS, METADATA, dropout=0.0).eval(), batch(4)
    told = net.uncertainty(given["stamps"], given["metadata"], pixel_scale=given["pixel_scale"])
    np.testing.assert_allclose(told.mutual_information.detach(), 0, atol=1e-6)
    torch.testing.assert_close(net.logit(given), net.train().logit(given), rtol=1e-4, atol=1e-5)


def test_prediction_is_the_same_every_time_alone_or_among_others_and_draws_nothing() -> None:
    net, given = build("tiny", "gr", PIXELS, METADATA).eval(), batch(5)
    before = torch.get_rng_state()
    with torch.inference_mode():
        whole = net.logit(given)
        assert torch.equal(net.logit(given), whole)
        alone = torch.cat([net.logit({name: value[i : i + 1] for name, value in given.items()}) for i in range(5)])
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(whole, alone, rtol=1e-5, atol=1e-6)


def test_training_drops_anew_every_time_and_reaches_every_parameter() -> None:
    net, given = build("tiny", "gr", PIXELS, METADATA).train(), batch(4)
    logits = net.explained(given).logit
    assert not torch.equal(net.logit(given), logits)
    logits.square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)] == []


def test_the_backbones_run_once_for_all_samples() -> None:
    net, given, runs = build("tiny", "gr", PIXELS, METADATA).eval(), batch(2), []
    assert isinstance(net, BayesianEnsemble)
    for part in (net.backbone.stem, net.backbone.stages[-1], net.transformer):
        part.register_forward_hook(lambda *_: runs.append(1))
    net.logit(given)
    assert len(runs) == 3


@pytest.mark.parametrize("pixels", [16, 33, 48])
def test_one_finite_logit_per_object_on_any_stamp(pixels: int) -> None:
    net, given = build("tiny", "gr", pixels, METADATA).eval(), batch(3, pixels)
    logits = net.logit(given)
    assert logits.shape == (3,)
    assert bool(torch.isfinite(logits).all())
    assert net.features(given["stamps"], given["metadata"], pixel_scale=given["pixel_scale"]).shape == (3, net.width)


def test_the_base_size_is_a_resnet_50_and_a_vit_b(monkeypatch: pytest.MonkeyPatch) -> None:
    """23.5 M parameters as published, and 85.1 M in the 12 blocks of a ViT-B; and one layer."""
    with torch.device("meta"):
        net = build("base", "gri", 48, METADATA)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(23.5e6 + 85.1e6 + 3584 * 512, rel=0.02)
    small = {"base": replace(bayesian_ensemble.SIZES["base"], width=64, depth=1, heads=4)}
    monkeypatch.setattr(bayesian_ensemble, "SIZES", small)
    assert bool(torch.isfinite(build("base", "gr", PIXELS, METADATA).eval().logit(batch(1))).all())
