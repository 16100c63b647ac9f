"""How much a shared cache takes while others write to it."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path


def held(folder: Path) -> int:
    """Bytes of the files in the cache, those under way included.

    Counted under the lock without which nothing may grow: else a file that is renamed or replaced while the folder is
    listed would be counted twice. Sizes and not blocks: how many of these a file takes is the file system's affair.
    """
    with (folder / "accounts").open() as accounts:
        fcntl.flock(accounts, fcntl.LOCK_EX)
        total = 0
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):  # evicted, or a part that came to nothing
                total += entry.stat().st_size
        return total
