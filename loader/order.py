"""The order of one corpus: which samples a step takes, as a pure function of corpus, seed and batch size.

World size, thread count and prefetch have no say in it, so a run may be resumed on another number of ranks. A change of
what this file returns is a breaking change: it is pinned by a golden file in tests/loader/golden.

A corpus of N samples, read B at a step:

- The line of epoch e is the corpus with its shards permuted, preceded by the c(e) = e*N mod B samples that epoch e-1
  left over. Its first step is step e*N // B, so any step is found without replaying those before it.
- The line is cut into L equal lanes (a cut may split a shard). Each lane begins with its share of the left-over
  samples, which all go into the epoch's first step: after any step, two samples were seen equally often or once apart.
- Inside a lane, groups of G neighbouring shards are shuffled together. A step takes B/L samples of each lane; rank r of
  W owns lanes r*L/W to (r+1)*L/W - 1, so that a shard is read by one rank, or by two where a cut splits it.
- With fewer samples than B there is nothing to cut: a step takes the next B positions of one permutation after another.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.loader.philox import permutation, stream_key
from understudy.shards.errors import UserError

MAX_LANES = 64
GROUP = 4


def default_lanes(samples_per_step: int) -> int:
    """The largest divisor of `samples_per_step` that is at most 64."""
    return max(lanes for lanes in range(1, MAX_LANES + 1) if samples_per_step % lanes == 0)


def check_layout(samples_per_step: int, lanes: int, world_size: int) -> None:
    """Raises UserError, with what to change, unless W divides L and L divides B."""
    if lanes < 1 or samples_per_step % lanes:
        raise UserError(
            f"{samples_per_step} samples a step do not divide into {lanes} lanes; choose one of its divisors"
        )
    if lanes % world_size:
        able = [n for n in range(world_size, samples_per_step + 1, world_size) if samples_per_step % n == 0]
        instead = (
            f"or set lanes to {max((n for n in able if n <= MAX_LANES), default=able[0])} from the start of the run "
            "(lanes decide the order of samples)"
            if able
            else f"or samples a step that {world_size} divides, which {samples_per_step} are not"
        )
        raise UserError(
            f"{lanes} lanes do not divide over {world_size} ranks; choose a number of ranks that divides {lanes}, "
            + instead
        )


@dataclass(frozen=True)
class _Epoch:
    """One permutation of the shards. `starts[i]` is where shard `shards[i]` begins on the line; the last is N."""

    shards: NDArray[np.int64]
    starts: NDArray[np.int64]


class Order:
    """The infinite order of one corpus. `digest` is the manifest's, `counts` the samples of each shard."""

    def __init__(
        self,
        digest: str,
        counts: Sequence[int],
        seed: int,
        samples_per_step: int,
        lanes: int | None = None,
        group: int = GROUP,
    ) -> None:
        self.lanes = default_lanes(samples_per_step) if lanes is None else lanes
        check_layout(samples_per_step, self.lanes, 1)
        self.counts = np.asarray(counts, np.int64)
        self.samples = int(self.counts.sum())
        if self.samples == 0:
            raise UserError("the corpus has no samples; pack at least one video")
        self.samples_per_step = samples_per_step
        self.group = group
        self._first_id = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts)])
        self._shard_key = stream_key("order/shards", digest, seed)
        self._group_key = stream_key("order/groups", digest, seed)
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._groups: dict[int, tuple[int, int, NDArray[np.int64]]] = {}  # by lane: epoch, group, order

    def step(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What `rank` reads at `step`: sample ids and visits, int64 (B / world_size,).

        A visit counts how often the stream has come to that sample before; (id, visit) never repeats. The step's whole
        batch is the concatenation over ranks. Cost does not grow with `step`. Raises UserError unless the ranks divide
        the lanes.
        """
        check_layout(self.samples_per_step, self.lanes, world_size)
        B, N = self.samples_per_step, self.samples
        if N < B:
            mine = B // world_size
            return self._small(step * B + rank * mine, mine)
        epoch = ((step + 1) * B - 1) // N
        first = epoch * N // B
        steps = (epoch + 1) * N // B - first
        mine = self.lanes // world_size
        lanes = range(rank * mine, (rank + 1) * mine)
        parts = [self._lane(epoch, lane, step - first, steps) for lane in lanes]
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([visits for _, visits in parts])

    def shards_at_once(self, world_size: int) -> int:
        """How many shards a rank goes back and forth between: a group in each of its lanes, at most all there are."""
        if self.samples < self.samples_per_step:
            return len(self.counts)
        return min(self.lanes // world_size * self.group, len(self.counts))

    def _small(self, start: int, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions `start` to `start + n` of one permutation of the whole corpus after another."""
        positions = np.arange(start, start + n, dtype=np.int64)
        visits = positions // self.samples
        ids = np.empty(n, np.int64)
        for visit in range(int(visits[0]), int(visits[-1]) + 1):
            here = visits == visit
            order = permutation(self._shard_key, (visit, 0, 0), self.samples)
            ids[here] = order[positions[here] - visit * self.samples]
        return ids, visits

    def _lane(self, epoch: int, lane: int, step: int, steps: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The B/L samples that `lane` gives to the `step`-th of the `steps` steps of `epoch`: ids and visits."""
        left_over = epoch * self.samples % self.samples_per_step
        share, next_share = lane * left_over // self.lanes, (lane + 1) * left_over // self.lanes
        take = self.samples_per_step // self.lanes
        old = np.zeros(0, np.int64)
        if step == 0:  # a share is at most `take`, so the left-over samples all fit into the first step
            positions = np.arange(share, next_share, dtype=np.int64) + self.samples - left_over
            old = self._ids(epoch - 1, positions) if len(positions) else old
        # Lanes are equally long with their shares, so on the line of new samples the cuts move back by the shares.
        start = lane * steps * take - share
        end = (lane + 1) * steps * take - next_share
        begin = lane * steps * take + step * take - next_share + len(old)
        fresh = self._fresh(epoch, lane, start, end, begin, take - len(old))
        visits = np.repeat(np.array([epoch - 1, epoch], np.int64), [len(old), len(fresh)])
        return np.concatenate([old, fresh]), visits

    def _fresh(self, epoch: int, lane: int, start: int, end: int, begin: int, n: int) -> NDArray[np.int64]:
        """`n` ids from position `begin` on of the lane that covers positions `start` to `end` of the epoch's line."""
        starts = self._epoch(epoch).starts
        # Not np.searchsorted, which lets go of the interpreter: to get it back from busy threads costs more than this.
        first_shard = bisect_right(starts, start) - 1
        ids: list[NDArray[np.int64]] = []
        while n:
            shard = bisect_right(starts, begin) - 1
            group = (shard - first_shard) // self.group
            low_shard = first_shard + group * self.group
            low = max(start, int(starts[low_shard]))
            high = min(end, int(starts[min(low_shard + self.group, len(self.counts))]))
            order = self._group_order(epoch, lane, group, low, high)
            part = order[begin - low : begin - low + n]
            ids.append(part)
            begin += len(part)
            n -= len(part)
        return np.concatenate(ids) if ids else np.zeros(0, np.int64)

    def _group_order(self, epoch: int, lane: int, group: int, low: int, high: int) -> NDArray[np.int64]:
        """The shuffled ids of positions `low` to `high`, one group of a lane; the last one of each lane is kept."""
        kept = self._groups.get(lane)
        if kept is None or kept[:2] != (epoch, group):
            positions = low + permutation(self._group_key, (group, lane, epoch), high - low)
            kept = self._groups[lane] = (epoch, group, self._ids(epoch, positions))
        return kept[2]

    def _ids(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sample ids at `positions` of the line of permuted shards of `epoch`."""
        line = self._epoch(epoch)
        i = np.searchsorted(line.starts, positions, "right") - 1
        return self._first_id[line.shards[i]] + positions - line.starts[i]

    def _epoch(self, epoch: int) -> _Epoch:
        line = self._epochs.get(epoch)
        if line is None:
            shards = permutation(self._shard_key, (epoch, 0, 0), len(self.counts))
            starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts[shards])])
            line = self._epochs[epoch] = _Epoch(shards, starts)
            while len(self._epochs) > 2:  # an epoch and the one that its left-over samples come from
                self._epochs.popitem(last=False)
        return line
