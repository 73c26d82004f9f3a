"""Codes to samples a few frames at a time: the codec's decoder, exactly, as the codes come.

The decoder is causal, so each layer keeps the little it needs of its past: a convolution its last
inputs, a transposed one the tail that the next outputs overlap, the LSTM its state. Only the start
makes it wait: the padding in front of a convolution mirrors its first inputs, so those must be
there. Samples that came out never change, and all of them together are the whole decode's, up to
the rounding of sums taken in another order (within 1e-5 in fp32). Knows nothing of jobs.

Source: facebookresearch/encodec@0e2d0ae encodec/modules/conv.py (pad1d, SConv1d,
SConvTranspose1d), lstm.py, seanet.py, whose layers it walks and whose weights it shares.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synth.codec import Codec, exactly
from synth.helpers import alone


class CodecStream:
    """One clip's way through the decoder. Its state is under 0.5 MB for Bark's codec.

    A decoder that is not causal hears the future, so all its samples come with the last codes, or
    from `finish`.
    """

    def __init__(self, codec: Codec, runs: "Runs | None" = None) -> None:
        """runs: of this codec; where one fits, it is replayed."""
        self._codec, self._runs = codec, runs
        self._books = codec.codebooks
        self._layers = streaming(codec.decoder) if codec.causal else None
        self._held: list[npt.NDArray[np.integer]] = []
        self._sounds = self._finished = False

    def push(
        self, fine_codes: npt.NDArray[np.integer], *, last: bool = False
    ) -> npt.NDArray[np.float32]:
        """The next (codebooks, f) codes in [0, codebook_size), f >= 0 -> (n,) float32 samples.

        Those samples follow the ones that came before and are final. The first come with the 7th
        frame for Bark's codec, whose first convolution has a kernel of 7; from then on n = f * hop.
        last: there are no more codes, and what was held back comes too, as of `finish`.
        Raises RuntimeError after the last.
        """
        if self._finished:
            raise RuntimeError("the stream has been finished")
        self._finished = last
        if self._layers is None:
            self._held.append(fine_codes)
            nothing = np.zeros(0, np.float32)
            whole = np.concatenate(self._held, axis=1) if last else fine_codes
            return self._codec.decode(whole) if last and whole.shape[1] else nothing
        with torch.inference_mode(), exactly():
            pieces = list(self._feed(self._layers, fine_codes, last))
        samples = torch.cat(pieces, -1)[0, 0].float().cpu().numpy()
        self._sounds = self._sounds or len(samples) > 0
        return samples

    def finish(self) -> npt.NDArray[np.float32]:
        """There are no more codes -> the remaining samples, (n,) float32; mostly none.

        Raises RuntimeError when called twice.
        """
        return self.push(np.zeros((self._books, 0), np.int64), last=True)

    def _feed(
        self, layers: "Layer", fine_codes: npt.NDArray[np.integer], last: bool
    ) -> Iterator[Tensor]:
        """Pieces of (1, 1, n) samples."""
        # What has sounded has started, all of it, and keeps nothing back.
        if self._runs is not None and self._sounds:
            while run := self._runs.run_for(fine_codes.shape[1], last=last):
                yield self._runs.feed(layers, fine_codes[:, :run], run)
                fine_codes = fine_codes[:, run:]
                if not fine_codes.shape[1]:
                    return
        yield layers.feed(self._codec.entries(fine_codes), last=last)


class Runs(Protocol):
    """Runs of frames that have been recorded (`synth.codec_graphs`)."""

    def run_for(self, frames: int, *, last: bool) -> int:
        """How many frames the next run is of, where there are so many; 0: none fits.

        last: there will be no others, so that a run may be filled up.
        """
        ...

    def feed(self, layers: "Layer", fine_codes: npt.NDArray[np.integer], run: int) -> Tensor:
        """Take a stream's layers, which have started, over the next (codebooks, f) codes, f <= run.

        Returns (1, 1, f * hop) samples. Where f < run the stream is at its end: what it keeps is
        of what filled the run up.
        """
        ...


class Layer(Protocol):
    """One layer, or several in a row, with what it keeps of its past."""

    def feed(self, x: Tensor, *, last: bool) -> Tensor:
        """The next inputs, (1, channels, T) with T >= 0 -> what they, and the end, make final."""
        ...

    def past(self) -> list[Tensor]:
        """All that it keeps, once it has started; the sizes then stay as they are."""
        ...

    def resume(self, past: Iterator[Tensor]) -> None:
        """Go on from what a twin that has started keeps: as many of those as `past` gives."""
        ...


def streaming(layers: nn.Sequential) -> Layer:
    """encodec's layers in a row -> their streaming twin, on the same weights."""
    return _Chain([_layer(layer) for layer in layers])


