"""An Ogg stream that is still coming in, taken apart into packets. Knows no codec.

discord.py's reader waits for what it reads; this one is given what there is.
"""

_HEADER = 27  # bytes of a page before its segment table


class OggPackets:
    """Bytes in, packets out. Source: RFC 3533, section 6. One logical stream."""

    def __init__(self) -> None:
        self._bytes = b""
        self._begun = b""  # of a packet that goes on in the next page

    def feed(self, data: bytes) -> list[bytes]:
        """The packets that are complete now. Raises ValueError for what is no Ogg stream."""
        self._bytes += data
        packets: list[bytes] = []
        while (page := self._page()) is not None:
            table, body = page
            place = 0
            for size in table:
                self._begun += body[place : place + size]
                place += size
                if size < 255:  # a packet ends with a segment that is not full
                    packets.append(self._begun)
                    self._begun = b""
        return packets

    def _page(self) -> tuple[bytes, bytes] | None:
        """The next page's segment table and body, None while it is not whole."""
        if self._bytes[:4] != b"OggS"[: len(self._bytes)]:
            raise ValueError("The encoder's output is no Ogg stream.")
        if len(self._bytes) < _HEADER:
            return None
        body = _HEADER + self._bytes[_HEADER - 1]
        table = self._bytes[_HEADER:body]
        end = body + sum(table)
        if len(table) < self._bytes[_HEADER - 1] or len(self._bytes) < end:
            return None
        page = table, self._bytes[body:end]
        self._bytes = self._bytes[end:]
        return page
