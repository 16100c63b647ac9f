"""From frames to the payload members of a sample, in either codec: the same frames and settings, the same bytes.

Holds no metadata but what a decoder needs. Tars and `KEY.json` are `pack.py`'s, decoding is `frames.py`'s.
"""

# PyAV's annotations leave open what stream a packet is of.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import simplejpeg  # pyright: ignore[reportMissingTypeStubs]
from av.video.reformatter import Colorspace
from numpy.typing import NDArray

from understudy.shards.color import BT601, BT709, LIMITED, SCALING
from understudy.shards.holes import holes_of, holes_record
from understudy.shards.kinds import Codec
from understudy.shards.sources import RefusedError

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import OutputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

GOP = 16
# JPEG quality: x264's rate factor with the same PSNR, on clips of people moving at 256 pixels, 6 frames a second.
RATE_FACTORS = {1: 51.0, 10: 42.0, 25: 35.0, 50: 30.0, 75: 25.5, 85: 22.5, 95: 17.0, 100: 4.5}


@dataclass(frozen=True)
class Encoded:
    """A sample's payload: `members` maps an extension, of MEMBERS less the JSON, to bytes. Sizes in pixels. `holes` is
    what `holes_record` made of the frames' fourth channel, None where there was none.
    """

    members: dict[str, bytes]
    frames: int
    width: int
    height: int
    holes: dict[str, Any] | None = None


def encode(
    frames: Iterator[NDArray[np.uint8]], codec: Codec, *, fps: float, quality: int, multiple: int = 2
) -> Encoded:
    """Encode RGB `frames`, uint8 (H, W, 3) of one even size, taken one at a time. Those of (H, W, 4) say in the fourth
    channel where they were filled in: anywhere but 0.

    `quality` is JPEG's, 1 to 100; for h264 it stands for the rate factor that comes out alike. The long side becomes
    a `multiple` of pixels: what is over is left out, half at each end. Raises RefusedError where there are no frames,
    and passes on what `frames` raises.
    """
    first = next(frames, None)
    if first is None:
        raise RefusedError("no frames")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"frames of {width} x {height}: 4:2:0 needs even sides")
    frames = _of_one_shape(chain([first], frames), first.shape)
    if less := max(height, width) % multiple:
        frames, height, width = _middle(frames, height, width, less)
    cells: list[NDArray[np.bool_]] = []
    if first.shape[2] == 4:
        frames = _without_holes(frames, cells)
    if codec == "mjpeg":
        members, count = _encode_jpegs(frames, quality)
    else:
        members, count = _encode_h264(frames, width, height, fps, quality)
    return Encoded(members, count, width, height, holes_record(cells) if cells else None)


def _middle(
    frames: Iterator[NDArray[np.uint8]], height: int, width: int, less: int
) -> tuple[Iterator[NDArray[np.uint8]], int, int]:
    """The middle of `frames`, the long side shorter by `less` pixels, with its height and width."""
    down, right = (0, less) if width > height else (less, 0)
    top, left = down // 4 * 2, right // 4 * 2  # even, so that chroma stays in its place
    height, width = height - down, width - right
    return (frame[top : top + height, left : left + width] for frame in frames), height, width


def _without_holes(frames: Iterator[NDArray[np.uint8]], cells: list[NDArray[np.bool_]]) -> Iterator[NDArray[np.uint8]]:
    for frame in frames:
        cells.append(holes_of(frame[..., 3]))
        yield frame[..., :3]


def _of_one_shape(frames: Iterator[NDArray[np.uint8]], shape: tuple[int, ...]) -> Iterator[NDArray[np.uint8]]:
    for frame in frames:
        if frame.shape != shape or frame.dtype != np.uint8:
            raise ValueError(f"a frame of {frame.shape} {frame.dtype} among those of {shape} uint8")
        yield frame


def _encode_jpegs(frames: Iterator[NDArray[np.uint8]], quality: int) -> tuple[dict[str, bytes], int]:
    jpegs = [
        simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality, "RGB", "420", fastdct=False) for frame in frames
    ]
    offsets = np.zeros(len(jpegs) + 1, "<i8")
    np.cumsum([len(jpeg) for jpeg in jpegs], out=offsets[1:])
    return {"mjpg": b"".join(jpegs), "off": offsets.tobytes()}, len(jpegs)


def _encode_h264(
    frames: Iterator[NDArray[np.uint8]], width: int, height: int, fps: float, quality: int
) -> tuple[dict[str, bytes], int]:
    count = 0
    file = io.BytesIO()
    options = {
        "movflags": "+faststart",
        "fflags": "+bitexact",  # no encoder name, no dates
        "empty_hdlr_name": "1",
        "use_editlist": "0",
    }

    def read_back(*_: Any) -> io.BytesIO:
        return io.BytesIO(file.getvalue())  # to move the index to the front

    with av.open(file, "w", format="mp4", options=options, io_open=read_back) as container:
        stream = _h264_stream(container, width, height, fps, quality)
        # NAL units of type 6 are SEI: x264 writes its settings there, and captions would be there too.
        without_sei = av.BitStreamFilterContext("filter_units=remove_types=6", stream)

        for frame in frames:
            _write(container, without_sei, stream.encode(_to_yuv(frame, count)))
            count += 1
        _write(container, without_sei, stream.encode(None))
        container.mux(without_sei.filter(None))
    return {"mp4": file.getvalue()}, count


def _write(container: OutputContainer, without_sei: av.BitStreamFilterContext, packets: list[Packet[Stream]]) -> None:
    for packet in packets:
        container.mux(without_sei.filter(packet))


def _h264_stream(container: OutputContainer, width: int, height: int, fps: float, quality: int) -> VideoStream:
    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.thread_count = 1  # x264's output depends on the number of threads
    context.colorspace, context.color_range = BT601, LIMITED
    context.color_primaries = context.color_trc = BT709
    context.gop_size, context.max_b_frames = GOP, 0
    context.options = {
        "crf": f"{np.interp(quality, list(RATE_FACTORS), list(RATE_FACTORS.values())):.2f}",
        "preset": "medium",
        "tune": "fastdecode",
        # Without the macroblock tree, which in one of 150 encodings of a small picture made other bytes of the same.
        "x264-params": f"keyint={GOP}:min-keyint={GOP}:scenecut=0:open-gop=0:bframes=0:mbtree=0",
    }
    return stream


def _to_yuv(frame: NDArray[np.uint8], number: int) -> VideoFrame:
    """4:2:0 by BT.601's matrix in limited range: as tagged, and as decoders take small video that isn't."""
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
    converted = picture.reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=LIMITED, interpolation=SCALING, threads=1
    )
    converted.pts = number
    return converted
