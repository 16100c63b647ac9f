from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray

from understudy.loader.native import decode_native, native_kernels, native_status, set_threads
from understudy.loader.reference import decode_reference
from understudy.loader.request import Request
from understudy.shards.corpus import Corpus
from understudy.shards.encode import encode
from understudy.shards.errors import UserError

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
from seeds import jpegs, picture

ROOT = Path(__file__).parents[2]
VIDEOS = ROOT.parent / "shared" / "videos"

pytestmark = pytest.mark.skipif(
    not native_kernels() and os.environ.get("UNDERSTUDY_REQUIRE_NATIVE") != "1",
    reason="the native kernel was not built (UNDERSTUDY_REQUIRE_NATIVE=1 makes this a failure)",
)


VARIANTS = native_kernels() or ("not built",)


def moving(width: int, height: int, frames: int) -> NDArray[np.uint8]:
    """Smooth colours and a hard-edged bright square, moving: uint8 (frames, height, width, 3)."""
    y, x = (axis[..., None] for axis in np.mgrid[:height, :width])
    clip = [128 + 90 * np.sin(x / 17 + t / 3 + np.arange(3) * 2) * np.cos(y / 23 - t / 5) for t in range(frames)]
    for t, frame in enumerate(clip):
        frame[height // 4 : height // 2, 5 * t % width : 5 * t % width + width // 6] = (230, 60, 40)
    return np.stack(clip).clip(0, 255).astype(np.uint8)


def noise(width: int, height: int, frames: int) -> NDArray[np.uint8]:
    """The hardest that there is for a codec: uint8 (frames, height, width, 3)."""
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def payload_of(encoded: list[bytes]) -> tuple[bytes, bytes]:
    return b"".join(encoded), np.cumsum([0, *map(len, encoded)]).astype("<i8").tobytes()


def mjpeg(video: NDArray[np.uint8], quality: int = 85) -> Request:
    """All of `video`, whole."""
    encoded = [simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality, "RGB", "420") for frame in video]
    return whole(payload_of(encoded), "mjpeg", video.shape)


def h264(video: NDArray[np.uint8]) -> Request:
    encoded = encode(iter(video), "h264", fps=6, quality=85)
    return whole((encoded.members["mp4"],), "h264", video.shape)


def whole(payload: tuple[bytes, ...], codec: str, shape: tuple[int, ...]) -> Request:
    frames, height, width, _ = shape
    return Request(
        payload=payload,
        codec=codec,  # type: ignore[arg-type]
        frames=np.arange(frames, dtype=np.int32),
        crops=np.array([[0, 0, width, height]], np.int32),
        flips=np.zeros(1, np.bool_),
        width=width,
        height=height,
    )


def decode(*requests: Request, size: int, decoder=decode_native) -> tuple[NDArray[np.uint8], list[str | None]]:
    first = requests[0]
    out = np.full((len(requests), len(first.crops), 3, len(first.frames), size, size), 77, np.uint8)
    return out, decoder(requests, out)


def difference(request: Request, size: int) -> NDArray[np.int64]:
    """Absolute, from the reference."""
    ours, reasons = decode(request, size=size)
    right, expected = decode(request, size=size, decoder=decode_reference)
    assert reasons == expected == [None]
    return np.abs(ours.astype(np.int64) - right)


def random_request(video: Request, rng: np.random.Generator, views: int, frames: int) -> Request:
    """Random boxes, frames in any order with repeats, random flips."""
    x, y = rng.integers(0, video.width, views), rng.integers(0, video.height, views)
    w, h = 1 + rng.integers(0, video.width - x), 1 + rng.integers(0, video.height - y)
    return replace(
        video,
        frames=rng.choice(video.frames, frames).astype(np.int32),
        crops=np.stack([x, y, w, h], 1).astype(np.int32),
        flips=rng.random(views) < 0.5,
    )


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("UNDERSTUDY_KERNEL", request.param)
    return request.param


