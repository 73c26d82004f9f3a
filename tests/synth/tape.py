"""What stands in for CUDA graphs where there is no GPU: the operations of a body, once more."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from synth.step_graphs import Body, Recorded


class Tape(TorchFunctionMode):
    """A CUDA graph's stand-in: the operations of a body, again and again on the same tensors.

    Refuses what the host would wait for or hand over, as a graph cannot have it.
    """

    _TOLD = ("item", "tolist", "__bool__", "__int__", "__index__", "cpu", "numpy", "nonzero")
    _HANDED = ("tensor", "as_tensor", "from_numpy")

    def __init__(self) -> None:
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        assert name not in (*self._TOLD, *self._HANDED), f"{name} in what is recorded"
        made = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, made))
        return made

    def replay(self) -> None:
        for func, args, kwargs, place in self._calls:
            made = func(*args, **kwargs)
            several = isinstance(place, tuple)
            for held, new in zip(place, made, strict=True) if several else [(place, made)]:
                if isinstance(held, Tensor) and held.data_ptr() != new.data_ptr():
                    held.copy_(new)


class Recorder:
    """Records tapes, and counts them, and those of prefills."""

    def __init__(self) -> None:
        self.prefills = 0
        self.made = 0

    def __call__(self, body: Body, state: Sequence[Tensor]) -> Recorded:
        before = [tensor.clone() for tensor in state]
        tape = Tape()
        with tape:
            outputs = body()
        for tensor, held in zip(state, before, strict=True):
            tensor.copy_(held)
        self.prefills += not outputs
        self.made += 1
        return Recorded(tape.replay, outputs)
