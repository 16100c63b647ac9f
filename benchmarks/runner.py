"""Turns of loaders in processes of their own, one at a time, from the side of whoever compares them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from spec import Spec

HOST = Path(__file__).with_name("host.py")
PATIENCE_S = 600.0  # for a turn: a peer may first convert the corpus to its own format
NOTE = 300  # characters of an error that go into the results

Tasks = list[tuple[int, int]]


class FailedError(Exception):
    """The loader could not do what it was asked for; the text is the note in its row."""


class Runner:
    """Starts host.py, with `env` on top of the environment; a context manager. One caller at a time."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as this object)
        self._scratch = tempfile.TemporaryDirectory(prefix="loaders-")  # for what peers leave lying about
        self._process = subprocess.Popen(
            [sys.executable, str(HOST)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "TMPDIR": self._scratch.name, **(env or {})},
        )

    def check(self, spec: Spec, videos: int) -> tuple[Tasks, NDArray[np.uint8]]:
        """The clips of the first `videos` videos, uint8 (videos, K, 3, T, S, S), and their (sample, visit).

        Raises FailedError.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clips.npy"
            [answer] = self._turn(spec, [{"videos": videos, "to": str(path)}], PATIENCE_S)
            return [(sample, visit) for sample, visit in answer["tasks"]], np.load(path)

    def round(self, spec: Spec, seconds: float) -> dict[str, float]:
        """Run for `seconds`: samples_per_second, cpu_ms_per_sample, rss in bytes. Raises FailedError."""
        [answer] = self._turn(spec, [{"seconds": seconds}], seconds + PATIENCE_S)
        return {
            "samples_per_second": answer["samples"] / answer["wall"],
            "cpu_ms_per_sample": 1000 * answer["cpu"] / answer["samples"],
            "rss": answer["rss"],
        }

    def close(self) -> None:
        """End the processes; a turn that is under way is cut off."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with suppress(OSError):
                    stream.close()
        self._process.wait()
        self._log.close()
        self._scratch.cleanup()

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _turn(self, spec: Spec, orders: Sequence[dict[str, Any]], patience: float) -> list[dict[str, Any]]:
        """An answer to each order."""
        assert self._process.stdin
        start = self._log.seek(0, os.SEEK_END)
        self._process.stdin.write(json.dumps({"spec": spec.to_json(), "orders": orders}).encode() + b"\n")
        self._process.stdin.flush()
        deadline = time.monotonic() + patience
        pid: int = self._receive(None)["pid"]
        answers: list[dict[str, Any]] = []
        late = False
        while "ended" not in (answer := self._receive(None if late else deadline)):
            if "late" in answer:
                late = True
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            else:
                answers.append(answer)
        if late:
            raise FailedError(f"no answer in {patience:.0f} seconds")
        if failed := [answer["failed"] for answer in answers if "failed" in answer]:
            raise FailedError(_shortened(failed[0]))
        if len(answers) < len(orders):
            raise FailedError(_shortened(f"{_ending(answer['ended'])} {self._last_words(start)}".strip()))
        return answers

    def _receive(self, deadline: float | None) -> dict[str, Any]:
        """The next line, or {"late": True} if none comes in time."""
        assert self._process.stdout
        while b"\n" not in self._received:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                return {"late": True}
            piece = os.read(self._process.stdout.fileno(), 1 << 16)
            if not piece:
                raise RuntimeError(f"host.py has ended: {self._last_words(0)}")
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    _received = b""

    def _last_words(self, start: int) -> str:
        """The last line on stderr since it was `start` bytes long."""
        self._log.seek(start)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")


def _ending(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _shortened(note: str) -> str:
    return note if len(note) <= NOTE else f"{note[: NOTE // 3]} ... {note[-2 * NOTE // 3 :]}"
