"""What the codec codes: a phase-free picture of sound, 50 frames a second.

82 numbers a frame: 80 log-mel bands, voicing, and log2 F0. Being free of phase they are far easier
to predict than a waveform's own codes, and the codebooks over them exist before any training.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from synth.mel import mel_filters
from synth.nano.recipe import CODEC

BANDS = 80
_WINDOW = 1024
_FLOOR = 3e-3
PITCH_WEIGHT = 5.0  # pitch is one number of 82 and matters more than a band
_VOICING_WEIGHT = 3.0


def log_mel(audio: Tensor) -> Tensor:
    """(..., samples) at 24 kHz, whole frames -> (..., frames, BANDS) log mel amplitude."""
    hop = CODEC.hop
    side = (_WINDOW - hop) // 2
    frames = F.pad(audio, (side, side)).unfold(-1, _WINDOW, hop)
    window = torch.hann_window(_WINDOW, device=audio.device)
    spectrum = torch.fft.rfft(frames * window).abs()
    return torch.log(
        (spectrum @ mel_filters(BANDS, _WINDOW, CODEC.sample_rate).T.to(audio.device)).clamp(
            min=_FLOOR
        )
    )


@dataclass
class Scaler:
    """Brings the 82 numbers to comparable sizes; fitted once, stored with the codebooks."""

    mean: Tensor  # (BANDS,)
    spread: float
    pitch_mean: float
    pitch_spread: float
    voiced: float

    def __call__(self, mel: Tensor, f0: Tensor) -> Tensor:
        """(T, BANDS) log-mel and (T,) Hz -> (T, 82)."""
        on = (f0 > 40).float()
        z = (torch.log2(f0.clamp(min=40)) - self.pitch_mean) / self.pitch_spread
        pitch = z.clamp(-2.5, 2.5) * on * PITCH_WEIGHT
        voicing = (on - self.voiced) * _VOICING_WEIGHT
        return torch.cat([(mel - self.mean) / self.spread, voicing[:, None], pitch[:, None]], 1)

    @classmethod
    def fit(cls, mel: Tensor, f0: Tensor) -> "Scaler":
        on = f0 > 40
        mean = mel.mean(0)
        octaves = torch.log2(f0[on])
        return cls(
            mean=mean,
            spread=float((mel - mean).pow(2).mean().sqrt()),
            pitch_mean=float(octaves.mean()),
            pitch_spread=float(octaves.std()),
            voiced=float(on.float().mean()),
        )
