"""Two small juries for the decoder: one hears periods, one sees spectrograms at three scales.

After HiFi-GAN's multi-period and EnCodec's multi-scale STFT discriminators, an order of magnitude
narrower. Least-squares losses.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_PERIODS = (2, 3, 5, 7, 11)
_WINDOWS = (256, 512, 1024)
_SLOPE = 0.1


class _Period(nn.Module):
    """The waveform folded into rows of one period, convolved along the columns."""

    def __init__(self, period: int) -> None:
        super().__init__()
        self.period = period
        widths = (1, 16, 48, 96, 160)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0))
            for a, b in zip(widths, widths[1:], strict=False)
        )
        self.verdict = nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0))

    def forward(self, audio: Tensor) -> list[Tensor]:
        x = F.pad(audio, (0, -audio.shape[-1] % self.period))
        x = x.unflatten(-1, (-1, self.period))[:, None]
        return _layers(x, self.layers, self.verdict)


class _Spectrogram(nn.Module):
    """Real and imaginary parts as two channels, strided along frequency."""

    def __init__(self, n_fft: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        widths = (2, 16, 24, 32, 48)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, (5, 3), (2, 1), (2, 1))
            for a, b in zip(widths, widths[1:], strict=False)
        )
        self.verdict = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, audio: Tensor) -> list[Tensor]:
        z = torch.stft(
            audio.float(), self.n_fft, self.n_fft // 4, window=self.window, return_complex=True
        )
        x = torch.stack([z.real, z.imag], 1)
        x = x * (x.square().sum(1, keepdim=True) + 1e-4) ** -0.25  # loudness compressed to its root
        return _layers(x, self.layers, self.verdict)


def _layers(x: Tensor, layers: nn.ModuleList, verdict: nn.Module) -> list[Tensor]:
    """Activations of every layer, the verdict last."""
    out: list[Tensor] = []
    for layer in layers:
        x = F.leaky_relu(layer(x), _SLOPE)
        out.append(x)
    return [*out, verdict(x)]


class Jury(nn.Module):
    """(B, samples) -> for each juror the activations of its layers, its verdict last."""

    def __init__(self) -> None:
        super().__init__()
        self.jurors = nn.ModuleList(
            [*(_Period(p) for p in _PERIODS), *(_Spectrogram(n) for n in _WINDOWS)]
        )

    def forward(self, audio: Tensor) -> list[list[Tensor]]:
        return [juror(audio) for juror in self.jurors]


def jury_loss(true: list[list[Tensor]], made: list[list[Tensor]]) -> Tensor:
    """What the jury learns from: true speech is one, made speech is zero."""
    losses = [
        (1 - t[-1].float()).square().mean() + m[-1].float().square().mean()
        for t, m in zip(true, made, strict=True)
    ]
    return torch.stack(losses).mean()


def fooling_loss(true: list[list[Tensor]], made: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """What the decoder learns from: (verdicts on its speech, distance in the jurors' layers)."""
    fooled = torch.stack([(1 - m[-1].float()).square().mean() for m in made]).mean()
    apart = [
        (a.detach().float() - b.float()).abs().mean() / (a.detach().float().abs().mean() + 1e-4)
        for t, m in zip(true, made, strict=True)
        for a, b in zip(t[:-1], m[:-1], strict=True)
    ]
    return fooled, torch.stack(apart).mean()
