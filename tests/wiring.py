"""What a stage's source says that it imports, reads and writes, found without running it."""

import ast
from pathlib import Path
from typing import Any

import stages


def module_file(name: str, root: Path) -> Path | None:
    """The file of a module of this project, or None for a foreign one."""
    path = root.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if name.split(".")[0] in ("lensml", "stages") and file.is_file():
            return file
    return None


def imported(file: Path) -> set[str]:
    """Every module named by an import anywhere in a file, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def closure(file: Path, root: Path) -> set[str]:
    """The project's files that a file runs: its imports, theirs, their packages; a whole folder as one."""
    seen: set[Path] = set()
    todo = [file]
    while todo:
        here = todo.pop()
        if here in seen:
            continue
        seen.add(here)
        names = imported(here)
        names |= {".".join(name.split(".")[:n]) for name in names for n in range(1, name.count(".") + 1)}
        todo += [found for name in names if (found := module_file(name, root))]
    seen.add(root / "stages" / "__init__.py")
    return _by_folder({str(path.relative_to(root)) for path in seen if path.stat().st_size > 1}, root)


def _by_folder(files: set[str], root: Path) -> set[str]:
    """The same with a folder in place of its files where all are there: DVC writes its lock after every stage."""
    rooms = [room for room in root.glob("lensml/*") if room.is_dir() and any(room.glob("*.py"))]
    own = {str(room.relative_to(root)): {str(file.relative_to(root)) for file in room.glob("*.py")} for room in rooms}
    empty = {str(file.relative_to(root)) for file in root.glob("lensml/*/*.py") if file.stat().st_size <= 1}
    whole = {room for room, inside in own.items() if inside - empty <= files and len(inside) > 1}
    return {file for file in files if str(Path(file).parent) not in whole} | whole


def contract(stage: stages.Stage) -> dict[str, set[str]]:
    """The deps, outs and params that a stage's signature declares, with `{source}` and the like left in."""
    found: dict[str, set[str]] = {"deps": set(), "outs": set(), "params": set()}
    for mark in stage.marks.values():
        if isinstance(mark, stages.Out):
            found["outs"].add(mark.path)
        elif isinstance(mark, stages.Param):
            found["params"].add(mark.key)
        else:
            found["deps"].add(mark.path)
            if mark.each is not None:
                found["params"] |= {"source": {"sources"}, "arch": {"train.arch", "train.partners"}}[mark.each]
    return found


def declared(entry: dict[str, Any]) -> dict[str, set[str]]:
    """The same from one stage of dvc.yaml (the body of a matrix or foreach), its interpolations as `{source}`."""
    body = entry.get("do", entry)
    found = {"deps": set(body.get("deps", ())), "params": set(body.get("params", ())), "outs": set()}
    for key in ("outs", "metrics", "plots"):
        found["outs"] |= {next(iter(o)) if isinstance(o, dict) else o for o in body.get(key, ())}
    return {key: {_unfilled(text) for text in texts} for key, texts in found.items()}


def _unfilled(text: str) -> str:
    for written, name in (("${key}", "{source}"), ("${item.arch}", "{arch}")):
        text = text.replace(written, name)
    return text
