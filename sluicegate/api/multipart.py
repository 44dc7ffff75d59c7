"""A form with one file, ``multipart/form-data``, read while it arrives: fields are kept, the file passes through."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable

from starlette.requests import ClientDisconnect
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from sluicegate.errors import ApiError, InvalidRequest, PayloadTooLarge

MAX_FIELD_BYTES = 1024
MAX_PARTS = 16
_PIECE_BYTES = 64 << 10
_MAX_BUFFER_BYTES = 256 << 10
"""Of what is held of the body at a time: the headers of a part must fit, and a file passes in pieces."""
_MAX_BOUNDARY = 70
"""RFC 2046, 5.1.1."""


class Form:
    """A form that is being read.

    Args:
        content_type: The header.
        body: Yields it as it arrives; raises ``ClientDisconnect`` when it does not arrive.
        file: The name of the part that is the file.
        max_bytes: Of the file.
        check: Is told each field's name and value as soon as they are there, and may refuse them.

    Attributes:
        file_name: As the form has it; empty until the file has begun.

    Raises:
        InvalidRequest: The body is no such form.
    """

    def __init__(
        self,
        content_type: str,
        body: AsyncIterator[bytes],
        *,
        file: str,
        max_bytes: int,
        check: Callable[[str, str], None],
    ) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get("boundary", "")
        if kind.lower() != "multipart/form-data" or not 0 < len(boundary.encode()) <= _MAX_BOUNDARY:
            raise InvalidRequest(
                "Send the file as 'multipart/form-data', with a boundary in the header 'Content-Type'."
            )
        self.file_name = ""
        self._decoder = MultipartDecoder(boundary.encode(), _MAX_BUFFER_BYTES, max_parts=MAX_PARTS)
        self._body = body
        self._file = file
        self._max_bytes = max_bytes
        self._check = check
        self._seen: set[str] = set()

    async def content(self) -> AsyncGenerator[bytes]:
        """Yield the file; when this ends without an error, the whole form has arrived and every field was checked.

        Raises:
            InvalidRequest: The form is malformed or cut short, or a part is missing, not known, or there twice.
            PayloadTooLarge: The file is.
        """
        part = ""
        value = bytearray()
        size = 0
        async for event in self._events():
            match event:
                case Field() | File():
                    part = self._begun(event)
                    value.clear()
                case Data() if part == self._file:
                    size += len(event.data)
                    if size > self._max_bytes:
                        raise PayloadTooLarge(f"The file exceeds {self._max_bytes >> 20} MiB.")
                    if event.data:
                        yield event.data
                case Data():
                    value += event.data
                    if len(value) > MAX_FIELD_BYTES:
                        raise InvalidRequest(f"Invalid '{part}': more than {MAX_FIELD_BYTES} bytes.", param=part)
                    if not event.more_data:
                        self._check(part, _text(part, bytes(value)))
        if self._file not in self._seen:
            raise _missing(self._file)
        if not size:
            raise InvalidRequest(f"Invalid '{self._file}': the file is empty.", code="invalidPayload", param=self._file)

    async def drain(self) -> None:
        """Read what is left of the body, so that a client that still sends gets to see the answer."""
        left = self._max_bytes
        try:
            async for chunk in self._body:
                left -= len(chunk)
                if left < 0:
                    return
        except ClientDisconnect:
            return

    async def _events(self) -> AsyncIterator[Event]:
        """Yield what the decoder finds; its own errors may quote the body, so their text goes nowhere."""
        try:
            async for chunk in self._body:
                for start in range(0, len(chunk), _PIECE_BYTES):
                    self._decoder.receive_data(chunk[start : start + _PIECE_BYTES])
                    while not isinstance(event := self._decoder.next_event(), NeedData):
                        yield event
            self._decoder.receive_data(None)
            while not isinstance(event := self._decoder.next_event(), Epilogue):
                yield event
        except ClientDisconnect:
            raise _malformed("it ends too early") from None
        except RequestEntityTooLarge:
            raise _malformed(
                f"no boundary of the header 'Content-Type' in it, or more than {MAX_PARTS} parts, or a part with headers of "
                f"more than {_MAX_BUFFER_BYTES >> 10} KiB"
            ) from None
        except ValueError:
            raise _malformed("a part is malformed, or the closing boundary is missing") from None

    def _begun(self, event: Field | File) -> str:
        name = event.name
        if not name:
            raise _malformed("a part has no name")
        if name in self._seen:
            raise InvalidRequest(f"Send one '{_shown(name)}' only.", param=_shown(name))
        self._seen.add(name)
        if isinstance(event, File) and name == self._file:
            self.file_name = event.filename
        elif isinstance(event, File):
            raise InvalidRequest(f"Send one file only, as the part '{self._file}'.", param=_shown(name))
        elif name == self._file:
            raise InvalidRequest(f"The part '{self._file}' has no file name.", param=self._file)
        return name


def _missing(name: str) -> ApiError:
    return InvalidRequest(f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name)


def _malformed(why: str) -> ApiError:
    return InvalidRequest(f"We could not parse the form in the body of your request: {why}.", code="invalidPayload")


def _shown(name: str) -> str:
    return name if len(name) <= 64 else f"{name[:64]}…"


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"Invalid '{_shown(name)}': not UTF-8.", param=_shown(name)) from None
