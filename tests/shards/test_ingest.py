"""Video files to frames: what is seen, how often, at what size and in what colours; and what is refused."""

from __future__ import annotations

import gzip
import math
import shutil
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from make_videos import (
    edit,
    grey_frames,
    number_of,
    pack_b_frames,
    packet_spans,
    scramble,
    truncate,
    turn,
    write_planes,
    write_sound,
    write_video,
)

from understudy.shards.ingest import read_video
from understudy.shards.sources import RefusedError, Source

ALTERNATE = {"b_strategy": "0", "sc_threshold": "1000000000"}  # every other frame a B-frame, whatever is seen


def read(path: Path, fps: float = 6, short_side: int = 64) -> list[np.ndarray]:
    return list(read_video(Source("x", 0, path), fps=fps, short_side=short_side))


def numbers(path: Path, fps: float = 6) -> list[int]:
    return [number_of(frame) for frame in read(path, fps)]


def refusal(path: Path) -> str:
    with pytest.raises(RefusedError) as caught:
        read(path)
    return str(caught.value)


# Time


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "mov"])
@pytest.mark.parametrize(("rate", "fps"), [(30, 6), (25, 6), (Fraction(30000, 1001), 6), (4, 6), (24, 24)])
def test_outputs_show_the_frame_on_display(tmp_path, suffix, rate, fps):
    path = write_video(tmp_path / f"a.{suffix}", grey_frames(20), rate=rate)
    shown = numbers(path, fps)
    clock = Fraction(1, 1000)  # the coarsest of these containers: what lies that near an edge may go either way
    assert len(shown) in {math.ceil((20 / Fraction(rate) + slip) * fps) for slip in (-clock, 0)}
    for k, i in enumerate(shown):
        assert i / rate - clock <= Fraction(k, fps) < (i + 1) / rate + clock


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_b_frames_come_in_the_order_of_display(tmp_path, suffix):
    path = write_video(tmp_path / f"a.{suffix}", grey_frames(24), rate=12, b_frames=3)
    assert numbers(path, 12) == list(range(24))


def test_b_frames_in_avi(tmp_path):
    path = write_video(tmp_path / "a.avi", grey_frames(24), rate=12, codec="mpeg4", b_frames=2)
    assert numbers(path, 12) == list(range(24))


def test_packed_b_frames_in_avi_where_stamps_say_nothing(tmp_path):
    path = write_video(tmp_path / "a.avi", grey_frames(23), rate=12, codec="mpeg4", b_frames=1, options=ALTERNATE)
    assert numbers(pack_b_frames(path, tmp_path / "b.avi", complete=True), 12) == list(range(23))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("first", [0, 7000])
def test_variable_rates_are_resampled_by_stamps(tmp_path, suffix, first):
    at = [0, 40, 80, 500, 540, 1000, 1900, 1950]  # milliseconds
    path = write_video(
        tmp_path / f"a.{suffix}", grey_frames(8), pts=[first + t for t in at], time_base=Fraction(1, 1000)
    )
    expected = [max(i for i, t in enumerate(at) if t <= k * 100) for k in range(20)]
    assert numbers(path, 10)[:20] == expected


