"""Credentials that run out and have to be got anew, from a provider that does not always answer."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.credentials
import botocore.exceptions
import pytest
from faults import Fault, FaultServer  # pyright: ignore[reportMissingImports]

from understudy.shards import credentials as lasting
from understudy.shards import fetch as fetching
from understudy.shards.errors import UserError
from understudy.shards.fetch import fetch_text
from understudy.shards.remote import Remote

PLACE = Remote("s3://bucket/a")


class Provider:
    """Gives botocore credentials KEY0, KEY1 and so on; an answer that is empty counts too. `later` moves its clock."""

    def __init__(self, seconds: list[float | None]) -> None:
        self.answers = seconds  # for which each answer to come is good, None for an empty one; the last is repeated
        self.asked = 0
        self.later = datetime.timedelta()

    def now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC) + self.later

    def answer(self) -> dict[str, str]:
        seconds = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if seconds is None:
            return {}
        until = self.now() + datetime.timedelta(seconds=seconds)
        key = f"KEY{self.asked - 1}"
        return {"access_key": key, "secret_key": "sec", "token": f"tok{key}", "expiry_time": until.isoformat()}

    def load_credentials(self) -> Any:
        found = self.answer()
        if not found:
            return None
        until = datetime.datetime.fromisoformat(found.pop("expiry_time"))
        return botocore.credentials.RefreshableCredentials(
            **found, expiry_time=until, refresh_using=self.answer, method="test", time_fetcher=self.now
        )


@pytest.fixture
def server(
    tmp_path: Path, s3_environment: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultServer]:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "a").write_bytes(b"here")
    monkeypatch.setattr(fetching, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(fetching, "PATIENCE_S", 0.3)
    with FaultServer(tmp_path) as running:
        s3_environment(running.address)
        yield running


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Provider]:
    def provide(*seconds: float | None) -> Provider:
        made = Provider(list(seconds))
        monkeypatch.setattr(botocore.credentials, "create_credential_resolver", lambda *_, **__: made)
        return made

    return provide


@pytest.mark.parametrize("minutes", [14, 5])  # before they expire: botocore would like new ones, or insists on them
def test_while_they_are_good_an_empty_answer_does_no_harm(
    server: FaultServer, provider: Callable[..., Provider], monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    monkeypatch.setattr(lasting, "AGAIN_S", 0.0)
    made = provider(3600.0, None, 3600.0)
    assert fetch_text(PLACE) == b"here"
    made.later = datetime.timedelta(minutes=60 - minutes)
    assert [fetch_text(PLACE) for _ in range(3)] == [b"here"] * 3
    assert [request.key for request in server.requests] == ["KEY0", "KEY0", "KEY2", "KEY2"]


def test_a_provider_that_never_answers_is_not_asked_at_each_request_and_ends_it_when_they_expire(
    server: FaultServer, provider: Callable[..., Provider]
) -> None:
    made = provider(3600.0, None)
    assert fetch_text(PLACE) == b"here"
    made.later = datetime.timedelta(minutes=55)
    assert [fetch_text(PLACE) for _ in range(5)] == [b"here"] * 5
    assert made.asked == 2
    made.later = datetime.timedelta(minutes=61)
    with pytest.raises(UserError, match=r"s3://bucket/a: no credentials could be got; gave up after") as error:
        fetch_text(PLACE)
    assert "\n" not in str(error.value)
    assert [request.key for request in server.requests] == ["KEY0"] * 6, "never without a signature"


def test_a_pause_of_the_provider_is_survived_after_they_have_expired(
    server: FaultServer, provider: Callable[..., Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PATIENCE_S", 60.0)
    made = provider(3600.0, None, None, 3600.0)
    assert fetch_text(PLACE) == b"here"
    made.later = datetime.timedelta(minutes=61)
    assert fetch_text(PLACE) == b"here"
    assert [request.key for request in server.requests] == ["KEY0", "KEY3"]


def test_new_ones_that_have_expired_are_told(server: FaultServer, provider: Callable[..., Provider]) -> None:
    made = provider(-1.0)
    with pytest.raises(UserError, match=r"s3://bucket/a: the credentials have expired; renew them") as error:
        fetch_text(PLACE)
    assert "\n" not in str(error.value)
    assert made.asked == 3
    assert server.requests == []


def test_where_the_store_refuses_them_and_there_are_no_others_it_is_not_read_without(
    server: FaultServer, provider: Callable[..., Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PATIENCE_S", 60.0)
    provider(3600.0, None, None, 3600.0)
    server.set(Fault("expired"))
    assert fetch_text(PLACE) == b"here"
    assert [request.key for request in server.requests] == ["KEY0", "KEY3"]


def test_who_never_had_any_reads_without(server: FaultServer, provider: Callable[..., Provider]) -> None:
    provider(None)
    assert fetch_text(PLACE) == b"here"
    assert [request.key for request in server.requests] == [""]


def test_a_machine_that_is_asked_for_its_role_may_miss_one_answer(
    server: FaultServer, s3_environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_environment(server.address)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name)
    until = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    about = f'{{"AccessKeyId": "ROLEKEY", "SecretAccessKey": "sec", "Token": "tok", "Expiration": "{until}"}}'
    assert isinstance(server.backend, Path)
    folder = server.backend / "latest" / "meta-data" / "iam" / "security-credentials"
    (folder / "roles").mkdir(parents=True)
    (folder / "role").write_text(about)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"{server.address}/")
    # The list of roles is a folder here, which is not served.
    monkeypatch.setattr("botocore.utils.InstanceMetadataFetcher._get_iam_role", lambda *_, **__: "role")
    server.set(Fault("503", path="latest"))
    assert fetch_text(PLACE) == b"here"
    assert server.requests[-1].key == "ROLEKEY"
