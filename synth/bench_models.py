"""The models that the benchmark opens: random weights of the published sizes, or a folder's."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from synth.checkpoints import STAGES, open_checkpoint, save_checkpoint
from synth.model import Checkpoint
from synth.random_model import random_checkpoint
from synth.vocab import BARK, BARK_SMALL, ModelConfig

SIZES = {"small": BARK_SMALL, "large": BARK}


def config_of(source: str) -> ModelConfig:
    """The numbers of what `open_model` opens, without its weights where they are random.

    Raises SynthError when there is no such model.
    """
    return SIZES[source] if source in SIZES else open_checkpoint(source).config


def open_model(source: str, device: str = "cpu") -> Checkpoint:
    """One of SIZES with random weights, made on `device`, or a model's name or folder.

    Raises SynthError when there is no such model.
    """
    if source in SIZES:
        return random_checkpoint(SIZES[source], device=device)
    return open_checkpoint(source)


@contextmanager
def in_a_folder(source: str) -> Iterator[str]:
    """What `open_model` takes, with random weights of SIZES in a folder of their own meanwhile.

    So they come from where those of people come from, and what stays there takes no memory.
    Raises InvalidRequest when the disk refuses.
    """
    if source not in SIZES:
        yield source
        return
    with TemporaryDirectory(prefix="bark-bench-") as folder:
        made = random_checkpoint(SIZES[source])
        stages = {stage: made.tensors(stage) for stage in STAGES}
        save_checkpoint(Path(folder) / source, made.config, stages, made.tokenizer_file)
        del made, stages
        yield str(Path(folder) / source)
