"""Getting one object whole and right: try again, resume in the middle, check size and digest.

One attempt is made in s3.py or web.py; where the bytes go is decided in cache.py.
"""

from __future__ import annotations

import hashlib
import io
import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from understudy.shards import s3, web
from understudy.shards.errors import UserError
from understudy.shards.remote import Address, ChangedError, ExpiredError, PassingError, Remote, Reply

PATIENCE_S = 35.0  # without progress, as a gateway takes 12 to start; the last attempt may take its own time-out more
SLOWEST = 20_000  # bytes a second over WATCHED_S seconds; below, a new connection may do better
WATCHED_S = 15.0
PART_S, PART_SILENCE_S = 5.0, 3.0  # for a part of an object, as who asks for it can wait for the whole instead
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
LARGEST_TEXT = 1 << 28  # bytes; the manifest of 100,000 shards has 31 MB

log = logging.getLogger(__name__)


class StoppedError(Exception):
    """The caller has set `stop`."""


@dataclass(frozen=True)
class Blob:
    """An object of known content: `size` in bytes and hex `sha256`."""

    remote: Remote
    size: int
    sha256: str


def fetch(blob: Blob, sink: BinaryIO, stop: threading.Event | None = None) -> None:
    """Write the object into `sink` from position 0 on; on return it holds exactly the bytes of that digest.

    Raises UserError where it can't be had within about a minute without progress, or twice was another, and
    StoppedError soon after `stop` is set. What is in `sink` then is of no use.
    """
    words = _fetch_once(blob, sink, stop)
    if words is not None:
        log.warning("%s: %s; fetching it once more from the start", blob.remote, words)
        words = _fetch_once(blob, sink, stop)
    if words is not None:
        raise UserError(f"{blob.remote}: {words}, twice; it is damaged or was replaced: upload the corpus again")


def read_part(blob: Blob, start: int, end: int, stop: threading.Event | None = None) -> bytes | None:
    """Bytes `start` to `end` of the object as the server gives them, which nothing vouches for yet.

    One attempt of at most PART_S seconds: None where that fails, for whatever reason. Raises StoppedError soon after
    `stop` is set.
    """
    until = time.monotonic() + PART_S
    pieces, missing = list[bytes](), end - start
    try:
        reply = _getter(blob.remote)(blob.remote, start, None, end, PART_SILENCE_S)
        try:
            if reply.start != start or reply.length != missing or reply.total not in (None, blob.size):
                return None
            while missing and (piece := reply.read()):
                pieces.append(piece)
                missing -= len(piece)
                if stop is not None and stop.is_set():
                    raise StoppedError
                if time.monotonic() > until:
                    return None
        finally:
            reply.close()
    except (PassingError, ChangedError, UserError):  # those that matter will be met again, and told then
        return None
    return None if missing else b"".join(pieces)


def read_address(address: Address, most: int = LARGEST_TEXT) -> bytes:
    """A file of unknown size and digest, wherever it is. Raises FileNotFoundError or MissingError without it; as
    `fetch_text` does where it is elsewhere.
    """
    return address.read_bytes() if isinstance(address, Path) else fetch_text(address, most)


def fetch_text(remote: Remote, most: int = LARGEST_TEXT) -> bytes:
    """An object of unknown size and digest, as the server gives it. Raises UserError as `fetch` does, and beyond `most`
    bytes, for it lies in memory.
    """
    sink = _Bounded(remote, most)
    with suppress(ChangedError):
        _download(remote, None, sink, None)
        return sink.getvalue()
    try:
        _download(remote, None, sink, None)
    except ChangedError as error:
        raise UserError(f"{remote}: {error}, twice; wait until the upload is over, then try again") from None
    return sink.getvalue()


class _Bounded(io.BytesIO):
    """Memory for `most` bytes of what lies at `remote`. More raise UserError."""

    def __init__(self, remote: Remote, most: int) -> None:
        super().__init__()
        self._remote, self._most = remote, most

    def write(self, buffer: Any) -> int:
        if self.tell() + len(buffer) > self._most:
            raise UserError(
                f"{self._remote}: more than {self._most / 1e6:.3g} MB, so not what it should be; look there"
            )
        return super().write(buffer)


def _fetch_once(blob: Blob, sink: BinaryIO, stop: threading.Event | None) -> str | None:
    """None, or in words how the object is not what it should be."""
    try:
        digest = _download(blob.remote, blob.size, sink, stop)
    except ChangedError as error:
        return str(error)
    return None if digest == blob.sha256 else "its bytes do not fit the digest in the manifest"


