"""A corpus opened for reading: its manifest, its sample table in columns, and its shards as files.

What the two files say, and in what form, is in `manifest.py`; how rows become columns in `columns.py`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import zstandard
from numpy.typing import NDArray

from understudy.shards.cache import Cache, default_cache
from understudy.shards.checks import check_rows
from understudy.shards.columns import Keys, number_groups, read_columns
from understudy.shards.errors import UserError
from understudy.shards.fetch import Blob
from understudy.shards.manifest import MANIFEST, MEMBERS, SAMPLES, Manifest
from understudy.shards.remote import Address, MissingError, Remote, parse_address


@dataclass(frozen=True)
class Corpus:
    """A corpus opened for reading: its manifest and the sample table in columns, all of length `nsamples`.

    Sample i is row `row[i]` of shard `shard[i]`; samples lie in shard and row order. `spans[i, m]` is the
    (offset, size) in bytes of payload member m of sample i in its shard, `sidecars[i]` of its JSON; `groups[i]` is the
    keyed hash of its origin, empty where the packer knew of none.
    """

    root: Address
    cache: Cache | None  # of a corpus that lies elsewhere
    manifest: Manifest
    keys: Keys
    shard: NDArray[np.int32]
    row: NDArray[np.int32]
    label: NDArray[np.int64]
    frames: NDArray[np.int32]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    spans: NDArray[np.int64]
    sidecars: NDArray[np.int64]
    crc32c: NDArray[np.uint32]
    groups: NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def group(self) -> NDArray[np.int64]:
        """Number of the sample's group, in the order of their names; a sample of none is a group by itself."""
        return number_groups(self.keys.names, self.groups)

    def shard_path(self, shard: int) -> Path:
        """Where shard number `shard` lies, in a corpus in a local folder."""
        assert isinstance(self.root, Path)
        return self.root / self.manifest.shards[shard].url

    def shard_blob(self, shard: int) -> Blob:
        """What to fetch for shard number `shard`, in a corpus that lies elsewhere."""
        assert isinstance(self.root, Remote)
        entry = self.manifest.shards[shard]
        return Blob(self.root / entry.url, entry.filesize, entry.sha256)

    def open_shard(self, shard: int, stop: threading.Event | None = None) -> int:
        """A file descriptor of shard number `shard`, for the caller to close; fetched if it lies elsewhere.

        Raises UserError where it is missing or not as long as the manifest says, and StoppedError soon after `stop`
        is set.
        """
        if self.cache is not None:
            try:
                return self.cache.open(self.shard_blob(shard), stop)
            except MissingError:
                place = self.shard_blob(shard).remote
                raise UserError(f"{place}: missing, though the manifest names it; upload the corpus again") from None
        path, expected = self.shard_path(shard), self.manifest.shards[shard].filesize
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise UserError(f"{path}: {error.strerror}; raise the limit with ulimit -n") from None
            raise UserError(f"{path}: {error.strerror}, though the manifest names it; copy it again") from None
        size = os.fstat(descriptor).st_size
        if size != expected:
            os.close(descriptor)
            raise UserError(f"{path}: {size} bytes, the manifest says {expected}; copy it again or repack the corpus")
        return descriptor

    def read_table(self) -> bytes:
        """The bytes of the sample table, for those who want to know what else is in it. Raises UserError as `open`."""
        return _read_samples(self.root, self.manifest, self.cache)

    @staticmethod
    def open(root: Address | str, cache: Cache | None = None) -> Corpus:
        """Open the corpus in folder `root`, or at an address such as s3://bucket/prefix; what is fetched from there
        goes into `cache`, by default the node's. Checks the digests of manifest and sample table, not of the shards.

        Raises UserError with what to do where something is missing or does not fit.
        """
        root = parse_address(root)
        cache = None if isinstance(root, Path) else cache or default_cache()
        manifest = Manifest.load(root)
        data = _read_samples(root, manifest, cache)
        try:
            columns = read_columns(data, MEMBERS[manifest.codec], manifest.nsamples)
        except (KeyError, TypeError, ValueError, OverflowError, zstandard.ZstdError) as error:
            raise UserError(f"{root / SAMPLES}: not a sample table ({error!r}); repack the corpus") from None
        rows, expected = len(columns.keys), manifest.nsamples
        if rows != expected:
            told = f"more than {expected}" if rows > expected else rows
            raise UserError(f"{root / SAMPLES}: {told} rows, {MANIFEST} says {expected}; repack the corpus")
        nsamples, filesizes = [shard.nsamples for shard in manifest.shards], [s.filesize for s in manifest.shards]
        try:
            check_rows(columns, nsamples, filesizes, len(manifest.classes))
        except ValueError as error:
            raise UserError(f"{root / SAMPLES}: {error}; repack the corpus") from None
        shard, row, label, frames, width, height, checksum = columns.numbers
        return Corpus(
            root=root,
            cache=cache,
            manifest=manifest,
            keys=Keys(columns.keys),
            shard=shard,
            row=row,
            label=label,
            frames=frames,
            width=width,
            height=height,
            spans=columns.places[:, 1:],
            sidecars=columns.places[:, 0],
            crc32c=checksum,
            groups=columns.groups,
        )


def _read_samples(root: Address, manifest: Manifest, cache: Cache | None) -> bytes:
    path = root / SAMPLES
    if isinstance(path, Remote):
        assert cache is not None
        try:
            descriptor = cache.open(Blob(path, manifest.samples_filesize, manifest.samples_sha256))
        except MissingError:
            raise UserError(f"{path}: missing, though {MANIFEST} names it; upload the corpus again") from None
        with os.fdopen(descriptor, "rb") as file:
            return file.read()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: missing, though {MANIFEST} names it; copy the corpus again") from None
    if hashlib.sha256(data).hexdigest() != manifest.samples_sha256:
        raise UserError(f"{path}: does not fit the digest in {MANIFEST}; copy the corpus again")
    return data
