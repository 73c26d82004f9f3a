"""Finished PCM -> Ogg Opus, MP3, FLAC and WAV by FFmpeg, at one loudness. Free of torch.

Loudness is one constant gain a clip, from its integrated loudness (ITU-R BS.1770, FFmpeg's ebur128)
to TARGET_LUFS, and less where the true peak would pass PEAK_CEILING_DBTP: a peak is never cut off.
It is measured as each output carries it: a mono file as mono, the voice channel as stereo.
"""

import errno
import math
import os
import re
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
import numpy.typing as npt

from synth.errors import InvalidRequest, SynthError
from synth.ffmpeg_runner import Command, FFmpeg, Output, Recipe, find_ffmpeg, open_ffmpeg, run

__all__ = [
    "Command",
    "FFmpeg",
    "Output",
    "Recipe",
    "checked",
    "AudioFormat",
    "Loudness",
    "encode",
    "find_ffmpeg",
    "measure",
    "normalise_gain",
    "open_ffmpeg",
    "save",
]

# ffmpeg-python gives its functions out of a list of names, which no type checker can follow.
graph: Any = ffmpeg
Samples = npt.NDArray[np.floating]

OPUS_RATE = 48_000  # Hz, what Opus and Discord speak
TARGET_LUFS = -16.0
PEAK_CEILING_DBTP = -1.0
PEAK_MARGIN_DB = 0.2  # FFmpeg prints tenths of a dB, and other meters oversample otherwise
SILENCE_LUFS = -70.0  # the absolute gate of BS.1770: nothing was loud enough to count
MAX_BOOST_DB = 50.0
SHORT_S = 1.0  # below this, loudness says little: the clip is repeated to be measured
SHORT_MAX_BOOST_DB = 12.0
# A codec moves peaks by up to this much; nearer to the ceiling the result is measured again.
CODEC_SLACK_DB = 4.0


class AudioFormat(StrEnum):
    """What a clip can be written as; the value is the file's suffix without the dot."""

    OGG = "ogg"  # Opus, 48 kHz mono
    MP3 = "mp3"  # 48 kHz mono
    FLAC = "flac"  # 16 bit, the clip's own rate
    WAV = "wav"  # 16 bit, the clip's own rate

    @property
    def suffix(self) -> str:
        return f".{self.value}"

    @property
    def lossy(self) -> bool:
        return self in (AudioFormat.OGG, AudioFormat.MP3)

    @property
    def default_bit_rate(self) -> int | None:
        """Bits per second, None for a format that has no choice."""
        return {AudioFormat.OGG: 96_000, AudioFormat.MP3: 128_000}.get(self)

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> "AudioFormat":
        """The format a path's suffix names. Raises InvalidRequest listing what there is."""
        suffix = Path(path).suffix.lower()
        names = {fmt.suffix: fmt for fmt in cls} | {".opus": cls.OGG}
        if suffix not in names:
            raise InvalidRequest(
                f"{suffix or 'No suffix'} is not a sound format known here: "
                f"name the file with {', '.join(names)}."
            )
        return names[suffix]


@dataclass(frozen=True)
class Loudness:
    """What a meter says of a clip; -inf for silence."""

    integrated_lufs: float
    true_peak_dbtp: float


def save(
    samples: Samples,
    sample_rate: int,
    path: str | os.PathLike[str],
    fmt: AudioFormat | None = None,
    *,
    raw: bool = False,
    ffmpeg: FFmpeg | None = None,
) -> None:
    """Write a finished clip to `path`, whole or not at all.

    samples: (N,) float in [-1, 1] at `sample_rate` Hz, mono. The format is `fmt`, or follows from
    the suffix. `raw` writes a 32-bit float WAV of the samples as they are, without gain.
    Raises InvalidRequest for a suffix or samples that cannot be written, SynthError when FFmpeg
    fails or the disk is full; the file that was there before is then untouched.
    """
    path = Path(path)
    fmt = fmt or AudioFormat.of(path)
    if raw and fmt is not AudioFormat.WAV:
        raise InvalidRequest(f"Raw samples go into a .wav file only, not {path.name}.")
    ffmpeg = ffmpeg or open_ffmpeg()
    recipe = encode_raw if raw else encode
    options: dict[str, Any] = {} if raw else {"fmt": fmt}
    write_atomically(path, run(recipe(samples, sample_rate, ffmpeg=ffmpeg, **options)))


