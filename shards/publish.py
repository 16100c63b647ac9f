"""A corpus into a bucket: packed in a local folder, then copied; everything it consists of first, the manifest last.

Until the manifest is there, there is no corpus, so that a reader never meets half of one.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from understudy.shards import fetch, s3
from understudy.shards.errors import UserError
from understudy.shards.fetch import Patience
from understudy.shards.kinds import Engine
from understudy.shards.manifest import MANIFEST, SAMPLES, Manifest
from understudy.shards.pack import PATIENCE_S, Reader, check_size, pack
from understudy.shards.plan import PackConfig, check, keyed_digest, make_plan, refused_list
from understudy.shards.remote import MissingError, PassingError, Remote
from understudy.shards.sources import Source

INSIDE = "unpublished-corpus"  # in the folder to work in, which may be anyone's: what is packed, and nothing else
THREADS = 4
SLOW_PUTS = 5  # tries of an upload that takes longer than a download may be without progress


def pack_into_bucket(
    sources: Sequence[Source],
    read: Reader,
    remote: Remote,
    work: Path,
    config: PackConfig,
    *,
    workers: int,
    engine: Engine = "local",
    progress: bool = True,
    patience_s: float = PATIENCE_S,
) -> Manifest:
    """`pack`, to an `s3://` prefix by way of a folder of its own in `work`, which is gone at the end and otherwise goes
    on; so is `work` itself if nothing else is in it.

    The list of what was refused names sources, so it is not copied; it stays beside `work` (`refused_list`).
    Raises UserError as `pack` does, where the bucket can't be written to, and where another corpus lies there.
    """
    config = replace(config, fps=float(config.fps))
    check(sources, config)
    if work.exists() and not work.is_dir():
        raise UserError(f"{work}: is a file; give a folder to work in")
    there = published(remote)
    if there is not None:
        if there.plan != keyed_digest(config.secret, make_plan(sources, read, config)):
            raise UserError(f"{remote}: another corpus lies there; give another OUT, or delete it")
        _finish(work, there)
        return there
    manifest = pack(
        sources,
        read,
        work / INSIDE,
        config,
        workers=workers,
        engine=engine,
        progress=progress,
        patience_s=patience_s,
        largest=s3.LARGEST_PUT,
    )
    publish(work / INSIDE, remote, progress=progress)
    _finish(work, manifest)
    return manifest


def _finish(work: Path, published: Manifest) -> None:
    """Leave nothing of what was packed in `work`, where that is what was `published`, but beside `work` the list of
    what was refused; run again, it goes on.
    """
    packed = work / INSIDE
    if (packed / MANIFEST).exists() and Manifest.load(packed).digest == published.digest:
        if refused_list(packed).exists():
            refused_list(packed).replace(refused_list(work))
        elif not published.refused:  # else it was moved before a kill
            refused_list(work).unlink(missing_ok=True)
        for path in packed.iterdir():
            if path.name != MANIFEST:  # the last to go, as the folder is known by it
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        (packed / MANIFEST).unlink()
    for folder in (packed, work):
        with suppress(OSError):  # it holds something else, or is gone
            folder.rmdir()


def published(remote: Remote) -> Manifest | None:
    """The corpus that is there. Raises UserError where none could be: not `s3://`, no such bucket, no access."""
    if not remote.url.startswith("s3://"):
        raise UserError(f"{remote}: can't be written to; use a folder or s3://bucket/prefix")
    try:
        return Manifest.load(remote)
    except MissingError:
        return None


def publish(root: Path, remote: Remote, *, progress: bool = True) -> None:
    """Copy the corpus in folder `root` to `remote`, an `s3://` prefix; what is there already is not sent again.

    Raises UserError where another corpus lies there or the store does not take it. Run again, it goes on.
    """
    manifest, there = Manifest.load(root), published(remote)
    if there is not None and there.digest != manifest.digest:
        raise UserError(f"{remote}: another corpus lies there; give another OUT, or delete it")
    if there is not None:
        return
    for shard in manifest.shards:
        check_size(root / shard.url, shard.filesize, s3.LARGEST_PUT)
    names = [name for shard in manifest.shards for name in (shard.url, shard.index)] + [SAMPLES]
    with ThreadPoolExecutor(THREADS) as threads:
        sent = threads.map(_send, [root / name for name in names], [remote / name for name in names])
        for _ in tqdm(sent, total=len(names), desc=f"copy {manifest.name}", disable=None if progress else True):
            pass
    _send(root / MANIFEST, remote / MANIFEST)


def _send(path: Path, remote: Remote) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    patience = Patience(remote)
    while True:
        began = time.monotonic()
        try:
            if s3.size_and_etag(remote) != (size, md5.hexdigest()):
                s3.put(remote, path, md5.digest())
            return
        except PassingError as error:
            elapsed = time.monotonic() - began
            # A large file takes its time, and whether it arrives shows at the end only.
            patience.wait(error, elapsed=elapsed, excused=max(0.0, elapsed - fetch.PATIENCE_S / SLOW_PUTS))
