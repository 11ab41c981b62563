"""A module imports only from floors below its own, and folders of one floor do not import each other."""

from pathlib import Path

import pytest

from tests import wiring

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"ground"},
    {"store"},
    {"catalog", "imaging", "lensing"},
    {"ingest"},
    {"sources", "models"},
    {"training"},
    {"evaluation"},
    {"app"},
    {"stages"},
]


def room(module: str) -> str:
    """The room of a dotted module name: lensml.store.tables -> store, lensml.config -> ground."""
    parts = module.split(".")
    if parts[0] == "stages":
        return "stages"
    return parts[1] if len(parts) > 1 and any(parts[1] in floor for floor in FLOORS) else "ground"


def floor(name: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if name in rooms)


def faults(root: Path) -> list[str]:
    found = []
    for file in sorted([*root.glob("lensml/**/*.py"), *root.glob("stages/*.py")]):
        here = room(".".join(file.relative_to(root).with_suffix("").parts))
        for name in sorted(wiring.imported(file)):
            if name.split(".")[0] not in ("lensml", "stages"):
                found += [f"{file.name} imports importlib"] if name == "importlib" else []
            elif room(name) != here and floor(room(name)) >= floor(here):
                found.append(f"{file.relative_to(root)} ({here}) imports {name} ({room(name)})")
    return found


def test_imports_go_downwards() -> None:
    assert faults(ROOT) == []


@pytest.mark.parametrize(
    "line", ["from lensml.app import score", "from lensml.lensing import render", "import importlib"]
)
def test_an_import_upwards_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "lensml" / "imaging").mkdir(parents=True)
    (tmp_path / "lensml" / "imaging" / "psf.py").write_text(f"{line}\n")
    assert len(faults(tmp_path)) >= 1


def test_no_room_called_utils() -> None:
    assert not [p for p in ROOT.glob("lensml/**/*") if p.stem in ("utils", "helpers", "misc", "common")]
