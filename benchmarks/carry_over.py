"""Does it carry over? A tiny network that learns simulated HST stamps alone, on real lenses and real galaxies.

python -m benchmarks.carry_over --lenses 1500 --seeds 2          # the whole ablation; one design: --only full

Needs the sample of real survey files beside the checkout. Every design is the default of params.yaml with a few values
changed, and one network per seed: robust_resnet, tiny, told nothing but the stamp. Real lenses are the confirmed ones
of the Dinos sample; their negatives are their own arc-free twins (`hst-delensed`) and galaxies of COSMOS. None of these
is ever trained on. Intervals by drawing whole systems.
"""

import argparse
import copy
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from ruamel.yaml import YAML
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lensml import config, models
from lensml.evaluation import bootstrap
from lensml.imaging import grid, psf
from lensml.imaging.cutouts import Cutouts, calibrate
from lensml.ingest.kind import Read
from lensml.models.network import Network
from lensml.sources import SOURCES
from lensml.store.parallel import in_order
from lensml.store.stamps import coded
from lensml.training import fit, predict
from lensml.training.batches import turned_by
from tests import real_sample

SURVEY, BATCH, PIXELS = "hst", 64, 48
LEVEL, DRAWS = 0.9, 400
OBSERVING = f"surveys.{SURVEY}.observing"
GAUSSIAN = {
    "kind": "seeing",
    "fwhm_scatter": 0.0,
    "band_scatter": 0.0,
    "beta": [50.0, 50.0],
    "ellipticity_scatter": 0.0,
}
CLEAN = {"share": 0.0, "flagged": 1.0, "peak_sigma": [1.0, 2.0]}


@dataclass(frozen=True)
class Design:
    """What is changed: values of sources.simulated, and how the network is trained."""

    values: dict[str, Any] = field(default_factory=dict)
    twins: bool = True
    turned: bool = True
    host_light: bool = True  # the network sees what the host's light leaves of the stamp, too


DESIGNS = {
    "full": Design(),
    "one Sersic profile per host": Design({
        "population.hosts": {"single_share": 1.0, "bulge_index": [3.9, 4.1], "nucleus_share": 0.0, "dust_share": 0.0},
    }),
    "faint, small hosts": Design({f"surveys.{SURVEY}.selection.host_magnitude": [18.5, 20.5]}),
    "white noise": Design({f"{OBSERVING}.instruments.0.noise_correlation": [0.0, 0.0]}),
    "one depth": Design({f"{OBSERVING}.depth": [1.0, 1.0]}),
    "one Gaussian PSF": Design({f"{OBSERVING}.instruments.0.psf": GAUSSIAN}),
    "no residue of the sky": Design({f"{OBSERVING}.residue_sigma": 0.0, f"{OBSERVING}.over_subtraction": [0.0, 0.0]}),
    "no artefacts": Design({
        f"{OBSERVING}.artefacts.{name}": CLEAN for name in ("cosmic_ray", "bad_column", "star", "ghost", "satellite")
    }),
    "bright arcs only": Design({"population.sources.flux_ratio": [0.2, 0.98], "arc_snr_min": 100.0}),
    "no companions": Design({
        "population.surroundings": {"galaxies_per_arcmin2": 0.0, "stars_per_arcmin2": 0.0, "companions": 0.0},
    }),
    "smooth sources": Design({
        "population.discs": {"clumps_max": 0, "arms_share": 0.0, "irregular_share": 0.0, "pair_share": 0.0},
    }),
    "no twins": Design({"hard_negatives": 1.75}, twins=False),
    "twins alone": Design({"hard_negatives": 0.0}),
    "no flips and turns": Design(turned=False),
    "stamp alone": Design(host_light=False),
}  # fmt: skip


