"""Which physics terms stand in a network's loss, and how their weight grows."""

from lensml import config
from lensml.models.network import Network


def asked(network: Network, arch: str | None, params: config.Physics) -> dict[str, float]:
    """The weights of those terms that the network knows and params.yaml gives a weight.

    Raises
    ------
    ValueError
        The architecture is named in `params.required` and none is left.
    """
    weights = params.constraints.model_dump()
    found = {name: weights[name] for name in network.physics if weights[name] > 0}
    if arch in params.required and not found:
        known = f"of {', '.join(network.physics)} none has a weight" if network.physics else "it knows no term"
        raise ValueError(
            f"train.fit.physics.required must name networks with physics in the loss, got {arch}: {known}. "
            "Take it out, give a term a weight, or train another network (params.yaml)."
        )
    return found


def curriculum(epoch: int, warmup_epochs: int) -> float:
    """The share of their weights that the terms have in an epoch, linear from 1 / (warmup + 1) to 1 after the warm-up.

    The first lenses that a network proposes are as good as drawn: held to them in full it would learn nothing else.
    """
    return min(1.0, (epoch + 1) / (warmup_epochs + 1))
