"""What worker processes are told to do in tests. In a module of its own: they import it by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def act(item: str, beat: Callable[[], None]) -> str:
    """Does what `item` says and returns it (for "pid", the process id)."""
    verb, _, argument = item.partition(" ")
    match verb:
        case "pid":
            return str(os.getpid())
        case "sleep":
            time.sleep(float(argument))
        case "beat":
            end = time.monotonic() + float(argument)
            while time.monotonic() < end:
                beat()
                time.sleep(0.05)
        case "hang":
            time.sleep(3600)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(0)
        case "memory":
            raise MemoryError
        case "raise":
            raise ZeroDivisionError
        case "die-unless":
            if not Path(argument).exists():
                Path(argument).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        case _:
            pass
    return item
