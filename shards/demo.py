"""The embedded corpora that `understudy demo` makes. A clip is a function of the seed, its corpus and its number;
what is in it is the business of `scene.py`.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.shards.actions import DOWNSTREAM_ACTIONS, SYNTHETIC_ACTIONS
from understudy.shards.errors import UserError
from understudy.shards.happenings import HAPPENINGS
from understudy.shards.kinds import Kind
from understudy.shards.machine import usable_cores
from understudy.shards.pack import pack
from understudy.shards.plan import PackConfig
from understudy.shards.scene import CLEAN, FOOTAGE, FPS, HEIGHT, Scene, empty_scene, film, human_scene
from understudy.shards.sources import Source


@dataclass(frozen=True)
class DemoCorpus:
    """One corpus of the demo; `clips` is how many it has unless told otherwise."""

    name: str
    kind: Kind
    classes: tuple[str, ...]
    clips: int


DEMO_CORPORA = (
    DemoCorpus("demo-nohuman", "no-human", tuple(happening.name for happening in HAPPENINGS), 1000),
    DemoCorpus("demo-synthetic", "synthetic", tuple(action.name for action in SYNTHETIC_ACTIONS), 1000),
    DemoCorpus("demo-actions-train", "real", tuple(action.name for action in DOWNSTREAM_ACTIONS), 400),
    DemoCorpus("demo-actions-val", "real", tuple(action.name for action in DOWNSTREAM_ACTIONS), 400),
)


@dataclass(frozen=True)
class Clip:
    """A clip with its ground truth.

    `frames` and `empty` (T, H, W, 3) uint8 RGB: the scene with the person, and the same without. `person` (T, H, W)
    bool: the pixels that the person and the person's shadow change; outside it the two are equal.
    """

    frames: NDArray[np.uint8]
    person: NDArray[np.bool_]
    empty: NDArray[np.uint8]


def demo_sources(corpus: str, count: int) -> list[Source]:
    """The first `count` clips of a demo corpus, labels balanced to within one."""
    classes = _named(corpus).classes
    return [Source(f"{corpus}/{index:06d}", index % len(classes)) for index in range(count)]


def demo_scene(source: Source, *, seed: int) -> Scene:
    """The scene of a source that `demo_sources` gave."""
    corpus, index = source.id.split("/")
    key = np.random.SeedSequence([seed, zlib.crc32(corpus.encode()), int(index)])
    rng = np.random.Generator(np.random.Philox(key))
    if corpus == "demo-nohuman":
        return empty_scene(rng, HAPPENINGS[source.label], FOOTAGE)
    if corpus == "demo-synthetic":
        return human_scene(rng, SYNTHETIC_ACTIONS[source.label], CLEAN)
    return human_scene(rng, DOWNSTREAM_ACTIONS[source.label], FOOTAGE)


def read_demo(source: Source, *, seed: int) -> Iterator[NDArray[np.uint8]]:
    """The frames of a clip, each (96, 128, 3) uint8 RGB, at 8 frames a second."""
    frames, _ = film(demo_scene(source, seed=seed))
    yield from frames


def render(source: Source, *, seed: int) -> Clip:
    """A clip with its ground truth: twice the work of `read_demo`."""
    scene = demo_scene(source, seed=seed)
    frames, person = film(scene)
    empty, _ = film(scene, with_person=False)
    return Clip(frames, person, empty)


def make_demo(out: Path, clips: int = 1000, seed: int = 0, workers: int | None = None) -> None:
    """Pack all demo corpora as `out/NAME`; what is there already stays.

    `clips` is the size of each pre-training corpus; the two of actions have 40 % of it each. `workers` processes
    draw, by default one for each core. Raises UserError where a folder holds something else.
    """
    if workers is None:
        workers = usable_cores()
    if workers < 0:
        raise UserError(f"{workers} workers: say at least 1, or 0 to draw in this process")
    if clips < 1:
        raise UserError(f"{clips} clips is not a corpus; ask for at least 1")
    if seed < 0:
        raise UserError(f"seed {seed}: say 0 or more")
    for corpus in DEMO_CORPORA:
        count = max(1, round(corpus.clips * clips / 1000))
        config = PackConfig(
            name=corpus.name,
            kind=corpus.kind,
            classes=corpus.classes,
            licence="CC0-1.0",
            fps=FPS,
            short_side=HEIGHT,
            secret=b"demo keys hide nothing",
        )
        sources = demo_sources(corpus.name, count)
        pack(sources, functools.partial(read_demo, seed=seed), out / corpus.name, config, workers=workers)


def _named(corpus: str) -> DemoCorpus:
    for candidate in DEMO_CORPORA:
        if candidate.name == corpus:
            return candidate
    raise UserError(f"no demo corpus {corpus!r}; there are {', '.join(c.name for c in DEMO_CORPORA)}")
