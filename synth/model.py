"""A checkpoint in memory: three transformers, a codec and a tokenizer on one device.

Knows how to build one and which numbers must fit each other; nothing of jobs.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from synth.allocator import loading
from synth.codec import Codec
from synth.errors import InvalidRequest
from synth.memory_plan import MemoryPlan, plan_memory
from synth.offload import Offload, room_for
from synth.precision import Precision, pick_precision
from synth.protocol import Stage
from synth.tokenizer import Tokenizer
from synth.transformer import Transformer, build_transformer, tensor_shapes
from synth.turbo import hurried
from synth.vocab import ModelConfig

log = logging.getLogger(__name__)


class Checkpoint(Protocol):
    """What a model is built from; `synth.checkpoints.open_checkpoint` gives one."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def tokenizer_file(self) -> Path: ...

    def tensors(self, stage: str, /) -> Mapping[str, Tensor]:
        """The tensors of "semantic", "coarse", "fine" or "codec", under suno's names."""
        ...


@dataclass(frozen=True)
class Model:
    config: ModelConfig
    semantic: Transformer
    coarse: Transformer
    fine: Transformer
    codec: Codec
    tokenizer: Tokenizer
    device: torch.device
    precision: Precision  # of the transformers; the codec is always single precision
    offload: Offload | None = None  # where one transformer at a time is on the device

    def bring(self, stage: Stage) -> None:
        """Have what a stage works with on the device."""
        if self.offload is not None and stage is not Stage.CODEC:
            self.offload.bring(stage.value)


def pick_device(name: str = "auto") -> torch.device:
    """ "auto" is the first CUDA device, else the CPU; "mps" is accepted and untried.

    Raises InvalidRequest for an unknown or absent device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise InvalidRequest(f"There is no device {name!r}; use auto, cpu, cuda or mps.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InvalidRequest(f"There is no CUDA device for {name!r} here; use cpu.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InvalidRequest("This machine has no Apple GPU that torch can use; use cpu.")
    return device


def check_config(config: ModelConfig) -> None:
    """Raise InvalidRequest when a checkpoint's numbers contradict each other."""
    text, semantic, coarse, fine = config.text, config.semantic, config.coarse, config.fine
    s_shape, c_shape, f_shape = config.semantic_shape, config.coarse_shape, config.fine_shape
    codes = config.codec.codebook_size
    coarse_end = semantic.vocab + coarse.codebooks * codes
    last_semantic = max(text.pad, text.infer, semantic.pad, semantic.vocab - 1)
    last_coarse = max(coarse.semantic_pad, coarse.infer, coarse_end - 1)
    # The last token that is sampled is never fed, hence no "+ 1" for the infer token.
    s_longest = text.block + semantic.max_steps
    c_longest = coarse.semantic_block + coarse.history + coarse.window
    rules = {
        "a width is no multiple of its heads": any(
            shape.width % shape.n_head for shape in (s_shape, c_shape, f_shape)
        ),
        "the semantic prompt and steps exceed the context": s_longest > s_shape.context,
        "a coarse window exceeds the context": c_longest > c_shape.context,
        "the coarse window is no multiple of the codebooks": coarse.window % coarse.codebooks > 0,
        "the coarse history is shorter than a semantic token": config.max_semantic_history < 1,
        "the fine window exceeds the context": fine.window > f_shape.context,
        "the fine hop exceeds the window": not 0 < fine.hop <= fine.window,
        "a semantic id is outside the embedding": last_semantic >= s_shape.input_vocab,
        "a semantic id is outside the head": semantic.pad >= s_shape.output_vocab,
        "the semantic pad is one of the tokens": semantic.pad < semantic.vocab,
        "a coarse id is outside the embedding": last_coarse >= c_shape.input_vocab,
        "a coarse id is outside the head": coarse_end > c_shape.output_vocab,
        "the fine mask is outside the embedding": fine.mask >= f_shape.input_vocab,
        "the fine vocabularies differ": f_shape.input_vocab != f_shape.output_vocab,  # tied
        "a code is outside the fine head": codes > f_shape.output_vocab,
        "fine has no more codebooks than coarse": fine.codebooks <= coarse.codebooks,
        "the codec's ratios do not make its frame rate": math.prod(config.codec.ratios)
        != config.codec.hop,
    }
    for what, broken in rules.items():
        if broken:
            raise InvalidRequest(f"The config of checkpoint {config.name} is wrong: {what}.")


