"""A job's progress in a terminal."""

import shutil
from typing import Self

from tqdm import tqdm

from synth.protocol import JobEvent, Progress, Stage


class StageBars:
    """A progress bar a stage, fed with a job's events; silent where there is no terminal."""

    def __init__(self) -> None:
        self._bars: dict[Stage | None, tqdm] = {}  # None: of all the work

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for bar in self._bars.values():
            bar.close()

    def __call__(self, event: JobEvent) -> None:
        if not isinstance(event, Progress):
            return
        stage = event.stage if event.whole is None else None
        if stage not in self._bars:
            # tqdm would take a terminal that does not know its size, as containers have, for one
            # without room.
            columns, lines = shutil.get_terminal_size()
            self._bars[stage] = tqdm(
                total=1.0,
                desc=f"{stage.value:8}" if stage else "speaking",
                bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}",
                disable=None,
                ncols=columns,
                nrows=lines,
            )
        bar = self._bars[stage]
        bar.update((event.fraction if event.whole is None else event.whole) - bar.n)
