"""Publishing a finished corpus in a bucket: everything it consists of first, the manifest last.

Until the manifest is there, there is no corpus, so that a reader never meets half of one.
"""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from understudy.shards import s3
from understudy.shards.errors import UserError
from understudy.shards.fetch import Patience, fetch_text
from understudy.shards.manifest import MANIFEST, SAMPLES, Manifest
from understudy.shards.remote import MissingError, PassingError, Remote

THREADS = 4


def upload(root: Path, remote: Remote, *, progress: bool = True) -> None:
    """Put the corpus in folder `root` under `remote`, an `s3://` prefix; what is there already is not sent again.

    Raises UserError where another corpus lies there or the store does not take it. Run again, it goes on.
    """
    check_target(remote)
    manifest = Manifest.load(root)
    if _published(remote, manifest):
        return
    names = [name for shard in manifest.shards for name in (shard.url, shard.index)] + [SAMPLES]
    with ThreadPoolExecutor(THREADS) as threads:
        sent = threads.map(_send, [root / name for name in names], [remote / name for name in names])
        for _ in tqdm(sent, total=len(names), desc=f"upload {manifest.name}", disable=None if progress else True):
            pass
    _send(root / MANIFEST, remote / MANIFEST)


def check_target(remote: Remote) -> None:
    """Raises UserError unless a corpus can be written there."""
    if not remote.url.startswith("s3://"):
        raise UserError(f"{remote}: can't be written to; use a folder or s3://bucket/prefix")


def _published(remote: Remote, manifest: Manifest) -> bool:
    """Whether this very corpus is there. Raises UserError where another one is."""
    try:
        there = Manifest.parse(fetch_text(remote / MANIFEST), remote / MANIFEST)
    except MissingError:
        return False
    if there.digest != manifest.digest:
        raise UserError(f"{remote}: another corpus lies there; give another prefix, or delete it")
    return True


def _send(path: Path, remote: Remote) -> None:
    size = path.stat().st_size
    if size > s3.LARGEST_PUT:
        raise UserError(f"{path}: over 5 GiB, more than one upload takes; use fewer --samples-per-shard")
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
            patience.wait(error, elapsed=time.monotonic() - began)
