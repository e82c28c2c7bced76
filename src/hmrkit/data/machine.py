"""What this machine lets a process use."""

import ctypes
import os
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEPT_BYTES = 1 << 28
_LARGEST_KEPT = 1 << 25  # glibc refuses more


def num_cores() -> int:
    """Cores that this process may use: its affinity, less a container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, period = quota.read_text().split()
        if limit != "max":
            cores = min(cores, max(1, int(limit) // int(period)))
    return cores


def keep_freed_memory() -> None:
    """Have this process reuse the memory of large images instead of giving it back each time.

    glibc maps and unmaps what is larger than a few megabytes, and the kernel fills it with zeros:
    up to a third of the time of a sample (``tools/bench.py data=scenes``). Other systems are left
    as they are.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in every libc
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def auto_workers(cores: int, is_cpu: bool) -> int:
    """Worker processes of one training process that has so many cores to itself.

    On a GPU all cores but one prepare samples. On a CPU the network needs the most of them: a third
    of the cores feeds it.
    """
    return min(cores // 3 if is_cpu and cores > 2 else cores - 1, 8)
