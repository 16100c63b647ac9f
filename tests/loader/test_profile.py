from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from understudy.cli.main import main
from understudy.cli.profile import as_text
from understudy.loader import Clip, Views
from understudy.loader.profile import Pipeline, Profile, profile, trace_batches
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError

STAGES = ["order", "read", "decode", "deliver"]


def pipeline(corpus: Corpus, decoder: str = "plain") -> Pipeline:
    return Pipeline(corpus, Clip(4, 2, 16), Views(2), 16, decoder, 2, "cpu")


@pytest.fixture
def figures(corpus: Corpus) -> Profile:
    return profile(pipeline(corpus), 0.1)


def test_each_stage_is_timed_and_the_slowest_is_named(figures: Profile) -> None:
    assert [stage.name for stage in figures.stages] == STAGES
    assert figures.whole.name == "whole"
    for stage in (*figures.stages, figures.whole):
        assert stage.samples_per_second > 0
        assert stage.cpu_ms_per_sample >= 0
    assert sum(stage.share for stage in figures.stages) == pytest.approx(1)
    assert figures.bound == min(figures.stages, key=lambda stage: stage.samples_per_second).name
    assert figures.decoder == "plain"
    assert figures.failed == 0
    assert json.loads(json.dumps(asdict(figures)))["stages"][2]["name"] == "decode"


def test_the_table_says_which_stage_bounds(figures: Profile) -> None:
    text = as_text(replace(figures, bound="read"))
    assert "read bounds this loader" in text
    [marked] = [line for line in text.splitlines() if line.endswith("<- the slowest")]
    assert marked.startswith("read ")
    assert all(line.split()[0] in text for line in STAGES)
    assert "3 videos could not be used" in as_text(replace(figures, failed=3))


def test_a_trace_has_every_stage_and_leaves_no_threads(corpus: Corpus) -> None:
    before = set(threading.enumerate())
    events = json.loads(trace_batches(pipeline(corpus), 6))["traceEvents"]
    assert set(threading.enumerate()) <= before
    names = [event["name"] for event in events]
    assert names.count("wait for a batch") == 6
    assert names.count("read") >= 6 * 8
    assert names.count("decode") >= 6 and names.count("order") >= 6
    assert all(event["ph"] == "X" and event["dur"] >= 0 for event in events)
    readers = {event["tid"] for event in events if event["name"] == "read"}
    [caller] = {event["tid"] for event in events if event["name"] == "wait for a batch"}
    assert caller not in readers


def test_samples_that_cannot_be_used_are_counted(build: Callable[..., Corpus], tmp_path: Path) -> None:
    corpus = build(tmp_path / "bad", [16])
    with corpus.shard_path(0).open("r+b") as shard:
        shard.seek(int(corpus.spans[5, 0, 0]) + 20)
        shard.write(bytes(60))
    assert profile(pipeline(corpus), 0.05).failed > 0


def test_what_the_loader_refuses_is_refused(corpus: Corpus) -> None:
    with pytest.raises(UserError, match="batch size 5"):
        Pipeline(corpus, Clip(), Views(2), 5, "plain", 1, "cpu")
    with pytest.raises(UserError, match="no decoder 'fast'"):
        pipeline(corpus, "fast")


def test_the_command_writes_figures_and_trace(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, trace = tmp_path / "figures.json", tmp_path / "trace.json"
    settings = ["--size", "16", "--frames", "4", "--views", "2", "--batch-size", "8", "--seconds", "0.05"]
    places = ["--device", "cpu", "--out", str(out), "--trace", str(trace)]
    monkeypatch.setattr(sys, "argv", ["understudy", "profile", str(corpus.root), *settings, *places])
    main()
    assert "bounds this loader" in capsys.readouterr().out
    assert json.loads(out.read_bytes())["batch_size"] == 8
    assert json.loads(trace.read_bytes())["traceEvents"]
