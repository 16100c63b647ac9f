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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faults import Fault, FaultServer  # pyright: ignore[reportMissingImports]

from understudy.recipes.mixed import command_line, main
from understudy.shards import fetch as fetching
from understudy.shards import remote as remotes
from understudy.shards import s3
from understudy.shards.errors import UserError
from understudy.shards.publish import publish
from understudy.shards.remote import Remote

if TYPE_CHECKING:
    from tests.storage.conftest import Gateway

pytestmark = pytest.mark.s3

ROOT = Path(__file__).parents[2]
TINY = [
    *("--vit.frames=4", "--vit.size=32", "--vit.patch=8", "--vit.width=32", "--vit.depth=1", "--vit.heads=1"),
    *("--mae.decoder-width=16", "--mae.decoder-depth=1", "--mae.decoder-heads=1", "--probe.epochs=2", "--threads=2"),
    *("--stage1.steps=12", "--stage1.batch-size=8", "--stage2.steps=12", "--stage2.batch-size=8"),
    *("--log-every=1", "--save-every=2", "--precision=no"),
]
NAMES = ("bars", "lines")
FAULTS = {
    "reset": Fault("reset", after=20_000, times=3),
    "reset-always": Fault("reset", after=20_000, times=-1),
    "close": Fault("close", after=20_000, times=3),
    "503": Fault("503", times=3),
    "500": Fault("500", times=3),
    "expired": Fault("expired"),
    "stall": Fault("stall", after=20_000),
    "slow": Fault("slow", rate=1_000_000, times=-1),
    "flip": Fault("flip", after=20_000),
    "short": Fault("short", after=20_000, times=3),
    "no-length": Fault("no-length", after=20_000, times=3),
}
ENDED = {
    "503": (Fault("503", times=-1), "the server answers 503.*gave up"),
    "expired": (Fault("expired", times=-1), "the credentials have expired"),
    "stall": (Fault("stall", times=-1), "no byte came for .*gave up"),
    "flip": (Fault("flip", after=20_000, times=-1), "do not fit the digest in the manifest, twice"),
}


@pytest.fixture(scope="module")
def folder(make_corpus: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora of 5 shards."""
    root = tmp_path_factory.mktemp("job")
    for name in NAMES:
        make_corpus(root / name, 40, name=name, samples_per_shard=8, size=(96, 80))
    return root


@pytest.fixture
def store(
    gateway: Gateway,
    proxy: FaultServer,
    folder: Path,
    s3_environment: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> FaultServer:
    """The proxy in front of the bucket with the corpora, boto3 pointed at it, all waits short."""
    proxy.set(None)
    s3_environment(proxy.address, gateway.key, gateway.secret, gateway.token)
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(tmp_path / "cache"))
    for name in NAMES:
        publish(folder / name, Remote(f"s3://corpora/job/{name}"), progress=False)
    for module in (s3, remotes):
        monkeypatch.setattr(module, "SILENCE_S", 0.7)
    monkeypatch.setattr(fetching, "PATIENCE_S", 2.0)
    monkeypatch.setattr(fetching, "FIRST_PAUSE_S", 0.02)
    return proxy


def flags(where: str, out: Path) -> list[str]:
    bars, lines = (f"{where}/{name}" for name in NAMES)
    corpora = ["--mae-corpora", bars, "--align-corpora", bars, lines, "--probe-train", lines, "--probe-val", bars]
    return [*TINY, *corpora, "--out", str(out)]


def trained_on(out: Path) -> list[object]:
    """The ledgers of both stages, and every loss to the last bit."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [(row["stage"], row["step"], row["loss"]) for row in rows]
    return [json.loads((out / stage / "ledger.json").read_text()) for stage in ("stage1", "stage2")] + losses


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """What a run on the local folders is trained on."""
    out = tmp_path_factory.mktemp("undisturbed")
    main(command_line(flags(str(folder), out)))
    return trained_on(out)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in FAULTS] + ["all in turn"])
