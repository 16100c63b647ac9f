from __future__ import annotations

import os
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.loader.mp4 import read_mp4
from understudy.loader.native import decode_native, native_kernels
from understudy.loader.reference import decode_reference
from understudy.loader.request import Request
from understudy.shards.encode import encode

FUZZ = Path(__file__).parent / "fuzz"
sys.path.insert(0, str(FUZZ))
from seeds import asked, jpegs, picture, seeds  # noqa: E402

pytestmark = pytest.mark.skipif(
    not native_kernels() and os.environ.get("UNDERSTUDY_REQUIRE_NATIVE") != "1",
    reason="the native kernel was not built (UNDERSTUDY_REQUIRE_NATIVE=1 makes this a failure)",
)

WIDTH, HEIGHT = 70, 40
KINDS = jpegs(picture(WIDTH, HEIGHT, 3))
GOOD = KINDS["plain"]
SCAN = GOOD.index(b"\xff\xda") + 14  # where the coefficients start


def patched(jpeg: bytes, marker: bytes, at: int, new: bytes) -> bytes:
    """`jpeg` with other bytes, `at` bytes after the start of its first segment of that kind."""
    start = jpeg.index(marker) + at
    return jpeg[:start] + new + jpeg[start + len(new) :]


def header_of(width: int, height: int) -> bytes:
    return patched(GOOD, b"\xff\xc0", 5, struct.pack(">HH", height, width))


SIZE = "size: not what the corpus says"
KIND = "jpeg: not a baseline 4:2:0 JPEG of one scan"
CORRUPT = "jpeg: does not decode"

