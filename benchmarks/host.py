"""The processes in which loaders run, one at a time: started by runner.py, which sends a line of JSON for each turn.

This process only imports what all need and forks for each turn. The fork runs a peer, carries out its orders, answers a
line for each, and ends; what a peer leaves behind, or breaks, goes with it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from spec import Spec

import understudy.loader  # noqa: F401  (imported here once, instead of in each turn)

# Before the clock starts, batches are dropped: at least so many, and up to so many in so many seconds. Queues fill,
# and memory is touched for the first time.
SETTLE_LEAST, SETTLE_MOST, SETTLE_SECONDS = 5, 10, 2.0
DONE = ".done"  # the file that says that a peer's own copy of the corpus is whole
TICK = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Give everyone on stdin a turn."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what peers print is no answer
    warnings.filterwarnings("ignore")
    gc.freeze()
    for line in sys.stdin:
        turn = json.loads(line)
        pid = os.fork()
        if not pid:
            _take_turn(turn, answers)
        status = _wait(pid)
        answers.write(json.dumps({"ended": os.waitstatus_to_exitcode(status)}) + "\n")


def _wait(pid: int) -> int:
    """The wait status of the process, once it has ended; it is killed where nobody is there any more to hear of it."""
    ended = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(0, 0)  # hangups only
    poll.poll()
    if not select.select([ended], [], [], 0)[0]:
        _kill_session(pid)
    os.close(ended)
    _, status = os.waitpid(pid, 0)
    _kill_session(pid)  # its workers, if it left any
    return status


def _kill_session(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _take_turn(turn: dict[str, Any], answers: TextIO) -> None:
    """Does not return."""
    try:
        os.setsid()
        answers.write(json.dumps({"pid": os.getpid()}) + "\n")
        for answer in _answers(Spec.from_json(turn["spec"]), turn["orders"]):
            answers.write(json.dumps(answer) + "\n")
    except BaseException as error:
        traceback.print_exc()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        answers.write(json.dumps({"failed": " ".join(f"{type(error).__name__}: {error}".split())}) + "\n")
    os._exit(0)  # some loaders never end their threads


def _answers(spec: Spec, orders: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: spec.threads])  # as many cores as threads, for all alike
    os.environ.update(spec.env)
    torch.set_num_threads(spec.threads)
    peer = importlib.import_module(spec.peer)
    if hasattr(peer, "prepare") and not (Path(spec.converted) / DONE).exists():
        shutil.rmtree(spec.converted, ignore_errors=True)
        Path(spec.converted).mkdir(parents=True)
        peer.prepare(spec)
        (Path(spec.converted) / DONE).touch()
    batches = peer.run(spec)
    for order in orders:
        yield check(batches, order["videos"], order["to"]) if "videos" in order else timed(batches, order["seconds"])
    with suppress(Exception):  # what it delivered counts
        getattr(batches, "close", lambda: None)()


def check(batches: Iterator[Any], videos: int, to: str) -> dict[str, Any]:
    """Save the clips of the first `videos` videos, uint8 (n, K, 3, T, S, S), as .npy; answer with their tasks."""
    kept: list[np.ndarray] = []
    tasks: list[tuple[int, int]] = []
    while len(tasks) < videos:
        clips, batch_tasks = next(batches)
        if not clips.is_contiguous():
            raise ValueError("clips are not contiguous (3, T, H, W)")
        kept.append(clips.numpy().reshape(len(batch_tasks), -1, *clips.shape[1:]).copy())
        tasks += [(int(sample), int(visit)) for sample, visit in batch_tasks]
    np.save(to, np.concatenate(kept)[:videos])
    return {"tasks": tasks[:videos]}


def timed(batches: Iterator[Any], seconds: float) -> dict[str, Any]:
    """Take batches for `seconds`: samples, wall and CPU seconds of this process and its workers, resident bytes."""
    start, dropped = time.perf_counter(), 0
    while dropped < SETTLE_LEAST or (dropped < SETTLE_MOST and time.perf_counter() - start < SETTLE_SECONDS):
        next(batches)
        dropped += 1
    cpu, start, samples = _cpu_seconds(), time.perf_counter(), 0
    while True:
        samples += len(next(batches).clips)
        wall = time.perf_counter() - start
        if wall >= seconds:
            break
    return {"samples": samples, "wall": wall, "cpu": _cpu_seconds() - cpu, "rss": _resident_bytes()}


def _session() -> list[tuple[int, list[str]]]:
    """The processes of this session, and the fields of their /proc/PID/stat from the state on."""
    session, found = str(os.getsid(0)), list[tuple[int, list[str]]]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # gone in the meantime
                continue
            if fields[3] == session:
                found.append((int(entry.name), fields))
    return found


def _cpu_seconds() -> float:
    """User and system time of all processes of this session, those that have ended included."""
    return sum(sum(map(int, fields[11:15])) for _, fields in _session()) / TICK


def _resident_bytes() -> int:
    """Resident memory of this process, and what its workers hold for themselves."""
    total = 0
    for pid, _ in _session():
        sizes: dict[str, int] = {}
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
                name, size = line.split()[:2]
                sizes[name] = int(size) * 1024
        except OSError:
            continue
        total += sizes["Rss:"] if pid == os.getpid() else sizes["Private_Clean:"] + sizes["Private_Dirty:"]
    return total


if __name__ == "__main__":
    main()
