"""A queue from one process to one other that notices when the other is gone.

multiprocessing's own queues keep both ends open in both processes, so a reader whose writer was
killed in mid-message waits for ever for the other half; and they share locks, which a killed
process takes with it. With one writer and one reader no lock is needed, and when each process
closes the end it has no use for, what is left of a dead writer is an end of file, and of a dead
reader a broken pipe.
"""

from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from typing import Any


class OneWayQueue:
    """Made in the parent, handed to a child as an argument, then told who reads and who writes."""

    def __init__(self, context: SpawnContext) -> None:
        self.reader: Connection  # for `multiprocessing.connection.wait`
        self._writer: Connection
        self.reader, self._writer = context.Pipe(duplex=False)

    def read_here(self) -> None:
        """This process only reads: the other's end is then the only writing one."""
        self._writer.close()

    def write_here(self) -> None:
        """This process only writes."""
        self.reader.close()

    def put(self, item: object) -> None:
        """Blocks while the pipe is full. Raises OSError when the reader is gone."""
        self._writer.send(item)

    def get(self) -> Any:
        """Blocks until there is an item. Raises EOFError when the writer is gone."""
        return self.reader.recv()

    def empty(self) -> bool:
        """Whether `get` would block; False at the end, which `get` then tells."""
        return not self.reader.poll()

    def close(self) -> None:
        """Both ends, as far as they are open here."""
        self.reader.close()
        self._writer.close()
