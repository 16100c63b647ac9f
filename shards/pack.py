"""From sources to a corpus in shard format version 1: encode in parallel, write shard by shard, publish at the end.

Each shard depends on its own sources only. A finished one leaves a record in the work folder, so a packer that was
killed at any moment goes on after the last finished shard, and the corpus comes out the same to the byte.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, cast

import crc32c
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from understudy.shards.cluster import ray_map
from understudy.shards.encode import Encoded, encode
from understudy.shards.errors import UserError
from understudy.shards.files import atomic_file, write_atomic
from understudy.shards.holes import RECORD as HOLES
from understudy.shards.keys import sample_key
from understudy.shards.kinds import Codec, Engine
from understudy.shards.manifest import (
    MANIFEST,
    MEMBERS,
    SAMPLES,
    Manifest,
    Sample,
    Shard,
    encode_samples,
    sample_from_row,
)
from understudy.shards.plan import (
    WORK,
    PackConfig,
    Plan,
    check,
    check_place,
    clear,
    finished,
    keyed_digest,
    locked,
    make_plan,
    refused_list,
    remember,
)
from understudy.shards.sources import RefusedError, Source, reading
from understudy.shards.tarshard import sidecar, write_shard
from understudy.shards.workers import Beat, Lost, confined_map

# Of the long side's pixels. H.264 is coded in macroblocks of 16; DALI (2.4) looks for a decoder of the coded size among
# those by the shown size, and where they differ makes one anew for every video, at 50 ms and more.
MULTIPLES: dict[Codec, int] = {"mjpeg": 2, "h264": 16}
PATIENCE_S = 120.0

Reader = Callable[[Source], Iterator[NDArray[np.uint8]]]


@dataclass(frozen=True)
class Refused:
    """A source that is left out, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class PackedShard:
    """A finished shard: None where every source of it was refused. The samples' shard number is set on publishing."""

    shard: Shard | None
    samples: tuple[Sample, ...]
    refused: tuple[Refused, ...]


def pack(
    sources: Sequence[Source],
    read: Reader,
    out: Path,
    config: PackConfig,
    *,
    workers: int,
    engine: Engine = "local",
    progress: bool = True,
    patience_s: float = PATIENCE_S,
    largest: int | None = None,
) -> Manifest:
    """Pack `sources` into the corpus folder `out` and return its manifest.

    `read` yields the RGB frames (H, W, 3) of a source at the packing rate, with a fourth channel where it is to be
    kept what was filled in (encode.py), or raises RefusedError; it is picklable by name from an importable module. A
    source whose worker process crashes, or yields no frame for `patience_s` seconds, is tried once more and then
    refused. With `workers` 0 everything runs in this process, unconfined. With the engine "ray" all cores of a cluster
    decode (cluster.py) and `workers` is not used; the bytes are the same.

    What was refused is listed beside `out` (`refused_list`), so that the folder can be published as it is.

    Called again after an interruption, it packs the shards that are missing; on a finished corpus it only returns
    the manifest. Raises UserError where `out` holds something else, nothing could be packed, no list can be written
    beside it, the disk is full, or, as soon as there is one, a shard has more than `largest` bytes.
    """
    config = replace(config, fps=float(config.fps))
    check(sources, config)
    chunks = _chunks(sources, config)
    plan = make_plan(sources, read, config)
    check_place(out)
    if (out / MANIFEST).exists() and not (out / WORK).exists():
        return finished(out, config, plan)
    created = not out.exists()
    with _full_disk_told(out):
        out.mkdir(parents=True, exist_ok=True)
        _check_beside(out)
        with locked(out) as work:
            if (out / MANIFEST).exists():
                clear(work)
                return finished(out, config, plan)
            remember(work, plan, out)
            packed = _pack_missing(chunks, read, out, config, workers, engine, progress, patience_s, largest)
            manifest = _publish(packed, out, config, plan) if any(shard.samples for shard in packed) else None
            clear(work)
        if manifest is None:
            if created:
                with suppress(OSError):  # another packer is at work in it by now
                    out.rmdir()
            raise UserError(f"nothing to pack, every source was refused: {_reasons(packed)}")
    return manifest


