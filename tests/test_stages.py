"""What `stage` promises: outputs appear whole or not at all, and bad input is one line."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGE = """
    import os, signal
    from pathlib import Path
    from typing import Annotated
    from lensml import config
    from stages import In, Out, Param, main, stage

    @stage
    def toy(
        source: str,
        before: Annotated[Path, In("before.txt")],
        ridge: Annotated[float, Param("fuse.ridge")],
        one: Annotated[Path, Out("data/{source}/one")],
        two: Annotated[Path, Out("data/two.txt")],
    ) -> None:
        \"\"\"A toy.\"\"\"
        one.mkdir()
        (one / "a.txt").write_text(f"{source} {ridge} {before.read_text()}")
        two.write_text("half")
        SAY
        two.write_text("whole")

    main(toy)
"""


def run(folder: Path, do: str = "pass") -> subprocess.CompletedProcess[str]:
    (folder / "toy.py").write_text(textwrap.dedent(STAGE).replace("SAY", do))
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "toy.py", "sky"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def left(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in (folder / "data").rglob("*") if p.is_file())


def test_paths_and_parameters_are_filled_in(tmp_path: Path) -> None:
    (tmp_path / "before.txt").write_text("input")
    assert run(tmp_path).returncode == 0
    assert (tmp_path / "data/sky/one/a.txt").read_text() == "sky 1.0 input"
    assert left(tmp_path) == ["data/sky/one/a.txt", "data/two.txt"]


@pytest.mark.parametrize("error", ["ValueError('a must be b,\\n got c')", "OSError(28, 'No space left on device')"])
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path, error: str) -> None:
    (tmp_path / "before.txt").write_text("input")
    done = run(tmp_path, f"raise {error}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert left(tmp_path) == []


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 1
    assert "before.txt must exist" in done.stderr


def test_a_mistake_of_ours_keeps_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "before.txt").write_text("input")
    assert "Traceback" in run(tmp_path, "raise KeyError('x')").stderr
    assert left(tmp_path) == []


def test_killed_then_run_again(tmp_path: Path) -> None:
    (tmp_path / "before.txt").write_text("input")
    assert run(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)").returncode == -signal.SIGKILL
    assert not (tmp_path / "data/two.txt").exists()
    assert run(tmp_path).returncode == 0
    assert left(tmp_path) == ["data/sky/one/a.txt", "data/two.txt"]
