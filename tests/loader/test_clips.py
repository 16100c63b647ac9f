from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults import Fault, FaultServer  # pyright: ignore[reportMissingImports]
from numpy.typing import NDArray

from understudy.loader import Batch, Clip, ClipLoader, LoaderSource, Views
from understudy.loader import batch as batch_module
from understudy.loader.batch import default_threads, load_samples
from understudy.loader.native import native_kernels
from understudy.loader.plain import decode_plain
from understudy.loader.request import Request
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError

CLIP, VIEWS = Clip(4, 2, 16), Views(2, scale=(0.5, 1.0))


def loader(*corpora: Corpus, batch_size: int = 16, seed: int = 3, **settings: Any) -> ClipLoader:
    """8 samples a step, 2 views of each, so 8 lanes."""
    settings = {"clip": CLIP, "views": VIEWS, "threads": 2, **settings}
    sources = [LoaderSource(corpus, 1.0 + i) for i, corpus in enumerate(corpora)]
    return ClipLoader(sources, batch_size=batch_size, seed=seed, **settings)


def take(made: ClipLoader, n: int) -> list[Batch]:
    with made:
        return [next(made) for _ in range(n)]


def same(a: Batch, b: Batch) -> bool:
    return a.source == b.source and all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("clips", "labels", "ids", "ok")
    )


def joined(batches: list[Batch]) -> Batch:
    columns = {name: torch.cat([getattr(b, name) for b in batches]) for name in ("clips", "labels", "ids", "ok")}
    return Batch(source=batches[0].source, **columns)


def frames_of(batch: Batch) -> torch.Tensor:
    """Which stored frame each clip shows, by its redness: int64 (N, T)."""
    return (batch.clips[:, 0].float().mean(dim=(2, 3)) / 10).round().long()


def test_a_batch_has_the_shapes_and_content_that_it_promises(corpus: Corpus) -> None:
    for batch in take(loader(corpus), 12):
        assert batch.clips.shape == (16, 3, 4, 16, 16)
        assert batch.clips.dtype == torch.uint8
        assert batch.clips.is_contiguous()
        assert batch.labels.dtype == batch.ids.dtype == torch.int64
        assert batch.ok.dtype == torch.bool
        assert batch.source == "tiny"
        assert batch.ok.all()
        assert torch.equal(batch.labels, batch.ids % 3)
        assert torch.equal(batch.ids[::2], batch.ids[1::2]), "views of a sample are neighbours"
        green = batch.clips[:, 1].float().mean(dim=(1, 2, 3))
        assert (green - batch.ids).abs().max() < 2.5, "the clip is of the sample that the id names"
        frames = frames_of(batch)
        assert torch.equal(frames[::2], frames[1::2]), "views share one window"
        assert (frames.diff(dim=1) == 2).all()


def test_every_sample_once_an_epoch_and_windows_vary_from_visit_to_visit(corpus: Corpus) -> None:
    batches = take(loader(corpus), 25)  # 200 samples: four epochs of 50
    ids = torch.cat([batch.ids[::2] for batch in batches])
    assert torch.equal(torch.bincount(ids), torch.full((50,), 4))
    starts = torch.cat([frames_of(batch)[::2, 0] for batch in batches])
    varied = sum(len(set(starts[ids == i].tolist())) > 1 for i in range(50))
    assert varied > 35


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_hold_consecutive_rows_of_the_same_batch(corpus: Corpus, other_corpus: Corpus, world_size: int) -> None:
    whole = take(loader(corpus, other_corpus), 12)
    ranks = [take(loader(corpus, other_corpus, rank=r, world_size=world_size), 12) for r in range(world_size)]
    for step, batch in enumerate(whole):
        assert len({rank[step].source for rank in ranks}) == 1
        assert same(joined([rank[step] for rank in ranks]), batch)


