"""Where the frames of an h264 sample lie in its mp4: as much of the format as the shards need, read without copies.

libavformat spends a millisecond on opening such a file, a sixth of what decoding a clip takes. Decoding is not here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 1 << 40  # far beyond any clip; sums of such numbers can't overflow
VISUAL_SAMPLE_ENTRY = 78  # bytes of an `avc1` box before the boxes inside


@dataclass(frozen=True)
class Mp4:
    """A video without reordered frames. `configuration` is the decoder's (the `avcC` box), `keys` bool (frames,) says
    where decoding can start, and frame i is the `sizes[i]` bytes at `offsets[i]`, int64 (frames,), inside the file.
    """

    configuration: bytes
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    keys: NDArray[np.bool_]


def read_mp4(data: bytes | memoryview) -> Mp4 | None:
    """The index of `data`, or None where it isn't a plain mp4: one H.264 track, no edit list, frames shown in the order
    in which they lie there, all of it whole.
    """
    try:
        return _read(memoryview(data))
    except (struct.error, KeyError, ValueError):
        return None


def _read(data: memoryview) -> Mp4 | None:
    movie = _boxes(_boxes(data)[b"moov"])
    track = _boxes(movie[b"trak"])
    table = _boxes(_boxes(_boxes(track[b"mdia"])[b"minf"])[b"stbl"])
    if b"mvex" in movie or b"edts" in track or b"ctts" in table:  # fragments, an edit list, reordered frames
        return None
    entries = table[b"stsd"]
    video = _boxes(entries[8:])[b"avc1"]
    configuration = bytes(_boxes(video[VISUAL_SAMPLE_ENTRY:])[b"avcC"])

    (fixed_size,) = struct.unpack_from(">I", table[b"stsz"], 4)
    if fixed_size:
        return None  # no H.264 has it
    sizes = _numbers(table[b"stsz"][4:], ">u4")
    offsets = _offsets(table, sizes)
    if int(sizes.min()) < 1 or int((offsets + sizes).max()) > len(data):
        return None
    keys = np.ones(len(sizes), np.bool_)
    if b"stss" in table:
        numbers = _numbers(table[b"stss"], ">u4") - 1
        if int(numbers.min()) < 0 or int(numbers.max()) >= len(keys):
            return None
        keys[:] = False
        keys[numbers] = True
    return Mp4(configuration, offsets, sizes, keys)


def _offsets(table: dict[bytes, memoryview], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each frame starts: they lie one behind the other in chunks. Raises ValueError where that is not so."""
    chunks = _numbers(table[b"stco"], ">u4") if b"stco" in table else _numbers(table[b"co64"], ">i8")
    # Each run says how many frames a chunk has, from its first chunk (numbered from 1) to the next run's.
    runs = _numbers(table[b"stsc"], ">u4", columns=3)
    lengths = np.diff(np.append(runs[:, 0], len(chunks) + 1))
    if runs[0, 0] != 1 or int(lengths.min()) < 1 or int(runs[:, 1].max()) > len(sizes):
        raise ValueError("runs of chunks")
    per_chunk = np.repeat(runs[:, 1], lengths)
    if int(per_chunk.sum()) != len(sizes) or int(chunks.min()) < 0 or int(chunks.max()) > MAX_BYTES:
        raise ValueError("chunks")
    starts = np.cumsum(sizes) - sizes  # as if all frames were one behind the other
    first_frames = np.cumsum(per_chunk) - per_chunk
    shift = chunks - np.append(starts, 0)[first_frames]
    return starts + np.repeat(shift, per_chunk)


def _boxes(data: memoryview) -> dict[bytes, memoryview]:
    """The boxes in `data` by name, without their headers. Raises ValueError where they don't fill it, or two that are
    looked for have one name.
    """
    boxes: dict[bytes, memoryview] = {}
    for kind, content in _each_box(data):
        if kind in boxes and kind not in (b"free", b"mdat"):
            raise ValueError("box")
        boxes[kind] = content
    return boxes


def _each_box(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    position = 0
    while position < len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        if size < 8 or size > len(data) - position:  # 0 and 1 stand for sizes beyond 4 GiB
            raise ValueError("box")
        yield kind, data[position + 8 : position + size]
        position += size


def _numbers(box: memoryview, dtype: str, columns: int = 1) -> NDArray[np.int64]:
    """The table, int64 (rows,) or (rows, columns), of a box that has a version and flags, how many rows there are, and
    these. Raises ValueError where the box is too short for them, or there are none.
    """
    (rows,) = struct.unpack_from(">I", box, 4)
    numbers = np.frombuffer(box, dtype, rows * columns, 8).astype(np.int64)
    if not rows:
        raise ValueError("empty table")
    return numbers if columns == 1 else numbers.reshape(rows, columns)
