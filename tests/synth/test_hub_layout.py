"""transformers' own BarkModel saves; we open, and get the same tensors and the same sound."""

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from synth.checkpoints import open_checkpoint
from synth.codec import import_encodec
from synth.errors import InvalidRequest
from synth.model import build_model
from synth.vocab import BARK, CodecNumbers
from tests.synth import forged


@pytest.fixture(scope="module")
def bark_model() -> Any:
    """A BarkModel with Bark's vocabularies, one thin layer a stage, and a narrow codec."""
    import_encodec()
    stands_in = "torchaudio" not in sys.modules
    if stands_in:  # transformers imports torchaudio too, and its wheel may not load here
        sys.modules["torchaudio"] = ModuleType("torchaudio")
        sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", None)
    try:
        from transformers.models.bark import BarkConfig, BarkModel
    finally:
        if stands_in:
            del sys.modules["torchaudio"]

    def section(stage: str, **more: Any) -> dict[str, Any]:
        rows_in, rows_out = forged.VOCABULARIES[stage]
        thin = {"num_layers": 1, "num_heads": 2, "hidden_size": 16, "bias": False}
        return thin | {"input_vocab_size": rows_in, "output_vocab_size": rows_out} | more

    torch.manual_seed(0)
    config = BarkConfig(
        semantic_config=section("text"),
        coarse_acoustics_config=section("coarse"),
        fine_acoustics_config=section("fine", n_codes_total=8, n_codes_given=1),
        codec_config={"model_type": "encodec", "num_filters": 8, "hidden_size": 32},
    )
    model = BarkModel(config).eval()
    for layer in model.codec_model.quantizer.layers:
        torch.nn.init.normal_(layer.codebook.embed)  # zeros otherwise: any order would fit
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 1.0, 0.1)
    return model


@pytest.fixture(autouse=True)
def no_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def save(model: Any, folder: Path, way: str) -> Path:
    if way == "safetensors":
        model.save_pretrained(folder)
    elif way == "sharded safetensors":
        model.save_pretrained(folder, max_shard_size="4MB")
    else:
        folder.mkdir()
        state = {  # weight norm's older names, as in the file on the hub
            name.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): tensor
            for name, tensor in model.state_dict().items()
        }
        if way == "bin":
            torch.save(state, folder / "pytorch_model.bin")
        else:
            halves = list(state)[::2], list(state)[1::2]
            files = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
            where = {}
            for names, file in zip(halves, files, strict=True):
                torch.save({name: state[name] for name in names}, folder / file)
                where |= dict.fromkeys(names, file)
            index = {"metadata": {}, "weight_map": where}
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        model.config.save_pretrained(folder)
    forged.write_vocab(folder / "vocab.txt")
    return folder


@pytest.mark.parametrize("way", ["safetensors", "sharded safetensors", "bin", "sharded bin"])
def test_what_transformers_saves_opens_and_sounds_the_same(
    bark_model: Any, tmp_path: Path, way: str
) -> None:
    folder = save(bark_model, tmp_path / "hf", way)
    if way == "sharded safetensors":
        assert len(list(folder.glob("*.safetensors"))) > 1
    checkpoint = open_checkpoint(folder)
    state = bark_model.state_dict()
    for ours, theirs in (
        ("transformer.wpe.weight", "position_embeds_layer.weight"),
        ("transformer.h.0.attn.c_attn.weight", "layers.0.attn.att_proj.weight"),
        ("transformer.h.0.attn.c_proj.weight", "layers.0.attn.out_proj.weight"),
        ("transformer.h.0.mlp.c_fc.weight", "layers.0.mlp.in_proj.weight"),
        ("transformer.h.0.mlp.c_proj.weight", "layers.0.mlp.out_proj.weight"),
        ("transformer.h.0.ln_1.weight", "layers.0.layernorm_1.weight"),
        ("transformer.h.0.ln_2.weight", "layers.0.layernorm_2.weight"),
        ("transformer.ln_f.weight", "layernorm_final.weight"),
    ):
        for stage, prefix in (
            ("semantic", "semantic"),
            ("coarse", "coarse_acoustics"),
            ("fine", "fine_acoustics"),
        ):
            assert torch.equal(checkpoint.tensors(stage)[ours], state[f"{prefix}.{theirs}"])
    fine = checkpoint.tensors("fine")
    for book in range(1, 8):
        table = state[f"fine_acoustics.input_embeds_layers.{book}.weight"]
        assert torch.equal(fine[f"transformer.wtes.{book}.weight"], table)
        assert torch.equal(fine[f"lm_heads.{book - 1}.weight"], table)

    model = build_model(checkpoint, device="cpu")  # every name and shape is checked here
    codes = np.random.default_rng(1).integers(0, 1024, (8, 20))
    with torch.inference_mode():
        theirs = bark_model.codec_model.decode(torch.from_numpy(codes)[None, None], [None])[0]
        ours = model.codec.decode(codes)
    assert float(theirs.std()) > 0.01
    np.testing.assert_allclose(ours, theirs.numpy().squeeze(), atol=1e-5)


