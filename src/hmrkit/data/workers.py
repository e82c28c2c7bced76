"""Jobs shared among processes that end when their parent does."""

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
from tqdm import tqdm

from hmrkit.data.machine import num_cores

Make = Callable[[Any, Callable[[int], None]], Any]


def count_workers(workers: int | str | None) -> int:
    """The number of processes that an option asks for; None and "auto" are one per core."""
    if workers is None or workers == "auto":
        return num_cores()
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise ValueError(f"workers={workers!r}: expected auto or a whole number from 0")
    return workers


def progress_bar(total: int, num_done: int, unit: str, name: str) -> tqdm:
    """A bar of records with their rate."""
    interval = 0.1 if sys.stderr.isatty() else 10.0  # a log file needs few lines
    return tqdm(
        total=total,
        initial=num_done,
        unit=unit,
        desc=name,
        mininterval=interval,
        maxinterval=interval,
    )


def do_jobs(
    make: Make,
    jobs: Sequence[Any],
    num_workers: int,
    bar: tqdm,
    collect: Callable[[Any], None] | None = None,
) -> None:
    """Do jobs, in spawned processes (OpenCV and BLAS threads do not survive a fork).

    Args:
        make: ``make(job, advance)`` does one job and calls ``advance(1)`` per record; picklable.
        jobs: what is to be done, in any order.
        num_workers: number of processes; 0 or 1 for this one.
        bar: shows the records done.
        collect: is given what ``make`` returns, in this process, as the jobs end; what it raises
            ends the work.

    Raises:
        RuntimeError: if a process fails or is killed.
    """
    if min(num_workers, len(jobs)) > 1:
        _share_jobs(make, jobs, min(num_workers, len(jobs)), bar, collect)
        return
    for job in jobs:
        result = make(job, bar.update)
        if collect is not None:
            collect(result)


def _share_jobs(
    make: Make,
    jobs: Sequence[Any],
    num: int,
    bar: tqdm,
    collect: Callable[[Any], None] | None,
) -> None:
    context = multiprocessing.get_context("spawn")
    next_job, num_done = context.Value("q", 0), context.Value("q", 0)
    failures, results = context.SimpleQueue(), context.SimpleQueue()
    arguments = (make, jobs, next_job, num_done, failures, results)
    processes = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(num)]

    def look() -> None:
        bar.update(num_done.value - (bar.n - bar.initial))
        while not results.empty():
            result = results.get()
            if collect is not None:
                collect(result)

    try:
        with _one_thread_each(), _known_start_method():
            for process in processes:
                process.start()
        while any(process.is_alive() for process in processes):
            time.sleep(0.1)
            look()
            if any(process.exitcode for process in processes):
                break
        look()
        if any(process.exitcode for process in processes):
            reason = failures.get() if not failures.empty() else "it was killed (out of memory?)"
            raise RuntimeError(f"a worker that makes shards failed; run again to go on.\n{reason}")
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _work(
    make: Make, jobs: Sequence[Any], next_job: Any, num_done: Any, failures: Any, results: Any
) -> None:
    """A worker: take the next job until none is left or the parent is gone."""
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()

    def advance(count: int) -> None:
        with num_done.get_lock():
            num_done.value += count
        if parent is None or not parent.is_alive():
            raise SystemExit(1)  # killed without a chance to tell us

    try:
        while True:
            with next_job.get_lock():
                job, next_job.value = next_job.value, next_job.value + 1
            if job >= len(jobs):
                return
            results.put(make(jobs[job], advance))
    except Exception:
        failures.put(traceback.format_exc(limit=-3))
        raise SystemExit(1) from None


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside have one BLAS thread: the pools read this when NumPy is imported."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: "1" for name in names})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _known_start_method() -> Iterator[None]:
    """Started inside, a process finds the start method of its parent: joblib's sets its own."""
    before = multiprocessing.get_start_method(allow_none=True)
    if before in (None, *multiprocessing.get_all_start_methods()):
        yield
        return
    multiprocessing.set_start_method("spawn", force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)
