"""Ceph's S3 gateway on loopback, for the tests marked `s3` and for benchmarks; `rgw.sh` installs and runs it."""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[1] / "storage" / "rgw.sh"
PROGRAMS = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd", "monmaptool", "setpriv")
BUCKET = "corpora"


@dataclass(frozen=True)
class Gateway:
    """The server, and credentials of the user who owns BUCKET: temporary ones with a token, and lasting ones."""

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


def missing_programs() -> str:
    """What has to be installed before there can be a server; empty if nothing."""
    return ", ".join(name for name in PROGRAMS if not shutil.which(name))


@contextmanager
def s3_server(folder: Path) -> Iterator[Gateway]:
    """A new server with one empty bucket; it uses `folder` and removes it at the end."""
    command = ["bash", str(SCRIPT), "run", str(folder), str(_free_ports())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as script:
        assert script.stdin is not None
        assert script.stdout is not None
        started = script.stdout.readline().split()
        if len(started) != 3:
            raise RuntimeError("the S3 server does not start; its messages are above")
        try:
            yield _make_gateway(*started)
        finally:
            script.stdin.close()
            script.wait()


def _make_gateway(endpoint: str, key: str, secret: str) -> Gateway:
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


def _free_ports() -> int:
    """A port that is free together with the next one, at random: two test runs may start at the same time."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as first, socket.socket() as second, suppress(OSError):
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 1))
            return port
