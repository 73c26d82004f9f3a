"""Bark in three lines of Python, in the caller's own process.

    bark = Bark.load()
    clip = bark.say("Hello [laughs]", voice="v2/en_speaker_6")
    clip.save("hello.ogg")

Loads everything when told to and keeps it until the object goes. One thread uses it at a time.
"""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from synth import audio
from synth.checkpoints import default_model, open_checkpoint
from synth.errors import InvalidRequest
from synth.model import build_model
from synth.pipeline import Pipeline
from synth.protocol import (
    HistoryPrompt,
    JobEvent,
    Sampling,
    Streaming,
    Submit,
    Timings,
    VoiceInfo,
)
from synth.random_model import NOTICE, is_random, voice_book
from synth.vocab import ModelConfig
from synth.voices import is_npz, load_npz, save_npz, validate

NO_MODEL = (
    "There is no Bark model on this machine: download one with `python -m synth fetch` "
    "(`python -m synth fetch suno/bark-small` for the smaller), or name a folder with --model."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """A spoken text.

    samples: (N,) float32 mono in about [-1, 1] at `sample_rate` Hz, exactly as the model made them.
    history: what it was made of; continues the clip, or becomes a voice. notes: plain sentences.
    """

    samples: npt.NDArray[np.float32]
    sample_rate: int
    history: HistoryPrompt
    seed: int
    timings: Timings
    notes: tuple[str, ...] = ()

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

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._book = voice_book(self.config)
        # What a listener should know about the model.
        self.notice = NOTICE if is_random(self.config) else ""

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
    ) -> "Bark":
        """Load a model onto a device.

        model: "suno/bark", "suno/bark-small" or a folder; None is the best one on this machine.
        device: "auto", "cpu", "cuda" or "mps"; precision: "auto", "fp32" or "bf16".
        threads: for the CPU; None leaves torch's choice, one a core.
        Raises InvalidRequest that says what is missing and how to get it.
        """
        name = model or default_model()
        if name is None:
            raise InvalidRequest(NO_MODEL)
        if threads is not None:
            if threads < 1:
                raise InvalidRequest(f"There must be at least 1 thread, not {threads}.")
            torch.set_num_threads(threads)
        checkpoint = open_checkpoint(name)
        return cls(Pipeline(build_model(checkpoint, device=device, precision=precision)))

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
        on_event: Callable[[JobEvent], None] | None = None,
    ) -> Clip:
        """Speak `text`, one utterance: what exceeds the model's text block is cut, and noted.

        voice: a name as "v2/en_speaker_6", an .npz file, an earlier clip's history, or none.
        seed: the same seed, text, voice and model give the same clip; None draws one.
        sampling: temperatures and limits; its seed counts only when `seed` is None and it is given.
        streaming: when sound comes out; LOW_LATENCY is sooner, and not quite Bark's own.
        on_event: called with the progress of each stage, and each run of samples as it exists.
        Raises InvalidRequest that says what is wrong with text, voice or setting.
        """
        history = None if voice is None else self.voice(voice)
        if seed is None:
            seed = secrets.randbelow(2**31) if sampling is None else sampling.seed
        how = replace(sampling or Sampling(), seed=seed)
        samples, done = self._pipeline.run(
            Submit(job_id="say", text=text, sampling=how, streaming=streaming), history, on_event
        )
        return Clip(
            samples=samples,
            sample_rate=self.config.codec.sample_rate,
            history=done.history,
            seed=seed,
            timings=done.timings,
            notes=done.notes,
        )
