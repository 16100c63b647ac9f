"""Seeded random numbers by counter: the one place that order, schedule and views draw from.

Built on Philox's raw output, which NumPy promises never to change, and not on Generator, whose methods may change
between versions: the order of a corpus must outlive an upgrade.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Counter = tuple[int, int, int]


def stream_key(*parts: str | int) -> int:
    """The 128-bit key of an independent stream, from what names it (a purpose, a seed, a corpus digest)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=16).digest(), "little")


def raw(key: int, counter: Counter, n: int) -> NDArray[np.uint64]:
    """`n` 64-bit words, a pure function of `key` and the three integers of `counter`."""
    return np.random.Philox(key=key, counter=[0, *counter]).random_raw(n)


def permutation(key: int, counter: Counter, n: int) -> NDArray[np.int64]:
    """A permutation of `range(n)`."""
    return np.argsort(raw(key, counter, n), kind="stable")


def uniform(key: int, counter: Counter, n: int) -> NDArray[np.float64]:
    """`n` numbers in [0, 1), of 53 random bits each."""
    return (raw(key, counter, n) >> np.uint64(11)).astype(np.float64) * np.float64(2.0**-53)
