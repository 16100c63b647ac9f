"""What a loader is asked to load: the specification that goes to its process as JSON, and the table of what is drawn.

Windows and crops are drawn once, before anything is timed, so that no peer pays for it and all cut the same pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from understudy.loader.philox import permutation, stream_key
from understudy.loader.views import Clip, Views, draw_training
from understudy.shards.corpus import Corpus

SourceFormat = Literal["original", "h264", "vp9", "mjpeg", "raw"]

SEED = 0
VISITS = 16  # draws of each video that the table holds; a loader that comes by more often begins again
CLIP = Clip(frames=16, stride=1, size=224)
SAMPLED_FPS = 6


@dataclass(frozen=True)
class Spec:
    """One row of the benchmark: a loader, what it reads and how.

    `peer` is the module with `run(spec)`. `corpus` is the packed corpus that the source format is, or was made from
    ("" for originals); `files` holds one video file a sample, for peers that read files. `converted` is a folder of the
    peer's own, for data in its own format. `videos` is how many videos a batch holds: its rows are videos * views.
    """

    loader: str
    peer: str
    source_format: SourceFormat
    views: int
    threads: int
    videos: int
    draws: str
    corpus: str
    files: tuple[str, ...]
    converted: str
    antialias: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What tells this row from the others."""
        return f"{self.loader} | {self.source_format} | {self.views}"

    def to_json(self) -> str:
        """This as one line of JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Spec:
        """The inverse of `to_json`."""
        spec = Spec(**json.loads(text))
        return replace(spec, files=tuple(spec.files))


class Task(NamedTuple):
    """One video to load: sample number, which of its draws, frames int32 (T,), crops int32 (K, 4) as x, y, w, h."""

    sample: int
    visit: int
    window: NDArray[np.int32]
    crops: NDArray[np.int32]


@dataclass(frozen=True)
class Draws:
    """Of each of N videos V draws: windows int32 (N, V, T) and crops int32 (N, V, K, 4); sizes int32 (N, 2) in pixels,
    width first, and the frames stored, int32 (N,).
    """

    windows: NDArray[np.int32]
    crops: NDArray[np.int32]
    sizes: NDArray[np.int32]
    frames: NDArray[np.int32]

    def task(self, sample: int, visit: int) -> Task:
        """What to load at the `visit`-th visit of a sample."""
        v = visit % self.windows.shape[1]
        return Task(sample, visit, self.windows[sample, v], self.crops[sample, v])

    def __len__(self) -> int:
        return len(self.windows)

    @staticmethod
    def load(path: str | Path) -> Draws:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return Draws(**{name: arrays[name] for name in ("windows", "crops", "sizes", "frames")})

    def save(self, path: Path) -> None:
        """Write an .npz file."""
        np.savez(path, windows=self.windows, crops=self.crops, sizes=self.sizes, frames=self.frames)


def draw_table(
    key: int,
    frames: NDArray[np.int32],
    sizes: NDArray[np.int32],
    views: int,
    spacing: NDArray[np.float64] | None = None,
) -> Draws:
    """Draws as our loader makes them: `key` is its stream key. `frames` (N,) counts the stored frames.

    Originals hold more frames than are sampled: `spacing` (N,) is how many of theirs pass for one of ours, and their
    windows are drawn at the sampled rate and then spread out.
    """
    n = len(frames)
    spacing = np.ones(n) if spacing is None else spacing
    setting = Views(count=views, flip=False)
    windows = np.empty((n, VISITS, CLIP.frames), np.int32)
    crops = np.empty((n, VISITS, views, 4), np.int32)
    for i in range(n):
        sampled = max(1, int(np.ceil(frames[i] / spacing[i])))
        for v in range(VISITS):
            draw = draw_training(CLIP, setting, sampled, int(sizes[i, 0]), int(sizes[i, 1]), key, i, v)
            windows[i, v] = np.minimum(np.rint(draw.windows[0] * spacing[i]), frames[i] - 1)
            crops[i, v] = draw.crops
    return Draws(windows, crops, np.asarray(sizes, np.int32), np.asarray(frames, np.int32))


def corpus_draws(corpus: Corpus, views: int) -> Draws:
    """The draws that ClipLoader makes of `corpus` with SEED."""
    sizes = np.stack([corpus.width, corpus.height], axis=1)
    return draw_table(stream_key("views", corpus.manifest.digest, SEED), corpus.frames, sizes, views)


def tasks(draws: Draws) -> Iterator[Task]:
    """An endless shuffled stream of tasks, for peers that have no order of their own."""
    for sample, visit in order(len(draws)):
        yield draws.task(sample, visit)


def order(samples: int) -> Iterator[tuple[int, int]]:
    """Endless (sample, visit): one permutation of the samples after another."""
    key, visit = stream_key("benchmark order", SEED), 0
    while True:
        for sample in permutation(key, (visit, 0, 0), samples).tolist():
            yield sample, visit
        visit += 1
