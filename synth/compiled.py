"""Functions that Numba compiles once on a machine, and keeps on disk for the next start."""

import inspect
import logging
from collections.abc import Callable, Mapping
from hashlib import sha256
from types import ModuleType
from typing import Any

from numba import njit

from synth.cpu_arithmetic import OPTIONS

log = logging.getLogger(__name__)


def kept(*others: ModuleType, options: Mapping[str, Any] = OPTIONS) -> Callable[[Any], Any]:
    """Compile a function and keep what was made on disk, which is of `others`' text as well.

    Numba makes a function anew where the file that it is in has changed, and goes on with the old
    one where only what it calls in another file has. So it is kept by a name with that text in it.
    Where there is no text to go by, or no place that can be written to, nothing is kept.

    options: Numba's.
    """

    def compiled(function: Any) -> Any:
        try:
            text = "".join(map(inspect.getsource, others))
            function.__qualname__ += "_" + sha256(text.encode()).hexdigest()[:16]
            return njit(cache=True, **options)(function)
        except (OSError, RuntimeError) as error:
            log.info(
                "%s is compiled at each start: it cannot be kept: %s", function.__name__, error
            )
            return njit(**options)(function)

    return compiled
