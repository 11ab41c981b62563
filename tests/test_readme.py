"""What the README tells a user to type works; each of its commands is run here or named with the test that runs it."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from lensml import config
from lensml.sources import SOURCES
from tests import graph
from tests.cutouts_folder import write_cutouts

pytestmark = [pytest.mark.graph, pytest.mark.xdist_group("graph")]
TEXT = (graph.ROOT / "README.md").read_text()
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
]
ELSEWHERE = {
    "make repro": "continuous integration",
    "make test": "continuous integration",
    "dvc remote add --local -d team s3://bucket/lensml": "test_graph.test_pushed_data_arrive_in_a_clean_clone",
    "dvc remote add --local -d team ssh://host/path/lensml": "the same remote, another protocol",
    "lensml cluster best.par --images arcs.dat --redshift 1.45 --redshift 9 --out curves.png": (
        "test_app_cluster.test_smacs_0723"
    ),
    "dvc push": "test_graph.test_pushed_data_arrive_in_a_clean_clone",
    "dvc pull": "test_graph.test_pushed_data_arrive_in_a_clean_clone",
}


def test_the_two_commands_stand_first() -> None:
    assert COMMANDS[:2] == ["make repro", "make test"]


def test_every_command_works(graph_done: Path, tmp_path: Path) -> None:
    project = shutil.copytree(graph_done, tmp_path / "project", symlinks=True)
    write_cutouts(project / "my_cutouts", 6, bands=("g", "r", "i", "z", "y"))
    ran = [command for command in COMMANDS if command not in ELSEWHERE]
    assert len(ran) >= 7
    for command in ran:
        graph.run(project, *shlex.split(command))
    assert (project / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert (project / "candidates.parquet").is_file()


def test_every_source_that_it_shows_is_one() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    shown = YAML(typ="safe").load(block)["sources"]
    assert len(shown) >= 5
    for values in shown.values():
        TypeAdapter(config.Source).validate_python(values)


def test_every_kind_of_source_is_named() -> None:
    table = TEXT[TEXT.index("| kind | what goes in |") : TEXT.index("What is not in the files")]
    rows = [row.split("|")[1] for row in table.splitlines()[2:] if "|" in row]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(SOURCES)


def test_nothing_is_said_to_be_run_elsewhere_that_is_not_there() -> None:
    assert set(ELSEWHERE) <= set(COMMANDS)


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"\]\(([\w./]+)\)|`((?:metrics|lensml|tests|benchmarks)/[\w./]*)`", TEXT)))
)
def test_every_path_it_names_exists(graph_done: Path, path: tuple[str, str]) -> None:
    assert (graph_done / (path[0] or path[1])).exists()
