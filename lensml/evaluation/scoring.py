"""The test set scored: every member's logit, their fusion, and the baseline, in one table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tqdm import tqdm

from lensml import schema
from lensml.evaluation import baseline
from lensml.evaluation import fusion as fusing
from lensml.store import shards

BATCH_OBJECTS: Final = 256  # scored at a time: bounds the memory
COLUMNS: Final = ("object_id", "group_id", "source", "survey", "label", "label_source", "flux_ratio", "z_phot", "bands")


def table(
    test: Path, train_index: pl.DataFrame, models: Mapping[str, Path], fusion: fusing.Fusion, threads: int
) -> pl.DataFrame:
    """The test split's index with the logit of each member (a column of its name), logit, probability and baseline.

    Parameters
    ----------
    test : folder of the test split's shards
    train_index : schema.SHARD_INDEX of the training split, for the baseline
    models : checkpoints by member
    threads : of torch; the last bit of a logit depends on it

    Raises
    ------
    ValueError
        The test split is empty, or a member of the fusion is missing.
    ContractError
        A file is broken, or the members were trained on different data.
    """
    index = shards.read_index(test)
    if not index.height:
        raise ValueError(f"{test} must hold labelled objects, got none. Raise split.fractions.test, or add objects.")
    logits = _members(test, models, threads)
    probability, logit = fusing.apply(fusion, logits)
    fused = {"logit": logit, "probability": probability, "baseline": baseline.score(train_index, index)}
    return index.select(COLUMNS).with_columns(pl.Series(name, values) for name, values in {**logits, **fused}.items())


def _members(test: Path, models: Mapping[str, Path], threads: int) -> dict[str, NDArray[np.float64]]:
    import torch

    from lensml.training import checkpoint, predict
    from lensml.training.batches import Batches

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found, trained_on = {}, {}
    for name in sorted(models):
        network, made = checkpoint.load(models[name])
        trained_on[name] = made.data_hash
        batches = Batches(test, made.normalisation, BATCH_OBJECTS, None, network.needs)
        bar = tqdm(batches.epoch(0), total=len(batches), desc=f"score {name}", unit="batch", disable=None)
        found[name] = predict.logits(network.to(device), bar)
    if len(set(trained_on.values())) > 1:
        raise schema.ContractError(
            f"the members must be trained on the same shards, got {len(set(trained_on.values()))} different ones for "
            f"{', '.join(trained_on)}. Run `dvc repro`."
        )
    return found