def pack_shard(
    path: Path,
    chunk: Sequence[tuple[str, Source]],
    outcomes: Iterator[Encoded | Refused],
    config: PackConfig,
) -> PackedShard:
    """Write the shard `path` from the (key, source) pairs of `chunk`; `outcomes` yields what came of each.

    Takes exactly `len(chunk)` outcomes. Nothing is written where all are refused.
    """
    samples: list[Sample] = []
    refused: list[Refused] = []

    def accepted() -> Iterator[tuple[str, dict[str, bytes]]]:
        for (key, source), outcome in zip(chunk, outcomes):
            if isinstance(outcome, Refused):
                refused.append(outcome)
                continue
            group = sample_key(config.secret, f"group {source.group}") if source.group else ""
            samples.append(_row(key, len(samples), source.label, group, outcome, config.codec))
            removal = config.removal
            if outcome.holes is not None:
                removal = {**(removal or {}), HOLES: outcome.holes}
            about = json.dumps(sidecar(samples[-1], config.fps, config.kind, removal), separators=(",", ":"))
            yield key, {**outcome.members, "json": about.encode()}

    members = accepted()
    first = next(members, None)
    if first is None:
        return PackedShard(None, (), tuple(refused))
    shard, entries = write_shard(path, chain([first], members))
    spans = {entry.name: (entry.offset, entry.size) for entry in entries}
    extensions = MEMBERS[config.codec]
    located = (replace(sample, members={ext: spans[f"{sample.key}.{ext}"] for ext in extensions}) for sample in samples)
    return PackedShard(shard, tuple(located), tuple(refused))


def _row(key: str, row: int, label: int, group: str, encoded: Encoded, codec: Codec) -> Sample:
    checksum = 0
    for extension in MEMBERS[codec]:
        if extension != "json":
            checksum = crc32c.crc32c(encoded.members[extension], checksum)
    return Sample(key, 0, row, label, encoded.frames, encoded.width, encoded.height, {}, checksum, group)


def _encode_source(
    read: Reader, codec: Codec, fps: float, quality: int, source: Source, beat: Beat
) -> Encoded | Refused:
    """Runs in a worker process."""

    def frames() -> Iterator[NDArray[np.uint8]]:
        for frame in read(source):
            beat()
            yield frame

    try:
        with reading():
            known = source.path is None or source.path.is_file() or source.path.is_dir()
        if not known:
            raise RefusedError("not a file")  # a pipe would keep the decoder waiting
        return encode(frames(), codec, fps=fps, quality=quality, multiple=MULTIPLES[codec])
    except RefusedError as error:
        return Refused(source.id, str(error))


def _pack_missing(
    chunks: Sequence[Sequence[tuple[str, Source]]],
    read: Reader,
    out: Path,
    config: PackConfig,
    workers: int,
    engine: Engine,
    progress: bool,
    patience_s: float,
    largest: int | None,
) -> list[PackedShard]:
    """All shards in order: those with a record as they are, the others packed and recorded now."""
    paths = [out / f"{config.name}-{number:06d}.tar" for number in range(len(chunks))]
    records = [out / WORK / f"{path.stem}.json" for path in paths]
    packed = [_load_record(path, record) for path, record in zip(paths, records)]
    missing = [source for shard, chunk in zip(packed, chunks) if shard is None for _, source in chunk]
    work = functools.partial(_encode_source, read, config.codec, config.fps, config.quality)
    if engine == "ray":
        results = ray_map(work, missing, patience_s=patience_s)
    else:
        results = confined_map(work, missing, workers=workers, patience_s=patience_s)
    bar = tqdm(
        total=sum(map(len, chunks)),
        initial=sum(map(len, chunks)) - len(missing),
        desc=f"pack {config.name}",
        unit="video",
        disable=None if progress else True,
    )

    def outcomes() -> Iterator[Encoded | Refused]:
        refused = 0
        for source, result in zip(missing, results):
            outcome = Refused(source.id, result.reason) if isinstance(result, Lost) else result
            refused += isinstance(outcome, Refused)
            bar.set_postfix_str(f"{refused} refused", refresh=False)
            bar.update()
            yield outcome

    with bar, closing(results):
        ready = outcomes()
        for number, shard in enumerate(packed):
            if shard is None:
                packed[number] = shard = pack_shard(paths[number], chunks[number], ready, config)
                write_atomic(records[number], json.dumps(asdict(shard)).encode())
            if shard.shard and largest is not None:
                check_size(paths[number], shard.shard.filesize, largest)
    return [shard for shard in packed if shard is not None]


