"""The loader benchmark: what its rows promise, that it tells wrong pixels, and that a bad peer costs only its row."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import chart
import corpora
import numpy as np
import pytest
import summary
from hypothesis import given
from hypothesis import strategies as st
from runner import FailedError, Runner
from spec import Spec, corpus_draws
from truth import agreement

from understudy.shards.corpus import Corpus

ROOT = Path(__file__).parents[2]
LOADERS = ROOT / "benchmarks" / "loaders.py"
COLUMNS = {
    "loader",
    "kind",
    "source_format",
    "views",
    "threads",
    "samples_per_second",
    "samples_per_second_interval",
    "cpu_ms_per_sample",
    "cpu_ms_per_sample_interval",
    "coverage",
    "peak_rss",
    "bytes_per_clip",
    "matches_reference",
    "same_frames",
    "mean_difference",
    "note",
    "rounds",
}


@pytest.fixture(scope="module")
def packed(make_corpus: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("packed") / "mjpeg", 8, frames=24)


@pytest.fixture(scope="module")
def results(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a short run writes about our slow loader, one that fails, and one that may be missing."""
    work = tmp_path_factory.mktemp("work")
    command = [sys.executable, LOADERS, "--out", work / "out.json", "--work", work, "--corpus", packed, "--views", "2"]
    subprocess.run([*command, "--rounds", "2", "--seconds", "0.5", "--only", "without", "FFCV"], check=True)
    return json.loads((work / "out.json").read_bytes())


@pytest.fixture
def spec(packed: Path, tmp_path: Path) -> Spec:
    """Our loader with the reference decoder on the small corpus."""
    corpus_draws(Corpus.open(packed), 2).save(tmp_path / "draws.npz")
    return Spec(
        loader="one",
        peer="peers.ours",
        source_format="mjpeg",
        views=2,
        threads=1,
        videos=4,
        draws=str(tmp_path / "draws.npz"),
        corpus=str(packed),
        files=(),
        converted="",
        options={"decoder": "reference"},
    )


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tests put modules for `runner` to find."""
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="module")
def runner(peers: Path) -> Iterator[Runner]:
    with Runner({"PYTHONPATH": str(peers)}) as started:
        yield started


def test_rows_say_all_that_they_promise(results: Any) -> None:
    assert [row["loader"] for row in results["rows"]] == ["understudy without a compiler", "FFCV"]
    for row in results["rows"]:
        assert set(row) >= COLUMNS
        assert row["rounds"] or row["note"]
    assert {"machine", "versions", "settings", "material", "ratios"} <= set(results)
    assert results["material"]["mjpeg"]["clips"] == 8


def test_a_row_that_ran(results: Any) -> None:
    row = results["rows"][0]
    assert (row["kind"], row["views"], row["note"]) == ("own", 2, None)
    # The windows and boxes of the table are those that our loader draws: the clips are the reference's, but for
    # a few roundings; a box that is moved by one pixel makes a thousand times as much.
    assert row["matches_reference"] and row["mean_difference"] < 0.01
    assert len(row["rounds"]) == 2
    low, high = row["samples_per_second_interval"]
    assert 0 < low <= row["samples_per_second"] <= high
    # One core: no more CPU time than wall time, but for two ticks of the clock, in which the kernel counts.
    assert all(0 < r["cpu_ms_per_sample"] * r["samples_per_second"] < 1100 * row["threads"] for r in row["rounds"])
    assert 1e7 < row["peak_rss"] < 1e10
    assert row["bytes_per_clip"] > 1000


def test_a_row_that_could_not_run(results: Any) -> None:
    row = results["rows"][1]
    assert row["note"] and row["rounds"] == []
    assert row["samples_per_second"] is row["cpu_ms_per_sample"] is row["matches_reference"] is None


@pytest.mark.parametrize(
    ("code", "note"),
    [
        ("import not_installed_anywhere", "ModuleNotFoundError: .*not_installed_anywhere"),
        ("def run(spec):\n    raise ValueError('no such codec')\n    yield", "ValueError: no such codec"),
        ("import os\ndef run(spec):\n    os.abort()\n    yield", "killed by SIGABRT"),
        ("import time\ndef run(spec):\n    time.sleep(60)\n    yield", "no answer in 1 seconds"),
        ("def run(spec):\n    return iter(())", "StopIteration"),
    ],
)
def test_a_bad_peer_fails_alone(
    code: str, note: str, spec: Spec, runner: Runner, peers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.PATIENCE_S", 1.0 if "no answer" in note else 60.0)
    name = f"peer_{abs(hash(code))}"
    (peers / f"{name}.py").write_text(code)
    with pytest.raises(FailedError, match=note):
        runner.check(replace(spec, peer=name), 4)
    monkeypatch.undo()
    assert runner.round(spec, 0.1)["samples_per_second"] > 0  # the next one has its turn all the same


def test_wrong_pixels_are_noticed(spec: Spec, runner: Runner) -> None:
    tasks, clips = runner.check(spec, 4)
    assert agreement(spec, tasks, clips) == (0, 0, True)
    rounded = agreement(spec, tasks, clips // 2 * 2)
    assert rounded.matches and 0 < rounded.mean <= 1
    brighter = agreement(spec, tasks, np.maximum(clips, 3) - 3)
    assert not brighter.matches and brighter.same_frames
    for wrong in (np.roll(clips, 1, axis=3), np.roll(clips, 9, axis=5), clips[..., ::-1], clips[:, ::-1], clips[::-1]):
        found = agreement(spec, tasks, wrong)
        assert not found.matches and not found.same_frames


@pytest.mark.parametrize("ended_by", ["its own end", "close", "a kill"])
def test_nothing_outlives_a_turn(ended_by: str, spec: Spec, tmp_path: Path) -> None:
    """A peer's processes are gone when its turn is over, and when the benchmark closes or is killed amid it."""
    (tmp_path / "forking_peer.py").write_text(
        "import os, time\n"
        "def run(spec):\n"
        "    worker = os.fork()\n"
        "    if not worker:\n"
        "        time.sleep(60)\n"
        f"    open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{worker}} ')\n"
        f"    time.sleep({0 if ended_by == 'its own end' else 60})\n"
        "    yield\n"
    )
    script = f"""
import sys, threading
sys.path.insert(0, {str(LOADERS.parent)!r})
from runner import FailedError, Runner
from spec import Spec
runner = Runner({{"PYTHONPATH": {str(tmp_path)!r}}})
def turn():
    try:
        runner.round(Spec.from_json({replace(spec, peer="forking_peer").to_json()!r}), 1)
    except (FailedError, RuntimeError, ValueError, OSError):
        pass
    print("over", flush=True)
threading.Thread(target=turn, daemon=True).start()
sys.stdin.readline()
runner.close()
"""
    benchmark = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert benchmark.stdin and benchmark.stdout
    pids = tmp_path / "pids"
    wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    if ended_by == "its own end":
        assert benchmark.stdout.readline() == b"over\n"
    elif ended_by == "close":
        benchmark.stdin.write(b"\n")
        benchmark.stdin.flush()
    else:
        benchmark.kill()
    wait_for(lambda: all(state_of(int(pid)) in (None, "Z") for pid in pids.read_text().split()))
    benchmark.communicate(b"\n" if ended_by == "its own end" else None, timeout=120)