@pytest.mark.parametrize("size", [224, 100, 32, 1])
@pytest.mark.parametrize("make", [moving, noise])
def test_agrees_with_the_reference(variant: str, make, size: int) -> None:
    video = mjpeg(make(180, 132, 3))
    boxes = [(0, 0, 180, 132), (13, 7, 121, 120), (51, 20, 31, 97), (100, 100, 80, 32), (90, 60, 5, 3)]
    flips = np.array([False, True, False, True, False])
    asked = replace(video, crops=np.array(boxes, np.int32), flips=flips)
    apart = difference(asked, size)
    assert apart.mean() <= 1
    assert np.percentile(apart, 99) <= 4


@pytest.mark.parametrize("make", [mjpeg, h264])
@pytest.mark.parametrize("name", ["action/ucf101_ApplyEyeMakeup_mma2_test.avi", "action/sam2_juggling.mp4"])
def test_agrees_with_the_reference_on_real_video(make, name: str) -> None:
    if not VIDEOS.is_dir():
        pytest.skip("no folder shared/videos beside the checkout")
    import av

    with av.open(str(VIDEOS / name)) as container:
        frames = [frame for _, frame in zip(range(20), container.decode(video=0))]
    video = np.stack([frame.reformat(340, 256, "rgb24").to_ndarray() for frame in frames]).astype(np.uint8)
    boxes = np.array([[0, 0, 340, 256], [31, 12, 240, 231]], np.int32)
    apart = difference(replace(make(video), crops=boxes, flips=np.array([False, True])), 224)
    assert apart.mean() <= 0.5
    assert np.percentile(apart, 99) <= 2


