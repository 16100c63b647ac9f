"""Packs a corpus many times, each time killed (SIGKILL) at another rename and then run again.

A process of its own, because it forks: `python kill_at_every_rename.py FOLDER` prints one line per moment, of the
moment and of what then differs from an uninterrupted run ("same" where nothing does).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import webdataset.writer  # noqa: F401 (imported before forking, it takes over a second)
from fake_readers import read_by_name

from understudy.shards.pack import PackConfig, pack
from understudy.shards.plan import refused_list
from understudy.shards.sources import Source

NAMES = ["a", "b", "refuse 1", "c", "d", "e", "refuse 2"]
SOURCES = [Source(name, label=i % 2) for i, name in enumerate(NAMES)]
CONFIG = PackConfig("tiny", "real", ("x", "y"), "CC0-1.0", secret=bytes(range(32)), samples_per_shard=3)


def run(out: Path) -> None:
    pack(SOURCES, read_by_name, out, CONFIG, workers=0, progress=False)


def run_killed_at(out: Path, moment: int, after: bool) -> bool:
    """Whether the child was killed at its `moment`-th rename, rather than finishing without one."""
    child = os.fork()
    if child == 0:
        renames = 0
        rename = Path.replace

        def counting(self: Path, target: Any) -> Path:
            nonlocal renames
            renames += 1
            if renames == moment and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = rename(self, target)
            if renames == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        Path.replace = counting  # pyright: ignore[reportAttributeAccessIssue]
        run(out)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def tree(folder: Path) -> dict[str, str]:
    found = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }
    return {**found, "list of refused": refused_list(folder).read_text()}


def main(folder: Path) -> None:
    run(folder / "whole")
    whole = tree(folder / "whole")
    for moment in range(1, 1000):
        for after in (False, True):
            out = folder / "killed"
            shutil.rmtree(out, ignore_errors=True)
            refused_list(out).unlink(missing_ok=True)
            if not run_killed_at(out, moment, after):
                return
            complete = (out / "manifest.json").exists()
            run(out)
            found = tree(out)
            differing = sorted(name for name in whole.keys() | found.keys() if whole.get(name) != found.get(name))
            print(moment, "after" if after else "before", "complete" if complete else "partial", differing or "same")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
