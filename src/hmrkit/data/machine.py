"""What this machine lets a process use."""

import os
from pathlib import Path


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


def auto_workers(cores: int, is_cpu: bool) -> int:
    """Worker processes of one training process that has so many cores to itself.

    On a GPU all cores but one prepare samples. On a CPU the network needs the most of them: a third
    of the cores feeds it.
    """
    return min(cores // 3 if is_cpu and cores > 2 else cores - 1, 8)
