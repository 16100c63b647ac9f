"""Run by test_cache.py: FOLDER LIMIT SEED NAMES_FILE. Opens random shards through the cache until it is killed.

Prints a line `ok` or `bad` for each that it has read to the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from pathlib import Path

from understudy.shards.cache import Cache
from understudy.shards.fetch import Blob
from understudy.shards.remote import Remote


def main(folder: str, limit: str, seed: str, listed: str) -> None:
    blobs = [Blob(Remote(url), size, digest) for url, size, digest in json.loads(Path(listed).read_text())]
    cache = Cache(Path(folder), int(limit))
    chance = random.Random(int(seed))
    while True:
        blob = chance.choice(blobs)
        descriptor = cache.open(blob)
        time.sleep(chance.uniform(0, 0.02))  # others may want to evict it now
        data = os.pread(descriptor, blob.size + 1, 0)
        print("ok" if hashlib.sha256(data).hexdigest() == blob.sha256 else "bad", flush=True)
        os.close(descriptor)


if __name__ == "__main__":
    main(*sys.argv[1:])
