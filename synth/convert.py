"""Other people's checkpoints in our terms: tensor names and the numbers of a model.

Two dialects are known besides our own: Suno's (`model_args` and nanoGPT names) and that of
transformers' BarkModel and EncodecModel. Pure translation: no file is opened here.

Source: suno-ai/bark@f4f32d4 bark/generation.py:231 (`_load_model`) and the module names of
transformers 5.23 models/bark and models/encodec.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from synth.errors import InvalidRequest
from synth.vocab import BARK, BARK_SMALL, CodecNumbers, ModelConfig, TransformerShape

Tensors = dict[str, Tensor]

# Stage name -> prefix in transformers' BarkModel.
HF_PREFIX = {
    "semantic": "semantic.",
    "coarse": "coarse_acoustics.",
    "fine": "fine_acoustics.",
    "codec": "codec_model.",
}
_HF_TRANSFORMER = (
    (r"input_embeds_layers\.(\d+)\.", r"transformer.wtes.\1."),
    (r"input_embeds_layer\.", "transformer.wte."),
    (r"position_embeds_layer\.", "transformer.wpe."),
    (r"layernorm_final\.", "transformer.ln_f."),
    (r"layers\.(\d+)\.layernorm_", r"transformer.h.\1.ln_"),
    (r"layers\.(\d+)\.attn\.att_proj\.", r"transformer.h.\1.attn.c_attn."),
    (r"layers\.(\d+)\.attn\.out_proj\.", r"transformer.h.\1.attn.c_proj."),
    (r"layers\.(\d+)\.mlp\.in_proj\.", r"transformer.h.\1.mlp.c_fc."),
    (r"layers\.(\d+)\.mlp\.out_proj\.", r"transformer.h.\1.mlp.c_proj."),
)


def suno_transformer(state: Mapping[str, Any]) -> Tensors:
    """A stage's tensors under our names: without the marks of torch.compile and causal masks."""
    out: Tensors = {}
    for name, tensor in state.items():
        name = name.removeprefix("_orig_mod.")
        if isinstance(tensor, Tensor) and not name.endswith(".attn.bias"):
            out[name] = tensor
    return out


def hf_transformer(state: Mapping[str, Tensor]) -> Tensors:
    """One stage of BarkModel, its prefix already removed, under our names."""
    out: Tensors = {}
    for name, tensor in state.items():
        if name.endswith(".attn.bias"):
            continue
        for pattern, ours in _HF_TRANSFORMER:
            name, found = re.subn("^" + pattern, ours, name)
            if found:
                break
        out[name] = tensor
    return out


def tie_heads(fine: Tensors) -> Tensors:
    """Head i is embedding i + 1, and either may have been left out of a file."""
    out = dict(fine)
    for name, tensor in fine.items():
        if match := re.fullmatch(r"lm_heads\.(\d+)\.weight", name):
            out.setdefault(f"transformer.wtes.{int(match[1]) + 1}.weight", tensor)
        elif match := re.fullmatch(r"transformer\.wtes\.(\d+)\.weight", name):
            if int(match[1]) > 0:  # the first embedding is of the book that is always given
                out.setdefault(f"lm_heads.{int(match[1]) - 1}.weight", tensor)
    return out


def codec(state: Mapping[str, Any]) -> Tensors:
    """The decoder and codebooks of an EnCodec state dict, in the `encodec` package's names.

    Takes that package's own names or EncodecModel's. The encoder and the statistics of training
    stay behind: nothing here encodes.
    """
    named = {name: t for name, t in state.items() if isinstance(t, Tensor)}
    if any(name.startswith("decoder.layers.") for name in named):
        named = _hf_codec(named)
    wanted = re.compile(r"decoder\.|quantizer\.vq\.layers\.\d+\._codebook\.embed$")
    return {name: tensor for name, tensor in named.items() if wanted.match(name)}


def _hf_codec(state: Mapping[str, Tensor]) -> Tensors:
    numbers = [int(m[1]) for name in state if (m := re.match(r"decoder\.layers\.(\d+)\.", name))]
    last = max(numbers)

    def conv(match: re.Match[str]) -> str:
        # Only the first and the last plain convolution of the decoder do not upsample.
        kind = "conv" if int(match[1]) in (0, last) else "convtr"
        return f"decoder.model.{match[1]}.{kind}.{kind}."

    rules: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
        (r"^decoder\.layers\.(\d+)\.conv\.", conv),
        (
            r"^decoder\.layers\.(\d+)\.(block\.\d+|shortcut)\.conv\.",
            r"decoder.model.\1.\2.conv.conv.",
        ),
        (r"^decoder\.layers\.(\d+)\.lstm\.", r"decoder.model.\1.lstm."),
        (r"^quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook."),
        (r"\.parametrizations\.weight\.original0$", ".weight_g"),
        (r"\.parametrizations\.weight\.original1$", ".weight_v"),
    )
    out: Tensors = {}
    for name, tensor in state.items():
        for pattern, ours in rules:
            name = re.sub(pattern, ours, name)
        out[name] = tensor
    return out


