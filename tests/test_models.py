"""Every network of the registry keeps the contract; what attention and positions promise holds by closed form."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lensml import models
from lensml.models import attention, network
from lensml.store.quantisation import BAD_LOG_VARIANCE

BANDS, PIXELS, METADATA = ("g", "r", "i"), 20, 9
ARCHS = sorted(models.MODELS)


def made(arch: str, seed: int = 0, pixels: int = PIXELS) -> network.Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.build(arch, "tiny", BANDS, pixels, METADATA)


def batch(objects: int, pixels: int = PIXELS) -> dict[str, Tensor]:
    """Stamps up to asinh 12 as the real ones are, a blue arc beside the galaxy; the first lacks its second band."""
    rng = np.random.default_rng(5)
    stamps = rng.normal(size=(objects, len(BANDS), pixels, pixels))
    stamps[..., pixels // 2, pixels // 2] = 12
    stamps[:, :, 2:6, 2:6] += np.array([4, 3, 2])[:, None, None]
    metadata = np.concatenate([np.ones((objects, 3)), rng.normal(size=(objects, METADATA - 3))], axis=1)
    log_variance, psf = np.zeros(stamps.shape), np.zeros((*stamps.shape[:2], 5, 5))
    psf[..., 2, 2] = 1
    stamps[0, 1], metadata[0, 1], log_variance[0, 1], psf[0, 1] = 0, 0, BAD_LOG_VARIANCE, 0
    told = {"stamps": stamps, "metadata": metadata, "log_variance": log_variance, "psf": psf}
    told |= {"sky_sigma": metadata[:, :3], "pixel_scale": np.full(objects, 0.2)}
    return {name: torch.from_numpy(values.astype(np.float32)) for name, values in told.items()}


def rows(of: dict[str, Tensor], chosen: slice) -> dict[str, Tensor]:
    return {name: values[chosen] for name, values in of.items()}


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("pixels", [16, 20, 33])
def test_one_finite_logit_per_object_on_any_stamp(arch: str, pixels: int) -> None:
    net = made(arch, pixels=pixels).eval()
    told = batch(3, pixels)
    logits = net.logit(told)
    assert logits.shape == (3,)
    assert logits.dtype == torch.float32
    assert bool(torch.isfinite(logits).all())
    assert net.features(told["stamps"], told["metadata"], **net.beside(told)).shape == (3, net.width)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_parameter_has_a_gradient(arch: str) -> None:
    net = made(arch)
    net.logit(batch(4)).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)] == []


@pytest.mark.parametrize("arch", ARCHS)
def test_a_score_does_not_depend_on_the_rest_of_the_batch(arch: str) -> None:
    net = made(arch).eval()
    told = batch(5)
    with torch.inference_mode():
        whole = net.logit(told)
        alone = torch.cat([net.logit(rows(told, slice(i, i + 1))) for i in range(5)])
    torch.testing.assert_close(whole, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_same_seed_is_the_same_network(arch: str) -> None:
    told = batch(2)
    one, same, other = (made(arch, seed).eval().logit(told) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("arch", ARCHS)
def test_metadata_and_stamp_both_reach_the_logit(arch: str) -> None:
    net = made(arch).eval()
    told = batch(2)
    logits = net.logit(told)
    assert not torch.equal(logits, net.logit(told | {"metadata": told["metadata"] + 1}))
    assert not torch.equal(logits, net.logit(told | {"stamps": told["stamps"] * 2}))


@pytest.mark.parametrize("arch", ARCHS)
def test_no_statistics_of_batches_are_kept(arch: str) -> None:
    """A buffer that training changes would make the score depend on the order of the batches."""
    net = made(arch).train()
    before = {name: value.clone() for name, value in net.named_buffers()}
    net.logit(batch(4))
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())


def test_base_networks_have_the_published_size() -> None:
    """ResNet-50 has 23.5 M parameters without its classifier, ViT-B/16 has 85.8 M; ours add what the metadata needs."""
    for arch, published in {"robust_resnet": 23.5e6, "film_conditioned": 23.5e6, "enhanced_vit": 85.8e6}.items():
        with torch.device("meta"):
            net = models.build(arch, "base", BANDS, 48, METADATA)
        assert sum(p.numel() for p in net.parameters()) == pytest.approx(published, rel=0.02)


def test_an_unknown_architecture_is_named_with_the_known() -> None:
    with pytest.raises(
        ValueError, match=r"arch must be one of bayesian_ensemble, color_aware_lens, .*, robust_resnet, got 'vit'"
    ):
        models.build("vit", "tiny", BANDS, 48, 4)


@pytest.mark.parametrize("grid", [4, 5])
def test_arc_geometry_is_the_same_after_a_quarter_turn_and_a_reflection(grid: int) -> None:
    pairs = attention.geometry(grid)
    index = torch.arange(grid * grid).reshape(grid, grid)
    for moved in (torch.rot90(index), index.flip(0), index.T):
        order = moved.reshape(-1)
        torch.testing.assert_close(pairs[order][:, order], pairs, rtol=0, atol=2e-6)


def test_arc_geometry_by_trigonometry() -> None:
    """Patches of a 2 x 2 grid stand at (+-1/2, +-1/2): neighbours a quarter turn apart, opposites half a turn."""
    pairs = attention.geometry(2)
    np.testing.assert_allclose(pairs[..., 0], np.sqrt(0.5), rtol=1e-6)
    np.testing.assert_allclose(pairs[..., 2:4], 0, atol=1e-6)
    np.testing.assert_allclose(pairs[0, :, 4], [1, 0, 0, -1], atol=1e-6)
    np.testing.assert_allclose(pairs[0, :, 5], [1, -1, -1, 1], atol=1e-6)


def test_attention_bias_leaves_the_class_token_alone() -> None:
    bias = attention.ArcBias(3, 2)()
    assert bias.shape == (1, 2, 10, 10)
    assert bias[:, :, 0].abs().max() == 0
    assert bias[..., 0].abs().max() == 0
    assert bias[:, :, 1:, 1:].std() > 0
