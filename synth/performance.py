"""One text through the queue: its utterances become jobs of the dispatcher, and one to its reader.

At most one utterance of a text waits in line at a time, the next in the text: so a long text is one
turn in the queue, and takes slots beyond its first only as its turn comes up again.
"""

from collections.abc import Callable
from dataclasses import replace

from synth.dispatcher import Dispatcher
from synth.errors import EngineFailed, InvalidRequest, JobCancelled, JobTimeout, SynthError
from synth.job_events import Mailbox, SpokenEvent
from synth.protocol import Accepted, Audio, Done, Played
from synth.recital import Recital


class Performance:
    """A recital under way; what its `Job` asks for.

    may_retry: whether the engine is to be given an utterance that failed once more.
    """

    def __init__(
        self,
        recital: Recital,
        user: str,
        dispatcher: Dispatcher,
        clock: Callable[[], float],
        may_retry: Callable[[], bool],
    ) -> None:
        self.mailbox = Mailbox()
        self._recital = recital
        self._user = user
        self._jobs = dispatcher
        self._clock = clock
        self._may_retry = may_retry
        self._since = clock()
        self._ttfa_s: float | None = None
        self._waiting: str | None = None  # the submit that has no slot yet
        self._waiting_text = ""
        self._active: list[str] = []  # submits that are in line or in work
        self._started = False
        self._told: int | None = None
        self._go_on()

    # What the reader asks for.

    def position(self, job_id: str) -> int | None:
        if self.mailbox.closed:
            return None
        if self._started or self._waiting is None:
            return 0
        return self._jobs.position(self._waiting)

    def eta_s(self, job_id: str) -> float | None:
        """What its slowest utterance needs, or all that is left on as many slots as it has now."""
        if self.mailbox.closed:
            return None
        in_work = [active for active in self._active if active != self._waiting]
        texts = [*self._recital.left()]
        if self._waiting is not None and in_work:
            texts.append(self._waiting_text)
        now = [self._jobs.eta_s(active) for active in in_work or self._active]
        later = [self._jobs.work_s(text) for text in texts]
        if not now or None in now or None in later:
            return None
        left = [seconds for seconds in now if seconds is not None]
        total = sum(left) + sum(seconds for seconds in later if seconds is not None)
        return max(*left, total / len(now), 0.0)

    def cancel(self, job_id: str) -> None:
        self._end(JobCancelled("The job was cancelled."))

    def played(self, message: Played) -> None:
        """The engine wants to know how far the listener is from the sound that comes next."""
        if sounding := self._recital.sounding:
            job_id, start_s = sounding
            self._jobs.played(Played(job_id, message.seconds - start_s))

    # What happens to its utterances.

    def _go_on(self) -> None:
        """Put the next utterance in line, if none is there."""
        while self._waiting is None and not self.mailbox.closed:
            submit = self._recital.next_submit()
            if submit is None:
                return
            self._waiting, self._waiting_text = submit.job_id, submit.text
            self._active.append(submit.job_id)
            reader = _Reader(self, submit.job_id)
            self._jobs.add_for(reader, submit, self._user, continues=self._started)

    def happened(self, job_id: str, event: SpokenEvent) -> None:
        if self.mailbox.closed:
            return
        match event:
            case Accepted(position=position):
                self._placed(job_id, position)
            case _:
                for told in self._recital.happened(event):
                    self._tell(told)
                if isinstance(event, Done):
                    self._forget(job_id)
                if self._recital.over:
                    self._drop()
        self._go_on()

    def failed(self, job_id: str, error: SynthError) -> None:
        self._forget(job_id)
        if self.mailbox.closed:
            return
        retry = isinstance(error, InvalidRequest | JobTimeout | EngineFailed) and self._may_retry()
        try:
            if not retry:
                raise error
            self._recital.failed(job_id, error)
        except SynthError as last:
            self._end(last)
        else:
            self._go_on()

    def _forget(self, job_id: str) -> None:
        if job_id in self._active:
            self._active.remove(job_id)
        if self._waiting == job_id:
            self._waiting = None

    def _placed(self, job_id: str, position: int) -> None:
        if position == 0 and self._waiting == job_id:
            self._waiting = None
        if position > 0 and self._recital.single:  # again, where its worker died
            self._waiting, self._started = job_id, False
        if self._started or position == self._told:
            return
        self._started = position == 0
        self._told = position
        self.mailbox.put(Accepted(self._recital.job_id, position))

    def _tell(self, event: SpokenEvent) -> None:
        if isinstance(event, Audio) and self._ttfa_s is None:
            self._ttfa_s = self._clock() - self._since
        if isinstance(event, Done):
            event = replace(event, timings=replace(event.timings, ttfa_s=self._ttfa_s or 0.0))
        self.mailbox.put(event)

    def _end(self, error: SynthError) -> None:
        self.mailbox.fail(error)
        self._drop()

    def _drop(self) -> None:
        """Call off what is still in line or in work."""
        active, self._active = self._active, []
        for job_id in active:
            self._jobs.cancel(job_id)


class _Reader:
    """Told by the dispatcher of one utterance."""

    def __init__(self, performance: Performance, job_id: str) -> None:
        self._performance = performance
        self._job_id = job_id

    def put(self, event: SpokenEvent) -> None:
        self._performance.happened(self._job_id, event)

    def fail(self, error: SynthError) -> None:
        self._performance.failed(self._job_id, error)
