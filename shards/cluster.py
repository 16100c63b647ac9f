"""`confined_map` on the machines of a Ray cluster: the same results in the same order, for the same items.

What is lost with a machine is computed again on another. Nothing is written on the machines; they have to see the
videos under the same path, and to have the same versions installed, so that the same bytes come out. Ray is an extra.
"""

from __future__ import annotations

import importlib
import os
import platform
import socket
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from understudy.shards.errors import UserError
from understudy.shards.plan import encoder_versions
from understudy.shards.sources import Source
from understudy.shards.workers import Beat, Lost, confined_map

Result = TypeVar("Result")

BATCH = 32  # sources a task: long against the start of its decoding process, short against what is lost with a machine
WINDOW_PER_CORE = 2  # tasks under way or done and waiting for those before them
CONNECT_S = 10.0
ATTEMPTS = 4  # of a task that is lost with its process or machine


def ray_map(
    function: Callable[[Source, Beat], Result], sources: Sequence[Source], *, patience_s: float
) -> Generator[Result | Lost]:
    """Yield `function(source, beat)` for each source, in order, computed on all cores of the cluster.

    The cluster is that of RAY_ADDRESS, or the one that this machine belongs to, or else one of this machine alone.
    Raises UserError where Ray is not installed or the cluster is of no use, RuntimeError as `confined_map` does.
    """
    ray = _connected()
    task = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_run_batch)
    batches = (sources[start : start + BATCH] for start in range(0, len(sources), BATCH))
    waiting: deque[Any] = deque()
    try:
        for batch in batches:
            if len(waiting) >= WINDOW_PER_CORE * max(1, int(ray.cluster_resources().get("CPU", 0))):
                yield from _results(ray, waiting.popleft())
            absolute = [replace(source, path=source.path and source.path.absolute()) for source in batch]
            seen = [source.path is not None and source.path.exists() for source in absolute]
            waiting.append(task.remote(function, absolute, seen, encoder_versions(), patience_s))
        while waiting:
            yield from _results(ray, waiting.popleft())
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)


def _connected() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray tells its makers of every cluster
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise UserError('Ray is not installed; run in the checkout: pip install -e ".[ray]"') from None
    if ray.is_initialized():
        return ray
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    try:
        if port.isdecimal() and "/" not in host:  # else Ray would try for minutes, with a line for each
            socket.create_connection((host, int(port)), CONNECT_S).close()
        ray.init(log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        line = str(error).partition("\n")[0]
        raise UserError(f"no Ray cluster at {address or 'this machine'} ({line}); check RAY_ADDRESS") from None
    return ray


def _results(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # it ran, and raised
        raise (error.cause if isinstance(error.cause, UserError) else RuntimeError(str(error))) from None
    except ray.exceptions.RayError as error:
        raise UserError(
            f"Ray lost the same videos {ATTEMPTS} times ({type(error).__name__}); look at the machines of the cluster, "
            "then run the same command again: it goes on where it stopped"
        ) from None


def _run_batch(
    function: Callable[[Source, Beat], Result],
    sources: Sequence[Source],
    seen: Sequence[bool],
    versions: dict[str, str],
    patience_s: float,
) -> list[Result | Lost]:
    """Runs on a machine of the cluster, where a process of its own decodes: what crashes it costs one source."""
    for package, version in encoder_versions().items():
        if version != versions[package]:
            raise UserError(
                f"{platform.node()} has {package} {version}, not {versions[package]}; install the same on all machines"
            )
    for source, elsewhere in zip(sources, seen):
        if elsewhere and source.path is not None and not source.path.exists():
            raise UserError(f"{platform.node()} does not see {source.path}; mount the videos there on all machines")
    return list(confined_map(function, sources, workers=1, patience_s=patience_s))
