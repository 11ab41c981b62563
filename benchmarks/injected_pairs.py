"""Is an arc told from its own host without it? Networks that learn simulations alone, on arcs painted into real hosts.

python -m benchmarks.injected_pairs --lenses 1500 --seeds 2

Needs the sample of real survey files beside the checkout: luminous red galaxies of DES in g, r, i, and disc galaxies of
GAMA as KiDS and SDSS see them in r. Every host gets `PER_HOST` arcs (lensml/sources/injected.py) and is itself their
negative. One network per survey and seed, robust_resnet, tiny, trained on that survey's simulations and nothing else.
AUROC of all arcs of a range of flux ratios against all hosts without; intervals by drawing whole hosts. Of ten hosts
they are wide.
"""

import argparse
import copy
import itertools
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from ruamel.yaml import YAML

from benchmarks.carry_over import Design, auroc, scores, stamps_of, trained
from lensml import config
from tests import real_sample

PER_HOST, SEED = 24, 5
EDGES: Final = (0.0, 0.03, 0.1, 1.0)  # of the flux ratio
HOSTS: Final = {"des": "des_lrg", "kids": "kids_sdss", "sdss": "kids_sdss"}
BANDS: Final = {"des": ["g", "r", "i"], "kids": ["r"], "sdss": ["r"]}
ELECTRONS: Final = {"des": 2.5, "kids": 4.0, "sdss": 0.2}  # per nJy: at these the sky sigma is the sky's own
SELECTION: Final = {  # hosts as bright as the sample's, arcs that the seeing resolves
    "des": {"host_magnitude": [16.0, 20.5], "theta_e_arcsec": [1.0, 3.0]},
    "kids": {"host_magnitude": [15.0, 19.5], "theta_e_arcsec": [1.0, 3.0]},
    "sdss": {"host_magnitude": [15.0, 18.5], "theta_e_arcsec": [1.4, 3.0]},
}


def simulations(survey: str, lenses: int) -> config.Params:
    """params.yaml with this survey alone, observed as DES is but for its own pixels, seeing and depth."""
    values = YAML(typ="safe").load(Path("params.yaml").read_text(encoding="utf-8"))
    simulated = values["sources"]["simulated"]
    section = copy.deepcopy(simulated["surveys"]["des"]) | {"bands": BANDS[survey], "selection": SELECTION[survey]}
    section["observing"]["instruments"][0] |= {"bands": BANDS[survey], "electrons_per_nJy": ELECTRONS[survey]}
    changes = {"surveys": {survey: section}, "lenses": lenses, "hard_negatives": round(0.75 * lenses), "unlabelled": 0}
    simulated |= changes
    values["shard"]["bands"] = BANDS[survey]
    return config.Params.model_validate(values)


def painting(survey: str, params: config.Params) -> config.InjectedSource:
    """Arcs in the survey's real hosts, of the same population of sources."""
    simulated: Any = params.sources["simulated"]
    told = {
        "kind": "injected", "seed": SEED, "per_host": PER_HOST, "draws": 200, "batch_objects": 4, "jobs": 2,
        "theta_e_from": "catalogue", "theta_e_arcsec": SELECTION[survey]["theta_e_arcsec"],
        "arc_snr_min": simulated.arc_snr_min, "host_aperture_arcsec": 2.5, "moffat_beta": 3.0, "supersampling": 2,
        "electrons_per_nJy": {name: dict.fromkeys(BANDS[name], ELECTRONS[name]) for name in HOSTS},
    }  # fmt: skip
    sections = {"population": simulated.population, "convert": params.convert}
    return config.InjectedSource.model_validate(
        told | sections | {"hosts": real_sample.source(HOSTS[survey]).model_dump()}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lenses", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", action="append", choices=list(HOSTS))
    told = parser.parse_args()
    for survey in told.only or HOSTS:
        params = simulations(survey, told.lenses)
        own, stamps = stamps_of(params.sources["simulated"], "simulated", params)
        networks = [trained(Design(), params, own, stamps, seed) for seed in range(1, told.seeds + 1)]
        pairs, images = stamps_of(painting(survey, params), "injected", params)
        seen = (pairs["survey"] == survey).to_numpy()
        score = np.mean([scores(network, images[seen]) for network in networks], axis=0)
        report(survey, pairs.filter(seen).with_columns(score=pl.Series(score)))


def report(survey: str, pairs: pl.DataFrame) -> None:
    """A line per range of flux ratios, and one for all above the low one."""
    hosts = pairs.filter(pl.col("label") == "nonlens")
    ranges = [*itertools.pairwise(EDGES), (EDGES[0], EDGES[-1])]
    for low, high in ranges:
        lenses = pairs.filter((pl.col("label") == "lens") & pl.col("flux_ratio").is_between(low, high, closed="right"))
        name = f"{survey:6} flux ratio {low:g} to {high:g}: {lenses.height} arcs, {hosts.height} hosts"
        if not lenses.height:
            print(name, flush=True)
            continue
        groups = [*lenses["parent"], *hosts["parent"]]
        print(name, auroc(lenses["score"].to_numpy(), hosts["score"].to_numpy(), groups), flush=True)


if __name__ == "__main__":
    main()
