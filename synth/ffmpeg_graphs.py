"""The pieces FFmpeg's graphs are made of, and the checks on what goes in and comes out."""

from typing import Any

import ffmpeg
import numpy as np
import numpy.typing as npt

from synth.errors import InvalidRequest, SynthError
from synth.ffmpeg_runner import Command, FFmpeg, Output

# ffmpeg-python gives its functions out of a list of names, which no type checker can follow.
graph: Any = ffmpeg
Samples = npt.NDArray[np.floating]

OPUS_RATE = 48_000  # Hz, what Opus and Discord speak


def checked(samples: Samples, *, finite: bool = True) -> Samples:
    """The samples, if they are a clip. Raises InvalidRequest saying what is wrong with them."""
    samples = np.asarray(samples)
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise InvalidRequest(
            f"A clip is one row of floating-point samples, not {samples.dtype} of shape "
            f"{samples.shape}."
        )
    if not len(samples):
        raise InvalidRequest("The clip is empty: there is no sound to write.")
    if finite and not np.isfinite(samples).all():
        raise InvalidRequest("The clip holds samples that are not numbers.")
    return samples


def pcm_bytes(samples: Samples) -> bytes:
    return samples.astype("<f4", copy=False).tobytes()


def pcm_input(sample_rate: int, **options: Any) -> Any:
    return graph.input("pipe:0", format="f32le", ar=sample_rate, ac=1, **options)


def resampled(stream: Any, ffmpeg: FFmpeg) -> Any:
    options = {"resampler": "soxr", "precision": 28} if ffmpeg.soxr else {"filter_size": 64}
    return stream.filter("aresample", OPUS_RATE, **options)


def levelled(stream: Any, gain: float, limit_db: float | None) -> Any:
    """Made louder by a factor; peaks held at `limit_db` by a limiter that looks ahead."""
    stream = stream.filter("volume", f"{gain:.9g}", precision="double")
    return stream if limit_db is None else limited(stream, 10 ** (limit_db / 20))


def limited(stream: Any, limit: float) -> Any:
    options = {"level": "disabled", "latency": 1, "attack": 5, "release": 50}
    return stream.filter("alimiter", limit=f"{limit:.6g}", **options)


def spread(stream: Any, channels: int) -> Any:
    # Not "-ac 2", which would take 3 dB off each channel. "<" scales a channel's terms to a sum of
    # one, so here it means "="; ffmpeg-python escapes an "=" beyond what this filter can read.
    return stream.filter("pan", "stereo|c0<c0|c1<c0") if channels == 2 else stream


def output(stream: Any, target: str, **options: Any) -> Any:
    # The same clip gives the same bytes: no encoder version, no random stream number.
    exact = {"fflags": "+bitexact", "flags:a": "+bitexact", "map_metadata": -1}
    return graph.output(stream, target, **exact, **options)


def command(output: Any, ffmpeg: FFmpeg, stdin: bytes, loglevel: str = "error") -> Command:
    flags = ("-hide_banner", "-nostdin", "-nostats", "-loglevel", loglevel, "-y")
    return Command(tuple(output.global_args(*flags).compile(cmd=ffmpeg.path)), stdin)


def checked_output(done: Output) -> Output:
    if done.returncode == 0 and "No space left on device" not in done.stderr:
        return done
    if "No space left on device" in done.stderr:
        raise SynthError("The disk is full: the clip was not encoded. Free some space, try again.")
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    raise SynthError(f"FFmpeg could not encode the clip: {lines[-1]}")
