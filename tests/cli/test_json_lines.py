"""Reading JSON lines: lazily, and with a name for what is wrong."""

from __future__ import annotations

import io
import itertools
import json

import pytest

from sluicegate.cli import json_lines
from sluicegate.cli.json_lines import BadLine, json_line, read_lines


def lines(data: bytes) -> list[tuple[int, dict]]:
    return [(line.number, line.members) for line in read_lines(io.BytesIO(data))]


def test_each_line_is_an_object_with_its_number():
    assert lines(b'{"a": 1}\r\n\n   \n{"a": 2}') == [(1, {"a": 1}), (4, {"a": 2})]


def test_a_byte_order_mark_is_skipped():
    assert lines(b'\xef\xbb\xbf{"a": 1}\n') == [(1, {"a": 1})]


def test_a_line_ends_at_a_line_feed_alone():
    assert lines('{"a": "one\u2028two\u0085three"}\n'.encode()) == [(1, {"a": "one\u2028two\u0085three"})]


@pytest.mark.parametrize("line", [b'{"a": "\\ud83d"}', b'{"a": "\xed\xa0\xbd"}'], ids=["escaped", "encoded"])
def test_half_a_surrogate_pair_is_read_and_can_be_written(line):
    [(_, members)] = lines(line)

    assert members == {"a": "\ud83d"}
    assert json.loads(json_line(members)) == members


def test_it_says_how_far_it_has_read():
    assert [line.end for line in read_lines(io.BytesIO(b'{"a": 1}\n\n{"a": 2}\n'))] == [9, 19]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"secret": tru}', "not JSON from character 12 on"),
        (b'{"secret": "\\x"}', "not JSON from character 13 on"),
        (b'{"secret": "\xff"}', "not UTF-8 from byte 13 on"),
        (b'["secret"]', "not a JSON object"),
        (b'"secret"', "not a JSON object"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"secret": ' + b"9" * 5000 + b"}", "a number with too many digits"),
    ],
)
def test_a_bad_line_is_named_and_not_quoted(line, what):
    read = read_lines(io.BytesIO(b'{"a": 1}\n' + line))

    assert next(read).members == {"a": 1}
    with pytest.raises(BadLine) as raised:
        next(read)

    assert str(raised.value) == f"line 2: {what}"


class Endless(io.RawIOBase):
    """A file without an end that counts what was read of it."""

    def __init__(self, piece: bytes) -> None:
        self.pieces = itertools.cycle(piece)
        self.given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        buffer[:] = bytes(itertools.islice(self.pieces, len(buffer)))
        self.given += len(buffer)
        return len(buffer)


def test_an_endless_file_is_read_line_by_line():
    file = Endless(b'{"a": 1}\n')

    first = list(itertools.islice(read_lines(io.BufferedReader(file)), 3))

    assert [line.number for line in first] == [1, 2, 3]
    assert file.given <= io.DEFAULT_BUFFER_SIZE * 16


def test_an_endless_line_is_refused_at_the_limit(monkeypatch):
    monkeypatch.setattr(json_lines, "MOST_BYTES", 2**20)
    file = Endless(b"x")

    with pytest.raises(BadLine, match=r"^line 1: longer than 1 MiB$"):
        next(read_lines(io.BufferedReader(file)))

    assert file.given <= 2 * 2**20
