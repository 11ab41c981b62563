"""The probe finds the largest batch that fits, by forward passes alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lensml.models.network import Network
from lensml.training import probe
from tests.fitting import FIT, HARDWARE, METADATA, Planted


class OneWay(torch.autograd.Function):
    """Keeps what a backward pass would need, which must not come."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values * 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise AssertionError("the probe ran a backward pass")


class Counted(Network):
    def __init__(self) -> None:
        super().__init__(METADATA)
        self.seen: list[tuple[int, bool, bool]] = []

    def features(self, stamps: Tensor, metadata: Tensor, **beside: Tensor) -> Tensor:
        out = OneWay.apply(metadata * self.head.weight)
        self.seen.append((len(stamps), self.training, out.requires_grad))
        return out


def sized(batch_size: int, devices: int = 1) -> Any:
    return FIT.model_copy(
        update={"batch_size": batch_size, "hardware": HARDWARE.model_copy(update={"devices": devices})}
    )


def test_on_a_cpu_the_batch_is_as_asked_for() -> None:
    assert probe.batch_size(Counted(), lambda objects: pytest.fail("asked for a batch"), sized(48)) == 48


def test_passes_go_forward_only_as_training_makes_them() -> None:
    network = Counted().eval()
    batch = next(iter(Planted(1, False).epoch(0)))
    probe.forward(network, batch)
    assert network.seen == [(16, True, True)]  # with its graph, or it would need less than training does
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    with pytest.raises(AssertionError, match="backward pass"):  # the planted fault is one
        network.logit(batch).sum().backward()


@pytest.mark.parametrize(
    ("batch_size", "devices", "budget", "expected"),
    [(64, 1, 64, 64), (64, 1, 63, 32), (48, 1, 23, 16), (48, 2, 23, 24), (48, 2, 24, 48), (7, 1, 6, 1), (64, 4, 1, 4)],
)
def test_the_largest_divisor_whose_share_fits(batch_size: int, devices: int, budget: int, expected: int) -> None:
    """Memory in units of an object's: by hand."""
    asked: list[int] = []

    def needs(objects: int) -> int:
        asked.append(objects)
        return objects

    assert probe.largest(sized(batch_size, devices), needs, budget) == expected
    assert asked == sorted(asked, reverse=True)


def test_a_gpu_that_holds_not_one_object_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"a batch of 2 must fit 0\.0 GiB of each GPU"):
        probe.largest(sized(8, 2), lambda objects: 2.0, 1.0)
