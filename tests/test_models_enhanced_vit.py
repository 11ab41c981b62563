"""Positions are those on the sky, in arcsec, by closed form; what the register and the switch of the arc bias do."""

import numpy as np
import pytest
import torch

from lensml.models.enhanced_vit import SIZES, WAVES_ARCSEC, SkyPosition, Transformer, build

BANDS, PIXELS, METADATA, WIDTH = 2, 24, 5, 64


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(4)


def test_a_position_is_the_sines_and_cosines_of_its_arcsec() -> None:
    """Two patches on a side of a stamp whose half side is 4 arcsec: all stand 2 arcsec from the centre on each axis."""
    position = SkyPosition(2, WIDTH)
    found = position(torch.tensor([4.0]))[0].detach().numpy()
    weight, bias = position.to_width.weight.detach().numpy(), position.to_width.bias.detach().numpy()
    for row, (y, x) in enumerate([(-2, -2), (-2, 2), (2, -2), (2, 2)]):
        phase = 2 * np.pi * np.concatenate([y / np.array(WAVES_ARCSEC), x / np.array(WAVES_ARCSEC)])
        code = np.concatenate([np.sin(phase), np.cos(phase)])
        np.testing.assert_allclose(found[row], weight @ code + bias, atol=1e-5)


def test_the_same_place_on_the_sky_has_the_same_code_in_every_survey() -> None:
    """The inner patches of a 4 x 4 grid, a quarter of the half side out, against a 2 x 2 grid, a half of it out."""
    fine, coarse = SkyPosition(4, WIDTH), SkyPosition(2, WIDTH)
    coarse.load_state_dict(fine.state_dict())
    inner = fine(torch.tensor([6.0])).reshape(4, 4, WIDTH)[1:3, 1:3].reshape(4, WIDTH)
    torch.testing.assert_close(inner, coarse(torch.tensor([3.0]))[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("half_side_arcsec", [1.0, 2.4, 6.3])
def test_no_two_patches_have_the_same_code(half_side_arcsec: float) -> None:
    code = SkyPosition(14, WIDTH)(torch.tensor([half_side_arcsec]))[0].detach()
    assert float((torch.cdist(code, code) + torch.eye(len(code))).min()) > 0.01


def test_without_awareness_of_arcs_patches_are_told_apart_by_position_alone() -> None:
    """Attention without a bias does not mind the order of its tokens; with one it does."""
    patches, metadata, half = torch.randn(1, 9, WIDTH), torch.randn(1, METADATA), torch.ones(1)
    order = torch.randperm(9)
    for arc_aware in (True, False):
        net = Transformer(SIZES["tiny"], 3, METADATA, arc_aware)
        torch.nn.init.zeros_(net.position.to_width.weight)
        whole, mixed = net(patches, metadata, half), net(patches[:, order], metadata, half)
        assert torch.allclose(whole, mixed, atol=1e-5) is not arc_aware


def test_the_register_reaches_the_features_only_through_attention() -> None:
    net = Transformer(SIZES["tiny"], 3, METADATA, True)
    patches, metadata, half = torch.randn(2, 9, WIDTH), torch.randn(2, METADATA), torch.ones(2)
    before = net(patches, metadata, half)
    assert before.shape == (2, 2 * WIDTH)
    torch.nn.init.constant_(net.register, 1.0)
    assert not torch.equal(net(patches, metadata, half), before)
    for block in net.blocks:
        torch.nn.init.zeros_(block.attn.proj.weight)
    before = net(patches, metadata, half)
    torch.nn.init.constant_(net.register, 2.0)
    assert torch.equal(net(patches, metadata, half), before)


@pytest.mark.parametrize("arc_aware", [True, False])
def test_the_pixel_scale_reaches_the_logit_and_every_parameter_has_a_gradient(arc_aware: bool) -> None:
    net = build("tiny", "grizy"[:BANDS], PIXELS, METADATA, arc_aware)
    stamps, metadata = torch.randn(3, BANDS, PIXELS, PIXELS), torch.randn(3, METADATA)
    logit = net(stamps, metadata, pixel_scale=torch.full((3,), 0.1))
    assert not torch.equal(logit, net(stamps, metadata, pixel_scale=torch.full((3,), 0.2)))
    logit.square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)] == []
    assert any("arcs" in name for name, _ in net.named_parameters()) is arc_aware
