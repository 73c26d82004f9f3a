"""Every number of the recipe in one place: the model's config, the voices, the training runs.

The model is Bark with other numbers (`NANO`): 50 semantic tokens and 50 codec frames a second, so
that one semantic token stands beside one frame; spelled text (a WordPiece vocabulary of single
characters); narrow transformers. Imports no torch.
"""

from dataclasses import dataclass
from pathlib import Path

from synth.nano.spelling import PIECES
from synth.vocab import (
    CoarseNumbers,
    CodecNumbers,
    FineNumbers,
    ModelConfig,
    SamplingDefaults,
    SemanticNumbers,
    TextNumbers,
    TransformerShape,
)

_SEMANTIC = 512
_TEXT_OFFSET = _SEMANTIC + 1  # 512 is the semantic pad and the end of a clip
_TEXT_PAD = _TEXT_OFFSET + len(PIECES)
_TEXT_BLOCK = 128
_CODES = 1024
_COARSE_PAD = _SEMANTIC + 2 * _CODES

TEXT = TextNumbers(
    block=_TEXT_BLOCK,
    offset=_TEXT_OFFSET,
    pad=_TEXT_PAD,
    infer=_TEXT_PAD + 1,
    lower_case=False,
    figures=False,
)
SEMANTIC = SemanticNumbers(vocab=_SEMANTIC, rate_hz=50.0, pad=_SEMANTIC, max_steps=560)
COARSE = CoarseNumbers(
    codebooks=2,
    semantic_block=144,
    semantic_pad=_COARSE_PAD,
    infer=_COARSE_PAD + 1,
    history=160,
    window=80,
)
FINE = FineNumbers(codebooks=8, mask=_CODES, window=192, hop=96)
CODEC = CodecNumbers(
    sample_rate=24_000,
    frame_rate=50,
    codebook_size=_CODES,
    dimension=82,  # 80 log-mel bands, voicing, log F0
    n_filters=32,
    n_residual_layers=3,
    ratios=(4, 5, 6, 4),  # large strides last: the wide layers run at low rates
    lstm=2,  # the first for the second's oscillator: see oscillator.py
)

NANO = ModelConfig(
    name="nano",
    semantic_shape=TransformerShape(
        n_layer=5,
        n_head=4,
        width=256,
        input_vocab=_TEXT_PAD + 2,
        output_vocab=_SEMANTIC + 1,
        context=_TEXT_BLOCK + 1 + SEMANTIC.max_steps,
    ),
    coarse_shape=TransformerShape(
        n_layer=4,
        n_head=3,
        width=192,
        input_vocab=_COARSE_PAD + 2,
        output_vocab=_COARSE_PAD,
        context=COARSE.semantic_block + 1 + COARSE.history + COARSE.window,
    ),
    fine_shape=TransformerShape(
        n_layer=3,
        n_head=3,
        width=144,
        input_vocab=_CODES + 8,
        output_vocab=_CODES + 8,
        context=FINE.window,
    ),
    text=TEXT,
    semantic=SEMANTIC,
    coarse=COARSE,
    fine=FINE,
    codec=CODEC,
    sampling=SamplingDefaults(
        text_temperature=0.5, waveform_temperature=0.3, fine_temperature=0.3, min_eos_p=0.2
    ),
    lineage="nano-1",
    languages=("en",),
)


@dataclass(frozen=True)
class Voice:
    """How one voice is made of the teacher's: pitch, vocal tract length, intonation and pace."""

    name: str
    gender: str
    pitch: float  # F0 times this
    formant: float  # every resonance times this
    swing: float  # excursions of log F0 around the teacher's median times this
    speed: float  # 1.0 is the teacher's pace


# Distinct in median F0, in formants and in pace; the first is the teacher as she is.
VOICES = (
    Voice("nano/ada", "female", pitch=1.0, formant=1.0, swing=1.0, speed=1.0),
    Voice("nano/bruno", "male", pitch=0.56, formant=0.86, swing=0.9, speed=0.96),
    Voice("nano/clio", "female", pitch=1.28, formant=1.09, swing=1.1, speed=1.12),
    Voice("nano/dario", "male", pitch=0.74, formant=0.93, swing=0.75, speed=1.06),
)


@dataclass(frozen=True)
class Paths:
    """Where a run keeps its things; never inside the package."""

    root: Path

    @property
    def corpus(self) -> Path:
        return self.root / "corpus.txt"

    @property
    def heldout(self) -> Path:
        return self.root / "heldout.json"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def aligned(self) -> Path:
        return self.root / "aligned"

    @property
    def codebooks(self) -> Path:
        return self.root / "codebooks.npz"

    @property
    def units(self) -> Path:
        return self.root / "units.npz"

    def checkpoint(self, stage: str) -> Path:
        return self.root / "checkpoints" / f"{stage}.pt"


@dataclass(frozen=True)
class Run:
    """How one stage is trained."""

    batch: int
    learning_rate: float
    warmup: int = 150
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.97)  # of AdamW
    dropout: float = 0.0
    save_every: int = 100


SEED = 1
# The decoder's discriminators come in when it has heard so many crops: its spectral losses had
# flattened after 3,500 steps of 32.
ADVERSARIAL_CROPS = 112_000
SHARD = 4_000  # utterances
VALIDATION = 300  # the first utterances of shard 000: no stage trains on them
RUNS = {
    "semantic": Run(batch=7_000, learning_rate=1.5e-3, dropout=0.1),  # batch in positions
    "coarse": Run(batch=16, learning_rate=1.5e-3),  # in windows
    "fine": Run(batch=24, learning_rate=1.5e-3),  # in windows
    "decoder": Run(
        batch=6,
        learning_rate=1e-3,
        weight_decay=1e-4,
        betas=(0.8, 0.99),
    ),  # in crops
}