def test_numbers_come_from_both_configs(bark_model: Any, tmp_path: Path) -> None:
    folder = save(bark_model, tmp_path / "hf", "safetensors")
    generation = {
        "semantic_config": {"text_encoding_offset": 10_050, "max_new_tokens": 500},
        "coarse_acoustics_config": {"max_coarse_history": 300, "sliding_window_len": 40},
        "fine_acoustics_config": {"max_fine_history_length": 256, "temperature": 0.9},
    }
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    config = open_checkpoint(folder).config
    assert config.codec == CodecNumbers(n_filters=8, dimension=32)
    assert (config.text.offset, config.text.pad) == (10_050, BARK.text.pad)
    assert config.semantic.max_steps == 500
    assert (config.coarse.history, config.coarse.window) == (300, 40)
    assert config.fine.hop == 256
    assert config.text.lower_case
    assert config.sampling == BARK.sampling  # the original's, not transformers'
    assert config.family == BARK.family


def test_the_published_sizes_are_known_by_name() -> None:
    from synth.convert import hf_config

    def section(stage: str, layers: int, heads: int, width: int) -> dict[str, int]:
        rows_in, rows_out = forged.VOCABULARIES[stage]
        return {
            "num_layers": layers,
            "num_heads": heads,
            "hidden_size": width,
            "input_vocab_size": rows_in,
            "output_vocab_size": rows_out,
        }

    for sizes, name in (((24, 16, 1024), "bark"), ((12, 12, 768), "bark-small")):
        values = {
            "semantic_config": section("text", *sizes),
            "coarse_acoustics_config": section("coarse", *sizes),
            "fine_acoustics_config": section("fine", *sizes),
        }
        assert hf_config(values, {}, "0123abcd").name == name


def test_missing_and_damaged_parts_are_named(bark_model: Any, tmp_path: Path) -> None:
    folder = save(bark_model, tmp_path / "hf", "sharded bin")
    second = folder / "pytorch_model-00002-of-00002.bin"
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidRequest, match="00002-of-00002.bin is cut short"):
        open_checkpoint(folder).tensors("semantic")
    second.unlink()
    (folder / "vocab.txt").unlink()
    with pytest.raises(InvalidRequest) as error:
        open_checkpoint(folder)
    assert str(error.value) == (
        f"{folder} lacks pytorch_model-00002-of-00002.bin, vocab.txt or tokenizer.json: "
        "put it there, or name another model."
    )
    values = json.loads((folder / "config.json").read_text())
    values["semantic_config"]["num_layers"] = "1"
    (folder / "config.json").write_text(json.dumps(values))
    second.write_bytes(whole)
    forged.write_vocab(folder / "vocab.txt")
    with pytest.raises(InvalidRequest, match="semantic_config says num_layers = '1'"):
        open_checkpoint(folder)
    values["semantic_config"]["num_layers"] = 1
    del values["fine_acoustics_config"]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(InvalidRequest, match="config.json has no fine_acoustics_config"):
        open_checkpoint(folder)