def test_an_edit_list_shows_its_part_only(tmp_path):
    """Decoding begins at the key frame before the edit; display begins, and ends, where the edit says."""
    path = write_video(tmp_path / "a.mp4", grey_frames(24), rate=10, gop=24)
    with av.open(str(path)) as container:
        ticks = container.streams.video[0].time_base.denominator
    edit(path, start=5 * ticks // 10, duration=1150)
    assert numbers(path, 20) == [i for i in range(5, 17) for _ in range(2)][:23]


def test_any_video_gives_at_least_one_frame(tmp_path):
    assert numbers(write_video(tmp_path / "a.mp4", grey_frames(1), rate=60)) == [0]


def test_frames_are_made_as_they_are_asked_for(tmp_path):
    """The first frames of a file with a damaged end come out before the damage is met."""
    path = write_video(tmp_path / "a.mkv", noisy_frames(24), rate=6)
    truncate(path, 0.5)
    frames = read_video(Source("x", 0, path), fps=6, short_side=64)
    assert len([next(frames) for _ in range(3)]) == 3
    with pytest.raises(RefusedError, match=r"^damaged after"):
        list(frames)


# Shape


@pytest.mark.parametrize(
    ("width", "height", "pixel", "size"),
    [
        (64, 48, None, (64, 86)),
        (48, 64, None, (86, 64)),
        (64, 64, Fraction(3, 2), (64, 96)),
        (64, 64, Fraction(1, 2), (128, 64)),
        (720, 576, Fraction(16, 15), (64, 86)),
        (640, 360, None, (64, 114)),
    ],
)
def test_pixels_are_squared_and_the_short_side_is_as_asked(tmp_path, width, height, pixel, size):
    path = write_video(tmp_path / "a.mp4", grey_frames(2, width, height), pixel_aspect=pixel)
    assert {frame.shape for frame in read(path)} == {(*size, 3)}


@pytest.mark.parametrize(("codec", "suffix"), [("ffv1", "mkv"), ("libx264", "mp4"), ("mpeg4", "avi")])
def test_odd_sizes(tmp_path, codec, suffix):
    pix_fmt = "yuv444p" if codec == "libx264" else "yuv420p"
    path = write_video(tmp_path / f"a.{suffix}", grey_frames(12, 67, 49), codec=codec, pix_fmt=pix_fmt, rate=6)
    frames = read(path)
    assert {frame.shape for frame in frames} == {(64, 88, 3)}
    assert [number_of(frame) for frame in frames] == list(range(12))
    assert max(np.ptp(frame.astype(int)) for frame in frames) <= 6  # no dark or coloured edge


CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)  # R G / B W
NAMES = {(1, 0, 0): "R", (0, 1, 0): "G", (0, 0, 1): "B", (1, 1, 1): "W"}


