"""Jobs shared among processes that end when their parent does."""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
from tqdm import tqdm


def run_workers(
    make: Callable[[Any, Callable[[int], None]], None], jobs: Sequence[Any], num: int, bar: tqdm
) -> None:
    """Share jobs among spawned processes (OpenCV and BLAS threads do not survive a fork).

    Args:
        make: ``make(job, advance)`` does one job and calls ``advance(1)`` per record; picklable.
        jobs: what is to be done, in any order.
        num: number of processes.
        bar: shows the records done.

    Raises:
        RuntimeError: if a process fails or is killed.
    """
    context = multiprocessing.get_context("spawn")
    next_job, num_done = context.Value("q", 0), context.Value("q", 0)
    failures = context.SimpleQueue()
    arguments = (make, jobs, next_job, num_done, failures)
    processes = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(num)]
    try:
        with _one_thread_each():
            for process in processes:
                process.start()
        while any(process.is_alive() for process in processes):
            time.sleep(0.1)
            bar.update(num_done.value - (bar.n - bar.initial))
            if any(process.exitcode for process in processes):
                break
        bar.update(num_done.value - (bar.n - bar.initial))
        if any(process.exitcode for process in processes):
            reason = failures.get() if not failures.empty() else "it was killed (out of memory?)"
            raise RuntimeError(f"a worker that makes shards failed; run again to go on.\n{reason}")
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _work(
    make: Callable[[Any, Callable[[int], None]], None],
    jobs: Sequence[Any],
    next_job: Any,
    num_done: Any,
    failures: Any,
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
            make(jobs[job], advance)
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
