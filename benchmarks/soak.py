"""Whether the native loader's memory grows: resident bytes after 5,000 samples and after 200,000, as one line of JSON.

    python benchmarks/soak.py mjpeg|h264 THREADS

Clips and crops are small, so that it ends in minutes: what leaks, leaks for each sample, batch or decoder.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.loader import Clip, ClipLoader, LoaderSource, Views
from understudy.shards.corpus import Corpus
from understudy.shards.pack import pack
from understudy.shards.plan import PackConfig
from understudy.shards.sources import Source

MARKS = (5_000, 10_000, 20_000, 50_000, 100_000, 150_000, 200_000)  # samples after which memory is read
TARGET = 1.03  # the last over the first
VIDEOS, FRAMES, HEIGHT, WIDTH = 48, 20, 48, 64
VIEWS, BATCH = 4, 32


def read(source: Source) -> Iterator[NDArray[np.uint8]]:
    """Noise that moves, another for each source."""
    rng = np.random.default_rng(int(source.id))
    picture = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    for i in range(FRAMES):
        yield np.roll(picture, 2 * i, axis=1)


def main(codec: str, threads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = PackConfig(
            "soak", "synthetic", ("noise",), "CC0-1.0", b"these keys hide nothing", codec, short_side=HEIGHT
        )
        sources = [Source(str(number), 0) for number in range(VIDEOS)]
        pack(sources, read, Path(folder) / "corpus", config, workers=0, progress=False)
        corpus = Corpus.open(Path(folder) / "corpus")
        samples, started = 0, time.perf_counter()
        resident: dict[int, int] = {}
        with ClipLoader(
            [LoaderSource(corpus)], Clip(size=32), Views(count=VIEWS), BATCH, seed=0, decoder="native", threads=threads
        ) as loader:
            for mark in MARKS:
                while samples < mark:
                    samples += len(next(loader).clips)
                resident[mark] = resident_bytes()
            failed = sum(loader.skipped.values())
    ratio = resident[MARKS[-1]] / resident[MARKS[0]]
    print(
        json.dumps(
            {
                "loader": "understudy native",
                "source_format": codec,
                "views": VIEWS,
                "threads": threads,
                "samples": samples,
                "failed": failed,
                "seconds": round(time.perf_counter() - started, 1),
                "resident_bytes": resident,
                "ratio": ratio,
                "target": TARGET,
                "reached": ratio <= TARGET and not failed,
            }
        )
    )


def resident_bytes() -> int:
    """Once the loader is as far ahead as it goes, so that the same number of batches is counted each time."""
    gc.collect()
    time.sleep(0.5)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