@pytest.mark.parametrize(
    ("matrix", "seen"),
    [((0, 1, -1, 0), "BR/WG"), ((-1, 0, 0, -1), "WB/GR"), ((0, -1, 1, 0), "GW/RB"), ((-1, 0, 0, 1), "GR/WB")],
)
def test_pictures_are_upright(tmp_path, matrix, seen):
    picture = CORNERS.repeat(24, 0).repeat(32, 1)
    path = write_video(tmp_path / "a.mp4", [picture] * 2)
    turn(path, *matrix)
    frame = read(path)[0]
    height, width = frame.shape[:2]
    assert (height, width) == ((86, 64) if matrix[0] == 0 else (64, 86))
    corners = frame[height // 4 :: height // 2, width // 4 :: width // 2] > 128
    assert "/".join("".join(NAMES[tuple(map(int, rgb))] for rgb in row) for row in corners) == seen


def test_a_stream_that_changes_size_keeps_one_size_and_its_shape(tmp_path):
    parts = [
        write_video(tmp_path / f"{w}.mpg", grey_frames(12, w, w * 3 // 4), rate=24, codec="mpeg2video")
        for w in (64, 128)
    ]
    joined = tmp_path / "joined.mpg"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = read(joined, fps=24)
    assert {frame.shape for frame in frames} == {(64, 86, 3)}
    shown = [number_of(frame) for frame in frames]
    assert shown[:11] == list(range(11)) and shown[-12:] == list(range(12))  # MPEG-2's decoder drops one at the join


def test_a_stream_that_changes_shape_is_refused(tmp_path):
    parts = [write_video(tmp_path / f"{h}.mpg", grey_frames(12, 64, h), rate=24, codec="mpeg2video") for h in (48, 64)]
    joined = tmp_path / "joined.mpg"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert "changes shape" in refusal(joined)


def test_a_strip_is_refused(tmp_path):
    assert "strip" in refusal(write_video(tmp_path / "a.mp4", grey_frames(2, 1024, 32)))


# Colour

KR_KB = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
COLOURS = [(0, 0, 0), (255, 255, 255), (200, 120, 40), (40, 90, 210), (128, 128, 128), (220, 30, 30)]


def planes(rgb, matrix, full, bits, shape, chroma):
    """Y, Cb, Cr of an even picture, by the definition of the matrix and the range."""
    kr, kb = KR_KB[matrix]
    r, g, b = (value / 255 for value in rgb)
    y = kr * r + (1 - kr - kb) * g + kb * b
    u, v = (b - y) / 2 / (1 - kb), (r - y) / 2 / (1 - kr)
    scale, top = 1 << (bits - 8), (1 << bits) - 1
    values = (
        (y * top, u * top + 128 * scale, v * top + 128 * scale)
        if full
        else ((16 + 219 * y) * scale, (128 + 224 * u) * scale, (128 + 224 * v) * scale)
    )
    small = (shape[0] // chroma, shape[1] // chroma)
    return [np.full(s, min(round(value), top), np.uint16) for value, s in zip(values, (shape, small, small))]


@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("pix_fmt", "bits", "chroma"), [("yuv420p", 8, 2), ("yuv420p10le", 10, 2), ("yuv444p12le", 12, 1)]
)
def test_matrix_and_range_and_depth(tmp_path, matrix, full, pix_fmt, bits, chroma):
    frames = [planes(rgb, matrix, full, bits, (48, 64), chroma) for rgb in COLOURS]
    path = write_planes(
        tmp_path / "a.mkv", frames, pix_fmt=pix_fmt, matrix=matrix, colour_range=2 if full else 1, rate=6
    )
    shown = [frame[32, 40] for frame in read(path)]
    assert np.abs(np.array(shown, int) - COLOURS).max() <= 2


@pytest.mark.parametrize(("size", "matrix"), [((48, 64), 6), ((720, 1280), 1), ((608, 480), 1)])
def test_unnamed_colours_go_by_size(tmp_path, size, matrix):
    frames = [planes(rgb, matrix, False, 8, size, 2) for rgb in COLOURS]
    path = write_planes(tmp_path / "a.mkv", frames, pix_fmt="yuv420p", rate=6)
    shown = [frame[32, 32] for frame in read(path)]
    assert np.abs(np.array(shown, int) - COLOURS).max() <= 2


def test_hdr_is_shown_as_on_a_plain_screen(tmp_path):
    """PQ at diffuse white (0.58 of the range), a tenth of it, black, and a bright saturated green."""
    rgbs = [(148, 148, 148), (88, 88, 88), (0, 0, 0), (60, 160, 60)]
    frames = [planes(rgb, 9, False, 10, (48, 64), 2) for rgb in rgbs]
    path = write_planes(
        tmp_path / "a.mkv",
        frames,
        pix_fmt="yuv420p10le",
        matrix=9,
        colour_range=1,
        transfer=16,
        primaries=9,
        rate=6,
    )
    white, dim, black, green = (frame[32, 40].astype(int) for frame in read(path))
    assert white.min() > 200 and np.ptp(white) <= 4
    assert 60 < dim.min() < 110 and np.ptp(dim) <= 4
    assert black.max() <= 1
    assert green[1] > 200 and green[0] < 60 and green[2] < 60


def test_transparent_pictures_are_seen_on_black(tmp_path):
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("png", rate=6)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgba"
        rgba = np.full((48, 64, 4), (200, 100, 50, 255), np.uint8)
        rgba[:, 32:, 3] = 0
        container.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, "rgba")))
        container.mux(stream.encode(None))
    frame = read(tmp_path / "a.mov")[0]
    assert np.abs(frame[32, 20].astype(int) - (200, 100, 50)).max() <= 1
    assert frame[32, 70].max() == 0


def test_gif(tmp_path):
    path = write_video(
        tmp_path / "a.gif", [CORNERS.repeat(24, 0).repeat(32, 1)] * 3, rate=10, codec="gif", pix_fmt="rgb8"
    )
    frames = read(path, fps=10)
    assert len(frames) == 3
    assert (frames[0][16::32, 21::43] > 128).reshape(-1, 3).tolist() == (CORNERS > 128).reshape(-1, 3).tolist()


# What is there to be read


