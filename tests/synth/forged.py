"""Model folders as Suno and transformers lay them out, with tiny random weights inside.

The vocabularies, special ids and codebooks are Bark's own; only depth and width are small, so
everything that reads names, numbers and files meets what a user's download holds.
"""

import json
import pickle
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTH = 16
LAYERS = 1
VOCABULARIES = {"text": (129_600, 10_048), "coarse": (12_096, 12_096), "fine": (1_056, 1_056)}

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'.,!?-—…[]()♪:;"
_WORDS = "Hello hello world laughs laughter sighs music the is a dog my name Suno and"
_JAPANESE = "こんにちは世界私の名前です今日は良い天気"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blocks(prefix: str, *, bias: bool, seed: int) -> dict[str, Tensor]:
    """The blocks, final norm and positions that GPT and FineGPT share, under Suno's names."""
    g = generator(seed)
    out = {f"{prefix}transformer.wpe.weight": torch.randn(1024, WIDTH, generator=g) * 0.3}
    norms = [f"{prefix}transformer.ln_f"]
    for layer in range(LAYERS):
        h = f"{prefix}transformer.h.{layer}"
        norms += [f"{h}.ln_1", f"{h}.ln_2"]
        for name, rows, columns in (
            ("attn.c_attn", 3 * WIDTH, WIDTH),
            ("attn.c_proj", WIDTH, WIDTH),
            ("mlp.c_fc", 4 * WIDTH, WIDTH),
            ("mlp.c_proj", WIDTH, 4 * WIDTH),
        ):
            out[f"{h}.{name}.weight"] = torch.randn(rows, columns, generator=g) * 0.5
    for norm in norms:
        out[f"{norm}.weight"] = 1 + 0.1 * torch.randn(WIDTH, generator=g)
        if bias:
            out[f"{norm}.bias"] = 0.1 * torch.randn(WIDTH, generator=g)
    return out


def suno_state(stage: str, *, prefix: str = "", seed: int = 0) -> dict[str, Tensor]:
    """A state dict of Suno's "text", "coarse" or "fine" model."""
    rows_in, rows_out = VOCABULARIES[stage]
    g = generator(seed + 1)
    out = blocks(prefix, bias=stage == "fine", seed=seed)
    if stage == "fine":
        for book in range(8):
            table = torch.randn(rows_in, WIDTH, generator=g)
            out[f"{prefix}transformer.wtes.{book}.weight"] = table
            if book > 0:
                out[f"{prefix}lm_heads.{book - 1}.weight"] = table  # tied, as in the original
    else:
        out[f"{prefix}transformer.wte.weight"] = torch.randn(rows_in, WIDTH, generator=g)
        out[f"{prefix}lm_head.weight"] = torch.randn(rows_out, WIDTH, generator=g)
        for layer in range(LAYERS):  # the causal mask that old torch versions saved along
            out[f"{prefix}transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 8, 8).tril()
    if stage == "text":
        _make_it_end(out, prefix)
    return out


def _make_it_end(state: dict[str, Tensor], prefix: str) -> None:
    """Clips of about a second: late positions point where the end's row of the head points."""
    direction = torch.nn.functional.normalize(torch.randn(WIDTH, generator=generator(7)), dim=0)
    ramp = torch.cat([torch.linspace(-2, 12, 80), torch.full((1024 - 257 - 80,), 12.0)])
    state[f"{prefix}transformer.wpe.weight"][257:] += ramp[:, None] * direction * WIDTH**0.5
    state[f"{prefix}lm_head.weight"][10_000] = direction * 8


def model_args(stage: str, *, old: bool = False) -> dict[str, Any]:
    rows_in, rows_out = VOCABULARIES[stage]
    args: dict[str, Any] = {
        "n_layer": LAYERS,
        "n_head": 2,
        "n_embd": WIDTH,
        "block_size": 1024,
        "bias": False,
        "dropout": 0.0,
    }
    if stage == "fine":
        args |= {"n_codes_total": 8, "n_codes_given": 1}
    if old:
        assert rows_in == rows_out
        return args | {"vocab_size": rows_in}
    return args | {"input_vocab_size": rows_in, "output_vocab_size": rows_out}


def write_suno_pt(
    path: Path, stage: str, *, old: bool = False, prefix: str = "", seed: int = 0
) -> None:
    """A .pt file like Suno's: numpy's old name for a scalar, and an optimizer nobody needs."""
    state = suno_state(stage, prefix=prefix, seed=seed)
    content = {
        "model": state,
        "model_args": model_args(stage, old=old),
        "best_val_loss": np.float32(2.5),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 1e-4}]},
        "iter_num": 7,
    }
    torch.save(content, path)
    age_numpy(path)


