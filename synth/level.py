"""How loud samples are, and where they are silent: in numpy, at once, for sound on its way.

What goes into a file is measured by FFmpeg (`synth.loudness`); pieces of one clip are made as loud
as each other here, before there is a file. Both follow ITU-R BS.1770 and agree within 0.3 LU.
"""

import math

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

_BLOCK_S, _HOP_S = 0.4, 0.1
_ABSOLUTE_GATE_LUFS, _RELATIVE_GATE_LU = -70.0, -10.0
_OFFSET = -0.691  # of BS.1770: a 1 kHz tone of full scale is -3.01 LUFS

FRAME_S = 0.01  # over which a level is taken
_SILENT_DBFS = -50.0  # rms; Bark's noise between words is below, its quietest voices far above
_SILENT_BELOW_LOUDEST_DB = -45.0


def loudness_lufs(samples: Samples, sample_rate: int) -> float:
    """Integrated loudness of (N,) float mono samples; -inf for silence.

    What is shorter than a block of 0.4 s is one block.
    """
    if not len(samples):
        return -math.inf
    block, hop = int(_BLOCK_S * sample_rate), int(_HOP_S * sample_rate)
    power = np.square(_weighted(samples.astype(np.float64), sample_rate))
    sums = np.concatenate([[0.0], np.cumsum(power)])
    ends = np.arange(block, len(samples) + 1, hop) if len(samples) >= block else [len(samples)]
    ends = np.asarray(ends)
    starts = np.maximum(0, ends - block)
    means = (sums[ends] - sums[starts]) / (ends - starts)
    means = means[means > 10 ** ((_ABSOLUTE_GATE_LUFS - _OFFSET) / 10)]
    if not len(means):
        return -math.inf
    gate = means.mean() * 10 ** (_RELATIVE_GATE_LU / 10)
    return float(_OFFSET + 10 * np.log10(means[means > gate].mean()))


def is_loud(rms: Samples, loudest_before: float = 0.0) -> npt.NDArray[np.bool_]:
    """(F,) levels of frames in their order -> which of them are no silence, each judged by those
    up to it and by the loudest before.
    """
    loudest = np.maximum.accumulate(np.maximum(rms, loudest_before))
    relative = loudest * 10 ** (_SILENT_BELOW_LOUDEST_DB / 20)
    return rms > np.maximum(10 ** (_SILENT_DBFS / 20), relative)


def frame_rms(samples: Samples, frame: int) -> npt.NDArray[np.float32]:
    """(N,) -> (ceil(N / frame),): the level of each run of `frame` samples, the last shorter."""
    starts = np.arange(0, len(samples), frame)
    if not len(starts):
        return np.zeros(0, np.float32)
    sums = np.add.reduceat(np.square(samples.astype(np.float64)), starts)
    lengths = np.minimum(frame, len(samples) - starts)
    return np.sqrt(sums / lengths).astype(np.float32)


def k_response(size: int, sample_rate: int) -> npt.NDArray[np.complex128]:
    """The two filters of BS.1770 at the frequencies of an rfft of `size` samples."""
    z = np.exp(-2j * np.pi * np.fft.rfftfreq(size))
    response = np.ones_like(z)
    for b, a in (_shelf(sample_rate), _high_pass(sample_rate)):
        response *= (b[0] + b[1] * z + b[2] * z**2) / (1.0 + a[0] * z + a[1] * z**2)
    return response


def _weighted(samples: npt.NDArray[np.float64], sample_rate: int) -> npt.NDArray[np.float64]:
    """K-weighting, by the filters' response to each frequency."""
    padded = 2 ** math.ceil(math.log2(len(samples) + sample_rate // 5))
    response = k_response(padded, sample_rate)
    return np.fft.irfft(np.fft.rfft(samples, padded) * response, padded)[: len(samples)]


_Filter = tuple[tuple[float, float, float], tuple[float, float]]


def _shelf(sample_rate: int) -> _Filter:
    k = math.tan(math.pi * 1681.974450955533 / sample_rate)
    high = 10 ** (3.999843853973347 / 20)
    band, damp = high**0.4996667741545416, k / 0.7071752369554196
    a0 = 1 + damp + k * k
    b = ((high + band * damp + k * k) / a0, 2 * (k * k - high) / a0)
    return (*b, (high - band * damp + k * k) / a0), (2 * (k * k - 1) / a0, (1 - damp + k * k) / a0)


def _high_pass(sample_rate: int) -> _Filter:
    k = math.tan(math.pi * 38.13547087602444 / sample_rate)
    damp = k / 0.5003270373238773
    a0 = 1 + damp + k * k
    return (1.0, -2.0, 1.0), (2 * (k * k - 1) / a0, (1 - damp + k * k) / a0)
