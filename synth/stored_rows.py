"""Rows of a table that stay in the file they came from, and are read when they are asked for.

Bark's text table is 119,600 rows of which a text needs a few dozen: 184 MB in half precision that
nothing reads. The rows that are fed step by step are few, and kept in memory. Knows nothing of
tokens.

A table is found by asking the system what is mapped where it lies, so that any file which is mapped
when it is loaded will do, whatever its layout. It is read, not mapped: a file that is cut short
later is then an error with a sentence, where a mapping would end the process.

Shape letters: C width, R rows of the table, N rows asked for.
"""

import os
import re
import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor

from synth.errors import EngineFailed

_COMPARED = 64  # rows, to see that the file under this name is the one that is mapped


class Place(NamedTuple):
    """Where a tensor's bytes are."""

    path: str
    offset: int


class StoredRows:
    """A table (R, C) in a file. Index it with ids (N,) or a slice of rows."""

    def __init__(self, place: Place, like: Tensor, dtype: torch.dtype) -> None:
        """like: the table as it is stored; dtype: of what is handed out. Raises OSError."""
        self._path, self._first = place
        self.shape, self.dtype = like.shape, dtype
        self._stored = like.dtype
        self._row_bytes = like.shape[1] * like.itemsize
        self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self._mark = self._marked()

    @classmethod
    def of(cls, table: Tensor, dtype: torch.dtype | None = None) -> "StoredRows | None":
        """The table (R, C), in its own dtype or another; None where it lies in no file."""
        place = place_of(table)
        if place is None or table.dim() != 2 or not table.is_contiguous():
            return None
        try:
            found = cls(place, table, dtype or table.dtype)
            some = torch.linspace(0, len(table) - 1, _COMPARED, dtype=torch.float64).long()
            # The name may be another file's by now, written since this one was mapped.
            same = torch.equal(found._read(some), table[some])
        except (OSError, EngineFailed):
            return None
        return found if same else None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """(N, C) in `dtype`; each row is read once, however often it is asked for.

        Raises EngineFailed when the file has been written to since it was opened.
        """
        if isinstance(rows, slice):
            first, last, step = rows.indices(len(self))
            assert step == 1
            found = torch.empty(max(0, last - first), self.shape[1], dtype=self._stored)
            self._into(found, first)
            self._check()
            return found.to(self.dtype)
        return self._read(rows).to(self.dtype)

    def _read(self, ids: Tensor) -> Tensor:
        unique, at = torch.unique(ids, return_inverse=True)
        found = torch.empty(len(unique), self.shape[1], dtype=self._stored)
        for row, number in enumerate(unique.tolist()):
            assert 0 <= number < len(self), "there is no such row"
            self._into(found[row], number)
        self._check()
        return found[at]

    def _into(self, rows: Tensor, first: int) -> None:
        room = rows.view(torch.uint8).flatten().numpy().data
        offset = self._first + first * self._row_bytes
        while room:
            try:
                count = os.preadv(self._file, [room], offset)
            except OSError as error:
                raise EngineFailed(
                    f"{self._path} can no longer be read ({error.strerror})."
                ) from error
            if not count:
                raise self._changed()
            room, offset = room[count:], offset + count

    def _check(self) -> None:
        if self._marked() != self._mark:
            raise self._changed()

    def _marked(self) -> tuple[int, int]:
        stat = os.fstat(self._file)
        return stat.st_size, stat.st_mtime_ns

    def _changed(self) -> EngineFailed:
        return EngineFailed(
            f"{self._path} was written to while its model was in use: load the model again."
        )


class PartlyStored:
    """A table (R, C) whose first rows are in memory, the others in a file."""

    def __init__(self, kept: Tensor, stored: StoredRows) -> None:
        """kept: the first rows of `stored`, as it hands them out."""
        assert kept.dtype == stored.dtype
        self.kept, self._stored = kept, stored
        self.shape, self.dtype, self.device = stored.shape, stored.dtype, kept.device

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, ids: Tensor) -> Tensor:
        """(N, C) for ids (N,). Raises as `StoredRows`, where one of them is not kept."""
        here = ids < len(self.kept)
        if bool(here.all()):
            return self.kept[ids]
        found = torch.empty(len(ids), self.shape[1], dtype=self.dtype)
        found[here] = self.kept[ids[here]]
        found[~here] = self._stored[ids[~here]]
        return found


# A Tensor or one of the above: who indexes it need not know which, and who needs more has made it.
Table = Any


def place_of(tensor: Tensor) -> Place | None:
    """The file that a tensor's memory is mapped from, and where in it; None for any other memory.

    Only Linux tells.
    """
    if tensor.device.type != "cpu" or not hasattr(os, "preadv"):
        return None
    first = tensor.data_ptr()
    last = first + tensor.nbytes
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            for line in maps:
                if found := _part_of(line, first, last):
                    return found
    except OSError:
        pass
    return None


def _part_of(line: str, first: int, last: int) -> Place | None:
    """Where addresses [first, last) are in the file of a line of the maps, if in one at all."""
    match = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ [1-9]\d* +(/.*)", line)
    if not match:
        return None
    begin, end, offset = (int(number, 16) for number in match.groups()[:3])
    if not begin <= first < last <= end:
        return None
    return Place(match[4], offset + first - begin)
