"""What a manifest must keep to before anything is done with it: corpora come from strangers too.

A manifest names files and sizes. What passes here can't lead out of the corpus, or out of the cache.
"""

from __future__ import annotations

import re
from typing import Any, cast

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # of a corpus; its files begin with it
SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,95}\.tar")
INDEX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,95}\.idx")
DIGEST = re.compile(r"[0-9a-f]{64}")
LARGEST = 2**63 - 1
MOST_ROWS = 2**31 - 1  # of a shard
FASTEST = 240  # frames a second


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
