"""The whole main job on corpora in a bucket: faults and kills leave no trace in what it was trained on."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faults import ENDED, RECOVERED, Fault, FaultServer  # pyright: ignore[reportMissingImports]
from tiny_job import CORPORA, arguments, make_corpora, trained_on  # pyright: ignore[reportMissingImports]

from understudy.recipes.mixed import command_line, main
from understudy.shards.errors import UserError
from understudy.shards.publish import publish
from understudy.shards.remote import Remote

if TYPE_CHECKING:
    from s3_server import Gateway  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.s3

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("job")
    make_corpora(root)
    return root


@pytest.fixture
def bucket(store: FaultServer, folder: Path) -> str:
    """The address of both."""
    for name in CORPORA:
        publish(folder / name, Remote(f"s3://corpora/job/{name}"), progress=False)
    store.set(None)
    return "s3://corpora/job"


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """What a run on the local folders is trained on."""
    out = tmp_path_factory.mktemp("undisturbed")
    main(command_line(arguments(folder, out)))
    return trained_on(out)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in RECOVERED] + ["all in turn"])
def test_faults_leave_no_trace(
    store: FaultServer,
    bucket: str,
    undisturbed: list[object],
    tmp_path: Path,
    name: str,
    shorten: Callable[[str], None],
) -> None:
    shorten(name if name in RECOVERED else "stall")
    fault = None
    parts = [part for part in RECOVERED.values() if part.times != -1] if name not in RECOVERED else [RECOVERED[name]]
    for part in parts:
        times = part.times if name in RECOVERED else 1
        fault = replace(part, path=r"\.tar$", times=times, then=fault)
    store.set(fault)
    main(command_line(arguments(bucket, tmp_path / "out")))
    struck = {request.fault for request in store.requests} - {""}
    assert struck == {part.mode for part in parts}
    assert trained_on(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("name", ENDED)
def test_others_end_it_in_one_line(
    store: FaultServer, bucket: str, tmp_path: Path, name: str, shorten: Callable[[str], None]
) -> None:
    shorten(name)
    fault, words = ENDED[name]
    store.set(replace(fault, path=r"\.tar$"))
    with pytest.raises(UserError, match=words):
        main(command_line(arguments(bucket, tmp_path / "out")))


def test_under_accelerate_launch_with_debug_logs_no_credential_is_shown(
    store: FaultServer, bucket: str, gateway: Gateway, undisturbed: list[object], tmp_path: Path
) -> None:
    store.set(Fault("reset", after=20_000, times=3, path=r"\.tar$"))
    log = tmp_path / "debug.log"
    site = tmp_path / "site"
    site.mkdir()
    settings = f"import logging; logging.basicConfig(filename={str(log)!r}, level=logging.DEBUG)"
    (site / "sitecustomize.py").write_text(settings)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "recipes/mixed.py"]
    with (tmp_path / "output").open("w") as file:
        job = subprocess.Popen(
            [*command, *arguments(bucket, tmp_path / "out")],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(site)},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    commands = set[str]()
    while job.poll() is None:
        for pid in (path.name for path in Path("/proc").iterdir() if path.name.isdecimal()):
            try:
                commands.add(Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"))
            except OSError:
                continue
        time.sleep(0.2)
    output = (tmp_path / "output").read_text()
    assert job.returncode == 0, output[-3000:]
    assert trained_on(tmp_path / "out") == undisturbed
    seen = log.read_text() + output + "".join(commands)
    assert "Calculating signature" in seen
    assert any(bucket in command for command in commands)
    for secret in (gateway.key, gateway.secret, gateway.token):
        assert secret not in seen
    logging.getLogger(__name__).info("looked through %d kB", len(seen) // 1000)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_kills_and_changes_of_ranks_leave_the_same_ledger(bucket: str, tmp_path: Path) -> None:
    """Each life is killed within a few steps of its first; every other one has two ranks."""
    steps, lives, chance = 100, 20, random.Random(0)
    longer = [f"--stage1.steps={steps}", f"--stage2.steps={steps}"]
    main(command_line([*arguments(bucket, tmp_path / "whole"), *longer]))
    command = [str(ROOT / "recipes" / "mixed.py"), *arguments(bucket, tmp_path / "killed"), *longer]
    metrics = tmp_path / "killed" / "metrics.jsonl"
    killed_at: list[tuple[int, int]] = []

    def logged() -> int:
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    for life in range(lives):
        ranks, more = 1 + life % 2, chance.randint(1, 8)
        run = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if ranks == 2 else []
        least = logged()
        with (tmp_path / "said").open("w") as said:
            job = subprocess.Popen([sys.executable, *run, *command], stdout=said, stderr=said)
        try:
            while (now := logged()) < least + more:  # it first forgets what was logged after its checkpoint
                least = min(least, now)
                assert job.poll() is None, f"life {life}: {(tmp_path / 'said').read_text()[-2000:]}"
                time.sleep(0.002)
        finally:
            kill_all(job)
        killed_at.append((ranks, logged()))
    print(f"killed at (ranks, steps logged of {2 * steps}): {killed_at}")
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    for stage in ("stage1", "stage2"):
        ledger = json.loads((tmp_path / "killed" / stage / "ledger.json").read_text())
        assert ledger == json.loads((tmp_path / "whole" / stage / "ledger.json").read_text())
        assert ledger["steps"] == steps


def kill_all(job: subprocess.Popen[bytes]) -> None:
    """With all that it started, at once: torch's launcher puts each rank into a session of its own."""
    family, parents = [job.pid], dict[int, int]()
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with suppress(OSError):
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    for parent in family:
        family += [pid for pid, of in parents.items() if of == parent]
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    job.wait()
