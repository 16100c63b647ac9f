"""A real S3 server for the tests marked `s3`: started once a session, where it is installed; and faults in front."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import ENDED, FaultServer  # pyright: ignore[reportMissingImports]
from s3_server import Gateway, missing_programs, s3_server  # pyright: ignore[reportMissingImports]

from understudy.shards import fetch as fetching
from understudy.shards import remote, s3


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    missing = missing_programs()
    if missing:
        pytest.skip(f"no S3 server: {missing} not installed; run `tests/storage/rgw.sh install` as root")
    with s3_server(tmp_path_factory.mktemp("rgw") / "server") as started:
        yield started


@pytest.fixture(scope="session")
def proxy(gateway: Gateway) -> Iterator[FaultServer]:
    with FaultServer(gateway.host) as server:
        yield server


@pytest.fixture
def store(
    gateway: Gateway,
    proxy: FaultServer,
    s3_environment: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> FaultServer:
    """The proxy without a fault, boto3 pointed at it with temporary credentials, and a cache of the test's own."""
    proxy.set(None)
    s3_environment(proxy.address, gateway.key, gateway.secret, gateway.token)
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "FIRST_PAUSE_S", 0.02)
    return proxy


@pytest.fixture
def shorten(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function of a fault's name: shortens the waits that it takes, and no others, for this machine may be slow."""

    def shorten(name: str) -> None:
        if name.startswith("stall"):
            for module in (s3, remote):
                monkeypatch.setattr(module, "SILENCE_S", 1.5)
        if name.startswith("trickle"):
            monkeypatch.setattr(fetching, "WATCHED_S", 1.0)
        if name in ENDED:
            monkeypatch.setattr(fetching, "PATIENCE_S", 2.0)

    return shorten