@pytest.mark.parametrize("name", ["-i.mp4", "a:b.mp4", "100%d.mp4", 'it\'s a "film" ü.mp4', "x.mp4?y=1#z"])
def test_strange_names(tmp_path, monkeypatch, name):
    write_video(tmp_path / "a.mp4", grey_frames(5)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(read(Path(name))) == 1


def test_a_tag_that_is_no_text(tmp_path):
    path = write_video(tmp_path / "a.mp4", grey_frames(5), metadata={"title": "a fine title"})
    path.write_bytes(path.read_bytes().replace(b"a fine title", b"\xff\xfe\xe9 fine \xc3("))
    assert len(read(path)) == 1


def test_of_two_videos_the_first_is_taken_unless_another_is_marked(tmp_path):
    path = tmp_path / "a.mkv"
    for marked in (0, 1):
        with av.open(str(path), "w") as container:
            streams = [container.add_stream("ffv1", rate=6) for _ in range(2)]
            for stream in streams:
                stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for i, stream in enumerate(streams):
                stream.disposition = av.stream.Disposition.default if i == marked else av.stream.Disposition(0)
            for i, stream in enumerate(streams):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 60 + 100 * i, np.uint8), "rgb24")
                container.mux(stream.encode(frame.reformat(format="yuv420p")))
                container.mux(stream.encode(None))
        assert read(path)[0].mean() == pytest.approx(60 + 100 * marked, abs=3)


def test_no_file(tmp_path):
    assert refusal(tmp_path / "none.mp4") == "cannot be decoded: no such file or directory"
    with pytest.raises(ValueError, match="no file"):
        next(read_video(Source("drawn", 0), fps=6, short_side=64))


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 4096, b"not a video\n" * 100, gzip.compress(b"x" * 5000), bytes(range(256)) * 64]
)
def test_what_is_no_video(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert refusal(path).startswith(("cannot be decoded", "no video stream", "no frames"))


def test_a_playlist_does_not_reach_out(tmp_path):
    path = tmp_path / "a.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    assert refusal(path).startswith(("cannot be decoded", "no video stream", "no frames"))


def test_sound_alone_has_no_video_stream(tmp_path):
    assert refusal(write_sound(tmp_path / "a.m4a")) == "no video stream"
    shutil.copy(tmp_path / "a.m4a", tmp_path / "a.mp4")
    assert refusal(tmp_path / "a.mp4") == "no video stream"


def test_a_cover_picture_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        stream.disposition = av.stream.Disposition.attached_pic
        sound = container.add_stream("aac", rate=44100)
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        tone.sample_rate = 44100
        container.mux(sound.encode(tone))
        container.mux(sound.encode(None))
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuvj420p")))
        container.mux(stream.encode(None))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].disposition & av.stream.Disposition.attached_pic, "the fixture is wrong"
    assert refusal(tmp_path / "a.mp4") == "no video stream"


def test_absurd_sizes_are_refused_before_they_are_allocated(tmp_path):
    path = tmp_path / "a.y4m"
    path.write_bytes(b"YUV4MPEG2 W60000 H60000 F25:1 Ip A1:1 C420jpeg\nFRAME\n" + b"\x80" * 100)
    assert refusal(path).startswith(("its picture is too large", "cannot be decoded"))
    path = write_video(tmp_path / "a.avi", grey_frames(3), codec="ffv1")
    data = bytearray(path.read_bytes())
    at = data.index(b"strf") + 8
    assert struct.unpack_from("<ii", data, at + 4) == (64, 48)
    struct.pack_into("<ii", data, at + 4, 30000, 30000)
    path.write_bytes(data)
    assert refusal(path).startswith(("its picture is too large", "cannot be decoded"))


# Damage


