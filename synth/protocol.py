"""The messages between the bot's side and a synthesis worker: the contract.

Requests go in, events come out; all are frozen, picklable, and hold no torch object. For a worker,
one job is one utterance: a piece of text that fits one window of the model. A longer text is
several of them, put together on the asking side, whose reader gets the same events. Knows nothing
of queues, processes or Discord.

    Submit -> Accepted -> Progress* -> Audio+ -> Done      (no Audio of a draft)
                     \\-> Failed           (at any point, exactly one of Done and Failed)
    Cancel -> Failed(reason=CANCELLED)
"""

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

# Stands for the best of Bark's that is on this machine, else for the built-in one.
AUTO_MODEL = "auto"
# Names the small seeded random model: noise, no speech; for tests and measurements.
RANDOM_MODEL = "random"
# Names the small English model that ships inside the package (`synth/nano`).
BUILT_IN_MODEL = "nano"

IntArray = npt.NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class HistoryPrompt:
    """What a generation continues from, and what every generation leaves behind.

    semantic: (n,) int64 in [0, semantic vocab), 49.9 per second for Bark.
    coarse_codes: (2, m) int64 in [0, 1024), 75 frames per second.
    fine_codes: (8, m) int64 in [0, 1024).
    family: `ModelConfig.family` of the model it belongs to.
    """

    semantic: IntArray
    coarse_codes: IntArray
    fine_codes: IntArray
    family: str


class Gender(StrEnum):
    FEMALE = "female"
    MALE = "male"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class VoiceInfo:
    """A voice the loaded model can speak with. `language` is a code like "en", or ""."""

    name: str
    language: str
    version: str
    gender: Gender
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn. None for a temperature or min_eos_p means the model's own default.

    A temperature of 0 is greedy. `min_eos_p` at 1 or above leaves the end to sampling alone.
    """

    text_temperature: float | None = None
    waveform_temperature: float | None = None
    fine_temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_eos_p: float | None = None
    # The same seed, text, voice and model give the same clip on the same machine. On another, or on
    # another number of threads, sums round differently, and a near tie may turn out the other way.
    seed: int = 0
    max_seconds: float | None = None  # the original's duration cap
    early_stop: bool = True  # False: always the model's full number of steps


class Streaming(StrEnum):
    """When a clip's sound leaves the engine.

    EXACT: as soon as it cannot come out otherwise any more. LOW_LATENCY: while the clip is still
    being thought up, by a fine stage that does not wait for what follows; not Bark's own
    computation, and a little different from it in codebooks 2 and up.
    """

    EXACT = "exact"
    LOW_LATENCY = "low_latency"


@dataclass(frozen=True, kw_only=True)
class Submit:
    """Speak `text` with `voice`: a name from Ready.voices, a history prompt, or None for no voice.

    `text` is one utterance; tokens past the text block are cut and the loss told in Done.notes.
    `utterance` numbers the pieces of a longer text: it keys the noise and comes back in events, and
    of one `user`'s jobs the earlier come first.
    """

    job_id: str
    text: str
    voice: str | HistoryPrompt | None = None
    sampling: Sampling = field(default_factory=Sampling)
    utterance: int = 0
    user: str = ""  # whom it is for; users take turns
    streaming: Streaming = Streaming.EXACT
    # How often it is begun anew, with another seed, when its end does not come in the longest time
    # its text can take; the last try is cut there. 0: whatever the model does is right.
    rerolls: int = 0
    # Only to be thought up: it ends with its semantic tokens, in Done.history, and how likely they
    # are, and no sound comes. What became of the best draft is spoken by a job that is given its
    # `semantic_tokens` and seed, and comes out as if it had not been a draft.
    draft: bool = False
    semantic_tokens: tuple[int, ...] | None = None
    # Seconds of work, from admission into a slot. The pipeline ends a job that is past it, between
    # two steps; the supervisor kills a worker that has not done so a while after.
    deadline_s: float | None = None


@dataclass(frozen=True)
class Cancel:
    job_id: str


@dataclass(frozen=True)
class Played:
    """How much of the job's audio the listener has heard so far; less than 0 for who is still so
    far before its beginning, in an earlier piece of the same text.
    """

    job_id: str
    seconds: float


@dataclass(frozen=True)
class Shutdown:
    """Finish nothing more; end the process."""


Request = Submit | Cancel | Played | Shutdown


class Stage(StrEnum):
    SEMANTIC = "semantic"
    COARSE = "coarse"
    FINE = "fine"
    CODEC = "codec"


class Reason(StrEnum):
    """Why a job failed; `client.py` makes each an exception of `synth.errors`."""

    INVALID = "invalid"  # -> InvalidRequest
    BUSY = "busy"  # -> Busy
    CANCELLED = "cancelled"  # -> JobCancelled, where somebody is left to tell
    TIMEOUT = "timeout"  # -> JobTimeout
    OUT_OF_MEMORY = "out_of_memory"  # -> EngineFailed
    CRASHED = "crashed"  # -> EngineFailed


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one worker can take."""

    slots: int
    text_tokens: int  # tokens past this are cut
    utterance_s: float  # the longest clip one utterance can be
    figures: bool = True  # reads numbers in figures; else they become English words


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The worker has loaded and warmed up its model."""

    model: str
    family: str
    languages: tuple[str, ...]
    voices: tuple[VoiceInfo, ...]
    sample_rate: int
    limits: Limits
    device: str
    precision: str
    notice: str = ""  # one sentence for users, when the model is not the real Bark
    memory: str = ""  # how a GPU's memory is used, for who runs the bot
    characters: frozenset[str] = frozenset()  # what it can be given to say; none: not known


@dataclass(frozen=True)
class Accepted:
    """The job's place in line: 1 is next, 0 means it is being worked on. Sent at each change."""

    job_id: str
    position: int


