"""One contender of the benchmark in a process of its own: its times by stage, and its memory.

A child is started afresh (spawned) and shares nothing with the others: threads, allocator, caches.
All are children of the benchmark, with the same number of threads, and only one works at a time.
"""

import gc
import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from synth.allocator import give_back_memory
from synth.bench_models import open_model
from synth.contenders import Case, Contender, build
from synth.errors import EngineFailed, InvalidRequest
from synth.model import Checkpoint
from synth.protocol import Stage

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_GRACE_S = 5.0  # an idle child ends as soon as it hears that nobody asks any more
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Sample:
    """One case made once. Seconds by stage, all jobs together; those that were not made because
    they are the same work once more are counted.

    peak_bytes: the largest resident set of the process while it made the case: weights, caches and
    code, not what loading needed for a while (where the system can not tell, that is in it too).
    """

    cpu: dict[Stage, float]
    wall: dict[Stage, float]
    peak_bytes: int

    @property
    def cpu_s(self) -> float:
        return sum(self.cpu.values())

    @property
    def wall_s(self) -> float:
        return sum(self.wall.values())


def measure(contender: Contender, case: Case) -> Sample:
    """Make a case in this process and time it: the CPU time is that of all its threads."""
    wall, cpu = dict.fromkeys(Stage, 0.0), dict.fromkeys(Stage, 0.0)
    _forget_peak()
    last = (time.perf_counter(), time.process_time())

    def mark(stage: Stage) -> None:
        nonlocal last
        now = (time.perf_counter(), time.process_time())
        wall[stage] += now[0] - last[0]
        cpu[stage] += now[1] - last[1]
        last = now

    made = contender.make(case, mark)
    scale = case.jobs / made
    return Sample(
        cpu={stage: seconds * scale for stage, seconds in cpu.items()},
        wall={stage: seconds * scale for stage, seconds in wall.items()},
        peak_bytes=peak_bytes(),
    )


def _forget_peak() -> None:
    """Let the peak be what is resident now (Linux)."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        pass


def peak_bytes() -> int:
    """The largest resident set of this process since the peak was forgotten, or ever; 0 unknown."""
    try:
        line = next(x for x in _STATUS.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024)


class Child:
    """A process that holds one contender. Close it, or leave its `with`."""

    def __init__(self, name: str, checkpoint: str, *, threads: int, device: str) -> None:
        """checkpoint: as `open_model` takes it; the child makes or opens it itself.

        Raises InvalidRequest with the reason when the contender cannot be had here.
        """
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._end, theirs = context.Pipe()
        before = {key: os.environ.get(key) for key in _THREAD_VARIABLES}
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
        try:
            self._process = context.Process(
                target=_serve, args=(theirs, name, checkpoint, threads, device), daemon=True
            )
            self._process.start()
        finally:
            for key, value in before.items():
                if value is None:
                    del os.environ[key]
                else:
                    os.environ[key] = value
        theirs.close()
        try:
            if refusal := self._answer():
                raise InvalidRequest(refusal)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def measure(self, case: Case) -> Sample:
        """Make a case there. Raises EngineFailed when the process dies of it."""
        self._end.send(case)
        return self._answer()

    def _answer(self) -> Any:
        try:
            return self._end.recv()
        except EOFError:
            raise EngineFailed(f"The process of {self.name} died; is memory short?") from None

    def close(self) -> None:
        """End the process and wait for it; one that is at work is not waited out."""
        self._end.close()
        self._process.join(_GRACE_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def _serve(end: Any, name: str, source: str, threads: int, device: str) -> None:
    torch.set_num_threads(threads)
    try:
        checkpoint: Checkpoint | None = open_model(source)
        contender = build(name, checkpoint, device)
    except (ImportError, InvalidRequest) as error:
        end.send(str(error))
        return
    checkpoint = None  # each has its own copy of what it needs
    gc.collect()
    give_back_memory()
    end.send("")
    while True:
        try:
            case = end.recv()
        except EOFError:
            return
        end.send(measure(contender, case))
