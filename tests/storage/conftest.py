"""A real S3 server for the tests marked `s3`: started once a session, where it is installed; and faults in front."""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from faults import FaultServer  # pyright: ignore[reportMissingImports]

SCRIPT = Path(__file__).with_name("rgw.sh")
BUCKET = "corpora"


@dataclass(frozen=True)
class Gateway:
    """Ceph's S3 gateway, and credentials of the user who owns BUCKET: temporary ones with a token, and lasting ones."""

    endpoint: str
    key: str
    secret: str
    token: str
    lasting_key: str
    lasting_secret: str
    client: Any

    @property
    def host(self) -> str:
        return self.endpoint.removeprefix("http://")


def free_ports() -> int:
    """A port that is free together with the next one, at random: two test runs may start at the same time."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as first, socket.socket() as second, suppress(OSError):
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 1))
            return port


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    missing = [name for name in ("radosgw", "ceph-mon", "ceph-osd", "radosgw-admin") if not shutil.which(name)]
    if missing:
        pytest.skip(f"no S3 server: {', '.join(missing)} not installed; run `tests/storage/rgw.sh install` as root")
    folder, port = tmp_path_factory.mktemp("rgw"), str(free_ports())
    command = [str(SCRIPT), "start", str(folder), port]
    try:
        started = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert started.returncode == 0, f"the S3 server does not start: {started.stderr}"
        yield make_gateway(*started.stdout.split())
    finally:
        subprocess.run([str(SCRIPT), "stop", str(folder)], check=True)


def make_gateway(endpoint: str, key: str, secret: str) -> Gateway:
    import boto3

    def client(service: str, *credentials: str) -> Any:
        return boto3.client(service, "us-east-1", None, True, None, endpoint, *credentials)

    allowed = {"Effect": "Allow", "Action": ["sts:GetSessionToken", "s3:*"], "Resource": ["*"]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    client("iam", key, secret).put_user_policy(UserName="tests", PolicyName="all", PolicyDocument=policy)
    given = client("sts", key, secret).get_session_token(DurationSeconds=3600)["Credentials"]
    temporary = (given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
    s3 = client("s3", *temporary)
    s3.create_bucket(Bucket=BUCKET)
    return Gateway(endpoint, *temporary, key, secret, client=s3)


@pytest.fixture(scope="session")
def proxy(gateway: Gateway) -> Iterator[FaultServer]:
    with FaultServer(gateway.host) as server:
        yield server