@dataclass(frozen=True)
class Progress:
    """`fraction` in [0, 1] of `stage`, measured on the upper bound while the length is unknown.

    `whole` in [0, 1]: of all the work on the whole text; None where only one utterance is known.
    """

    job_id: str
    stage: Stage
    fraction: float
    whole: float | None = None


@dataclass(frozen=True, eq=False)
class Audio:
    """A run of samples, float32 mono at Ready.sample_rate, chunks of one utterance in order."""

    job_id: str
    utterance: int
    chunk: int
    samples: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Timings:
    """Seconds of work by stage, of waiting for a slot, and from submit to first audio."""

    semantic_s: float = 0.0
    coarse_s: float = 0.0
    fine_s: float = 0.0
    codec_s: float = 0.0
    queued_s: float = 0.0
    ttfa_s: float = 0.0

    @property
    def work_s(self) -> float:
        return self.semantic_s + self.coarse_s + self.fine_s + self.codec_s


@dataclass(frozen=True, kw_only=True)
class Rendition:
    """How one utterance was made, and where in the clip it is heard."""

    text: str
    seed: int  # the one its sound was made with
    audio_s: float  # a draft's: what its sound would last
    start_s: float = 0.0
    rerolls: int = 0  # tries that were given up because no end came
    ended: bool = True  # False: no end came in the last try either, and it was cut
    trimmed_s: float = 0.0  # silence taken off its ends
    takes: int = 1  # candidates it was chosen from
    log_prob: float | None = None  # mean of its semantic tokens, natural; of drafts


@dataclass(frozen=True, kw_only=True, eq=False)
class Done:
    """All audio has been sent. `history` continues this clip or becomes a voice; a draft's has
    nothing but semantic tokens.
    """

    job_id: str
    audio_s: float
    seed: int
    timings: Timings
    history: HistoryPrompt
    notes: tuple[str, ...] = ()  # plain sentences for the user: text cut, history trimmed
    renditions: tuple[Rendition, ...] = ()  # one an utterance, in order


@dataclass(frozen=True)
class Failed:
    """`detail` is one plain sentence that is safe to show.

    An empty `job_id` speaks of the worker itself, which ends after saying so: INVALID when its
    settings can never work, else OUT_OF_MEMORY or CRASHED.
    """

    job_id: str
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Beat:
    """A worker that holds jobs is between two steps of work: sent when it said nothing else."""


Event = Ready | Beat | Accepted | Progress | Audio | Done | Failed
JobEvent = Accepted | Progress | Audio | Done | Failed
