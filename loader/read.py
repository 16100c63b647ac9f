"""The encoded bytes of a sample, checked against the corpus; no copy of the shard in memory.

A sample is read whole, and compared with its checksum, when it is first asked for; after that, as much as is wanted.
"""

from __future__ import annotations

import functools
import os
import resource
import threading
import weakref
from collections import OrderedDict

import crc32c
import numpy as np
from numpy.typing import NDArray

from understudy.loader.memory import Memory
from understudy.loader.request import Payload
from understudy.shards.corpus import Corpus
from understudy.shards.fetch import read_part
from understudy.shards.holes import read_holes

OPEN_SHARDS = 256  # of a corpus, at most
FILES = 65_536  # that this process may have open, if the system lets it: the usual 1,024 would do for 4 such corpora
ASKED = 8  # samples that are asked whether the corpus says where they were filled in: some may be damaged
ALONE = 32  # samples of a shard under way that are read by themselves, at most
ALONE_SHARE = 25  # and altogether no more than one byte in so many of the shards under way: they come a second time
SPARE_BLOCKS = 32  # of memory to read into; as many as there are threads are in use


class _OpenShard:
    """A file descriptor that is closed when the last thread that reads from it lets go of it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.sound = False  # hashed once more since it is open, and right
        _open_shards.add(self)

    def close(self) -> None:
        """Close it at once, whoever may still have it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    __del__ = close


def _close_all() -> None:
    """In a forked child: its copies would keep the shards in the cache for as long as it lives."""
    for shard in list(_open_shards):
        shard.close()


_open_shards: weakref.WeakSet[_OpenShard] = weakref.WeakSet()
os.register_at_fork(after_in_child=_close_all)


