"""A small random model with a made-up vocabulary: every part real, and the sound is noise.

For tests and measurements. The same config and seed give the same
weights on any machine. Knows nothing of how a model is used.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from synth.codec import Codec, build_decoder, codec_shapes
from synth.interpreter import python
from synth.protocol import BUILT_IN_MODEL, RANDOM_MODEL, HistoryPrompt
from synth.transformer import tensor_shapes
from synth.vocab import (
    BARK,
    CoarseNumbers,
    CodecNumbers,
    FineNumbers,
    ModelConfig,
    SemanticNumbers,
    TextNumbers,
    TransformerShape,
)
from synth.voices import VoiceBook

NOTICE = "This is a random model: it makes noise, not speech."
BUILT_IN_NOTICE = (
    "This is the small built-in English model; Bark itself, which whoever runs this can fetch, "
    "sounds better and speaks 13 languages."
)

# Letters of many scripts, alone and as the inside of a word.
VOCABULARY = Path(__file__).parent / "data" / "random_vocab.txt"

# Steepness of the logits: enough that a rounding error does not change which is largest.
_SHARPNESS = 4.0
_LEVEL = 0.08  # rms of the waveform

_VOICE_S = 1.0


def _random_config() -> ModelConfig:
    def shape(input_vocab: int, output_vocab: int) -> TransformerShape:
        return TransformerShape(
            n_layer=2,
            n_head=4,
            width=64,
            input_vocab=input_vocab,
            output_vocab=output_vocab,
            context=448,
        )

    text, semantic, book = 96, 500, 128
    return ModelConfig(
        name=RANDOM_MODEL,
        lineage=RANDOM_MODEL,
        semantic_shape=shape(4096, 512),
        coarse_shape=shape(800, 800),
        fine_shape=shape(136, 136),
        text=TextNumbers(block=text, offset=512, pad=4094, infer=4095),
        semantic=SemanticNumbers(vocab=semantic, rate_hz=50.0, pad=semantic, max_steps=300),
        coarse=CoarseNumbers(
            semantic_block=96, semantic_pad=790, infer=791, history=210, window=60
        ),
        fine=FineNumbers(codebooks=4, mask=book, window=256, hop=128),
        codec=CodecNumbers(codebook_size=book, dimension=32, n_filters=4),
    )


RANDOM = _random_config()


@dataclass(frozen=True)
class RandomCheckpoint:
    """A checkpoint that was never a file."""

    config: ModelConfig
    tokenizer_file: Path
    stages: Mapping[str, Mapping[str, Tensor]]

    def tensors(self, stage: str, /) -> Mapping[str, Tensor]:
        """Float32 tensors of "semantic", "coarse", "fine" or "codec"."""
        return self.stages[stage]


# Where random numbers come from: a GPU makes those of a large model in a second, but others.
_Source = np.random.Generator | torch.Generator


def random_checkpoint(
    config: ModelConfig = RANDOM, seed: int = 0, device: str = "cpu"
) -> RandomCheckpoint:
    """Random weights for any config, with logits sharp enough to tell right from nearly right.

    The semantic stage's end grows likely with its position, so that clips end by themselves in
    the second third of the longest. The tensors lie on `device`; those of a CPU are the same on
    any machine.
    """
    rng: _Source = np.random.default_rng(seed)
    if torch.device(device).type == "cuda":
        rng = torch.Generator(device).manual_seed(seed)
    stages = {
        "semantic": _transformer(config.semantic_shape, rng),
        "coarse": _transformer(config.coarse_shape, rng),
        "fine": _transformer(config.fine_shape, rng, codebooks=config.fine.codebooks),
        "codec": _codec(config, rng),
    }
    _make_it_end(stages["semantic"], config, rng)
    # Ids that mean nothing are never likely in a trained model either.
    codes_end = config.semantic.vocab + config.coarse.codebooks * config.codec.codebook_size
    stages["coarse"]["lm_head.weight"][codes_end:] = 0
    return RandomCheckpoint(config, VOCABULARY, stages)


class RandomVoices(VoiceBook):
    """The names of Bark's voices, so that there is something to choose; each is a noise of its own.

    What a voice holds depends on its name alone.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(BARK)
        self._config = config

    def get(self, name: str) -> HistoryPrompt:
        config = self._config
        rng = np.random.default_rng(zlib.crc32(self.resolve(name).encode()))
        tokens, frames = (
            round(_VOICE_S * config.semantic.rate_hz),
            round(_VOICE_S * config.codec.frame_rate),
        )
        fine = rng.integers(config.codec.codebook_size, size=(config.fine.codebooks, frames))
        return HistoryPrompt(
            semantic=rng.integers(config.semantic.vocab, size=tokens),
            coarse_codes=fine[: config.coarse.codebooks],
            fine_codes=fine,
            family=config.family,
        )


