"""One matrix product, in the precisions the blocks can be given: the seam that speed goes through.

`Linear` takes a weight as it is. `Int8Linear` holds it in 8 bits and reads a quarter of the
memory, which is what a decode step on a CPU waits for; `PackedLinear`s hold it in 8 bits or as
bfloat16 in the order in which compiled functions read it. Knows nothing of what is multiplied.

Int8: each output's weights share a scale, and each row of x has its own (its largest magnitude),
so a row's result does not depend on the rows beside it: the sums are whole numbers, and exact.

Shape letters: N rows.
"""

import logging
from abc import ABC, abstractmethod
from functools import cache, partial
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from synth.helpers import tried

log = logging.getLogger(__name__)

_WITHOUT_KERNELS = "clips are made of torch's operations, which takes longer"

_W_MOST = 127  # weights are scaled to [-127, 127]
_X_MOST = 127  # and rows of x too
_X_ZERO = 128  # and moved up to be uint8: without AMX, oneDNN has no fast product of signed x
_LEAST = 1e-30  # stands for the largest magnitude of a row of zeros
# A long x is scaled a few rows at a time, which then stay in a core's cache.
_CACHED_NUMBERS = 1 << 17


class Linear:
    """y = x W^T without bias; W is (out, in)."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        self.size_out = weight.shape[0]

    @property
    def weight(self) -> Tensor:
        """W as it is held."""
        return self._weight

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, out)."""
        return F.linear(x, self._weight)

    def add_to(self, out: Tensor, x: Tensor) -> None:
        """out (N, out) += x (N, in) W^T, in place: one pass less over the residual."""
        out.addmm_(x, self._weight.t())