class ShardReader:
    """Reads samples of one corpus; may be used from several threads. At most `open_shards` shards stay open.

    A shard of a corpus that lies elsewhere is fetched if it is not in the cache, and stays there while it is open.
    While it is under way by another's doing (`expect`, `arrived`) a few of its samples are read by themselves: the
    first batch needs one from each of dozens of shards, and would otherwise wait for all of these to come whole.
    """

    def __init__(self, corpus: Corpus, open_shards: int = OPEN_SHARDS) -> None:
        self.corpus = corpus
        self._open_shards = min(open_shards, _most_files() // 8)  # there may be several corpora
        self._shards: OrderedDict[int, _OpenShard] = OrderedDict()
        self._lock = threading.Lock()
        self._memory = Memory(SPARE_BLOCKS)
        self._expected: dict[int, int] = {}  # by shard under way: samples that may yet be read by themselves
        self._alone = 0  # bytes that may be
        self._whole = np.zeros(len(corpus), np.bool_)  # samples whose checksum was right
        self._recheck_lock = threading.Lock()
        self._tells: bool | None = None  # not asked yet
        self._tells_lock = threading.Lock()

    def expect(self, number: int) -> None:
        """Shard `number` is under way into the cache; whoever sees to that calls `arrived` when it is over."""
        cache = self.corpus.cache
        if cache is None or cache.holds(self.corpus.shard_blob(number)):
            return
        with self._lock:
            self._expected[number] = ALONE
            self._alone += self.corpus.manifest.shards[number].filesize // ALONE_SHARE

    def arrived(self, number: int) -> None:
        """Shard `number` is there, or is not to be had yet: its samples are read from the cache only."""
        with self._lock:
            self._expected.pop(number, None)

    def read_frames(
        self, sample: int, frames: NDArray[np.int32], stop: threading.Event | None = None
    ) -> tuple[Payload, NDArray[np.int32], str | None]:
        """The payload of `sample` or a part that holds its `frames`, their numbers in there, and None or the reason why
        they can't be used.

        A quarter of a clip of ten seconds is what a window of 16 frames needs. Raises what `read` does.
        """
        if self._whole[sample] and self.corpus.manifest.codec == "mjpeg":
            payload = self._read_part(sample, int(frames.min()), int(frames.max()), stop)
            if payload is not None:
                return payload, frames - frames.min(), None
        payload, reason = self.read(sample, stop)
        self._whole[sample] = reason is None
        return payload, frames, reason

    def read(self, sample: int, stop: threading.Event | None = None) -> tuple[Payload, str | None]:
        """The payload members of `sample`, and None or the reason why they can't be used.

        Raises UserError where a whole shard can't be had or is not as long as the manifest says, and StoppedError
        where `stop` is set while it is fetched.
        """
        number = int(self.corpus.shard[sample])
        alone = self._read_alone(sample, number, stop)
        if alone is not None:
            return alone, None
        shard = self._open(number, stop)
        payload, reason = self._read(sample, shard)
        if reason is not None and self._was_damaged(number, shard):
            payload, reason = self._read(sample, self._open(number, stop))
        return payload, reason

    def read_holes(
        self, sample: int, stop: threading.Event | None = None
    ) -> tuple[NDArray[np.bool_] | None, str | None]:
        """Which cells of its frames were filled in, as in holes.py, None where the corpus doesn't say; and None or the
        reason why that can't be had. Raises what `read` does.
        """
        if not self.tells_holes(stop):
            return None, None
        number = int(self.corpus.shard[sample])
        shard = self._open(number, stop)
        cells, reason = self._read_holes(sample, shard)
        if cells is None and self._was_damaged(number, shard):
            cells, reason = self._read_holes(sample, self._open(number, stop))
        return cells, (reason or "holes: missing") if cells is None else None

    def tells_holes(self, stop: threading.Event | None = None) -> bool:
        """Whether the corpus says where its samples were filled in: a packer keeps that for all of them or for none.

        Samples are asked until one says it, as any may be damaged; where all of these are, it counts as said, and
        `read_holes` tells why it can't be had. Raises what `read` does.
        """
        with self._tells_lock:
            if self._tells is None:
                asked = range(min(ASKED, self.corpus.manifest.shards[0].nsamples))  # of one shard: it may be far away
                answers: list[str | None] = []
                for sample in asked:
                    cells, reason = self._read_holes(sample, self._open(0, stop))
                    if cells is not None:
                        answers.clear()
                        break
                    answers.append(reason)
                self._tells = None not in answers
            return self._tells

    def _read_holes(self, sample: int, shard: _OpenShard) -> tuple[NDArray[np.bool_] | None, str | None]:
        """What the sample itself says: both are None where that is nothing."""
        offset, size = self.corpus.sidecars[sample].tolist()
        shape = int(self.corpus.frames[sample]), int(self.corpus.width[sample]), int(self.corpus.height[sample])
        try:
            return read_holes(os.pread(shard.descriptor, size, offset), *shape), None
        except OSError as error:
            return None, f"read: {os.strerror(error.errno or 0)}"
        except ValueError:
            return None, "holes: damaged"

    def _read_alone(self, sample: int, number: int, stop: threading.Event | None) -> Payload | None:
        """The payload by itself, from where the corpus lies; None where that isn't to be done, or fails in any way."""
        spans, start, end = self._extent(sample)
        if not self._may_be_alone(number, end - start):
            return None
        part = read_part(self.corpus.shard_blob(number), start, end, stop)
        payload = None if part is None else _members(memoryview(part), start, spans)
        if payload is not None and self._is_right(sample, payload):
            return payload
        self.arrived(number)  # whatever is wrong there, the cache knows what to do
        return None

    def _extent(self, sample: int) -> tuple[list[list[int]], int, int]:
        """The spans of the payload members in their shard, where the first begins, and where the last ends."""
        spans: list[list[int]] = self.corpus.spans[sample].tolist()
        return spans, min(offset for offset, _ in spans), max(offset + size for offset, size in spans)

    def _read(self, sample: int, shard: _OpenShard) -> tuple[Payload, str | None]:
        spans, start, end = self._extent(sample)
        try:
            data = self._memory.take(end - start).data
            whole = _read_into(data, shard.descriptor, start)
        except OSError as error:
            return (), f"read: {os.strerror(error.errno or 0)}"
        if not whole:
            return (), "read: the shard ends early"
        payload = _members(data.toreadonly(), start, spans)
        return payload, None if self._is_right(sample, payload) else "crc32c"

    def _is_right(self, sample: int, payload: Payload) -> bool:
        checksum = 0
        for member in payload:
            checksum = crc32c.crc32c(member, checksum)
        return checksum == int(self.corpus.crc32c[sample])

    def _may_be_alone(self, number: int, size: int) -> bool:
        """Whether `size` bytes of a shard that is under way are to be read by themselves; they are counted then."""
        cache = self.corpus.cache
        if number not in self._expected or cache is None or cache.holds(self.corpus.shard_blob(number)):
            return False
        with self._lock:
            left = self._expected.get(number, 0)
            if not left or size > self._alone or number in self._shards:
                return False
            self._expected[number] = left - 1
            self._alone -= size
            return True

    def _read_part(self, sample: int, first: int, last: int, stop: threading.Event | None) -> Payload | None:
        """Frames `first` to `last` of an mjpeg sample, as if there were no others; None where that can't be had."""
        (stream, stream_size), (index, index_size) = self.corpus.spans[sample].tolist()
        if first < 0 or 8 * (last + 2) > index_size:
            return None
        shard = self._open(int(self.corpus.shard[sample]), stop)
        try:
            numbers = os.pread(shard.descriptor, 8 * (last - first + 2), index + 8 * first)
            if len(numbers) != 8 * (last - first + 2):
                return None
            offsets = np.frombuffer(numbers, "<i8")
            start, end = int(offsets[0]), int(offsets[-1])
            if not 0 <= start < end <= stream_size:
                return None
            data = self._memory.take(end - start).data
            whole = _read_into(data, shard.descriptor, stream + start)
        except OSError:
            return None
        return (data.toreadonly(), (offsets - start).tobytes()) if whole else None

    def _open(self, number: int, stop: threading.Event | None) -> _OpenShard:
        while True:
            with self._lock:
                shard = self._shards.get(number)
                if shard is not None and not self._discarded(shard):
                    self._shards.move_to_end(number)
                    return shard
            opened = _OpenShard(self.corpus.open_shard(number, stop))  # without the lock: others may read meanwhile
            with self._lock:
                shard = self._shards.get(number)
                if shard is None or self._discarded(shard):
                    self._shards[number] = shard = opened
                while len(self._shards) > self._open_shards:
                    self._shards.popitem(last=False)
                if not self._discarded(shard):
                    return shard

    def _discarded(self, shard: _OpenShard) -> bool:
        """Whether it was deleted from the cache, as damaged, after it was opened, or closed by a fork."""
        return shard.descriptor < 0 or (self.corpus.cache is not None and not os.fstat(shard.descriptor).st_nlink)

    def _was_damaged(self, number: int, shard: _OpenShard) -> bool:
        """Hash a cached shard again, once while it is open; True where this disk had damaged it, so that it is fetched
        anew.
        """
        if self.corpus.cache is None:
            return False
        with self._recheck_lock:
            if self._discarded(shard):
                return True  # by another thread, meanwhile
            if not shard.sound:
                shard.sound = not self.corpus.cache.discard_if_damaged(self.corpus.shard_blob(number))
            return not shard.sound


@functools.cache
def _most_files() -> int:
    """How many files this process may have open, now that its soft limit is as high as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return FILES if soft == resource.RLIM_INFINITY else soft


def _read_into(data: memoryview, descriptor: int, start: int) -> bool:
    """Fill `data` from byte `start` of a file on; False where that ends before. Raises OSError."""
    while data:
        held = os.preadv(descriptor, [data], start)  # 2 GiB at most
        if not held:
            return False
        data, start = data[held:], start + held
    return True


def _members(data: memoryview, start: int, spans: list[list[int]]) -> Payload:
    """The payload members, of which `data` holds all from byte `start` of their shard on."""
    return tuple(data[offset - start : offset - start + size] for offset, size in spans)