def is_random(config: ModelConfig) -> bool:
    """Whether a model is of this kind; a folder of any other may bear the name."""
    return config.lineage == RANDOM_MODEL


def notice_of(config: ModelConfig) -> str:
    """One sentence for those who hear a model that is not the real Bark; "" for one that is."""
    if is_random(config):
        return NOTICE
    return BUILT_IN_NOTICE if config.name == BUILT_IN_MODEL else ""


def remedy_of(config: ModelConfig) -> str:
    """What brings Bark itself, for those who run the model inside the package; else ""."""
    if config.name != BUILT_IN_MODEL:
        return ""
    return f"To bring Bark: {python()} -m synth fetch suno/bark-small"


def voice_book(config: ModelConfig) -> VoiceBook:
    """The voices that a model, random or not, can speak with."""
    return RandomVoices(config) if is_random(config) else VoiceBook(config)


def _normal(rng: _Source, shape: tuple[int, ...], scale: float) -> Tensor:
    if isinstance(rng, torch.Generator):
        return torch.randn(shape, generator=rng, device=rng.device) * scale
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)) * scale


def _transformer(shape: TransformerShape, rng: _Source, *, codebooks: int = 0) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, size in tensor_shapes(shape, codebooks=codebooks).items():
        if len(size) == 1:
            tensors[name] = _normal(rng, size, 0.1) + (0.0 if name.endswith(".bias") else 1.0)
        elif name.startswith("lm_head"):
            tensors[name] = _normal(rng, size, _SHARPNESS * shape.width**-0.5)
        elif name == "transformer.wpe.weight" or ".wte" in name:
            tensors[name] = _normal(rng, size, 1.0)
        else:
            tensors[name] = _normal(rng, size, 1.5 * size[1] ** -0.5)
    for book in range(codebooks - 1):  # tied, as in the original
        tensors[f"transformer.wtes.{book + 1}.weight"] = tensors[f"lm_heads.{book}.weight"]
    return tensors


def _make_it_end(tensors: dict[str, Tensor], config: ModelConfig, rng: _Source) -> None:
    """Point late positions and the end's row of the head into one direction."""
    width = config.semantic_shape.width
    direction = _normal(rng, (width,), 1.0)
    direction /= direction.norm()
    first, steps = config.text.block, config.semantic.max_steps
    ramp = torch.zeros(config.semantic_shape.context)
    ramp[first : first + steps] = torch.linspace(-1.0, 4.0, steps)
    ramp = ramp.to(direction.device)
    tensors["transformer.wpe.weight"] += ramp[:, None] * direction * width**0.5
    tensors["lm_head.weight"][config.semantic.pad] = direction * 4.5 * _SHARPNESS * width**-0.5


def _codec(config: ModelConfig, rng: _Source) -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = codec_shapes(config, build_decoder(config))
    tensors: dict[str, Tensor] = {}
    for name, size in shapes.items():
        if name.endswith("embed"):
            tensors[name] = _normal(rng, size, config.fine.codebooks**-0.5)
        elif len(size) == 3:  # a convolution, in the weight norm layout checkpoints have
            weight = _normal(rng, size, 1.4 * (size[1] * size[2]) ** -0.5)
            tensors[f"{name}_v"] = weight
            tensors[f"{name}_g"] = weight.flatten(1).norm(dim=1)[:, None, None]
        elif len(size) == 2:
            tensors[name] = _normal(rng, size, size[1] ** -0.5)
        else:
            tensors[name] = _normal(rng, size, 0.05)
    _set_level(tensors, config, rng)
    return tensors


def _set_level(tensors: dict[str, Tensor], config: ModelConfig, rng: _Source) -> None:
    """Scale the last convolution so that the noise comes out at the level of speech."""
    whole = np.random.default_rng(0) if isinstance(rng, torch.Generator) else rng
    codes = whole.integers(config.codec.codebook_size, size=(config.fine.codebooks, 30))
    device = next(iter(tensors.values())).device
    samples = Codec(config, tensors, device=device).decode(codes)
    gain = _LEVEL / float(samples.std())
    last = max(int(name.split(".")[2]) for name in tensors if name.startswith("decoder."))
    for part in ("weight_g", "bias"):
        name = f"decoder.model.{last}.conv.conv.{part}"
        tensors[name] = tensors[name] * gain
