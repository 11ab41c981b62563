"""Work units through many processes, in order and at constant memory: on this machine, or on a Dask cluster."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Final, TypeVar

import joblib
from joblib.executor import get_memmapping_executor
from threadpoolctl import threadpool_limits

Unit = TypeVar("Unit")
Result = TypeVar("Result")

AHEAD: Final = 3  # units per worker that are under way, or done and not yet asked for


def in_order(
    function: Callable[[Unit], Result], units: Iterable[Unit], jobs: int, scheduler: str | None = None
) -> Iterator[Result]:
    """What `function` makes of each unit, in the units' order and with the same bits whatever the number of workers.

    Whoever is slow to take results holds the workers back: joblib.Parallel's generator would compute on and pile them
    up, which is why its worker processes are asked here one by one. Each unit runs on one thread.

    Parameters
    ----------
    function : of a module, or a partial of one; the workers import it
    units : small; taken from as workers get free
    jobs : worker processes of this machine, -1 for one per core; 1 computes here
    scheduler : address of a Dask scheduler ("tcp://host:8786"), whose workers then do it instead; they must see the
        same files under the same paths

    Raises
    ------
    ValueError
        The cluster has no workers.
    OSError
        There is no scheduler at the address.
    Exception
        What the function raised, as it was raised.
    """
    if jobs == 1 and scheduler is None:
        yield from (_on_one_thread(function, unit) for unit in units)
        return
    with _local(jobs) if scheduler is None else _cluster(scheduler) as (executor, workers):
        yield from _windowed(executor, AHEAD * workers, function, units)


def _windowed(
    executor: Executor, most: int, function: Callable[[Unit], Result], units: Iterable[Unit]
) -> Iterator[Result]:
    under_way: deque[Future[Result]] = deque()
    try:
        for unit in units:
            if len(under_way) == most:
                yield under_way.popleft().result()
            under_way.append(executor.submit(_on_one_thread, function, unit))
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()


def _on_one_thread(function: Callable[[Unit], Result], unit: Unit) -> Result:
    with threadpool_limits(1):  # the workers are as many as the cores, and a product's bits may depend on its threads
        return function(unit)


def _local(jobs: int) -> AbstractContextManager[tuple[Executor, int]]:
    """The processes that joblib.Parallel runs on, kept for whoever comes next from the same folder."""
    workers = joblib.effective_n_jobs(jobs)
    here = (str(Path.cwd()),)  # paths may be relative
    return nullcontext((get_memmapping_executor(workers, initializer=os.chdir, initargs=here), workers))


@contextmanager
def _cluster(scheduler: str) -> Iterator[tuple[Executor, int]]:
    from distributed import Client  # takes a second, and only who has a cluster needs it

    with Client(scheduler, set_as_default=False) as client:
        workers = sum(client.ncores().values())
        if not workers:
            raise ValueError(f"dask_scheduler must have workers, got none ({scheduler}). Start some.")
        yield client.get_executor(pure=False), workers
