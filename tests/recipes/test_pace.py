"""How far a host runs ahead of a GPU: on one that is made up of a counter, and on a real one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from understudy.loader import Clip, ClipLoader, LoaderSource, Views
from understudy.loader.batch import LEAD
from understudy.recipes.train import AHEAD, Pace
from understudy.shards.corpus import Corpus


class Gpu:
    """Computes nothing until somebody waits for it, and then no more than is waited for."""

    def __init__(self) -> None:
        self.queued = 0
        self.done = 0

    def event(self, **options: Any) -> Event:
        assert options == {"blocking": True}
        return Event(self)


class Event:
    """Reached when all is done that was queued before it."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def record(self, stream: object) -> None:
        self.after = self.gpu.queued

    def synchronize(self) -> None:
        self.gpu.done = max(self.gpu.done, self.after)


def test_a_host_is_held_back_before_the_loader_would_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    pace = Pace(torch.device("cuda"))
    for step in range(20):
        pace.keep()
        assert gpu.queued - gpu.done <= AHEAD  # held back,
        assert gpu.queued - gpu.done == min(step, AHEAD)  # and not earlier than need be
        gpu.queued += 1
    # While the next batch is asked for, the loader lets the GPU be LEAD batches behind.
    assert AHEAD < LEAD


def test_without_a_gpu_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: pytest.fail("a CPU has no events"))
    pace = Pace(torch.device("cpu"))
    for _ in range(5):
        pace.keep()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_time_for_computing_does_not_pass_for_time_for_clips(device: str, tmp_path: Path, make_corpus: Any) -> None:
    corpus = Corpus.open(make_corpus(tmp_path / "tiny", 16))
    pace, waited, started = Pace(torch.device(device)), 0.0, 0.0
    with ClipLoader(
        [LoaderSource(corpus)], Clip(4, 1, 32), Views(1), 4, 0, "plain", threads=1, device=device
    ) as loader:
        for step in range(25):
            pace.keep()
            if step == 5:  # the first batches have to be made
                started, waited = time.perf_counter(), 0.0
            asked = time.perf_counter()
            batch = next(loader)
            waited += time.perf_counter() - asked
            assert len(batch.clips) == 4
            if device == "cuda":
                torch.cuda._sleep(100_000_000)  # some 50 ms, while the host goes on
            else:
                time.sleep(0.03)
        share = waited / (time.perf_counter() - started)
    # Next to nothing. Held back by the loader instead, the host would spend nearly all of its time there.
    assert share < 0.5
