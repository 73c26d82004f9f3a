"""The table that says how well a checkpoint speaks, through the product's own engine."""

import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synth.checkpoints import open_checkpoint
from synth.codec import Codec
from synth.errors import InvalidRequest
from synth.fine import FineJob, FineStage
from synth.linear import int8_limit
from synth.model import build_model
from synth.nano.features import log_mel
from synth.nano.judges import Judges, median_pitch, word_errors
from synth.nano.recipe import COARSE, CODEC, VOICES, Paths
from synth.pipeline import Pipeline
from synth.protocol import Sampling, Submit
from synth.voices import VoiceBook

log = logging.getLogger(__name__)

_HELD_OUT = Path(__file__).parent / "heldout.json"
_TAIL = 1.6  # of the teacher's duration
_TIMED = 12  # clips made once more, in single precision and in 8 bits


@dataclass
class Clip:
    """One sentence as it came out."""

    text: str
    voice: str
    seed: int
    audio: np.ndarray
    codes: np.ndarray  # (8, frames)
    spent_s: float

    @property
    def duration_s(self) -> float:
        return len(self.audio) / CODEC.sample_rate


@dataclass
class Speaker:
    """An exported model and its voices, ready to speak on one core."""

    folder: Path
    sampling: dict[str, float] = field(default_factory=dict)
    precision: str = "fp32"

    def __post_init__(self) -> None:
        checkpoint = open_checkpoint(self.folder / "checkpoint")
        self.model = build_model(checkpoint, device="cpu", precision=self.precision)
        self.pipeline = Pipeline(self.model)
        self.book = VoiceBook(self.model.config, [self.folder])
        self.tables = checkpoint.tensors("codec")

    def say(self, text: str, voice: str | None, seed: int) -> Clip | None:
        """One sentence; None if the model had nothing to say."""
        history = self.book.get(voice) if voice else None
        submit = Submit(
            job_id=f"{seed}",
            text=text,
            sampling=Sampling(seed=seed, **self.sampling),  # type: ignore[arg-type]
        )
        began = time.process_time()
        try:
            audio, done = self.pipeline.run(submit, history)
        except InvalidRequest as error:  # the model ended the clip before it began
            log.warning("%s", error)
            return None
        spent = time.process_time() - began
        return Clip(text, voice or "", seed, audio, np.asarray(done.history.fine_codes), spent)

    def predict_fine(self, codes: np.ndarray) -> np.ndarray:
        """The fine stage's own books for coarse codes (2 or more, frames) -> (8, frames)."""
        config, device = self.model.config, self.model.device
        job = FineJob.of(codes[: COARSE.codebooks], None, Sampling(), 0, config, device)
        stage = FineStage(self.model.fine, config)
        with torch.inference_mode():
            while not job.ended:
                stage.step(job)
        return job.codes()

    def with_two_books(self, clip: Clip) -> np.ndarray:
        """The clip's waveform from its coarse codes alone: the other tables silenced."""
        muted = dict(self.tables)
        for name in self.tables:
            if name.startswith("quantizer") and int(name.split(".")[3]) >= COARSE.codebooks:
                muted[name] = torch.zeros_like(self.tables[name])
        codec = Codec(self.model.config, muted, device=torch.device("cpu"))
        return codec.decode(clip.codes)


