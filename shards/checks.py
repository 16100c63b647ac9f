"""What a manifest and a sample table must keep to before anything is done with them: corpora come from strangers too.

What passes here leads neither out of the corpus and the cache, nor to bytes, frames or classes that can't be there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from understudy.shards.columns import Columns

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # of a corpus; its files begin with it
SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,95}\.tar")
INDEX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,95}\.idx")
DIGEST = re.compile(r"[0-9a-f]{64}")
LARGEST = 2**63 - 1
MOST_ROWS = 2**31 - 1  # of a shard
FASTEST = 240  # frames a second
LONGEST_SIDE = 65535  # of a JPEG


def matching(pattern: re.Pattern[str], value: Any) -> str:
    """`value`, a text that is as `pattern` says; else ValueError or TypeError, as in the others here."""
    if not pattern.fullmatch(words(value)):
        raise ValueError(f"{value!r:.80} where {pattern.pattern} should be")
    return value


def words(value: Any) -> str:
    """`value`, a text that can be written as UTF-8."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} where a text should be")
    value.encode()
    return value


def whole(value: Any, least: int = 0, most: int = LARGEST) -> int:
    """`value`, a whole number in that range."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{value!r:.80} where a whole number from {least} to {most} should be")
    return value


def rate(value: Any) -> float:
    """`value`, a number of frames a second."""
    if type(value) not in (int, float) or not 0 < value <= FASTEST:
        raise ValueError(f"{value!r:.80} where a number of frames a second should be")
    return value


def items(value: Any) -> list[Any]:
    """`value`, a list."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.80} where a list should be")
    return cast("list[Any]", value)


def check_rows(columns: Columns, nsamples: Sequence[int], filesizes: Sequence[int], classes: int) -> None:
    """Raise ValueError, saying what is wrong, unless the rows are those of shards of so many samples, in order, and
    what they say can be there. There have to be as many rows as samples.
    """
    shard, row, label, frames, width, height, _ = columns.numbers
    counts = np.array(nsamples, np.int64)
    shards = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    rows = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    if not np.array_equal(shard, shards) or not np.array_equal(row, rows):
        raise ValueError("its rows are not the manifest's shards in order")
    bounds = {
        "label": (label, 0, classes - 1),
        "frames": (frames, 1, LARGEST),
        "width": (width, 1, LONGEST_SIDE),
        "height": (height, 1, LONGEST_SIDE),
    }
    for name, (column, least, most) in bounds.items():
        for value in (column.min(initial=least), column.max(initial=least)):
            if not least <= value <= most:
                raise ValueError(f"a row has {name} {value}, from {least} to {most} is possible")
    room = np.repeat(np.array(filesizes, np.int64), counts)
    for offset, size in columns.places.transpose(1, 2, 0):
        if (size > room - offset).any():
            raise ValueError("a row lies beyond the end of its shard")