def _download(remote: Remote, size: int | None, sink: BinaryIO, stop: threading.Event | None) -> str:
    """Fill `sink` and return the hex SHA-256 of what it was. Raises UserError, ChangedError or StoppedError."""
    patience = Patience(remote, stop)
    get = _getter(remote)
    body = _Body(sink)
    etag: str | None = None
    while True:
        attempt = time.monotonic()
        try:
            reply = get(remote, body.position, etag)
            try:
                body.go_to(reply.start)
                _check(reply, size, etag)
                etag = reply.etag or etag
                _read(reply, body, size, stop)
            finally:
                reply.close()
            whole = size if size is not None else reply.length and reply.start + reply.length
            if not whole or body.position == whole:
                return body.finish()
            raise PassingError(f"the connection ended after {body.position} of {whole} bytes")
        except PassingError as error:
            patience.wait(error, body.progress(), time.monotonic() - attempt)


def _getter(remote: Remote) -> Callable[..., Reply]:
    return s3.get if remote.url.startswith("s3://") else web.get


def _check(reply: Reply, size: int | None, etag: str | None) -> None:
    if etag and reply.etag and reply.etag != etag:
        raise ChangedError("it was replaced while it was read")
    if size is None:
        return
    if reply.total not in (None, size):
        raise ChangedError(f"it has {reply.total} bytes, the manifest says {size}")
    # A body said to be too short is no proof, for a proxy may lie: what is missing will be asked for.
    if reply.length is not None and reply.start + reply.length > size:
        raise ChangedError(f"it has {reply.start + reply.length} bytes, the manifest says {size}")


def _read(reply: Reply, body: _Body, size: int | None, stop: threading.Event | None) -> None:
    mark_s, mark = time.monotonic(), body.position
    while size is None or body.position < size:
        piece = reply.read()
        if not piece:
            return
        body.write(piece if size is None else piece[: size - body.position])
        if stop is not None and stop.is_set():
            raise StoppedError
        elapsed = time.monotonic() - mark_s
        if elapsed >= WATCHED_S:
            if body.position - mark < SLOWEST * elapsed:
                raise PassingError(f"less than {SLOWEST / 1000:.0f} kB a second came for {elapsed:.0f} s")
            mark_s, mark = time.monotonic(), body.position


class _Body:
    """What has been written of an object, and its running digest."""

    def __init__(self, sink: BinaryIO) -> None:
        self.position = 0
        self._sink, self._sha256 = sink, hashlib.sha256()
        self._furthest = self._reported = 0
        sink.seek(0)

    def go_to(self, start: int) -> None:
        """A server that knows no ranges begins at 0 again; one that begins elsewhere is of no use."""
        if start == self.position:
            return
        if start != 0:
            raise PassingError(f"the server sends byte {start} where byte {self.position} was asked for")
        self.position, self._sha256 = 0, hashlib.sha256()
        self._sink.seek(0)

    def write(self, piece: bytes) -> None:
        self._sink.write(piece)
        self._sha256.update(piece)
        self.position += len(piece)
        self._furthest = max(self._furthest, self.position)

    def progress(self) -> int:
        """Bytes that had never been reached before the last call."""
        gained, self._reported = self._furthest - self._reported, self._furthest
        return gained

    def finish(self) -> str:
        self._sink.truncate(self.position)
        return self._sha256.hexdigest()


class Patience:
    """Waits between attempts, longer and longer and never in step with others; has an end where nothing comes of it.

    An attempt that brought less than SLOWEST bytes a second counts as one without progress.
    """

    def __init__(self, remote: Remote, stop: threading.Event | None = None) -> None:
        self._remote, self._stop = remote, stop or threading.Event()
        self._fruitless = 0
        self._renewed = False
        self._since = time.monotonic()

    def wait(self, error: PassingError, gained: int = 0, elapsed: float = 0.0, excused: float = 0.0) -> None:
        """After a failed attempt that took `elapsed` seconds, of which `excused` don't count.

        Raises UserError where it should be the last, StoppedError if stopped.
        """
        self._since += excused
        if gained and gained >= SLOWEST * elapsed:
            self._fruitless, self._renewed, self._since = 0, False, time.monotonic()
        else:
            self._fruitless += 1
        if isinstance(error, ExpiredError):
            if self._renewed:
                raise UserError(f"{self._remote}: {error}; renew them (a new login, new AWS_... values)") from None
            self._renewed = True
            log.warning("%s: %s; looking for new ones", self._remote, error)
            return
        idle = time.monotonic() - self._since
        if idle >= PATIENCE_S:
            raise UserError(
                f"{self._remote}: {error}; gave up after {self._fruitless} tries in {idle:.0f} s without progress: "
                "check the server and the network, then run the same command again"
            ) from None
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** max(0, self._fruitless - 1))
        pause = min(random.uniform(0, longest), PATIENCE_S - idle)
        log.info("%s: %s; trying again in %.1f s", self._remote, error, pause)
        if self._stop.wait(pause):
            raise StoppedError from None
