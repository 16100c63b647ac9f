"""Which source each step draws from: seeded, the same on every rank, and close to the weights in every 64 steps.

In a block of 64 steps a source of weight w (the weights summing to 1) gets 64 * w steps, rounded down or up. The step's
place in its source's own order is counted from the blocks before it, so that nothing needs to be replayed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from understudy.loader.philox import permutation, stream_key, uniform
from understudy.shards.errors import UserError

BLOCK = 64


class Schedule:
    """The infinite sequence of sources for `weights` (positive, of any sum)."""

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        if not weights:
            raise UserError("no sources to load from; give at least one corpus")
        if not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise UserError(f"source weights must be positive numbers, not {', '.join(map(str, weights))}")
        edges = np.cumsum(np.asarray(weights, np.float64))
        self._edges = BLOCK * edges[:-1] / edges[-1]
        self._jitter_key = stream_key("schedule/jitter", seed)
        self._order_key = stream_key("schedule/order", seed)
        self._block = -1
        self._before = np.zeros(len(weights), np.int64)  # steps of each source in the blocks before this one
        self._sources = np.zeros(BLOCK, np.int64)
        self._places = np.zeros(BLOCK, np.int64)

    def at(self, step: int) -> tuple[int, int]:
        """(source, place): `step` is the `place`-th step, counted from 0, that draws from `source`."""
        block, i = divmod(step, BLOCK)
        if block != self._block:
            if block < self._block or self._block < 0:
                self._before[:] = 0
                self._block = 0
            self._before += self._counts(self._block, block).sum(axis=0)
            in_turn = np.repeat(np.arange(len(self._before)), self._counts(block, block + 1)[0])
            self._sources = in_turn[permutation(self._order_key, (block, 0, 0), BLOCK)]
            for source, start in enumerate(self._before.tolist()):
                here = self._sources == source
                self._places[here] = start + np.arange(np.count_nonzero(here))
            self._block = block
        return int(self._sources[i]), int(self._places[i])

    def _counts(self, begin: int, end: int) -> NDArray[np.int64]:
        """Steps of each source in the blocks from `begin` up to `end`: int64 (end - begin, sources).

        The points 0 + j, 1 + j, ... 63 + j, with one jitter j in [0, 1) for the block, fall on the sources' shares of
        [0, 64): a share catches its length in points, rounded down or up, and on average exactly its length.
        """
        jitter = uniform(self._jitter_key, (0, 0, 0), end - begin, begin)
        below = np.clip(np.ceil(self._edges[None, :] - jitter[:, None]), 0, BLOCK).astype(np.int64)
        return np.diff(below, axis=1, prepend=0, append=BLOCK)
