"""Seeded random numbers by counter: the one place that order, schedule and views draw from.

Built on Philox's raw output, which NumPy promises never to change, and not on Generator, whose methods may change
between versions: the order of a corpus must outlive an upgrade.
"""

from __future__ import annotations

import hashlib
import threading

import numpy as np
from numpy.typing import NDArray

Counter = tuple[int, int, int]


def stream_key(*parts: str | int) -> int:
    """The 128-bit key of an independent stream, from what names it (a purpose, a seed, a corpus digest)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=16).digest(), "little")


def raw(key: int, counter: Counter, n: int, start: int = 0) -> NDArray[np.uint64]:
    """`n` 64-bit words from the `start`-th on, a pure function of `key` and the three integers of `counter`: those of
    `np.random.Philox(key=key, counter=[0, *counter])`, for a fifth of what making one takes.
    """
    block, skip = divmod(start, len(_NOTHING))
    philox = _philox()
    philox.state = {
        "bit_generator": "Philox",
        "state": {
            "counter": np.array((block, *counter), np.uint64),
            "key": np.array((key & _WORD, key >> 64), np.uint64),
        },
        "buffer": _NOTHING,
        "buffer_pos": len(_NOTHING),
        "has_uint32": 0,
        "uinteger": 0,
    }
    return philox.random_raw(skip + n)[skip:]


_WORD = (1 << 64) - 1
_NOTHING = np.zeros(4, np.uint64)  # no words left over from the block before
_own = threading.local()


def _philox() -> np.random.Philox:
    """This thread's; a new one asks the system for entropy, which is then thrown away."""
    try:
        return _own.philox
    except AttributeError:
        _own.philox = np.random.Philox(0)
        return _own.philox


def permutation(key: int, counter: Counter, n: int) -> NDArray[np.int64]:
    """A permutation of `range(n)`."""
    return np.argsort(raw(key, counter, n), kind="stable")


def uniform(key: int, counter: Counter, n: int, start: int = 0) -> NDArray[np.float64]:
    """`n` numbers in [0, 1) from the `start`-th on, of 53 random bits each."""
    return (raw(key, counter, n, start) >> np.uint64(11)).astype(np.float64) * np.float64(2.0**-53)
