"""How far low latency is from exact: the same clips, the fine stage run both ways.

Semantic and coarse tokens do not differ between the two, so each clip's are made once. Compared are
the codes that the fine stage adds, and log-mel spectra of the sound, greedy and with the same
noise. What the clip differs by from itself with other noise is the scale to read those by. Part of
`python -m synth bench --quality`; runs on any checkpoint, and only a trained one tells much.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from synth.fine import FineJob, FineStage
from synth.fine_windows import Lag
from synth.mel import mel_filters
from synth.model import Model
from synth.pipeline import Pipeline
from synth.protocol import HistoryPrompt, Sampling, Streaming, Submit
from synth.vocab import ModelConfig

CLIPS = (
    (1, "Hello there, how are you today?"),
    (2, "The train to the coast leaves at half past seven, and it is never on time."),
    (3, "Well [laughs] I did not see that coming!"),
)

_BANDS = 80
_QUIET = 1e-4  # amplitude that counts as silence: -80 dB

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Difference:
    """One clip made two ways.

    books: for each codebook the fine stage adds, the share of frames with the same code.
    log_mel_db: mean absolute difference of the log-mel spectra.
    """

    books: tuple[float, ...]
    log_mel_db: float


@dataclass(frozen=True)
class Row:
    """One clip: low latency against exact, greedy and with the same noise; exact against itself
    with other noise.
    """

    seed: int
    text: str
    audio_s: float
    greedy: Difference
    same_noise: Difference
    other_noise: Difference


def measure(
    model: Model,
    clips: Sequence[tuple[int, str]],
    history: HistoryPrompt | None = None,
    *,
    seconds: float | None = None,
    lag: Lag | None = None,
) -> Iterator[Row]:
    """Make and compare one clip at a time.

    clips: seed and text of each. seconds: the length of every clip, for a model that does not end
    by itself; None leaves it to the model. lag: of low latency; None is the one in use.
    Raises InvalidRequest for a text that cannot be spoken.
    """
    pipeline = Pipeline(model)
    config = model.config
    for seed, text in clips:
        sampling = Sampling(seed=seed, max_seconds=seconds, early_stop=seconds is None)
        _, done = pipeline.run(Submit(job_id="measure", text=text, sampling=sampling), history)
        coarse = np.asarray(done.history.coarse_codes, dtype=np.int64)
        greedy = replace(sampling, fine_temperature=0.0)

        def codes(
            how: Sampling, streaming: Streaming, coarse: Codes = coarse
        ) -> npt.NDArray[np.int64]:
            return fine_codes(model, coarse, history, how, streaming, lag=lag)

        exact = codes(sampling, Streaming.EXACT)
        yield Row(
            seed=seed,
            text=text,
            audio_s=coarse.shape[1] / config.codec.frame_rate,
            greedy=compare(
                model, codes(greedy, Streaming.EXACT), codes(greedy, Streaming.LOW_LATENCY)
            ),
            same_noise=compare(model, exact, codes(sampling, Streaming.LOW_LATENCY)),
            other_noise=compare(
                model, exact, codes(replace(sampling, seed=seed + 1), Streaming.EXACT)
            ),
        )


def fine_codes(
    model: Model,
    coarse_codes: Codes,
    history: HistoryPrompt | None,
    sampling: Sampling,
    streaming: Streaming,
    *,
    lag: Lag | None = None,
) -> Codes:
    """(coarse books, F) codes -> (codebooks, F), by one way or the other."""
    job = FineJob(
        history,
        sampling,
        0,
        model.config,
        model.device,
        most_frames=coarse_codes.shape[1],
        streaming=streaming,
        lag=lag,
    )
    job.extend(coarse_codes)
    job.complete = True
    stage = FineStage(model.fine, model.config)
    with torch.inference_mode():
        while not job.ended:
            stage.step(job)
    return job.codes()


def compare(model: Model, one: Codes, other: Codes) -> Difference:
    """Two (codebooks, F) versions of one clip."""
    given = model.config.coarse.codebooks
    mels = [log_mel(model.codec.decode(codes), model.config) for codes in (one, other)]
    return Difference(
        books=tuple((one[given:] == other[given:]).mean(axis=1).tolist()),
        log_mel_db=float(np.abs(mels[0] - mels[1]).mean()),
    )


def log_mel(samples: npt.NDArray[np.float32], config: ModelConfig) -> npt.NDArray[np.float32]:
    """(N,) samples -> (frames, 80) mel amplitudes in dB, a frame every 10 ms, at least -80."""
    rate = config.codec.sample_rate
    size, hop = round(0.04 * rate), round(0.01 * rate)
    audio = torch.nn.functional.pad(torch.from_numpy(samples), (size // 2, size // 2))
    spectrum = torch.fft.rfft(audio.unfold(0, size, hop) * torch.hann_window(size)).abs()
    spectrum = spectrum / (size / 4)  # a full-scale sine comes out as 1
    mel = spectrum @ mel_filters(_BANDS, size, rate).T
    return (20 * mel.clamp(min=_QUIET).log10()).numpy()


def table(rows: Sequence[Row], config: ModelConfig) -> str:
    """A Markdown table, the mean of all clips last."""
    books = range(config.coarse.codebooks, config.fine.codebooks)
    head = ["seed", "s", "", *(f"book {book}" for book in books), "log-mel dB"]
    lines = [head, ["---:", "---:", "---", *["---:"] * (len(head) - 3)]]
    kinds = {
        "greedy": [row.greedy for row in rows],
        "same noise": [row.same_noise for row in rows],
        "exact, other noise": [row.other_noise for row in rows],
    }
    for name, differences in kinds.items():
        for row, difference in zip(rows, differences, strict=True):
            lines.append([str(row.seed), f"{row.audio_s:.1f}", name, *_cells(difference)])
        lines.append(["all", "", name, *_cells(_mean(differences))])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(difference: Difference) -> list[str]:
    return [*(f"{share:.1%}" for share in difference.books), f"{difference.log_mel_db:.2f}"]


def _mean(differences: Sequence[Difference]) -> Difference:
    books = np.mean([difference.books for difference in differences], axis=0)
    return Difference(
        tuple(books.tolist()), float(np.mean([one.log_mel_db for one in differences]))
    )
