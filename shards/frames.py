"""A packed sample's payload: is it what the format says, and back to pictures, plainly and in full.

For lint and preview. Training reads through the loader.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from understudy.shards.kinds import Codec

# Segments of a JPEG that hold picture data, and the JFIF mark. Comments and other application data may identify.
_SOI, _EOI, _SOS, _APP0 = 0xD8, 0xD9, 0xDA, 0xE0
_BASELINE = 0xC0
_TABLES = (0xDB, 0xC4, 0xDD)
_CHROMA_420 = (0x22, 0x11, 0x11)
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")  # in a scan: neither a stuffed byte nor a restart
_CONTAINER_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder"}
_STREAM_TAGS = {"language", "handler_name", "vendor_id", "encoder"}


def check_payload(members: Mapping[str, bytes], codec: Codec, frames: int, width: int, height: int) -> None:
    """Raise ValueError, saying what is wrong, unless the payload is `frames` pictures of that size in the format.

    Looks at structure only: entropy-coded data is not decoded.
    """
    if codec == "mjpeg":
        for number, jpeg in enumerate(split_jpegs(members, frames)):
            try:
                _check_jpeg(jpeg, width, height)
            except ValueError as error:
                raise ValueError(f"frame {number}: {error}") from None
    else:
        _check_mp4(members["mp4"], frames, width, height)


def decode_frames(members: Mapping[str, bytes], codec: Codec, frames: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the `frames` pictures of a sample, RGB (H, W, 3). Raises ValueError where one does not decode cleanly."""
    if codec == "mjpeg":
        import simplejpeg  # pyright: ignore[reportMissingTypeStubs]

        for jpeg in split_jpegs(members, frames):
            yield simplejpeg.decode_jpeg(jpeg)
        return
    decoded = 0
    for picture in _decode_mp4(members["mp4"]):
        decoded += 1
        yield picture
    if decoded != frames:
        raise ValueError(f"{decoded} frames decode, {frames} were to")


def split_jpegs(members: Mapping[str, bytes], frames: int) -> Iterator[bytes]:
    """The JPEGs of member `mjpg`, cut at the offsets of member `off`. Raises ValueError where these do not fit."""
    joined, index = members["mjpg"], members["off"]
    if len(index) != 8 * (frames + 1):
        raise ValueError(f"off has {len(index)} bytes, {frames} frames take {8 * (frames + 1)}")
    offsets = np.frombuffer(index, "<i8").tolist()
    if offsets[0] != 0 or offsets[-1] != len(joined) or any(a >= b for a, b in pairwise(offsets)):
        raise ValueError("off does not cut mjpg into frames: it must rise from 0 to the size of mjpg")
    for begin, end in pairwise(offsets):
        yield joined[begin:end]


def _check_jpeg(data: bytes, width: int, height: int) -> None:
    """Walk the segments: a baseline 4:2:0 picture of the right size in one scan, with nothing on the side or after."""
    if data[:2] != bytes([0xFF, _SOI]) or data[-2:] != bytes([0xFF, _EOI]):
        raise ValueError("not one whole JPEG, it has to begin with SOI and end with EOI")
    position, sized = 2, False
    while position + 4 <= len(data):
        mark, kind = data[position], data[position + 1]
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        content = data[position + 4 : position + 2 + length]
        if mark != 0xFF or length < 2 or len(content) != length - 2:
            raise ValueError(f"no JPEG segment at byte {position}")
        if kind == _SOS:
            if not sized:
                raise ValueError("a JPEG scan without frame header")
            after = _MARKER.search(data, position + 2 + length)
            if after is None or after.end() != len(data):
                raise ValueError("a JPEG whose only scan is not followed by its end")
            return
        if kind == _BASELINE and len(content) == 15:
            depth, rows, columns, components = content[0], content[1:3], content[3:5], content[5]
            size = (int.from_bytes(columns, "big"), int.from_bytes(rows, "big"))
            sampling = (content[7], content[10], content[13])
            if (depth, components, sampling) != (8, 3, _CHROMA_420):
                raise ValueError("not an 8-bit 4:2:0 colour JPEG")
            if size != (width, height):
                raise ValueError(f"{size[0]}x{size[1]} pixels, {width}x{height} were to be")
            sized = True
        elif kind == _APP0:
            if not content.startswith(b"JFIF\0") or len(content) != 14:
                raise ValueError("application data in the JPEG that is not a plain JFIF mark")
        elif kind not in _TABLES:
            raise ValueError(f"a JPEG segment FF{kind:02X}, which the format does not allow")
        position += 2 + length
    raise ValueError("a JPEG without a scan")


def _check_mp4(data: bytes, frames: int, width: int, height: int) -> None:
    """One H.264 stream of the right size and count in plain boxes, with no tags that could tell of the source."""
    position = 0
    while position < len(data):
        size, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if kind not in (b"ftyp", b"free", b"moov", b"mdat") or size < 8:
            raise ValueError(f"an mp4 box {kind!r} of {size} bytes at byte {position}, which the format does not allow")
        if kind == b"free" and data[position + 8 : position + size].strip(b"\0"):
            raise ValueError("an mp4 box b'free' that is not empty")
        position += size
    if position != len(data):
        raise ValueError("the last mp4 box is cut off")

    import av
    from av.error import FFmpegError

    try:
        with av.open(io.BytesIO(data), "r") as container:
            if [stream.type for stream in container.streams] != ["video"]:
                raise ValueError("not exactly one stream, video")
            stream = container.streams.video[0]
            if stream.codec_context.name != "h264" or stream.codec_context.pix_fmt != "yuv420p":
                raise ValueError(f"{stream.codec_context.name} {stream.codec_context.pix_fmt}, not h264 yuv420p")
            if (stream.codec_context.width, stream.codec_context.height) != (width, height):
                raise ValueError(
                    f"{stream.codec_context.width}x{stream.codec_context.height} pixels, {width}x{height} were to be"
                )
            tags = (set(container.metadata) - _CONTAINER_TAGS) | (set(stream.metadata) - _STREAM_TAGS)
            if tags:
                raise ValueError(f"tags that may identify the source: {', '.join(sorted(tags))}")
            packets = sum(packet.size > 0 for packet in container.demux(stream))
            if packets != frames:
                raise ValueError(f"{packets} frames, {frames} were to be")
    except FFmpegError as error:
        raise ValueError(f"mp4: {error.strerror}") from None


def _decode_mp4(data: bytes) -> Iterator[NDArray[np.uint8]]:
    import av
    from av.error import FFmpegError

    from understudy.shards.color import FULL, SCALING

    try:
        with av.open(io.BytesIO(data), "r") as container:
            stream = container.streams.video[0]
            stream.codec_context.options = {"err_detect": "explode"}
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise ValueError("a damaged frame")
                # PyAV's default conversion comes out more than a level too dark.
                rgb = frame.reformat(format="rgb24", interpolation=SCALING, dst_color_range=FULL, threads=1)
                yield rgb.to_ndarray().astype(np.uint8, copy=False)
    except FFmpegError as error:
        raise ValueError(f"mp4: {error.strerror}") from None
