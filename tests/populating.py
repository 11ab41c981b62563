"""The population of params.yaml and views of surveys, for tests."""

from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from lensml.config_population import Population
from lensml.lensing.deflectors import View
from lensml.lensing.population import Host, draw_host

_PARAMS = YAML(typ="safe").load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
LAWS = Population.model_validate(_PARAMS["sources"]["simulated"]["population"])

HSC = View(("g", "r", "i", "z", "y"), 8.1, 0.61, (17.0, 21.0), (0.8, 2.6))
HST = View(("F814W",), 5.0, 0.1, (15.5, 19.5), (0.5, 1.8))


def hosts(view: View, count: int, seed: int = 1) -> list[Host]:
    return [draw_host(np.random.default_rng([seed, k]), LAWS, view) for k in range(count)]