def test_threads_and_prefetch_do_not_matter(corpus: Corpus, other_corpus: Corpus) -> None:
    runs = [
        take(loader(corpus, other_corpus, threads=threads, prefetch=prefetch), 9)
        for threads, prefetch in ((1, 0), (4, 2), (2, 7))
    ]
    for run in runs[1:]:
        assert all(same(a, b) for a, b in zip(runs[0], run))


def test_seed_matters(corpus: Corpus) -> None:
    assert not same(take(loader(corpus), 1)[0], take(loader(corpus, seed=4), 1)[0])


def test_sources_get_their_shares(corpus: Corpus, other_corpus: Corpus) -> None:
    sources = [batch.source for batch in take(loader(corpus, other_corpus), 64)]
    assert abs(sources.count("tiny") - 64 / 3) <= 1


def test_a_batch_can_be_made_again_alone(corpus: Corpus) -> None:
    made = loader(corpus)
    batch = [next(made) for _ in range(9)][-1]
    feed, order = made._feeds[0], made._orders[0]
    made.close()
    ids, visits = order.step(8)
    out = np.empty((1, 2, 3, 4, 16, 16), np.uint8)
    for i, (sample, visit) in enumerate(zip(ids.tolist(), visits.tolist())):
        assert load_samples(feed, feed.decoder, [(sample, visit)], out[None]) == [None]
        assert torch.equal(torch.from_numpy(out[0]), batch.clips[2 * i : 2 * i + 2])


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 4), (4, 2)])
def test_goes_on_exactly_where_it_was_on_any_world_size(
    corpus: Corpus, other_corpus: Corpus, before: int, after: int
) -> None:
    whole = take(loader(corpus, other_corpus), 12)
    states = []
    for rank in range(before):
        first = loader(corpus, other_corpus, rank=rank, world_size=before, prefetch=3)
        for _ in range(5):
            next(first)
        states.append(json.dumps(first.state_dict()))
        first.close()
    assert len(set(states)) == 1, "the state is the same on every rank"
    ranks = []
    for rank in range(after):
        resumed = loader(corpus, other_corpus, rank=rank, world_size=after)
        next(resumed)  # a loader that is already running may be resumed too
        resumed.load_state_dict(json.loads(states[0]))
        assert resumed.step == 5
        ranks.append(take(resumed, 7))
    for step in range(7):
        assert same(joined([rank[step] for rank in ranks]), whole[5 + step])


def test_state_is_small_and_plain(corpus: Corpus, other_corpus: Corpus) -> None:
    with loader(corpus, other_corpus) as made:
        next(made)
        text = json.dumps(made.state_dict())
    assert len(text) < 1000
    assert json.loads(text)["step"] == 1
    assert "/" not in text, "a state holds no paths"


def test_a_missing_or_other_state_is_refused_in_words(corpus: Corpus, other_corpus: Corpus) -> None:
    with loader(corpus) as made:
        state = json.loads(json.dumps(made.state_dict()))
        for bad in ({}, {**state, "step": -1}, {**state, "step": "7"}, {k: state[k] for k in state if k != "step"}):
            with pytest.raises(UserError, match="no loader state"):
                made.load_state_dict(bad)
        with pytest.raises(UserError, match="version was None, is 1"):
            made.load_state_dict({"step": 3})
    others: dict[str, ClipLoader] = {
        "batch_size": loader(corpus, batch_size=32),
        "seed": loader(corpus, seed=9),
        "sources": loader(corpus, other_corpus),
        "clip": loader(corpus, clip=Clip(4, 1, 16)),
        "lanes": loader(corpus, lanes=4),
        "views": loader(corpus, views=Views(2, scale=(0.4, 1.0))),
    }
    for name, other in others.items():
        with other, pytest.raises(UserError, match=f"{name} was .*, is "):
            other.load_state_dict(state)
        assert other.step == 0


