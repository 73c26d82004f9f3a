"""Which of several candidates for an utterance is the best: one number for each.

    score = log-probability a semantic token
            - 4 where the length is not plausible for the text, - 2 where no end came
            - 4 x the share of silence over a quarter - 20 x the share of clipped samples

The log-probability is the model's own opinion of what it said, in nats, usually -1 to -4; the rest
is what it has no opinion of. The first of equals wins.
"""

import numpy as np

from synth.level import FRAME_S, Samples, frame_rms, is_loud
from synth.pace import is_plausible
from synth.protocol import Done

_CLIPPED = 0.999


def score(text: str, samples: Samples, sample_rate: int, done: Done) -> float:
    """How good a candidate is; higher is better.

    samples: (N,) of the whole utterance as the model made it, its silence included.
    """
    made = done.renditions[0] if done.renditions else None
    total = made.log_prob if made is not None and made.log_prob is not None else 0.0
    loud = is_loud(frame_rms(samples, round(FRAME_S * sample_rate)))
    heard_s = _span(loud) * FRAME_S
    if not is_plausible(text, heard_s):
        total -= 4.0
    if made is not None and not made.ended:
        total -= 2.0
    silent = 1.0 - loud.mean() if len(loud) else 1.0
    total -= 4.0 * max(0.0, float(silent) - 0.25)
    clipped = np.abs(samples) >= _CLIPPED
    return float(total - (20.0 * clipped.mean() if len(samples) else 0.0))


def _span(loud: "np.ndarray") -> int:
    """Frames from the first sound to the last."""
    places = np.flatnonzero(loud)
    return int(places[-1] - places[0] + 1) if len(places) else 0