def suno_config(model_args: Mapping[str, Mapping[str, Any]], name: str) -> ModelConfig:
    """The numbers of a model from the `model_args` of its three .pt files.

    model_args: by stage. Old files have `vocab_size` for both vocabularies.
    Raises InvalidRequest that names the stage and the argument that is missing or wrong.
    """
    shapes = {}
    for stage, args in model_args.items():
        if "vocab_size" in args:
            both = args["vocab_size"]
            args = {"input_vocab_size": both, "output_vocab_size": both, **args}
        keys = ("n_layer", "n_head", "n_embd", "input_vocab_size", "output_vocab_size")
        shapes[stage] = _shape(stage, "model_args", args, keys, args.get("block_size", 1024))
    config = ModelConfig(
        name=name,
        semantic_shape=shapes["semantic"],
        coarse_shape=shapes["coarse"],
        fine_shape=shapes["fine"],
    )
    return _published_name(config)


def hf_config(
    values: Mapping[str, Any], generation: Mapping[str, Any], name: str, lower_case: bool = False
) -> ModelConfig:
    """The numbers of a model from transformers' config.json and generation_config.json.

    What `generation` does not say is Bark's. Its sampling settings are left aside: they are not
    those of the original.
    Raises InvalidRequest that names the section and key that is missing or wrong.
    """
    keys = ("num_layers", "num_heads", "hidden_size", "input_vocab_size", "output_vocab_size")
    shapes = {}
    for stage, prefix in HF_PREFIX.items():
        if stage == "codec":
            continue
        section = prefix.removesuffix(".") + "_config"
        args = values.get(section)
        if not isinstance(args, Mapping):
            raise InvalidRequest(f"config.json has no {section}: this is not a Bark checkpoint.")
        shapes[stage] = _shape(stage, section, args, keys, args.get("block_size", 1024))
    semantic = generation.get("semantic_config") or {}
    coarse = generation.get("coarse_acoustics_config") or {}
    fine = generation.get("fine_acoustics_config") or {}
    codec = hf_codec_numbers(values.get("codec_config") or {})

    def given(section: Mapping[str, Any], **ours_from_theirs: str) -> dict[str, Any]:
        return {
            ours: section[theirs]
            for ours, theirs in ours_from_theirs.items()
            if section.get(theirs) is not None
        }

    blank = ModelConfig(
        name=name,
        semantic_shape=shapes["semantic"],
        coarse_shape=shapes["coarse"],
        fine_shape=shapes["fine"],
        codec=codec,
    )
    config = replace(
        blank,
        text=replace(
            blank.text,
            lower_case=lower_case,
            **given(
                semantic,
                block="max_input_semantic_length",
                offset="text_encoding_offset",
                pad="text_pad_token",
                infer="semantic_infer_token",
            ),
        ),
        semantic=replace(
            blank.semantic,
            **given(
                semantic,
                vocab="semantic_vocab_size",
                rate_hz="semantic_rate_hz",
                pad="semantic_pad_token",
                max_steps="max_new_tokens",
            ),
        ),
        coarse=replace(
            blank.coarse,
            **given(
                coarse,
                codebooks="n_coarse_codebooks",
                semantic_block="max_coarse_input_length",
                semantic_pad="coarse_semantic_pad_token",
                infer="coarse_infer_token",
                history="max_coarse_history",
                window="sliding_window_len",
            ),
        ),
        fine=replace(
            blank.fine,
            **given(
                fine,
                codebooks="n_fine_codebooks",
                window="max_fine_input_length",
                hop="max_fine_history_length",
            ),
            mask=codec.codebook_size,
        ),
    )
    return _published_name(config)


def hf_codec_numbers(values: Mapping[str, Any]) -> CodecNumbers:
    """The codec's numbers from EncodecConfig's keys; what is not said is EnCodec 24 kHz's."""
    theirs = {
        "sample_rate": "sampling_rate",
        "codebook_size": "codebook_size",
        "dimension": "hidden_size",
        "n_filters": "num_filters",
        "n_residual_layers": "num_residual_layers",
        "lstm": "num_lstm_layers",
        "kernel_size": "kernel_size",
        "last_kernel_size": "last_kernel_size",
        "residual_kernel_size": "residual_kernel_size",
        "dilation_base": "dilation_growth_rate",
        "compress": "compress",
        "causal": "use_causal_conv",
    }
    given = {ours: values[key] for ours, key in theirs.items() if values.get(key) is not None}
    ratios = tuple(values.get("upsampling_ratios") or CodecNumbers().ratios)
    rate = given.get("sample_rate", CodecNumbers().sample_rate)
    return CodecNumbers(
        **given,
        ratios=ratios,
        frame_rate=math.ceil(rate / math.prod(ratios)),
        true_skip=not values.get("use_conv_shortcut", True),
    )


def _shape(
    stage: str, where: str, args: Mapping[str, Any], keys: tuple[str, ...], context: Any
) -> TransformerShape:
    numbers = []
    for key, value in [(key, args.get(key)) for key in keys] + [("block_size", context)]:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InvalidRequest(
                f"The {stage} checkpoint's {where} says {key} = {value!r}; "
                "expected a positive whole number."
            )
        numbers.append(value)
    names = [field.name for field in fields(TransformerShape)]
    return TransformerShape(**dict(zip(names, numbers, strict=True)))


def _published_name(config: ModelConfig) -> ModelConfig:
    """The two sizes Suno published are called by their names wherever their folder lies."""
    for known in (BARK, BARK_SMALL):
        if replace(config, name=known.name) == known:
            return known
    return config
