"""Codes pushed in pieces against the whole decode, whose equal they must be at every length."""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synth.codec import Codec
from synth.codec_stream import CodecStream, streaming
from synth.nano.recipe import NANO
from synth.random_model import random_checkpoint
from synth.vocab import BARK, CodecNumbers, ModelConfig
from tests.synth.tiny import NARROW, ODD, tiny_model

Codes = npt.NDArray[np.int64]

# The real codecs' sizes; only the codec's numbers count here, so the rest stays tiny.
REAL_SIZE = replace(NARROW, name="bark-codec", codec=BARK.codec)
NANO_SIZE = replace(NARROW, name="nano-codec", codec=NANO.codec)


@cache
def codec_of(config: ModelConfig, precision: str = "fp32") -> Codec:
    return tiny_model(config, precision).codec


def random_codes(config: ModelConfig, frames: int) -> Codes:
    size = (config.fine.codebooks, frames)
    return np.random.default_rng(frames).integers(config.codec.codebook_size, size=size)


def pieces(codes: Codes, lengths: Iterable[int]) -> Iterable[Codes]:
    """`codes` cut into runs of the given lengths, then what is left."""
    at = 0
    for length in lengths:
        yield codes[:, at : at + length]
        at += length
    yield codes[:, at:]


def stream(codec: Codec, codes: Codes, lengths: Iterable[int]) -> npt.NDArray[np.float32]:
    stream = CodecStream(codec)
    samples = [stream.push(piece) for piece in pieces(codes, lengths)]
    return np.concatenate([*samples, stream.finish()])


def assert_whole(config: ModelConfig, frames: int, lengths: Iterable[int]) -> None:
    codec, codes = codec_of(config), random_codes(config, frames)
    samples = stream(codec, codes, lengths)
    assert samples.shape == (frames * config.codec.hop,) and samples.dtype == np.float32
    assert np.abs(samples - codec.decode(codes)).max() < 1e-5


@pytest.mark.parametrize(("config", "chunk"), [(NARROW, 2), (NARROW, 40), (ODD, 3)])
def test_every_length_in_even_chunks(config: ModelConfig, chunk: int) -> None:
    for frames in range(1, 65):
        assert_whole(config, frames, [chunk] * (frames // chunk))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 20) | st.just(1), max_size=12), st.integers(1, 100))
def test_any_chunks(lengths: list[int], frames: int) -> None:
    assert_whole(NARROW, frames, lengths)


@pytest.mark.parametrize("config", [REAL_SIZE, NANO_SIZE], ids=lambda config: config.name)
@pytest.mark.parametrize(("frames", "lengths"), [(1, []), (6, [2, 3]), (7, []), (90, [7, 15, 40])])
def test_the_real_sizes(config: ModelConfig, frames: int, lengths: list[int]) -> None:
    assert_whole(config, frames, lengths)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("config", [REAL_SIZE, NANO_SIZE], ids=lambda config: config.name)
def test_the_real_sizes_up_to_a_window(config: ModelConfig) -> None:
    rng = np.random.default_rng(0)
    for frames in [*range(1, 65), *range(65, 1024, 37), 1024]:
        assert_whole(config, frames, rng.integers(1, 76, size=frames // 30).tolist())


@pytest.mark.parametrize("config", [NARROW, ODD], ids=lambda config: config.name)
def test_in_double_precision_nothing_is_left_of_the_difference(config: ModelConfig) -> None:
    codec, codes = codec_of(config, "fp64"), random_codes(config, 50)
    with torch.inference_mode():
        whole = codec.decoder(codec.entries(codes))
        layers = streaming(codec.decoder)
        parts = [
            layers.feed(codec.entries(piece), last=number == 3)
            for number, piece in enumerate(pieces(codes, [5, 1, 20]))
        ]
    assert whole.dtype == torch.float64
    assert (torch.cat(parts, -1) - whole).abs().max() < 1e-12


def test_sound_comes_with_the_seventh_frame_and_then_at_once() -> None:
    codec, codes = codec_of(NARROW), random_codes(NARROW, 20)
    stream = CodecStream(codec)
    assert [len(stream.push(codes[:, n : n + 1])) for n in range(20)] == [0] * 6 + [7 * 320] + (
        [320] * 13
    )
    assert len(stream.finish()) == 0


def test_what_a_stream_keeps_is_small_and_does_not_grow() -> None:
    codec = codec_of(REAL_SIZE)
    layers = streaming(codec.decoder)
    sizes = []
    with torch.inference_mode():
        for length in (30, 200, 10):
            layers.feed(codec.entries(random_codes(REAL_SIZE, length)), last=False)
            sizes.append(_kept_bytes(layers))
    assert sizes[0] == sizes[1] == sizes[2] < 500_000


def _kept_bytes(layer: object) -> int:
    """Bytes of all storage that a layer holds of its past, the weights not counted."""
    if isinstance(layer, torch.Tensor):
        return layer.untyped_storage().nbytes()
    if isinstance(layer, (list, tuple)):
        return sum(_kept_bytes(part) for part in layer)
    if isinstance(layer, torch.nn.Module) or not hasattr(layer, "__dict__"):
        return 0
    return sum(_kept_bytes(value) for value in vars(layer).values())


def test_streams_of_one_codec_do_not_mix() -> None:
    codec = codec_of(NARROW)
    first, second = random_codes(NARROW, 30), random_codes(NARROW, 31)
    streams = CodecStream(codec), CodecStream(codec)
    made: tuple[list[npt.NDArray[np.float32]], ...] = ([], [])
    for piece, other in zip(pieces(first, [9, 9]), pieces(second, [4, 15]), strict=True):
        made[0].append(streams[0].push(piece))
        made[1].append(streams[1].push(other))
    for stream, samples, codes in zip(streams, made, (first, second), strict=True):
        whole = np.concatenate([*samples, stream.finish()])
        assert np.abs(whole - codec.decode(codes)).max() < 1e-5


def test_a_codec_that_hears_the_future_waits_for_the_end() -> None:
    numbers: CodecNumbers = replace(NARROW.codec, causal=False)
    config = replace(NARROW, name="acausal", codec=numbers)
    codec = Codec(config, random_checkpoint(config).tensors("codec"), device=torch.device("cpu"))
    codes = random_codes(config, 12)
    stream = CodecStream(codec)
    assert len(stream.push(codes[:, :10])) == len(stream.push(codes[:, 10:])) == 0
    np.testing.assert_array_equal(stream.finish(), codec.decode(codes))


def test_no_codes_make_no_sound_and_the_end_is_the_end() -> None:
    stream = CodecStream(codec_of(NARROW))
    assert len(stream.finish()) == 0
    with pytest.raises(RuntimeError, match="finished"):
        stream.push(random_codes(NARROW, 1))
    with pytest.raises(RuntimeError, match="finished"):
        stream.finish()


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    tensors = random_checkpoint(REAL_SIZE).tensors("codec")
    codec = Codec(REAL_SIZE, tensors, device=torch.device("cuda"))
    codes = random_codes(REAL_SIZE, 200)
    samples = stream(codec, codes, [7, 15, 1, 40, 90])
    assert np.abs(samples - codec.decode(codes)).max() < 1e-5
