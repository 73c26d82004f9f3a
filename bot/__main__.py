"""python -m bot [run | demo | doctor]: reads the settings, and says plainly why it cannot start."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from bot.config import Settings, load_settings, read_token
from bot.errors import StartError

# Libraries whose debug log repeats every message; what users write is not to be in the log.
TALKATIVE = ("discord", "aiosqlite")
BAD_CONFIG = 78  # EX_CONFIG: a supervisor should not try again by itself


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bot", description="Bark for Discord")
    parser.add_argument(
        "command",
        nargs="?",
        default="run",
        choices=("run", "demo", "doctor"),
        help="run: log in (default); demo: try it in a browser, without a token; "
        "doctor: check everything the bot needs",
    )
    parser.add_argument("--config", type=Path, help="the settings (default: config.toml)")
    parser.add_argument("--port", type=int, default=0, help="demo: the page's port (default: any)")
    parser.add_argument("--model", help="demo: a checkpoint (default: the built-in one)")
    parser.add_argument("--no-browser", action="store_true", help="demo: only print the address")
    parser.add_argument(
        "--alive", action="store_true", help="doctor: only whether the bot runs, for health checks"
    )
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(options.config)
        if options.command == "demo" and settings.log_level == "info":
            # The page's address is not to drown.
            settings = settings.model_copy(update={"log_level": "warning"})
        logging.basicConfig(
            level=settings.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        for name in TALKATIVE:
            logger = logging.getLogger(name)
            logger.setLevel(max(logging.INFO, logger.getEffectiveLevel()))
        return _finished(_command(options, settings))
    except StartError as error:
        print(error, file=sys.stderr)
        return BAD_CONFIG


def _command(options: argparse.Namespace, settings: Settings) -> Coroutine[Any, Any, int]:
    # Imported late: what one command needs must not keep another from saying what is wrong.
    match options.command:
        case "demo":
            from bot.demo import demo

            return demo(
                settings,
                port=options.port,
                model=options.model,
                browser=not options.no_browser,
                tell=tell,
            )
        case "doctor":
            from bot.doctor import alive, doctor

            return (alive if options.alive else doctor)(settings, tell)
        case _:
            from bot.app import run

            return run(settings, read_token(), tell)


def tell(line: str) -> None:
    print(line, flush=True)


def _finished(command: Coroutine[Any, Any, int]) -> int:
    try:
        return asyncio.run(command)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
