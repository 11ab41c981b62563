"""Every network of the registry keeps the contract; what attention and positions promise holds by closed form."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lensml import models
from lensml.models import attention, network

BANDS, PIXELS, METADATA = 3, 20, 9
ARCHS = sorted(models.MODELS)


def made(arch: str, seed: int = 0, pixels: int = PIXELS) -> network.Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.build(arch, "tiny", BANDS, pixels, METADATA)


def batch(objects: int, pixels: int = PIXELS) -> tuple[Tensor, Tensor]:
    """Stamps up to asinh 12 as the real ones are; the first object lacks its second band."""
    rng = np.random.default_rng(5)
    stamps = rng.normal(size=(objects, BANDS, pixels, pixels)).astype(np.float32)
    stamps[..., pixels // 2, pixels // 2] = 12
    metadata = np.concatenate([np.ones((objects, BANDS)), rng.normal(size=(objects, METADATA - BANDS))], axis=1)
    stamps[0, 1], metadata[0, 1] = 0, 0
    return torch.from_numpy(stamps), torch.from_numpy(metadata.astype(np.float32))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("pixels", [16, 20, 33])
def test_one_finite_logit_per_object_on_any_stamp(arch: str, pixels: int) -> None:
    net = made(arch, pixels=pixels).eval()
    stamps, metadata = batch(3, pixels)
    logits = net(stamps, metadata)
    assert logits.shape == (3,)
    assert logits.dtype == torch.float32
    assert bool(torch.isfinite(logits).all())
    assert net.features(stamps, metadata).shape == (3, net.width)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_parameter_has_a_gradient(arch: str) -> None:
    net = made(arch)
    net(*batch(4)).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)] == []


@pytest.mark.parametrize("arch", ARCHS)
def test_a_score_does_not_depend_on_the_rest_of_the_batch(arch: str) -> None:
    net = made(arch).eval()
    stamps, metadata = batch(5)
    with torch.inference_mode():
        whole = net(stamps, metadata)
        alone = torch.cat([net(stamps[i : i + 1], metadata[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(whole, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("arch", ARCHS)
def test_the_same_seed_is_the_same_network(arch: str) -> None:
    stamps, metadata = batch(2)
    one, same, other = (made(arch, seed).eval()(stamps, metadata) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("arch", ARCHS)
def test_metadata_and_stamp_both_reach_the_logit(arch: str) -> None:
    net = made(arch).eval()
    stamps, metadata = batch(2)
    assert not torch.equal(net(stamps, metadata), net(stamps, metadata + 1))
    assert not torch.equal(net(stamps, metadata), net(stamps * 2, metadata))


@pytest.mark.parametrize("arch", ARCHS)
def test_no_statistics_of_batches_are_kept(arch: str) -> None:
    """A buffer that training changes would make the score depend on the order of the batches."""
    net = made(arch).train()
    before = {name: value.clone() for name, value in net.named_buffers()}
    net(*batch(4))
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())


def test_base_networks_have_the_published_size() -> None:
    """ResNet-50 has 23.5 M parameters without its classifier, ViT-B/16 has 85.8 M; ours add what the metadata needs."""
    for arch, published in {"robust_resnet": 23.5e6, "film_conditioned": 23.5e6, "enhanced_vit": 85.8e6}.items():
        with torch.device("meta"):
            net = models.build(arch, "base", 3, 48, METADATA)
        assert sum(p.numel() for p in net.parameters()) == pytest.approx(published, rel=0.02)


def test_an_unknown_architecture_is_named_with_the_known() -> None:
    with pytest.raises(
        ValueError, match="arch must be one of enhanced_vit, film_conditioned, robust_resnet, got 'vit'"
    ):
        models.build("vit", "tiny", 3, 48, 4)


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


def test_noise_has_the_strength_it_says_and_spares_absent_bands() -> None:
    """Uniform sigma in [0, s]: the variance of the added flux is s^2 / 3."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stamps = torch.asinh(torch.tensor([3.0, 0.0]))[None, :, None, None].expand(4000, 2, 4, 4)
        flux = torch.sinh(network.with_noise(stamps, 1.5))
    assert float(flux[:, 0].mean()) == pytest.approx(3.0, abs=0.02)
    assert float(flux[:, 0].var()) == pytest.approx(1.5**2 / 3, rel=0.05)
    assert float(flux[:, 1].abs().max()) == 0
