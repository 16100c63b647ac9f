"""Small video files made by code, and damage done to them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

LEVELS = np.arange(24, 236, 8)  # grey levels that survive lossy coding apart from each other


def grey_frames(count: int, width: int = 64, height: int = 48) -> Iterable[NDArray[np.uint8]]:
    """Frame i is one even grey that says i, as `number_of` reads it (modulo len(LEVELS))."""
    for i in range(count):
        yield np.full((height, width, 3), LEVELS[i % len(LEVELS)], np.uint8)


def number_of(frame: NDArray[np.uint8]) -> int:
    """Which of `grey_frames` this is."""
    return int(np.abs(LEVELS - frame[8:-8, 8:-8].mean()).argmin())


def write_video(
    path: Path,
    frames: Iterable[NDArray[np.uint8]],
    *,
    rate: Fraction | int = 30,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pixel_aspect: Fraction | None = None,
    b_frames: int = 0,
    gop: int = 12,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Encode RGB frames at a constant rate, or at the given `pts` in units of `time_base`."""
    quality = {"libx264": {"crf": "10"}, "libx265": {"crf": "10", "x265-params": "log-level=none"}}
    with av.open(str(path), "w", options=container_options or {}) as container:
        container.metadata.update(metadata or {})
        stream = None
        for i, array in enumerate(frames):
            if stream is None:
                stream = container.add_stream(codec, rate=rate)
                stream.height, stream.width = array.shape[:2]
                stream.pix_fmt = pix_fmt
                context = stream.codec_context
                context.thread_count, context.gop_size, context.max_b_frames = 1, gop, b_frames
                context.options = quality.get(codec, {}) | (options or {})
                if time_base is not None:
                    context.time_base = time_base
                if pixel_aspect is not None:
                    context.sample_aspect_ratio = pixel_aspect
                if codec == "mpeg4":
                    context.qmin = context.qmax = 2
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), "rgb24")
            frame = frame.reformat(format=pix_fmt, dst_colorspace=5, dst_color_range=1)
            frame.pts = i if pts is None else pts[i]
            frame.time_base = time_base or 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_planes(
    path: Path,
    frames: Sequence[Sequence[NDArray[np.uint16]]],
    *,
    pix_fmt: str,
    matrix: int = 2,
    colour_range: int = 0,
    transfer: int = 2,
    primaries: int = 2,
    rate: int = 30,
) -> Path:
    """Store sample values as they are, lossless (FFV1 in Matroska), with these colour tags."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width = frames[0][0].shape
        stream.pix_fmt = pix_fmt
        context = stream.codec_context
        context.thread_count = 1
        context.colorspace, context.color_range = matrix, colour_range
        context.color_trc, context.color_primaries = transfer, primaries
        for i, planes in enumerate(frames):
            frame = av.VideoFrame(stream.width, stream.height, pix_fmt)
            for plane, values in zip(frame.planes, planes, strict=True):
                dtype = np.dtype("u1" if plane.line_size < 2 * values.shape[1] else "<u2")
                padded = np.zeros((values.shape[0], plane.line_size // dtype.itemsize), dtype)
                padded[:, : values.shape[1]] = values
                plane.update(padded.tobytes().ljust(plane.buffer_size, b"\0"))
            frame.colorspace, frame.color_range = matrix, colour_range
            frame.pts, frame.time_base = i, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def pack_b_frames(path: Path, out: Path, *, complete: bool) -> Path:
    """Rewrite an MPEG-4 AVI as DivX did it: each B-frame in the packet of the frame that it comes before on display.

    The packet after such a pair is empty but for a stand-in, upon which a decoder shows the B-frame, and the second
    packet of all is one byte that shows nothing. Without `complete`, the last stand-in is missing. Needs at most
    one B-frame in a row.
    """
    start, stand_in = b"\0\0\1\xb6", b"\0\0\1\xb6\x40\0\0\0"
    with av.open(str(path)) as source:
        template = source.streams.video[0]
        coded = [bytes(packet) for packet in source.demux(template) if packet.size]
        is_b = [data[data.index(start) + 4] >> 6 == 2 for data in coded]
        chunks: list[bytes] = []
        for data, b in zip(coded, is_b, strict=True):
            if b:
                chunks[-1] += data
                chunks.append(stand_in)
            else:
                chunks.append(data.replace(start, b"\0\0\1\xb2DivX503b1p" + start))
        assert chunks[-1] == stand_in, "the fixture is to end in a pair"
        chunks.insert(1, b"\x7f")
        with av.open(str(out), "w") as container:
            stream = container.add_stream_from_template(template)
            for i, chunk in enumerate(chunks if complete else chunks[:-1]):
                packet = av.Packet(chunk)
                packet.stream, packet.time_base = stream, 1 / template.average_rate
                packet.pts = packet.dts = i
                container.mux(packet)
    return out


def write_sound(path: Path, seconds: float = 0.5) -> Path:
    """A file with nothing but a tone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for i in range(int(seconds * 44100 / 1024)):
            tone = np.sin(np.arange(i * 1024, (i + 1) * 1024) / 20)[None].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            frame.sample_rate, frame.pts = 44100, i * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Write a display matrix into an MP4: what is at (x, y) is shown at (ax + cy, bx + dy), shifted into view."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    struct.pack_into(">9i", data, at, a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def edit(path: Path, start: int, duration: int) -> None:
    """Rewrite the one edit of an MP4: show from media time `start`, for `duration` in the movie's milliseconds."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4
    assert struct.unpack_from(">II", data, at) == (0, 1)
    struct.pack_into(">Ii", data, at + 8, duration, start)
    path.write_bytes(data)


def packet_spans(path: Path) -> list[tuple[int, int]]:
    """(offset, size) in the file of each packet of the first video stream."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def scramble(path: Path, offset: int, size: int, seed: int = 0) -> None:
    """Overwrite part of a file with noise."""
    data = bytearray(path.read_bytes())
    data[offset : offset + size] = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()
    path.write_bytes(data)


def truncate(path: Path, part: float) -> None:
    """Keep the first `part` of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
