"""Readers for packing without video files. In a module of their own: worker processes import them by name."""

from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.shards.sources import RefusedError, Source


def read_moving_bar(
    source: Source, *, frames: int = 12, width: int = 64, height: int = 48
) -> Iterator[NDArray[np.uint8]]:
    """A bright bar on a dark slope; colours and start depend on the id, so every sample looks its own way."""
    seed = zlib.crc32(os.fsencode(source.id))
    colour = np.array([seed & 255, seed >> 8 & 255, seed >> 16 & 255], np.uint8) | 128
    slope = np.linspace(0, 100, width, dtype=np.uint8)
    for time_step in range(frames):
        frame = np.repeat(np.tile(slope, (height, 1))[..., None], 3, axis=2)
        left = (seed + 3 * time_step) % (width - 8)
        frame[:, left : left + 8] = colour
        yield frame


def read_half_filled(source: Source, *, width: int, height: int) -> Iterator[NDArray[np.uint8]]:
    """The same with the word, in a fourth channel, that the left half was filled in."""
    hole = np.where(np.arange(width) < width // 2, np.uint8(255), np.uint8(0))
    for frame in read_moving_bar(source, width=width, height=height):
        yield np.dstack([frame, np.tile(hole, (height, 1))])


def read_by_name(source: Source) -> Iterator[NDArray[np.uint8]]:
    """Does what the id says, after two good frames: crash, hang, refuse, raise, out of memory; else a moving bar."""
    frames = read_moving_bar(source)
    yield next(frames)
    yield next(frames)
    if "crash" in source.id:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hang" in source.id:
        time.sleep(3600)
    if "refuse" in source.id:
        raise RefusedError(f"refused by name: {source.id}")
    if "raise" in source.id:
        raise ZeroDivisionError("a programming error")
    if "memory" in source.id:
        raise MemoryError
    yield from frames


def read_slowly(source: Source) -> Iterator[NDArray[np.uint8]]:
    """A moving bar, FAKE_READER_SECONDS seconds later; never, once there is a file FAKE_READER_HANGS_AFTER."""
    time.sleep(float(os.environ.get("FAKE_READER_SECONDS", "0")))
    if (file := os.environ.get("FAKE_READER_HANGS_AFTER")) and Path(file).exists():
        time.sleep(3600)
    yield from read_moving_bar(source)


def read_and_note(source: Source, *, journal: Path, doomed: Path) -> Iterator[NDArray[np.uint8]]:
    """A moving bar; adds a line with its process to `journal`, in whichever process it is.

    The first process on a Ray cluster that comes to its third source creates `doomed`, with the process id of its
    machine's daemon in it, and goes on only when its parent is gone: so that a machine can be lost amid its work.
    """
    with journal.open("a") as file:
        file.write(f"{os.getpid()}\n")
    daemon = os.environ.get("RAY_RAYLET_PID")
    if daemon and journal.read_text().split().count(str(os.getpid())) == 3:
        with suppress(FileExistsError):
            with doomed.open("x") as file:
                file.write(daemon)
            parent = os.getppid()
            while os.getppid() == parent:
                time.sleep(0.01)
    yield from read_moving_bar(source)


def read_nothing(source: Source) -> Iterator[NDArray[np.uint8]]:
    """No frames at all."""
    yield from ()
