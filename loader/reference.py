"""The reference decoder: plain libraries and NumPy, the definition of right that every other decoder is held to.

JPEG by libjpeg-turbo with its accurate settings, mp4 by libavcodec; then crop and bilinear resize in float32, without
antialiasing and with half-pixel centres (torchvision's resized_crop with antialias=False), rounded to nearest.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import av
import numpy as np
import simplejpeg  # pyright: ignore[reportMissingTypeStubs]
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Interpolation
from numpy.typing import NDArray

from understudy.loader.request import Request
from understudy.shards.container import open_container

# Frames are resized as many at a time as have about this many pixels, so that what lies between stays in the cache.
CACHED_PIXELS = 1 << 14


class UndecodableError(Exception):
    """A request's bytes are no good; the text is the reason that is counted."""


def decode_reference(requests: Sequence[Request], out: NDArray[np.uint8]) -> list[str | None]:
    """A `Decoder` (see request.py for the contract)."""
    return [_decode_one(request, out[i]) for i, request in enumerate(requests)]


def _decode_one(request: Request, out: NDArray[np.uint8]) -> str | None:
    try:
        frames, positions = decode_frames(request)
    except UndecodableError as error:
        out[:] = 0
        return str(error)
    for k, (crop, flip) in enumerate(zip(request.crops.tolist(), request.flips.tolist())):
        resize_crop(frames, crop, out.shape[-1], flip).take(positions, axis=1, out=out[k], mode="clip")
    return None


def decode_frames(request: Request) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """The distinct frames of a request, uint8 (n, height, width, 3), and which of them each of its T frames is.

    Raises UndecodableError.
    """
    wanted, positions = np.unique(request.frames, return_inverse=True)
    frames = _jpeg_frames(request, wanted) if request.codec == "mjpeg" else _mp4_frames(request, wanted)
    return frames, positions


def resize_crop(frames: NDArray[np.uint8], crop: tuple[int, int, int, int], size: int, flip: bool) -> NDArray[np.uint8]:
    """The box `crop` (x, y, w, h) of `frames`, uint8 (T, H, W, 3), as uint8 (3, T, size, size), mirrored if `flip`."""
    x, y, w, h = crop
    top, bottom, down = _taps(h, size)
    left, right, across = _taps(w, size)
    if flip:
        left, right, across = left[::-1], right[::-1], across[::-1]
    # Red, green and blue of a row lie three apart; picked by index, they come out as rows of one colour.
    colour = np.arange(3)[:, None]
    left, right, across = (left * 3 + colour).ravel(), (right * 3 + colour).ravel(), np.tile(across, 3)
    out = np.empty((3, len(frames), size, size), np.uint8)
    together = max(1, CACHED_PIXELS // (size * w))
    for i in range(0, len(frames), together):
        box = frames[i : i + together, y : y + h, x : x + w]
        rows, below = box[:, top].astype(np.float32), box[:, bottom].astype(np.float32)
        below -= rows
        below *= down[:, None, None]
        rows += below
        rows = rows.reshape(len(box), size, w * 3)
        result, beside = np.take(rows, left, axis=2), np.take(rows, right, axis=2)
        beside -= result
        beside *= across
        result += beside
        np.rint(result, out=result)
        out[:, i : i + together] = result.reshape(len(box), size, 3, size).transpose(2, 0, 1, 3)
    return out


def _taps(source: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each of `size` outputs the two source pixels it lies between, and its distance from the first."""
    centre = np.clip((np.arange(size) + 0.5) * (source / size) - 0.5, 0, source - 1)
    first = np.floor(centre).astype(np.intp)
    return first, np.minimum(first + 1, source - 1), (centre - first).astype(np.float32)


def _jpeg_frames(request: Request, wanted: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Frames `wanted` (distinct, ascending) of an mjpeg sample: uint8 (len(wanted), height, width, 3)."""
    stream, index = request.payload
    if len(index) % 8 or len(index) < 16:
        raise UndecodableError("offsets: not int64 numbers")
    offsets = np.frombuffer(index, "<i8")
    if offsets[0] != 0 or offsets[-1] != len(stream) or bool((np.diff(offsets) <= 0).any()):
        raise UndecodableError("offsets: do not fit the frames")
    if wanted[0] < 0 or wanted[-1] >= len(offsets) - 1:
        raise UndecodableError("frames: fewer than the corpus says")
    frames = np.empty((len(wanted), request.height, request.width, 3), np.uint8)
    for i, frame in enumerate(wanted.tolist()):
        jpeg = stream[int(offsets[frame]) : int(offsets[frame + 1])]
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
            _check_size(int(width), int(height), request)
            simplejpeg.decode_jpeg(jpeg, buffer=frames[i])
        except ValueError:
            raise UndecodableError("jpeg: does not decode") from None
    return frames


def _mp4_frames(request: Request, wanted: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Frames `wanted` (distinct, ascending) of an mp4 sample: uint8 (len(wanted), height, width, 3).

    Frame i is the one with the i-th smallest timestamp. Only groups of pictures that hold a wanted frame are decoded,
    and of the last frames of a group only as many as are needed.
    """
    frames = np.empty((len(wanted), request.height, request.width, 3), np.uint8)
    try:
        with open_container(io.BytesIO(request.payload[0])) as container:
            stream = next(iter(container.streams.video), None)
            decoder = stream.codec_context if stream else None
            if stream is None or decoder is None:
                raise UndecodableError("video: no stream that can be decoded")
            _check_size(decoder.width, decoder.height, request)
            decoder.thread_count = 1  # the loader has its own threads
            decoder.options = {"err_detect": "explode"}
            packets = [packet for packet in container.demux(stream) if packet.pts is not None]
            times = sorted(packet.pts for packet in packets if packet.pts is not None)
            if wanted[0] < 0 or wanted[-1] >= len(times):
                raise UndecodableError("frames: fewer than the corpus says")
            frame_numbers: list[int] = wanted.tolist()
            place = {times[number]: i for i, number in enumerate(frame_numbers)}
            keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
            found = 0
            for first, end in zip(keys, [*keys[1:], len(packets)]):
                group = packets[first:end]
                needed = [i for i, packet in enumerate(group) if packet.pts in place]
                if not needed:
                    continue
                for packet in [*group[: needed[-1] + 1], None]:
                    for frame in decoder.decode(packet):  # pyright: ignore[reportUnknownMemberType]
                        i = None if frame.pts is None else place.get(frame.pts)
                        if i is not None and not frame.is_corrupt:
                            frames[i] = _rgb(frame, request)
                            found += 1
                decoder.flush_buffers()
    except (FFmpegError, ValueError):
        raise UndecodableError("video: does not decode") from None
    if found != len(wanted):
        raise UndecodableError("video: does not decode")
    return frames


def _rgb(frame: av.VideoFrame, request: Request) -> NDArray[np.uint8]:
    """One frame as uint8 (height, width, 3), by the matrix and range that the frame is tagged with.

    Chroma is interpolated bilinearly, its samples level with the left one of two columns and midway between two rows,
    as H.264 places them.
    """
    _check_size(frame.width, frame.height, request)
    rgb = frame.reformat(
        format="rgb24",
        interpolation=Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
        dst_color_range=ColorRange.JPEG,
        threads=1,
    )
    return rgb.to_ndarray().astype(np.uint8, copy=False)


def _check_size(width: int, height: int, request: Request) -> None:
    """What damaged bytes claim must not be allocated, nor frames of another size be cropped."""
    if (width, height) != (request.width, request.height):
        raise UndecodableError("size: not what the corpus says")
