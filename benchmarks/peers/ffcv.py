"""FFCV, which reads images: a row that says why there is none. `rawmap.py` is what it amounts to for clips."""

from __future__ import annotations

from collections.abc import Iterator

from peers.batches import Loaded
from spec import Spec


def run(spec: Spec) -> Iterator[Loaded]:
    import ffcv

    raise NotImplementedError(f"FFCV {ffcv.__version__} has no field for video, and none that crops 16 frames alike")