class _Chain:
    """Layers in a row."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers

    def feed(self, x: Tensor, *, last: bool) -> Tensor:
        for layer in self._layers:
            x = layer.feed(x, last=last)
        return x

    def past(self) -> list[Tensor]:
        return [tensor for layer in self._layers for tensor in layer.past()]

    def resume(self, past: Iterator[Tensor]) -> None:
        for layer in self._layers:
            layer.resume(past)


class _Pointwise:
    """A layer without a past."""

    def __init__(self, function: nn.Module) -> None:
        self._function = function

    def feed(self, x: Tensor, *, last: bool) -> Tensor:
        return self._function(x)

    def past(self) -> list[Tensor]:
        return []

    def resume(self, past: Iterator[Tensor]) -> None:
        pass


class _Convolution:
    """A causal convolution of stride 1 behind mirrored padding."""

    def __init__(self, conv: nn.Conv1d) -> None:
        self._conv = conv
        self._past = (conv.kernel_size[0] - 1) * conv.dilation[0]
        self._kept: Tensor | None = None  # the last `past` inputs; all of them before the start
        self._started = False

    def feed(self, x: Tensor, *, last: bool) -> Tensor:
        fresh = x.shape[-1]
        if fresh and not self._past:  # a kernel of one input: nothing to keep, nothing to copy
            return self._conv(x)
        if self._kept is not None:
            x = torch.cat([self._kept, x], -1)
        if not self._started:
            fresh = x.shape[-1]
            if fresh == 0 or (fresh <= self._past and not last):
                self._kept = x
                return x.new_empty(1, self._conv.out_channels, 0)
            # A clip too short to be mirrored has zeros behind it for that, and for that alone.
            longer = F.pad(x, (0, max(0, self._past + 1 - fresh)))
            x = torch.cat([longer[..., 1 : self._past + 1].flip(-1), x], -1)
            self._started = True
        # A copy: a view would keep the whole chunk alive.
        self._kept = x[..., x.shape[-1] - self._past :].clone()
        return self._conv(x) if fresh else x.new_empty(1, self._conv.out_channels, 0)

    def past(self) -> list[Tensor]:
        return [self._kept] if self._past and self._kept is not None else []

    def resume(self, past: Iterator[Tensor]) -> None:
        if self._past:
            self._kept, self._started = next(past), True


class _Upsampling:
    """A transposed convolution, its output trimmed on the right alone: overlap and add."""

    def __init__(self, conv: nn.ConvTranspose1d) -> None:
        self._conv = conv
        self._stride = conv.stride[0]
        self._tail: Tensor | None = None  # (1, channels, kernel - stride), without the bias

    def feed(self, x: Tensor, *, last: bool) -> Tensor:
        if x.shape[-1] == 0:
            return x.new_empty(1, self._conv.out_channels, 0)
        y = F.conv_transpose1d(x, self._conv.weight, stride=self._stride)
        if self._tail is not None:
            y[..., : self._tail.shape[-1]] += self._tail
        ready = x.shape[-1] * self._stride
        self._tail = y[..., ready:].clone()
        y = y[..., :ready]
        return y if self._conv.bias is None else y + self._conv.bias[:, None]

    def past(self) -> list[Tensor]:
        return [] if self._tail is None else [self._tail]

    def resume(self, past: Iterator[Tensor]) -> None:
        self._tail = next(past)


class _Recurrent:
    """encodec's SLSTM: an LSTM over time, its input added to its output where `skip` is set."""

    def __init__(self, lstm: nn.LSTM, skip: bool) -> None:
        self._lstm, self._skip = lstm, skip
        self._state: tuple[Tensor, Tensor] | None = None

    def feed(self, x: Tensor, *, last: bool) -> Tensor:
        if x.shape[-1] == 0:
            return x
        x = x.permute(2, 0, 1)
        with alone():  # each of its steps is a small product
            y, self._state = self._lstm(x, self._state)
        return (y + x if self._skip else y).permute(1, 2, 0)

    def past(self) -> list[Tensor]:
        return list(self._state or ())

    def resume(self, past: Iterator[Tensor]) -> None:
        self._state = next(past), next(past)


class _Residual:
    """Two ways that add up; what the shorter has ready waits for the other at the start."""

    def __init__(self, shortcut: Layer, block: Layer) -> None:
        self._shortcut, self._block = shortcut, block
        self._waiting: Tensor | None = None

    def feed(self, x: Tensor, *, last: bool) -> Tensor:
        ahead = self._shortcut.feed(x, last=last)
        if self._waiting is not None:
            ahead = torch.cat([self._waiting, ahead], -1)
        y = self._block.feed(x, last=last)
        ready = y.shape[-1]
        self._waiting = ahead[..., ready:].clone()
        return ahead[..., :ready] + y

    def past(self) -> list[Tensor]:
        waiting = [] if self._waiting is None else [self._waiting]
        return [*waiting, *self._shortcut.past(), *self._block.past()]

    def resume(self, past: Iterator[Tensor]) -> None:
        self._waiting = next(past)
        self._shortcut.resume(past)
        self._block.resume(past)


def _layer(module: nn.Module) -> Layer:
    """The module's streaming twin, on the module's own weights."""
    from encodec.modules.conv import SConv1d, SConvTranspose1d
    from encodec.modules.lstm import SLSTM
    from encodec.modules.seanet import SEANetResnetBlock

    match module:
        case SConv1d():
            return _Convolution(cast(nn.Conv1d, module.conv.conv))
        case SConvTranspose1d():
            return _Upsampling(cast(nn.ConvTranspose1d, module.convtr.convtr))
        case SLSTM():
            return _Recurrent(module.lstm, module.skip)
        case SEANetResnetBlock():
            return _Residual(_layer(module.shortcut), streaming(cast(nn.Sequential, module.block)))
        case nn.ELU() | nn.Identity():
            return _Pointwise(module)
        case _:
            raise AssertionError(f"the decoder has a {type(module).__name__}, unknown here")
