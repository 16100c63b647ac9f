"""The sample table as arrays. Rows as our packer writes them are read many at a time, all others one by one as JSON.

A million rows are 200 MB of text: as Python objects they would take seconds and hundreds of megabytes in every process.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import Any, overload

import numpy as np
import zstandard
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

NUMBERS = ("shard", "row", "label", "frames", "width", "height", "crc32c")
TYPES = (np.int32, np.int32, np.int64, np.int32, np.int32, np.int32, np.uint32)
BLOCK = 1 << 20  # bytes of text at a time: the arrays made of them stay in a core's cache
LINE = 1 << 16  # bytes; a row has some 250
KEY = 32  # letters of a keyed hash
DIGITS = 16  # in two halves

_DIGITS = b"0123456789"


class Keys(Sequence[str]):
    """The keys of samples, as an array of bytes: a string takes three times as much memory."""

    def __init__(self, names: NDArray[np.bytes_]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Keys: ...
    def __getitem__(self, index: int | slice) -> str | Keys:
        return Keys(self.names[index]) if isinstance(index, slice) else bytes(self.names[index]).decode()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keys) and np.array_equal(self.names, other.names)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Columns:
    """Rows of the sample table. `numbers` are those of NUMBERS, each in its type of TYPES; `places` int64 (n, members,
    2) are offsets and sizes in bytes. `groups` are empty where a row has none.
    """

    keys: NDArray[np.bytes_]
    groups: NDArray[np.bytes_]
    numbers: tuple[NDArray[Any], ...]
    places: NDArray[np.int64]


def read_columns(data: bytes, members: tuple[str, ...], most: int) -> Columns:
    """The rows of `samples.jsonl.zst`; once they are more than `most`, no others are read. Raises KeyError, TypeError,
    ValueError, OverflowError or zstandard.ZstdError on damaged bytes.
    """
    blocks, rows = [_one_by_one(b"", members)], 0
    for block in _blocks(data):
        blocks.append(_quickly(block, members) or _one_by_one(block, members))
        rows += len(blocks[-1].keys)
        if rows > most:
            break
    return Columns(
        keys=np.concatenate([block.keys for block in blocks]),
        groups=np.concatenate([block.groups for block in blocks]),
        numbers=tuple(np.concatenate([block.numbers[i] for block in blocks]) for i in range(len(NUMBERS))),
        places=np.concatenate([block.places for block in blocks]),
    )


def read_rows(data: bytes) -> Iterator[dict[str, Any]]:
    """The rows of `samples.jsonl.zst`, one at a time. Raises ValueError or zstandard.ZstdError on damaged bytes."""
    for block in _blocks(data):
        yield from _rows(block)


def number_groups(keys: NDArray[np.bytes_], groups: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """Each row's group as a number, in the order of their names; a row of none is a group by itself."""
    names = np.where(groups == b"", keys, groups)
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _blocks(data: bytes) -> Generator[bytes]:
    """The text in pieces that end with a line. Raises ValueError or zstandard.ZstdError on damaged bytes.

    What a line needs is bounded, however small the bytes are that it is packed into.
    """
    if not data:
        raise ValueError("empty")  # on which the decompressor would wait for ever
    begun = b""
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
        for piece in iter(lambda: reader.read(BLOCK), b""):
            whole, line, begun = (begun + piece).rpartition(b"\n")
            if line:
                yield whole + line
            if len(begun) > LINE:
                raise ValueError(f"a line of more than {LINE} bytes")
    if begun:
        yield begun


def _rows(block: bytes) -> Iterator[dict[str, Any]]:
    for line in io.TextIOWrapper(io.BytesIO(block), encoding="utf-8"):
        try:
            yield json.loads(line)
        except RecursionError:
            raise ValueError("a row nested too deep") from None


def _one_by_one(block: bytes, members: tuple[str, ...]) -> Columns:
    """Any rows that make sense. Raises KeyError, TypeError, ValueError or OverflowError on others."""
    numbers_of = itemgetter(*NUMBERS)
    keys, groups, numbers, places = list[bytes](), list[bytes](), list[tuple[int, ...]](), list[Any]()
    for row in _rows(block):
        spans = [row["members"][member] for member in members]
        numbers.append(numbers_of(row))
        places.append([(offset, size) for offset, size in spans])
        keys.append(_name(row["key"]))
        groups.append(_name(row.get("group") or ""))
    flat = _whole_numbers(numbers, (len(keys), len(NUMBERS)))
    return _columns(keys, groups, flat, _whole_numbers(places, (len(keys), len(members), 2)))


def _name(name: Any) -> bytes:
    if not isinstance(name, str):
        raise TypeError("a name that is no text")
    if "\0" in name:
        raise ValueError("a name with a zero in it")  # an array would not keep those at the end
    return name.encode()


def _whole_numbers(values: list[Any], shape: tuple[int, ...]) -> NDArray[np.int64]:
    numbers = np.array(values, np.object_).reshape(shape)
    if not all(isinstance(value, int) for value in numbers.ravel().tolist()):
        raise TypeError("what should be a whole number is none")
    return numbers.astype(np.int64)  # an OverflowError where one is too large


def _columns(keys: Any, groups: Any, numbers: NDArray[np.int64], places: NDArray[np.int64]) -> Columns:
    columns: list[NDArray[Any]] = []
    for column, kind in zip(numbers.T, TYPES):
        if len(column) and not 0 <= column.min() <= column.max() <= np.iinfo(kind).max:
            raise ValueError("a number out of range")
        columns.append(column.astype(kind))
    if (places < 0).any():
        raise ValueError("a number out of range")
    return Columns(np.array(keys, np.bytes_), np.array(groups, np.bytes_), tuple(columns), places)


