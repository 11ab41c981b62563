"""dvc.yaml against the stages: import closures, signatures and parameters. Each check is shown a planted fault."""

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import stages
from tests import wiring

ROOT = Path(__file__).parents[1]
GRAPH: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
NAMES = sorted(GRAPH["stages"])
MEMBERS = ("${train.arch}", "${train.partners[0]}", "${train.partners[1]}")


def the_stage(name: str) -> stages.Stage:
    return getattr(importlib.import_module(f"stages.{name}"), name)


def gathered(path: str) -> set[str]:
    """How dvc.yaml names what a stage gathers: the folder of all sources, or each member of the ensemble."""
    if path.endswith("/{source}"):
        return {path.removesuffix("/{source}")}
    return {path.replace("{arch}", member) for member in MEMBERS}


def faults(name: str, entry: dict[str, Any], root: Path = ROOT) -> list[str]:
    """What dvc.yaml says of a stage that the stage does not, or the other way round."""
    stage = the_stage(name)
    code = wiring.closure(root / "stages" / f"{name}.py", root)
    want, have = wiring.contract(stage), wiring.declared(entry)
    gathering = {m.path for m in stage.marks.values() if isinstance(m, stages.In) and m.each}
    deps = {d for path in want["deps"] for d in (gathered(path) if path in gathering else {path})} | code
    pairs = {"deps": (deps, have["deps"]), "outs": (want["outs"], have["outs"])}
    pairs["params"] = (want["params"], have["params"])
    found = [f"{name}: dvc.yaml lacks {k} {x}" for k, (w, h) in pairs.items() for x in sorted(w - h)]
    return found + [f"{name}: dvc.yaml has {k} {x} for nothing" for k, (w, h) in pairs.items() for x in sorted(h - w)]


def test_every_stage_file_stands_in_the_graph() -> None:
    assert sorted(path.stem for path in (ROOT / "stages").glob("[!_]*.py")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_graph_equals_stage(name: str) -> None:
    assert faults(name, GRAPH["stages"][name]) == []


@pytest.mark.parametrize("name", NAMES)
def test_command_runs_the_stage_with_its_arguments(name: str) -> None:
    body = GRAPH["stages"][name].get("do", GRAPH["stages"][name])
    written = {"source": "${key}", "arch": "${item.arch}"}
    assert body["cmd"].split() == ["python", "-m", f"stages.{name}", *(written[a] for a in the_stage(name).arguments)]


@pytest.mark.parametrize("kind", ["deps", "params", "outs"])
def test_a_planted_fault_is_found(kind: str) -> None:
    for name in NAMES:
        entry = copy.deepcopy(GRAPH["stages"][name])
        body = entry.get("do", entry)
        if body.get(kind):
            body[kind] = [*body[kind], "data/planted"]
            assert f"{name}: dvc.yaml has {kind} data/planted for nothing" in faults(name, entry)
            body[kind] = body[kind][1:-1]
            assert any(f"dvc.yaml lacks {kind}" in fault for fault in faults(name, entry)), name


def test_an_import_inside_a_function_counts(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "lensml").mkdir()
    (tmp_path / "stages" / "__init__.py").write_text("'stage'\n")
    (tmp_path / "stages" / "one.py").write_text("def f():\n    from lensml import two\n    return two\n")
    (tmp_path / "lensml" / "__init__.py").write_text("'package'\n")
    (tmp_path / "lensml" / "two.py").write_text("import lensml.three\n")
    (tmp_path / "lensml" / "three.py").write_text("x = 1\n")
    assert wiring.closure(tmp_path / "stages" / "one.py", tmp_path) == {
        "stages/__init__.py",
        "stages/one.py",
        "lensml/__init__.py",
        "lensml/two.py",
        "lensml/three.py",
    }


def test_only_evaluate_reads_the_test_shards_and_fuse_sees_validation_scores_only() -> None:
    readers = [
        n for n in NAMES if any(d.startswith("data/shards/test") for d in wiring.declared(GRAPH["stages"][n])["deps"])
    ]
    assert readers == ["evaluate"]
    data = {d for d in wiring.declared(GRAPH["stages"]["fuse"])["deps"] if d.startswith("data/")}
    assert all(d.endswith("val_scores.parquet") for d in data)
