"""FFCV, which reads images: a row that says why there is none. `rawmap.py` is what it amounts to for clips."""

from __future__ import annotations

from collections.abc import Iterator

from peers.batches import Loaded
from spec import Spec


def run(spec: Spec) -> Iterator[Loaded]:
    try:
        import ffcv
    except ImportError as error:
        raise NotImplementedError(
            "FFCV ships no wheels: pip builds it where pkg-config finds opencv4 and libturbojpeg. It has no field for "
            "video, so that it would read a map of raw frames, as the raw RGB map does"
        ) from error
    raise NotImplementedError(
        f"FFCV {ffcv.__version__} has no field for video, and none of its crops cuts 16 frames alike: it would "
        "read a map of raw frames, as the raw RGB map does"
    )
