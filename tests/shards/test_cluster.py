"""Packing with a Ray cluster of two machines, both of them here: the bytes of local packing, also when one is lost."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_readers import read_and_note, read_by_name, read_moving_bar  # pyright: ignore[reportMissingImports]

from understudy.shards import cluster
from understudy.shards.errors import UserError
from understudy.shards.lint import lint
from understudy.shards.pack import PackConfig, pack
from understudy.shards.sources import Source

pytestmark = pytest.mark.ray

HELPERS = Path(__file__).parents[1] / "helpers"
CONFIG = PackConfig("tiny", "synthetic", ("a", "b"), "CC0-1.0", b"a secret", short_side=48, samples_per_shard=6)


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A cluster of a head without cores, which is this process's, and of two machines with one core each."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed; pip install -e '.[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HELPERS), *filter(None, [os.environ.get("PYTHONPATH")])]))
        import ray
        from ray.cluster_utils import Cluster

        small = {"object_store_memory": 80 << 20, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
        nodes = [made.add_node(num_cpus=1, **small) for _ in range(2)]
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        try:
            yield made, nodes
        finally:
            ray.shutdown()
            made.shutdown()


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "BATCH", 4)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def sources(count: int, odd: dict[int, str] | None = None) -> list[Source]:
    return [Source(f"{(odd or {}).get(i, 'clip')}-{i}", i % 2) for i in range(count)]


def test_the_bytes_are_those_of_local_packing_crashing_decoders_included(machines: Any, tmp_path: Path) -> None:
    listed = sources(20, {3: "crash", 9: "refuse"})
    made = pack(listed, read_by_name, tmp_path / "ray", CONFIG, workers=1, engine="ray", progress=False)
    pack(listed, read_by_name, tmp_path / "local", CONFIG, workers=1, progress=False)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert (made.nsamples, made.refused) == (18, 2)


def test_what_a_machine_does_not_see_or_has_otherwise_ends_it_in_one_line(
    machines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(listed: list[Source]) -> str:
        with pytest.raises(UserError) as error:
            pack(listed, read_moving_bar, tmp_path / "ray", CONFIG, workers=1, engine="ray", progress=False)
        assert "\n" not in str(error.value)
        return str(error.value)

    path, versions = tmp_path / "here.mp4", cluster.encoder_versions()

    def gone_when_it_is_sent(**others: str) -> None:
        """A machine that does not see a file is like one from which it has just been removed."""
        path.touch()
        monkeypatch.setattr(cluster, "encoder_versions", lambda: (path.unlink(), {**versions, **others})[1])

    gone_when_it_is_sent(av="1.0")
    assert "not 1.0; install the same on all machines" in said([Source("here", 0, path)])
    gone_when_it_is_sent()
    assert f"does not see {path}; mount the videos there on all machines" in said([Source("here", 0, path)])


def test_a_machine_that_is_lost_costs_its_unfinished_videos_only(machines: Any, tmp_path: Path) -> None:
    """Last, for the machine is gone then. A file that each reading appends to tells what was read, and how often."""
    made, nodes = machines
    listed, journal, doomed = sources(40), tmp_path / "journal", tmp_path / "doomed"
    read = partial(read_and_note, journal=journal, doomed=doomed)  # two of its four videos done, it waits for its end

    def lose_one() -> None:
        while not doomed.exists() or not doomed.read_text():
            time.sleep(0.01)
        daemon = int(doomed.read_text())
        (node,) = [node for node in nodes if node.all_processes["raylet"][0].process.pid == daemon]
        children = Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split()
        for pid in [daemon, *map(int, children)]:  # as a power cut would, so that nobody can finish
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        made.remove_node(node, allow_graceful=False)

    loser = threading.Thread(target=lose_one, daemon=True)  # if packing fails, it would wait for ever
    loser.start()
    pack(listed, read, tmp_path / "ray", CONFIG, workers=1, engine="ray", progress=False)
    loser.join()
    again = journal.read_text().splitlines()
    pack(listed, read, tmp_path / "local", CONFIG, workers=0, progress=False)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert lint(tmp_path / "ray").findings == ()
    print(f"{len(again) - len(listed)} of {len(listed)} videos were read twice")
    assert len(listed) + 3 <= len(again) < len(listed) + 24


def test_without_ray_it_says_what_to_install(tmp_path: Path) -> None:
    """Needs no Ray: it is hidden from a process of its own."""
    script = (
        "import sys; sys.modules['ray'] = None\n"
        "from understudy.shards.cluster import ray_map\n"
        "from understudy.shards.errors import UserError\n"
        "try: list(ray_map(print, [], patience_s=1))\n"
        "except UserError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == 'Ray is not installed; run in the checkout: pip install -e ".[ray]"\n'


def test_an_address_where_no_cluster_is_ends_it_at_once(tmp_path: Path, machines: Any) -> None:
    script = (
        "from understudy.shards.cluster import ray_map\n"
        "from understudy.shards.errors import UserError\n"
        "try: list(ray_map(print, [], patience_s=1))\n"
        "except UserError as error: print(error)\n"
    )
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert re.fullmatch(r"no Ray cluster at 127\.0\.0\.1:1 \(.*refused\); check RAY_ADDRESS\n", done.stdout)