def noisy_frames(count: int) -> list[np.ndarray]:
    """Frames with enough in them that their coded size is more than headers."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return [np.roll(noise, i, axis=1).repeat(8, 0).repeat(8, 1) for i in range(count)]


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("mp4", "libx264"), ("mov", "libx265"), ("mp4", "mpeg4"), ("avi", "mpeg4"), ("mkv", "libx264"), ("ts", "libx264")],
)
def test_noise_in_a_picture_is_noticed(tmp_path, suffix, codec):
    path = write_video(tmp_path / f"a.{suffix}", noisy_frames(30), codec=codec)
    assert len(read(path)) == 6
    spans = packet_spans(path)
    offset, size = spans[len(spans) // 2]
    if codec == "libx265":  # noise within a picture may pass for a picture in HEVC: nothing in the stream checks it
        scramble(path, offset, size)
    else:
        scramble(path, offset + size // 3, size // 2)
    assert refusal(path).startswith("damaged after ")


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "libx264"), ("avi", "mpeg4"), ("mkv", "libx264"), ("mkv", "ffv1"), ("mov", "mpeg4")]
)
def test_a_file_that_breaks_off_is_noticed(tmp_path, suffix, codec, part):
    options = {"movflags": "+faststart"} if suffix in ("mp4", "mov") else {}
    path = write_video(tmp_path / f"a.{suffix}", noisy_frames(150), codec=codec, container_options=options)
    truncate(path, part)
    assert refusal(path).startswith(("damaged after ", "cannot be decoded"))


def test_an_mp4_without_its_index_is_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", noisy_frames(30))
    truncate(path, 0.5)
    assert refusal(path).startswith("cannot be decoded")


@pytest.mark.parametrize("codec", ["mjpeg", "libvpx-vp9"])
def test_a_file_that_lacks_its_last_bytes_is_noticed(tmp_path, codec):
    """By decoders that make do with any part of a picture, too."""
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    options = {"movflags": "+faststart"}
    path = write_video(tmp_path / "a.mp4", noisy_frames(20), codec=codec, pix_fmt=pix_fmt, container_options=options)
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal(path).startswith("damaged after ")


def test_an_avi_that_breaks_off_between_packets_is_noticed(tmp_path):
    path = write_video(tmp_path / "a.avi", noisy_frames(20), codec="mpeg4")
    path.write_bytes(path.read_bytes()[: packet_spans(path)[10][0] - 8])
    assert refusal(path) == "damaged after 10 frames: 10 more are promised"


def test_a_broken_header_of_a_picture_is_noticed_in_hevc(tmp_path):
    path = write_video(tmp_path / "a.mov", noisy_frames(30), codec="libx265")
    offset, _ = packet_spans(path)[15]
    data = bytearray(path.read_bytes())
    data[offset + 8] ^= 0x55
    path.write_bytes(data)
    assert refusal(path).startswith("damaged after ")


@pytest.mark.parametrize("cut", [100, 1000, 3000])
@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("suffix", ["mpg", "ts"])
def test_a_recording_may_end_in_mid_picture(tmp_path, suffix, b_frames, cut):
    """Program and transport streams end where the recorder stopped: what is cut is left out, the rest is good."""
    path = write_video(tmp_path / f"a.{suffix}", noisy_frames(30), rate=24, codec="mpeg2video", b_frames=b_frames)
    whole = read(path, fps=24)
    assert len(whole) == 30
    path.write_bytes(path.read_bytes()[:-cut])
    frames = read(path, fps=24)
    assert 20 <= len(frames) <= 30
    assert all(np.array_equal(a, b) for a, b in zip(frames[:20], whole))


@pytest.mark.parametrize("suffix", ["mpg", "ts"])
def test_a_recording_that_is_damaged_before_its_end_is_not_excused(tmp_path, suffix):
    path = write_video(tmp_path / f"a.{suffix}", noisy_frames(30), rate=24, codec="mpeg2video")
    scramble(path, path.stat().st_size // 2, 300)
    assert refusal(path).startswith("damaged after ")


def test_a_picture_packed_into_the_last_packet_and_never_shown_is_missed(tmp_path):
    """DivX packs a B-frame behind the frame after it; an AVI cut there can't show its last picture."""
    path = write_video(tmp_path / "a.avi", noisy_frames(23), codec="mpeg4", b_frames=1, options=ALTERNATE)
    path = pack_b_frames(path, tmp_path / "b.avi", complete=False)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 23, "the fixture is wrong"
    assert refusal(path) == "damaged after 22 frames: the last picture is cut off"
