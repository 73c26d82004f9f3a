"""How far from single precision a precision may be before `auto` stops choosing it for a stage.

What counts are the distributions that tokens are drawn from, teacher forced: both models are given
the same tokens, so that one early difference is not counted again at every later one. A stage is
within the bound when their mean Kullback-Leibler divergence and the share of positions with the
same likeliest token are. `python -m synth bench --quality` measures a checkpoint by
`synth.fidelity` and says what is within; `auto` goes by what is recorded here. Knows no tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from synth.protocol import Stage


@dataclass(frozen=True)
class Fidelity:
    """One stage in one precision, against single precision.

    divergence: mean KL of this from single precision's distribution, in nats.
    agreement: share of positions whose likeliest token is the same, in [0, 1].
    """

    divergence: float
    agreement: float

    @property
    def is_within(self) -> bool:
        """Whether the bound admits it."""
        return self.divergence <= BOUND.divergence and self.agreement >= BOUND.agreement


BOUND: Final = Fidelity(divergence=0.01, agreement=0.9)

Figures = Mapping[str, Mapping[Stage, Fidelity]]  # of precisions

# Measured on random weights of Bark's two sizes, whose logits are steep, at temperatures of 0.7 and
# in fine 0.5: the worse of a clip of 3 s and one of 10. bf16 is as torch makes it; compiled, with
# activations in single precision, it is at most 0.0006. Beside AMX int8's fine stage is bf16's. In
# int8-wide rows have 16 bits in all stages, as they have without VNNI in any case. To judge by: a
# temperature a tenth higher or lower is 0.006 to 0.01.
_SMALL: Final[Figures] = {
    "bf16": {
        Stage.SEMANTIC: Fidelity(0.0025, 0.975),
        Stage.COARSE: Fidelity(0.0018, 0.965),
        Stage.FINE: Fidelity(0.0012, 0.969),
    },
    "int8": {
        Stage.SEMANTIC: Fidelity(0.0072, 0.913),
        Stage.COARSE: Fidelity(0.0085, 0.943),
        Stage.FINE: Fidelity(0.0081, 0.961),
    },
    "int8-wide": {
        Stage.SEMANTIC: Fidelity(0.0072, 0.913),
        Stage.COARSE: Fidelity(0.0045, 0.958),
        Stage.FINE: Fidelity(0.0072, 0.962),
    },
}
_LARGE: Final[Figures] = {
    "bf16": {
        Stage.SEMANTIC: Fidelity(0.0020, 0.960),
        Stage.COARSE: Fidelity(0.0016, 0.984),
        Stage.FINE: Fidelity(0.0024, 0.970),
    },
    "int8": {
        Stage.SEMANTIC: Fidelity(0.0069, 0.960),
        Stage.COARSE: Fidelity(0.0112, 0.939),
        Stage.FINE: Fidelity(0.0112, 0.929),
    },
    "int8-wide": {
        Stage.SEMANTIC: Fidelity(0.0069, 0.960),
        Stage.COARSE: Fidelity(0.0094, 0.946),
        Stage.FINE: Fidelity(0.0111, 0.928),
    },
}
_SMALL_WEIGHTS: Final = 100_000_000  # of the largest transformer: small has 85, large 302 million


def recorded(weights: int | None) -> Figures:
    """What was measured of a model's size. weights: of its largest transformer; None is many."""
    return _SMALL if weights is not None and weights <= _SMALL_WEIGHTS else _LARGE


def admits(figures: Mapping[Stage, Fidelity]) -> bool:
    """Whether the bound admits a precision of which these are all stages."""
    return all(stage.is_within for stage in figures.values())