def normalise_gain(
    samples: Samples, sample_rate: int, *, channels: int = 1, ffmpeg: FFmpeg | None = None
) -> float:
    """The constant factor that brings a clip to TARGET_LUFS, or less where its peak forbids it.

    samples: (N,) float, mono; `channels` is how many it will be played on (two add 3 LU).
    Returns 1.0 for silence. Raises InvalidRequest for samples that are no clip.
    """
    samples = checked(samples)
    meter = run(measure(samples, sample_rate, ffmpeg=ffmpeg or open_ffmpeg(), channels=channels))
    return gain_for(meter, len(samples) / sample_rate)


def gain_for(loudness: Loudness, duration_s: float, *, target_lufs: float = TARGET_LUFS) -> float:
    """The factor for a clip that measures so; what `normalise_gain` explains."""
    if loudness.integrated_lufs <= SILENCE_LUFS or math.isinf(loudness.true_peak_dbtp):
        return 1.0
    boost_limit = MAX_BOOST_DB if duration_s >= SHORT_S else SHORT_MAX_BOOST_DB
    wanted = min(target_lufs - loudness.integrated_lufs, boost_limit)
    allowed = PEAK_CEILING_DBTP - PEAK_MARGIN_DB - loudness.true_peak_dbtp
    return 10 ** (min(wanted, allowed) / 20)


def measure(
    samples: Samples, sample_rate: int, *, ffmpeg: FFmpeg, channels: int = 1
) -> Recipe[Loudness]:
    """Measure a clip as it sounds at 48 kHz on so many channels, true peak 4x oversampled."""
    samples = checked(samples)
    if len(samples) < SHORT_S * sample_rate:
        samples = np.tile(samples, math.ceil(SHORT_S * sample_rate / len(samples)))
    # FFmpeg's meter ends at +10 LUFS, so what is over full scale is measured at full scale.
    over = max(1.0, float(np.abs(samples).max()))
    stream = _spread(_resampled(_pcm_input(sample_rate), ffmpeg), channels)
    done = yield _command(_metered(stream), ffmpeg, pcm_bytes(samples / over), "info")
    meter, over_db = _meter(done), 20 * math.log10(over)
    return Loudness(meter.integrated_lufs + over_db, meter.true_peak_dbtp + over_db)


def measure_file(data: bytes, fmt: AudioFormat, *, ffmpeg: FFmpeg) -> Recipe[Loudness]:
    """Measure an encoded clip as a listener's decoder plays it."""
    stream = graph.input("pipe:0", format=fmt.value)
    return _meter((yield _command(_metered(stream), ffmpeg, data, "info")))


def encode(
    samples: Samples,
    sample_rate: int,
    *,
    fmt: AudioFormat,
    ffmpeg: FFmpeg,
    bit_rate: int | None = None,
    channels: int = 1,
    loudness: Loudness | None = None,
    gain: float | None = None,
    target_lufs: float = TARGET_LUFS,
) -> Recipe[bytes]:
    """Encode a clip at the one loudness; returns the file's bytes.

    `loudness` saves the measurement when it was made before; `gain` replaces it altogether.
    Two channels carry the mono signal at full level each. Raises InvalidRequest, SynthError.
    """
    samples = checked(samples)
    fixed = gain is not None
    peak_dbtp = -math.inf
    if gain is None:
        if loudness is None:
            loudness = yield from measure(samples, sample_rate, ffmpeg=ffmpeg, channels=channels)
        gain = gain_for(loudness, len(samples) / sample_rate, target_lufs=target_lufs)
        peak_dbtp = loudness.true_peak_dbtp + 20 * math.log10(gain)
    pcm = pcm_bytes(samples)
    data = b""
    for _ in range(3):
        data = yield from _encode_once(pcm, sample_rate, fmt, ffmpeg, bit_rate, channels, gain)
        if fixed or not fmt.lossy or peak_dbtp < PEAK_CEILING_DBTP - CODEC_SLACK_DB:
            break
        heard = yield from measure_file(data, fmt, ffmpeg=ffmpeg)
        excess_db = heard.true_peak_dbtp - (PEAK_CEILING_DBTP - PEAK_MARGIN_DB / 2)
        if excess_db <= 0:
            break
        gain *= 10 ** (-(excess_db + PEAK_MARGIN_DB) / 20)
    return data


