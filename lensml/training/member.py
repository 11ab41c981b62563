"""One member of the ensemble, from shards to what is written: its backbone, its checkpoint and its scores."""

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from lensml import config, models
from lensml.catalog import statistics as stats
from lensml.models.network import Network
from lensml.schema import MISSING_REDSHIFT, SCHEMA_VERSION, ContractError
from lensml.store import shards
from lensml.training import checkpoint, physics, probe
from lensml.training.augment import Augmented
from lensml.training.batches import Batch, Batches
from lensml.training.fit import Run, fingerprint, fit, pretrain, reproducible

PACKAGES: Final = ("torch", "timm", "lightning")


def pretrained(
    arch: str, size: str, threads: int, folder: Path, statistics: stats.Statistics, params: config.Pretrain,
    log: Path, resume: Path,
) -> checkpoint.Backbone:  # fmt: skip
    """A backbone that has seen the pretraining split; as drawn, where that split is empty.

    Parameters
    ----------
    folder : shards of the pretraining split
    log : dvclive's folder
    resume : a file that a killed run leaves and the next one goes on from
    """
    of = fingerprint(
        arch=arch, size=size, threads=threads, params=params.model_dump(), statistics=statistics,
        data=shards.digest(folder),
    )  # fmt: skip
    with reproducible(params.seed, threads):
        network = _network(arch, size, statistics)
        batches = Batches(folder, statistics, params.batch_size, params.seed, network.needs)
        targets = [batches.reader.index[name].fill_null(MISSING_REDSHIFT).to_numpy() for name in params.targets]
        objects = pretrain(network, batches, np.stack(targets, axis=1), params, Run(log, resume, of))
    return checkpoint.Backbone(
        schema_version=SCHEMA_VERSION, arch=arch, size=size, bands=statistics["bands"],
        stamp_pixels=statistics["stamp_pixels"], metadata=_metadata(statistics), objects=objects,
        targets=list(params.targets), state_dict=checkpoint.weights(network, head=False),
    )  # fmt: skip


def trained(
    arch: str, train: Path, val: Path, statistics: stats.Statistics, backbone: Path, params: config.Fit,
    log: Path, resume: Path,
) -> tuple[checkpoint.Checkpoint, pl.DataFrame, float]:  # fmt: skip
    """A trained network, its logits for the validation split, schema.SCORES, and the training's stamps per second.

    Raises
    ------
    ContractError
        The backbone was made for another network, or a split lacks one of the labels.
    ValueError
        params.yaml asks for physics that the network does not know.
    """
    for folder in (train, val):
        _both_labels(folder)
    of = fingerprint(
        arch=arch, params=params.model_dump(), statistics=statistics, data=shards.digest(train),
        val=shards.digest(val), backbone=hashlib.sha256(backbone.read_bytes()).hexdigest(),
    )  # fmt: skip
    with reproducible(params.seed, params.threads):
        network = _network(arch, params.size, statistics)
        physics.asked(network, arch, params.physics)
        _from_backbone(network, arch, params.size, statistics, backbone)
        size = probe.batch_size(network, lambda n: _example(train, statistics, network, n), params)
        change = Augmented(params.augment)
        batches = Batches(train, statistics, size, params.seed, (*network.needs, *change.needs), change)
        checks = Batches(val, statistics, size, None, network.needs)
        fitting = params.model_copy(update={"batch_size": size})
        fitted = fit(network, batches, checks, fitting, Run(log, resume, of), arch)
    index = checks.reader.index
    scores = index.select("object_id", "group_id", "survey", "label").with_columns(logit=pl.Series(fitted.logits))
    return _described(network, arch, statistics, batches.reader.index, params), scores, fitted.stamps_per_s


def psf_targets(index: pl.DataFrame) -> dict[str, float]:
    """Per survey the PSF FWHM in arcsec that its stamps were matched to; a survey that was not is left out."""
    known = index.filter(pl.col("target_psf_fwhm").is_not_null())
    rows = known.group_by("survey").agg(pl.col("target_psf_fwhm").median()).sort("survey")
    return {str(survey): float(fwhm) for survey, fwhm in rows.iter_rows()}


def _network(arch: str, size: str, statistics: stats.Statistics) -> Network:
    return models.build(arch, size, statistics["bands"], statistics["stamp_pixels"], _metadata(statistics))


def _example(folder: Path, statistics: stats.Statistics, network: Network, objects: int) -> Batch:
    batches = Batches(folder, statistics, objects, None, network.needs)
    return batches.take(np.arange(objects) % len(batches.object_ids))


def _metadata(statistics: stats.Statistics) -> int:
    """Length of the metadata vector: band flags, features, missing flags."""
    return len(statistics["bands"]) + 2 * len(statistics["features"])


def _from_backbone(network: Network, arch: str, size: str, statistics: stats.Statistics, path: Path) -> None:
    expected = {
        "arch": arch, "size": size, "bands": statistics["bands"], "stamp_pixels": statistics["stamp_pixels"],
        "metadata": _metadata(statistics),
    }  # fmt: skip
    checkpoint.load_backbone(network, expected, path)


def _both_labels(folder: Path) -> None:
    found = set(shards.read_index(folder)["label"].unique())
    if found != set(stats.CLASSES):
        raise ContractError(
            f"{folder} must hold lenses and non-lenses only, got {', '.join(sorted(found)) or 'no object'}. "
            "Add sources, or other split.fractions (params.yaml)."
        )


def _described(
    network: Network, arch: str, statistics: stats.Statistics, index: pl.DataFrame, params: config.Fit
) -> checkpoint.Checkpoint:
    told: dict[str, Any] = {
        name: statistics[name] for name in ("bands", "stamp_pixels", "pixel_scale_min", "data_hash")
    }
    return checkpoint.Checkpoint(
        schema_version=SCHEMA_VERSION, arch=arch, size=params.size, features=list(statistics["features"]),
        metadata=_metadata(statistics), normalisation=statistics, psf_targets=psf_targets(index),
        params=params.model_dump(), versions={name: version(name) for name in PACKAGES},
        state_dict=checkpoint.weights(network), **told,
    )  # fmt: skip