class Int8Linear(Linear):
    """The same with W rounded to 8 bits and x to 8 bits a row; x and y are float32, on a CPU.

    Where `int8_limit()` is 0 there is no such product.
    """

    def __init__(self, weight: Tensor) -> None:
        most = int8_limit()
        assert most, "this machine has no exact 8 bit product"
        self.size_out, self._size_in = weight.shape
        whole, self._scale = _rounded(weight, most, _X_MOST)
        # For a single row, whose time it is that counts.
        self._weight = torch.ops.onednn.qlinear_prepack(whole, [1, self._size_in])
        self._zero = torch.zeros(self.size_out, dtype=torch.int64)
        self._most = torch.full((1,), float(_X_MOST))

    def __call__(self, x: Tensor) -> Tensor:
        y, scale = self._multiply(x)
        return y.mul_(scale)

    def add_to(self, out: Tensor, x: Tensor) -> None:
        y, scale = self._multiply(x)
        out.addcmul_(y, scale)

    def _multiply(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y (N, out) and scale (N, 1), whose product is x W^T."""
        rows = max(1, _CACHED_NUMBERS // self._size_in)
        if x.shape[0] <= rows:
            whole, scale = self._whole(x)
        else:
            pieces = [self._whole(piece) for piece in x.split(rows)]
            whole, scale = (torch.cat(kind) for kind in zip(*pieces, strict=True))
        return _product(whole, self._weight, self._scale, self._zero), scale

    def _whole(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (N, in) as whole numbers in [1, 255], uint8, and each row's largest magnitude."""
        scale = x.abs().amax(-1, keepdim=True).clamp_(min=_LEAST)
        whole = (x * (self._most / scale)).round_().to(torch.int8)
        return whole.view(torch.uint8).bitwise_xor_(_X_ZERO), scale


class PackedLinear(Linear, ABC):
    """A weight as `cpu_kernels` reads it, which must be there; x and y are float32.

    packed: the weight; dtype: what rows of x are rounded to; scale (out,), shift (out,): see
    `cpu_kernels`.
    """

    packed: npt.NDArray[Any]
    scale: npt.NDArray[np.float32]
    shift: npt.NDArray[np.int32]

    def __init__(self, weight: Tensor) -> None:
        kernels = cpu_kernels()
        assert kernels is not None
        self.size_out, size = weight.shape
        self.dtype: np.dtype[Any] = np.dtype(self._rows(kernels))
        self._product, self._zeros = kernels.product, partial(kernels.zeros, size=size)
        self._pack(weight, kernels)

    @staticmethod
    @abstractmethod
    def _rows(kernels: ModuleType) -> Any:
        """What rows are rounded to: one of the module's dtypes."""

    @abstractmethod
    def _pack(self, weight: Tensor, kernels: ModuleType) -> None:
        """Set packed, scale and shift."""

    def __call__(self, x: Tensor) -> Tensor:
        y = torch.empty(x.shape[0], self.size_out)
        whole = self._zeros(rows=x.shape[0], dtype=self.dtype)
        address = self.packed.ctypes.data
        self._product(x.contiguous().numpy(), whole, address, self.scale, self.shift, y.numpy())
        return y

    def add_to(self, out: Tensor, x: Tensor) -> None:
        out += self(x)


class PackedInt8Linear(PackedLinear):
    """W rounded to 8 bits, and x to 8 bits a row where the processor has such products."""

    @staticmethod
    def _rows(kernels: ModuleType) -> Any:
        return kernels.NARROW

    def _pack(self, weight: Tensor, kernels: ModuleType) -> None:
        nothing = self._zeros(rows=1, dtype=self.dtype)
        whole, scale = _rounded(weight, _W_MOST, kernels.steps_of(nothing))
        sums = whole.sum(1, dtype=torch.int32)
        self.packed = kernels.pack(whole.numpy(), self.dtype)
        self.scale = scale.numpy()
        self.shift = (kernels.zero_of(nothing) * sums).numpy()


class PackedWideLinear(PackedInt8Linear):
    """The same with x rounded to about 13 bits: what is lost is the weights' rounding alone.

    A product of one row takes as long, since it waits for weights; one of many rows up to twice as
    long, where the processor has products of 8 bits.
    """

    @staticmethod
    def _rows(kernels: ModuleType) -> Any:
        return kernels.WIDE


class PackedHalfLinear(PackedLinear):
    """W and x rounded to bfloat16, for processors that multiply it; sums are float32."""

    @staticmethod
    def _rows(kernels: ModuleType) -> Any:
        return kernels.HALF

    def _pack(self, weight: Tensor, kernels: ModuleType) -> None:
        bits = weight.bfloat16().contiguous().view(torch.int16).numpy().view(np.uint16)
        self.packed = kernels.pack(bits, self.dtype)
        # Of no use to such products, which take them all the same.
        self.scale = np.zeros(self.size_out, np.float32)
        self.shift = np.zeros(self.size_out, np.int32)


def _rounded(weight: Tensor, most: int, steps: int) -> tuple[Tensor, Tensor]:
    """A weight (out, in) as whole numbers of at most `most`, int8, and their scales (out,).

    With the step of x in these, of which `steps` go to its largest magnitude: a kernel may multiply
    two scales in either order, and those for one row and for several do not agree on it.
    """
    weight = weight.float()
    scale = weight.abs().amax(1).clamp_(min=_LEAST) / most
    return (weight / scale[:, None]).round_().to(torch.int8), scale / steps


def _product(x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """(x - 128) W^T * scale: x (N, in) uint8, scale (out,) -> (N, out) float32."""
    return torch.ops.onednn.qlinear_pointwise(
        x, 1.0, _X_ZERO, packed, scale, zero, None, 1.0, 0, torch.float32, "none", [], ""
    )


class MakeLinear(Protocol):
    """What makes of a weight (out, in) a product: one of the classes above."""

    def __call__(self, weight: Tensor, /) -> Linear: ...


@cache
def int8_limit() -> int:
    """The largest magnitude of an int8 weight whose products this machine adds up exactly.

    127 on most; 63 on processors without VNNI, which add pairs of products in 16 bits and cut
    off what does not fit; 0 where oneDNN or its 8 bit product is missing.
    """
    if not torch.backends.mkldnn.is_available():
        return 0
    size = 64
    for most in (127, 63):
        signs = torch.tensor([1, 1, -1, -1]).repeat(size // 4)
        weight = (signs * most).to(torch.int8).repeat(size, 1)
        x = (signs * _X_MOST + _X_ZERO).to(torch.uint8)[None]
        one, zero = torch.ones(size), torch.zeros(size, dtype=torch.int64)
        try:
            packed = torch.ops.onednn.qlinear_prepack(weight, [1, size])
            y = _product(x, packed, one, zero)
        except (AttributeError, RuntimeError):
            return 0
        if bool((y == size * most * _X_MOST).all()):
            return most
    return 0


@cache
def cpu_kernels() -> ModuleType | None:
    """The module `synth.cpu_kernels`, loaded; None where this processor has no use for it.

    It needs Numba and a processor with AVX2: without that, neither Numba nor LLVM is loaded, which
    take 58 MB.
    """
    if not torch.cpu.get_capabilities().get("avx2"):
        return None
    try:
        from synth import cpu_kernels

        if not cpu_kernels.LANES:
            return None
        tried(cpu_kernels.try_out)
    except Exception as error:  # whatever a compiler may raise: only speed is lost
        log.warning("Numba made no products (%s): %s.", error, _WITHOUT_KERNELS)
        return None
    return cpu_kernels


def decoding_linear() -> MakeLinear:
    """What makes 8 bit products for decode steps on this machine."""
    return PackedInt8Linear if cpu_kernels() else Int8Linear


def has_narrow_rows() -> bool:
    """Whether `PackedInt8Linear` rounds rows to 8 bits here, and not to more."""
    kernels = cpu_kernels()
    return kernels is not None and kernels.NARROW is not kernels.WIDE


@cache
def has_half_kernels() -> bool:
    """Whether `cpu_kernels` multiplies bfloat16 here, too. Loads no Numba where nothing does."""
    if not has_fast_bf16():
        return False
    kernels = cpu_kernels()
    if kernels is None:
        return False
    from synth.cpu_tiles import HAS_BF16  # by what Numba's compiler knows of the processor

    if not HAS_BF16:
        return False
    try:
        tried(partial(kernels.try_out, kernels.HALF))
    except Exception as error:
        log.warning("Numba made no products of bfloat16 (%s): %s.", error, _WITHOUT_KERNELS)
        return False
    return True


def has_fast_bf16() -> bool:
    """Whether this processor multiplies bfloat16 itself; others unpack it first, at a loss."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def has_amx() -> bool:
    """Whether this processor multiplies tiles of bfloat16."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
