"""One loudness for sound that is still being made: a gain kept per voice, corrected on the way.

Loudness is BS.1770's, K-weighted and gated, of what has come so far; before much has come it is
what this voice's clips before were like. The gain stays where that put it, unless the clip turns
out to be far off; then it moves slowly, and never leaps. What a limiter behind it will take off the
peaks is allowed for. Free of torch.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from synth.level import k_response
from synth.live_audio import LIMIT
from synth.loudness import SILENCE_LUFS, TARGET_LUFS

FloatArray = npt.NDArray[np.floating]

_BLOCK_S, _HOP_S = 0.4, 0.1
_RELATIVE_GATE = 0.1  # -10 LU, as a power
_KNOWN_S, _UNKNOWN_S = 1.0, 0.25  # seconds of sound that what is remembered counts for
_FIRST_LUFS = -23.0  # before any clip was measured: where speech is usually recorded
_TOLERATED_DB = 1.0  # off the target, before the gain is corrected
_FASTEST_DB_PER_S = 6.0
_MOST_DB = 30.0
# A limiter takes this much off the loudness for each dB that the usual peak is over it: with it,
# nano's clips are as often above the target as below, in mono and in stereo.
_LOST_SHARE = 1.1
_FIRST_PEAK_DB = 17.0  # the usual peak over the loudness, before any clip was measured
_REMEMBERED_S = 60.0  # of a voice; what is older fades


def _lufs(power: float) -> float:
    return -0.691 + 10 * float(np.log10(max(power, 1e-12)))


def _power(lufs: float) -> float:
    return 10 ** ((lufs + 0.691) / 10)


def _db(factor: float) -> float:
    return 20 * float(np.log10(max(factor, 1e-6)))


@dataclass(frozen=True)
class Level:
    """How loud something is; `seconds`: of sound it is known from.

    power: the mean of its blocks. peak: the highest. usual_peak: the mean of the blocks' highest.
    """

    power: float
    peak: float
    usual_peak: float
    seconds: float


class Meter:
    """Loudness of a mono stream as it is heard on `channels` equal channels."""

    def __init__(self, sample_rate: int, channels: int = 1) -> None:
        self._size, self._hop = int(_BLOCK_S * sample_rate), int(_HOP_S * sample_rate)
        # Parseval: the power of a block is that of its spectrum, so no filter has to be run.
        weights = np.abs(k_response(self._size, sample_rate)) ** 2
        self._scale = weights * 2 * channels / self._size**2
        self._rest = np.zeros(0, np.float32)
        self._powers: list[float] = []
        self._peaks: list[float] = []
        self._peak = 0.0

    def add(self, samples: FloatArray) -> None:
        """Take in the next (n,) samples in [-1, 1]."""
        self._peak = max(self._peak, float(np.abs(samples).max(initial=0.0)))
        self._rest = np.concatenate([self._rest, samples])
        while len(self._rest) >= self._size:
            spectrum = np.fft.rfft(self._rest[: self._size])
            self._powers.append(float(np.sum(np.abs(spectrum) ** 2 * self._scale)))
            self._peaks.append(float(np.abs(self._rest[: self._size]).max()))
            self._rest = self._rest[self._hop :]

    @property
    def level(self) -> Level:
        """Of what was loud enough to count; all of it is 0 while nothing was."""
        powers, peaks = np.asarray(self._powers), np.asarray(self._peaks)
        heard = powers > _power(SILENCE_LUFS)
        if not heard.any():
            return Level(0.0, self._peak, 0.0, 0.0)
        heard &= powers > _RELATIVE_GATE * powers[heard].mean()
        seconds = int(heard.sum()) * _HOP_S
        return Level(float(powers[heard].mean()), self._peak, float(peaks[heard].mean()), seconds)


class VoiceLevels:
    """How loud each voice has been, over its last clips."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Level] = {}

    def learn(self, voice: Hashable, meter: Meter) -> None:
        """Remember what a meter says of a clip; voice: its name, or None for a random one."""
        new, old = meter.level, self._known.get(voice, Level(0.0, 0.0, 0.0, 0.0))
        if new.seconds:
            seconds = new.seconds + old.seconds
            share = new.seconds / seconds
            self._known[voice] = Level(
                old.power + share * (new.power - old.power),
                old.peak + max(share, 0.5) * (new.peak - old.peak),
                old.usual_peak + share * (new.usual_peak - old.usual_peak),
                min(seconds, _REMEMBERED_S),
            )

    def of(self, voice: Hashable, channels: int = 1) -> Level:
        """What to expect of a voice; `seconds`: of sound that this is worth."""
        known = self._known
        # A voice without a name is another one each time.
        if voice is not None and voice in known:
            return replace(known[voice], seconds=_KNOWN_S)
        if known:
            power = float(np.mean([level.power for level in known.values()]))
            peak = float(np.mean([level.peak for level in known.values()]))
            usual_peak = float(np.mean([level.usual_peak for level in known.values()]))
            return Level(power, peak, usual_peak, _UNKNOWN_S)
        usual_peak = 10 ** ((_FIRST_LUFS + _FIRST_PEAK_DB) / 20)
        return Level(_power(_FIRST_LUFS) * channels, 0.0, usual_peak, _UNKNOWN_S)


