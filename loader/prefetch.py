"""Fetching shards into the cache before they are asked for, in the order in which they will be.

The plans of the steps to come say which those are. Only corpora that lie elsewhere are fetched; the reader fetches what
is still not there when it is needed, so that nothing here decides what a batch holds.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from understudy.loader.batch import PADDING, Plan
from understudy.loader.read import ShardReader
from understudy.shards.cache import LEAST_DOWNLOADS, Cache
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.fetch import StoppedError

HORIZON = 1024  # plans that are made ahead of the one that is handed out
STRIDE = 4  # plans made at a step while there are fewer: the first batch does not wait for all of them
REMEMBERED = 64  # a shard that no plan in so many has needed is looked for again

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Demand:
    """What one rank needs of a corpus: `at_once` shards in turn, such as the groups of its lanes."""

    corpus: Corpus
    at_once: int

    def bytes_at_once(self, ranks: int) -> int:
        """The cache that they take on a node of `ranks` ranks: at most the whole corpus."""
        sizes = [shard.filesize for shard in self.corpus.manifest.shards]
        return min(sum(sizes), ranks * self.at_once * max(sizes, default=0))


def room_ahead(demands: Sequence[Demand]) -> int | None:
    """The bytes that this rank may fetch before their time, without evicting what is in use; None of local corpora.

    Raises UserError where the cache can't even hold what the ranks of this node read at once.
    """
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    rooms: list[int] = []
    caches: dict[Cache, list[Demand]] = {}
    for demand in demands:
        if demand.corpus.cache is not None:
            caches.setdefault(demand.corpus.cache, []).append(demand)
    for cache, own in caches.items():
        shards = [shard.filesize for demand in own for shard in demand.corpus.manifest.shards]
        if sum(shards) <= cache.limit:  # nothing of it has to make room for the rest
            rooms.append(sum(shards))
            continue
        in_use = sum(demand.bytes_at_once(ranks) for demand in own)
        under_way = ranks * LEAST_DOWNLOADS * max(shards, default=0)  # more only as far as there is room ahead
        at_once = ranks * sum(demand.at_once for demand in own)
        cache.require(min(in_use + under_way, sum(shards)), f"the {at_once} shards read at once and those under way")
        # Half of what is left: the cache evicts what was touched longest ago, and between the fetching of a shard and
        # its use those before it in line are touched, and as many after it.
        rooms.append(max((cache.limit - in_use - under_way) // (2 * ranks), 0))
    return min(rooms, default=None)


def fetch_ahead(plans: Iterator[Plan], room: int | None) -> Generator[Plan, None, None]:
    """`plans` as they are, while the shards of those to come are fetched, up to `room` bytes ahead of their use.

    With room None there is nothing to fetch.
    """
    if room is None:
        yield from plans
        return
    fetchers = _Fetchers()
    coming: deque[tuple[Plan, int]] = deque()
    last_use: dict[str, int] = {}
    planned = ahead = 0
    try:
        while True:
            for _ in range(STRIDE if planned else 1):
                plan = next(plans, None) if len(coming) < HORIZON and ahead <= room else None
                if plan is None:
                    break
                size = 0
                for number in _needed(plan):
                    shard = plan.feed.corpus.manifest.shards[number]
                    if planned - last_use.get(shard.sha256, -REMEMBERED - 1) > REMEMBERED:
                        size += shard.filesize
                        fetchers.ask(plan.feed.reader, number)
                    last_use[shard.sha256] = planned
                planned += 1
                ahead += size
                coming.append((plan, size))
            if not coming:
                return
            plan, size = coming.popleft()
            ahead -= size
            fetchers.check()
            yield plan
    finally:
        fetchers.close()


def _needed(plan: Plan) -> list[int]:
    """The shards of a plan that may have to be fetched, in the order in which it needs them."""
    corpus = plan.feed.corpus
    if corpus.cache is None:
        return []
    numbers, first = np.unique(corpus.shard[plan.ids[plan.ids != PADDING]], return_index=True)
    return numbers[np.argsort(first)].tolist()


class _Fetchers:
    """Threads that fill caches, first come first served. A program that ends does not wait for them."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[tuple[ShardReader, int] | None] = SimpleQueue()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._bugs: list[BaseException] = []

    def ask(self, reader: ShardReader, number: int) -> None:
        """Have shard `number` of the reader's corpus in its cache soon."""
        cache = reader.corpus.cache
        assert cache is not None
        reader.expect(number)
        self._asked.put((reader, number))
        if len(self._threads) < max(1, cache.downloads - 1):
            thread = threading.Thread(target=self._work, name="understudy-loader-fetch", daemon=True)
            self._threads.append(thread)
            thread.start()

    def check(self) -> None:
        """Raises what went wrong in a thread that was not the user's or the network's doing."""
        if self._bugs:
            raise self._bugs[0]

    def close(self) -> None:
        """Stop the threads, in the middle of a shard."""
        self._stop.set()
        for _ in self._threads:
            self._asked.put(None)  # for those that wait for work
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (asked := self._asked.get()) is not None and not self._stop.is_set():
            reader, number = asked
            cache = reader.corpus.cache
            assert cache is not None
            try:
                cache.prepare(reader.corpus.shard_blob(number), self._stop)
            except UserError as error:  # whoever needs the shard will meet it too, or will not
                log.warning("not fetched ahead of its time, and to be tried again then: %s", error)
            except StoppedError:
                return
            except BaseException as bug:
                self._bugs.append(bug)
                return
            finally:
                reader.arrived(number)