def check_size(path: Path, size: int, largest: int) -> None:
    """Raises UserError where the shard `path` of `size` bytes is too large for the store that it is to go to."""
    if size > largest:
        raise UserError(
            f"{path}: {size / 2**30:.3g} GiB, and S3 takes {largest / 2**30:.3g} GiB at once; "
            f"delete {path.parent}, then pack with fewer --samples-per-shard"
        )


def _load_record(path: Path, record: Path) -> PackedShard | None:
    """The finished shard at `path`, or None where it has to be packed."""
    try:
        body = cast("dict[str, Any]", json.loads(record.read_bytes()))
        shard = Shard(**body["shard"]) if body["shard"] else None
        if shard and (path.stat().st_size != shard.filesize or not path.with_name(shard.index).exists()):
            return None
    except FileNotFoundError:
        return None
    return PackedShard(
        shard,
        tuple(sample_from_row(row) for row in body["samples"]),
        tuple(Refused(**refused) for refused in body["refused"]),
    )


def _publish(packed: Sequence[PackedShard], out: Path, config: PackConfig, plan: Plan) -> Manifest:
    """Write the list of refusals, the sample table and, last, the manifest."""
    full = [shard for shard in packed if shard.shard is not None]
    samples = [replace(sample, shard=number) for number, shard in enumerate(full) for sample in shard.samples]
    refused = sorted((refused for shard in packed for refused in shard.refused), key=lambda entry: entry.id)
    table = encode_samples(samples)
    write_atomic(out / SAMPLES, table)
    _list_refused(refused_list(out), refused)
    labels = Counter(sample.label for sample in samples)
    manifest = Manifest(
        name=config.name,
        kind=config.kind,
        classes=config.classes,
        licence=config.licence,
        codec=config.codec,
        fps=config.fps,
        short_side=config.short_side,
        shards=tuple(shard.shard for shard in full if shard.shard is not None),
        samples_sha256=hashlib.sha256(table).hexdigest(),
        samples_filesize=len(table),
        frames=sum(sample.frames for sample in samples),
        refused=len(refused),
        per_class=tuple(labels[label] for label in range(len(config.classes))),
        tool="understudy",
        tool_version=version("understudy"),
        plan=keyed_digest(config.secret, plan),
    )
    manifest.save(out)
    return manifest


def _check_beside(out: Path) -> None:
    """Before hours of packing: can the list of what is refused be written?"""
    folder = refused_list(out).parent
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: the list of refused videos can't be written there; give an OUT in another folder")


def _list_refused(path: Path, refused: Sequence[Refused]) -> None:
    """Write the list, or delete that of an earlier corpus where nothing is refused."""
    if not refused:
        path.unlink(missing_ok=True)
        return
    with atomic_file(path) as file:
        os.fchmod(file.fileno(), 0o600)  # names sources, so it is for the owner's eyes
        for entry in refused:
            file.write(json.dumps({"path": entry.id, "reason": entry.reason}).encode() + b"\n")


def _reasons(packed: Sequence[PackedShard]) -> str:
    counts = Counter(refused.reason for shard in packed for refused in shard.refused)
    listed = ", ".join(f"{count} x {reason}" for reason, count in counts.most_common(3))
    return listed + (", ..." if len(counts) > 3 else "")


def _chunks(sources: Sequence[Source], config: PackConfig) -> list[list[tuple[str, Source]]]:
    """The (key, source) pairs of each shard: sources shuffled across the corpus by their keys."""
    keyed = sorted(((sample_key(config.secret, source.id), source) for source in sources), key=lambda pair: pair[0])
    step = config.samples_per_shard
    return [keyed[start : start + step] for start in range(0, len(keyed), step)]


@contextmanager
def _full_disk_told(out: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UserError(
            f"{out}: no space left for it; make room and run the same command again, it goes on where it stopped"
        ) from None
