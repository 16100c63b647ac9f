"""The cache of a node: one folder for all its processes, files named by their digest, never more than a limit.

Only the kernel's file locks say what is in use, and they end with the process that holds them:

- a reader holds a shared lock on the file itself, so that it is not evicted;
- who downloads holds an exclusive lock on `DIGEST.part`; the others wait, and a `.part` without a lock is an orphan;
- space is counted, freed and taken, and a whole file gets its name, under the lock on `accounts`.

It must be on a local disk. Files that it did not make are neither counted nor touched.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from understudy.shards.errors import UserError
from understudy.shards.fetch import PATIENCE_S, Blob, StoppedError, fetch
from understudy.shards.files import fsync_folder

DEFAULT_LIMIT = 100 * 10**9
DOWNLOADS, LEAST_DOWNLOADS = 16, 2  # at once on a node, and of each rank; a connection brings 50 to 100 MB a second
POLL_S = 0.02

log = logging.getLogger(__name__)

_WHOLE = re.compile("[0-9a-f]{64}")
_PART = re.compile(r"[0-9a-f]{64}\.part")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Cache:
    """Files of known content in `folder`, at most `limit` bytes of them; may be used from several threads."""

    def __init__(self, folder: Path, limit: int, downloads: int = DOWNLOADS) -> None:
        self.folder, self.limit = folder, limit
        self.downloads = downloads
        self._permits = threading.BoundedSemaphore(downloads)
        self._permits_ahead = threading.BoundedSemaphore(max(1, downloads - 1))  # one is kept for who waits for it
        self._failures: dict[str, tuple[float, UserError]] = {}  # by digest: when a download failed here, and why
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._accounts():
                self._used(None)
        except OSError as error:
            raise self._no_use(error) from None

    def open(self, blob: Blob, stop: threading.Event | None = None) -> int:
        """A descriptor of the whole and verified file, at its start; while it is open the file stays.

        Downloads it if need be. Raises UserError where that fails, StoppedError soon after `stop` is set.
        """
        descriptor = self._open(blob, stop, patience_s=PATIENCE_S)
        assert descriptor is not None
        return descriptor

    def holds(self, blob: Blob) -> bool:
        """Whether `open` would most likely not have to download it."""
        return self._path(blob).exists()

    def prepare(self, blob: Blob, stop: threading.Event) -> None:
        """Have it there soon, unless another is at it already or there is no room now. Raises as `open` does."""
        with self._permits_ahead:
            descriptor = self._open(blob, stop, patience_s=0.0)
        if descriptor is not None:
            os.close(descriptor)

    def discard_if_damaged(self, blob: Blob) -> bool:
        """Delete the file if its bytes are no longer those of its digest, and say so; it will be fetched again."""
        descriptor = self._open_whole(blob)
        if descriptor is None:
            return True
        with os.fdopen(descriptor, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == blob.sha256:
                return False
            log.warning("%s: damaged in the cache %s, fetching it again", blob.remote, self.folder)
            self._path(blob).unlink(missing_ok=True)
            return True

    def require(self, bytes_at_once: int, what: str) -> None:
        """Raises UserError unless `bytes_at_once` fit; `what` says in words what takes them."""
        if bytes_at_once > self.limit:
            raise UserError(
                f"{self.folder}: the cache may hold {self.limit / 1e9:.3g} GB, but {what} take "
                f"{bytes_at_once / 1e9:.3g} GB at once; set UNDERSTUDY_CACHE_LIMIT to that or more"
            )

    def _open(self, blob: Blob, stop: threading.Event | None, patience_s: float) -> int | None:
        """`open`; without patience, None where another downloads it or there is no room."""
        self.require(blob.size, blob.remote.name)
        began = time.monotonic()
        while True:
            try:
                descriptor = self._open_whole(blob)
                if descriptor is not None:
                    return descriptor
                part = self._lock_part(blob)
                if part is not None:
                    descriptor = self._download(blob, part, began, stop)
                    if descriptor is not None:
                        return descriptor
            except OSError as error:
                raise self._no_use(error) from None
            if not patience_s:
                return None
            if part is not None and self._under_way():  # what is read by its downloaders can go when that is over
                began = time.monotonic()
            elif part is not None and time.monotonic() - began > patience_s:
                raise UserError(
                    f"{self.folder}: no room for {blob.remote.name}, all of the {self.limit / 1e9:.3g} GB is in use; "
                    "set UNDERSTUDY_CACHE_LIMIT higher, or run fewer jobs at once"
                )
            if stop is not None and stop.is_set():
                raise StoppedError
            time.sleep(POLL_S)

    def _download(self, blob: Blob, part: int, began: float, stop: threading.Event | None) -> int | None:
        """Fill the locked `part`; its descriptor under its final name, or None where there is no room."""
        failed_s, failure = self._failures.get(blob.sha256, (0.0, None))
        path = self._path(blob)
        partial = path.with_name(f"{blob.sha256}.part")
        kept = False
        _parts.add(part)
        try:
            if failure is not None and failed_s > began:  # while we waited: trying it all once more takes too long
                raise type(failure)(str(failure))
            if path.exists():  # another finished it before we had the lock: nothing is wanting, least of all room
                return self._open_whole(blob)
            if not self._reserve(blob, part):
                return None
            with self._permits, os.fdopen(os.dup(part), "r+b") as file:
                fetch(blob, file, stop)
                file.flush()
                os.fsync(file.fileno())
            with self._accounts():
                partial.rename(path)
            kept = True
            fsync_folder(self.folder)
            return self._share(part, blob)
        except UserError as error:
            self._failures[blob.sha256] = (time.monotonic(), error)
            raise
        finally:
            _parts.discard(part)
            if not kept:
                partial.unlink(missing_ok=True)
                os.close(part)

    def _open_whole(self, blob: Blob) -> int | None:
        try:
            descriptor = os.open(self._path(blob), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        return self._share(descriptor, blob)

    def _share(self, descriptor: int, blob: Blob) -> int | None:
        """`descriptor` with a shared lock, or None, closed, where the file was evicted or cut meanwhile."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            about = os.fstat(descriptor)
            if about.st_nlink and about.st_size == blob.size:
                os.utime(descriptor)  # the oldest is evicted first
                os.lseek(descriptor, 0, os.SEEK_SET)
                return descriptor
            if about.st_nlink:
                self._path(blob).unlink(missing_ok=True)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def _lock_part(self, blob: Blob) -> int | None:
        """A descriptor of the `.part` file, ours alone, or None where it is another's."""
        path = self.folder / f"{blob.sha256}.part"
        with self._accounts():  # under which orphans are deleted: it must not pass for one before it is locked
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if _locked(descriptor, path):
                return descriptor
        os.close(descriptor)
        return None

    def _reserve(self, blob: Blob, part: int) -> bool:
        """Give `part` its full size on disk, evicting what has not been used for longest. False: no room now."""
        os.truncate(part, 0)
        with self._accounts():
            used, files = self._used(part)
            evicted = (size for _, path, size in sorted(files) if _evict(path))
            while True:
                if used + blob.size <= self.limit and self._allocate(part, blob.size, last=not files):
                    return True
                freed = next(evicted, None)
                if freed is None:
                    return False
                used -= freed

    def _allocate(self, part: int, size: int, last: bool) -> bool:
        """False where the disk is full, though the limit is not reached; an OSError if nothing could be evicted."""
        try:
            if size:
                os.posix_fallocate(part, 0, size)
        except OSError as error:
            os.truncate(part, 0)
            if last or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return False
        return True

    def _used(self, mine: int | None) -> tuple[int, list[tuple[float, Path, int]]]:
        """Bytes in the cache, and (last use, path, size) of its whole files. Deletes orphans. Under `_accounts`."""
        own = os.fstat(mine).st_ino if mine is not None else None
        used, files = 0, list[tuple[float, Path, int]]()
        with os.scandir(self.folder) as entries:
            for entry in entries:
                whole = _WHOLE.fullmatch(entry.name)
                if not whole and not _PART.fullmatch(entry.name):
                    continue
                path = self.folder / entry.name
                if not whole and entry.inode() != own and _evict(path):
                    continue
                with suppress(FileNotFoundError):
                    about = entry.stat()
                    used += about.st_size
                    if whole:
                        files.append((about.st_mtime, path, about.st_size))
        return used, files

    @contextmanager
    def _accounts(self) -> Generator[None]:
        descriptor = os.open(self.folder / "accounts", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child that was forked just now has a copy of the descriptor
            os.close(descriptor)

    def _under_way(self) -> bool:
        """Whether others are downloading: they have room, those that wait for some have an empty file at most."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if _PART.fullmatch(entry.name) and entry.stat().st_size:
                        return True
        return False

    def _path(self, blob: Blob) -> Path:
        return self.folder / blob.sha256

    def _no_use(self, error: OSError) -> UserError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            words = "the disk of the cache is full; make room, or set UNDERSTUDY_CACHE to a folder on another disk"
        else:
            words = f"can't be used as the cache ({error.strerror}); set UNDERSTUDY_CACHE to a folder on a local disk"
        return UserError(f"{self.folder}: {words}")


def _close_parts() -> None:
    """In a forked child: its copies would keep their files locked for as long as it lives."""
    for part in _parts:
        os.close(part)
    _parts.clear()


_parts: set[int] = set()  # descriptors of this process's downloads
os.register_at_fork(after_in_child=_close_parts)


def _locked(descriptor: int, path: Path) -> bool:
    """Take an exclusive lock on an open file, unless another has it or `path` is no longer that file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _evict(path: Path) -> bool:
    """Delete a file that nobody holds a lock on."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if not _locked(descriptor, path):
            return False
        path.unlink()
        return True
    finally:
        os.close(descriptor)


def default_cache() -> Cache:
    """The cache in UNDERSTUDY_CACHE (~/.cache/understudy) of UNDERSTUDY_CACHE_LIMIT bytes (100 GB, say 500GB or 2TB),
    with this rank's share of the node's UNDERSTUDY_DOWNLOADS (16).

    Raises UserError where these make no sense.
    """
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(os.environ.get("UNDERSTUDY_CACHE") or f"{home}/understudy").expanduser().absolute()
    limit = os.environ.get("UNDERSTUDY_CACHE_LIMIT")
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    downloads = os.environ.get("UNDERSTUDY_DOWNLOADS") or str(DOWNLOADS)
    if not downloads.isdecimal() or not int(downloads):
        raise UserError(f"UNDERSTUDY_DOWNLOADS: {downloads!r} is no number of downloads; use {DOWNLOADS}, say")
    share = max(LEAST_DOWNLOADS, int(downloads) // ranks)
    return _cache(folder, parse_size(limit) if limit else DEFAULT_LIMIT, share)


@functools.cache
def _cache(folder: Path, limit: int, downloads: int) -> Cache:
    return Cache(folder, limit, downloads)


def parse_size(text: str) -> int:
    """Bytes from "500GB", "1.5 TB" or "2000000". Raises UserError on anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)B?\s*", text, re.IGNORECASE)
    if not found:
        raise UserError(f"{text!r} is no size; write it as 500GB or 2TB")
    unit = {unit.lower(): factor for unit, factor in _UNITS.items()}[found[2].lower()]
    return int(float(found[1]) * unit)
