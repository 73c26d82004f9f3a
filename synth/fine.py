"""The first codebooks to all of them, a window of frames at a time, every position at once.

A job is a buffer of codes and forward passes over it; one `step` is one forward pass: one codebook
of one window, as `fine_windows` says. Knows nothing of samples.

Source: suno-ai/bark@f4f32d4 bark/generation.py:702 (generate_fine) and bark/model_fine.py:98.
Differs: only the rows that are sampled go through the head.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from synth.fine_graphs import FineGraphs
from synth.fine_windows import (
    ExactWindows,
    Lag,
    LowLatencyWindows,
    Turn,
    Window,
    Windows,
    default_lag,
)
from synth.fused_forward import FusedForward
from synth.helpers import alone
from synth.protocol import HistoryPrompt, Sampling, Streaming
from synth.sampling import NoiseStage, draw, noise_key, noise_of
from synth.step_graphs import Record
from synth.transformer import Transformer, attend_all
from synth.vocab import ModelConfig

_NOISE_ROWS = 64  # rows sampled at a time: their noise fits a processor's cache
_SUMMED_ROWS = 128  # whose embeddings are in memory beside each other: of all it would be 50 MB


class FineJob:
    """One job's buffer: (frames, codebooks) int64 on the device, history first, padding last.

    `extend` as coarse codes come, `complete` when there are no more; `step` of the stage while
    `ready`; the codes of the first `final` frames can be had at any time.
    """

    def __init__(
        self,
        history: HistoryPrompt | None,
        sampling: Sampling,
        utterance: int,
        config: ModelConfig,
        device: torch.device,
        *,
        most_frames: int,
        streaming: Streaming = Streaming.EXACT,
        lag: Lag | None = None,
    ) -> None:
        """most_frames: the clip can not have more. lag: for low latency; None is the default."""
        numbers = config.fine
        past = np.zeros((numbers.codebooks, 0), dtype=np.int64)
        if history is not None:
            past = np.asarray(history.fine_codes, dtype=np.int64)[:, -numbers.hop :]
        self._history, self._most = past.shape[1], most_frames
        over = max(0, self._history + most_frames - numbers.window)
        size = numbers.window + -(-over // numbers.hop) * numbers.hop
        buffer = np.full((size, numbers.codebooks), numbers.mask, dtype=np.int64)
        buffer[: self._history] = past.T
        self.buffer = torch.from_numpy(buffer).to(device)
        self._mask = numbers.mask
        self._given = config.coarse.codebooks
        self._books = range(self._given, numbers.codebooks)
        self._coarse = np.zeros((most_frames, self._given), dtype=np.int64)
        self._placed = 0  # frames whose coarse codes are in the buffer
        self._windows: Windows = (
            ExactWindows(self._history, config)
            if streaming is Streaming.EXACT
            else LowLatencyWindows(self._history, config, lag or default_lag(config))
        )
        self._turn: Turn | None = None
        temperature = sampling.fine_temperature
        self.temperature = config.sampling.fine_temperature if temperature is None else temperature
        self._key = noise_key(sampling.seed, utterance, NoiseStage.FINE)
        self.frames = 0
        self.complete = False
        self.done = 0  # forward passes

    @classmethod
    def of(
        cls,
        coarse_codes: npt.NDArray[np.integer],
        history: HistoryPrompt | None,
        sampling: Sampling,
        utterance: int,
        config: ModelConfig,
        device: torch.device,
    ) -> "FineJob":
        """A whole clip at once. coarse_codes: (coarse books, F) int in [0, codebook_size)."""
        frames = coarse_codes.shape[1]
        job = cls(history, sampling, utterance, config, device, most_frames=frames)
        job.extend(coarse_codes)
        job.complete = True
        return job

    def extend(self, coarse_codes: npt.NDArray[np.integer]) -> None:
        """The next (coarse books, f) codes."""
        end = self.frames + coarse_codes.shape[1]
        self._coarse[self.frames : end] = coarse_codes.T
        self.frames = end

    @property
    def ready(self) -> bool:
        """Whether a forward pass can be made with the codes there are."""
        return self._turn is not None or self._next_turn() is not None

    @property
    def underway(self) -> bool:
        """Whether some codebooks of a window have been predicted and others not."""
        return self._turn is not None

    def _next_turn(self) -> Turn | None:
        return self._windows.next(self.frames, complete=self.complete)

    @property
    def final(self) -> int:
        """How many frames will not change any more."""
        return self._windows.final(self.frames, complete=self.complete)

    @property
    def ended(self) -> bool:
        """Whether all codes of the whole clip are final."""
        return self.complete and self._turn is None and self.final == self.frames

    @property
    def fraction(self) -> float:
        """How much is done, in [0, 1], while the length is unknown of the longest clip."""
        if self.ended:
            return 1.0
        final = self.final
        if self._turn is not None:
            final += (self._turn.final - final) * (self.done % len(self._books)) / len(self._books)
        return final / (self.frames if self.complete else self._most)

    def begin(self) -> tuple[int, Window, int]:
        """Window number, window and book of the next forward pass; a new window's codes are put in
        place.
        """
        turn = self._turn
        if turn is None:
            turn = self._turn = self._next_turn()
            assert turn is not None, "nothing is ready"
            fresh = torch.from_numpy(self._coarse[self._placed : turn.known])
            at = self._history + self._placed
            self.buffer[at : at + len(fresh), : self._given] = fresh.to(self.buffer.device)
            self._placed = turn.known
            if turn.again:
                self.buffer[turn.window.start + turn.window.fill :, self._given :] = self._mask
        return turn.number, turn.window, self._books[self.done % len(self._books)]

    def end(self) -> None:
        """That forward pass has been made."""
        assert self._turn is not None
        self.done += 1
        if self.done % len(self._books) == 0:
            self._windows.took(self._turn)
            self._turn = None

    def key(self, number: int, book: int) -> int:
        """The noise key of a window and book; the row is the frame within the window."""
        return noise_key(self._key, number, book)

    def codes(self, first: int = 0, end: int | None = None) -> npt.NDArray[np.int64]:
        """(codebooks, end - first): frames as they stand now, without history and padding."""
        start = self._history + first
        stop = self._history + (self.frames if end is None else end)
        return self.buffer[start:stop].T.cpu().numpy()


class FineStage:
    """The fine transformer; it has no slots, for a window's positions fill any machine."""

    def __init__(self, transformer: Transformer, config: ModelConfig) -> None:
        self._transformer = transformer
        self._config = config
        size = config.codec.codebook_size
        precision = transformer.precision
        self._heads = tuple(precision.linear(head[:size]) for head in transformer.heads)
        dtype = precision.dtype
        self._float = torch.float64 if dtype == torch.float64 else torch.float32
        self._forward = FusedForward.of(transformer)
        self._exponential = noise_of(self._float, compiled=self._forward is not None)
        self._graphs: FineGraphs | None = None

    def record_passes(self, record: Record | None = None) -> None:
        """From now on, record forward passes and replay them. record: None for CUDA graphs."""
        numbers, wpe = self._config.fine, self._transformer.wpe
        self._graphs = FineGraphs(
            lambda seen, book, attend: self._transformer(self._embedded(seen, book), attend),
            window=numbers.window,
            codebooks=numbers.codebooks,
            dtype=wpe.dtype,
            device=wpe.device,
            record=record,
        )

    def step(self, job: FineJob) -> None:
        """Predict one codebook of one window and write it into the job's buffer."""
        number, window, book = job.begin()
        seen = job.buffer[window.start : window.start + window.size]  # a view
        logits = self.logits(seen, window.fill, book)
        if job.temperature <= 0:
            seen[window.fill :, book] = logits.argmax(-1)
        else:
            with alone():
                picked = self._sample(job, logits, number, window, book)
            seen[window.fill :, book] = picked
        job.end()

    def logits(self, seen: Tensor, fill: int, book: int) -> Tensor:
        """seen: (frames, codebooks) int64 -> logits of `book`, (frames - fill, codebook_size)."""
        if self._graphs is not None and self._graphs.fits(len(seen)):
            x = self._graphs(seen, book)
        elif self._forward is not None:
            x = self._forward(self._embedded(seen, book), needed=fill)
        else:
            x = self._transformer(self._embedded(seen, book), attend_all)
        return self._heads[book - 1](x[fill:]).to(self._float)

    def _embedded(self, seen: Tensor, book: int) -> Tensor:
        """(frames, codebooks) int64 -> (frames, C): what is put in to predict `book`."""
        # Summed up to and INCLUDING the book to predict: there stands the mask, or an earlier
        # window's prediction. In one sum, positions last: the original's order of rounding, so that
        # two codes as likely as each other, of which a window's 6,144 rows have some now and then,
        # come out as they do there.
        wtes = self._transformer.wtes[: book + 1]
        x = torch.empty_like(self._transformer.wpe[: len(seen)])
        rows = _SUMMED_ROWS if x.device.type == "cpu" else len(seen)
        for some, out in zip(seen.split(rows), x.split(rows), strict=True):
            known = [wte[codes] for wte, codes in zip(wtes, some.T, strict=False)]
            torch.sum(torch.stack(known, dim=-1), -1, out=out)
        x += self._transformer.wpe[: len(seen)]
        return x

    def _sample(
        self, job: FineJob, logits: Tensor, number: int, window: Window, book: int
    ) -> Tensor:
        """logits: (rows, codebook_size), row 0 being the window's frame `fill` -> (rows,)."""
        (count, size), device = logits.shape, logits.device
        first = torch.full((count,), job.key(number, book), dtype=torch.int64, device=device)
        frames = torch.arange(window.fill, window.fill + count, device=device)
        temperature = torch.full((count,), job.temperature, dtype=logits.dtype, device=device)
        chunk = _NOISE_ROWS if device.type == "cpu" else count
        numbers = (logits, temperature, first, frames)
        picked = [
            draw(z, t, self._exponential(k, frame, size), greedy=False)[0]
            for z, t, k, frame in zip(*(x.split(chunk) for x in numbers), strict=True)
        ]
        return torch.cat(picked)
