"""Which of several candidates for an utterance is the best: one number for each.

    score = log-probability a semantic token
            - 4 where the length is not plausible for the text, - 2 where no end came

The log-probability is the model's own opinion of what it said, in nats, usually -1 to -4; the rest
is what it has no opinion of. All of it is known of the semantic tokens alone, so only the best
goes through the later stages. The first of equals wins.
"""

from synth.pace import is_plausible
from synth.protocol import Rendition


def score(text: str, made: Rendition) -> float:
    """How good a candidate is; higher is better.

    made: what its Done tells of it; `audio_s` is its length with the silence at its ends.
    """
    total = 0.0 if made.log_prob is None else made.log_prob
    if not is_plausible(text, made.audio_s):
        total -= 4.0
    return total if made.ended else total - 2.0
