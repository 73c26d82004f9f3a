"""The codec's decoder as it is trained: the rows of eight codebooks, summed, into a SEANet.

Spectral losses first; an adversarial phase (`discriminators.py`) when they have flattened. The rows
stay the centroids that name the codes.
"""

import contextlib
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from synth.codec import build_decoder
from synth.nano.ahead import Batch
from synth.nano.codebooks import Codebooks
from synth.nano.discriminators import Jury, fooling_loss, jury_loss
from synth.nano.features import mel_filters
from synth.nano.recipe import ADVERSARIAL_FROM, CODEC, FINE, NANO, SEED, Paths
from synth.nano.shards import Shard, list_shards, open_shard

_LEAD = 8  # frames whose sound is not judged: they hear no past
_CROP = 56  # frames that are, 1.12 s
_JURY_RATE = 4e-4
_HEED_STEPS = 300
_SPECTRAL_WEIGHT, _APART_WEIGHT = 4.0, 4.0
_COARSE_ONLY = 0.1  # share of batches that hear only two books, so that two alone still speak


class Vocoder(nn.Module):
    """(K, B, T) codes of the first K books -> (B, T * hop) samples."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows: Tensor
        self.register_buffer("rows", rows.clone())
        with warnings.catch_warnings():  # encodec uses a weight_norm that torch calls old
            warnings.simplefilter("ignore")
            self.decoder = build_decoder(NANO, norm="weight_norm")

    def forward(self, codes: Tensor) -> Tensor:
        z = torch.stack([self.rows[k][c] for k, c in enumerate(codes)]).sum(0)
        return self.decoder(z.mT)[:, 0]


class SpectralLoss(nn.Module):
    """Mean over resolutions of log-mel L1 and half the spectral convergence."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = ((128, 24), (512, 64), (1024, 96), (2048, 128))
        for n_fft, bands in self.sizes:
            self.register_buffer(f"mel{n_fft}", mel_filters(bands, n_fft, CODEC.sample_rate))
            self.register_buffer(f"window{n_fft}", torch.hann_window(n_fft))

    def _spectrum(self, x: Tensor, n_fft: int) -> Tensor:
        window = getattr(self, f"window{n_fft}")
        z = torch.stft(x, n_fft, n_fft // 4, window=window, return_complex=True)
        return (z.real.square() + z.imag.square() + 1e-9).sqrt()

    def forward(self, made: Tensor, true: Tensor) -> Tensor:
        total = torch.zeros((), device=made.device)
        for n_fft, _ in self.sizes:
            a, b = self._spectrum(made, n_fft), self._spectrum(true, n_fft)
            mel, floor = getattr(self, f"mel{n_fft}"), 3e-4 * n_fft**0.5
            total = total + ((mel @ a + floor).log() - (mel @ b + floor).log()).abs().mean()
            away = (a - b).flatten(1).norm(dim=1) / (b.flatten(1).norm(dim=1) + 0.1)
            total = total + 0.5 * away.mean()
        return total / len(self.sizes)


class Crops:
    """Random crops of tokenized speech: codes and the samples they stand for."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self._known: list[tuple[Shard, np.ndarray, np.ndarray]] = []
        self.refresh()

    def refresh(self) -> bool:
        folders = [f for f in list_shards(self.paths) if (f / "tokens.npz").exists()]
        known = len(self._known)
        for folder in folders[known:]:
            held = np.load(folder / "tokens.npz")
            self._known.append((open_shard(folder), held["codes"], held["ends"]))
        return len(folders) > known

    def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """codes (8, B, T) int64 and samples (B, T * hop) float32, T = lead + crop."""
        size = _LEAD + _CROP
        codes = np.empty((FINE.codebooks, count, size), np.int64)
        audio = np.empty((count, size * CODEC.hop), np.float32)
        for row in range(count):
            shard, all_codes, ends = self._known[int(rng.integers(len(self._known)))]
            first = 0
            while True:
                i = int(rng.integers(len(ends)))
                first = int(ends[i - 1]) if i else 0
                if ends[i] - first >= size:
                    break
            at = int(rng.integers(ends[i] - first - size + 1))
            codes[:, row] = all_codes[:, first + at : first + at + size]
            start = int(shard.offsets[i]) + at * CODEC.hop
            audio[row] = shard.audio[start : start + size * CODEC.hop].astype(np.float32) / 32768
        return codes, audio


class VocoderStage:
    """The decoder as a stage of the training loop: spectral losses, later the jury's too."""

    name = "decoder"

    def __init__(self, paths: Paths, batch: int, device: str = "cpu") -> None:
        self.batch, self.device = batch, device
        self.crops = Crops(paths)
        self.model = Vocoder(Codebooks.load(paths.codebooks).rows).to(device)
        self.spectral = SpectralLoss().to(device)
        self.jury = Jury().to(device)
        self._jury_optimizer = torch.optim.AdamW(
            self.jury.parameters(), _JURY_RATE, betas=(0.8, 0.99), weight_decay=1e-3
        )

    def extra_state(self) -> dict[str, Any]:
        return {"jury": self.jury.state_dict(), "optimizer": self._jury_optimizer.state_dict()}

    def load_extra(self, state: dict[str, Any]) -> None:
        self.jury.load_state_dict(state["jury"])
        if "optimizer" in state:
            self._jury_optimizer.load_state_dict(state["optimizer"])

    def refresh(self) -> bool:
        return self.crops.refresh()

    def prepare(self, step: int, rng: np.random.Generator) -> Batch:
        """Codes of eight books (now and then two) and the samples they stand for."""
        codes, audio = self.crops.draw(rng, self.batch)
        return (codes[:2] if rng.random() < _COARSE_ONLY else codes), audio

    def precision(self) -> contextlib.AbstractContextManager[object]:
        """bf16 on a GPU only: on a CPU with AMX the gradients of bf16 transposed convolutions came
        out wrong (cosine .1 to .5 with those of single precision, torch 2.13)."""
        if self.device == "cpu":
            return contextlib.nullcontext()
        return torch.autocast(self.device.split(":")[0], torch.bfloat16)

    def speak(self, codes: Tensor) -> Tensor:
        """(B, crop * hop) samples behind the lead, float32."""
        with self.precision():
            made = self.model(codes)
        return made.float()[:, _LEAD * CODEC.hop :]

    def _put(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Codes, and the true samples behind the lead, on the device."""
        codes, audio = (torch.from_numpy(array).to(self.device) for array in batch)
        return codes, audio[:, _LEAD * CODEC.hop :]

    def loss(self, step: int, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        codes, true = self._put(batch)
        made = self.speak(codes)
        loss = self.spectral(made, true)
        parts = {"spectral": loss.detach()}
        if step < ADVERSARIAL_FROM:
            return loss, parts
        with self.precision():
            verdict = jury_loss(self.jury(true), self.jury(made.detach()))
        self._jury_optimizer.zero_grad()
        verdict.backward()
        self._jury_optimizer.step()
        self.jury.requires_grad_(False)
        with self.precision():
            fooled, apart = fooling_loss(self.jury(true), self.jury(made))
        self.jury.requires_grad_(True)
        # The jury knows nothing at first; its word comes to count over a few hundred steps.
        heed = min(1.0, (step - ADVERSARIAL_FROM) / _HEED_STEPS)
        parts |= {"jury": verdict.detach(), "fooled": fooled.detach(), "apart": apart.detach()}
        return _SPECTRAL_WEIGHT * loss + heed * (fooled + _APART_WEIGHT * apart), parts

    def validate(self) -> dict[str, float]:
        rng = np.random.default_rng(SEED)
        out: dict[str, float] = {}
        for books in (8, 2):
            codes, true = self._put(self.crops.draw(rng, 24))
            out[f"spectral{books}"] = self.spectral(self.speak(codes[:books]), true).item()
        return out