# What a frame may be, and what is said of it. The reference refuses all of these too, unless they are only of a kind
# that shards do not hold.
BAD = {
    "empty after SOI": (GOOD[:2], CORRUPT),
    "junk": (bytes(range(256)) * 4, CORRUPT),
    "zeros": (bytes(1000), CORRUPT),
    "no SOI": (GOOD[1:], CORRUPT),
    "truncated in the header": (GOOD[: SCAN // 2], CORRUPT),
    "truncated in the scan": (GOOD[: SCAN + 100], CORRUPT),
    "without its last byte": (GOOD[:-1], CORRUPT),
    "without EOI": (GOOD[:-2], CORRUPT),
    "scan cut, EOI kept": (GOOD[: SCAN + 40] + b"\xff\xd9", CORRUPT),
    "empty scan": (GOOD[:SCAN] + b"\xff\xd9", CORRUPT),
    "ones in the scan": (GOOD[: SCAN + 40] + b"\xff\x00" * 200 + GOOD[SCAN + 440 :], CORRUPT),
    "a marker in the scan": (GOOD[: SCAN + 50] + b"\xff\xc4" + GOOD[SCAN + 52 :], CORRUPT),
    "a restart that was not announced": (GOOD[: SCAN + 50] + b"\xff\xd0" + GOOD[SCAN + 52 :], CORRUPT),
    "wider": (header_of(WIDTH + 16, HEIGHT), SIZE),
    "smaller": (header_of(WIDTH - 16, HEIGHT), SIZE),
    "65500 x 65500": (header_of(65500, 65500), SIZE),
    "no rows": (header_of(WIDTH, 0), SIZE),
    "12 bits": (patched(GOOD, b"\xff\xc0", 4, b"\x0c"), KIND),
    "no components": (patched(GOOD, b"\xff\xc0", 9, b"\x00"), CORRUPT),
    "16-bit factors": (patched(GOOD, b"\xff\xdb", 4, b"\x10"), KIND),
    "a table of factors that is not there": (patched(GOOD, b"\xff\xc0", 12, b"\x03"), CORRUPT),
    "a table of codes that is not there": (patched(GOOD, b"\xff\xda", 6, b"\x33"), CORRUPT),
    "too many codes": (patched(GOOD, b"\xff\xc4", 5, b"\xff" * 16), CORRUPT),
    "codes that overflow": (patched(GOOD, b"\xff\xc4", 5, b"\x03\x00"), CORRUPT),
    "a segment of no length": (patched(GOOD, b"\xff\xdb", 2, b"\x00\x00"), CORRUPT),
    "a segment beyond the end": (patched(GOOD, b"\xff\xdb", 2, b"\xff\xff"), CORRUPT),
    "spectral selection": (patched(GOOD, b"\xff\xda", 11, b"\x01\x10"), CORRUPT),
    "huge restart interval": (GOOD[:2] + b"\xff\xdd\x00\x04\xff\xff" + GOOD[2:], None),
    "restart interval of 1": (GOOD[:2] + b"\xff\xdd\x00\x04\x00\x01" + GOOD[2:], CORRUPT),
    "restarts in the wrong order": (KINDS["restarts"].replace(b"\xff\xd1", b"\xff\xd5", 1), CORRUPT),
    "restarts missing": (KINDS["restarts"].replace(b"\xff\xd1", b"\x12\x34", 1), CORRUPT),
    "arithmetic coding": (patched(GOOD, b"\xff\xc0", 0, b"\xff\xc9"), KIND),
    "progressive": (KINDS["progressive"], KIND),
    "grey": (KINDS["grey"], KIND),
    "4:4:4": (KINDS["444"], KIND),
    "4:2:2": (KINDS["422"], KIND),
}
ONLY_NOT_FOR_SHARDS = {"progressive", "grey", "4:4:4", "4:2:2"}


def offsets_of(*numbers: int) -> bytes:
    return np.array(numbers, "<i8").tobytes()


def request(stream: bytes, offsets: bytes | None = None, frames: tuple[int, ...] = (0,)) -> Request:
    return Request(
        payload=(stream, offsets_of(0, len(stream)) if offsets is None else offsets),
        codec="mjpeg",
        frames=np.array(frames, np.int32),
        crops=np.array([[0, 0, WIDTH, HEIGHT], [3, 1, 30, 20]], np.int32),
        flips=np.array([False, True]),
        width=WIDTH,
        height=HEIGHT,
    )


def reasons_of(*requests: Request, size: int = 24) -> list[str | None]:
    """What is said of each, of as many frames each; what failed must be zeros, and nothing else."""
    out = np.full((len(requests), len(requests[0].crops), 3, len(requests[0].frames), size, size), 77, np.uint8)
    reasons = decode_native(requests, out)
    for clip, reason in zip(out, reasons):
        assert (reason is not None) == (not clip.any())
    return reasons


@pytest.mark.parametrize("name", BAD)
def test_bad_jpegs_are_refused_and_their_neighbours_are_not(name: str) -> None:
    bad, reason = BAD[name]
    good = request(GOOD)
    assert reasons_of(good, request(bad), good) == [None, reason, None]
    # Beside a good frame of the same clip, decoded with it.
    both = request(GOOD + bad, offsets_of(0, len(GOOD), len(GOOD + bad)), (0, 1))
    assert reasons_of(both) == [reason]
    swapped = request(bad + GOOD, offsets_of(0, len(bad), len(GOOD + bad)), (0, 1))
    assert reasons_of(swapped) == [reason]
    if name not in ONLY_NOT_FOR_SHARDS:
        out = np.empty((1, 2, 3, 1, 24, 24), np.uint8)
        assert (decode_reference([request(bad)], out) == [None]) == (reason is None)


OFFSETS = "offsets: do not fit the frames"
NUMBERS = "offsets: not int64 numbers"
FRAMES = "frames: fewer than the corpus says"


@pytest.mark.parametrize(
    ("offsets", "reason"),
    [
        (b"", NUMBERS),
        (bytes(8), NUMBERS),
        (bytes(23), NUMBERS),
        (bytes(16), OFFSETS),
        (offsets_of(0, len(GOOD) - 1), OFFSETS),
        (offsets_of(0, len(GOOD) + 1), OFFSETS),
        (offsets_of(1, len(GOOD)), OFFSETS),
        (offsets_of(0, 0, len(GOOD)), OFFSETS),
        (offsets_of(0, 500, 400, len(GOOD)), OFFSETS),
        (offsets_of(0, 2**62, len(GOOD)), OFFSETS),
        (offsets_of(0, -5, len(GOOD)), OFFSETS),
        (offsets_of(-(2**63), len(GOOD)), OFFSETS),
    ],
)
def test_bad_offsets_are_refused(offsets: bytes, reason: str) -> None:
    assert reasons_of(request(GOOD, offsets)) == [reason]
    out = np.empty((1, 2, 3, 1, 24, 24), np.uint8)
    assert decode_reference([request(GOOD, offsets)], out) == [reason]


@pytest.mark.parametrize("frame", [-1, 1, 2**31 - 1, -(2**31)])
def test_frames_that_are_not_there_are_refused(frame: int) -> None:
    assert reasons_of(request(GOOD, frames=(0, frame))) == [FRAMES]


@pytest.mark.parametrize(
    "crop",
    [
        (-1, 0, 10, 10),
        (0, 0, WIDTH + 1, HEIGHT),
        (0, 0, WIDTH, HEIGHT + 1),
        (WIDTH, 0, 1, 1),
        (0, 0, 0, 5),
        (0, 0, 5, -1),
        (2**31 - 1, 0, 2**31 - 1, 1),
        (10, 10, 2**31 - 1, 2**31 - 1),
    ],
)
def test_crops_outside_the_frame_are_refused(crop: tuple[int, ...]) -> None:
    asked_for = replace(request(GOOD), crops=np.array([(0, 0, 5, 5), crop], np.int32))
    assert reasons_of(asked_for) == ["crop: not inside the frame"]


def test_sizes_that_no_video_has_are_refused_before_memory_is_taken() -> None:
    for width, height in [(0, 40), (70, -1), (65500, 65500), (2**31 - 1, 2**31 - 1)]:
        huge = replace(request(header_of(65500, 65500)), width=width, height=height)
        assert reasons_of(huge) == [SIZE]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes_are_decoded_or_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["plain", "fine", "restarts", "optimised"]))
    jpeg = bytearray(KINDS[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(jpeg) - 1))
        jpeg[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(jpeg)), st.integers(1, len(jpeg))))
    reasons_of(request(bytes(jpeg[:end])), request(GOOD))


