"""Frames to members: sizes and counts, the same bytes, true colours, and nothing that tells on the source."""

from __future__ import annotations

import io
import resource
import signal
import struct
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import simplejpeg
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from understudy.shards.encode import Encoded, encode
from understudy.shards.sources import RefusedError

PLAIN = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def moving(count: int = 40, width: int = 96, height: int = 64) -> Iterator[NDArray[np.uint8]]:
    """A coloured slope with a square that moves over it."""
    y, x = np.mgrid[:height, :width]
    for i in range(count):
        frame = np.stack([255 * x // width, 255 * y // height, np.full_like(x, 90)], -1).astype(np.uint8)
        frame[20:40, i : i + 20] = (230, 40, 200 - 4 * (i % 40))
        yield frame


def jpegs_of(encoded: Encoded) -> list[bytes]:
    offsets = np.frombuffer(encoded.members["off"], "<i8")
    return [encoded.members["mjpg"][a:b] for a, b in pairwise(offsets)]


def decoded_mp4(data: bytes) -> list[NDArray[np.uint8]]:
    with av.open(io.BytesIO(data)) as container:
        return [
            frame.reformat(format="rgb24", interpolation=PLAIN, dst_color_range=2).to_ndarray()
            for frame in container.decode(video=0)
        ]


def mean_error(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
@pytest.mark.parametrize(("count", "fps"), [(1, 6), (16, 6), (17, 7.5), (40, 29.97)])
def test_every_frame_is_there_in_order_and_true(codec, count, fps):
    encoded = encode(moving(count), codec, fps=fps, quality=90)
    assert (encoded.frames, encoded.width, encoded.height) == (count, 96, 64)
    if codec == "mjpeg":
        assert set(encoded.members) == {"mjpg", "off"}
        shown = [simplejpeg.decode_jpeg(jpeg, strict=True) for jpeg in jpegs_of(encoded)]
    else:
        assert set(encoded.members) == {"mp4"}
        shown = decoded_mp4(encoded.members["mp4"])
    assert len(shown) == count
    for frame, original in zip(shown, moving(count)):
        assert mean_error(frame, original) < 3
        assert np.abs(frame.mean((0, 1)) - original.mean((0, 1))).max() < 1.5  # no cast, no lost range


@pytest.mark.parametrize(("width", "height", "stored"), [(106, 64, (96, 64)), (64, 94, (64, 80)), (100, 36, (96, 36))])
def test_the_long_side_is_cut_to_a_multiple_in_the_middle(width, height, stored):
    encoded = encode(moving(3, width, height), "h264", fps=6, quality=95, multiple=16)
    assert (encoded.width, encoded.height) == stored
    left, top = (width - stored[0]) // 4 * 2, (height - stored[1]) // 4 * 2
    for frame, original in zip(decoded_mp4(encoded.members["mp4"]), moving(3, width, height)):
        middle = original[top : top + stored[1], left : left + stored[0]]
        assert mean_error(frame, middle) < 3
        assert np.abs(frame.mean((0, 1)) - middle.mean((0, 1))).max() < 1.5
    whole = encode(moving(3, width, height), "h264", fps=6, quality=95)
    assert (whole.width, whole.height) == (width, height)


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_a_full_disk_is_no_matter(codec):
    expected = encode(moving(), codec, fps=6, quality=85)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        assert encode(moving(), codec, fps=6, quality=85) == expected
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_the_same_frames_give_the_same_bytes(codec):
    assert encode(moving(), codec, fps=6, quality=85) == encode(moving(), codec, fps=6, quality=85)


def test_the_bytes_do_not_depend_on_what_was_in_memory_before():
    rng, junk, seen = np.random.default_rng(0), list[NDArray[np.uint8]](), set[bytes]()
    frames = list(moving(12, 64, 48))
    for i in range(200):
        junk = [*junk[-20:], np.full(rng.integers(1, 3_000_000), i, np.uint8)]
        seen.add(encode(iter(frames), "h264", fps=6, quality=85).members["mp4"])
    assert len(seen) == 1


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_more_quality_is_more_bytes_and_less_error(codec):
    sizes, errors = [], []
    for quality in (1, 30, 60, 85, 100):
        encoded = encode(moving(8), codec, fps=6, quality=quality)
        sizes.append(sum(map(len, encoded.members.values())))
        frames = (
            [simplejpeg.decode_jpeg(jpeg) for jpeg in jpegs_of(encoded)]
            if codec == "mjpeg"
            else decoded_mp4(encoded.members["mp4"])
        )
        errors.append(np.mean([mean_error(a, b) for a, b in zip(frames, moving(8))]))
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_no_frames_is_refused_and_odd_or_mixed_sizes_are_a_mistake(codec):
    with pytest.raises(RefusedError, match="no frames"):
        encode(iter(()), codec, fps=6, quality=85)
    with pytest.raises(ValueError, match="even"):
        encode(moving(2, width=95), codec, fps=6, quality=85)
    with pytest.raises(ValueError, match="among"):
        encode(iter([*moving(2), *moving(1, width=98)]), codec, fps=6, quality=85)


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_a_refusal_midway_passes_through(codec):
    def frames():
        yield from moving(3)
        raise RefusedError("damaged after 3 frames")

    with pytest.raises(RefusedError, match="damaged after 3"):
        encode(frames(), codec, fps=6, quality=85)


def test_jpegs_are_baseline_420_with_nothing_but_pictures():
    for jpeg in jpegs_of(encode(moving(3), "mjpeg", fps=6, quality=85)):
        markers, at = [], 2
        while jpeg[at + 1] != 0xDA:  # up to the scan
            length = struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
            markers.append(jpeg[at + 1])
            if jpeg[at + 1] == 0xE0:
                assert jpeg[at + 4 : at + 9] == b"JFIF\0" and length == 16  # no thumbnail
            at += 2 + length
        assert set(markers) <= {0xE0, 0xDB, 0xC0, 0xC4}  # JFIF, tables, baseline frame; no EXIF, XMP, ICC, comment
        assert simplejpeg.decode_jpeg_header(jpeg)[2:] == ("YCbCr", "420")
        assert jpeg.endswith(b"\xff\xd9")


def boxes(data: bytes, inside: tuple[bytes, ...]) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        assert 8 <= size <= len(data) - at
        yield kind, data[at + 8 : at + size]
        if kind in inside:
            yield from boxes(data[at + 8 : at + size], inside)
        at += size


def test_the_mp4_holds_nothing_but_the_film():
    data = encode(moving(20), "h264", fps=6, quality=85).members["mp4"]
    top = [kind for kind, _ in boxes(data, ())]
    assert top.index(b"moov") < top.index(b"mdat") and set(top) <= {b"ftyp", b"moov", b"free", b"mdat"}
    found = dict(boxes(data, (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"udta")))
    assert b"edts" not in found and b"tmcd" not in found and b"gmhd" not in found
    if b"meta" in found:
        assert found[b"meta"].endswith(struct.pack(">I4s", 8, b"ilst"))  # an empty list of tags
    for kind in (b"mvhd", b"tkhd", b"mdhd"):
        assert found[kind][4:12] == bytes(8), "a date"
    assert found[b"hdlr"][24:].strip(b"\0") in (b"", b"mdirappl")
    for word in (b"Lav", b"x264", b"\xa9xyz", b"loci", b"XMP", b"ISO6709", b"SEFT", b"options:"):
        assert word not in data


def test_the_mp4s_stream_is_as_the_format_says():
    data = encode(moving(40), "h264", fps=7.5, quality=85).members["mp4"]
    with av.open(io.BytesIO(data)) as container:
        (stream,) = container.streams
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert not stream.metadata.keys() - {"language"} and stream.metadata.get("language") == "und"
        assert not container.metadata.keys() - {"major_brand", "minor_version", "compatible_brands"}
        assert not container.chapters()
        assert [packet.is_keyframe for packet in packets] == [i % 16 == 0 for i in range(40)]
        assert [packet.pts * stream.time_base for packet in packets] == [i / Fraction("7.5") for i in range(40)]
        assert all(packet.pts == packet.dts for packet in packets)
        assert stream.frames == 40 and stream.start_time == 0
    units = set()
    for packet in packets:
        payload, at = bytes(packet), 0
        while at < len(payload):
            units.add(payload[at + 4] & 31)
            at += 4 + int.from_bytes(payload[at : at + 4], "big")
    assert units == {1, 5}  # slices only: no SEI (6), which is where settings, captions and user data go
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(video=0):
            assert (frame.format.name, frame.colorspace, frame.color_range) == ("yuv420p", 6, 1)
            assert not len(frame.side_data)
