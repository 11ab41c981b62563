"""Work units in order: the same on one process, on several and on a Dask cluster; bounded, and honest about faults."""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster
from threadpoolctl import threadpool_info

from lensml import schema
from lensml.store.parallel import AHEAD, in_order
from lensml.store.sketch import Sketch
from tests import test_stage_psf_match as matching


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Two workers on the loopback, in this process: as a cluster, without the seconds that processes take to begin."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        yield cluster.scheduler_address


def squared_slowly_where_even(number: int) -> int:
    if number % 2 == 0:
        sum(range(200_000))  # the odd ones overtake
    return number**2


def noted(folder: Path, number: int) -> int:
    (folder / str(number)).touch()
    return number


def faulty(number: int) -> int:
    if number == 3:
        raise schema.ContractError("object_id must be unique, got three twice. Rename one.")
    return number


def threads(_: int) -> int:
    return max(library["num_threads"] for library in threadpool_info())


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_the_units_order(jobs: int) -> None:
    assert list(in_order(squared_slowly_where_even, range(20), jobs)) == [n**2 for n in range(20)]


def test_results_come_in_the_units_order_from_a_cluster(scheduler: str) -> None:
    assert list(in_order(squared_slowly_where_even, range(20), 1, scheduler)) == [n**2 for n in range(20)]


def test_no_units_are_no_results() -> None:
    assert list(in_order(faulty, [], 2)) == []


@pytest.mark.parametrize("where", ["here", "processes", "cluster"])
def test_an_exception_comes_out_as_itself(where: str, request: pytest.FixtureRequest) -> None:
    address = request.getfixturevalue("scheduler") if where == "cluster" else None
    results = in_order(faulty, range(9), 1 if where == "here" else 2, address)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(schema.ContractError, match="got three twice"):
        next(results)


@pytest.mark.parametrize("where", ["processes", "cluster"])
def test_whoever_is_slow_to_take_results_holds_the_workers_back(
    where: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """joblib.Parallel's generator, asked for two of these, has done all hundred by then."""
    address = request.getfixturevalue("scheduler") if where == "cluster" else None
    results = in_order(partial(noted, tmp_path), range(100), 2, address)
    assert [next(results), next(results)] == [0, 1]
    list(in_order(squared_slowly_where_even, range(40), 2, address))  # time enough for whoever computed on
    assert len(list(tmp_path.iterdir())) <= 2 + 2 * AHEAD
    results.close()
    assert len(list(tmp_path.iterdir())) <= 2 + 2 * AHEAD


def test_units_are_taken_as_workers_get_free() -> None:
    taken: list[int] = []

    def units() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = in_order(squared_slowly_where_even, units(), 2)
    next(results)
    assert len(taken) <= 2 * AHEAD + 1
    results.close()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_unit_runs_on_one_thread(jobs: int) -> None:
    assert set(in_order(threads, range(2), jobs)) == {1}


def test_workers_stand_where_the_caller_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert set(in_order(lambda _: os.path.basename(os.getcwd()), range(3), 2)) == {name}


def test_a_cluster_without_workers_is_told() -> None:
    with (
        LocalCluster(
            n_workers=0, processes=False, protocol="tcp", host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
        pytest.raises(ValueError, match="dask_scheduler must have workers, got none"),
    ):
        list(in_order(faulty, [1], 1, cluster.scheduler_address))


def test_psf_matching_on_a_cluster_gives_the_same_bytes(scheduler: str, tmp_path: Path) -> None:
    stamps = matching.source(broad=(3,))
    here, _ = matching.run(tmp_path / "here", stamps)
    there, _ = matching.run(tmp_path / "there", stamps, dask_scheduler=scheduler)
    assert matching.hashes(here) == matching.hashes(there)


def test_distributed_is_imported_only_when_asked() -> None:
    code = "import sys; from stages import psf_match, convert; sys.exit('distributed' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize("level", [0.0, 0.5, 0.95, 1.0])
def test_a_sketch_tells_the_quantiles_of_what_it_has_seen(level: float) -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.lognormal(-4, 2, 5001), -rng.lognormal(-2, 1, 300), [np.nan]])
    sketch = Sketch()
    for part in np.array_split(rng.permutation(values), 7):
        sketch.add(part)
    expected = np.nanquantile(values, level, method="lower")
    assert sketch.quantile(level) == pytest.approx(expected, rel=2e-4)
    assert len(sketch) == 5301


def test_a_sketch_of_nothing_has_no_quantile() -> None:
    assert Sketch().quantile(0.5) is None
