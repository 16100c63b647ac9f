"""Check a corpus: every byte against the digests, every index against what it points at, every rule of the format."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, repeat
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, cast

import crc32c
import numpy as np
import zstandard
from tqdm import tqdm

from understudy.shards.beside import strangers
from understudy.shards.cache import default_cache
from understudy.shards.errors import UserError
from understudy.shards.fetch import LARGEST_TEXT, Blob, read_address
from understudy.shards.frames import check_payload, decode_frames
from understudy.shards.holes import read_holes
from understudy.shards.manifest import MANIFEST, MEMBERS, REFUSED, SAMPLES, Manifest, Sample, Shard, read_samples
from understudy.shards.plan import WORK
from understudy.shards.remote import Address, MissingError, Remote
from understudy.shards.tarshard import Entry, index_text, read_entries, sidecar

OUT_OF_ORDER = f"{SAMPLES}: its rows are not the manifest's shards in order"
OURS = (".tar", ".idx", ".tmp")  # such files a packer makes
THREADS = 8  # hashing, checksums and decoding let go of the interpreter


@dataclass(frozen=True)
class Report:
    """What lint found: findings say what is wrong, one line each; notes are for the reader to decide on."""

    findings: tuple[str, ...]
    notes: tuple[str, ...]
    summary: str


def lint(root: Address, *, decode: bool = False, progress: bool = True) -> Report:
    """Re-read the corpus at `root`, through the cache if it lies elsewhere, and with `decode` decode every frame.

    Raises UserError where there is no corpus at all.
    """
    try:
        manifest = Manifest.load(root)
    except UserError as error:
        if not (isinstance(root, Path) and (root / MANIFEST).exists()):
            raise
        return Report((str(error),), (), "1 finding")
    findings = list(_lint_manifest(root, manifest))
    rows: Iterator[list[Sample] | None] = repeat(None)
    try:
        table = _load_table(root, manifest)
        told = _lint_table(manifest, table)
        findings.extend(told)
        if OUT_OF_ORDER not in told:
            rows = _by_shard(table, len(manifest.shards))
    except ValueError as error:
        findings.append(f"{SAMPLES}: {error}")

    def lint_one(shard: Shard, own: list[Sample] | None) -> list[str]:
        return [f"{shard.url}: {finding}" for finding in _lint_shard(root, manifest, shard, own, decode)]

    bar = tqdm(total=len(manifest.shards), desc="lint", unit="shard", disable=None if progress else True)
    with bar, ThreadPoolExecutor(THREADS) as threads:
        under_way: deque[Future[list[str]]] = deque()
        for shard, own in zip(manifest.shards, rows):  # a few ahead: a row as an object takes a kilobyte
            under_way.append(threads.submit(lint_one, shard, own))
            if len(under_way) > 2 * THREADS:
                findings.extend(under_way.popleft().result())
                bar.update()
        for future in under_way:
            findings.extend(future.result())
            bar.update()
    refused = root / REFUSED
    named = isinstance(refused, Path) and refused.exists() and refused.stat().st_size > 0
    notes = [f"{REFUSED} names sources; move it out before you publish the corpus"] if named else []
    if isinstance(root, Path):
        notes += _foreign(root, manifest)
    return Report(tuple(findings), tuple(notes), _summary(manifest, findings))


def _foreign(root: Path, manifest: Manifest) -> Iterator[str]:
    """What an audit would find and `_lint_manifest` does not: files that do a reader of the corpus no harm."""
    names = [str(path.relative_to(root)) for path in strangers(root, manifest)]
    names = [name for name in names if name != REFUSED and ("/" in name or not name.endswith(OURS))]
    if names:
        told = ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
        yield f"{told}: not part of the corpus; move it out before you publish it"


def _summary(manifest: Manifest, findings: Sequence[str]) -> str:
    if findings:
        return f"{len(findings)} finding{'s' * (len(findings) != 1)}"
    size = sum(shard.filesize for shard in manifest.shards) / 1e6
    return (
        f"good: {manifest.nsamples} samples, {manifest.frames} frames, {size:.1f} MB in {len(manifest.shards)} shards"
    )


def _lint_manifest(root: Address, manifest: Manifest) -> Iterator[str]:
    if read_address(root / MANIFEST) != manifest.to_json().encode():
        yield f"{MANIFEST}: not written as this version writes it"
    if sum(manifest.per_class) != manifest.nsamples or len(manifest.per_class) != len(manifest.classes):
        yield f"{MANIFEST}: its counts per class do not add up to its samples"
    if isinstance(root, Remote):
        return  # what else lies there is not known without a right to list it
    listed = {name for shard in manifest.shards for name in (shard.url, shard.index)}
    for path in sorted(root.iterdir()):
        if path.suffix in OURS and path.name not in listed:
            yield f"{path.name}: not part of the corpus; delete it"
    if (root / WORK).exists():
        yield f"{WORK}: left by a packer that was killed at the very end; run the same pack command again"


def _load_table(root: Address, manifest: Manifest) -> bytes:
    """The sample table's file. Raises ValueError where it is not the one that the manifest names."""
    try:
        data = read_address(root / SAMPLES, max(LARGEST_TEXT, manifest.samples_filesize))
    except (FileNotFoundError, MissingError):
        raise ValueError("missing") from None
    if len(data) != manifest.samples_filesize:
        raise ValueError(f"{len(data)} bytes, the manifest says {manifest.samples_filesize}")
    if hashlib.sha256(data).hexdigest() != manifest.samples_sha256:
        raise ValueError("does not fit the manifest's digest")
    return data


