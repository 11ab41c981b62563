"""The trained ensemble on a user's own folder: the imaging of the training, object by object accounted for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from lensml import config, paths, schema
from lensml.catalog import statistics
from lensml.evaluation import fusion
from lensml.imaging import grid, psf
from lensml.imaging.cutouts import Refused, calibrate
from lensml.models.network import Network
from lensml.schema import ContractError
from lensml.sources import cutouts
from lensml.store import quantisation, tables
from lensml.store.parallel import in_order
from lensml.store.stamps import Stamps, coded
from lensml.training import checkpoint, predict

_FIXED: Final[dict[str, Any]] = {
    "object_id": pl.String,
    "survey": pl.String,
    "score": pl.Float64,
    "probability": pl.Float64,
}
_WORDS: Final[dict[str, Any]] = {"reason": pl.String, "note": pl.String}


@dataclass(frozen=True)
class Ensemble:
    """What `dvc repro` leaves behind, ready to score."""

    networks: dict[str, Network]
    facts: dict[str, Any]  # the train split's statistics, from the checkpoints
    psf_targets: dict[str, float]  # survey -> FWHM in arcsec of the training's stamps
    combination: fusion.Fusion
    params: config.Params

    @property
    def columns(self) -> dict[str, Any]:
        """Of the candidate table: score is the fused logit, a member's is its own; null with a reason."""
        return _FIXED | {f"score_{name}": pl.Float64 for name in self.combination.members} | _WORDS


def load(root: Path) -> Ensemble:
    """The ensemble of a project.

    Raises
    ------
    FileNotFoundError
        It has not been trained yet.
    ContractError
        The members were trained on different data, or with other parameters than params.yaml's.
    """
    params = config.load(root / paths.PARAMS)
    combination = fusion.read(root / paths.FUSION)
    files = {name: root / paths.MODEL.format(arch=name) / "model.ckpt" for name in combination.members}
    loaded = {name: checkpoint.load(file) for name, file in files.items()}
    first = loaded[combination.members[0]][1]
    for name, (_, found) in loaded.items():
        grids = {"stamp_pixels": params.shard.stamp_pixels, "pixel_scale_min": params.shard.pixel_scale_min}
        checkpoint.require(found, files[name], data_hash=first.data_hash, bands=params.shard.bands, **grids)
    if first.normalisation.get("common_pixel_scale") != params.shard.common_pixel_scale:
        raise ContractError(
            f"shard.common_pixel_scale must be that of the training, "
            f"{first.normalisation.get('common_pixel_scale')}, got {params.shard.common_pixel_scale}. Train again."
        )
    targets = {s: psf.target_fwhm(params.surveys[s], params.psf_match) for s in first.psf_targets}
    if params.psf_match.mode != "off" or first.psf_targets:
        checkpoint.require(first, files[combination.members[0]], psf_targets=targets)
    networks = {name: network for name, (network, _) in loaded.items()}
    return Ensemble(networks, first.normalisation, first.psf_targets, combination, params)


def score(folder: Path, out: Path, root: Path) -> pl.DataFrame:
    """Score a folder in the `cutouts` contract and write the candidate table, best first, refused objects last.

    Every row of the folder's catalogue is in it: with a score, or with the reason why it has none. Pixels are read a
    batch at a time: memory does not grow with their number.

    Raises
    ------
    FileNotFoundError, ContractError, ValueError
        The folder's catalogue breaks the contract, or there is no trained ensemble.
    """
    if out.suffix != ".parquet":
        raise ValueError(f"--out must name a .parquet file, got {out}. Correct the name.")
    ensemble = load(root)
    index = cutouts.open_folder(folder, ensemble.params.surveys)
    units = cutouts.split(index, ensemble.params.convert.objects_per_batch)
    parts = [pl.DataFrame(schema=ensemble.columns)]
    with tqdm(total=index.height, desc="scoring", unit="object", disable=None) as bar:
        for unit, prepared, refused in _prepared(folder, units, ensemble.params):
            parts += [_scored(stamps, ensemble, refused) for stamps in prepared]
            survey = dict(zip(unit["object_id"], unit["survey"], strict=True))
            parts.append(_refused(refused, survey, ensemble))
            bar.update(unit.height)
    table = pl.concat(parts).sort("score", "object_id", descending=[True, False], nulls_last=True)
    tables.write_parquet(table, ensemble.columns, out)
    return table


