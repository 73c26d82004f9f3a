"""Finished PCM -> Ogg Opus, MP3, FLAC and WAV by FFmpeg, at one loudness. Free of torch.

Loudness is measured as each output carries it, a mono file as mono and the voice channel as stereo,
once more behind the limiter where peaks are held, and after a lossy codec near the peak ceiling;
see `synth.loudness`.
"""

import errno
import math
import os
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Any

from synth.errors import InvalidRequest, SynthError
from synth.ffmpeg_graphs import (
    Samples,
    checked,
    checked_output,
    command,
    levelled,
    output,
    pcm_bytes,
    pcm_input,
    resampled,
    spread,
)
from synth.ffmpeg_runner import Command, FFmpeg, Output, Recipe, find_ffmpeg, open_ffmpeg, run
from synth.live_audio import encode_live
from synth.loudness import (
    MOST_HELD_DB,
    PEAK_CEILING_DBTP,
    PEAK_MARGIN_DB,
    TARGET_LUFS,
    Loudness,
    gain_for,
    measure,
    measure_file,
)
from synth.prefill import Paces, Timeline
from synth.stream_gain import Meter, StreamGain, VoiceLevels

__all__ = [
    "MOST_HELD_DB",
    "TARGET_LUFS",
    "AudioFormat",
    "Command",
    "FFmpeg",
    "Loudness",
    "Meter",
    "Output",
    "Paces",
    "Recipe",
    "Samples",
    "StreamGain",
    "Timeline",
    "VoiceLevels",
    "checked",
    "encode",
    "encode_live",
    "find_ffmpeg",
    "measure",
    "normalise_gain",
    "open_ffmpeg",
    "run",
    "save",
    "write_atomically",
]

# A codec moves peaks by up to this much; nearer to the ceiling the result is measured again.
CODEC_SLACK_DB = 4.0
_BETWEEN_SAMPLES_DB = 0.3  # what a peak between two held samples may be above them
_LAME_SCALE = 0.95  # what libmp3lame makes of every sample
_LOST_DB, _MOST_LOST_DB, _TRIES = 0.2, 4.0, 3  # of loudness to a limiter
_LEAST_KEPT = 0.25  # of what is made up for that


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
            known = ", ".join(names)
            if not suffix:
                raise InvalidRequest(
                    f"No suffix says what format {Path(path)} is to have: end the name with one of "
                    f"{known}."
                )
            raise InvalidRequest(
                f"{suffix} is not a sound format known here: name the file with {known}."
            )
        return names[suffix]


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
    limit_db: float | None = None
    if gain is None:
        if loudness is None:
            loudness = yield from measure(samples, sample_rate, ffmpeg=ffmpeg, channels=channels)
        gain, limit_db = yield from _behind_limiter(
            samples,
            sample_rate,
            loudness,
            ffmpeg=ffmpeg,
            channels=channels,
            target_lufs=target_lufs,
        )
        peak_dbtp = loudness.true_peak_dbtp + 20 * math.log10(gain)
    pcm = pcm_bytes(samples)
    data = b""
    for _ in range(3):
        data = yield from _encode_once(
            pcm, sample_rate, fmt, ffmpeg, bit_rate, channels, gain, limit_db
        )
        near = limit_db is not None or peak_dbtp >= PEAK_CEILING_DBTP - CODEC_SLACK_DB
        if fixed or not near or (not fmt.lossy and limit_db is None):
            break
        heard = yield from measure_file(data, fmt.value, ffmpeg=ffmpeg)
        excess_db = heard.true_peak_dbtp - (PEAK_CEILING_DBTP - PEAK_MARGIN_DB / 2)
        if excess_db <= 0:
            break
        less_db = excess_db + PEAK_MARGIN_DB
        if limit_db is None:
            gain *= 10 ** (-less_db / 20)
        else:
            limit_db -= less_db
            gain *= 10 ** (less_db / 2 / 20)  # so that it is about as loud as before
    return data


