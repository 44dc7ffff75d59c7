"""Server-sent events from bytes."""

from __future__ import annotations


class EventReader:
    """Cuts a stream of bytes into the data of its events.

    Fields other than ``data`` are passed over. White space around the data is kept: JSON does not mind it.

    Source: WHATWG HTML, 9.2.6 "Interpreting an event stream", without a bare CR as line end, which no server here sends.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, block: bytes) -> list[bytes]:
        """Return the events that ``block`` completes."""
        *lines, self._rest = (self._rest + block).split(b"\n")
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:])
            elif self._data and line in (b"", b"\r"):
                events.append(b"\n".join(self._data))
                self._data = []
        return events

    def end(self) -> list[bytes]:
        """Return what the stream left without its closing blank line."""
        return self.feed(b"\n\n")