def _lint_table(manifest: Manifest, table: bytes) -> list[str]:
    """What is wrong with the rows as such. Raises ValueError where these can't be read."""
    places = ((number, row) for number, shard in enumerate(manifest.shards) for row in range(shard.nsamples))
    in_order, frames, labels, odd = True, 0, Counter[int](), list[str]()
    hashed, others = bytearray(), list[str]()  # keys
    try:
        for sample in read_samples(table):
            place = next(places, None)
            in_order = in_order and place == (sample.shard, sample.row)
            if place is None:
                break  # how many more there are is not worth knowing
            frames += sample.frames
            labels[sample.label] += 1
            if re.fullmatch("[0-9a-f]{32}", sample.key):
                hashed += bytes.fromhex(sample.key)
            else:
                others.append(sample.key)
                odd.append(f"{SAMPLES}: key {sample.key!r} is not a keyed hash of 32 hex digits")
            if not re.fullmatch("([0-9a-f]{32})?", sample.group):
                odd.append(f"{SAMPLES}: group {sample.group!r} of {sample.key} is not a keyed hash of 32 hex digits")
    except (KeyError, TypeError, zstandard.ZstdError) as error:
        raise ValueError(f"not a sample table ({error!r})") from None
    findings: list[str] = []
    if not in_order or next(places, None) is not None:
        findings.append(OUT_OF_ORDER)
    keys = np.frombuffer(hashed, [("high", "<u8"), ("low", "<u8")])
    keys = keys[np.lexsort((keys["low"], keys["high"]))]
    if (keys[1:] == keys[:-1]).any() or len(set(others)) < len(others):
        findings.append(f"{SAMPLES}: the same key twice")
    if frames != manifest.frames:
        findings.append(f"{SAMPLES}: its frames do not add up to the manifest's")
    if labels != Counter({label: count for label, count in enumerate(manifest.per_class) if count}):
        findings.append(f"{SAMPLES}: its labels do not add up to the manifest's counts per class")
    return findings + odd


def _by_shard(table: bytes, shards: int) -> Iterator[list[Sample]]:
    """The rows of each shard in turn, of a table whose rows are in order."""
    groups = groupby(read_samples(table), key=attrgetter("shard"))
    coming = next(groups, None)
    for number in range(shards):
        if coming is None or coming[0] != number:
            yield []
            continue
        yield list(coming[1])
        coming = next(groups, None)


