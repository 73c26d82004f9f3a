"""Bark in three lines of Python, in the caller's own process.

    bark = Bark.load()
    clip = bark.say("Hello [laughs]", voice="v2/en_speaker_6")
    clip.save("hello.ogg")

Loads everything when told to and keeps it until the object goes. One thread uses it at a time.
"""

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from synth import audio
from synth.alphabet import require_speech, spell
from synth.checkpoints import open_checkpoint
from synth.cores import settle_threads
from synth.dialogue import complete_cast, utterances_of
from synth.errors import InvalidRequest, JobTimeout
from synth.longform import Utterance, language_of
from synth.model import build_model, pick_device, place
from synth.pipeline import Pipeline
from synth.precision import pick_precision
from synth.protocol import (
    AUTO_MODEL,
    Audio,
    Done,
    Failed,
    HistoryPrompt,
    JobEvent,
    Limits,
    Reason,
    Rendition,
    Sampling,
    Streaming,
    Timings,
    VoiceInfo,
)
from synth.random_model import notice_of, voice_book
from synth.recital import Manner, Recital
from synth.vocab import ModelConfig
from synth.voices import is_npz, load_npz, save_npz, validate


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """A spoken text.

    samples: (N,) float32 mono in about [-1, 1] at `sample_rate` Hz, utterances joined.
    history: what it was made of; continues the clip, or becomes a voice. notes: plain sentences.
    renditions: what was said where, with which seed, and how it came about.
    """

    samples: npt.NDArray[np.float32]
    sample_rate: int
    history: HistoryPrompt
    seed: int
    timings: Timings
    notes: tuple[str, ...] = ()
    renditions: tuple[Rendition, ...] = ()

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate

    def save(self, path: str | os.PathLike[str], *, raw: bool = False) -> None:
        """Write Ogg Opus, MP3, FLAC or WAV by the suffix of `path`, brought to one loudness.

        raw: a 32-bit float WAV of the samples untouched.
        Raises InvalidRequest for another suffix, SynthError when FFmpeg or the disk fails; a file
        that was there before is then as it was.
        """
        audio.save(self.samples, self.sample_rate, path, raw=raw)

    def save_voice(self, path: str | os.PathLike[str]) -> None:
        """Write the generation as an .npz voice; raises InvalidRequest when it cannot."""
        save_npz(Path(path), self.history)