def _prepared(
    folder: Path, units: list[pl.DataFrame], params: config.Params
) -> Iterator[tuple[pl.DataFrame, list[Stamps], Refused]]:
    """Work units in order, calibrated and matched on all the cores that conversion may use."""
    found = in_order(partial(_prepare, folder, params), units, params.convert.jobs, params.convert.dask_scheduler)
    for unit, (stamps, refused) in zip(units, found, strict=True):
        yield unit, stamps, refused


def _prepare(folder: Path, params: config.Params, unit: pl.DataFrame) -> tuple[list[Stamps], Refused]:
    """The stages convert and psf_match for one work unit, through the same functions and the same 16-bit codes."""
    read = cutouts.read("", folder, unit, params.surveys, params.convert)
    ready, refused = [], list(read.refused)
    for batch in read.cutouts:
        survey = params.surveys[batch.survey]
        unknown = [band for band in batch.bands if band not in survey.bands]
        if unknown:
            words = f"bands must be among {', '.join(survey.bands)} for survey {batch.survey}, got {', '.join(unknown)}"
            refused += [(name, words) for name in batch.object_id]
            continue
        stamps, out = calibrate(batch, survey, params.convert)
        matched, unmatched = psf.match(coded(stamps), survey, params.psf_match)
        refused += out + unmatched
        ready.append(coded(matched))
    return ready, refused


def _scored(stamps: Stamps, ensemble: Ensemble, refused: Refused) -> pl.DataFrame:
    """Rows of a batch; what cannot be shown to a network is added to the refused."""
    shard = ensemble.params.shard
    shown, left = grid.usable(
        stamps,
        shard.bands,
        shard.stamp_pixels,
        shard.pixel_scale_min,
        shard.psf_pixels,
        shard.common_pixel_scale,
    )
    catalogue = shown.catalogue
    refused += list(left.iter_rows())
    if not catalogue.height:
        return pl.DataFrame(schema=ensemble.columns)
    batch = _inputs(shown, ensemble)
    logits = {name: predict.logits(network, [batch]) for name, network in ensemble.networks.items()}
    probability, fused = fusion.apply(ensemble.combination, logits)
    columns = {
        "object_id": catalogue["object_id"],
        "survey": catalogue["survey"],
        "score": fused,
        "probability": probability,
    }
    members = {f"score_{name}": logits[name] for name in ensemble.combination.members}
    note = _note(stamps, ensemble)
    table = pl.DataFrame(columns | members).with_columns(pl.lit("").alias("reason"), pl.lit(note).alias("note"))
    return schema.check(table, ensemble.columns, "the scores")


def _inputs(shown: Stamps, ensemble: Ensemble) -> Mapping[str, torch.Tensor]:
    """All that a network may need, from the same codes that a shard holds."""
    channels = [ensemble.params.shard.bands.index(band) for band in shown.bands]
    sky_sigma = np.array(shown.catalogue["sky_sigma"].to_list(), dtype=np.float64)
    step = np.float32(quantisation.STEP)
    planes: dict[str, tuple[NDArray[Any], float]] = {  # and what a channel without data holds
        "stamps": (quantisation.encode_flux(shown.flux, sky_sigma) * step, 0.0),
        "log_variance": (quantisation.encode_variance(shown.variance, sky_sigma) * step, quantisation.BAD_LOG_VARIANCE),
        "psf": (quantisation.decode_psf(quantisation.encode_psf(shown.psf)), 0.0),
        "sky_sigma": (sky_sigma, 0.0),
    }
    batch = {"metadata": torch.from_numpy(statistics.metadata(shown.catalogue, ensemble.facts))}
    for name, (values, empty) in planes.items():
        whole = np.full((len(values), len(ensemble.params.shard.bands), *values.shape[2:]), empty, np.float32)
        whole[:, channels] = values
        batch[name] = torch.from_numpy(whole)
    return batch | {"pixel_scale": torch.from_numpy(shown.catalogue["pixel_scale"].to_numpy().astype(np.float32))}


def _note(stamps: Stamps, ensemble: Ensemble) -> str:
    """What a user has to know before believing the score."""
    words = []
    if stamps.survey not in ensemble.psf_targets and ensemble.params.psf_match.mode != "off":
        words.append(f"no {stamps.survey} stamps in the training")
    unused = [band for band in stamps.bands if band not in ensemble.params.shard.bands]
    if unused:
        words.append(f"bands not known to the ensemble and not used: {', '.join(unused)}")
    return "; ".join(words)


def _refused(refused: Refused, survey: Mapping[str, str], ensemble: Ensemble) -> pl.DataFrame:
    rows = [{"object_id": name, "survey": survey[name], "reason": reason, "note": ""} for name, reason in refused]
    return pl.DataFrame(rows, schema=ensemble.columns)
