"""Weights of one stage at a time, on a device that has no room for those of all.

The others wait in the host's memory. Each weight has a place on the device, in memory that all
stages share, so it lies at the same address whenever it is there, as recorded steps need it. Knows
tensors, nothing of what they are for.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_ALIGNMENT = 256  # bytes, as CUDA's own allocator


def room_for(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> int:
    """Bytes that weights of these shapes take beside each other."""
    return sum(_aligned(torch.Size(shape).numel() * dtype.itemsize) for shape in shapes)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class Offload:
    """`size` bytes on a device, for whichever stage is worked on."""

    def __init__(self, device: torch.device, size: int) -> None:
        self._memory = torch.zeros(size, dtype=torch.uint8, device=device)
        self._kept: dict[str, list[tuple[Tensor, Tensor]]] = {}  # in the host's memory, and there
        self.present = ""  # the stage whose weights are there

    def keeper(self, stage: str) -> Callable[[Tensor], Tensor]:
        """A function that takes in a weight of the stage and gives its place on the device, where
        it is after `bring`.
        """
        kept, cuda = self._kept.setdefault(stage, []), self._memory.is_cuda
        taken = 0

        def put(weight: Tensor) -> Tensor:
            nonlocal taken
            end = taken + weight.nbytes
            assert end <= len(self._memory), "the stage is larger than was said"
            place = self._memory[taken:end].view(weight.dtype).view(weight.shape)
            kept.append((weight.cpu().pin_memory() if cuda else weight, place))
            taken = _aligned(end)
            return place

        return put

    def bring(self, stage: str) -> None:
        """Have the stage's weights on the device, in place of another's."""
        if stage == self.present:
            return
        self.present = ""  # until all of it is there
        # Whatever still reads the old ones, on any stream, comes first.
        if self._memory.is_cuda:
            torch.cuda.synchronize(self._memory.device)
        for weight, place in self._kept[stage]:
            place.copy_(weight, non_blocking=True)
        if self._memory.is_cuda:
            torch.cuda.synchronize(self._memory.device)
        self.present = stage
