"""How a GPU's free memory is used: is there room, and for how many clips at once.

Weights first, then for each slot the keys and values of both decoding stages, and a reserve for the
context of CUDA, what is recorded of steps, prefills, fine passes and the codec's runs, and their
activations.
Arithmetic only: bytes in, a plan out.
"""

from dataclasses import dataclass

from synth.vocab import ModelConfig, TransformerShape

_MOST_SLOTS = 16  # more clips at once than that wait longer than they gain
# What is recorded holds on to its activations. Large, one slot, warmed up: .2 GB beside weights and
# caches (an H200), .4 with what the allocator keeps.
_RESERVE_BYTES = 0.7e9
_CODEC_BYTES = 0.1e9


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes, and what they are good for. `slots` is 0 where the model does not fit.

    offload: there is room for the weights of one transformer at a time, and those are counted.
    """

    free_bytes: float
    weight_bytes: float
    slot_bytes: float
    slots: int
    offload: bool = False

    def __str__(self) -> str:
        free, weights, slot = (
            x / 1e9 for x in (self.free_bytes, self.weight_bytes, self.slot_bytes)
        )
        needs = weights + slot + _RESERVE_BYTES / 1e9
        if not self.slots:
            return f"{free:.1f} GB are free and {needs:.1f} GB are needed"
        if self.offload:
            return (
                f"of {free:.1f} GB free, {weights:.1f} GB hold one stage's weights at a time, the "
                f"others waiting outside (offload), and {slot:.2f} GB 1 clip"
            )
        clips = "1 clip" if self.slots == 1 else f"{self.slots} clips"
        return (
            f"of {free:.1f} GB free, {weights:.1f} GB hold the weights and {slot:.2f} GB each of "
            f"{clips} at once"
        )


def plan_memory(config: ModelConfig, free_bytes: float, itemsize: int) -> MemoryPlan:
    """The plan for a model whose weights are still to be loaded: for as many clips as there is room
    for, else for one with offload.

    itemsize: bytes a number of weights, keys and values.
    """
    shapes = (config.semantic_shape, config.coarse_shape)
    numbers = [_numbers(shape, tables=1, heads=1) for shape in shapes]
    fine = config.fine.codebooks
    numbers.append(_numbers(config.fine_shape, tables=fine, heads=0))  # heads are the tables again
    slot = sum(2 * s.n_layer * s.context * s.width for s in shapes) * itemsize

    def plan(numbers: int, most: int, offload: bool) -> MemoryPlan:
        weights = numbers * itemsize + _CODEC_BYTES
        slots = int((free_bytes - _RESERVE_BYTES - weights) // slot)
        return MemoryPlan(free_bytes, weights, slot, max(0, min(most, slots)), offload)

    whole = plan(sum(numbers), _MOST_SLOTS, False)
    return whole if whole.slots else plan(max(numbers), 1, True)


def _numbers(shape: TransformerShape, *, tables: int, heads: int) -> int:
    """Weights of a stage; those of norms do not count."""
    blocks = shape.n_layer * 12 * shape.width**2
    ids = tables * shape.input_vocab + heads * shape.output_vocab + shape.context
    return blocks + ids * shape.width
