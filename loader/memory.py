"""Memory that is used again, for encoded bytes (read.py) and for the clips of batches (batch.py).

Fresh pages cost more than the clips that go into them: each is a fault, and the system clears it first.
"""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes: a cache line, and what the widest vectors ask for


class Memory:
    """Gives out arrays, and their memory again once nothing refers to an array, or to a tensor or a view of it.

    At most `spare` blocks wait to be used again. They grow to what is asked for.
    """

    def __init__(self, spare: int) -> None:
        # No lock: a finalizer may run anywhere, even in a thread that holds it. What a deque does is atomic.
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=spare)

    def take(self, size: int) -> NDArray[np.uint8]:
        """`size` bytes of any content, aligned for vectors."""
        try:
            block = self._free.pop()
        except IndexError:
            block = _aligned(size)
        if len(block) < size:
            block = _aligned(size)
        # An object of its own that whatever is made of it refers to: arrays made of an array that is itself made of
        # another refer to that one, but for arrays that are made of anything else.
        lease = np.asarray(block[:size].data)
        weakref.finalize(lease, self._free.append, block).atexit = False
        return lease


def _aligned(size: int) -> NDArray[np.uint8]:
    # NumPy asks for huge pages where an array is large; torch does not.
    block = np.empty(size + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + size]
