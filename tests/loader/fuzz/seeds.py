"""Inputs for fuzz_kernel.cpp to start from, made by code, and what an input asks for.

They are JPEGs of the kinds that shards hold and of those that they must not hold.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from understudy.loader.request import Request

PREFIX = 32
TWO_FRAMES, RAW_OFFSETS, RAW_NUMBERS, PLANES = 1, 2, 4, 8


def prefix(width: int, height: int, *, frames: int = 2, flags: int = 0, cut: int = 0) -> bytes:
    """Asks for two crops, of the whole picture and from inside, at 16 x 16."""
    head = bytes([width - 1, height - 1, 15, 1, frames - 1, flags, cut & 255, cut >> 8])
    crops = bytes([0, 0, width - 1, height - 1, 3, 2, width // 2, height // 2, 1, 1, 0, 0])
    return (head + crops + bytes([0, 1, 0, 0]) + bytes([0, 1, 0, 0])).ljust(PREFIX, b"\0")


def asked(data: bytes) -> tuple[Request, int] | None:
    """The request and the size of its crops, as fuzz_kernel.cpp reads them; None if it asks for no JPEGs."""
    if len(data) < PREFIX or data[5] & PLANES:
        return None
    width, height, size, views, frames = (1 + data[i] % n for i, n in enumerate((80, 80, 72, 3, 4)))
    flags, cut = data[5], data[6] | data[7] << 8
    boxes = np.frombuffer(data, np.uint8, 12, 8).reshape(3, 4).astype(np.int64)
    indices = np.frombuffer(data, np.int8, 4, 24).astype(np.int32)
    if flags & RAW_NUMBERS:
        crops = (boxes * 0x01010101).astype(np.uint32).view(np.int32) >> (boxes % 32).astype(np.int32)
    else:
        corners = boxes[:, :2] % (width, height)
        crops = np.concatenate([corners, 1 + boxes[:, 2:] % ((width, height) - corners)], 1).astype(np.int32)
        indices = np.frombuffer(data, np.uint8, 4, 24).astype(np.int32) % (2 if flags & TWO_FRAMES else 1)
    stream = data[PREFIX:]
    if flags & RAW_OFFSETS:
        held = min(len(stream), 8 + cut % 25)
        stream, offsets = stream[: len(stream) - held], stream[len(stream) - held :]
    else:
        offsets = np.array([0, *([cut] if flags & TWO_FRAMES else []), len(stream)], "<i8").tobytes()
    request = Request(
        payload=(stream, offsets),
        codec="mjpeg",
        frames=indices[:frames].copy(),
        crops=crops[:views].copy(),
        flips=np.frombuffer(data, np.uint8, 3, 20)[:views] % 2 == 1,
        width=width,
        height=height,
    )
    return request, size


def picture(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Smooth colours with noise on them, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = (axis[..., None] for axis in np.mgrid[:height, :width])
    waves = 128 + 100 * np.sin(x / (3 + seed) + y / 5 + np.arange(3) * 2)
    return np.clip(waves + rng.normal(0, 20, waves.shape), 0, 255).astype(np.uint8)


def pillow_jpeg(pixels: NDArray[np.uint8], **settings: object) -> bytes:
    """A JPEG with settings that only Pillow has."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", **settings)
    return out.getvalue()


def jpegs(pixels: NDArray[np.uint8]) -> dict[str, bytes]:
    """`pixels` as JPEGs of all kinds, by name; what comes after "restarts" is not for shards."""
    return {
        "plain": simplejpeg.encode_jpeg(pixels, 85, "RGB", "420"),
        "coarse": simplejpeg.encode_jpeg(pixels, 30, "RGB", "420"),
        "fine": simplejpeg.encode_jpeg(pixels, 100, "RGB", "420"),
        "optimised": pillow_jpeg(pixels, optimize=True, subsampling="4:2:0", quality=60),
        "restarts": pillow_jpeg(pixels, restart_marker_blocks=1, subsampling="4:2:0"),
        "grey": simplejpeg.encode_jpeg(pixels[..., :1].copy(), 85, "GRAY", "Gray"),
        "444": simplejpeg.encode_jpeg(pixels, 85, "RGB", "444"),
        "422": simplejpeg.encode_jpeg(pixels, 85, "RGB", "422"),
        "progressive": pillow_jpeg(pixels, progressive=True, subsampling="4:2:0"),
    }


def seeds() -> Iterator[tuple[str, bytes]]:
    """Names and inputs."""
    for i, (width, height) in enumerate([(16, 16), (48, 32), (33, 17), (70, 40), (2, 2)]):
        kinds = jpegs(picture(width, height, i))
        for name, jpeg in kinds.items():
            yield f"{name}-{width}x{height}", prefix(width, height) + jpeg
        two, cut = kinds["plain"] + kinds["restarts"], len(kinds["plain"])
        yield f"two-{width}x{height}", prefix(width, height, flags=TWO_FRAMES, cut=cut, frames=4) + two
        offsets = np.array([0, cut, len(two)], "<i8").tobytes()
        yield f"raw-{width}x{height}", prefix(width, height, flags=RAW_OFFSETS | RAW_NUMBERS, cut=16) + two + offsets
        planes = picture(width, height, i).tobytes()
        yield f"planes-{width}x{height}", prefix(width, height, flags=PLANES, cut=3) + planes
