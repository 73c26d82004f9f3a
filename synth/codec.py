"""Codes to samples: EnCodec's codebooks and decoder, the latter the `encodec` package's own.

Single precision, weight norm folded into the weights, no autograd. Knows nothing of text.

Source: facebookresearch/encodec@0e2d0ae encodec/model.py:224; suno-ai/bark@f4f32d4
bark/generation.py:820 (codec_decode).
"""

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from synth.errors import InvalidRequest
from synth.transformer import check_tensors
from synth.vocab import ModelConfig


@contextmanager
def torchaudio_importable() -> Iterator[None]:
    """Inside, `import torchaudio` works: an empty module stands in where the real one fails.

    Its wheel does not load beside every build of torch, and some packages import it for nothing.
    The stand-in leaves `sys.modules` again, so that nobody else takes it for the real one.
    """
    if _torchaudio_works():
        yield
        return
    stand_in = ModuleType("torchaudio")
    stand_in.__spec__ = ModuleSpec("torchaudio", None)  # find_spec refuses a module without one
    sys.modules["torchaudio"] = stand_in
    try:
        yield
    finally:
        del sys.modules["torchaudio"]


def import_encodec() -> ModuleType:
    """Import the `encodec` package, which wants torchaudio for file input nobody here uses."""
    if "encodec" in sys.modules:
        return sys.modules["encodec"]
    with torchaudio_importable():
        import encodec
    return encodec


def _torchaudio_works() -> bool:
    if importlib.util.find_spec("torchaudio") is None:
        return False
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError, RuntimeError, AttributeError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        return False
    return True


def build_decoder(config: ModelConfig, *, norm: str = "none") -> nn.Module:
    """encodec's decoder for a config, its weights not yet those of a checkpoint.

    norm: "none" for folded weights, "weight_norm" for the layout checkpoints are trained in.
    """
    import_encodec()
    from encodec.modules.seanet import SEANetDecoder

    numbers = config.codec
    return SEANetDecoder(
        channels=1,
        dimension=numbers.dimension,
        n_filters=numbers.n_filters,
        n_residual_layers=numbers.n_residual_layers,
        ratios=list(numbers.ratios),
        norm=norm,
        kernel_size=numbers.kernel_size,
        last_kernel_size=numbers.last_kernel_size,
        residual_kernel_size=numbers.residual_kernel_size,
        dilation_base=numbers.dilation_base,
        causal=numbers.causal,
        true_skip=numbers.true_skip,
        compress=numbers.compress,
        lstm=numbers.lstm,
    ).eval()


def codec_shapes(config: ModelConfig, decoder: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of the codec's tensors that decoding needs, for `decoder`'s layout."""
    shapes = {f"decoder.{name}": tuple(t.shape) for name, t in decoder.state_dict().items()}
    for book in range(config.fine.codebooks):
        shapes[embedding_name(book)] = (config.codec.codebook_size, config.codec.dimension)
    return shapes


def embedding_name(book: int) -> str:
    return f"quantizer.vq.layers.{book}._codebook.embed"


def fold_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace each weight_g (out, 1, 1), weight_v pair by weight = g * v / |v|."""
    folded: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name.endswith(".weight_v"):
            stem = name.removesuffix("_v")
            gain = tensors.get(f"{stem}_g")
            if gain is None:
                raise InvalidRequest(f"The checkpoint's codec stage has {name} but no {stem}_g.")
            length = value.flatten(1).norm(dim=1).view_as(gain)
            folded[stem] = value * (gain / length)
        elif not name.endswith(".weight_g"):
            folded[name] = value
    return folded


def exactly() -> AbstractContextManager[object]:
    """Inside, a GPU's convolutions and LSTMs are single precision in full. `flags` would switch
    cuDNN off as well, unless told.
    """
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


class Codec:
    """Turns (codebooks, F) codes into F * hop samples."""

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, Tensor],
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Raises InvalidRequest naming the first tensor that is missing or of another shape."""
        # Built without memory or random numbers: every weight comes from the checkpoint.
        with torch.device("meta"):
            decoder = build_decoder(config)
        tensors = fold_weight_norm(tensors)
        expected = codec_shapes(config, decoder)
        check_tensors("codec", expected, tensors)
        placed = {name: tensors[name].to(device, dtype) for name in expected}
        self._books = [placed.pop(embedding_name(book)) for book in range(config.fine.codebooks)]
        weights = {name.removeprefix("decoder."): tensor for name, tensor in placed.items()}
        decoder.load_state_dict(weights, assign=True)
        for module in decoder.modules():
            if isinstance(module, nn.LSTM):
                module.flatten_parameters()  # cuDNN wants one block and says so at every call
        self._decoder = decoder.requires_grad_(False)
        self.device = device
        self.codebooks = config.fine.codebooks
        self.causal = config.codec.causal

    @property
    def decoder(self) -> nn.Sequential:
        """The decoder's layers in order, from `entries` to samples; not to be changed."""
        return cast(nn.Sequential, self._decoder.model)

    def decode(self, fine_codes: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """fine_codes: (codebooks, F) in [0, codebook_size) -> (F * hop,) float32 samples."""
        with torch.inference_mode(), exactly():
            samples = self._decoder(self.entries(fine_codes))  # (1, 1, N)
        return samples[0, 0].float().cpu().numpy()

    def entries(self, fine_codes: npt.NDArray[np.integer] | Tensor) -> Tensor:
        """(codebooks, F) codes -> (1, dimension, F), what the decoder takes: entries, summed.

        fine_codes: a tensor is int64, and on the codec's device.
        """
        codes = fine_codes
        if not isinstance(codes, Tensor):
            codes = torch.from_numpy(np.asarray(codes, dtype=np.int64)).to(self.device)
        z = torch.zeros((), device=self.device)
        for book, row in zip(self._books, codes, strict=True):
            z = z + book[row]  # (F, dimension): the entries of all codebooks add up
        return z.T[None]
