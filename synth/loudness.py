"""How loud a clip is, and the one gain that makes it as loud as all the others.

Loudness is integrated loudness (ITU-R BS.1770) and true peak, both as FFmpeg's ebur128 filter
measures them. The gain goes to TARGET_LUFS. Speech has single peaks far above the rest: what they
would pass PEAK_CEILING_DBTP by, a limiter takes off, MOST_HELD_DB of it; beyond, the gain is less.
A peak is never cut off.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from synth.errors import SynthError
from synth.ffmpeg_graphs import (
    Samples,
    checked,
    checked_output,
    command,
    graph,
    levelled,
    pcm_bytes,
    pcm_input,
    resampled,
    spread,
)
from synth.ffmpeg_runner import FFmpeg, Output, Recipe

TARGET_LUFS = -16.0
PEAK_CEILING_DBTP = -1.0
PEAK_MARGIN_DB = 0.2  # FFmpeg prints tenths of a dB, and other meters oversample otherwise
SILENCE_LUFS = -70.0  # the absolute gate of BS.1770: nothing was loud enough to count
MOST_HELD_DB = 10.0  # nano's clips reach the target with this; clicks do not
MAX_BOOST_DB = 50.0
SHORT_S = 1.0  # below this, loudness says little: the clip is repeated to be measured
SHORT_MAX_BOOST_DB = 12.0


@dataclass(frozen=True)
class Loudness:
    """What a meter says of a clip; -inf for silence."""

    integrated_lufs: float
    true_peak_dbtp: float


def gain_for(
    loudness: Loudness,
    duration_s: float,
    *,
    target_lufs: float = TARGET_LUFS,
    held_db: float = 0.0,
) -> float:
    """The factor for a clip that measures so; what `normalise_gain` explains.

    held_db: what a limiter may take off its peaks.
    """
    if loudness.integrated_lufs <= SILENCE_LUFS or math.isinf(loudness.true_peak_dbtp):
        return 1.0
    boost_limit = MAX_BOOST_DB if duration_s >= SHORT_S else SHORT_MAX_BOOST_DB
    wanted = min(target_lufs - loudness.integrated_lufs, boost_limit)
    allowed = PEAK_CEILING_DBTP - PEAK_MARGIN_DB - loudness.true_peak_dbtp + held_db
    return 10 ** (min(wanted, allowed) / 20)


def measure(
    samples: Samples,
    sample_rate: int,
    *,
    ffmpeg: FFmpeg,
    channels: int = 1,
    gain: float = 1.0,
    limit_db: float | None = None,
) -> Recipe[Loudness]:
    """Measure a clip as it sounds at 48 kHz on so many channels, true peak 4x oversampled.

    gain, limit_db: made louder so, and its peaks held at so many dBFS.
    """
    samples = checked(samples)
    if len(samples) < SHORT_S * sample_rate:
        samples = np.tile(samples, math.ceil(SHORT_S * sample_rate / len(samples)))
    # FFmpeg's meter ends at +10 LUFS, so what is over full scale is measured at full scale.
    over = max(1.0, float(np.abs(samples).max()))
    stream = resampled(pcm_input(sample_rate), ffmpeg)
    if limit_db is not None:
        stream, over, samples = levelled(stream, gain * over, limit_db), 1.0, samples / over
    stream = spread(stream, channels)
    done = yield command(_metered(stream), ffmpeg, pcm_bytes(samples / over), "info")
    meter, over_db = _meter(done), 20 * math.log10(over)
    return Loudness(meter.integrated_lufs + over_db, meter.true_peak_dbtp + over_db)


def measure_file(data: bytes, format_name: str, *, ffmpeg: FFmpeg) -> Recipe[Loudness]:
    """Measure an encoded clip as a listener's decoder plays it."""
    stream = graph.input("pipe:0", format=format_name)
    return _meter((yield command(_metered(stream), ffmpeg, data, "info")))


def _metered(stream: Any) -> Any:
    # metadata=1 only keeps the running values out of stderr; the summary is what is read.
    stream = stream.filter("ebur128", metadata=1, peak="true")
    return graph.output(stream, "pipe:1", format="null")


def _meter(done: Output) -> Loudness:
    summary = checked_output(done).stderr.rpartition("Summary:")[2]
    integrated = re.search(r"\bI:\s+(-?[\d.]+|-inf|nan) LUFS", summary)
    peak = re.search(r"\bPeak:\s+(-?[\d.]+|-inf|nan) dBFS", summary)
    if integrated is None or peak is None:
        raise SynthError("FFmpeg measured no loudness: its ebur128 filter gave no summary.")
    lufs = float(integrated[1])
    return Loudness(-math.inf if lufs <= SILENCE_LUFS else lufs, float(peak[1]))