def test_a_run_goes_on_with_a_changed_corpus_only_where_that_is_allowed(corpus: Corpus, other_corpus: Corpus) -> None:
    with loader(corpus) as made:
        take(made, 3)
        state = json.loads(json.dumps(made.state_dict()))
    with (
        loader(other_corpus) as made,
        pytest.raises(UserError, match=r"sources was .*; use the same, pass allow_changed"),
    ):
        made.load_state_dict(state)
    with loader(other_corpus) as straight, loader(other_corpus, allow_changed_corpora=True) as made:
        made.load_state_dict(state)
        assert made.step == 3
        assert same(next(made), take(straight, 4)[3])
        with pytest.raises(UserError, match="seed was"):
            made.load_state_dict({**state, "seed": 99})
    with loader(corpus, other_corpus, allow_changed_corpora=True) as made, pytest.raises(UserError, match="sources"):
        made.load_state_dict(state)


def flip_a_byte(corpus: Corpus, sample: int) -> None:
    path = corpus.shard_path(int(corpus.shard[sample]))
    offset, size = corpus.spans[sample, 0].tolist()
    data = bytearray(path.read_bytes())
    data[offset + size // 2] ^= 16
    path.write_bytes(data)


def test_a_flipped_bit_costs_one_sample_which_is_counted(
    build: Callable[..., Corpus], tmp_path: Path, corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    bad = build(tmp_path / "bad", [5, 9, 8, 7, 10, 3, 8])
    flip_a_byte(bad, 33)
    good = take(loader(corpus), 13)
    made = loader(bad, max_consecutive_failures=2)  # it is lost again and again, but never twice in a row
    with caplog.at_level(logging.WARNING):
        batches = take(made, 13)  # two epochs and a bit
    lost = 0
    for batch, whole in zip(batches, good):
        assert torch.equal(batch.ids, whole.ids)
        assert torch.equal(batch.labels, whole.labels), "the label is kept"
        assert torch.equal(batch.ok, batch.ids != 33)
        assert not batch.clips[~batch.ok].any()
        assert torch.equal(batch.clips[batch.ok], whole.clips[batch.ok])
        lost += int((~batch.ok).sum()) // 2
    assert lost >= 2
    assert made.skipped == {("tiny", "crc32c"): lost}
    assert caplog.text.count("crc32c") == 1, "a reason is logged once"


def test_a_truncated_shard_stops_the_job_by_name(build: Callable[..., Corpus], tmp_path: Path) -> None:
    bad = build(tmp_path / "bad", [20, 20])
    path = bad.shard_path(1)
    path.write_bytes(path.read_bytes()[:-700])
    with loader(bad) as made, pytest.raises(UserError, match=r"tiny-000001\.tar: \d+ bytes, the manifest says \d+"):
        for _ in range(6):
            next(made)
    path.unlink()
    with loader(bad) as made, pytest.raises(UserError, match=r"tiny-000001\.tar: No such file"):
        for _ in range(6):
            next(made)
    with pytest.raises(RuntimeError, match="closed"):  # not StopIteration: a training loop must not end quietly
        next(made)


def test_a_run_of_failures_stops_the_job_though_other_sources_are_sound(
    build: Callable[..., Corpus], tmp_path: Path, corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    junk = build(tmp_path / "junk", [30], name="junk", payload=lambda i: {"mjpg": b"junk", "off": b"12345678" * 2})
    made = loader(corpus, junk, max_consecutive_failures=50)
    with (
        made,
        caplog.at_level(logging.WARNING),
        pytest.raises(
            UserError, match=r"junk: 50 samples in a row can't be used, most often: offsets.*understudy lint"
        ),
    ):
        for _ in range(100):
            next(made)
    assert made.skipped == {("junk", "offsets: do not fit the frames"): 50}
    assert "not one of this batch's 8 samples could be used" in caplog.text


def test_videos_shorter_than_the_window_are_stretched(other_corpus: Corpus) -> None:
    for batch in take(loader(other_corpus, clip=Clip(8, 1, 16)), 3):
        assert batch.ok.all()
        assert (frames_of(batch) == torch.tensor([0, 0, 1, 1, 2, 2, 3, 4])).all()


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("understudy-loader")]


def gone_within(seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while loader_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not loader_threads()


def test_threads_end_with_close_with_an_error_and_with_the_last_reference(corpus: Corpus) -> None:
    gc.collect()
    assert gone_within(60)
    made = loader(corpus)
    next(made)
    assert loader_threads()
    made.close()
    made.close()
    assert not loader_threads()
    with pytest.raises(RuntimeError, match="closed"):
        next(made)

    def fail() -> None:
        with loader(corpus) as inner:
            next(inner)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not loader_threads()
    dropped = loader(corpus)
    next(dropped)
    gc.disable()  # dropping it is enough: no cycle waits for the collector
    try:
        del dropped
        assert gone_within(60)
    finally:
        gc.enable()


def test_a_programming_error_in_a_thread_reaches_the_caller(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("in a thread")

    monkeypatch.setattr("understudy.loader.clips.choose_decoder", lambda *_: broken)
    with loader(corpus) as made, pytest.raises(ZeroDivisionError, match="in a thread"):
        next(made)


def test_a_program_that_never_closes_its_loader_still_ends(corpus: Corpus) -> None:
    program = (
        "import sys\n"
        "from understudy.loader import Clip, ClipLoader, LoaderSource, Views\n"
        "from understudy.shards.corpus import Corpus\n"
        "loader = ClipLoader([LoaderSource(Corpus.open(sys.argv[1]))], Clip(4, 1, 16), Views(2), 16, 0, threads=3)\n"
        "next(loader)\n"
        "raise SystemExit(7)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(corpus.root)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 7, ended.stderr
    assert ended.stderr == ""


def test_a_program_that_dies_does_not_wait_for_what_it_has_asked_for(
    build: Callable[..., Corpus], tmp_path: Path
) -> None:
    build(tmp_path / "served" / "long", [5] * 40, name="long", frames=4)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from understudy.loader import Clip, ClipLoader, LoaderSource, Views\n"
        "from understudy.shards.cache import Cache\n"
        "from understudy.shards.corpus import Corpus\n"
        "corpus = Corpus.open(sys.argv[1], Cache(Path(sys.argv[2]), 10**9))\n"
        "loader = ClipLoader([LoaderSource(corpus)], Clip(4, 1, 16), Views(1), 8, 0, threads=2)\n"
        "next(loader)\n"
        "raise ValueError('training went wrong')\n"
    )
    with FaultServer(tmp_path / "served") as server:
        server.set(Fault("slow", times=-1, rate=2_000, path="tar$"))  # many seconds a shard
        started = subprocess.Popen(
            [sys.executable, "-c", program, f"{server.address}/long", str(tmp_path / "cache")],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert started.stderr is not None
        while "training went wrong" not in (said := started.stderr.readline()):
            assert said
        assert started.wait(10) == 1


def resident_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


def test_memory_does_not_grow(corpus: Corpus) -> None:
    with loader(corpus, clip=Clip(4, 1, 64)) as made:  # 0.8 MB a batch
        for _ in range(60):
            next(made)
        before = resident_kb()
        for _ in range(200):
            next(made)
        assert resident_kb() - before < 20_000, "200 batches are 157 MB"


@pytest.mark.gpu
def test_batches_come_to_the_gpu_unchanged(corpus: Corpus) -> None:
    on_cpu = take(loader(corpus), 30)
    for batch, expected in zip(take(loader(corpus, device="cuda"), 30), on_cpu):
        assert batch.clips.is_cuda
        assert batch.ok.is_cuda
        assert torch.equal(batch.clips.cpu(), expected.clips)
        assert torch.equal(batch.ids.cpu(), expected.ids)


def test_waiting_is_measured(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = 0

    def slow(requests: list[Request], out: NDArray[np.uint8]) -> list[str | None]:
        nonlocal decoded
        time.sleep(1)
        decoded += len(requests)
        return decode_plain(requests, out)

    monkeypatch.setattr("understudy.loader.clips.choose_decoder", lambda *_: slow)
    with loader(corpus, prefetch=2, threads=1, batch_size=2) as made:
        started = time.perf_counter()
        next(made)
        assert 1 <= made.wait_seconds <= time.perf_counter() - started
        while decoded < 3:
            time.sleep(0.01)
        waited = made.wait_seconds
        next(made)
        next(made)
        assert made.wait_seconds - waited < 1, "batches are made while the caller is busy"


def test_settings_that_do_not_fit_are_refused_at_once(corpus: Corpus) -> None:
    for settings, words in (
        ({"batch_size": 15}, "batch size 15 does not divide into 2 views on 1 ranks; choose a multiple of 2"),
        ({"batch_size": 0}, "batch size 0"),
        ({"rank": 0, "world_size": 3, "batch_size": 16}, "choose a multiple of 6"),
        ({"rank": 0, "world_size": 4, "batch_size": 24, "lanes": 6}, "6 lanes do not divide over 4 ranks"),
        ({"lanes": 3}, "do not divide into 3 lanes"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2 ranks"),
        ({"decoder": "magic"}, "no decoder 'magic'"),
    ):
        with pytest.raises(UserError, match=words):
            loader(corpus, **settings)
    with pytest.raises(UserError, match="two sources have the same name: tiny, tiny"):
        loader(corpus, corpus)
    with pytest.raises(UserError, match="no sources"):
        loader()


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_packed_corpora_of_both_codecs_load_and_show_what_was_packed(
    make_corpus: Callable[..., Path], tmp_path: Path, codec: str
) -> None:
    from fake_readers import read_moving_bar  # pyright: ignore[reportMissingImports]

    from understudy.shards.sources import Source

    packed = Corpus.open(make_corpus(tmp_path / codec, 10, codec=codec, samples_per_shard=4))
    originals = [np.stack(list(read_moving_bar(Source(f"{c}/{i}.mp4", 0)))) for i, c in enumerate(CYCLE)]
    whole = {"clip": Clip(12, 1, 48), "views": Views(1, (1.0, 1.0), (4 / 3, 4 / 3), flip=False), "batch_size": 10}
    (batch,) = take(loader(packed, **whole), 1)
    assert batch.ok.all()
    assert sorted(batch.ids.tolist()) == list(range(10))
    from understudy.loader.reference import resize_crop

    expected = np.stack([resize_crop(video, (0, 0, 64, 48), 48, False) for video in originals])
    errors = np.abs(batch.clips.numpy()[:, None].astype(int) - expected[None]).mean(axis=(2, 3, 4, 5))
    found = errors.argmin(axis=1)
    assert sorted(found.tolist()) == list(range(10)), "each packed video once"
    assert errors.min(axis=1).max() < 8
    assert torch.equal(batch.labels, torch.from_numpy(found % 3))


CYCLE = [("walk", "run", "wave")[i % 3] for i in range(10)]


@pytest.mark.parametrize("decoder", ["native", "plain", "reference"])
def test_each_decoder_takes_whole_samples_and_windows_of_them(corpus: Corpus, decoder: str) -> None:
    if decoder == "native" and not native_kernels():
        pytest.skip("the native kernel was not built")
    made = loader(corpus, decoder=decoder)
    for batch in take(made, 20):  # of 50 samples, 8 a step: each comes by three times
        assert batch.ok.all(), made.skipped
        assert (batch.clips[:, 1].float().mean(dim=(1, 2, 3)) - batch.ids).abs().max() < 2.5


@pytest.mark.parametrize(("ranks", "threads"), [(None, 16), (1, 16), (8, 2), (64, 1)])
def test_a_process_takes_its_share_of_its_own_machine(
    ranks: int | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "usable_cores", lambda: 16)
    monkeypatch.setenv("WORLD_SIZE", "64")  # on however many machines
    if ranks is None:
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert default_threads() == threads
