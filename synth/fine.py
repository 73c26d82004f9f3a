"""The first codebooks to all of them, a window of frames at a time, every position at once.

A job is a buffer of codes and a number of forward passes over it; one `step` is one forward pass:
one codebook of one window. Knows nothing of samples.

Source: suno-ai/bark@f4f32d4 bark/generation.py:702 (generate_fine) and bark/model_fine.py:98.
Differs: only the rows that are sampled go through the head.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from synth.protocol import HistoryPrompt, Sampling
from synth.sampling import NoiseStage, draw, exponential, fold, noise_key
from synth.transformer import Linear, Transformer, attend_all
from synth.vocab import ModelConfig

_NOISE_ROWS = 64  # rows sampled at a time: their noise fits a processor's cache


@dataclass(frozen=True)
class Window:
    """Frames [start, start + fine.window) are seen, those from start + fill on are predicted."""

    start: int
    fill: int


def plan_windows(frames: int, history: int, config: ModelConfig) -> tuple[Window, ...]:
    """The windows over `history` frames, then `frames` new ones, then padding if short.

    The last one moves back to end with the clip and predicts up to a hop of frames again: the
    result depends on the whole utterance.
    """
    numbers = config.fine
    padded = max(history + frames, numbers.window)
    loops = max(0, int(np.ceil((frames - (numbers.window - history)) / numbers.hop))) + 1
    windows: list[Window] = []
    for n in range(loops):
        start = min(n * numbers.hop, padded - numbers.window)
        fill = min(history + n * numbers.hop, padded - numbers.hop)
        windows.append(Window(start, fill - start))
    return tuple(windows)


class FineJob:
    """One job's buffer: (frames, codebooks) int64 on the device, history first, padding last."""

    def __init__(
        self,
        coarse_codes: npt.NDArray[np.integer],
        history: HistoryPrompt | None,
        sampling: Sampling,
        utterance: int,
        config: ModelConfig,
        device: torch.device,
    ) -> None:
        """coarse_codes: (coarse books, F) int in [0, codebook_size)."""
        numbers = config.fine
        self._config = config
        past = np.zeros((numbers.codebooks, 0), dtype=np.int64)
        if history is not None:
            past = np.asarray(history.fine_codes, dtype=np.int64)[:, -numbers.hop :]
        self._history, self.frames = past.shape[1], coarse_codes.shape[1]
        self._windows = plan_windows(self.frames, self._history, config)
        size = max(self._history + self.frames, numbers.window)
        buffer = np.full((numbers.codebooks, size), numbers.mask, dtype=np.int64)
        buffer[:, : self._history] = past
        given, end = config.coarse.codebooks, self._history + self.frames
        buffer[:given, self._history : end] = coarse_codes
        self.buffer = torch.from_numpy(np.ascontiguousarray(buffer.T)).to(device)
        self._books = range(given, numbers.codebooks)
        temperature = sampling.fine_temperature
        self.temperature = config.sampling.fine_temperature if temperature is None else temperature
        self._key = noise_key(sampling.seed, utterance, NoiseStage.FINE)
        self.done = 0

    @property
    def total(self) -> int:
        """Forward passes in all."""
        return len(self._windows) * len(self._books)

    @property
    def next(self) -> tuple[int, Window, int]:
        """Window number, window and book of the next forward pass."""
        number, book = divmod(self.done, len(self._books))
        return number, self._windows[number], self._books[book]

    def key(self, number: int, book: int) -> int:
        """The noise key of a window and book; the row is the frame within the window."""
        return noise_key(self._key, number, book)

    def codes(self, first: int = 0, end: int | None = None) -> npt.NDArray[np.int64]:
        """(codebooks, end - first): frames as they stand now, without history and padding."""
        end = self.frames if end is None else end
        return self.buffer[self._history + first : self._history + end].T.cpu().numpy()


class FineStage:
    """The fine transformer; it has no slots, for a window's positions fill any machine."""

    def __init__(self, transformer: Transformer, config: ModelConfig) -> None:
        self._transformer = transformer
        self._config = config
        size = config.codec.codebook_size
        self._heads = tuple(Linear(head[:size]) for head in transformer.heads)
        dtype = transformer.wpe.dtype
        self._float = torch.float64 if dtype == torch.float64 else torch.float32

    def step(self, job: FineJob) -> None:
        """Predict one codebook of one window and write it into the job's buffer."""
        number, window, book = job.next
        seen = job.buffer[window.start : window.start + self._config.fine.window]  # a view
        logits = self.logits(seen, window.fill, book)
        if job.temperature <= 0:
            seen[window.fill :, book] = logits.argmax(-1)
        else:
            seen[window.fill :, book] = self._sample(job, logits, number, window, book)
        job.done += 1

    def logits(self, seen: Tensor, fill: int, book: int) -> Tensor:
        """seen: (frames, codebooks) int64 -> logits of `book`, (frames - fill, codebook_size)."""
        # Summed up to and INCLUDING the book to predict: there stands the mask, or an earlier
        # window's prediction. In one sum, positions last: the original's order of rounding, so that
        # two codes as likely as each other, of which a window's 6,144 rows have some now and then,
        # come out as they do there.
        wtes = self._transformer.wtes[: book + 1]
        known = [wte[codes] for wte, codes in zip(wtes, seen.T, strict=False)]
        x = torch.stack(known, dim=-1).sum(-1) + self._transformer.wpe[: len(seen)]
        x = self._transformer(x, attend_all)[fill:]
        return self._heads[book - 1](x).to(self._float)

    def _sample(
        self, job: FineJob, logits: Tensor, number: int, window: Window, book: int
    ) -> Tensor:
        """logits: (rows, codebook_size), row 0 being the window's frame `fill` -> (rows,)."""
        count, size = logits.shape
        first = torch.full((count,), job.key(number, book), dtype=torch.int64)
        frames = torch.arange(window.fill, window.fill + count)
        keys = fold(first, frames).to(logits.device)
        temperature = torch.full((count,), job.temperature, device=logits.device).to(logits)
        chunk = _NOISE_ROWS if logits.device.type == "cpu" else count
        picked = [
            draw(z, t, exponential(k, size, logits.dtype))[0]
            for z, t, k in zip(
                logits.split(chunk), temperature.split(chunk), keys.split(chunk), strict=True
            )
        ]
        return torch.cat(picked)