def encode_raw(samples: Samples, sample_rate: int, *, ffmpeg: FFmpeg) -> Recipe[bytes]:
    """A 32-bit float WAV that holds exactly these samples."""
    samples = checked(samples, finite=False)
    stream = _pcm_input(sample_rate)
    return (yield from _to_file(stream, ffmpeg, pcm_bytes(samples), ".wav", acodec="pcm_f32le"))


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


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file at `path`, or leave everything as it was and raise SynthError."""
    temporary: Path | None = None
    try:
        # In the same folder: a rename is only whole within one file system.
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp keeps the file to its owner; give it what a plain open() would have.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise SynthError(_why_not_saved(path, error)) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _why_not_saved(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"The disk is full: {path} was not saved. Free some space and try again."
    if error.errno == errno.ENOENT:
        return f"The folder {path.parent} does not exist, so {path.name} was not saved."
    return f"{path} could not be saved: {error.strerror or error}."


def _encode_once(
    pcm: bytes,
    sample_rate: int,
    fmt: AudioFormat,
    ffmpeg: FFmpeg,
    bit_rate: int | None,
    channels: int,
    gain: float,
) -> Recipe[bytes]:
    stream = _pcm_input(sample_rate).filter("volume", f"{gain:.9g}", precision="double")
    rate = {"audio_bitrate": bit_rate or fmt.default_bit_rate} if fmt.lossy else {}
    if fmt is AudioFormat.OGG:
        # Ogg needs no seeking back, so a voice channel never depends on a disk.
        stream = _spread(_resampled(stream, ffmpeg), channels)
        output = _output(
            stream, "pipe:1", format="ogg", acodec="libopus", frame_duration=20, vbr="on", **rate
        )
        done = yield _command(output, ffmpeg, pcm)
        return _checked_output(done).stdout
    if fmt is AudioFormat.MP3:
        stream = _resampled(stream, ffmpeg)
    stream = _spread(stream, channels)
    codecs = {AudioFormat.MP3: "libmp3lame", AudioFormat.FLAC: "flac", AudioFormat.WAV: "pcm_s16le"}
    depth = {AudioFormat.FLAC: {"sample_fmt": "s16"}}.get(fmt, {})
    options = {"acodec": codecs[fmt], **rate, **depth}
    return (yield from _to_file(stream, ffmpeg, pcm, fmt.suffix, **options))


def _to_file(stream: Any, ffmpeg: FFmpeg, pcm: bytes, suffix: str, **options: Any) -> Recipe[bytes]:
    """Through a temporary file: these formats write their length into the header at the end."""
    with tempfile.TemporaryDirectory(prefix="bark-") as folder:
        target = Path(folder, f"clip{suffix}")
        _checked_output((yield _command(_output(stream, str(target), **options), ffmpeg, pcm)))
        return target.read_bytes()


def _pcm_input(sample_rate: int) -> Any:
    return graph.input("pipe:0", format="f32le", ar=sample_rate, ac=1)


def _resampled(stream: Any, ffmpeg: FFmpeg) -> Any:
    options = {"resampler": "soxr", "precision": 28} if ffmpeg.soxr else {"filter_size": 64}
    return stream.filter("aresample", OPUS_RATE, **options)


def _spread(stream: Any, channels: int) -> Any:
    # Not "-ac 2", which would take 3 dB off each channel. "<" scales a channel's terms to a sum of
    # one, so here it means "="; ffmpeg-python escapes an "=" beyond what this filter can read.
    return stream.filter("pan", "stereo|c0<c0|c1<c0") if channels == 2 else stream


def _metered(stream: Any) -> Any:
    # metadata=1 only keeps the running values out of stderr; the summary is what is read.
    stream = stream.filter("ebur128", metadata=1, peak="true")
    return graph.output(stream, "pipe:1", format="null")


def _output(stream: Any, target: str, **options: Any) -> Any:
    # The same clip gives the same bytes: no encoder version, no random stream number.
    exact = {"fflags": "+bitexact", "flags:a": "+bitexact", "map_metadata": -1}
    return graph.output(stream, target, **exact, **options)


def _command(output: Any, ffmpeg: FFmpeg, stdin: bytes, loglevel: str = "error") -> Command:
    flags = ("-hide_banner", "-nostdin", "-nostats", "-loglevel", loglevel, "-y")
    return Command(tuple(output.global_args(*flags).compile(cmd=ffmpeg.path)), stdin)


def _checked_output(done: Output) -> Output:
    if done.returncode == 0 and "No space left on device" not in done.stderr:
        return done
    if "No space left on device" in done.stderr:
        raise SynthError("The disk is full: the clip was not encoded. Free some space, try again.")
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    raise SynthError(f"FFmpeg could not encode the clip: {lines[-1]}")


def _meter(done: Output) -> Loudness:
    summary = _checked_output(done).stderr.rpartition("Summary:")[2]
    integrated = re.search(r"\bI:\s+(-?[\d.]+|-inf|nan) LUFS", summary)
    peak = re.search(r"\bPeak:\s+(-?[\d.]+|-inf|nan) dBFS", summary)
    if integrated is None or peak is None:
        raise SynthError("FFmpeg measured no loudness: its ebur128 filter gave no summary.")
    lufs = float(integrated[1])
    return Loudness(-math.inf if lufs <= SILENCE_LUFS else lufs, float(peak[1]))