def state_of(pid: int) -> str | None:
    """The letter that the kernel has for it, T if it is stopped; None if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=40))
def test_intervals_cover_the_median(values: list[float]) -> None:
    found = summary.interval(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)
    if len(values) >= 6:
        assert found.coverage >= 0.95
    else:
        assert (found.low, found.high) == (min(values), max(values))


def test_coverage_is_that_of_fair_coins() -> None:
    # Six values miss the true median only when all six lie on one side of it.
    assert summary.interval([1, 2, 3, 4, 5, 6]).coverage == 1 - 2 / 2**6
    nine = summary.interval(list(range(9)))
    assert (nine.low, nine.high) == (1, 7)
    assert math.isclose(nine.coverage, 1 - 2 * (1 + 9) / 2**9)


def row(loader: str, rates: list[float], *, kind: str = "peer", same_frames: bool = True) -> dict[str, Any]:
    rounds = [{"samples_per_second": rate, "cpu_ms_per_sample": 1000 / rate, "rss": 1} for rate in rates]
    about = {"loader": loader, "kind": kind, "source_format": "mjpeg", "views": 4, "same_frames": same_frames}
    return summary.summarised({**about, "rounds": rounds})


def test_ratios_are_paired_and_over_the_best_comparable_peer() -> None:
    rows = [
        row(summary.NATIVE, [100, 10, 1000], kind="own"),
        row("slow", [1, 1, 1]),
        row("good", [50, 5, 500]),
        row("wrong", [500, 500, 500], same_frames=False),
        row("failed", []),
    ]
    best = next(ratio for ratio in summary.ratios(rows) if "best peer" in ratio["name"])
    assert best["over"] == "good"
    assert (best["ratio"], best["interval"]) == (2.0, [2.0, 2.0])  # each round by itself, though they differ a lot
    assert best["reached"] is True


def test_a_ratio_that_is_to_be_small() -> None:
    rows = [row(summary.NATIVE, [50, 50], kind="own"), row(summary.KERNEL, [100, 100], kind="own")]
    [kernel] = [ratio for ratio in summary.ratios(rows) if ratio["over"] == summary.KERNEL]
    assert kernel["at_most"] and kernel["ratio"] == 2.0 and kernel["reached"] is False


def test_chart_and_tables_show_the_numbers(results: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- loaders -->\nold\n<!-- /loaders -->\nafter\n")
    assert chart.main([str(tmp_path / "results.json"), "--svg", str(tmp_path / "chart.svg"), "--into", str(page)]) == 0
    rate = f"{results['rows'][0]['samples_per_second']:,.0f}"
    texts = [element.text for element in ET.parse(tmp_path / "chart.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert rate in texts and "understudy without a compiler" in texts
    text = page.read_text()
    assert text.startswith("before\n<!-- loaders -->\n|") and text.endswith("<!-- /loaders -->\nafter\n")
    assert f"| {rate} (" in text and "FFCV" in text and "old" not in text
    page.write_text("no marks")
    assert chart.main([str(tmp_path / "results.json"), "--into", str(page)]) == 2
    assert page.read_text() == "no marks" and "loaders" in capsys.readouterr().err


def test_the_readmes_speeds_are_those_measured() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "loaders.json").read_bytes())
    said = " ".join((ROOT / "README.md").read_text().split())
    (rate,) = (
        row["samples_per_second"]
        for row in results["rows"]
        if (row["loader"], row["source_format"], row["views"]) == (summary.NATIVE, "mjpeg", 4)
    )
    assert f"load {round(rate, -2):,.0f} clips per second" in said

    def over(words: str) -> float:
        begin = f"native, mjpeg, 4 views, over {words}"
        (found,) = (ratio["ratio"] for ratio in results["ratios"] if ratio["name"].startswith(begin))
        return found

    assert f"That is {over('the best peer on the same shards'):.1f} times the best other loader" in said
    assert f"and {over('DataLoader + PyAV on the originals with 4'):.0f} times a DataLoader with PyAV" in said
    assert f"or {over('DataLoader + PyAV on the originals as'):.0f} times at its usual one crop per decode" in said


def test_the_page_shows_what_was_measured(tmp_path: Path) -> None:
    page, drawn = tmp_path / "loading.md", tmp_path / "loaders.svg"
    shutil.copy(ROOT / "docs" / "loading.md", page)
    measured = ROOT / "benchmarks" / "results" / "loaders.json"
    assert chart.main([str(measured), "--svg", str(drawn), "--into", str(page)]) == 0
    again = (
        "run python benchmarks/chart.py benchmarks/results/loaders.json --svg docs/loaders.svg --into docs/loading.md"
    )
    assert page.read_bytes() == (ROOT / "docs" / "loading.md").read_bytes(), again
    assert drawn.read_bytes() == (ROOT / "docs" / "loaders.svg").read_bytes(), again
    assert json.loads(measured.read_bytes())["rows"]


def test_unknown_names_are_told(packed: Path, tmp_path: Path) -> None:
    command = [sys.executable, LOADERS, "--out", tmp_path / "out.json", "--corpus", packed, "--only", "no such loader"]
    done = subprocess.run([*command, "--work", tmp_path], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: no loader has such a name")
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("real", [False, True], ids=["demo", "videos"])
def test_material_is_made_once(
    real: bool, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "SECONDS", 2)
    folder = request.getfixturevalue("videos") if real else None
    made = corpora.make_material(tmp_path, 2, folder)
    probed = corpora.probe(made.originals)
    assert probed.frames.tolist() == [60, 60] and probed.fps.tolist() == [30, 30]
    assert probed.sizes.min(axis=1).tolist() == [256, 256]
    for codec, root in made.packed.items():
        corpus = Corpus.open(root)
        assert (corpus.manifest.codec, corpus.manifest.fps) == (codec, 6)
        assert corpus.frames.tolist() == [12, 12]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert corpora.make_material(tmp_path, 2, folder) == made
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_derived_files_hold_the_frames_of_the_corpus(packed: Path, make_corpus: Any, tmp_path: Path) -> None:
    corpus = Corpus.open(packed)
    raw = np.fromfile(corpora.raw_map(corpus, tmp_path), np.uint8).reshape(8, 24, 48, 64, 3)
    assert (raw[3] == np.stack(corpora.jpeg_frames(corpus, 3))).all()
    probed = corpora.probe(corpora.vp9_files(corpus, tmp_path))
    assert probed.frames.tolist() == [24] * 8
    h264 = Corpus.open(make_corpus(tmp_path / "h264", 2, codec="h264", frames=24))
    files = corpora.h264_files(h264, tmp_path)
    sizes = h264.spans[:, 0, 1].tolist()
    assert [path.stat().st_size for path in files] == sizes
