"""An ordered parallel map whose worker processes may crash or hang at the price of one item.

Decoders of foreign files segfault, run out of memory and loop; a process pool that breaks with one worker would lose
the job. The workers are fresh interpreters, not forks: the caller may hold threads, locks and a GPU. And they don't
import the caller's main module, as multiprocessing's spawn does, because it may be a training script.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")
Beat = Callable[[], None]

BEAT_S = 0.5
START_S = 120.0  # a cold interpreter on a busy machine
# Results wait for the ones before them, so this many items a worker may be under way or waiting.
WINDOW_PER_WORKER = 3
# Memory may run out for reasons that lie outside the item, so a lost one is tried again.
ATTEMPTS = 2


@dataclass(frozen=True)
class Lost:
    """Stands for the result of an item whose worker died or fell silent each time that it was tried."""

    reason: str


def confined_map(
    function: Callable[[Item, Beat], Result], items: Iterable[Item], *, workers: int, patience_s: float
) -> Generator[Result | Lost]:
    """Yield `function(item, beat)` for each item, in order, computed in `workers` processes.

    `function` calls `beat` as it gets on; after `patience_s` seconds without a call its worker is killed. It must
    be picklable by name from an importable module. An exception that it raises ends the map with RuntimeError.
    With `workers` 0 it runs in this process, where nothing is confined.
    """
    if workers == 0:
        for item in items:
            yield function(item, lambda: None)
        return
    crew = _Crew(function, workers, patience_s)
    # One thread a worker waits for its messages, so workers stay busy while the caller deals with a result.
    threads = ThreadPoolExecutor(workers, thread_name_prefix="confined")
    waiting: deque[Future[Result | Lost]] = deque()
    try:
        for item in items:
            waiting.append(threads.submit(crew.call, item))
            if len(waiting) == WINDOW_PER_WORKER * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        crew.dismiss()
        threads.shutdown(cancel_futures=True)
        crew.close()


class _Crew(Generic[Item, Result]):
    """As many worker processes as there are callers at a time; a lost one is replaced when next needed."""

    def __init__(self, function: Callable[[Item, Beat], Result], workers: int, patience_s: float):
        self._function = function
        self._patience_s = patience_s
        self._idle: SimpleQueue[_Worker | None] = SimpleQueue()  # None: a place for one that is yet to start
        for _ in range(workers):
            self._idle.put(None)
        self._running: set[_Worker] = set()
        self._lock = threading.Lock()
        self._dismissed = False

    def call(self, item: Item) -> Result | Lost:
        """The function's result for `item` from a free worker. Raises RuntimeError where it raised."""
        outcome: Result | Lost = Lost("not tried")
        worker = self._idle.get()
        try:
            for _ in range(ATTEMPTS):
                if worker is None:
                    worker = self._start()
                outcome = cast("Result | Lost", worker.call(item, self._patience_s))
                if not isinstance(outcome, Lost):
                    break
                self._stop(worker)
                worker = None
        finally:
            self._idle.put(worker)
        return outcome

    def _start(self) -> _Worker:
        with self._lock:
            if self._dismissed:
                raise RuntimeError("the map has ended")
            worker = _Worker()
            self._running.add(worker)
        worker.teach(self._function)
        return worker

    def _stop(self, worker: _Worker) -> None:
        worker.stop()
        with self._lock:
            self._running.discard(worker)

    def dismiss(self) -> None:
        """Kill every worker at once; calls under way end as lost."""
        with self._lock:
            self._dismissed = True
            for worker in self._running:
                worker.kill()

    def close(self) -> None:
        """Clear up what `dismiss` left, when no call is under way any more."""
        for worker in self._running:
            worker.stop()


class _Worker:
    """One child process and this side of the socket to it."""

    def __init__(self):
        ours, theirs = socket.socketpair()
        with theirs:
            # A process group of its own: Ctrl-C is for the parent, which then dismisses the crew.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from {__name__} import serve; serve({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a decoder prints is not the command's output
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                process_group=0,
            )
        self._connection: Connection[Any, Any] = Connection(ours.detach())
        self._ready = False

    def teach(self, function: Callable[..., Any]) -> None:
        """Send the function that every later item is for, and the places that it may be imported from."""
        self._send(sys.path)
        self._send(function)

    def _send(self, message: object) -> None:
        with suppress(OSError):  # a worker that is gone shows when its answer is read
            self._connection.send(message)

    def call(self, item: object, patience_s: float) -> object:
        """Send `item`, wait for what comes of it; Lost where the process ends or says nothing for too long."""
        self._send(item)
        while True:
            try:
                if not self._connection.poll(patience_s if self._ready else max(patience_s, START_S)):
                    return Lost("the decoder hung")
                verb, content = self._connection.recv()
            except (EOFError, OSError):
                if not self._ready:
                    raise RuntimeError("a worker process did not start; see its message above") from None
                return Lost("the decoder crashed")
            match verb:
                case "done":
                    return content
                case "lost":
                    return Lost(content)
                case "failed":
                    raise RuntimeError(f"{item}\n{content}")
                case _:  # "ready" or "beat"
                    self._ready = True

    def kill(self) -> None:
        """End the process; a call under way finds its socket closed."""
        self._process.kill()

    def stop(self) -> None:
        """Kill the process, wait until it is gone and close the socket."""
        self._process.kill()
        self._process.wait()
        self._connection.close()


def serve(descriptor: int) -> None:
    """The child's main loop: take items from the socket `descriptor` and answer them until it closes."""
    threading.Thread(target=_die_with_parent, args=[descriptor], daemon=True).start()
    connection: Connection[Any, Any] = Connection(descriptor)
    last = 0.0

    def beat() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > BEAT_S:
            last = now
            connection.send(("beat", None))

    sys.path[:] = connection.recv()
    function = connection.recv()
    connection.send(("ready", None))
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        try:
            answer = ("done", function(item, beat))
        except MemoryError:
            answer = ("lost", "the decoder ran out of memory")
        except Exception:
            answer = ("failed", traceback.format_exc())
        connection.send(answer)


def _die_with_parent(descriptor: int) -> None:
    """End this process when the parent is gone, even one that is stuck in a decoder."""
    hangup = select.poll()
    hangup.register(descriptor, 0)
    hangup.poll()
    os._exit(1)
