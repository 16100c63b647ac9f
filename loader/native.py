"""The native decoder: JPEGs by the kernel in kernel/, H.264 by libavcodec with the kernel's crops. No Python a pixel.

The kernel is compiled when this package is installed, where there is a compiler. It threads on its own, without the
GIL; what it promises is in kernel/kernel.h.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, ClassVar

import av
import numpy as np
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from understudy.loader.batch import default_threads
from understudy.loader.mp4 import Mp4, read_mp4
from understudy.loader.reference import decode_reference
from understudy.loader.request import Request
from understudy.shards.errors import UserError

ABI_VERSION = 2
FORCE = "UNDERSTUDY_KERNEL"  # environment variable: the variant to use
HOW_TO_BUILD = (
    "install a C++ compiler (apt-get install g++), then this package again "
    "(pip install --force-reinstall --no-deps --no-cache-dir)"
)

# As in kernel.h. Clips, of which there are many, are rows of int64: addresses, sizes, and width and height in one.
FRAME = np.dtype([("data", "u8", 3), ("bytes", "i8", 3), ("stride", "i8", 3)], align=True)
VIDEO = np.dtype(
    [
        ("width", "i4"),
        ("height", "i4"),
        ("red", "f8"),
        ("blue", "f8"),
        ("full_range", "i4"),
        ("chroma_in_the_middle", "i4"),
    ],
    align=True,
)

# What red and blue count in luma, by FFmpeg's number of the colour space; those that name none are taken for BT.601, as
# by the reference.
LUMA = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 5: (0.299, 0.114), 6: (0.299, 0.114)}
FULL_RANGE = 2
IDLE_DECODERS = 64


@dataclass(frozen=True)
class _Kernel:
    dll: ctypes.CDLL
    variants: tuple[str, ...]  # that this processor can run, the fastest first
    reasons: tuple[str | None, ...]


def decode_native(requests: Sequence[Request], out: NDArray[np.uint8], threads: int = 0) -> list[str | None]:
    """A `Decoder` (see request.py for the contract). Raises UserError where the kernel was not built.

    Other threads help with JPEGs while fewer than `threads` of this process decode any; by default, as `set_threads`
    says, which no call goes beyond.
    """
    kernel = _loaded()
    if not requests:
        return []
    if not out.flags.c_contiguous or out.dtype != np.uint8 or out.ndim != 6:
        raise ValueError("out must be a contiguous uint8 array (n, K, 3, T, S, S)")
    if requests[0].codec == "mjpeg":
        return _decode_jpegs(kernel, requests, out, threads)
    return [_decode_h264(kernel, request, out[i : i + 1]) for i, request in enumerate(requests)]


def native_status() -> str:
    """One line: what decodes here by default, and where that is not the native kernel how to get it."""
    if not native_kernels():
        return f"plain, two to six times slower than the native kernel, which was not built: {HOW_TO_BUILD}"
    if not fast_kernel():
        return "plain; this processor has no AVX2 or NEON, without which the native kernel is slower"
    try:
        return f"native, {check_native()} kernel"
    except UserError as error:
        return str(error)


def check_native() -> str:
    """The variant of the kernel that decodes here. Raises UserError where there is none, with what to do."""
    kernel = _loaded()
    return kernel.variants[_variant(kernel)]


def native_kernels() -> tuple[str, ...]:
    """The variants of the kernel that this machine can run, the fastest first; none if it was not built."""
    kernel = _load()
    return kernel.variants if kernel else ()


def fast_kernel() -> bool:
    """Whether the kernel is here in a variant that is faster than the plain decoder, which the scalar one is not."""
    return native_kernels()[:1] not in ((), ("scalar",))


def set_threads(threads: int) -> None:
    """How many threads decode JPEGs at a time in this process, callers included. By default one a core."""
    _loaded().dll.understudy_set_threads(ctypes.c_int32(threads))


def _loaded() -> _Kernel:
    kernel = _load()
    if kernel is None:
        raise UserError(f"the native decoder was not built; {HOW_TO_BUILD}")
    return kernel


@cache
def _load() -> _Kernel | None:
    # Not a module: a plain library that needs no Python, which setuptools builds as if it were one.
    paths = (Path(__file__).with_name(f"_kernel{suffix}") for suffix in EXTENSION_SUFFIXES)
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return None
    try:
        dll = ctypes.CDLL(str(path))
        dll.understudy_abi_version.restype = ctypes.c_int32
        if dll.understudy_abi_version() != ABI_VERSION:
            return None  # left over from another version of this package
    except (OSError, AttributeError):
        return None
    dll.understudy_variant.restype = ctypes.c_char_p
    dll.understudy_reason.restype = ctypes.c_char_p
    dll.understudy_crop_frames.restype = ctypes.c_int32
    dll.understudy_decode_clips.restype = None
    dll.understudy_set_threads.restype = None
    variants: list[str] = []
    while name := dll.understudy_variant(ctypes.c_int32(len(variants))):
        variants.append(name.decode())
    reasons: list[str | None] = [None]
    while reason := dll.understudy_reason(ctypes.c_int32(len(reasons))):
        reasons.append(reason.decode())
    dll.understudy_set_threads(ctypes.c_int32(default_threads()))
    return _Kernel(dll, tuple(variants), tuple(reasons))


def _variant(kernel: _Kernel) -> int:
    forced = os.environ.get(FORCE)
    if not forced:
        return 0
    if forced not in kernel.variants:
        raise UserError(f"{FORCE}={forced}: this machine runs {', '.join(kernel.variants)}")
    return kernel.variants.index(forced)


def _decode_jpegs(
    kernel: _Kernel, requests: Sequence[Request], out: NDArray[np.uint8], threads: int
) -> list[str | None]:
    n, views, _, frames, size, _ = out.shape
    # One array for each, so that they can be addressed by row; that they fit is the caller's promise, checked here.
    indices = np.array([request.frames for request in requests], np.int32)
    crops = np.array([request.crops for request in requests], np.int32)
    flips = np.array([request.flips for request in requests], np.bool_)
    if (indices.shape, crops.shape, flips.shape) != ((n, frames), (n, views, 4), (n, views)):
        raise ValueError("requests do not fit the shape of out")
    members = [[np.frombuffer(member, np.uint8) for member in request.payload] for request in requests]
    starts = _address(indices), _address(crops), _address(flips)
    clips = np.array(
        [
            (
                _address(stream),
                stream.size,
                _address(offsets),
                offsets.size,
                starts[0] + i * indices.strides[0],
                starts[1] + i * crops.strides[0],
                starts[2] + i * flips.strides[0],
                request.width & 0xFFFFFFFF | request.height << 32,
            )
            for i, (request, (stream, offsets)) in enumerate(zip(requests, members))
        ],
        np.int64,
    )
    reasons = np.empty(n, np.int32)
    kernel.dll.understudy_decode_clips(
        _pointer(clips),
        ctypes.c_int64(n),
        ctypes.c_int32(views),
        ctypes.c_int32(frames),
        ctypes.c_int32(size),
        ctypes.c_int32(_variant(kernel)),
        ctypes.c_int32(threads),
        _pointer(out),
        _pointer(reasons),
    )
    return [kernel.reasons[reason] for reason in reasons.tolist()]


def _decode_h264(kernel: _Kernel, request: Request, out: NDArray[np.uint8]) -> str | None:
    """One request; `out` is uint8 (1, K, 3, T, S, S)."""
    file = read_mp4(request.payload[0])
    if file is None:  # whatever it is, it is not as the shards have it
        return decode_reference([request], out)[0]
    wanted, places = np.unique(request.frames, return_inverse=True)
    if wanted[0] < 0 or wanted[-1] >= len(file.sizes):
        out[:] = 0
        return "frames: fewer than the corpus says"
    try:
        with _Borrowed(file.configuration) as decoder:
            frames = _h264_frames(decoder, memoryview(request.payload[0]), file, wanted.tolist())
    except (FFmpegError, ValueError):
        frames = []
    if len(frames) != len(wanted):
        out[:] = 0
        return "video: does not decode"
    if any((frame.width, frame.height) != (request.width, request.height) for frame in frames):
        out[:] = 0
        return "size: not what the corpus says"
    looks = {(frame.format.name, frame.colorspace, frame.color_range) for frame in frames}
    (pixels, colours, _), *others = looks
    if others or pixels not in ("yuv420p", "yuvj420p") or colours not in LUMA:
        return decode_reference([request], out)[0]
    return _crop_frames(kernel, request, frames, places.astype(np.int32), out)


def _h264_frames(decoder: VideoCodecContext, data: memoryview, file: Mp4, wanted: list[int]) -> list[av.VideoFrame]:
    """Frames `wanted` (distinct, ascending), or fewer if the decoder gives fewer that are good."""
    keys = np.flatnonzero(file.keys)
    if not len(keys) or wanted[0] < keys[0]:
        return []
    starts = keys[np.searchsorted(keys, wanted, side="right") - 1].tolist()  # of the group of pictures of each
    last = dict(zip(starts, wanted))  # the last wanted frame of each group
    frames: list[av.VideoFrame] = []
    remaining = set(wanted)
    offsets, sizes = file.offsets.tolist(), file.sizes.tolist()
    for start, end in last.items():
        for i in range(start, end + 2):
            packet = None  # at the end, for the frames that the decoder holds back
            if i <= end:
                packet = av.Packet(bytes(data[offsets[i] : offsets[i] + sizes[i]]))
                packet.pts = i
            for frame in decoder.decode(packet):  # pyright: ignore[reportUnknownMemberType]
                if frame.pts in remaining and not frame.is_corrupt:
                    remaining.remove(frame.pts)
                    frames.append(frame)
        decoder.flush_buffers()
    return frames


def _crop_frames(
    kernel: _Kernel, request: Request, frames: list[av.VideoFrame], places: NDArray[np.int32], out: NDArray[np.uint8]
) -> str | None:
    _, views, _, length, size, _ = out.shape
    table = np.empty(len(frames), FRAME)
    planes = [frame.planes for frame in frames]
    table["data"] = [[plane.buffer_ptr for plane in three] for three in planes]
    table["bytes"] = [[plane.buffer_size for plane in three] for three in planes]
    table["stride"] = [[plane.line_size for plane in three] for three in planes]
    video = np.zeros(1, VIDEO)
    video["width"], video["height"] = request.width, request.height
    video["red"], video["blue"] = LUMA[frames[0].colorspace]
    video["full_range"] = frames[0].color_range == FULL_RANGE
    crops = np.ascontiguousarray(request.crops, np.int32)
    flips = np.ascontiguousarray(request.flips, np.bool_)
    if (places.shape, crops.shape, flips.shape) != ((length,), (views, 4), (views,)):
        raise ValueError("the request does not fit the shape of out")
    reason: int = kernel.dll.understudy_crop_frames(
        _pointer(table),
        ctypes.c_int32(len(frames)),
        _pointer(places),
        _pointer(video),
        _pointer(crops),
        _pointer(flips),
        ctypes.c_int32(views),
        ctypes.c_int32(length),
        ctypes.c_int32(size),
        ctypes.c_int32(_variant(kernel)),
        _pointer(out),
    )
    return kernel.reasons[reason]


class _Borrowed:
    """A libavcodec decoder from those that were used before, if one has the same configuration.

    It keeps its memory for frames, which is a tenth of the time of a clip. One that met an error is not used again.
    """

    _idle: ClassVar[list[tuple[bytes, VideoCodecContext]]] = []
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, configuration: bytes) -> None:
        self._configuration = configuration

    def __enter__(self) -> VideoCodecContext:
        with self._lock:
            for i, (configuration, decoder) in enumerate(self._idle):
                if configuration == self._configuration:
                    del self._idle[i]
                    self._decoder = decoder
                    return decoder
        decoder = av.CodecContext.create("h264", "r")
        decoder.extradata = self._configuration
        decoder.thread_count = 1  # the loader has its own threads
        decoder.options = {"err_detect": "explode"}
        self._decoder = decoder
        return decoder

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            with self._lock:
                self._idle.append((self._configuration, self._decoder))
                del self._idle[:-IDLE_DECODERS]


def _address(array: NDArray[Any]) -> int:
    return array.__array_interface__["data"][0]


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(_address(array))