def _behind_limiter(
    samples: Samples,
    sample_rate: int,
    loudness: Loudness,
    *,
    ffmpeg: FFmpeg,
    channels: int,
    target_lufs: float,
) -> Recipe[tuple[float, float | None]]:
    """The gain for a clip, and where its peaks are to be held, in dBFS; None: nowhere."""
    duration_s = len(samples) / sample_rate
    gain = gain_for(loudness, duration_s, target_lufs=target_lufs)
    most = gain_for(loudness, duration_s, target_lufs=target_lufs, held_db=MOST_HELD_DB)
    if most <= gain:
        return gain, None
    limit_db = PEAK_CEILING_DBTP - PEAK_MARGIN_DB - _BETWEEN_SAMPLES_DB
    gain, aim_lufs = most, loudness.integrated_lufs + 20 * math.log10(most)
    made_up_db, lost_before_db = 0.0, 0.0
    for _ in range(_TRIES):  # what the limiter takes of the loudness is made up for
        held = yield from measure(
            samples, sample_rate, ffmpeg=ffmpeg, channels=channels, gain=gain, limit_db=limit_db
        )
        lost_db = aim_lufs - held.integrated_lufs
        if lost_db < _LOST_DB:
            break
        # It takes of what is made up, too: of what comes next, as much as of the last.
        kept = (lost_before_db - lost_db) / made_up_db if made_up_db else 1.0
        made_up_db = min(lost_db / max(kept, _LEAST_KEPT), _MOST_LOST_DB)
        lost_before_db = lost_db
        gain *= 10 ** (made_up_db / 20)
    return gain, limit_db


def encode_raw(samples: Samples, sample_rate: int, *, ffmpeg: FFmpeg) -> Recipe[bytes]:
    """A 32-bit float WAV that holds exactly these samples."""
    samples = checked(samples, finite=False)
    stream = pcm_input(sample_rate)
    return (yield from _to_file(stream, ffmpeg, pcm_bytes(samples), ".wav", acodec="pcm_f32le"))


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
    if error.errno == errno.ENOENT and not path.parent.is_dir():
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
    limit_db: float | None,
) -> Recipe[bytes]:
    stream = pcm_input(sample_rate)
    if fmt.lossy:
        stream = resampled(stream, ffmpeg)
    if fmt is AudioFormat.MP3:
        gain /= _LAME_SCALE
        limit_db = None if limit_db is None else limit_db - 20 * math.log10(_LAME_SCALE)
    stream = levelled(stream, gain, limit_db)
    rate = {"audio_bitrate": bit_rate or fmt.default_bit_rate} if fmt.lossy else {}
    if fmt is AudioFormat.OGG:
        # Ogg needs no seeking back, so a voice channel never depends on a disk.
        stream = spread(stream, channels)
        options = {"acodec": "libopus", "frame_duration": 20, "vbr": "on", **rate}
        written = output(stream, "pipe:1", format="ogg", **options)
        done = yield command(written, ffmpeg, pcm)
        return checked_output(done).stdout
    stream = spread(stream, channels)
    codecs = {AudioFormat.MP3: "libmp3lame", AudioFormat.FLAC: "flac", AudioFormat.WAV: "pcm_s16le"}
    depth = {AudioFormat.FLAC: {"sample_fmt": "s16"}}.get(fmt, {})
    options = {"acodec": codecs[fmt], **rate, **depth}
    return (yield from _to_file(stream, ffmpeg, pcm, fmt.suffix, **options))


def _to_file(stream: Any, ffmpeg: FFmpeg, pcm: bytes, suffix: str, **options: Any) -> Recipe[bytes]:
    """Through a temporary file: these formats write their length into the header at the end."""
    try:
        with tempfile.TemporaryDirectory(prefix="bark-") as folder:
            target = Path(folder, f"clip{suffix}")
            checked_output((yield command(output(stream, str(target), **options), ffmpeg, pcm)))
            return target.read_bytes()
    except OSError as error:
        raise SynthError(_why_not_saved(Path(tempfile.gettempdir()), error)) from error
