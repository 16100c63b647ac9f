from __future__ import annotations

import itertools
import os
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from understudy.loader import Clip, ClipLoader, EvalLoader, EvalViews, LoaderSource, Views, dali
from understudy.loader.decode import choose_decoder
from understudy.loader.mp4 import read_mp4
from understudy.loader.reference import decode_reference
from understudy.loader.request import BatchDecoder, Request
from understudy.shards.corpus import Corpus
from understudy.shards.encode import encode
from understudy.shards.errors import UserError
from understudy.shards.kinds import Codec

pytest.importorskip("nvidia.dali")
sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
from seeds import picture

CPU = torch.device("cpu")
SIZE = 48
WIDTH, HEIGHT, STORED = 96, 64, 12
WINDOW = (2, 3, 5, 8)
GPU = pytest.param("cuda", marks=pytest.mark.gpu)


def video(seed: int, width: int = WIDTH, height: int = HEIGHT, frames: int = STORED) -> list[NDArray[np.uint8]]:
    """Pictures with edges and noise, all different."""
    return [picture(width, height, 100 * seed + i) for i in range(frames)]


def soft(pictures: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """The same with colours that change slowly: the luma of each, tinted from left to right."""
    tint = np.linspace(-30, 30, WIDTH)[:, None] * np.array([1.0, 0.0, -1.0])
    luma = [picture @ np.array([0.299, 0.587, 0.114]) * 0.75 + 32 for picture in pictures]
    return [np.rint(grey[..., None] + tint).astype(np.uint8) for grey in luma]


def sample(seed: int, codec: Codec = "mjpeg", width: int = WIDTH, height: int = HEIGHT) -> tuple[bytes, ...]:
    return tuple(encode(iter(video(seed, width, height)), codec, fps=6, quality=85).members.values())


def request(payload: tuple[bytes, ...], codec: Codec = "mjpeg", frames: tuple[int, ...] = WINDOW) -> Request:
    crops = np.array([[0, 0, WIDTH, HEIGHT], [10, 6, 40, 30], [33, 0, 55, 64]], np.int32)
    flips = np.array([False, True, True])
    return Request(payload, codec, np.array(frames, np.int32), crops, flips, WIDTH, HEIGHT)


def made(decoder: BatchDecoder, *requests: Request | None) -> tuple[NDArray[np.uint8], list[str | None]]:
    """What the decoder makes of a batch, in memory that was not zero before."""
    shape = (len(requests), 3, 3, len(WINDOW), SIZE, SIZE)
    out = torch.full(shape, 77, dtype=torch.uint8, device=decoder.device)
    verdicts = [request and decoder.check(request) for request in requests]
    reasons = decoder.decode(requests, verdicts, out)
    return out.cpu().numpy(), reasons


def right(*requests: Request) -> NDArray[np.uint8]:
    out = np.empty((len(requests), 3, 3, len(WINDOW), SIZE, SIZE), np.uint8)
    assert decode_reference(requests, out) == [None] * len(requests)
    return out


def assert_close(ours: NDArray[np.uint8], reference: NDArray[np.uint8]) -> None:
    difference = np.abs(ours.astype(np.int16) - reference)
    assert difference.mean() <= 1
    assert np.percentile(difference, 99) <= 4


@pytest.fixture(scope="module", params=["cpu", GPU])
def jpeg_decoder(request: pytest.FixtureRequest) -> BatchDecoder:
    return dali.dali_decoder("mjpeg", torch.device(request.param), threads=2)


GOOD = request(sample(1))


@pytest.mark.parametrize("frames", [WINDOW, (0, 11, 4, 4)])
def test_jpegs_agree_with_the_reference(jpeg_decoder: BatchDecoder, frames: tuple[int, ...]) -> None:
    requests = [request(sample(seed), frames=frames) for seed in range(5)]
    # Of another shape than its neighbours, as the videos of a corpus are.
    upright = request(sample(9, width=HEIGHT, height=WIDTH), frames=frames)
    boxes = np.array([[0, 0, 64, 96], [1, 2, 20, 70], [5, 5, 48, 48]], np.int32)
    requests.append(replace(upright, width=HEIGHT, height=WIDTH, crops=boxes))
    clips, reasons = made(jpeg_decoder, *requests)
    assert reasons == [None] * 6
    expected = right(*requests)
    assert_close(clips, expected)
    for ours, clip in zip(clips, expected):
        assert_close(ours, clip)


def test_the_edge_of_a_crop_does_not_see_what_lies_beside_it(jpeg_decoder: BatchDecoder) -> None:
    half = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    half[:, 40:] = 255
    payload = tuple(encode(iter([half] * STORED), "mjpeg", fps=6, quality=100).members.values())
    crops = np.array([[48, 0, 20, 20], [0, 10, 30, 20], [48, 0, 40, 64]], np.int32)
    clips, reasons = made(jpeg_decoder, replace(request(payload), crops=crops))
    assert reasons == [None]
    assert clips[0, [0, 2]].min() >= 250
    assert clips[0, 1].max() <= 5


def test_batches_of_any_size_and_places_that_are_empty(jpeg_decoder: BatchDecoder) -> None:
    for places in ([GOOD], [GOOD] * 7, [None, GOOD, None], [GOOD] * 2):
        clips, reasons = made(jpeg_decoder, *places)
        assert reasons == [None] * len(places)
        for clip, place in zip(clips, places):
            assert clip.any() == (place is not None)
    clips, reasons = made(jpeg_decoder, None, None)
    assert reasons == [None, None]
    assert not clips.any()


def test_several_pipelines_make_what_one_does() -> None:
    requests = [request(sample(seed)) for seed in range(5)]
    one, reasons = made(dali.dali_decoder("mjpeg", CPU, pipelines=1, threads=1), *requests)
    three = dali.dali_decoder("mjpeg", CPU, pipelines=3, threads=2)
    for count in (5, 2, 5):
        clips, reasons = made(three, *requests[:count])
        assert reasons == [None] * count
        np.testing.assert_array_equal(clips, one[:count])


def offsets(*numbers: int) -> bytes:
    return np.array(numbers, "<i8").tobytes()


def one_jpeg(change: Callable[[bytes], bytes]) -> Request:
    """A sample of the right size, one of whose frames is changed."""
    stream, index = sample(2)
    starts = np.frombuffer(index, "<i8").tolist()
    frames = [stream[start:end] for start, end in itertools.pairwise(starts)]
    frames[5] = change(frames[5])
    return request((b"".join(frames), offsets(0, *np.cumsum([len(frame) for frame in frames]).tolist())))


def patched(jpeg: bytes, marker: bytes, at: int, new: bytes) -> bytes:
    start = jpeg.index(marker) + at
    return jpeg[:start] + new + jpeg[start + len(new) :]


STREAM, INDEX = GOOD.payload
DECODES = "jpeg: does not decode"
WRONG_SIZE = "size: not what the corpus says"
BAD = {
    "truncated": (one_jpeg(lambda jpeg: jpeg[: len(jpeg) // 2]), DECODES),
    "without its end": (one_jpeg(lambda jpeg: jpeg[:-2]), DECODES),
    "junk": (one_jpeg(lambda _: bytes(range(256)) * 4), DECODES),
    "zeros": (one_jpeg(lambda jpeg: bytes(len(jpeg))), DECODES),
    "nothing but a start": (one_jpeg(lambda jpeg: jpeg[:2]), DECODES),
    "wider": (one_jpeg(lambda jpeg: patched(jpeg, b"\xff\xc0", 5, struct.pack(">HH", 64, 104))), WRONG_SIZE),
    "65,500 pixels": (one_jpeg(lambda jpeg: patched(jpeg, b"\xff\xc0", 5, b"\xff\xdc\xff\xdc")), WRONG_SIZE),
    # Headers that only a decoder finds fault with: DALI gives up the whole batch, and its pipeline.
    "no such table": (one_jpeg(lambda jpeg: patched(jpeg, b"\xff\xda", 6, b"\x33")), DECODES),
    "codes that overflow": (one_jpeg(lambda jpeg: patched(jpeg, b"\xff\xc4", 5, b"\x03\x00")), DECODES),
    "empty": (replace(GOOD, payload=(b"", b"")), "offsets: not int64 numbers"),
    "no offsets": (replace(GOOD, payload=(STREAM, b"")), "offsets: not int64 numbers"),
    "offsets beyond the end": (replace(GOOD, payload=(STREAM[:-9], INDEX)), "offsets: do not fit the frames"),
    "offsets back": (replace(GOOD, payload=(STREAM, offsets(0, 9, 5, len(STREAM)))), "offsets: do not fit the frames"),
    "huge offsets": (replace(GOOD, payload=(STREAM, offsets(0, 2**62))), "offsets: do not fit the frames"),
    "too few frames": (replace(GOOD, frames=np.array([0, 1, 2, 12], np.int32)), "frames: fewer than the corpus says"),
    "negative frames": (replace(GOOD, frames=np.array([-1, 1, 2, 3], np.int32)), "frames: fewer than the corpus says"),
    "crop outside": (replace(GOOD, crops=GOOD.crops + 50), "crop: not inside the frame"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_sample_harms_neither_its_neighbours_nor_later_batches(jpeg_decoder: BatchDecoder, name: str) -> None:
    bad, reason = BAD[name]
    other = request(sample(3))
    expected = right(GOOD, other)
    for _ in range(2):
        clips, reasons = made(jpeg_decoder, GOOD, bad, other)
        assert reasons == [None, reason, None]
        assert not clips[1].any()
        assert_close(clips[[0, 2]], expected)
        clips, reasons = made(jpeg_decoder, GOOD, other, GOOD)
        assert reasons == [None] * 3
        assert_close(clips[:2], expected)
    clips, reasons = made(jpeg_decoder, bad)
    assert reasons == [reason]
    assert not clips.any()


def test_flipped_bits_never_raise_nor_reach_a_neighbour(jpeg_decoder: BatchDecoder) -> None:
    expected = made(jpeg_decoder, GOOD)[0][0]
    rng = np.random.default_rng(0)
    for _ in range(30):
        damaged = np.frombuffer(STREAM, np.uint8).copy()
        damaged[rng.integers(0, len(damaged), 20)] ^= rng.integers(1, 256, 20, dtype=np.uint8)
        clips, reasons = made(jpeg_decoder, GOOD, replace(GOOD, payload=(damaged.tobytes(), INDEX)))
        assert reasons[0] is None
        assert (reasons[1] is None) == clips[1].any()
        assert_close(clips[0], expected)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_building_pipelines_anew_does_not_leak() -> None:
    decoder = dali.dali_decoder("mjpeg", CPU, threads=2)
    bad, _ = BAD["no such table"]

    def meet_damage(times: int) -> None:
        for _ in range(times):
            assert made(decoder, GOOD, bad)[1] == [None, DECODES]
            assert made(decoder, GOOD, GOOD)[1] == [None, None]

    meet_damage(10)
    before = resident()
    meet_damage(40)
    assert resident() - before < 20e6


def test_a_dali_that_always_fails_is_not_taken_for_bad_data(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the engine\nis on fire")

    decoder = dali.dali_decoder("mjpeg", CPU)
    assert made(decoder, GOOD)[1] == [None]
    monkeypatch.setattr(dali._DaliDecoder, "_run", fail)
    for _ in range(dali.UNEXPLAINED - 1):
        clips, reasons = made(decoder, GOOD)
        assert reasons == [None]
        assert_close(clips, right(GOOD))
    assert caplog.text.count("the engine is on fire") == 1
    with pytest.raises(UserError, match=r"choose the decoder native.*the engine is on fire"):
        made(decoder, GOOD)
    with pytest.raises(UserError, match="the engine is on fire"):  # at once, as it never worked
        made(dali.dali_decoder("mjpeg", CPU), GOOD)


def test_dali_is_chosen_by_name_and_says_what_it_cannot_do() -> None:
    assert isinstance(choose_decoder("dali", "mjpeg"), BatchDecoder)
    assert not isinstance(choose_decoder("auto", "mjpeg"), BatchDecoder)
    with pytest.raises(UserError, match="h264 on GPUs only; choose the decoder native"):
        choose_decoder("dali", "h264")


def test_what_nvdec_may_have_of_h264() -> None:
    (data,) = sample(1, "h264")
    check = dali.check
    assert check(request((data,), "h264")) is None
    assert check(request((data,), "h264", (0, 12))) == "frames: fewer than the corpus says"
    assert check(request((data,), "h264", (-1, 0))) == "frames: fewer than the corpus says"
    assert check(request((b"junk" * 50,), "h264")) == "host: no plain mp4"
    assert check(request((data[: len(data) // 2],), "h264")) == "host: no plain mp4"
    assert check(request((data,), "h264", (0, 11, 4, 4))) == "host: frames that are repeated"
    # Of sides that are no multiples of 16, for which DALI would make a new decoder each time.
    odd = encode(iter(video(1, height=56)), "h264", fps=6, quality=85).members["mp4"]
    assert check(replace(request((odd,), "h264"), height=56, crops=np.array([[0, 0, 96, 56]], np.int32))) == (
        "host: 96 x 56, and NVDEC takes multiples of 16"
    )
    # Whose colours are by another matrix, which DALI does not know of.
    at = data.index(b"colrnclx") + 12
    assert data[at : at + 2] == b"\x00\x06"
    other = data[:at] + b"\x00\x01" + data[at + 2 :]
    assert check(request((other,), "h264")) == "host: colours by another matrix than BT.601"


def test_of_damaged_h264_nvdec_gets_none() -> None:
    """It would fill in other frames, or what was in its memory, and say nothing."""
    (data,) = sample(1, "h264")
    file = read_mp4(data)
    assert file is not None
    starts, sizes = file.offsets.tolist(), file.sizes.tolist()

    def verdict(at: int, new: bytes, frames: tuple[int, ...] = WINDOW) -> str | None:
        return dali.check(request((data[:at] + new + data[at + len(new) :],), "h264", frames))

    assert verdict(0, b"") is None
    for frame in (0, 7, 8):  # the last that is wanted, and those on which it rests
        for new in (bytes(sizes[frame]), bytes(4), b"\xff" * 4, (sizes[frame] - 5).to_bytes(4, "big")):
            assert verdict(starts[frame], new) == "host: damaged frames"
    assert verdict(starts[9], bytes(sizes[9])) is None  # not needed
    # A decoder's configuration that ends before it says how long lengths are.
    at = data.index(b"avcC") - 4
    size = int.from_bytes(data[at : at + 4], "big")
    assert verdict(at, struct.pack(">I4s3xI4s", 11, b"avcC", size - 11, b"free")) == "host: damaged frames"
    # Units that are whole, but none of them has pixels: of a type that is to be passed over.
    assert verdict(starts[8] + 4, bytes([data[starts[8] + 4] & 0xE0 | 12])) == "host: damaged frames"


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_the_loader_delivers_what_it_does_with_the_reference(corpus: Corpus, device: str) -> None:
    batches = {}
    for name in ("dali", "reference"):
        with ClipLoader(
            [LoaderSource(corpus)], Clip(4, 2, 24), Views(2), batch_size=20, seed=5, decoder=name, device=device
        ) as loader:
            batches[name] = [next(loader) for _ in range(4)]
    for ours, theirs in zip(batches["dali"], batches["reference"]):
        assert ours.clips.device.type == device
        assert_close(ours.clips.cpu().numpy(), theirs.clips.cpu().numpy())
        for column in ("labels", "ids", "ok"):
            assert torch.equal(getattr(ours, column), getattr(theirs, column))


def test_the_loader_skips_and_counts_bad_samples(build: Callable[..., Corpus], tmp_path: Path) -> None:
    def payload(i: int) -> dict[str, bytes] | None:
        # Not merely damaged: their checksum is that of the bytes, so that they reach the decoder.
        return {"mjpg": bad.payload[0], "off": bad.payload[1]} if i in (3, 17) else None

    bad, reason = BAD["no such table"]
    corpus = build(tmp_path, [10, 10], payload=payload, frames=STORED, width=WIDTH, height=HEIGHT)
    with ClipLoader([LoaderSource(corpus)], Clip(12, 1, 16), Views(2), batch_size=10, seed=1, decoder="dali") as loader:
        seen: dict[int, bool] = {}
        for _ in range(8):
            batch = next(loader)
            assert (batch.clips.flatten(1).any(dim=1) == batch.ok).all()
            seen.update(zip(batch.ids.tolist(), batch.ok.tolist()))
    assert sorted(i for i, ok in seen.items() if not ok) == [3, 17]
    assert set(loader.skipped) == {("tiny", reason)}


def test_evaluation_pads_and_keeps_windows_together(corpus: Corpus) -> None:
    def passed(decoder: str) -> list[tuple[NDArray[np.uint8], list[int]]]:
        loader = EvalLoader(corpus, Clip(4, 1, 16), EvalViews(2, 3), batch_size=6 * 8, decoder=decoder)
        return [(batch.clips.numpy(), batch.ids.tolist()) for batch in loader]

    for (ours, ids), (theirs, same) in zip(passed("dali"), passed("reference"), strict=True):
        assert ids == same
        assert_close(ours, theirs)
    assert ids[-1] == -1
    assert not ours[-1].any()


@pytest.mark.gpu
@pytest.mark.parametrize("pipelines", [1, 3])
def test_nvdec_agrees_with_the_reference(pipelines: int) -> None:
    decoder = dali.dali_decoder("h264", torch.device("cuda"), pipelines=pipelines)
    # Of soft colours, like real ones: DALI takes chroma to lie half a luma pixel further right than it is, which shows
    # where colours change from pixel to pixel.
    payloads = [tuple(encode(iter(soft(video(s))), "h264", fps=6, quality=85).members.values()) for s in range(4)]
    # The second kind is decoded on the host.
    requests = [request(payload, "h264", frames) for payload in payloads for frames in (WINDOW, (0, 11, 4, 4))]
    clips, reasons = made(decoder, *requests)
    assert reasons == [None] * len(requests)
    assert_close(clips, right(*requests))
    (data,) = requests[0].payload
    bad = replace(requests[0], payload=(data[:900] + bytes(400) + data[1300:],))
    clips, reasons = made(decoder, requests[1], bad, requests[2])
    assert (reasons[0], reasons[2]) == (None, None) and reasons[1] is not None
    assert_close(clips[[0, 2]], right(requests[1], requests[2]))
    clips, reasons = made(decoder, *requests)
    assert reasons == [None] * len(requests)


@pytest.mark.gpu
def test_batches_reach_the_gpu_whole_while_it_computes(corpus: Corpus) -> None:
    """Copies run beside the caller's work: what it finds in a batch must not depend on how late it looks."""
    clip, views = Clip(8, 1, 64), Views(2)
    options = {"batch_size": 40, "seed": 3, "decoder": "reference"}
    with (
        ClipLoader([LoaderSource(corpus)], clip, views, **options) as host,
        ClipLoader([LoaderSource(corpus)], clip, views, **options, device="cuda") as loader,
    ):
        busy = torch.randn(4096, 4096, device="cuda")
        sums = []
        for _ in range(12):
            batch = next(loader)
            for _ in range(5):
                busy = torch.tanh(busy @ busy)
            sums.append((batch.clips.double().sum(), batch.ids.sum()))
            del batch
        for clips, ids in sums:
            batch = next(host)
            assert clips.item() == batch.clips.double().sum().item()
            assert ids.item() == batch.ids.sum().item()


@pytest.mark.gpu
def test_batches_do_not_pile_up_before_a_slow_gpu(corpus: Corpus) -> None:
    with ClipLoader(
        [LoaderSource(corpus)], Clip(8, 1, 96), Views(4), 160, seed=3, decoder="reference", device="cuda"
    ) as loader:
        size = next(loader).clips.nbytes
        busy = torch.randn(8192, 8192, device="cuda")
        before = torch.cuda.memory_allocated() + 2 * busy.nbytes
        torch.cuda.reset_peak_memory_stats()
        for _ in range(30):
            batch = next(loader)
            for _ in range(20):
                busy = torch.tanh(busy @ busy)
            del batch
        assert torch.cuda.max_memory_allocated() - before < 12 * size