def test_faults_leave_no_trace(store: FaultServer, undisturbed: list[object], tmp_path: Path, name: str) -> None:
    fault = None
    for part in FAULTS.values() if name not in FAULTS else [FAULTS[name]]:
        times = part.times if name in FAULTS else 1
        fault = replace(part, path=r"\.tar$", times=times, then=fault)
    store.set(fault)
    main(command_line(flags("s3://corpora/job", tmp_path / "out")))
    struck = {request.fault for request in store.requests} - {""}
    assert len(struck) == (1 if name in FAULTS else len({part.mode for part in FAULTS.values()})), struck
    assert trained_on(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("name", ENDED)
def test_others_end_it_in_one_line(store: FaultServer, tmp_path: Path, name: str) -> None:
    fault, words = ENDED[name]
    store.set(replace(fault, path=r"\.tar$"))
    began = time.monotonic()
    with pytest.raises(UserError, match=words):
        main(command_line(flags("s3://corpora/job", tmp_path / "out")))
    assert time.monotonic() - began < 20


def test_under_accelerate_launch_with_debug_logs_no_credential_is_shown(
    store: FaultServer, gateway: Gateway, undisturbed: list[object], tmp_path: Path
) -> None:
    store.set(Fault("reset", after=20_000, times=3, path=r"\.tar$"))
    log = tmp_path / "debug.log"
    site = tmp_path / "site"
    site.mkdir()
    settings = f"import logging; logging.basicConfig(filename={str(log)!r}, level=logging.DEBUG)"
    (site / "sitecustomize.py").write_text(settings)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "recipes/mixed.py"]
    job = subprocess.Popen(
        [*command, *flags("s3://corpora/job", tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(site)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    commands = set[str]()
    while job.poll() is None:
        for pid in (path.name for path in Path("/proc").iterdir() if path.name.isdecimal()):
            try:
                commands.add(Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"))
            except OSError:
                continue
        time.sleep(0.2)
    assert job.stdout is not None
    output = job.stdout.read()
    assert job.returncode == 0, output[-3000:]
    assert trained_on(tmp_path / "out") == undisturbed
    seen = log.read_text() + output + "".join(commands)
    assert "Calculating signature" in seen
    assert any("s3://corpora/job" in command for command in commands)
    for secret in (gateway.key, gateway.secret, gateway.token):
        assert secret not in seen
    logging.getLogger(__name__).info("looked through %d kB", len(seen) // 1000)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_kills_and_changes_of_ranks_leave_the_same_ledger(store: FaultServer, tmp_path: Path) -> None:
    """Each life is killed within a few steps of its first; every other one has two ranks."""
    longer = ["--stage1.steps=60", "--stage2.steps=60"]
    whole = flags("s3://corpora/job", tmp_path / "whole") + longer
    main(command_line(whole))
    command = [str(ROOT / "recipes" / "mixed.py"), *flags("s3://corpora/job", tmp_path / "killed"), *longer]
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    chance = random.Random(0)
    steps_killed_at: list[tuple[int, int]] = []
    metrics = tmp_path / "killed" / "metrics.jsonl"

    def logged() -> int:
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    for life in range(20):
        ranks = 1 + life % 2
        run = ["-m", "torch.distributed.run", "--nproc_per_node", str(ranks), "--master_port", "0"] if ranks > 1 else []
        job = subprocess.Popen(
            [sys.executable, *run, *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=quiet,
            start_new_session=True,
        )
        before, more = logged(), chance.randint(2, 7)
        started = False
        while job.poll() is None:
            now = logged()
            started = started or now < before or now > before
            if started and now >= min(before, now) + 1 and now - before >= more - 2:
                break
            time.sleep(0.005)
        assert job.poll() is None, f"life {life} ended before it could be killed"
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        steps_killed_at.append((ranks, logged()))
    print("killed at (ranks, logged steps):", steps_killed_at)
    subprocess.run([sys.executable, *command], env=quiet, check=True, stdout=subprocess.DEVNULL)
    for stage in ("stage1", "stage2"):
        ledger = json.loads((tmp_path / "killed" / stage / "ledger.json").read_text())
        assert ledger == json.loads((tmp_path / "whole" / stage / "ledger.json").read_text())
        assert ledger["steps"] == 60
