"""A pipeline that does what its text says, for a real child process to run. No torch.

A job's text is a list of words; each step performs one word of every job in a slot:

    chunk   0.1 s of audio
    ah      0.2 s of audio that sounds like speech, and goes on from one to the next
    um      50 ms of work
    hold    stay here, reporting progress, until cancelled
    mute    stay here and say nothing, between bounded steps
    company stay here until another job has a slot too, or for 50 steps
    hang    never come back from the step
    crash, kill, oom, cuda-oom, bug      ways to die
    half    die in the middle of an audio message
    garbage send what is no message

A text that is `refuse` or `choke` is not admitted: the one politely, the other by an exception.

At the end of its words a job is done. The model's name decides how loading goes: `ok`,
`missing` (settings that can never work), `broken` (an exception), `dead` (the process ends),
`stuck` (never returns), or `while:FILE` (broken for as long as FILE exists).
"""

import gc
import os
import signal
import struct
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from synth.errors import InvalidRequest
from synth.protocol import (
    Audio,
    Done,
    HistoryPrompt,
    JobEvent,
    Limits,
    Progress,
    Ready,
    Stage,
    Submit,
    Timings,
)
from synth.worker import Engine, WorkerSettings
from tests.synth.sounds import speech_like

RATE = 24_000
CHUNK = RATE // 10
SPEECH = speech_like(15.0)
NOTHING = HistoryPrompt(
    semantic=np.zeros(0, np.int64),
    coarse_codes=np.zeros((2, 0), np.int64),
    fine_codes=np.zeros((8, 0), np.int64),
    family="scripted",
)


def settings(model: str = "ok", *, slots: int = 1, start_timeout_s: float = 60.0) -> WorkerSettings:
    return WorkerSettings(
        model=model,
        slots=slots,
        start_timeout_s=start_timeout_s,
        factory="tests.synth.scripted:load",
    )


class OutOfMemoryError(RuntimeError):
    """Named and derived like torch's."""


class ScriptedPipeline:
    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._jobs: dict[str, tuple[list[str], int]] = {}  # words left, chunks sent
        self._lonely: dict[str, int] = {}

    @property
    def free(self) -> int:
        return self._slots - len(self._jobs)

    def admit(self, submit: Submit, history: HistoryPrompt | None) -> None:
        if not self.free:
            raise RuntimeError("no slot is free")
        if submit.text == "refuse":
            raise InvalidRequest("This text cannot be spoken.")
        if submit.text == "choke":
            raise ValueError("a bug in admission")
        self._jobs[submit.job_id] = (submit.text.split(), 0)

    def cancel(self, job_id: str) -> bool:
        return self._jobs.pop(job_id, None) is not None

    def step(self, buffered_s: Mapping[str, float] | None = None) -> list[JobEvent]:
        time.sleep(0.001)  # the work
        return [event for job_id in list(self._jobs) for event in self._step(job_id)]

    def _step(self, job_id: str) -> list[JobEvent]:
        words, chunks = self._jobs[job_id]
        match words[0] if words else "":
            case "":
                del self._jobs[job_id]
                return [
                    Done(
                        job_id=job_id,
                        audio_s=chunks * CHUNK / RATE,
                        seed=0,
                        timings=Timings(),
                        history=NOTHING,
                    )
                ]
            case "hold":
                return [Progress(job_id, Stage.SEMANTIC, 0.5)]
            case "mute":
                return []
            case "company":
                self._lonely[job_id] = self._lonely.get(job_id, 0) + 1
                if len(self._jobs) > 1 or self._lonely[job_id] == 50:
                    self._jobs[job_id] = (words[1:], chunks)
                return []
            case "um":
                time.sleep(0.05)
                self._jobs[job_id] = (words[1:], chunks)
                return []
            case "ah":
                self._jobs[job_id] = (words[1:], chunks + 2)
                begin = chunks * CHUNK
                return [Audio(job_id, 0, chunks, SPEECH[begin : begin + 2 * CHUNK])]
            case "chunk":
                self._jobs[job_id] = (words[1:], chunks + 1)
                return [Audio(job_id, 0, chunks, np.full(CHUNK, chunks, np.float32))]
            case "hang":
                while True:
                    pass
            case "crash":
                os._exit(3)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
                signal.pause()
            case "oom":
                raise MemoryError
            case "cuda-oom":
                raise OutOfMemoryError("CUDA out of memory.")
            case "half":
                _write(struct.pack("!i", 1_000_000) + b"half")
                os._exit(4)
            case "garbage":
                _write(struct.pack("!i", 4) + b"oops")
                self._jobs[job_id] = (words[1:], chunks)
                return []
            case "bug":
                raise ValueError("a bug")
            case word:
                raise AssertionError(f"unknown word {word}")
        raise AssertionError


def _write(data: bytes) -> None:
    """Write to the event queue behind its back: a length, and not what was announced."""
    ends = (o for o in gc.get_objects() if isinstance(o, Connection))
    pipe = next(end for end in ends if end.writable and not end.closed)
    os.write(pipe.fileno(), data)


def load(settings: WorkerSettings) -> Engine:
    match settings.model.partition(":"):
        case "ok", _, _:
            pass
        case "missing", _, _:
            raise InvalidRequest("There is no model here.")
        case "dead", _, _:
            os._exit(5)
        case "stuck", _, _:
            while True:
                time.sleep(0.01)
        case "while", _, file if not Path(file).exists():
            pass
        case _:
            raise RuntimeError("a broken device")
    slots = settings.slots or 1
    ready = Ready(
        model=settings.model,
        family="scripted",
        languages=("en",),
        voices=(),
        sample_rate=RATE,
        limits=Limits(slots=slots, text_tokens=256, utterance_s=15.0),
        device="cpu",
        precision="float32",
    )

    def voice(name: str) -> HistoryPrompt:
        if name != "known":
            raise InvalidRequest(f"There is no voice {name}.")
        return NOTHING

    return Engine(ready=ready, pipeline=ScriptedPipeline(slots), voice=voice)
