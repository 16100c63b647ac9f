from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from understudy.loader import Clip, ClipLoader, LoaderSource, Views, native
from understudy.loader.decode import choose_decoder
from understudy.loader.native import decode_native, native_status
from understudy.loader.plain import decode_plain, resize_crop
from understudy.loader.reference import decode_reference
from understudy.loader.reference import resize_crop as right_crop
from understudy.loader.request import Request
from understudy.shards.corpus import Corpus

sys.path.insert(0, str(Path(__file__).parent))
from test_reference import HEIGHT, WIDTH, mjpeg_payload, mp4_payload, request, video

BOXES = np.array([[0, 0, WIDTH, HEIGHT], [5, 3, 40, 31], [71, 55, 1, 1], [10, 0, 2, 56]], np.int32)
FLIPS = np.array([False, True, False, True])


@pytest.mark.parametrize("size", [1, 7, 32, 80, 224])
@pytest.mark.parametrize("crop", [tuple(box) for box in BOXES.tolist()])
def test_a_crop_is_the_references_but_for_rounding(size: int, crop: tuple[int, int, int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH, 3), dtype=np.uint8)
    ours = resize_crop(frames, crop, size).transpose(3, 0, 1, 2)
    assert ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - right_crop(frames, crop, size, flip=False)).max() <= 1


@pytest.mark.parametrize(("codec", "payload"), [("mjpeg", mjpeg_payload(video(9))), ("h264", mp4_payload(video(9)))])
def test_it_agrees_with_the_reference(codec: str, payload: tuple[bytes, ...]) -> None:
    asked = replace(request(payload, [8, 0, 3, 3, 5], codec), crops=BOXES, flips=FLIPS)
    ours, right = decode_both([asked, asked], 48)
    assert np.abs(ours.astype(int) - right).max() <= 1


def decode_both(requests: list[Request], size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    shape = (len(requests), len(requests[0].crops), 3, len(requests[0].frames), size, size)
    results = []
    for decode in (decode_plain, decode_reference):
        out = np.full(shape, 77, np.uint8)
        results.append((out, decode(requests, out)))
    assert results[0][1] == results[1][1]
    return results[0][0], results[1][0]


def test_bad_bytes_are_zeros_with_the_references_reason() -> None:
    good = request(mjpeg_payload(video(4)), [0, 3])
    stream, offsets = good.payload
    bad = [
        replace(good, payload=(bytes(len(stream)), offsets)),
        replace(good, payload=(stream, offsets[:-3])),
        replace(good, frames=np.array([0, 4], np.int32)),
        replace(good, width=WIDTH + 2),
    ]
    ours, right = decode_both([good, *bad, good], 16)
    assert ours[0].any()
    assert not ours[1:-1].any()
    assert not right[1:-1].any()


def test_without_the_kernel_auto_is_plain_and_says_how_to_get_the_fast_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for kernels, decoder in [((), decode_plain), (("scalar",), decode_plain), (("neon", "scalar"), decode_native)]:
        monkeypatch.setattr(native, "native_kernels", lambda kernels=kernels: kernels)
        monkeypatch.setattr(native, "check_native", lambda: "neon")
        assert choose_decoder("auto") is decoder
    monkeypatch.undo()
    monkeypatch.setattr(native, "_load", lambda: None)
    assert choose_decoder("auto") is decode_plain
    assert "install a C++ compiler" in native_status()


def test_it_starts_no_threads_of_its_own(build: Callable[..., Corpus], tmp_path: Path) -> None:
    corpus = build(tmp_path / "wide", [4], width=320, height=240)
    with ClipLoader([LoaderSource(corpus)], Clip(4), Views(1), 4, seed=0, decoder="plain", threads=3) as made:
        before = threads_unknown_to_python()
        for _ in range(3):
            assert next(made).ok.all()
        deadline = time.monotonic() + 60
        while threads_unknown_to_python() - before:  # one of Python's that is ending looks like one for a moment
            assert time.monotonic() < deadline
            time.sleep(0.01)


def threads_unknown_to_python() -> set[int]:
    tasks = {int(path.name) for path in Path("/proc/self/task").iterdir()}
    return tasks - {thread.native_id for thread in threading.enumerate()}
