"""The numbers of a checkpoint: shapes, vocabularies, offsets, special ids, rates, windows.

Every number that could differ from one Bark-like model to another lives here, once, with Bark's
own value as default; the stages take theirs from a `ModelConfig` and contain no such number of
their own. Knows nothing of files or tensors, and imports no torch.

Source of the defaults: suno-ai/bark@f4f32d4 bark/generation.py, module constants and the three
generate functions; the codec's are those of `encodec.EncodecModel.encodec_model_24khz`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from synth.errors import InvalidRequest

_STRICT = ConfigDict(
    extra="forbid"
)  # a typo in a checkpoint's config.json is an error that names the key


@dataclass(frozen=True, kw_only=True)
class TransformerShape:
    """One of the three transformers. `input_vocab` rows in, `output_vocab` logits out."""

    __pydantic_config__ = _STRICT

    n_layer: int
    n_head: int
    width: int
    input_vocab: int
    output_vocab: int
    context: int = 1024

    @property
    def head_size(self) -> int:
        return self.width // self.n_head


@dataclass(frozen=True, kw_only=True)
class TextNumbers:
    """How text becomes the first block of the semantic prompt."""

    __pydantic_config__ = _STRICT

    block: int = 256  # positions; the semantic history block has as many and is summed onto it
    offset: int = 10_048  # added to every tokenizer id
    pad: int = 129_595  # pads the text block on the right
    infer: int = 129_599  # "now predict" mark behind the two blocks
    lower_case: bool = False  # only for a tokenizer given as a bare vocab.txt; Bark's BERT is cased
    figures: bool = True  # reads numbers in figures; else they become English words before


@dataclass(frozen=True, kw_only=True)
class SemanticNumbers:
    """Semantic tokens: [0, vocab); `pad` fills the history and, predicted, ends the clip."""

    __pydantic_config__ = _STRICT

    vocab: int = 10_000
    rate_hz: float = 49.9
    pad: int = 10_000
    max_steps: int = 768


@dataclass(frozen=True, kw_only=True)
class CoarseNumbers:
    """Flattened coarse ids are semantic.vocab + book * codebook_size + code."""

    __pydantic_config__ = _STRICT

    codebooks: int = 2
    semantic_block: int = 256  # semantic positions in front of the coarse ones
    semantic_pad: int = 12_048
    infer: int = 12_050
    history: int = 630  # coarse ids a window may look back on
    window: int = 60  # coarse ids predicted before the window slides


@dataclass(frozen=True, kw_only=True)
class FineNumbers:
    """`codebooks` in all, the first from the coarse stage; `mask` marks what is unknown."""

    __pydantic_config__ = _STRICT

    codebooks: int = 8
    mask: int = 1024
    window: int = 1024  # frames a forward pass sees
    hop: int = 512  # frames a window advances; also the longest history
    padded: bool = True  # whether a clip shorter than a window is padded to it


@dataclass(frozen=True, kw_only=True)
class CodecNumbers:
    """A SEANet decoder behind a residual vector quantizer, in the `encodec` package's terms."""

    __pydantic_config__ = _STRICT

    sample_rate: int = 24_000
    frame_rate: int = 75
    codebook_size: int = 1024
    dimension: int = 128
    n_filters: int = 32
    n_residual_layers: int = 1
    ratios: tuple[int, ...] = (8, 5, 4, 2)
    lstm: int = 2
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_base: int = 2
    compress: int = 2
    true_skip: bool = False
    causal: bool = True

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return self.sample_rate // self.frame_rate


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """What the checkpoint's authors recommend; a request may override each."""

    __pydantic_config__ = _STRICT

    text_temperature: float = 0.7
    waveform_temperature: float = 0.7
    fine_temperature: float = 0.5
    min_eos_p: float | None = 0.2


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All numbers of one checkpoint."""

    __pydantic_config__ = _STRICT

    name: str
    semantic_shape: TransformerShape
    coarse_shape: TransformerShape
    fine_shape: TransformerShape
    text: TextNumbers = field(default_factory=TextNumbers)
    semantic: SemanticNumbers = field(default_factory=SemanticNumbers)
    coarse: CoarseNumbers = field(default_factory=CoarseNumbers)
    fine: FineNumbers = field(default_factory=FineNumbers)
    codec: CodecNumbers = field(default_factory=CodecNumbers)
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    # Two models can agree in every number and still have different codebooks (a retrained codec,
    # say). Checkpoints that share semantic tokens and codebooks share this word.
    lineage: str = "bark"
    languages: tuple[str, ...] = tuple("en de es fr hi it ja ko pl pt ru tr zh".split())

    @property
    def ratio(self) -> float:
        """Coarse ids per semantic token (3.006012024 for Bark)."""
        return self.codec.frame_rate / self.semantic.rate_hz * self.coarse.codebooks

    @property
    def max_semantic_history(self) -> int:
        """Semantic tokens a coarse window may look back on (209 for Bark)."""
        return int(self.coarse.history // self.ratio)

    @property
    def max_utterance_s(self) -> float:
        """The longest clip one utterance can be, in seconds."""
        return self.semantic.max_steps / self.semantic.rate_hz

    @property
    def family(self) -> str:
        """16 hex digits shared by checkpoints whose voices are interchangeable.

        A hash of vocabularies, rates and codebooks; sizes do not count: bark and bark-small share
        one.
        """
        what = {
            "semantic": [self.semantic.vocab, self.semantic.rate_hz],
            "coarse": [self.coarse.codebooks, self.codec.codebook_size],
            "fine": [self.fine.codebooks],
            "codec": [self.codec.sample_rate, self.codec.frame_rate],
            "lineage": self.lineage,
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def _bark(name: str, *, n_layer: int, n_head: int, width: int) -> ModelConfig:
    def shape(input_vocab: int, output_vocab: int) -> TransformerShape:
        return TransformerShape(
            n_layer=n_layer,
            n_head=n_head,
            width=width,
            input_vocab=input_vocab,
            output_vocab=output_vocab,
        )

    return ModelConfig(
        name=name,
        semantic_shape=shape(129_600, 10_048),
        coarse_shape=shape(12_096, 12_096),
        fine_shape=shape(1_056, 1_056),
    )


# The two sizes Suno published. Source: the `model_args` of their checkpoints.
BARK = _bark("bark", n_layer=24, n_head=16, width=1024)
BARK_SMALL = _bark("bark-small", n_layer=12, n_head=12, width=768)


def to_json(config: ModelConfig) -> dict[str, Any]:
    """The config as plain JSON values, for a checkpoint's config.json."""
    return asdict(config)


def from_json(values: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """Read what `to_json` wrote; missing parts are Bark's.

    Raises InvalidRequest that names the file (`where`) and the first key that is unknown, missing
    or of the wrong type.
    """
    try:
        return _ADAPTER.validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"{where}: {key}: {first['msg']}.") from None


_ADAPTER = TypeAdapter(ModelConfig)
