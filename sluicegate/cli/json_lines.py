"""Read JSON lines, one at a time, from a file that may be endless; and write one such line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

MOST_BYTES = 64 * 1024 * 1024
"""Of one line; a longer one is refused before it is read to its end."""
_BOM = b"\xef\xbb\xbf"


class BadLine(ValueError):
    """A line cannot be read; the message says which and what is wrong, and quotes nothing of it.

    Args:
        number: From 1, as editors count.
    """

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"line {number}: {what}")


class Line(NamedTuple):
    """One object.

    Attributes:
        number: From 1, blank lines counted.
        end: How many bytes of the file were read up to here.
    """

    number: int
    end: int
    members: dict[str, Any]


def read_lines(file: BinaryIO) -> Iterator[Line]:
    """Yield each line's object as soon as it is there; blank lines and a byte order mark are skipped.

    Raises:
        BadLine: A line is longer than ``MOST_BYTES``, no UTF-8, no JSON or no object; those before it were yielded.
    """
    number = end = 0
    while line := file.readline(MOST_BYTES + 1):
        number, end = number + 1, end + len(line)
        if len(line) > MOST_BYTES:
            raise BadLine(number, f"longer than {MOST_BYTES // 2**20} MiB")
        if number == 1:
            line = line.removeprefix(_BOM)
        if line.strip():
            yield Line(number, end, _object(line, number))


def json_line(members: Mapping[str, Any]) -> bytes:
    """Return one line, ASCII alone, so that half a surrogate pair can be written too."""
    return json.dumps(members).encode("ascii") + b"\n"


def _object(line: bytes, number: int) -> dict[str, Any]:
    try:
        # Half a surrogate pair is no UTF-8, but some programs write it, and filters must read what models read.
        found = json.loads(line.decode("utf-8", "surrogatepass"))
    except json.JSONDecodeError as error:
        raise BadLine(number, f"not JSON from character {error.pos + 1} on") from None
    except UnicodeDecodeError as error:
        raise BadLine(number, f"not UTF-8 from byte {error.start + 1} on") from None
    except RecursionError:
        raise BadLine(number, "nested too deeply") from None
    except ValueError:
        raise BadLine(number, "a number with too many digits") from None
    if not isinstance(found, dict):
        raise BadLine(number, "not a JSON object")
    return found
