"""What a stage is: a function whose signature names what it reads, which parameters it takes and what it writes."""

import inspect
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import typer

from lensml import config, paths
from lensml.errors import one_line_errors
from lensml.schema import ContractError


@dataclass(frozen=True)
class In:
    """A path that the stage reads; `each` makes it a dict over the sources or the ensemble's members."""

    path: str
    each: str | None = None


@dataclass(frozen=True)
class Out:
    """A path that the stage writes: handed over under a temporary name, renamed when the stage has ended well."""

    path: str


@dataclass(frozen=True)
class Param:
    """A key of params.yaml, dotted."""

    key: str


@dataclass(frozen=True)
class Stage:
    """A stage's function with its contract, ready to be run or to be held against dvc.yaml."""

    function: Callable[..., None]
    arguments: tuple[str, ...]  # filled in from the command line
    marks: dict[str, In | Out | Param]


def stage(function: Callable[..., None]) -> Stage:
    """Read the contract from a function's signature."""
    hints = get_type_hints(function, include_extras=True)
    marks = {
        name: mark
        for name in inspect.signature(function).parameters
        for mark in getattr(hints[name], "__metadata__", ())
        if isinstance(mark, In | Out | Param)
    }
    arguments = tuple(name for name in inspect.signature(function).parameters if name not in marks)
    return Stage(function, arguments, marks)


def main(this: Stage) -> None:
    """Run a stage from the command line: `python -m stages.<name> [argument]...`."""

    def command(**arguments: str) -> None:
        with one_line_errors():
            run(this, arguments)

    kinds = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=str) for n in this.arguments]
    command.__signature__ = inspect.Signature(kinds)  # type: ignore[attr-defined]
    command.__doc__ = this.function.__doc__
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    app()


def run(this: Stage, arguments: dict[str, str]) -> None:
    """Fill in paths and parameters, call the function, rename what it wrote.

    Raises
    ------
    ValueError, OSError
        From the stage; nothing of what it wrote is left behind.
    """
    params = config.load(Path(paths.PARAMS))
    outs = {name: Path(m.path.format(**arguments)) for name, m in this.marks.items() if isinstance(m, Out)}
    parts = {name: path.with_name(f".{path.name}.part") for name, path in outs.items()}
    values = {name: _value(mark, params, arguments) for name, mark in this.marks.items() if not isinstance(mark, Out)}
    for part in parts.values():
        _remove(part)
        part.parent.mkdir(parents=True, exist_ok=True)
    try:
        this.function(**arguments, **values, **parts)
        for name, path in outs.items():
            _remove(path)
            parts[name].rename(path)
    finally:
        for part in parts.values():
            _remove(part)


def _value(mark: In | Param, params: config.Params, arguments: dict[str, str]) -> Any:
    if isinstance(mark, Param):
        return _at(params, mark.key.format(**arguments))
    if mark.each is None:
        return _existing(Path(mark.path.format(**arguments)))
    names = {"source": list(params.sources), "arch": params.train.members}[mark.each]
    if mark.each == "source":
        _only_members(Path(mark.path).parent, names)
    return {name: _existing(Path(mark.path.format(**{mark.each: name}))) for name in names}


def _at(params: config.Params, key: str) -> Any:
    try:
        return config.at(params, key)
    except (KeyError, AttributeError):
        raise ValueError(f"{key} must be a key of {paths.PARAMS}, got none. Add it or name another") from None


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} must exist before this stage. Run `dvc repro`")
    return path


def _only_members(folder: Path, names: list[str]) -> None:
    """DVC hashes a gathered folder whole, so what a source left behind would be in the data unseen."""
    here = {path.name for path in folder.glob("[!.]*") if path.is_dir()} if folder.is_dir() else set()
    strangers = sorted(here - set(names))
    if strangers:
        raise ContractError(
            f"{folder} must hold {', '.join(names)} and nothing else, got {', '.join(strangers)}. "
            f"Remove what has left {paths.PARAMS}: rm -r {folder / strangers[0]}"
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