def _lint_shard(
    root: Address, manifest: Manifest, shard: Shard, rows: Sequence[Sample] | None, decode: bool
) -> Iterator[str]:
    path = root / shard.url
    try:
        with _open_shard(path, shard) as file:
            if os.fstat(file.fileno()).st_size == 0:
                yield "empty"
                return
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield from _lint_tar(root, manifest, shard, data, rows, decode)
    except OSError as error:
        yield f"can't be read ({error.strerror})"
    except UserError as error:
        yield str(error)


def _open_shard(path: Address, shard: Shard) -> BinaryIO:
    if isinstance(path, Path):
        return path.open("rb")
    return os.fdopen(default_cache().open(Blob(path, shard.filesize, shard.sha256)), "rb")


def _lint_tar(
    root: Address, manifest: Manifest, shard: Shard, data: mmap.mmap, rows: Sequence[Sample] | None, decode: bool
) -> Iterator[str]:
    if len(data) != shard.filesize:
        yield f"{len(data)} bytes, the manifest says {shard.filesize}"
    elif hashlib.sha256(data).hexdigest() != shard.sha256:
        yield "does not fit the manifest's digest"
    try:
        entries = read_entries(cast("BinaryIO", data))
    except ValueError as error:
        yield str(error)
        return
    try:
        if read_address(root / shard.index) != index_text(entries).encode():
            yield f"{shard.index} does not fit the shard"
    except OSError as error:
        yield f"{shard.index} can't be read ({error.strerror})"
    if rows is None:
        return
    expected = [
        Entry(f"{row.key}.{ext}", *row.members.get(ext, (0, 0))) for row in rows for ext in MEMBERS[manifest.codec]
    ]
    if entries != expected:
        odd = next((a.name for a, b in zip(entries, expected) if a != b), "the number of its members")
        yield f"its members are not those of {SAMPLES}, starting with {odd}"
        return
    for row in rows:
        members = {ext: data[offset : offset + size] for ext, (offset, size) in row.members.items()}
        yield from (f"{row.key}: {finding}" for finding in _lint_sample(manifest, row, members, decode))


def _lint_sample(manifest: Manifest, row: Sample, members: dict[str, bytes], decode: bool) -> Iterator[str]:
    checksum = 0
    for extension in MEMBERS[manifest.codec]:
        if extension != "json":
            checksum = crc32c.crc32c(members[extension], checksum)
    if checksum != row.crc32c:
        yield f"its payload does not fit the checksum in {SAMPLES}"
    yield from _lint_sidecar(manifest, row, members["json"])
    try:
        check_payload(members, manifest.codec, row.frames, row.width, row.height)
        if decode:
            for picture in decode_frames(members, manifest.codec, row.frames):
                if picture.shape != (row.height, row.width, 3):
                    raise ValueError(f"a frame of {picture.shape[1]}x{picture.shape[0]} pixels")
    except ValueError as error:
        yield str(error)


def _lint_sidecar(manifest: Manifest, row: Sample, data: bytes) -> Iterator[str]:
    expected = sidecar(row, manifest.fps, manifest.kind)
    try:
        body = cast("dict[str, Any]", json.loads(data))
        extra = sorted(body.keys() - expected.keys())
    except (ValueError, AttributeError, RecursionError):
        yield "its json is no JSON object"
        return
    if extra:
        yield f"its json has fields that are not on the allow-list: {', '.join(extra)}"
    for name, value in expected.items():
        if name != "removal" and body.get(name) != value:
            yield f"its json says {name} {body.get(name)!r}, {value!r} is right"
    if not isinstance(body.get("removal", ""), dict | None):
        yield "its json has no removal record, which is null or an object"
    try:
        read_holes(data, row.frames, row.width, row.height)
    except ValueError as error:
        yield f"where its json says that it was filled in is {error}"
