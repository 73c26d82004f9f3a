"""What can go wrong in synthesis, in kinds a caller can tell apart.

    SynthError
      InvalidRequest   the caller can fix it: the text names the value and the remedy
      Busy             nothing is wrong: the queue is full, try again later
      JobTimeout       the job outlived its deadline and was ended
      JobCancelled     the job was called off by somebody other than its reader
      EngineFailed     ours: the engine crashed, ran out of memory or never came up
      UnusableModel    there is no model to work with (the command line has a status for it)

Every message is one plain sentence that is safe to show to a person.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class SynthError(Exception):
    """Base of everything `synth` raises on purpose."""


class InvalidRequest(SynthError):
    """The request, file, checkpoint or voice is wrong, and the caller can put it right."""


class Busy(SynthError):
    """The queue is full; `waiting` jobs are ahead and `estimate_s` seconds is the expected wait."""

    def __init__(self, message: str, *, waiting: int = 0, estimate_s: float | None = None) -> None:
        super().__init__(message)
        self.waiting = waiting
        self.estimate_s = estimate_s


class JobTimeout(SynthError):
    """The job did not finish before its deadline; the others go on."""


class JobCancelled(SynthError):
    """The job was cancelled while somebody else was still reading its events."""


class EngineFailed(SynthError):
    """The synthesis process crashed, ran out of memory, or could not start."""


class UnusableModel(SynthError):
    """There is no model to work with, or it cannot be had."""


@contextmanager
def model_needed() -> Iterator[None]:
    """Inside, whatever goes wrong is an UnusableModel."""
    try:
        yield
    except SynthError as error:
        raise UnusableModel(str(error)) from error