_GROUP = b',"group":"' + b"g" * KEY + b'"'


@dataclass(frozen=True)
class _Shape:
    """How the packer writes a row. `rest` is one without its digits, and with letters for the key; `gaps` are how many
    letters stand before each run of digits, from the start of the line on.
    """

    rest: bytes
    gaps: NDArray[np.int64]
    fixed: dict[int, int]  # runs that belong to names, such as crc32c, and what they say
    numbers: list[int]  # the runs of NUMBERS, in their order
    places: list[int]


@cache
def _shape(members: tuple[str, ...]) -> _Shape:
    names = ",".join(f'"{name}":@' for name in NUMBERS[:-1])
    spans = ",".join(f'"{member}":[@,@]' for member in members)
    row = f'{{"key":"{"k" * KEY}",{names},"members":{{{spans}}},"{NUMBERS[-1]}":@}}'
    runs = list(re.finditer(r"@|\d+", row))
    wanted = [i for i, run in enumerate(runs) if run[0] == "@"]
    ends = [0, *(run.end() for run in runs)]
    return _Shape(
        rest=re.sub(r"@|\d+", "", row).encode(),
        gaps=np.array([run.start() - end for end, run in zip(ends, runs)]),
        fixed={i: int(run[0]) for i, run in enumerate(runs) if run[0] != "@"},
        numbers=[*wanted[: len(NUMBERS) - 1], wanted[-1]],
        places=wanted[len(NUMBERS) - 1 : -1],
    )


def _quickly(block: bytes, members: tuple[str, ...]) -> Columns | None:
    """The rows of a block, if every one of them is just as our packer writes it; else None, whatever they are."""
    shape = _shape(members)
    text = np.frombuffer(block, np.uint8).copy()
    ends = np.flatnonzero(text == ord("\n"))
    n, runs = len(ends), len(shape.gaps)
    if not block.endswith(b"\n") or int(np.diff(ends, prepend=-1).min()) <= len(shape.rest):
        return None
    lines = np.concatenate([[0], ends[:-1] + 1])
    grouped = text[ends - 2] == ord('"')
    keys = _take_names(text, lines + len('{"key":"'), "k")
    groups = _take_names(text, ends[grouped] - len('"}') - KEY, "g")
    if keys is None or groups is None:
        return None
    # The same letters but for digits, and these in as many runs, as far from each other and from the line's start.
    digit = text - np.uint8(ord("0")) < 10
    starts = np.flatnonzero(digit[1:] & ~digit[:-1]) + 1
    rows = [shape.rest + b"\n", shape.rest[:-1] + _GROUP + b"}\n"]
    kinds: list[bool] = grouped.tolist()
    rest = rows[kinds[0]] * n if len(set(kinds)) == 1 else b"".join([rows[kind] for kind in kinds])
    if len(starts) != runs * n or text.tobytes().translate(None, _DIGITS) != rest:
        return None
    starts = np.ascontiguousarray(starts.reshape(n, runs).T)
    stops = np.concatenate([starts[1:] - shape.gaps[1:, None], (ends - 1 - len(_GROUP) * grouped)[None]])
    sizes = stops - starts
    if (starts[0] - lines != shape.gaps[0]).any() or not digit[stops - 1].all() or digit[stops].any():
        return None
    if int(sizes.max()) > DIGITS or int(sizes.min()) < 1 or ((text[starts] == ord("0")) & (sizes > 1)).any():
        return None
    values = _read_numbers(text, stops, sizes)
    if any((values[i] != value).any() for i, value in shape.fixed.items()):
        return None
    names = np.zeros(n, groups.dtype)
    names[grouped] = groups
    places = np.ascontiguousarray(values[shape.places].T).reshape(n, len(members), 2)
    return _columns(keys, names, values[shape.numbers].T, places)


def _take_names(text: NDArray[np.uint8], starts: NDArray[np.int64], instead: str) -> NDArray[np.bytes_] | None:
    """The keyed hashes at `starts`, in whose places there are other letters then; None unless all are such."""
    windows = sliding_window_view(text, KEY, writeable=True)
    names = windows[starts]
    if not ((names - np.uint8(ord("0")) < 10) | (names - np.uint8(ord("a")) < 6)).all():
        return None
    windows[starts] = ord(instead)
    return names.view(f"S{KEY}")[:, 0]


def _read_numbers(text: NDArray[np.uint8], stops: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """What the digits before `stops` say, `sizes` of them each."""
    values = _read_eight(text, stops, np.minimum(sizes, 8))
    long = sizes > 8
    values[long] += 10**8 * _read_eight(text, stops[long] - 8, sizes[long] - 8)
    return values


def _read_eight(text: NDArray[np.uint8], stops: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same of at most eight digits: first all of their pairs at once, then pairs of these."""
    word = sliding_window_view(text, 8)[stops - 8].view("<u8")[..., 0]
    empty = (8 * (8 - sizes)).astype(np.uint64)
    word = word >> empty << empty & np.uint64(0x0F0F0F0F0F0F0F0F)
    word = word * np.uint64(10 << 8 | 1) >> np.uint64(8) & np.uint64(0x00FF00FF00FF00FF)
    word = word * np.uint64(100 << 16 | 1) >> np.uint64(16) & np.uint64(0x0000FFFF0000FFFF)
    return (word * np.uint64(10000 << 32 | 1) >> np.uint64(32)).astype(np.int64)