# Name, figure, floor, goal and how it is written.
_ROWS = (
    ("WER, Whisper tiny.en, easy and chat", "wer_easy_whisper", 0.12, 0.07, "{:.1%}"),
    ("WER, PocketSphinx, easy and chat", "wer_easy_sphinx", None, None, "{:.1%}"),
    ("WER, Whisper tiny.en, rarer words", "wer_rare_whisper", 0.22, 0.12, "{:.1%}"),
    ("WER, PocketSphinx, rarer words", "wer_rare_sphinx", None, None, "{:.1%}"),
    ("DistillMOS", "mos", 2.0, 3.2, "{:.2f}"),
    ("DistillMOS, two codebooks of eight", "mos_two_books", None, None, "{:.2f}"),
    ("clips of more than 1.6 x the teacher's duration", "tails", 0.03, 0.0, "{:.1%}"),
    ("CPU-s a second of sound, one core, fp32", "rtf", 0.5, 0.25, "{:.2f}"),
    ("CPU-s a second of sound, one core, int8", "rtf_int8", 0.5, 0.25, "{:.2f}"),
    ("the right voice of four, by speaker encoder", "speaker_right", 0.9, 1.0, "{:.0%}"),
    ("median F0 within 1.5 semitones of the voice's", "pitch_right", 0.9, 1.0, "{:.0%}"),
    ("size, MB", "megabytes", 20.0, 12.0, "{:.1f}"),
)


def table(figures: dict[str, Any]) -> str:
    """What `evaluate` returned, as a Markdown table beside what was aimed for."""
    lines = ["| | measured | floor | goal |", "|---|---|---|---|"]
    for name, key, floor, goal, how in _ROWS:
        shown = ["" if x is None else how.format(x) for x in (figures.get(key), floor, goal)]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def held_out(paths: Paths) -> dict[str, list[str]]:
    """Sentences that training never sees: "easy" and "rare".

    The run's own where it has written a corpus, else those of the model in the package.
    """
    file = paths.heldout if paths.heldout.exists() else _HELD_OUT
    return json.loads(file.read_text(encoding="utf-8"))