class StreamGain:
    """The gain of one clip: called with each piece of it, in order.

    levels: learns from the clip with `finish`. channels: how many it will be played on. limit: the
    highest peak there should be. held_db: what a limiter behind this may take off the peaks. What
    passes it all the same, since nobody knew, is up to whoever encodes.
    """

    def __init__(
        self,
        levels: VoiceLevels,
        voice: Hashable,
        sample_rate: int,
        *,
        channels: int = 1,
        target_lufs: float = TARGET_LUFS,
        limit: float = LIMIT,
        held_db: float = 0.0,
    ) -> None:
        self._levels, self._voice = levels, voice
        self._expected = levels.of(voice, channels)
        self._meter = Meter(sample_rate, channels)
        self._rate = sample_rate
        self._target = target_lufs
        self._limit = limit
        self._held_db = held_db
        self._gain_db: float | None = None

    def __call__(self, samples: FloatArray) -> npt.NDArray[np.float32]:
        """(n,) samples -> the same at the stream's loudness; peaks may pass 1."""
        self._meter.add(samples)
        level, peak = self._wanted_db()
        before = min(level, peak) if self._gain_db is None else self._gain_db
        least, most = min(level - _TOLERATED_DB, peak), min(level + _TOLERATED_DB, peak)
        step = _FASTEST_DB_PER_S * len(samples) / self._rate
        self._gain_db = float(np.clip(np.clip(before, least, most), before - step, before + step))
        ramp = np.linspace(before, self._gain_db, len(samples))
        return (samples * 10 ** (ramp / 20)).astype(np.float32)

    def finish(self) -> None:
        """The clip is whole: the voice's next one may profit."""
        self._levels.learn(self._voice, self._meter)

    def _wanted_db(self) -> tuple[float, float]:
        """The gain for the level, and the highest that the peaks allow."""
        own, expected = self._meter.level, self._expected
        share = own.seconds / (expected.seconds + own.seconds)
        # Means of levels, not of powers, in which the louder of the two would count for all.
        lufs = (1 - share) * _lufs(expected.power) + share * _lufs(own.power)
        usual = (1 - share) * _db(expected.usual_peak) + share * _db(own.usual_peak)
        limit = _db(self._limit)
        wanted = float(np.clip(self._target - lufs, -_MOST_DB, _MOST_DB))
        most = limit - _db(max(expected.peak, own.peak)) + self._held_db
        # Made up for beyond that, as in a file.
        lost = _LOST_SHARE * min(max(0.0, usual + min(wanted, most) - limit), self._held_db)
        return wanted + lost, most + lost
