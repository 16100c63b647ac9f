from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import simplejpeg
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2.functional import resized_crop

from understudy.loader.decode import choose_decoder
from understudy.loader.native import decode_native
from understudy.loader.reference import decode_reference, resize_crop
from understudy.loader.request import Request
from understudy.shards.errors import UserError

WIDTH, HEIGHT = 72, 56


def video(frames: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Smooth colour slopes and a bright bar that moves 3 pixels a frame: uint8 (frames, height, width, 3)."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    base = np.stack([40 + 150 * x / width, 200 - 150 * y / height, 60 + 100 * (x / width) * (y / height)], -1)
    clips = np.repeat(base[None], frames, 0)
    for i in range(frames):
        clips[i, :, 3 * i % width : 3 * i % width + 6] += 50
    return clips.round().astype(np.uint8)


def mjpeg_payload(frames: NDArray[np.uint8], quality: int = 95) -> tuple[bytes, bytes]:
    jpegs = [simplejpeg.encode_jpeg(np.ascontiguousarray(f), quality, colorsubsampling="420") for f in frames]
    return b"".join(jpegs), np.cumsum([0, *map(len, jpegs)]).astype("<i8").tobytes()


def mp4_payload(
    frames: NDArray[np.uint8], gop: int = 5, b_frames: int = 0, matrix: int = 1, full_range: bool = False
) -> tuple[bytes]:
    """H.264 at near-lossless quality. `matrix` 1 is BT.709, 5 is BT.601."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=6)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        context = stream.codec_context
        context.gop_size = gop
        context.options = {"crf": "4", "bf": str(b_frames), "x264-params": "scenecut=0"}
        context.colorspace, context.color_range = matrix, 2 if full_range else 1
        for i, frame in enumerate(frames):
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            yuv = rgb.reformat(
                format="yuv420p",
                dst_colorspace=matrix,
                src_color_range=2,
                dst_color_range=2 if full_range else 1,
            )
            yuv.pts, yuv.time_base = i, Fraction(1, 6)
            container.mux(stream.encode(yuv))
        container.mux(stream.encode())
    return (file.getvalue(),)


def request(payload: tuple[bytes, ...], frames: list[int], codec: str = "mjpeg") -> Request:
    return Request(
        payload=payload,
        codec=codec,  # type: ignore[arg-type]
        frames=np.array(frames, np.int32),
        crops=np.array([[0, 0, WIDTH, HEIGHT]], np.int32),
        flips=np.zeros(1, np.bool_),
        width=WIDTH,
        height=HEIGHT,
    )


def decode(*requests: Request, size: int = 32) -> tuple[NDArray[np.uint8], list[str | None]]:
    crops, frames = len(requests[0].crops), len(requests[0].frames)
    out = np.full((len(requests), crops, 3, frames, size, size), 77, np.uint8)
    return out, decode_reference(requests, out)


@pytest.mark.parametrize("size", [1, 7, 32, 80])
@pytest.mark.parametrize("crop", [(0, 0, 72, 56), (5, 3, 40, 31), (71, 55, 1, 1), (10, 0, 2, 56)])
def test_resize_is_torchvisions_without_antialias(size: int, crop: tuple[int, int, int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, HEIGHT, WIDTH, 3), dtype=np.uint8)
    x, y, w, h = crop
    planes = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    exact = resized_crop(planes, y, x, h, w, [size, size], antialias=False).permute(1, 0, 2, 3).numpy()
    ours = resize_crop(frames, crop, size, flip=False)
    assert ours.dtype == np.uint8
    assert np.abs(ours - exact).max() <= 0.501
    np.testing.assert_array_equal(resize_crop(frames, crop, size, flip=True), ours[..., ::-1])


def test_mjpeg_frames_are_those_asked_for_in_any_order_with_repeats() -> None:
    frames = video(9)
    wanted = [8, 0, 3, 3, 5]
    clips, reasons = decode(request(mjpeg_payload(frames), wanted), size=56)
    assert reasons == [None]
    expected = resize_crop(frames[wanted], (0, 0, WIDTH, HEIGHT), 56, flip=False)
    difference = np.abs(clips[0, 0].astype(int) - expected)
    assert difference.mean() < 2
    np.testing.assert_array_equal(clips[0, 0, :, 2], clips[0, 0, :, 3])


def test_crops_of_one_decode_differ_only_in_their_boxes() -> None:
    payload = mjpeg_payload(video(4))
    boxes = np.array([[0, 0, 72, 56], [8, 4, 32, 32], [8, 4, 32, 32]], np.int32)
    many, _ = decode(
        replace(request(payload, [0, 1, 2, 3]), crops=boxes, flips=np.array([False, False, True])), size=32
    )
    one, _ = decode(replace(request(payload, [0, 1, 2, 3]), crops=boxes[1:2]), size=32)
    np.testing.assert_array_equal(many[0, 1], one[0, 0])
    np.testing.assert_array_equal(many[0, 2], one[0, 0][..., ::-1])
    assert (many[0, 0] != many[0, 1]).any()


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("wanted", [[0], [4, 5, 6], [22], [12, 2, 2, 21], list(range(23))])
def test_mp4_frames_are_exact_to_the_index(wanted: list[int], b_frames: int) -> None:
    frames = video(23)
    clips, reasons = decode(request(mp4_payload(frames, 5, b_frames), wanted, "h264"), size=56)
    assert reasons == [None]
    for i, number in enumerate(wanted):
        errors = [
            np.abs(clips[0, 0, :, i : i + 1].astype(int) - resize_crop(frames[j : j + 1], (0, 0, 72, 56), 56, False))
            for j in range(23)
        ]
        assert int(np.argmin([error.mean() for error in errors])) == number
        assert errors[number].mean() < 2


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [1, 5])
def test_mp4_colours_follow_the_tags(matrix: int, full_range: bool) -> None:
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [0, 0, 0], [255, 255, 255]], np.uint8)
    for colour in colours:
        frames = np.broadcast_to(colour, (2, HEIGHT, WIDTH, 3)).copy()
        clips, reasons = decode(request(mp4_payload(frames, 5, 0, matrix, full_range), [1], "h264"))
        assert reasons == [None]
        assert np.abs(clips[0, 0, :, 0].astype(int) - colour[:, None, None]).max() <= 4


def upsampled(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chroma at luma's size: bilinear, from samples level with even columns and midway between rows."""

    def lerp(values: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
        places = np.clip(places, 0, len(values) - 1)
        first = np.floor(places).astype(int)
        share = (places - first)[:, None]
        return values[first] * (1 - share) + values[np.minimum(first + 1, len(values) - 1)] * share

    height, width = plane.shape
    rows = lerp(plane, (np.arange(2 * height) + 0.5) / 2 - 0.5)
    return lerp(rows.T, np.arange(2 * width) / 2).T


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("matrix", "kr", "kb"), [(1, 0.2126, 0.0722), (5, 0.299, 0.114)])
def test_mp4_colours_are_the_standards_formula(matrix: int, kr: float, kb: float, full_range: bool) -> None:
    coarse = torch.from_numpy(np.random.default_rng(0).uniform(16, 240, (1, 3, HEIGHT // 4, WIDTH // 4)))
    image = torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic").clamp(0, 255)
    colourful = image[0].permute(1, 2, 0).numpy().astype(np.uint8)
    payload = mp4_payload(np.stack([colourful] * 2), 5, 0, matrix, full_range)
    with av.open(io.BytesIO(payload[0])) as container:
        planes = next(container.decode(video=0)).to_ndarray().astype(np.float64)
    y, u, v = (
        planes[:HEIGHT],
        upsampled(planes[HEIGHT : HEIGHT + HEIGHT // 4].reshape(HEIGHT // 2, WIDTH // 2)) - 128,
        upsampled(planes[HEIGHT + HEIGHT // 4 :].reshape(HEIGHT // 2, WIDTH // 2)) - 128,
    )
    if not full_range:
        y, u, v = (y - 16) * 255 / 219, u * 255 / 224, v * 255 / 224
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    expected = np.stack([red, green, blue]).clip(0, 255)

    square = replace(request(payload, [0], "h264"), crops=np.array([[8, 0, 56, 56]], np.int32))
    clips, reasons = decode(square, size=56)  # a box of the clip's size, so nothing is resized
    assert reasons == [None]
    assert np.abs(clips[0, 0, :, 0] - expected[:, :, 8:64]).max() < 2


def damaged(payload: tuple[bytes, bytes], index: NDArray[np.int64]) -> tuple[bytes, bytes]:
    return payload[0], index.astype("<i8").tobytes()


def test_bad_mjpeg_is_a_reason_and_zeros_and_leaves_its_neighbours_alone() -> None:
    stream, index = payload = mjpeg_payload(video(4))
    offsets = np.frombuffer(index, "<i8")
    cut = stream[: offsets[2] - 40] + stream[offsets[2] :]
    bad = {
        "empty": (b"", b""),
        "no offsets": (stream, b""),
        "half a number": (stream, index[:-3]),
        "offsets past the end": damaged(payload, offsets + np.array([0, 0, 0, 0, 9])),
        "offsets not from 0": damaged(payload, offsets + np.array([2, 0, 0, 0, 0])),
        "offsets not increasing": damaged(payload, offsets[[0, 2, 1, 3, 4]]),
        "negative": damaged(payload, offsets * [1, -1, 1, 1, 1]),
        "huge": damaged(payload, np.array([0, 2**62, 2**63 - 1], np.int64)),
        "too few frames": mjpeg_payload(video(1)),
        "cut jpeg": damaged((cut, b""), offsets - [0, 0, 40, 40, 40]),
        "junk": (bytes(len(stream)), index),
        "another size": mjpeg_payload(video(4, WIDTH + 1, HEIGHT)),
        "sides swapped": mjpeg_payload(video(4, HEIGHT, WIDTH)),
    }
    good = request(payload, [0, 1])
    requests = [good]
    for made in bad.values():
        requests += [replace(good, payload=made), good]
    clips, reasons = decode(*requests)
    for i, name in enumerate(bad):
        assert reasons[2 * i + 1], name
        assert not clips[2 * i + 1].any(), name
    assert reasons[::2] == [None] * (len(bad) + 1)
    assert (clips[::2] == clips[0]).all()
    assert clips[0].any()


def bits_flipped(data: bytes, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    flipped = np.frombuffer(data, np.uint8).copy()
    flipped[rng.integers(0, len(data), 20)] ^= rng.integers(1, 256, 20, dtype=np.uint8)
    return flipped.tobytes()


MP4_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "junk": lambda data: bytes(range(256)) * (len(data) // 256),
    "cut in half": lambda data: data[: len(data) // 2],
    "no start": lambda data: data[200:],
    "another size": lambda _: mp4_payload(video(12, WIDTH + 8, HEIGHT))[0],
    "too few frames": lambda _: mp4_payload(video(3))[0],
    "frames zeroed": lambda data: data[:300] + bytes(len(data) // 2) + data[300 + len(data) // 2 :],
}


@pytest.mark.parametrize("name", MP4_DAMAGE)
def test_bad_mp4_is_a_reason_and_zeros(name: str) -> None:
    (data,) = mp4_payload(video(12))
    clips, reasons = decode(request((MP4_DAMAGE[name](data),), [2, 11], "h264"))
    assert reasons[0]
    assert not clips.any()


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_flipped_bits_never_raise(codec: str) -> None:
    frames = video(6)
    payload = mjpeg_payload(frames) if codec == "mjpeg" else mp4_payload(frames)
    outcomes = set()
    for seed in range(60):
        flipped = tuple(bits_flipped(part, seed) for part in payload[:1]) + payload[1:]
        clips, (reason,) = decode(request(flipped, [0, 5], codec))
        outcomes.add(reason)
        assert reason is None or not clips.any()
    assert outcomes - {None}, "20 flipped bytes must be noticed at least once"


def test_an_unknown_decoder_is_refused() -> None:
    assert choose_decoder("auto") in (choose_decoder("reference"), decode_native)
    with pytest.raises(UserError, match="no decoder 'nvdec'; choose one of auto"):
        choose_decoder("nvdec")
