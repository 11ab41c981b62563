"""A checkout of the project as it stands here, in a folder of its own, run by DVC as a user would run it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def tiny(params: dict[str, Any]) -> None:
    """The main job, small: 160 labelled stamps of two surveys, one epoch."""
    params["sources"]["simulated"] |= {"lenses": 64, "hard_negatives": 32, "unlabelled": 24, "jobs": 1}
    for section in ("convert", "psf_match"):
        params[section]["jobs"] = 1
    params["split"]["stratum_min_groups"] = 8
    params["pretrain"]["epochs"] = 1
    params["train"]["fit"] |= {"epochs": 1, "threads": 1}
    params["evaluate"] |= {"bootstrap_draws": 20, "gallery_stamps": 8}


def checkout(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The project's files, its own git repository, and parameters as changed."""
    listed = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file() and name != "dvc.lock" and not name.startswith("metrics/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    set_params(folder, change)
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "start")
    return folder


def set_params(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    change(params)
    yaml.dump(params, folder / "params.yaml")


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", message)


def git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)


def environment() -> dict[str, str]:
    here = {name: value for name, value in os.environ.items() if name not in THREADS}
    path = f"{Path(sys.executable).parent}{os.pathsep}{here['PATH']}"
    return here | {"PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONPATH": "", "PYTHONWARNINGS": ""}


def run(folder: Path, *words: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """A command in the checkout; `ok` says that it has to succeed."""
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    if ok and done.returncode != 0:
        raise AssertionError(
            f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
    return done


def lock(folder: Path) -> dict[str, Any]:
    return YAML(typ="safe").load((folder / "dvc.lock").read_text())["stages"]