@pytest.mark.parametrize("kind", ["plain", "coarse", "fine", "optimised", "restarts"])
@pytest.mark.parametrize("side", [16, 64, 100])
def test_luma_is_libjpegs_to_the_last_bit(variant: str, kind: str, side: int) -> None:
    # Of a grey picture that is not resized, the colours are luma and nothing else.
    grey = np.repeat(picture(side, side, 3)[..., :1], 3, 2)
    grey[: side // 3] = noise(side, side, 1)[0, : side // 3, :, :1]
    jpeg = jpegs(grey)[kind]
    ours, reasons = decode(whole(payload_of([jpeg]), "mjpeg", (1, side, side, 3)), size=side)
    assert reasons == [None]
    np.testing.assert_array_equal(ours[0, 0, :, 0].transpose(1, 2, 0), simplejpeg.decode_jpeg(jpeg))


@pytest.mark.parametrize("kind", ["plain", "fine", "restarts"])
def test_colours_are_libjpegs_but_for_rounding(variant: str, kind: str) -> None:
    jpeg = jpegs(picture(96, 96, 5))[kind]
    ours, _ = decode(whole(payload_of([jpeg]), "mjpeg", (1, 96, 96, 3)), size=96)
    apart = np.abs(ours[0, 0, :, 0].transpose(1, 2, 0).astype(int) - simplejpeg.decode_jpeg(jpeg))
    assert apart.max() <= 2
    assert apart.mean() <= 0.5


@pytest.mark.parametrize("size", [1, 7, 33, 64, 100, 224])
@pytest.mark.parametrize("views", [1, 2, 5])
def test_all_variants_give_the_same_bytes(size: int, views: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(size * 10 + views)
    requests = [
        random_request(mjpeg(noise(width, height, 4), 70), rng, views, 3)
        for width, height in [(61, 47), (128, 96), (300, 40), (8, 8), (2, 30)]
    ]
    results = []
    for name in VARIANTS:
        monkeypatch.setenv("UNDERSTUDY_KERNEL", name)
        results.append(decode(*requests, size=size))
    assert all(reason is None for reason in results[0][1])
    for other, reasons in results[1:]:
        assert reasons == results[0][1]
        np.testing.assert_array_equal(other, results[0][0])


def test_frames_come_in_the_order_asked_for_and_repeat() -> None:
    video = mjpeg(moving(96, 64, 9))
    straight, _ = decode(video, size=48)
    wanted = [8, 0, 3, 3, 5, 8, 1]
    ours, reasons = decode(replace(video, frames=np.array(wanted, np.int32)), size=48)
    assert reasons == [None]
    np.testing.assert_array_equal(ours, straight[:, :, :, wanted])


def test_a_flip_mirrors_the_crop() -> None:
    video = replace(mjpeg(moving(96, 64, 2)), crops=np.array([[10, 5, 60, 50]] * 2, np.int32))
    ours, _ = decode(replace(video, flips=np.array([False, True])), size=52)
    np.testing.assert_array_equal(ours[0, 1], ours[0, 0][..., ::-1])


def test_threads_and_callers_change_nothing() -> None:
    rng = np.random.default_rng(1)
    video = mjpeg(moving(96, 64, 9))
    requests = [random_request(video, rng, 2, 8) for _ in range(12)]
    broken = video.payload[0][:5000] + bytes(200) + video.payload[0][5200:]
    requests[5] = replace(requests[5], payload=(broken, video.payload[1]))
    requests[7] = replace(requests[7], payload=(b"", b""))
    expected, expected_reasons = decode(*requests, size=64)
    try:
        for threads in (1, 2, 7):
            set_threads(threads)
            ours, reasons = decode(*requests, size=64)
            assert reasons == expected_reasons
            np.testing.assert_array_equal(ours, expected)
        results: list[NDArray[np.uint8]] = []
        callers = [threading.Thread(target=lambda: results.append(decode(*requests, size=64)[0])) for _ in range(6)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        for ours in results:
            np.testing.assert_array_equal(ours, expected)
    finally:
        set_threads(len(os.sched_getaffinity(0)))


def in_fresh_process(script: str) -> None:
    """Run `script` where the kernel has no threads yet; it may use `helpers()`, how many there are."""
    head = f"""
import sys, threading
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parent)!r}]
from test_native import decode, decode_native, mjpeg, moving, set_threads
set_threads(6)
def helpers():
    known = {{thread.native_id for thread in threading.enumerate()}}
    return len({{int(path.name) for path in Path("/proc/self/task").iterdir()}} - known - before)
before = set()
import torch, numpy as np
before = {{int(path.name) for path in Path("/proc/self/task").iterdir()}}
"""
    done = subprocess.run([sys.executable, "-c", head + script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_call_keeps_to_its_threads() -> None:
    in_fresh_process("""
requests = [mjpeg(moving(96, 64, 16))] * 8
expected, _ = decode(*requests, size=32, decoder=lambda *a: decode_native(*a, threads=1))
assert helpers() == 0
for threads, started in [(3, 2), (2, 2), (50, 5), (0, 5)]:
    for _ in range(5):
        ours, reasons = decode(*requests, size=32, decoder=lambda *a: decode_native(*a, threads=threads))
        assert reasons == [None] * 8 and (ours == expected).all()
    assert helpers() == started, (threads, helpers())
""")


def test_a_loader_has_the_kernel_keep_to_its_threads(corpus: Corpus) -> None:
    in_fresh_process(f"""
from understudy.loader import Clip, ClipLoader, EvalLoader, EvalViews, LoaderSource, Views
from understudy.shards.corpus import Corpus
corpus = Corpus.open({os.fspath(corpus.root)!r})
with ClipLoader([LoaderSource(corpus)], Clip(8, size=32), Views(1), 4, 0, "native", threads=1) as loader:
    for _ in range(4):
        assert next(loader).ok.all()
    assert helpers() == 0
for batch in EvalLoader(corpus, Clip(8, size=32), EvalViews(), 4, "native", threads=1):
    assert helpers() == 0
""")


def test_the_reason_of_the_first_bad_frame_is_told() -> None:
    kinds = jpegs(picture(96, 64, 3))
    frames = [kinds["plain"]] * 32
    frames[2], frames[9], frames[30] = kinds["progressive"], kinds["plain"][:-40], b"junk"
    request = whole(payload_of(frames), "mjpeg", (32, 64, 96, 3))
    out = np.empty((1, 1, 3, 32, 8, 8), np.uint8)
    try:
        set_threads(6)
        for _ in range(300):
            assert decode_native([request], out) == ["jpeg: not a baseline 4:2:0 JPEG of one scan"]
    finally:
        set_threads(len(os.sched_getaffinity(0)))


def test_memory_does_not_grow() -> None:
    rng = np.random.default_rng(2)
    videos = [mjpeg(moving(width, height, 5)) for width, height in [(96, 64), (320, 240), (33, 71)]]
    bad = [replace(video, payload=(video.payload[0][:-40], video.payload[1])) for video in videos]
    requests = [random_request(video, rng, 2, 4) for video in [*videos, *bad]]
    out = np.empty((6, 2, 3, 4, 64, 64), np.uint8)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    try:
        set_threads(2)  # of many, some would have their first turn, and make their buffers, only after the warm-up
        for _ in range(100):
            decode_native(requests, out)
        before = resident()
        for _ in range(600):
            decode_native(requests, out)
        assert resident() - before < 2_000_000
    finally:
        set_threads(len(os.sched_getaffinity(0)))


def test_a_forked_child_decodes_too() -> None:
    # In a process of its own: pytest's has threads that a fork would break.
    script = f"""
import os, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}]
from test_native import decode, mjpeg, moving, set_threads
set_threads(3)
video = mjpeg(moving(96, 64, 8))
expected, _ = decode(*[video] * 4, size=32)
child = os.fork()
if child == 0:
    ours, reasons = decode(*[video] * 4, size=32)
    os._exit(0 if reasons == [None] * 4 and (ours == expected).all() else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_unknown_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_KERNEL", "mmx")
    with pytest.raises(UserError, match=r"UNDERSTUDY_KERNEL=mmx: this machine runs .*scalar"):
        decode(mjpeg(moving(32, 32, 1)), size=8)
    assert "mmx" in native_status()
    monkeypatch.setenv("UNDERSTUDY_KERNEL", "scalar")
    assert native_status() == "native, scalar kernel"


def test_shapes_that_do_not_fit_are_programming_errors() -> None:
    video = mjpeg(moving(32, 32, 2))
    for shape in [(1, 1, 3, 3, 8, 8), (1, 2, 3, 2, 8, 8), (2, 1, 3, 2, 8, 8)]:
        with pytest.raises(ValueError, match="fit"):
            decode_native([video], np.empty(shape, np.uint8))
    with pytest.raises(ValueError, match="contiguous"):
        decode_native([video], np.empty((1, 1, 3, 2, 8, 16), np.uint8)[..., ::2])


@pytest.mark.parametrize("wanted", [[0], [16], [15, 16], [30, 1, 1, 20], list(range(33))])
def test_h264_frames_are_the_references(variant: str, wanted: list[int]) -> None:
    video = replace(h264(moving(96, 64, 33)), frames=np.array(wanted, np.int32))
    boxes = np.array([[0, 0, 96, 64], [3, 5, 61, 50], [17, 1, 30, 63]], np.int32)
    apart = difference(replace(video, crops=boxes, flips=np.array([True, False, False])), 48)
    assert apart.mean() <= 0.5
    assert np.percentile(apart, 99) <= 4


def test_what_is_not_plain_h264_is_decoded_by_the_reference() -> None:
    # B-frames: the order of the file is not that of time.
    import io

    import av

    file, frames = io.BytesIO(), moving(96, 64, 12)
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=6)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.options = {"bf": "3"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    asked = replace(whole((file.getvalue(),), "h264", frames.shape), frames=np.array([7, 2, 11], np.int32))
    assert difference(asked, 32).max() == 0


def test_without_a_compiler_the_build_goes_on(tmp_path: Path) -> None:
    for path in [*ROOT.glob("loader/kernel/*"), ROOT / "setup.py"]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    none = {"CC": "/nowhere/cc", "CXX": "/nowhere/c++", "PATH": "/nowhere"}
    build = [sys.executable, "setup.py", "build_ext", "--build-lib", "built"]
    subprocess.run(build, cwd=tmp_path, env=none, check=True, capture_output=True)
    assert not list(tmp_path.rglob("*.so"))