def _mel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference of log-mel spectra in dB over the frames both have."""
    hop = CODEC.hop
    n = min(len(a), len(b)) // hop * hop
    x, y = (log_mel(torch.from_numpy(np.ascontiguousarray(w[:n]))) for w in (a, b))
    return float((x - y).square().mean().sqrt()) * 8.686


def evaluate(
    paths: Paths,
    folder: Path,
    *,
    seeds: int = 3,
    easy: int = 40,
    rare: int = 80,
    sampling: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Speak the held-out sentences, ask the judges, return and log every figure.

    Whisper hears each sentence once a seed, PocketSphinx with the first seed. Of a model that says
    nothing there are word errors and a size.
    """
    from synth.nano.teacher import Teacher

    held = held_out(paths)
    speaker, judges, teacher = Speaker(folder, sampling or {}), Judges(), Teacher()
    out: dict[str, Any] = {}
    clips: list[Clip] = []
    tails = 0
    for name, texts in (("easy", held["easy"][:easy]), ("rare", held["rare"][:rare])):
        said: list[str] = []
        heard: dict[str, list[str]] = {"whisper": [], "sphinx": []}
        for seed in range(seeds):
            for i, text in enumerate(texts):
                voice = VOICES[(i + seed) % len(VOICES)]
                clip = speaker.say(text, voice.name, seed)
                said.append(text)
                heard["whisper"].append(judges.whisper(clip.audio) if clip else "")
                if seed == 0:
                    heard["sphinx"].append(judges.sphinx(clip.audio) if clip else "")
                if clip is None:
                    continue
                clips.append(clip)
                true = teacher.speak(text, voice, seed)
                tails += true is not None and len(clip.audio) > _TAIL * len(true.audio)
                log.debug("%s => %s", text, heard["whisper"][-1])
        out[f"wer_{name}_whisper"] = word_errors(said, heard["whisper"])
        out[f"wer_{name}_sphinx"] = word_errors(texts, heard["sphinx"])
        out[f"{name}_heard"] = list(zip(said, heard["whisper"], strict=True))[:12]
        log.info("%s: %s", name, {k: v for k, v in out.items() if k.startswith("wer")})
    if clips:
        some = clips[:: max(1, len(clips) // 40)]
        two = [speaker.with_two_books(clip) for clip in some]
        out["mos"] = float(np.mean([judges.rating(clip.audio) for clip in some]))
        out["mos_two_books"] = float(np.mean([judges.rating(audio) for audio in two]))
        out["tails"] = tails / len(clips)
        out |= _times(speaker, some[:_TIMED])
        out |= _voices(held["easy"][:4], judges, teacher, clips[:40])
    out["megabytes"] = sum(f.stat().st_size for f in folder.glob("checkpoint/*")) / 1e6
    return out


def _times(speaker: Speaker, clips: list[Clip]) -> dict[str, float]:
    """CPU seconds a second of sound of the same sentences in each precision, turn about.

    Turn about, because other work on the machine slows both.
    """
    speakers = {"rtf": speaker}
    if int8_limit():
        speakers["rtf_int8"] = Speaker(speaker.folder, speaker.sampling, "int8")
        speakers["rtf_int8"].say(clips[0].text, clips[0].voice, 0)  # the first one compiles
    made: dict[str, list[Clip]] = {name: [] for name in speakers}
    for clip in clips:
        for name, one in speakers.items():
            again = one.say(clip.text, clip.voice, clip.seed)
            made[name] += [again] if again else []
    return {name: _rtf(spoken) for name, spoken in made.items() if spoken}


def _rtf(clips: list[Clip]) -> float:
    return sum(c.spent_s for c in clips) / sum(c.duration_s for c in clips)


def _voices(texts: list[str], judges: Judges, teacher: Any, clips: list[Clip]) -> dict[str, float]:
    """Whether prompts are followed: pitch within 1.5 semitones, the right speaker of four.

    The teacher reads `texts` in each voice to be compared with; `clips` are judged, at least one.
    """
    pitch: dict[str, float] = {}
    identity: list[np.ndarray] = []
    for voice in VOICES:
        lines = [teacher.speak(text, voice, 7) for text in texts]
        spoken = np.concatenate([line.audio for line in lines if line is not None])
        pitch[voice.name] = median_pitch(spoken)
        identity.append(judges.speaker(spoken))
    right = near = 0
    for clip in clips:
        best = int(np.argmax(np.stack(identity) @ judges.speaker(clip.audio)))
        right += VOICES[best].name == clip.voice
        f0 = median_pitch(clip.audio)
        near += f0 > 0 and abs(12 * np.log2(f0 / pitch[clip.voice])) <= 1.5
    return {"speaker_right": right / len(clips), "pitch_right": near / len(clips)}


def copy_synthesis(paths: Paths, folder: Path, count: int = 12) -> dict[str, float]:
    """Codec and fine stage alone, from the teacher's codes, against the teacher's sound.

    "eight" are the true books, "predicted" has books 2 to 7 from the fine stage, "two" none: the
    fine stage earns its place by how much nearer "predicted" is than "two".
    """
    from synth.nano.codebooks import Codebooks
    from synth.nano.teacher import Teacher

    held = held_out(paths)["easy"][:count]
    speaker, judges, teacher = Speaker(folder), Judges(), Teacher()
    books = Codebooks.load(paths.codebooks)
    rows: dict[str, list[float]] = {}
    said: dict[str, list[str]] = {}
    for i, text in enumerate(held):
        true = teacher.speak(text, VOICES[i % len(VOICES)], i)
        if true is None:
            continue
        codes = books.encode(books.features(true.audio, true.f0)).numpy()
        clip = Clip(text, "", i, true.audio, codes, 0.0)
        made = {
            "teacher": true.audio,
            "eight": speaker.model.codec.decode(codes),
            "predicted": speaker.model.codec.decode(speaker.predict_fine(codes)),
            "two": speaker.with_two_books(clip),
        }
        for name, audio in made.items():
            rows.setdefault(f"mos_{name}", []).append(judges.rating(audio))
            rows.setdefault(f"mel_db_{name}", []).append(_mel_distance(audio, true.audio))
            said.setdefault(name, []).append(judges.whisper(audio))
    out = {name: float(np.mean(values)) for name, values in rows.items()}
    return out | {f"wer_{name}": word_errors(held, heard) for name, heard in said.items()}
