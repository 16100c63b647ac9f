"""Videos that lie as folders of numbered pictures: which folders are such, and reading them like videos.

A folder says nothing of its frame rate, so that it is told by the user. Decoding a picture is left to `ingest.py`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.shards.ingest import read_video
from understudy.shards.sources import PICTURES, RefusedError, Source, reading


def is_frame_folder(folder: Path) -> bool:
    """Whether all that lies in `folder`, hidden files aside, are pictures, and at least one."""
    found = False
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not entry.name.lower().endswith(PICTURES):
                return False
            found = True
    return found


def frame_files(folder: Path) -> list[Path]:
    """The pictures of a frame folder in the order of the last number in their names.

    Raises RefusedError where a number is missing, comes twice, or is no number at all: time would jump there.
    """
    with reading():
        paths = list(folder.iterdir())
    numbered: dict[int, Path] = {}
    for path in paths:
        if path.name.startswith("."):
            continue
        if not path.name.lower().endswith(PICTURES):
            raise RefusedError("a frame folder with other files in it")
        number = _number(path)
        if number is None:
            raise RefusedError("a frame without a number")
        if numbered.setdefault(number, path) != path:
            raise RefusedError(f"two frames with the number {number}")
    if not numbered:
        raise RefusedError("a folder without frames")
    first, last = min(numbered), max(numbered)
    if last - first + 1 != len(numbered):
        gap = next(number for number in range(first, last) if number not in numbered)
        raise RefusedError(f"frame {gap} is missing between {first} and {last}")
    return [numbered[number] for number in range(first, last + 1)]


def _number(path: Path) -> int | None:
    """The last number in a picture's name. Names themselves are not told: they may be people's."""
    found = re.search(r"(\d+)\D*$", path.stem)
    return None if found is None else int(found[1])


def read_video_or_frames(
    source: Source, *, fps: float, short_side: int, source_fps: float
) -> Iterator[NDArray[np.uint8]]:
    """Yield what `ingest.read_video` does, also for a folder of frames that were taken at `source_fps` a second.

    Of a folder the frames that are shown at times k/fps are decoded, and no others. Raises RefusedError where one
    can't be read or decoded, or they are not of one shape.
    """
    if source.path is None or not source.path.is_dir():
        yield from read_video(source, fps=fps, short_side=short_side)
        return
    files = frame_files(source.path)
    step = Fraction(source_fps).limit_denominator(100_000) / Fraction(fps).limit_denominator(100_000)
    shape: tuple[int, ...] | None = None
    shown, pixels = -1, np.empty(0, np.uint8)
    for k in range(math.ceil(len(files) / step)):
        index = math.floor(k * step)
        if index != shown:
            shown, pixels = index, _picture(replace(source, path=files[index]), short_side)
            shape = shape or pixels.shape
            if pixels.shape != shape:
                raise RefusedError("its picture changes shape midway")
        yield pixels


def _picture(source: Source, short_side: int) -> NDArray[np.uint8]:
    assert source.path is not None
    if source.path.suffix.lower() in (".jpg", ".jpeg"):
        # FFmpeg paints the rest of a picture that is cut off grey, and says nothing. Coded data never holds an EOI.
        with reading(f"frame {_number(source.path)}"):
            data = source.path.read_bytes()
        if data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda"):
            raise RefusedError(f"frame {_number(source.path)} is cut off")
    frames = list(read_video(source, fps=1, short_side=short_side))
    if len(frames) != 1:
        raise RefusedError(f"frame {_number(source.path)} is not a single picture")
    return frames[0]