class Stamps:
    """Stamps in memory as batches (`lensml.training.module.Batches`); the metadata say which band there is, no more."""

    def __init__(self, stamps: NDArray[np.float32], label: NDArray[np.float64], seed: int | None) -> None:
        self.stamps, self.label, self.seed = torch.from_numpy(stamps), torch.from_numpy(label).float(), seed
        self.object_ids = [str(i) for i in range(len(label))]

    def __len__(self) -> int:
        return -(-len(self.object_ids) // BATCH)

    def epoch(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        rng = np.random.default_rng((self.seed or 0, epoch))
        rows = np.arange(len(self.object_ids)) if self.seed is None else rng.permutation(len(self.object_ids))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        for part in np.array_split(rows, len(self)):
            at = torch.from_numpy(part)
            batch = {"stamps": self.stamps[at], "label": self.label[at], "weight": torch.ones(len(at)), "row": at}
            there = (batch["stamps"] != 0).flatten(2).any(dim=2).float()
            yield batch | {"metadata": there} | self._turned(batch["stamps"], generator)

    def _turned(self, stamps: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        if self.seed is None:
            return {}
        return turned_by({"stamps": stamps}, torch.randint(8, (len(stamps),), generator=generator))


class Plain(Stamps):
    """The same without flips and turns."""

    def _turned(self, stamps: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {}


def changed(design: Design, lenses: int) -> config.Params:
    """params.yaml with the survey alone and the design's values."""
    values = YAML(typ="safe").load(Path("params.yaml").read_text(encoding="utf-8"))
    simulated = values["sources"]["simulated"]
    simulated["surveys"] = {SURVEY: simulated["surveys"][SURVEY]}
    values["shard"]["bands"] = simulated["surveys"][SURVEY]["bands"]
    own = {"hard_negatives": 0.75} | design.values
    for key, value in (own | {"hard_negatives": round(own["hard_negatives"] * lenses)}).items():
        *path, last = key.split(".")
        section = simulated
        for name in path:
            section = section[int(name)] if isinstance(section, list) else section[name]
        merged = isinstance(value, dict) and value != GAUSSIAN
        section[last] = {**section[last], **value} if merged else copy.deepcopy(value)
    simulated |= {"lenses": lenses, "unlabelled": 0}
    return config.Params.model_validate(values)


def read(kind: str, name: str, raw: Path, params: config.Params, unit: Any) -> tuple[list[str], NDArray[np.float32]]:
    """One work unit as a network sees it: object_id, and arcsinh(flux / sky sigma), 0 where bad."""
    found: Read = SOURCES[kind].read(name, raw, unit, params.surveys, params.convert)
    parts = [_on_grid(cutouts, params) for cutouts in found.cutouts]
    names = [n for part in parts for n in part[0]]
    empty = np.zeros((0, len(params.shard.bands), PIXELS, PIXELS), np.float32)
    return names, np.concatenate([part[1] for part in parts] or [empty])


def _on_grid(cutouts: Cutouts, params: config.Params) -> tuple[list[str], NDArray[np.float32]]:
    survey, shard = params.surveys[cutouts.survey], params.shard
    stamps, _ = calibrate(cutouts, survey, params.convert)
    matched, _ = psf.match(coded(stamps), survey, params.psf_match)
    if not matched.catalogue.height:
        return [], np.zeros((0, len(shard.bands), PIXELS, PIXELS), np.float32)
    shown, _ = grid.usable(coded(matched), shard.bands, PIXELS, shard.pixel_scale_min, shard.psf_pixels)
    sigma = np.array(shown.catalogue["sky_sigma"].to_list())[..., None, None]
    seen = np.zeros((len(shown.flux), len(shard.bands), PIXELS, PIXELS), np.float32)
    own = [shard.bands.index(band) for band in shown.bands]
    seen[:, own] = np.where(np.isfinite(shown.variance), np.arcsinh(shown.flux / sigma), 0)
    return shown.catalogue["object_id"].to_list(), seen


def stamps_of(source: Any, name: str, params: config.Params) -> tuple[pl.DataFrame, NDArray[np.float32]]:
    """Fetch a source and read it all: evidence of the objects that could be read, and their stamps, in one order."""
    kind = SOURCES[source.kind]
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        kind.fetch(source, params.surveys, raw)
        units = kind.batches(name, raw, params.convert)
        found = list(in_order(partial(read, source.kind, name, raw, params), units, params.convert.jobs))
        evidence = kind.evidence(name, raw)
    read_rows = pl.DataFrame({"object_id": [n for names, _ in found for n in names]})
    evidence = read_rows.join(evidence, on="object_id", how="left", maintain_order="left")
    return evidence, np.concatenate([stamps for _, stamps in found])


def trained(
    design: Design, params: config.Params, table: pl.DataFrame, stamps: NDArray[np.float32], seed: int
) -> Network:
    """One network on the simulations: groups of the last tenth of hosts are its validation."""
    label = (table["label"] == "lens").cast(pl.Float64).to_numpy()
    kept = np.ones(len(label), bool) if design.twins else (table["kind"] != "twin").to_numpy()
    held = (table["parent"].hash(7) % 10 == 0).to_numpy()
    torch.manual_seed(seed)
    bands = len(params.shard.bands)
    network = models.build("robust_resnet", "tiny", params.shard.bands, PIXELS, bands)
    if not design.host_light:
        whole, shown = network.encoded, torch.tensor([1.0, 0.0]).repeat_interleave(bands)
        network.encoded = lambda images, metadata: whole(images * shown[:, None, None], metadata)
    make = Stamps if design.turned else Plain
    train = make(stamps[kept & ~held], label[kept & ~held], seed)
    val = Stamps(stamps[held], label[held], None)
    with tempfile.TemporaryDirectory() as folder, fit.reproducible(seed, params.train.fit.threads):
        run = fit.Run(Path(folder) / "log", Path(folder) / "resume", "carry_over")
        told = params.train.fit.model_copy(update={"seed": seed, "ema_decay": 0.0})  # a copy would not see as this one
        fit.fit(network, train, val, told, run)
    return network.eval()


def scores(network: Network, stamps: NDArray[np.float32]) -> NDArray[np.float64]:
    return predict.logits(network, Stamps(stamps, np.zeros(len(stamps)), None).epoch(0))


def auroc(lens: NDArray[np.float64], other: NDArray[np.float64], groups: list[str]) -> str:
    """AUROC with its interval; `groups` of the lenses, then of the others."""
    label, score = np.repeat([1, 0], [len(lens), len(other)]), np.concatenate([lens, other])

    def statistic(weights: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        return {"auroc": np.array([_weighted(label, score, w) for w in weights])}

    told = bootstrap.figures(statistic, groups, DRAWS, LEVEL, 0)
    return f"{told['auroc']:.3f} [{told['auroc_low']:.2f}, {told['auroc_high']:.2f}]"


def _weighted(label: NDArray[np.int64], score: NDArray[np.float64], weight: NDArray[np.int64]) -> float:
    seen = weight > 0
    if len(set(label[seen])) < 2:
        return np.nan
    return float(roc_auc_score(label[seen], score[seen], sample_weight=weight[seen]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lenses", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", action="append", choices=list(DESIGNS))
    told = parser.parse_args()
    params = changed(DESIGNS["full"], told.lenses)
    dinos = real_sample.source("hst_dinos").model_copy(update={"bands": ["F814W"]})
    lens_table, lens_stamps = stamps_of(dinos, "dinos", params)
    sure = (lens_table["label"] == "lens").to_numpy()
    real = {"lens": (lens_table.filter(sure), lens_stamps[sure])}
    for name in ("hst_delensed", "hst_cosmos"):
        real[name] = stamps_of(real_sample.source(name), name, params)
    print({name: table.height for name, (table, _) in real.items()})
    print(f"{'design':30} {'simulated':>22} {'lenses / twins':>22} {'lenses / COSMOS':>22}   seeds' own: twins; COSMOS")
    for name in told.only or DESIGNS:
        _report(name, DESIGNS[name], told.lenses, told.seeds, real)


def _report(
    name: str, design: Design, lenses: int, seeds: int, real: dict[str, tuple[pl.DataFrame, NDArray[np.float32]]]
) -> None:
    """The mean logit of the seeds' networks, and each one's own AUROC."""
    params = changed(design, lenses)
    table, stamps = stamps_of(params.sources["simulated"], "simulated", params)
    networks = [trained(design, params, table, stamps, seed) for seed in range(1, seeds + 1)]
    held = (table["parent"].hash(7) % 10 == 0).to_numpy()
    mine = np.mean([scores(network, stamps[held]) for network in networks], axis=0)
    label = (table["label"] == "lens").to_numpy()[held]
    parents = table["parent"].to_numpy()[held]
    told = [auroc(mine[label], mine[~label], [*parents[label], *parents[~label]])]
    found = {key: [scores(network, part) for network in networks] for key, (_, part) in real.items()}
    systems = {key: _systems(part) for key, (part, _) in real.items()}
    own = []
    for other in ("hst_delensed", "hst_cosmos"):
        groups = [*systems["lens"], *systems[other]]
        told.append(auroc(np.mean(found["lens"], axis=0), np.mean(found[other], axis=0), groups))
        own.append(" ".join(auroc(a, b, groups)[:5] for a, b in zip(found["lens"], found[other], strict=True)))
    print(f"{name:30} {told[0]:>22} {told[1]:>22} {told[2]:>22}   {own[0]}; {own[1]}", flush=True)


def _systems(table: pl.DataFrame) -> list[str]:
    """A lens and its twin are of one system."""
    parents = table["parent"].fill_null("").to_list()
    return [(p or o).split(".")[-1] for p, o in zip(parents, table["object_id"], strict=True)]


if __name__ == "__main__":
    main()
