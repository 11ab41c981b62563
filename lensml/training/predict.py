"""Logits of a trained network for batches, the same in training, evaluation and scoring."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lensml.models.network import Network


def logits(network: Network, batches: Iterable[Mapping[str, Tensor]]) -> NDArray[np.float64]:
    """The logit of every object, in the order of the batches, (object,).

    Parameters
    ----------
    batches : mappings with `stamps` (B, C, H, W), `metadata` (B, M) and what the network needs

    Raises
    ------
    ValueError
        A logit is not finite; the message gives the object's place in the sequence.
    """
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    found = []
    with torch.inference_mode():
        for batch in batches:
            there = {name: batch[name].to(device) for name in ("stamps", "metadata", *network.needs)}
            found.append(network.logit(there).double().cpu().numpy())
    network.train(was_training)
    values = np.concatenate(found) if found else np.zeros(0)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(
            f"logit must be finite, got {values[bad[0]]} for {len(bad)} object(s), the first at place {bad[0]}. "
            "Look at its stamp, or train again with a lower learning rate."
        )
    return values
