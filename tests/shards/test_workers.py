"""The confined map: order, bounded look-ahead, and workers that die, hang, or outlive their parent."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_workers import act

from understudy.shards.workers import WINDOW_PER_WORKER, Lost, confined_map

HELPERS = Path(__file__).parents[1] / "helpers"


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order(workers: int) -> None:
    items = [f"sleep {(7 * i) % 5 / 100}" for i in range(20)]
    assert list(confined_map(act, items, workers=workers, patience_s=60)) == items


def test_items_are_drawn_as_needed() -> None:
    drawn = 0

    def items() -> Iterator[str]:
        nonlocal drawn
        while True:
            drawn += 1
            yield f"item {drawn}"

    results = confined_map(act, items(), workers=2, patience_s=60)
    assert [next(results) for _ in range(3)] == ["item 1", "item 2", "item 3"]
    assert drawn <= 3 + 2 * WINDOW_PER_WORKER
    results.close()


def test_a_lost_worker_costs_its_item_only() -> None:
    items = ["a", "segfault", "b", "hang", "exit", "c", "memory", "d"]
    results = list(confined_map(act, items, workers=2, patience_s=2))
    crashed, hung = Lost("the decoder crashed"), Lost("the decoder hung")
    assert results == ["a", crashed, "b", hung, crashed, "c", Lost("the decoder ran out of memory"), "d"]


def test_a_worker_that_dies_once_is_forgiven(tmp_path: Path) -> None:
    item = f"die-unless {tmp_path / 'seen'}"
    assert list(confined_map(act, [item], workers=1, patience_s=60)) == [item]


def test_beats_keep_a_slow_item_alive() -> None:
    assert list(confined_map(act, ["beat 3.5"], workers=1, patience_s=2.5)) == ["beat 3.5"]


def test_an_exception_is_the_callers_to_see() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        list(confined_map(act, ["a", "raise", "b"], workers=1, patience_s=60))


def test_a_worker_that_can_not_start_is_an_error_not_a_lost_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="did not start"):
        list(confined_map(act, ["a"], workers=1, patience_s=60))


def test_leaving_early_ends_the_workers() -> None:
    results = confined_map(act, ["pid", "hang", "hang", "hang"], workers=2, patience_s=60)
    pid = int(str(next(results)))
    begun = time.monotonic()
    results.close()
    assert time.monotonic() - begun < 30, "half the patience"
    assert not Path(f"/proc/{pid}").exists()


def test_stuck_workers_die_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(HELPERS)!r})\n"
        "from fake_workers import act\n"
        "from understudy.shards.workers import confined_map\n"
        "for pid in confined_map(act, ['pid', 'hang'], workers=1, patience_s=60): print(pid, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        worker = int(parent.stdout.readline())
        time.sleep(0.2)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while _alive(worker):
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter where it goes while it is read
        return False
