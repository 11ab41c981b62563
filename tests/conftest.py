"""What every test needs: one thread per process, and no network beyond loopback."""

import os
from pathlib import Path

import pytest

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")


@pytest.fixture(scope="session")
def graph_done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which `dvc repro` has ended, committed. Tests that change it work on a copy."""
    from tests import graph

    folder = graph.checkout(tmp_path_factory.mktemp("graph"), graph.tiny)
    graph.run(folder, "dvc", "repro")
    graph.commit(folder, "run")
    return folder
