"""What is refused when a model is built, in one plain sentence."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from synth import model
from synth.errors import InvalidRequest
from synth.model import build_model, check_config, pick_device
from synth.vocab import BARK, BARK_SMALL, ModelConfig
from tests.synth.tiny import NARROW, ODD, ODD_64, RANDOM, tiny_checkpoint

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "config", [BARK, BARK_SMALL, NARROW, ODD, ODD_64, RANDOM], ids=lambda c: c.name
)
def test_good_configs_pass(config: ModelConfig) -> None:
    check_config(config)


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        (replace(BARK, semantic=replace(BARK.semantic, max_steps=769)), "semantic prompt"),
        (replace(BARK, coarse=replace(BARK.coarse, history=720)), "coarse window exceeds"),
        (replace(BARK, coarse=replace(BARK.coarse, window=61)), "multiple of the codebooks"),
        (replace(BARK, coarse=replace(BARK.coarse, infer=12_096)), "coarse id is outside the emb"),
        (replace(BARK, fine=replace(BARK.fine, hop=1025)), "hop"),
        (replace(BARK, fine=replace(BARK.fine, mask=1056)), "mask"),
        (replace(BARK, text=replace(BARK.text, infer=129_600)), "semantic id is outside the emb"),
        (replace(BARK, codec=replace(BARK.codec, ratios=(8, 5, 4, 3))), "frame rate"),
        (replace(BARK, fine_shape=replace(BARK.fine_shape, n_head=15)), "multiple of its heads"),
    ],
)
def test_numbers_that_contradict_each_other_are_named(broken: ModelConfig, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what):
        check_config(broken)


def test_weights_of_another_size_are_refused() -> None:
    checkpoint = tiny_checkpoint(NARROW)
    wider = replace(NARROW, coarse_shape=replace(NARROW.coarse_shape, n_layer=3))
    with pytest.raises(InvalidRequest, match=r"coarse stage lacks the tensor transformer\.h\.2"):
        build_model(replace(checkpoint, config=wider), device="cpu", precision="fp32")


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocab.txt"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"w{n}" for n in range(4000)]
    vocabulary.write_text("\n".join(pieces), encoding="utf-8")
    checkpoint = replace(tiny_checkpoint(RANDOM), tokenizer_file=vocabulary)
    with pytest.raises(InvalidRequest, match="4005 word pieces"):
        build_model(checkpoint, device="cpu", precision="fp32")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "xla", ""])
def test_an_absent_device_is_named(name: str) -> None:
    with pytest.raises(InvalidRequest, match="device"):
        pick_device(name)


@pytest.mark.parametrize("free_gb", [1.0, 7.4])
def test_a_card_without_room_is_refused_or_left_alone(
    free_gb: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card is made up: only what is decided about it is looked at."""
    monkeypatch.setattr(model, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_gb * 1e9, 8e9))
    if free_gb > 3:
        device, plan = model.place(BARK, "cuda")
        assert device == "cuda" and plan and plan.slots == 16
        return
    assert model.place(BARK) == ("cpu", None)
    with pytest.raises(InvalidRequest, match="no room for bark .1.0 GB are free"):
        model.place(BARK, "cuda")
