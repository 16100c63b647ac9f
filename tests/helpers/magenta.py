"""Corpora of which it is known where somebody is to be seen, the detector that sees them, and an audit by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from understudy.privacy.audit import AuditConfig
from understudy.privacy.audit_run import run_audit
from understudy.privacy.detect import Frames, Hit, What
from understudy.shards.kinds import Kind
from understudy.shards.pack import pack
from understudy.shards.plan import PackConfig
from understudy.shards.sources import Source

MAGENTA = np.array([230, 20, 230])


@dataclass(frozen=True)
class Magenta:
    """Sees a person wherever there is magenta."""

    name: str = "magenta"
    what: What = "person"
    licence: str = "none"
    models: tuple[str, ...] = ("test/magenta",)

    def __call__(self, frames: Frames) -> list[list[Hit]]:
        hits: list[list[Hit]] = []
        for frame in frames:
            y, x = np.nonzero(np.abs(frame.astype(int) - MAGENTA).max(2) < 70)
            box = (float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1)) if len(x) > 20 else None
            hits.append([Hit(self.what, box, 0.9)] if box else [])
        return hits


def read_scene(source: Source, *, frames: int = 10) -> Iterator[np.ndarray]:
    """Grey, with somebody (a magenta square) in the first half of the frames where the id says so."""
    for time in range(frames):
        frame = np.full((48, 64, 3), 110, np.uint8)
        frame[:, :8] = 40 + source.label * 20
        if "person" in source.id and time < frames // 2:
            frame[16:32, 20 + time : 36 + time] = MAGENTA
        yield frame


def packed(
    path: Path,
    empty: int,
    people: int,
    name: str = "scenes",
    kind: Kind = "no-human",
    removal: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Path:
    sources = [Source(f"{'person' if i < people else 'empty'}/{i}", i % 2) for i in range(empty + people)]
    config = PackConfig(
        name=name,
        kind=kind,
        classes=("a", "b"),
        licence="CC0-1.0",
        secret=b"sixteen bytes or more",
        short_side=48,
        removal=removal,
        **settings,
    )
    pack(sources, read_scene, path, config, workers=0, progress=False)
    return path


CONFIG = AuditConfig(detectors=("magenta",))
Run = Callable[..., dict]
run = partial(run_audit, config=CONFIG, workers=0, progress=False)