def age_numpy(path: Path) -> None:
    """Write numpy's scalar under the name it had before numpy 2, as every published file does."""
    with zipfile.ZipFile(path) as old:
        members = [(info, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for info, data in members:
            if info.filename.endswith("data.pkl"):
                assert b"cnumpy._core.multiarray\nscalar" in data
                data = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
            new.writestr(info.filename, data)


@cache
def codec_state(filters: int = 32, books: int = 32) -> Mapping[str, Tensor]:
    """EnCodec 24 kHz's decoder and its codebooks, in the `encodec` package's names.

    The package has one size, these; transformers' config.json can tell of a narrower one.
    """
    g = generator()
    wide = 16 * filters
    out: dict[str, Tensor] = {}

    def conv(
        name: str, out_channels: int, in_channels: int, kernel: int, kind: str = "conv"
    ) -> None:
        rows, columns = (
            (in_channels, out_channels) if kind == "convtr" else (out_channels, in_channels)
        )
        weight = torch.randn(rows, columns, kernel, generator=g)
        out[f"{name}.{kind}.{kind}.weight_v"] = weight
        norm = weight.flatten(1).norm(dim=1).reshape(-1, 1, 1)
        # Keeps the signal's size about constant, so that the noise that comes out is audible.
        out[f"{name}.{kind}.{kind}.weight_g"] = norm / (columns * kernel) ** 0.5
        out[f"{name}.{kind}.{kind}.bias"] = 0.01 * torch.randn(out_channels, generator=g)

    conv("decoder.model.0", wide, 128, 7)
    for layer in range(2):
        for name in ("weight_ih", "weight_hh"):
            out[f"decoder.model.1.lstm.{name}_l{layer}"] = (
                torch.randn(4 * wide, wide, generator=g) / wide**0.5
            )
        for name in ("bias_ih", "bias_hh"):
            out[f"decoder.model.1.lstm.{name}_l{layer}"] = 0.1 * torch.randn(4 * wide, generator=g)
    channels = wide
    for index, ratio in zip((3, 6, 9, 12), (8, 5, 4, 2), strict=True):
        channels //= 2
        conv(f"decoder.model.{index}", channels, channels * 2, ratio * 2, "convtr")
        conv(f"decoder.model.{index + 1}.block.1", channels // 2, channels, 3)
        conv(f"decoder.model.{index + 1}.block.3", channels, channels // 2, 1)
        conv(f"decoder.model.{index + 1}.shortcut", channels, channels, 1)
    conv("decoder.model.15", 1, filters, 7)
    for book in range(books):
        name = f"quantizer.vq.layers.{book}._codebook"
        out[f"{name}.embed"] = torch.randn(1024, 128, generator=g)
        out[f"{name}.inited"] = torch.ones(1)
        out[f"{name}.cluster_size"] = torch.ones(1024)
    out["encoder.model.0.conv.conv.bias"] = torch.zeros(filters)
    return MappingProxyType(out)  # the same one for everybody


def write_vocab(path: Path) -> None:
    """A BERT vocabulary with letters, a few words and some Japanese."""
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_LETTERS]
    entries += [f"##{letter}" for letter in _LETTERS]
    entries += [word for word in _WORDS.split() if len(word) > 1]
    entries += sorted(set(_JAPANESE)) + [f"##{letter}" for letter in sorted(set(_JAPANESE))]
    path.write_text("\n".join(entries) + "\n", encoding="utf-8")


def suno_folder(folder: Path, *, small: bool = False) -> Path:
    """A whole model folder as a user of the original has it."""
    folder.mkdir(parents=True, exist_ok=True)
    end = "" if small else "_2"
    write_suno_pt(folder / f"text{end}.pt", "text", prefix="_orig_mod.")
    write_suno_pt(folder / f"coarse{end}.pt", "coarse", old=True)
    write_suno_pt(folder / f"fine{end}.pt", "fine")
    torch.save(dict(codec_state()), folder / "encodec_24khz-d7cc33bc.th")
    write_vocab(folder / "vocab.txt")
    return folder


class Malicious:
    """Unpickled without care, it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, (self.command,)


def write_malicious(path: Path, command: str, *, zipped: bool = True) -> None:
    content = {"model": Malicious(command), "model_args": {}}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))


def hf_names(stage: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Suno's names of a stage as transformers' BarkModel has them."""
    out = {}
    for name, tensor in state.items():
        for ours, theirs in (
            ("transformer.wtes", "input_embeds_layers"),
            ("transformer.wte", "input_embeds_layer"),
            ("transformer.wpe", "position_embeds_layer"),
            ("transformer.ln_f", "layernorm_final"),
            ("transformer.h", "layers"),
            (".ln_", ".layernorm_"),
            ("attn.c_attn", "attn.att_proj"),
            ("attn.c_proj", "attn.out_proj"),
            ("mlp.c_fc", "mlp.in_proj"),
            ("mlp.c_proj", "mlp.out_proj"),
        ):
            name = name.replace(ours, theirs)
        out[f"{stage}.{name}"] = tensor
    return out


def hf_codec_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The codec's names as transformers' EncodecModel has them."""
    out = {}
    for name, tensor in state.items():
        name = name.replace("coder.model.", "coder.layers.").replace("conv.conv", "conv")
        name = name.replace("convtr.convtr", "conv").replace("._codebook.", ".codebook.")
        out[name.replace("quantizer.vq.layers", "quantizer.layers")] = tensor
    return out


def codec_safetensors(scratch: Path) -> bytes:
    """facebook/encodec_24khz's model.safetensors."""
    save_file(hf_codec_names(codec_state()), scratch / "encodec.safetensors")
    return (scratch / "encodec.safetensors").read_bytes()


def hub_folder(folder: Path) -> Path:
    """What suno/bark-small holds on the hub: one pickled file with all four parts."""
    folder.mkdir(parents=True)
    sections = {"text": "semantic", "coarse": "coarse_acoustics", "fine": "fine_acoustics"}
    codec = hf_codec_names(codec_state(filters=4, books=8))
    state = {f"codec_model.{name}": tensor for name, tensor in codec.items()}
    config: dict[str, Any] = {"model_type": "bark", "codec_config": {"num_filters": 4}}
    for stage, section in sections.items():
        state |= hf_names(section, suno_state(stage))
        rows_in, rows_out = VOCABULARIES[stage]
        config[f"{section}_config"] = {
            "num_layers": LAYERS,
            "num_heads": 2,
            "hidden_size": WIDTH,
            "input_vocab_size": rows_in,
            "output_vocab_size": rows_out,
        }
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(config))
    write_vocab(folder / "vocab.txt")
    return folder
