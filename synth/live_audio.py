"""Sound through FFmpeg while it is still being made: raw PCM in, an encoded stream out.

Every packet leaves as soon as it exists. There is no second pass, so loudness is the caller's
(`synth.stream_gain`); what would pass the peak ceiling all the same is held down by a limiter.
"""

from synth.ffmpeg_graphs import command, limited, output, pcm_input, resampled, spread
from synth.ffmpeg_runner import Command, FFmpeg

# 2.5 dB of room for what resampling and Opus do to a peak, so that no decoder clips.
LIMIT = 0.75
_NOW = {"fflags": "nobuffer", "probesize": 32, "analyzeduration": 0}  # on the way in

# What FFmpeg is asked for, by the names `synth say --format` has; all can be read while they grow.
FORMATS = {
    "ogg": {"format": "ogg", "acodec": "libopus", "frame_duration": 20, "page_duration": 20_000},
    "wav": {"format": "wav", "acodec": "pcm_s16le"},
    "raw": {"format": "s16le", "acodec": "pcm_s16le"},
    "mp3": {"format": "mp3", "acodec": "libmp3lame", "audio_bitrate": 128_000},
    "flac": {"format": "flac", "acodec": "flac", "sample_fmt": "s16"},
}


def encode_live(
    sample_rate: int,
    *,
    ffmpeg: FFmpeg,
    fmt: str = "ogg",
    channels: int = 1,
    bit_rate: int = 96_000,
) -> Command:
    """The FFmpeg that turns samples on its standard input into a stream on its standard output.

    In: float32, little endian, mono, at `sample_rate` Hz, until the input is closed; no peak above
    LIMIT comes out. Out: `fmt`, one of FORMATS; "ogg" is Opus at `bit_rate`, 48 kHz, packets of
    20 ms on a page each; "wav" says in its header that its length is not known; "raw" is 16 bit,
    little endian. The formats but "ogg" and "mp3" keep the rate. Two channels carry the same.
    """
    options = dict(FORMATS[fmt])
    stream = pcm_input(sample_rate, **_NOW)
    if fmt in ("ogg", "mp3"):
        stream = resampled(stream, ffmpeg)
    stream = spread(limited(stream, LIMIT), channels)
    if fmt == "ogg":
        options["audio_bitrate"] = bit_rate
    return command(output(stream, "pipe:1", flush_packets=1, **options), ffmpeg, b"")
