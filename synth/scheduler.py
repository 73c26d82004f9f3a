"""Inside the worker: requests become jobs in slots, and every job ends in one Done or Failed.

Knows the pipeline only by the four things it does with it, so it imports no torch. Which job waits
for a slot is decided on the client's side; here are those that have one.

Who works next among the slots is the pipeline's choice within `step`, and so is ending a job whose
deadline has passed. What the scheduler adds is what only it knows: which names are voices, and how
much audio each listener still has in hand.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from synth.errors import InvalidRequest
from synth.protocol import (
    Audio,
    Cancel,
    Done,
    Failed,
    HistoryPrompt,
    JobEvent,
    Played,
    Reason,
    Submit,
)

logger = logging.getLogger(__name__)


class Pipeline(Protocol):
    """What the scheduler asks of `synth.pipeline.Pipeline`."""

    @property
    def free(self) -> int: ...

    def admit(self, submit: Submit, history: HistoryPrompt | None) -> None: ...

    def cancel(self, job_id: str) -> bool: ...

    def step(self, buffered_s: Mapping[str, float] | None = None) -> list[JobEvent]: ...


@dataclass
class _Slot:
    user: str
    utterance: int
    sent_s: float = 0.0  # audio handed out so far
    heard_s: float | None = None  # audio the listener has played so far, when it was told

    @property
    def ahead_s(self) -> float:
        return max(0.0, self.sent_s - (self.heard_s or 0.0))


class Scheduler:
    """The jobs of one pipeline. Not thread-safe: one loop calls `handle` and `step` in turn.

    voice: a voice's name -> its history prompt; raises InvalidRequest for a name it does not know.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        voice: Callable[[str], HistoryPrompt],
        *,
        sample_rate: int,
    ) -> None:
        self._pipeline = pipeline
        self._voice = voice
        self._sample_rate = sample_rate
        self._slots: dict[str, _Slot] = {}

    @property
    def idle(self) -> bool:
        """No job has a slot: there is nothing to do until the next request."""
        return not self._slots

    def buffered_s(self, job_id: str) -> float:
        """Seconds of audio sent and not yet heard; the emptier, the more urgent the job.

        Whoever waits for a piece of a text hears the earlier ones first: those in slots count too.
        """
        slot = self._slots[job_id]
        earlier = (
            other.ahead_s
            for other in self._slots.values()
            if other.user == slot.user and other.utterance < slot.utterance
        )
        return slot.ahead_s + sum(earlier)

    def handle(self, request: Submit | Cancel | Played) -> list[JobEvent]:
        """Take in one request; what went wrong with it comes back as a Failed."""
        match request:
            case Submit():
                return self._admit(request)
            case Cancel(job_id):
                if self._slots.pop(job_id, None) is None:
                    return []  # it ended while the Cancel was on its way
                self._pipeline.cancel(job_id)
                return [Failed(job_id, Reason.CANCELLED, "The job was cancelled.")]
            case Played(job_id, seconds):
                if slot := self._slots.get(job_id):
                    told = slot.heard_s
                    slot.heard_s = seconds if told is None else max(told, seconds)
                return []

    def step(self) -> list[JobEvent]:
        """Do one bounded quantum of work for the jobs in slots.

        Whatever the pipeline raises is let through: its state is unknown then, and the worker ends.
        """
        if not self._slots:
            return []
        buffered_s = {job_id: self.buffered_s(job_id) for job_id in self._slots}
        return [self._noted(event) for event in self._pipeline.step(buffered_s)]

    def _admit(self, submit: Submit) -> list[JobEvent]:
        if self._pipeline.free == 0:
            return [Failed(submit.job_id, Reason.BUSY, "All slots of this worker are taken.")]
        try:
            history = self._voice(submit.voice) if isinstance(submit.voice, str) else submit.voice
            self._pipeline.admit(submit, history)
        except InvalidRequest as error:
            return [Failed(submit.job_id, Reason.INVALID, str(error))]
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # Nothing was worked on yet, so this one job is to blame and the others are unharmed.
            logger.exception("job %s: could not be admitted", submit.job_id)
            self._pipeline.cancel(submit.job_id)
            return [Failed(submit.job_id, Reason.CRASHED, "The speech engine failed on this job.")]
        self._slots[submit.job_id] = _Slot(submit.user, submit.utterance)
        return []

    def _noted(self, event: JobEvent) -> JobEvent:
        match event:
            case Audio(job_id=job_id, samples=samples):
                self._slots[job_id].sent_s += len(samples) / self._sample_rate
            case Done(job_id=job_id) | Failed(job_id=job_id):
                del self._slots[job_id]
            case _:
                pass
        return event


def is_out_of_memory(error: BaseException) -> bool:
    """True for the host's and the device's kinds, told without importing torch."""
    return (
        isinstance(error, MemoryError)
        or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
        or "can't allocate memory" in str(error)  # torch's CPU allocator raises a RuntimeError
    )