def place(
    config: ModelConfig, device: str = "auto", precision: str = "auto"
) -> tuple[str, MemoryPlan | None]:
    """The device to load a model onto, and the plan for its memory where that is a GPU's.

    "auto" is the CPU where the GPU has no room. Raises InvalidRequest when a GPU is named that has
    none, and as `pick_device`.
    """
    where = pick_device(device)
    if where.type != "cuda":
        return device, None
    free_bytes, _ = torch.cuda.mem_get_info(where)
    plan = plan_memory(config, free_bytes, 4 if precision == "fp32" else 2)
    if plan.slots:
        return device, plan
    if device == "auto":
        log.warning("The GPU has no room for %s (%s): the CPU is used.", config.name, plan)
        return "cpu", None
    raise InvalidRequest(
        f"The GPU has no room for {config.name} ({plan}): end what else uses it, take "
        "suno/bark-small, or set the device to cpu."
    )


def largest_transformer(config: ModelConfig) -> int:
    """How many weights the blocks of the largest of the three transformers have."""
    shapes = (config.semantic_shape, config.coarse_shape, config.fine_shape)
    return max(12 * shape.n_layer * shape.width**2 for shape in shapes)


def _room(config: ModelConfig, picked: Precision, name: str, codebooks: int) -> int:
    shapes = tensor_shapes(getattr(config, f"{name}_shape"), codebooks=codebooks)
    return room_for(list(shapes.values()), getattr(picked, name).dtype)


def build_model(
    checkpoint: Checkpoint,
    *,
    device: str = "auto",
    precision: str = "auto",
    turbo: bool = False,
    offload: bool = False,
) -> Model:
    """Put a checkpoint's weights on a device, every tensor's presence and shape checked.

    device: "auto", "cpu", "cuda[:n]" or "mps"; precision: one of `synth.precision.PRECISIONS`
    ("fp64" is for tests); turbo: see `synth.turbo`; offload: keep one transformer at a time on the
    device, the others beside it.
    Raises InvalidRequest that names stage and tensor, expected and found.
    """
    config = hurried(checkpoint.config) if turbo else checkpoint.config
    check_config(config)
    where = pick_device(device)
    picked = pick_precision(precision, where, weights=largest_transformer(config))
    tokenizer = Tokenizer(checkpoint.tokenizer_file, config.text)
    if config.text.offset + tokenizer.size > config.semantic_shape.input_vocab:
        raise InvalidRequest(
            f"The tokenizer has {tokenizer.size} word pieces, more than checkpoint {config.name} "
            "has embeddings for; the two belong to different models."
        )

    books = {"fine": config.fine.codebooks}
    away: Offload | None = None
    if offload:
        stages = ("semantic", "coarse", "fine")
        away = Offload(
            where, max(_room(config, picked, name, books.get(name, 0)) for name in stages)
        )

    def stage(name: str) -> Transformer:
        shape = getattr(config, f"{name}_shape")
        return build_transformer(
            name,
            shape,
            checkpoint.tensors(name),
            codebooks=books.get(name, 0),
            device=where,
            precision=getattr(picked, name),
            put=away.keeper(name) if away else None,
        )

    codec_dtype = torch.float64 if picked.name == "fp64" else torch.float32
    with loading():
        return Model(
            config=config,
            semantic=stage("semantic"),
            coarse=stage("coarse"),
            fine=stage("fine"),
            codec=Codec(config, checkpoint.tensors("codec"), device=where, dtype=codec_dtype),
            tokenizer=tokenizer,
            device=where,
            precision=picked,
            offload=away,
        )
