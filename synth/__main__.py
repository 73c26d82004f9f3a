"""python -m synth say | voices | fetch | bench: speech from the command line.

Reads arguments, calls, prints; every failure is one plain sentence. Exit status: 78 when there is
no usable model or download, 2 for a command line that cannot be read, 1 for what else is or goes
wrong, such as a voice, precision or folder that does not exist, 130 after Ctrl-C.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from synth.arguments import parser
from synth.errors import InvalidRequest, SynthError, UnusableModel, model_needed
from synth.interpreter import python
from synth.say import say

if TYPE_CHECKING:
    from synth.protocol import VoiceInfo
    from synth.voices import VoiceBook

EX_CONFIG = 78
_NEEDS_BARK = "  needs Bark"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["bench"]:  # it has its own options, and imports other engines
        from synth import bench

        return bench.main(arguments[1:])
    if arguments[:1] == ["doctor"]:  # looked for here, too
        print(f"Error: `{python()} -m bot doctor` checks the engine, too.", file=sys.stderr)
        return 2
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING)
    try:
        return _COMMANDS[options.command](options)
    except UnusableModel as error:
        print(f"Error: {error}", file=sys.stderr)
        return EX_CONFIG
    except SynthError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `python -m synth voices | head`: what is left to flush has no reader
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MemoryError, RuntimeError) as error:  # torch has its own for each device
        if not any("MemoryError" in kind.__name__ for kind in type(error).__mro__):
            raise
        print(
            "Error: The memory does not suffice: use suno/bark-small, or --device cpu.",
            file=sys.stderr,
        )
        return 1


def voices(options: argparse.Namespace) -> int:
    """List the voices of a model; with none named all that ship with the package, first those that
    the best model here can speak with.
    """
    needs: dict[str, str] = {}
    if options.model is None:
        infos, needs = _shipped()
    else:
        infos = _book_of(options.model).infos
    wanted = (options.filter or "").lower()
    found = [
        info
        for info in infos
        if wanted in info.name.lower()
        and options.language in (None, info.language)
        and options.gender in (None, info.gender.value)
    ]
    if not found:
        raise InvalidRequest(
            "No voice fits: leave out a filter." if infos else "This model has no voices."
        )
    for info in found:
        line = f"{info.name:20} {info.language:3} {info.gender.value:8} {info.duration_s:5.1f} s"
        print(line + needs.get(info.name, ""))
    sys.stdout.flush()
    if any(needs.get(info.name) == _NEEDS_BARK for info in found):
        print(f"To bring Bark: {python()} -m synth fetch suno/bark-small", file=sys.stderr)
    return 0


def _shipped() -> "tuple[Sequence[VoiceInfo], dict[str, str]]":
    """All voices that ship, and what the last of them need beside the best model that is here."""
    from synth.checkpoints import default_model
    from synth.protocol import BUILT_IN_MODEL
    from synth.voices import shipped_voices

    own = default_model() == BUILT_IN_MODEL
    needs = {
        info.name: _NEEDS_BARK if own else f"  needs --model {BUILT_IN_MODEL}"
        for info in shipped_voices()
        if info.name.startswith(f"{BUILT_IN_MODEL}/") != own
    }
    return sorted(shipped_voices(), key=lambda info: info.name in needs), needs


def _book_of(model: str) -> "VoiceBook":
    from synth.checkpoints import open_checkpoint
    from synth.random_model import voice_book

    with model_needed():
        return voice_book(open_checkpoint(model).config)


def fetch(options: argparse.Namespace) -> int:
    """Download a model from the hub."""
    from synth.fetch import fetch_model

    with model_needed():
        folder = fetch_model(options.model, original=options.original)
    print(f'{options.model} is in {folder}. Try: {python()} -m synth say "Hello" -o hello.ogg')
    return 0


_COMMANDS = {"say": say, "voices": voices, "fetch": fetch}


if __name__ == "__main__":
    sys.exit(main())
