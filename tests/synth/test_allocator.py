"""What loading needs for a while is the system's again, wherever it lay."""

from pathlib import Path

import pytest
import torch

from synth.allocator import loading

STATUS = Path("/proc/self/status")
_PIECES, _NUMBERS = 200, 1 << 18  # of 1 MB


def resident_bytes() -> int:
    line = next(x for x in STATUS.read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not STATUS.exists(), reason="the system tells no resident memory")
def test_what_is_freed_while_loading_leaves_no_holes() -> None:
    """Bark small's weights had 161 MB of them between each other, which clips filled again."""
    del [torch.ones(31 << 18)][:]  # malloc has learnt by it to keep pieces of 31 MB
    with loading():
        pieces = [torch.ones(_NUMBERS) for _ in range(_PIECES)]
        full = resident_bytes()
        del pieces[::2]
        freed = full - resident_bytes()
    assert freed > 0.8 * 4 * _NUMBERS * _PIECES / 2
    assert len(pieces) == _PIECES // 2
