"""The codec's decoder as it is trained: the rows of eight codebooks, summed, into a SEANet.

It learns from speech whose phase is its own oscillator's (`aligned.py`): the voiced part sample by
sample where it outweighs the rest, everything by its spectra; and from an adversarial phase
(`discriminators.py`), after as many crops as those took to flatten. The rows stay the centroids
that name the codes.
"""

import contextlib
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synth.errors import InvalidRequest
from synth.mel import mel_filters
from synth.nano import oscillator, recipe
from synth.nano.ahead import Batch
from synth.nano.aligned import fresh_decoder
from synth.nano.codebooks import Codebooks
from synth.nano.discriminators import Jury, fooling_loss, jury_loss
from synth.nano.recipe import CODEC, FINE, SEED, Paths
from synth.nano.shards import samples

_LEAD = 6  # frames whose sound is not judged: they hear no past
_CROP = 32  # frames that are, 0.64 s
_JURY_RATE = 4e-4
_HEED_CROPS = 9_600
_SPECTRAL_WEIGHT, _ALIGNED_WEIGHT, _APART_WEIGHT = 3.0, 2.0, 4.0
_COARSE_ONLY = 0.1  # share of batches that hear only two books, so that two alone still speak


class Vocoder(nn.Module):
    """(K, B, T) codes of the first K books -> (B, T * hop) samples."""

    def __init__(self, books: Codebooks) -> None:
        super().__init__()
        self.rows: Tensor
        self.register_buffer("rows", books.rows.clone())
        self.decoder = fresh_decoder(books)
        oscillator.hold(self.decoder)

    def forward(self, codes: Tensor, state: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """`state` is the LSTM's before the first frame."""
        z = torch.stack([self.rows[k][c] for k, c in enumerate(codes)]).sum(0)
        layers = cast(nn.Sequential, self.decoder.model)
        x = layers[0](z.mT).permute(2, 0, 1)
        lstm = cast(nn.LSTM, layers[1].lstm)
        y = (lstm(x, state)[0] + x).permute(1, 2, 0)
        for layer in list(layers)[2:]:
            y = layer(y)
        return y[:, 0]


class SpectralLoss(nn.Module):
    """Mean over resolutions of log-mel L1 and a tenth of the spectral convergence.

    The latter is about what is loud, which `AlignedLoss` knows better.
    """

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
            total = total + 0.1 * away.mean()
        return total / len(self.sizes)


class AlignedLoss(nn.Module):
    """How far the voiced part is from what it should be, sample by sample.

    Squared error as a share of the voiced part's energy: of the waveform, and of spectra at two
    resolutions, there each bin as far as pulses outweigh everything else in it and against the
    loudness around it, for high harmonics are faint. Squares, because plain distances have a
    minimum at silence that a decoder begins in and does not leave.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sizes = (256, 1024)
        for n_fft in self.sizes:
            self.register_buffer(f"window{n_fft}", torch.hann_window(n_fft))

    def forward(self, made: Tensor, true: Tensor, harmonic: Tensor) -> Tensor:
        total = (made - harmonic).square().mean() / harmonic.square().mean().clamp(min=1e-5)
        for n_fft in self.sizes:
            window = getattr(self, f"window{n_fft}")
            a, b, h = (
                torch.stft(x, n_fft, n_fft // 4, window=window, return_complex=True)
                for x in (made, true, harmonic)
            )
            voiced, rest, off = (x.real.square() + x.imag.square() for x in (h, b - h, a - h))
            near = F.avg_pool2d(
                (voiced + rest)[:, None], (9, 5), 1, (4, 2), count_include_pad=False
            )[:, 0]
            weight = voiced / (voiced + rest + 1e-6) / (near + 1e-4 * n_fft).sqrt()
            total = total + 0.5 * (weight * off).sum() / (weight * voiced).sum().clamp(min=1.0)
        return total


class _Shard:
    """An aligned shard; nothing is read before it is used."""

    def __init__(self, folder: Path) -> None:
        index = np.load(folder / "index.npz")
        self.codes, self.ends, self.handed = index["codes"], index["ends"], index["handed"]
        self.audio = samples(folder / "audio.i16")
        self.harmonic = samples(folder / "harmonic.i16")
        usable = np.flatnonzero(np.diff(self.ends, prepend=0) > _LEAD + _CROP)
        held = recipe.VALIDATION if int(folder.name) == 0 else 0
        self.held_out, self.trained_on = usable[usable < held], usable[usable >= held]


class Crops:
    """Random crops of aligned speech: codes, the samples they stand for, and how they begin.

    Raises InvalidRequest when there is no speech to train on, or none to validate with.
    """

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self._known: dict[str, _Shard] = {}
        self.refresh()
        if not self._with(validation=False) or not self._with(validation=True):
            raise InvalidRequest(
                f"Too little under {paths.aligned}, where the first {recipe.VALIDATION} utterances "
                "of shard 000 are held out: run `align` first, or with more --shards."
            )

    def refresh(self) -> bool:
        folders = sorted(self.paths.aligned.glob("[0-9]*"))
        new = {f.name: _Shard(f) for f in folders if f.name not in self._known}
        self._known |= new
        return bool(new)

    def _with(self, validation: bool) -> list[tuple[_Shard, np.ndarray]]:
        """Shards, in order, and which of their utterances may be drawn; those that have some."""
        known = [self._known[name] for name in sorted(self._known)]
        chosen = [(s, s.held_out if validation else s.trained_on) for s in known]
        return [(shard, usable) for shard, usable in chosen if len(usable)]

    def draw(self, rng: np.random.Generator, count: int, validation: bool = False) -> Batch:
        """codes (8, B, T) int64; samples and their voiced part (B, T * hop) float32, T = lead +
        crop; what hands the phase on before them (B, 8), and angles for the seeds."""
        shards = self._with(validation)
        size = _LEAD + _CROP
        codes = np.empty((FINE.codebooks, count, size), np.int64)
        sound = np.empty((2, count, size * CODEC.hop), np.float32)
        handed = np.empty((count, 8), np.float32)
        for row in range(count):
            shard, usable = shards[int(rng.integers(len(shards)))]
            i = int(rng.choice(usable))
            first = int(shard.ends[i - 1]) if i else 0
            # From the second frame on: the one before it hands the phase on.
            at = first + 1 + int(rng.integers(int(shard.ends[i]) - first - size))
            codes[:, row] = shard.codes[:, at : at + size]
            handed[row] = shard.handed[at - 1]
            span = slice(at * CODEC.hop, (at + size) * CODEC.hop)
            for k, source in enumerate((shard.audio, shard.harmonic)):
                sound[k, row] = source[span].astype(np.float32) / 32768
        turned = rng.uniform(0, 2 * np.pi, (count, oscillator.SEEDS)).astype(np.float32)
        return codes, sound[0], sound[1], handed, turned


class VocoderStage:
    """The decoder as a stage of the training loop: spectral losses, later the jury's too."""

    name = "decoder"

    def __init__(self, paths: Paths, batch: int, device: str = "cpu") -> None:
        self.batch, self.device = batch, device
        self._heard = 0  # crops, in training
        if device != "cpu":  # its convolutions may be shorter of digits, the oscillator not
            cudnn: Any = torch.backends.cudnn
            cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = "tf32", "ieee"
        self.crops = Crops(paths)
        self.model = Vocoder(Codebooks.load(paths.codebooks)).to(device)
        self.aligned = AlignedLoss().to(device)
        self.spectral = SpectralLoss().to(device)
        self.jury = Jury().to(device)
        self._jury_optimizer = torch.optim.AdamW(
            self.jury.parameters(), _JURY_RATE, betas=(0.8, 0.99), weight_decay=1e-3
        )

    def extra_state(self) -> dict[str, Any]:
        return {
            "crops": self._heard,
            "jury": self.jury.state_dict(),
            "optimizer": self._jury_optimizer.state_dict(),
        }

    def load_extra(self, state: dict[str, Any]) -> None:
        self._heard = state.get("crops", 0)
        self.jury.load_state_dict(state["jury"])
        if "optimizer" in state:
            self._jury_optimizer.load_state_dict(state["optimizer"])

    def refresh(self) -> bool:
        return self.crops.refresh()

    def prepare(self, step: int, rng: np.random.Generator) -> Batch:
        """Codes of eight books (now and then two), the samples they stand for, their beginning."""
        codes, *others = self.crops.draw(rng, self.batch)
        return (codes[:2] if rng.random() < _COARSE_ONLY else codes), *others

    def precision(self) -> contextlib.AbstractContextManager[object]:
        """The jury's: bf16 on a GPU.

        The decoder's is single on a CPU, where with AMX the gradients of bf16 transposed
        convolutions came out wrong (cosine .1 to .5 with those of single precision, torch 2.13).
        On a GPU its convolutions are TF32, set for the whole process, as gradients are computed
        outside of here; its LSTM is single there too: the oscillator must turn as it will when it
        speaks.
        """
        if self.device == "cpu":
            return contextlib.nullcontext()
        return torch.autocast(self.device.split(":")[0], torch.bfloat16)

    def speak(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(B, crop * hop) samples behind the lead, float32: made, true, and true where voiced."""
        codes, audio, harmonic, handed, turned = (
            torch.from_numpy(array).to(self.device) for array in batch
        )
        made = self.model(codes, oscillator.start(handed, turned))
        lead = _LEAD * CODEC.hop
        return made[:, lead:], audio[:, lead:], harmonic[:, lead:]

    def loss(self, step: int, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        made, true, harmonic = self.speak(batch)
        spectral = self.spectral(made, true)
        parts = {"spectral": spectral.detach()}
        loss = _SPECTRAL_WEIGHT * spectral
        if len(batch[0]) == FINE.codebooks:  # two books alone turn a little otherwise
            aligned = self.aligned(made, true, harmonic)
            parts["aligned"] = aligned.detach()
            loss = loss + _ALIGNED_WEIGHT * aligned
        past = self._heard - recipe.ADVERSARIAL_CROPS
        self._heard += self.batch
        if past < 0:
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
        # The jury knows nothing at first; its word comes to count bit by bit.
        heed = min(1.0, past / _HEED_CROPS)
        parts |= {"jury": verdict.detach(), "fooled": fooled.detach(), "apart": apart.detach()}
        return loss + heed * (fooled + _APART_WEIGHT * apart), parts

    def validate(self) -> dict[str, float]:
        """Of utterances held out: spectral loss with eight books and two, aligned with eight."""
        rng = np.random.default_rng(SEED)
        out: dict[str, float] = {}
        for books in (8, 2):
            codes, *others = self.crops.draw(rng, 24, validation=True)
            made, true, harmonic = self.speak((codes[:books], *others))
            out[f"spectral{books}"] = self.spectral(made, true).item()
            if books == FINE.codebooks:
                out["aligned"] = self.aligned(made, true, harmonic).item()
        return out
