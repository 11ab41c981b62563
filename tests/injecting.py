"""Parameters of a source that injects, for tests; parts of them changed by name."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from ruamel.yaml import YAML

from lensml.config_injected import InjectedSource, Source

_PARAMS = YAML(typ="safe").load((Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8"))
ELECTRONS = {
    "hsc": {"g": 20.0, "r": 20.0, "i": 20.0}, "des": {"g": 2.5, "r": 2.5, "i": 2.5}, "kids": {"r": 4.0},
    "sdss": {"r": 0.2},
}  # fmt: skip


def injected(hosts: dict[str, Any], **changes: Any) -> InjectedSource:
    told = {
        "kind": "injected", "seed": 5, "hosts": hosts, "per_host": 1, "theta_e_from": "catalogue",
        "theta_e_arcsec": [0.8, 1.6], "arc_snr_min": 5.0, "draws": 20, "host_aperture_arcsec": 2.5, "moffat_beta": 3.0,
        "supersampling": 2, "electrons_per_nJy": ELECTRONS, "population": _PARAMS["sources"]["simulated"]["population"],
        "convert": _PARAMS["convert"], "batch_objects": 4, "jobs": 1,
    }  # fmt: skip
    found = TypeAdapter(Source).validate_python(told | changes)
    assert isinstance(found, InjectedSource)
    return found


def cutouts(folder: Path) -> dict[str, Any]:
    return {"kind": "cutouts", "path": str(folder), "files_per_archive": 512}