class Bark:
    """A loaded model. `Bark.load()` makes one."""

    def __init__(self, pipeline: Pipeline, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self._book = voice_book(self.config)
        self._characters = pipeline.model.tokenizer.characters
        # What a listener should know about the model.
        self.notice = notice_of(self.config)

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        turbo: bool = False,
        graphs: bool = True,
        threads: int | None = None,
        slots: int = 4,
    ) -> "Bark":
        """Load a model onto a device.

        model: "suno/bark", "suno/bark-small", "nano" (inside the package) or a folder; None is
        the best of Bark's on this machine, else nano.
        device: "auto", "cpu", "cuda" or "mps"; precision: "auto", "fp32",
        "bf16", "fp16" (CUDA) or "int8" (CPU).
        turbo: less work for a clip, by windows that are not Bark's own (`synth.turbo`).
        graphs: on CUDA, replay decode steps and prefills as graphs.
        threads: for the CPU; None is one for each core that this process may use.
        slots: utterances and takes worked on at once, each with caches of its own; fewer where a
        GPU has no room for them.
        Raises InvalidRequest that says what is missing and how to get it.
        """
        check_machine(device, precision, threads)
        settle_threads(threads)
        checkpoint = open_checkpoint(model or AUTO_MODEL)
        device, plan = place(checkpoint.config, device, precision)
        built = build_model(
            checkpoint,
            device=device,
            precision=precision,
            turbo=turbo,
            offload=bool(plan and plan.offload),
        )
        slots = min(slots, plan.slots) if plan else slots
        return cls(Pipeline(built, slots=slots, graphs=graphs))

    @property
    def config(self) -> ModelConfig:
        return self._pipeline.model.config

    @property
    def voices(self) -> tuple[VoiceInfo, ...]:
        return self._book.infos

    def voice(self, voice: str | os.PathLike[str] | HistoryPrompt) -> HistoryPrompt:
        """A voice by name, from an .npz file, or given as it is, checked against this model.

        Raises InvalidRequest with the nearest names, or with what is wrong in the file.
        """
        if isinstance(voice, HistoryPrompt):
            return validate(voice, self.config)
        if is_npz(voice):
            return load_npz(Path(voice), self.config)
        return self._book.get(str(voice))

    def say(
        self,
        text: str,
        voice: str | os.PathLike[str] | HistoryPrompt | None = None,
        *,
        seed: int | None = None,
        sampling: Sampling | None = None,
        streaming: Streaming = Streaming.EXACT,
        cast: Mapping[str, str | HistoryPrompt] | None = None,
        takes: int = 1,
        rerolls: int = 2,
        single: bool = False,
        plain: bool = False,
        live: bool = False,
        on_event: Callable[[JobEvent], None] | None = None,
    ) -> Clip:
        """Speak a text of any length, cut into utterances that the slots work on side by side.

        voice: a name as "v2/en_speaker_6", an .npz file, an earlier clip's history, or none: then
        what comes of the first utterance is the voice of the rest.
        seed: the same seed, text, voice and model give the same clip; None draws one.
        sampling: temperatures and limits; its seed counts only when `seed` is None and it is given.
        streaming: when sound comes out; LOW_LATENCY is sooner, and not quite Bark's own.
        cast: the voices of a dialogue by name; who is in none gets one of the language.
        takes: candidates for each utterance, of which the best (`synth.takes`) becomes sound.
        rerolls: how often an utterance that does not end in time is begun anew.
        single: the text is one utterance, as the original treats it; what exceeds the model's text
        block is cut, and noted. plain: Bark's own sound, nothing trimmed, levelled or begun anew.
        live: give the sound to `on_event` as it is made, not whole utterances, equally loud.
        on_event: called with the progress, and each run of samples as it exists.
        Raises InvalidRequest that says what is wrong with text, voice or setting.
        """
        history = None if voice is None else self.voice(voice)
        if seed is None:
            seed = secrets.randbelow(2**31) if sampling is None else sampling.seed
        if takes < 1 or rerolls < 0:
            raise InvalidRequest("takes must be at least 1, and rerolls at least 0.")
        named = next((info for info in self.voices if info.name == str(voice)), None)
        language = language_of(text, named.language if named else "")
        utterances, notes = (Utterance(text),), ()
        if not single:
            require_speech(text)
            utterances = utterances_of(text, self._limits, language, cast or ()) or utterances
            utterances, notes = spell(utterances, self._characters, self.config.languages)
        voices = complete_cast(utterances, cast or {}, self.voices, language)
        sampling = replace(sampling or Sampling(), seed=seed)
        manner = Manner(
            voice=history,
            cast={name: self.voice(each) for name, each in voices.items()},
            sampling=sampling,
            streaming=streaming,
            live=live,
            takes=takes,
            rerolls=rerolls,
            plain=plain or single,
            most_s=sampling.max_seconds,
        )
        rate = self.config.codec.sample_rate
        recital = Recital("say", utterances, manner, sample_rate=rate, notes=notes)
        samples: list[npt.NDArray[np.float32]] = []
        done: Done | None = None
        for event in self._perform(recital):
            if on_event is not None:
                on_event(event)
            if isinstance(event, Audio):
                samples.append(event.samples)
            elif isinstance(event, Done):
                done = event
        assert done is not None, "a recital ends in Done or an exception"
        return Clip(
            samples=np.concatenate(samples) if samples else np.zeros(0, np.float32),
            sample_rate=rate,
            history=done.history,
            seed=done.seed,
            timings=done.timings,
            notes=done.notes,
            renditions=done.renditions,
        )

    def _perform(self, recital: Recital) -> Iterator[JobEvent]:
        """Work on a recital in the pipeline's slots until it is over."""
        began = self._clock()
        ttfa_s: float | None = None
        running: set[str] = set()
        try:
            while not recital.over:
                while self._pipeline.free and (submit := recital.next_submit()):
                    assert not isinstance(submit.voice, str), "voices are loaded before"
                    self._pipeline.admit(submit, submit.voice)
                    running.add(submit.job_id)
                for event in self._pipeline.step():
                    if isinstance(event, Done | Failed):
                        running.discard(event.job_id)
                    for told in _heard(recital, event):
                        if isinstance(told, Audio) and ttfa_s is None:
                            ttfa_s = self._clock() - began
                        if isinstance(told, Done):
                            timings = replace(told.timings, ttfa_s=ttfa_s or 0.0)
                            told = replace(told, timings=timings)
                        yield told
        finally:
            for job_id in running:
                self._pipeline.cancel(job_id)

    @property
    def _limits(self) -> Limits:
        config = self.config
        return Limits(
            slots=self._pipeline.slots,
            text_tokens=config.text.block,
            utterance_s=config.max_utterance_s,
            figures=config.text.figures,
        )


def check_machine(device: str, precision: str, threads: int | None) -> None:
    """Raise InvalidRequest where this machine has not got what is asked of it, whatever model."""
    if threads is not None and threads < 1:
        raise InvalidRequest(f"There must be at least 1 thread, not {threads}.")
    pick_precision(precision, pick_device(device), weights=0)


def _heard(recital: Recital, event: JobEvent) -> Iterable[JobEvent]:
    """What a recital makes of an event of one of its utterances or takes."""
    if not isinstance(event, Failed):
        return recital.happened(event)
    late = event.reason is Reason.TIMEOUT
    recital.failed(event.job_id, (JobTimeout if late else InvalidRequest)(event.detail))
    return ()
