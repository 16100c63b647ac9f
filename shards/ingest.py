"""From a video file to upright RGB frames at the packing rate, or a refusal in plain words.

Opening, choosing the stream, decoding all of it, noticing damage. Time is in `timing.py`, pixels in `color.py`,
what becomes of the frames in `encode.py`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av
import numpy as np
from av.error import FFmpegError
from av.format import Flags
from av.stream import Disposition
from numpy.typing import NDArray

from understudy.shards.color import Converter, turns_sideways, upright
from understudy.shards.container import open_container
from understudy.shards.sources import RefusedError, Source
from understudy.shards.timing import Timeline, resample

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

MAX_PIXELS = 2**26  # twice 8K; beyond it a header is a mistake or a bomb
MAX_ELONGATION = 16  # long side over short side
MAX_HOLD = 3600  # seconds that one frame may stay on display
NOT_THE_PICTURE = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
ENCRYPTED = "cannot be decoded: it is encrypted"
OPTIONS = {"protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}


def read_video(source: Source, *, fps: float, short_side: int) -> Iterator[NDArray[np.uint8]]:
    """Yield what a viewer of `source.path` sees at times k/fps after its first frame, k = 0, 1, 2 ...

    RGB uint8 (H, W, 3), all of one size: upright, pixels square, the short side `short_side` whatever it was (smaller
    videos are enlarged: a corpus promises one short side), the long side even. As many frames as the displayed
    duration holds, ceil(duration * fps). Frames in a row may be one array: don't write into them. Holds two decoded
    frames at most, however long the video.

    Raises RefusedError where the file has no video, can't be decoded, or is damaged anywhere. Damage is known when
    it is met, so that may come after frames were yielded: use none of them then. Interlaced video is scaled as it
    is, so both fields show in one frame.
    """
    for _, pixels in read_numbered(source, fps=fps, short_side=short_side):
        yield pixels


def read_numbered(
    source: Source, *, fps: float, short_side: int
) -> Generator[tuple[int, NDArray[np.uint8]], None, int]:
    """As `read_video`, each with the number, from 0, that the frame has among those stored; returns how many are."""
    if source.path is None:
        raise ValueError(f"{source.id} has no file")
    rate = Fraction(fps).limit_denominator(100_000)
    # "file:" keeps a name with a colon or a dash from being taken for something else.
    try:
        container = open_container(f"file:{source.path}", OPTIONS)
    except (FFmpegError, ValueError) as error:
        raise RefusedError(f"cannot be decoded: {_reason(error)}") from None
    with container:
        stream = _video_stream(container)
        timeline = Timeline(
            time_base=stream.time_base or Fraction(1, 90_000),
            frame_time=1 / stream.average_rate if stream.average_rate else None,
            may_break=bool(container.format.flags & Flags.ts_discont.value),
        )
        converter, shape = Converter(), None
        # AVI has no presentation stamps: what stands in for them is guessed, and wrong with B-frames.
        use_dts = container.format.name == "avi"
        stored = 0

        def stamped() -> Iterator[tuple[tuple[int, VideoFrame], int | None, int]]:
            nonlocal stored
            for frame in _decoded(container, stream):
                stored += 1
                yield (stored - 1, frame), frame.dts if use_dts or frame.pts is None else frame.pts, frame.duration

        for (number, frame), repeats in resample(stamped(), timeline, rate, _declared_end(container, stream)):
            if repeats > MAX_HOLD * rate:
                raise RefusedError(f"cannot be timed: its stamps leap by {float(repeats / rate):.0f} seconds")
            matrix = _display_matrix(frame)
            aspect = _aspect(frame, stream.sample_aspect_ratio, matrix)
            shape = shape or Shape.fit(aspect, short_side)
            if abs(aspect / shape.aspect - 1) > 0.02:
                raise RefusedError("its picture changes shape midway")
            size = (shape.height, shape.width) if turns_sideways(matrix) else (shape.width, shape.height)
            try:
                pixels = converter.to_rgb(frame, *size)
            except FFmpegError as error:
                raise RefusedError(
                    f"cannot be decoded: no way from {frame.format.name} to RGB, {_reason(error)}"
                ) from None
            pixels = upright(pixels, matrix)
            for _ in range(repeats):
                yield number, pixels
    return stored


def native(source: Source) -> tuple[float, int]:
    """The frames a second and the short side at which `read_video` shows `source` as it was recorded.

    The mean rate where it varies; the short side is made even. Raises RefusedError as `read_video` does.
    """
    try:
        container = open_container(f"file:{source.path}", OPTIONS)
    except (FFmpegError, ValueError) as error:
        raise RefusedError(f"cannot be decoded: {_reason(error)}") from None
    with container:
        stream = _video_stream(container)
        shown_width = stream.codec_context.width * (stream.sample_aspect_ratio or 1)
        short_side = min(shown_width, stream.codec_context.height)
        return min(float(stream.average_rate or 25), 240.0), max(2 * round(short_side / 2), 16)


@dataclass(frozen=True)
class Shape:
    """The size of all frames of a video, pixels, and the width over height that it was made for."""

    width: int
    height: int
    aspect: float

    @staticmethod
    def fit(aspect: float, short_side: int) -> Shape:
        """The size with short side `short_side` and the long side even. RefusedError where it is a mere strip."""
        elongation = max(aspect, 1 / aspect)
        if elongation > MAX_ELONGATION:
            raise RefusedError(f"its picture is a strip, {elongation:.0f} times longer than wide")
        long_side = 2 * round(short_side * elongation / 2)
        width, height = (long_side, short_side) if aspect >= 1 else (short_side, long_side)
        return Shape(width, height, aspect)


def _declared_end(container: InputContainer, stream: VideoStream) -> int | None:
    """The stamp at which the container says that the stream ends. Only MP4 and its kin do more than guess."""
    if not container.format.name.startswith("mov,mp4") or stream.start_time is None or not stream.duration:
        return None
    return stream.start_time + stream.duration


def _aspect(frame: VideoFrame, pixel_aspect: Fraction | None, matrix: NDArray[np.int32] | None) -> float:
    """Width over height of the upright picture."""
    aspect = float(frame.width * (pixel_aspect or 1) / frame.height)
    return 1 / aspect if turns_sideways(matrix) else aspect


def _display_matrix(frame: VideoFrame) -> NDArray[np.int32] | None:
    data = frame.side_data.get("DISPLAYMATRIX")
    return None if data is None else np.frombuffer(bytes(data), np.int32)


def _reason(error: Exception) -> str:
    """What FFmpeg says, without error numbers and file names."""
    text = error.strerror if isinstance(error, FFmpegError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]


def _video_stream(container: InputContainer) -> VideoStream:
    """The stream that a player shows, ready to decode: not a cover picture; the first of those marked as default."""
    streams = [stream for stream in container.streams.video if not stream.disposition & NOT_THE_PICTURE]
    if not streams:
        raise RefusedError("no video stream")
    # Streams of a codec unknown to FFmpeg have no context, whatever the annotation says.
    streams = [stream for stream in streams if getattr(stream, "codec_context", None) is not None]
    if not streams:
        raise RefusedError("cannot be decoded: its codec is not known")

    def preference(stream: VideoStream) -> tuple[bool, bool]:
        return stream.pix_fmt is not None, bool(stream.disposition & Disposition.default)

    stream = max(streams, key=preference)
    if "enc_key_id" in stream.metadata:
        raise RefusedError(ENCRYPTED)
    context = stream.codec_context
    if context.width * context.height > MAX_PIXELS:
        raise RefusedError(f"its picture is too large, {context.width} x {context.height}")
    context.thread_count = 1  # packing runs a process a core
    context.options = {"max_pixels": str(MAX_PIXELS)}
    if context.name == "hevc":
        # Flags no damaged frame on its own. The other decoders do, and would choke on mere bad metadata if told to.
        context.options |= {"err_detect": "explode"}
    return stream


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Yield every displayed frame of `stream`, in display order. RefusedError at the first sign of damage.

    Recordings in MPEG program and transport streams end anywhere: one whose very last packet is cut is whole, and
    the picture in it is left out.
    """
    ends_anywhere = container.format.name in ("mpeg", "mpegts")
    frames = packets = 0
    latest: Packet[Stream] | None = None
    doubtful = False  # there was damage in the latest packet, which is no harm if it is the last
    furthest = Fraction(0)  # seconds to the end of what any stream holds

    def damaged(what: str) -> RefusedError:
        return RefusedError(f"damaged after {frames} frames: {what}" if frames else f"cannot be decoded: {what}")

    demuxed = container.demux()
    while True:
        try:
            packet = next(demuxed, None)
        except FFmpegError as error:
            raise damaged(_reason(error)) from None
        if packet is None:
            break
        start = packet.dts if packet.pts is None else packet.pts
        if start is not None:
            furthest = max(furthest, (start + (packet.duration or 0)) * packet.time_base)
        if packet.stream.index != stream.index:
            continue
        if packet.size:
            if doubtful:
                raise damaged("a picture does not decode")
            latest = packet
            packets += 1
        if packet.has_sidedata("encryption_info"):
            raise RefusedError(ENCRYPTED)
        # Of program streams only a last stretch of the file, with several pictures, is ever said to be corrupt.
        doubtful |= packet.is_corrupt and container.format.name != "mpeg"
        decoded: list[VideoFrame] = []
        try:
            decoded = cast("list[VideoFrame]", packet.decode())
        except FFmpegError as error:
            if not ends_anywhere:
                raise damaged(_reason(error)) from None
            doubtful = True
        for frame in decoded:
            if frame.is_corrupt:
                doubtful = True
            else:
                yield frame
                frames += 1
        if doubtful and not ends_anywhere:
            raise damaged("a picture does not decode")
    if not frames:
        raise RefusedError("no frames")
    promised = stream.frames
    if container.format.name == "avi" and packets < promised:
        raise damaged(f"{promised - packets} more are promised")
    if latest is not None and _packed_pictures(latest) > 1 and frames < promised:
        raise damaged("the last picture is cut off")
    if container.format.name == "matroska,webm" and container.duration is not None:
        missing = Fraction(container.duration, av.time_base) - furthest
        # Packets without a duration end later than they seem to, by a frame.
        if missing > Fraction(1, 10) + 2 / (stream.average_rate or 25):
            raise damaged(f"{float(missing):.1f} more seconds are promised")


def _packed_pictures(packet: Packet[Stream]) -> int:
    """How many pictures the packet holds. DivX puts two into one, and the second is shown by the packet after."""
    return bytes(packet).count(b"\0\0\1\xb6") if packet.stream.codec_context.name == "mpeg4" else 1
