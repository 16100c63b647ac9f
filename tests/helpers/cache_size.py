"""How much a shared cache takes while others write to it."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path


def held(folder: Path) -> int:
    """Bytes that the cache takes on disk, by size or by blocks, whichever is more.

    Counted under the lock without which nothing may grow: else a file that is renamed or replaced while the folder is
    listed would be counted twice.
    """
    with (folder / "accounts").open() as accounts:
        fcntl.flock(accounts, fcntl.LOCK_EX)
        total = 0
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):  # a part that came to nothing
                total += max(entry.stat().st_size, entry.stat().st_blocks * 512)
        return total
