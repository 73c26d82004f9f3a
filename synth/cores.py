"""How many threads compute on a CPU: as many as it has cores for this process. Imports no torch."""

import math
import os
from pathlib import Path


def settle_threads(asked: int | None) -> None:
    """Have torch compute with `asked` threads, by default one for each usable core, unless the
    environment says how many (OMP_NUM_THREADS, which torch has followed).
    """
    import torch

    if asked or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(asked or usable_cores())


def usable_cores() -> int:
    """Physical cores this process may keep busy, by affinity and container quota; at least 1.

    More compute threads than that only wait for each other: two hyperthreads share one core's
    multipliers, and a thread without its share of the quota stops all the others at a barrier.
    """
    if not hasattr(os, "sched_getaffinity"):
        return max(1, os.cpu_count() or 1)
    allowed = os.sched_getaffinity(0)
    try:
        cores = len(
            {
                _read(f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list")
                for n in allowed
            }
        )
    except OSError:
        cores = len(allowed)
    try:
        quota, period = _read("/sys/fs/cgroup/cpu.max").split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass  # another kind of container, or "max": no quota
    return max(1, cores)


def _read(file: str) -> str:
    return Path(file).read_text(encoding="ascii")
