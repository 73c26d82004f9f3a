"""One job's codes on their way out: decoded a run of frames at a time, numbered, counted.

Knows which frames to decode next and what has been sent; nothing of how codes are made.
"""

import numpy as np
import numpy.typing as npt

from synth.codec import Codec
from synth.codec_stream import CodecStream, Runs
from synth.protocol import Audio

# Frames decoded at a time. The first sound is wanted soon; later on, small pieces cost more a frame
# and bring nothing: one core decodes 1 frame at a time 2.7 times faster than real time, 15 frames
# 10 times, 30 frames 11.4 times, a whole clip 12.3 times. Two cores take .14 s for a clip of 5 s in
# runs of 120 frames, and .19 s in runs of 60.
FIRST_FRAMES = 15
LEAST_FRAMES = 30
MOST_FRAMES = 120
# A GPU takes 3.1 ms for these where they are recorded, and 1.8 for 60 (H200).
MOST_FRAMES_CUDA = 240


def chunk_frames(decoded: int, final: int, *, complete: bool, most: int = MOST_FRAMES) -> int:
    """How many frames to decode next, 0 to wait for more of them.

    decoded: frames decoded so far; final: frames whose codes do not change any more; complete:
    there will be no others; most: at once.
    """
    left = final - decoded
    if decoded == 0 and left > FIRST_FRAMES:
        return FIRST_FRAMES
    least = FIRST_FRAMES if decoded == 0 else LEAST_FRAMES
    return min(left, most) if complete or left >= least else 0


class Sound:
    """The samples of one job, in chunks of which each begins where the last one ended."""

    def __init__(self, codec: Codec, job_id: str, utterance: int, runs: Runs | None = None) -> None:
        """runs: of the codec, recorded."""
        self._stream = CodecStream(codec, runs)
        self._most = MOST_FRAMES_CUDA if codec.device.type == "cuda" else MOST_FRAMES
        self._job_id, self._utterance = job_id, utterance
        self._chunks = 0
        self.frames = 0  # decoded
        self.samples = 0  # handed out

    def next_frames(self, final: int, *, complete: bool) -> int:
        """How many frames to decode next, as `chunk_frames`."""
        return chunk_frames(self.frames, final, complete=complete, most=self._most)

    def decode(self, fine_codes: npt.NDArray[np.integer], *, last: bool) -> Audio | None:
        """The next (codebooks, f) codes -> their event; None while the codec waits for more.

        last: there are no more codes; what the codec held back comes too.
        """
        samples = self._stream.push(fine_codes, last=last)
        self.frames += fine_codes.shape[1]
        if not len(samples):
            return None
        event = Audio(self._job_id, self._utterance, self._chunks, samples)
        self._chunks += 1
        self.samples += len(samples)
        return event