FOUND = sorted((FUZZ / "finds").glob("[!.]*"))


@pytest.mark.parametrize("data", [*(data for _, data in seeds()), *(path.read_bytes() for path in FOUND)])
def test_what_fuzzing_starts_from_and_found(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    asks = asked(data)
    if asks is None:
        return  # planes, which only the fuzz target can ask for
    first = None
    for name in ("scalar", ""):
        monkeypatch.setenv("UNDERSTUDY_KERNEL", name)
        out = np.full((1, len(asks[0].crops), 3, len(asks[0].frames), asks[1], asks[1]), 77, np.uint8)
        result = decode_native([asks[0]], out), out.tobytes()
        first = first or result
        assert result == first


def mp4() -> bytes:
    frames = (picture(48, 32, i) for i in range(20))
    return encode(frames, "h264", fps=6, quality=70).members["mp4"]


MP4 = mp4()


def video(data: bytes, frames: tuple[int, ...] = (3, 17)) -> Request:
    crops = np.array([[0, 0, 48, 32]], np.int32)
    return Request((data,), "h264", np.array(frames, np.int32), crops, np.array([False]), 48, 32)


def test_the_index_of_an_mp4_is_libavformats() -> None:
    import io

    import av

    file = read_mp4(MP4)
    assert file is not None
    with av.open(io.BytesIO(MP4)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert file.configuration == stream.codec_context.extradata
    assert [MP4[start : start + size] for start, size in zip(file.offsets, file.sizes)] == [bytes(p) for p in packets]
    assert file.keys.tolist() == [packet.is_keyframe for packet in packets]


@pytest.mark.parametrize("data", [b"", b"junk" * 50, MP4[: len(MP4) // 2], MP4[:40] + bytes(400) + MP4[440:]])
def test_bad_mp4s_are_refused(data: bytes) -> None:
    (reason,) = reasons_of(video(data))
    assert reason in ("video: no stream that can be decoded", "video: does not decode", FRAMES)


def test_frames_beyond_an_mp4_and_other_sizes_are_refused() -> None:
    assert reasons_of(video(MP4, (0, 20))) == [FRAMES]
    assert reasons_of(video(MP4, (-1, 0))) == [FRAMES]
    assert reasons_of(replace(video(MP4), width=50)) == [SIZE]


def test_a_decoder_that_met_damage_does_not_harm_the_next_clip() -> None:
    middle = MP4.index(b"mdat") + 600
    damaged = MP4[:middle] + bytes(300) + MP4[middle + 300 :]
    expected = np.empty((1, 1, 3, 2, 24, 24), np.uint8)
    decode_native([video(MP4)], expected)
    for _ in range(3):
        reasons_of(video(damaged))
        out = np.empty_like(expected)
        assert decode_native([video(MP4)], out) == [None]
        np.testing.assert_array_equal(out, expected)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_mp4_index_stays_inside_the_file(data: st.DataObject) -> None:
    damaged = bytearray(MP4)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, 900))] = data.draw(st.integers(0, 255))
    file = read_mp4(bytes(damaged[: data.draw(st.integers(0, len(damaged)))] if data.draw(st.booleans()) else damaged))
    if file is not None:
        assert len(file.offsets) == len(file.sizes) == len(file.keys) > 0
        assert file.offsets.min() >= 0
        assert file.sizes.min() >= 1
        assert (file.offsets + file.sizes).max() <= len(damaged)
