"""The usual scripts for the original, run on a model folder as the original downloads it."""

import ast
import inspect
import os
import warnings
import weakref
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertTokenizer

from synth import compat, original_models, peers
from synth.errors import InvalidRequest
from synth.original_models import OriginalModels
from synth.vocab import BARK
from synth.voices import VoiceBook
from tests.synth import forged


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """$XDG_CACHE_HOME of someone who has used the original."""
    cache = tmp_path_factory.mktemp("xdg")
    forged.suno_folder(cache / "suno" / "bark_v0")
    return cache


@pytest.fixture(autouse=True)
def environment(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("SUNO_USE_SMALL_MODELS", "SUNO_OFFLOAD_CPU", "SUNO_ENABLE_MPS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> OriginalModels:
    """No models loaded yet, as in a new process."""
    models = OriginalModels()
    monkeypatch.setattr(compat, "_models", models)
    return models


def signatures_of_the_original() -> dict[str, dict[str, object]]:
    """Arguments and defaults of its functions, read from its source."""
    spec = find_spec("bark")
    assert spec is not None and spec.submodule_search_locations
    found: dict[str, dict[str, object]] = {}
    for file in ("api.py", "generation.py"):
        source = Path(spec.submodule_search_locations[0], file).read_text(encoding="utf-8")
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                names = [argument.arg for argument in node.args.args]
                defaults = [ast.literal_eval(default) for default in node.args.defaults]
                missing = [inspect.Parameter.empty] * (len(names) - len(defaults))
                found[node.name] = dict(zip(names, missing + defaults, strict=True))
    return found


@pytest.mark.parametrize(
    "name",
    [
        *("generate_audio", "text_to_semantic", "semantic_to_waveform", "save_as_prompt"),
        *("preload_models", "generate_text_semantic", "generate_coarse", "generate_fine"),
        *("codec_decode", "clean_models"),
    ],
)
def test_signatures_are_the_originals(name: str) -> None:
    ours = inspect.signature(getattr(compat, name)).parameters
    defaults = {key: parameter.default for key, parameter in ours.items()}
    assert defaults == signatures_of_the_original()[name]


def test_a_plain_sentence() -> None:
    compat.preload_models()
    torch.manual_seed(0)
    audio = compat.generate_audio("Hello, my name is Suno. [laughs]")
    assert audio.dtype == np.float32 and audio.ndim == 1
    assert 0.1 < len(audio) / compat.SAMPLE_RATE < 3 and float(audio.std()) > 0
    torch.manual_seed(0)
    again = compat.generate_audio("Hello, my name is Suno. [laughs]", silent=True)
    assert np.array_equal(audio, again)
    assert not np.array_equal(audio, compat.generate_audio("Hello, my name is Suno. [laughs]"))


@pytest.mark.parametrize("preset", ["v2/en_speaker_6", "announcer", "en_speaker_1"])
def test_a_preset(preset: str) -> None:
    audio = compat.generate_audio("♪ Hello world ♪", history_prompt=preset, silent=True)
    assert len(audio) > 0


def test_japanese_with_a_japanese_preset_and_a_voice_of_ones_own(tmp_path: Path) -> None:
    generation, audio = compat.generate_audio(
        "こんにちは、私の名前です。",
        history_prompt="v2/ja_speaker_1",
        output_full=True,
        silent=True,
    )
    frames = generation["fine_prompt"].shape[1]
    assert generation["semantic_prompt"].ndim == 1
    assert generation["coarse_prompt"].shape == (2, frames)
    assert generation["fine_prompt"].shape == (8, frames)
    assert np.array_equal(generation["fine_prompt"][:2], generation["coarse_prompt"])
    assert len(audio) == 320 * frames
    compat.save_as_prompt(str(tmp_path / "me.npz"), generation)
    with np.load(tmp_path / "me.npz") as saved:
        for name, array in generation.items():
            assert np.array_equal(saved[name], array)
    assert len(compat.generate_audio("again", tmp_path / "me.npz", silent=True)) > 0
    assert len(compat.generate_audio("and again", generation, silent=True)) > 0


def test_sentences_one_by_one_joined_with_numpy() -> None:
    silence = np.zeros(int(0.25 * compat.SAMPLE_RATE))
    pieces = []
    for sentence in ("Hello world.", "The dog [sighs] is Suno."):
        semantic = compat.generate_text_semantic(
            sentence, history_prompt="v2/en_speaker_6", temp=0.6, min_eos_p=0.05, silent=True
        )
        audio = compat.semantic_to_waveform(semantic, history_prompt="v2/en_speaker_6", silent=True)
        pieces += [audio, silence.copy()]
    joined = np.concatenate(pieces)
    assert len(joined) > 0.5 * compat.SAMPLE_RATE


def test_stages_give_the_originals_shapes() -> None:
    semantic = compat.generate_text_semantic(
        "Hello", max_gen_duration_s=0.5, allow_early_stop=False, silent=True
    )
    assert len(semantic) == 25 and semantic.dtype == np.int64
    coarse = compat.generate_coarse(
        semantic, max_coarse_history=60, sliding_window_len=20, silent=True
    )
    assert coarse.shape == (2, 37)
    fine = compat.generate_fine(coarse, temp=None)
    assert fine.shape == (8, 37) and np.array_equal(fine[:2], coarse)
    assert np.array_equal(compat.generate_fine(coarse, temp=None), fine)  # greedy
    assert compat.generate_fine(coarse[:1]).shape == (8, 37)
    joined = np.concatenate([coarse, np.zeros((2, 3))], axis=1)  # floats; the original takes them
    assert compat.generate_fine(joined).shape == (8, 40)
    assert compat.codec_decode(fine).shape == (37 * 320,)


@pytest.fixture
def original(cache: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`bark.generation` that has loaded the same files by its own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        generation = peers.import_suno()
        from encodec.model import EncodecModel

        # It was written for a torch that ran whatever a pickle asked for; these are our own.
        monkeypatch.setattr(torch, "load", partial(torch.load, weights_only=False))
        bert = BertTokenizer.from_pretrained(cache / "suno" / "bark_v0", do_lower_case=False)
        nothing = type("Bert", (), {"from_pretrained": lambda name: bert})
        monkeypatch.setattr(generation, "BertTokenizer", nothing)
        monkeypatch.setattr(generation, "models", {})
        for kind in ("text", "coarse", "fine"):
            path = str(cache / "suno" / "bark_v0" / f"{kind}_2.pt")
            generation.models[kind] = generation._load_model(path, "cpu", model_type=kind)
        codec = EncodecModel.encodec_model_24khz(pretrained=False)
        found = codec.load_state_dict(forged.codec_state(), strict=False)
    assert found.unexpected_keys == []
    assert all("encoder" in name or "embed_avg" in name for name in found.missing_keys)
    codec.set_target_bandwidth(6.0)
    generation.models["codec"] = codec.eval()
    return generation


@pytest.mark.parametrize("preset", [None, "v2/en_speaker_6", "ja_speaker_1"])
def test_the_same_files_give_the_originals_codes_and_sound(
    original: ModuleType, preset: str | None
) -> None:
    """From .pt files, vocabulary and presets to samples, greedy: every code equal."""
    text = "Hello world — [laughs] こんにちは, my name is SUNO."
    numpy_presets = {"history_prompt": preset, "silent": True}
    greedy = numpy_presets | {"top_k": 1, "use_kv_caching": True}
    semantic = original.generate_text_semantic(text, **greedy)
    assert len(semantic) > 10
    ours = compat.generate_text_semantic(text, temp=0, **numpy_presets)
    assert np.array_equal(ours, semantic)
    coarse = original.generate_coarse(semantic, **greedy)
    assert np.array_equal(compat.generate_coarse(semantic, temp=0, **numpy_presets), coarse)
    fine = original.generate_fine(coarse, history_prompt=preset, temp=None)
    assert np.array_equal(compat.generate_fine(coarse, preset, temp=None), fine)
    np.testing.assert_allclose(
        compat.codec_decode(fine), original.codec_decode(fine.astype(np.int64)), atol=1e-4
    )


def test_each_model_small_or_large_as_asked(
    fresh: OriginalModels, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A large text model with the small others is what people with little memory use."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "suno" / "bark_v0"
    forged.suno_folder(folder, small=True)
    forged.write_suno_pt(folder / "text_2.pt", "text", seed=5)
    compat.preload_models(coarse_use_small=True, fine_use_small=True)
    large = compat.generate_text_semantic("Hello", temp=0, silent=True)
    compat.preload_models(text_use_small=True, force_reload=False)  # there is one: nothing happens
    assert np.array_equal(compat.generate_text_semantic("Hello", temp=0, silent=True), large)
    monkeypatch.setenv("SUNO_USE_SMALL_MODELS", "True")
    compat.preload_models(force_reload=True)
    assert not np.array_equal(compat.generate_text_semantic("Hello", temp=0, silent=True), large)


def test_models_are_fetched_when_they_are_not_there(
    fresh: OriginalModels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []

    def refuse(name: str) -> None:
        asked.append(name)
        raise InvalidRequest("no network here")

    monkeypatch.setattr("synth.original_models.fetch_model", refuse)
    with pytest.raises(InvalidRequest, match="no network here"):
        compat.generate_audio("Hello")
    monkeypatch.setenv("SUNO_USE_SMALL_MODELS", "1")
    with pytest.raises(InvalidRequest, match="no network here"):
        compat.preload_models()
    assert asked == ["suno/bark", "suno/bark-small"]


def test_what_the_hub_has_of_sunos_files_is_not_fetched_again(
    fresh: OriginalModels, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`synth fetch --original` brought them, and four gigabytes came once more in another form."""
    snapshot = tmp_path / "hub" / "models--suno--bark" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "hub" / "models--suno--bark" / "refs").mkdir()
    (tmp_path / "hub" / "models--suno--bark" / "refs" / "main").write_text("0123")
    for file in (cache / "suno" / "bark_v0").iterdir():
        os.link(file, snapshot / file.name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("synth.original_models.fetch_model", None)
    compat.preload_models()


def test_reloading_holds_no_model_twice(
    fresh: OriginalModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one stayed on the card until the new one was there."""
    fresh.load("fine")
    with fresh.use("fine") as (stage, _):
        old = weakref.ref(stage)
    del stage
    real = original_models.FineStage

    def building(*arguments: Any) -> Any:
        assert old() is None
        return real(*arguments)

    monkeypatch.setattr(original_models, "FineStage", building)
    fresh.load("fine", force=True)


def test_offloading_keeps_no_model_on_the_device(
    fresh: OriginalModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any device but the CPU will do: meta tensors stand for those of a GPU."""
    monkeypatch.setenv("SUNO_OFFLOAD_CPU", "True")
    monkeypatch.setattr("synth.original_models._device", lambda gpu, stage: torch.device("meta"))
    fresh.load("fine")
    with fresh.use("fine") as (first, device):
        assert device.type == "meta"
    with fresh.use("fine") as (second, _):
        assert second is not first
    monkeypatch.delenv("SUNO_OFFLOAD_CPU")
    fresh.load("fine", force=True)
    with fresh.use("fine") as (first, _), fresh.use("fine") as (second, _):
        assert second is first


def test_bad_input_is_one_plain_sentence() -> None:
    for call, says in (
        (lambda: compat.generate_audio("  "), "nothing to say"),
        (lambda: compat.generate_audio("Hi", "v2/en_speaker_42"), "no voice 'v2/en_speaker_42'"),
        (lambda: compat.generate_audio("Hi", {"semantic_prompt": [1]}), "dict with"),
        (lambda: compat.generate_coarse(np.array([10_000])), "from 0 to 9999"),
        (lambda: compat.generate_coarse(np.array([], int)), "not empty"),
        (lambda: compat.generate_coarse(np.array([1]), max_coarse_history=700), "60 and 630"),
        (lambda: compat.generate_coarse(np.array([1]), sliding_window_len=61), "must be even"),
        (lambda: compat.generate_fine(np.zeros((8, 4), int)), "8 rows"),
        (lambda: compat.codec_decode(np.full((8, 4), 2000)), "from 0 to 1023"),
        (lambda: compat.save_as_prompt("x.wav", VOICE), r"call it x\.npz"),
    ):
        with pytest.raises(InvalidRequest, match=says):
            call()


_VOICE = VoiceBook(BARK).get("announcer")
VOICE = {
    "semantic_prompt": _VOICE.semantic,
    "coarse_prompt": _VOICE.coarse_codes,
    "fine_prompt": _VOICE.fine_codes,
}
