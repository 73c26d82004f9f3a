"""The codec's decoder recorded and replayed: a CUDA graph for each of a few numbers of frames.

Decoding a run of frames is hundreds of small kernels, most of them the LSTM's, a few a frame, and
launching them takes the host five times as long as a card takes to run them (an H200, 240 frames:
16.6 and 3.1 ms). A graph has one place for what a stream keeps of its past, so that is carried
there and back. Knows nothing of jobs.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from synth.codec import Codec
from synth.codec_stream import Layer, streaming
from synth.step_graphs import Record, StepGraphs

# Frames of a graph: those of most runs, and of a clip's end, which is filled up.
RUNS = (60, 240)


class CodecGraphs:
    """The recorded runs of one codec, for all its streams: `codec_stream.Runs`.

    record: None for CUDA graphs. Where recording fails, `run_for` says 0 from then on.
    """

    def __init__(self, codec: Codec, record: Record | None = None) -> None:
        self._codec = codec
        self._layers = streaming(codec.decoder)
        self._codes = {
            frames: torch.zeros(codec.codebooks, frames, dtype=torch.int64, device=codec.device)
            for frames in RUNS
        }
        self._record = record
        self._past: list[Tensor] = []
        self._graphs: StepGraphs | None = None  # until a stream shows what one keeps

    def run_for(self, frames: int, *, last: bool) -> int:
        if not frames or (self._graphs is not None and not self._graphs.records):
            return 0
        if last:
            return next((run for run in RUNS if run >= frames), RUNS[-1])
        return next((run for run in reversed(RUNS) if run <= frames), 0)

    def feed(self, layers: Layer, fine_codes: npt.NDArray[np.integer], run: int) -> Tensor:
        past = layers.past()
        if self._graphs is None:
            self._past = [tensor.clone() for tensor in past]
            self._graphs = StepGraphs(self._past, self._record, what="runs of the codec")
        _carry(past, self._past)
        frames = fine_codes.shape[1]
        self._codes[run][:, :frames] = torch.from_numpy(np.asarray(fine_codes, dtype=np.int64))
        (samples,) = self._graphs.step(run, lambda: self._body(run))
        _carry(self._past, past)
        return samples[..., : samples.shape[-1] // run * frames]

    def _body(self, run: int) -> tuple[Tensor, ...]:
        self._layers.resume(iter(self._past))
        samples = self._layers.feed(self._codec.entries(self._codes[run]), last=False)
        _carry(self._layers.past(), self._past)
        return (samples,)


def _carry(tensors: list[Tensor], to: list[Tensor]) -> None:
    """Copy, in as few kernels as can be; some are empty."""
    pairs = [(a, b) for a, b in zip(tensors, to, strict=True) if a.numel()]
    torch._foreach_copy_([b for _, b in pairs], [a for a, _ in pairs])  # pyright: ignore[reportPrivateImportUsage]
