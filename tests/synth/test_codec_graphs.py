"""Recorded runs of the codec: what plain ones make, and what a stream keeps is its own."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from synth.codec import Codec
from synth.codec_graphs import RUNS, CodecGraphs
from synth.codec_stream import CodecStream
from synth.step_graphs import Body, Recorded
from synth.vocab import ModelConfig
from tests.synth.tape import Recorder
from tests.synth.test_codec_stream import REAL_SIZE, codec_of, random_codes
from tests.synth.tiny import NARROW, ODD


def _heard(codec: Codec, frames: int, lengths: Sequence[int], graphs: CodecGraphs) -> None:
    """A clip in pieces, the last one what is left, is the whole decode's."""
    codes, stream = random_codes_of(codec, frames), CodecStream(codec, graphs)
    made, first = [], 0
    for length in lengths:
        made.append(stream.push(codes[:, first : first + length]))
        first += length
    made.append(stream.push(codes[:, first:], last=True))
    assert np.abs(np.concatenate(made) - codec.decode(codes)).max() < 1e-5
    with pytest.raises(RuntimeError, match="finished"):
        stream.finish()


def random_codes_of(codec: Codec, frames: int) -> np.ndarray:
    size = len(codec._books[0])
    return np.random.default_rng(frames).integers(size, size=(codec.codebooks, frames))


@pytest.mark.parametrize("config", [NARROW, ODD], ids=lambda config: config.name)
def test_replayed_runs_are_the_whole_decode(config: ModelConfig) -> None:
    codec, recorder = codec_of(config), Recorder()
    graphs = CodecGraphs(codec, recorder)
    for frames, lengths in (
        (15 + 240 + 15, [15, 240]),  # as a clip comes: its end is filled up
        (9, [3, 5]),
        (400, [8, 70, 241]),  # pieces that are no run of their own
        (75, [15]),
        (60, [15, 45]),
        (20, [20]),  # nothing is left
    ):
        _heard(codec, frames, lengths, graphs)
    assert graphs._graphs is not None and graphs._graphs.records
    assert recorder.made == len(RUNS)


def test_streams_take_turns() -> None:
    codec = codec_of(NARROW)
    graphs = CodecGraphs(codec, Recorder())
    clips = [random_codes(NARROW, 200 + n) for n in range(3)]
    streams = [CodecStream(codec, graphs) for _ in clips]
    made: list[list[np.ndarray]] = [[] for _ in clips]
    for first, end in ((0, 15), (15, 75), (75, 140), (140, None)):
        for codes, stream, heard in zip(clips, streams, made, strict=True):
            heard.append(stream.push(codes[:, first:end], last=end is None))
    for codes, heard in zip(clips, made, strict=True):
        assert np.abs(np.concatenate(heard) - codec.decode(codes)).max() < 1e-5


def test_where_recording_fails_the_sound_is_whole(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(body: Body, state: Sequence[Tensor]) -> Recorded:
        raise RuntimeError("not permitted")

    codec = codec_of(NARROW)
    graphs = CodecGraphs(codec, refuse)
    _heard(codec, 300, [15, 130], graphs)
    assert [record.message for record in caplog.records] == [
        "runs of the codec cannot be recorded (not permitted): made without CUDA graphs"
    ]
    assert graphs.run_for(240, last=False) == 0


@pytest.mark.parametrize(
    ("frames", "last", "run"),
    [(0, True, 0), (59, False, 0), (60, False, 60), (239, False, 60), (500, False, 240)]
    + [(1, True, 60), (60, True, 60), (61, True, 240), (500, True, 240)],
)
def test_which_run_is_taken(frames: int, last: bool, run: int) -> None:
    assert CodecGraphs(codec_of(NARROW), Recorder()).run_for(frames, last=last) == run


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    from tests.synth.test_codec_stream import random_checkpoint

    tensors = random_checkpoint(REAL_SIZE).tensors("codec")
    codec = Codec(REAL_SIZE, tensors, device=torch.device("cuda"))
    graphs = CodecGraphs(codec)
    for frames, lengths in ((750, [15, 240, 240, 240]), (300, [17, 34, 68, 136]), (40, [15])):
        _heard(codec, frames, lengths, graphs)
    assert graphs._graphs is not None and graphs._graphs.records
