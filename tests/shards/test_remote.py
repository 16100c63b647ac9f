"""Addresses, opening corpora at them, publishing, and what must never be seen: credentials."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from faults import Fault, FaultServer  # pyright: ignore[reportMissingImports]

from understudy.shards import fetch as fetching
from understudy.shards.cache import Cache
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.info import describe
from understudy.shards.manifest import MANIFEST, SAMPLES, Manifest
from understudy.shards.redact import hide, protect_logs, redact
from understudy.shards.remote import Remote, parse_address

TOKEN = "TheSessionToken/of+many//letters=="


@pytest.fixture(scope="module")
def corpus(make_corpus: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("served") / "bucket" / "tiny", 12, samples_per_shard=4)


@pytest.fixture
def server(corpus: Path, s3_environment: Callable[..., None]) -> Iterator[FaultServer]:
    with FaultServer(corpus.parents[1]) as running:
        s3_environment(running.address, token=TOKEN)
        yield running


def test_addresses() -> None:
    assert parse_address("some/folder") == Path("some/folder")
    assert parse_address("a:b") == Path("a:b")
    assert parse_address("S3://bucket/a b/c/") == Remote("s3://bucket/a b/c")
    assert str(parse_address("s3://bucket") / MANIFEST) == "s3://bucket/manifest.json"
    assert parse_address("https://host:8000/x/y.tar").name == "y.tar"
    assert str(parse_address("https://[::1]:8000/x@y")) == "https://[::1]:8000/x@y"
    assert str(parse_address("s3://bucket/who@where")) == "s3://bucket/who@where"
    for text, words in {
        "s3://": "names no bucket",
        "https:///x": "names no host",
        "ftp://host/x": "no way to read ftp://; use a folder, s3://bucket/prefix or https://host/path",
        "gs://bucket/x": r"use s3://bucket/x with AWS_ENDPOINT_URL=https://storage\.googleapis\.com",
        "https://[abc": "not an address",
        "s3://[x": "not an address",
        "s3://bucket:80/x": "not an address",
        "https://host:port/x": "not an address",
        "https://host:70000": "not an address",
    }.items():
        with pytest.raises(UserError, match=words):
            parse_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter22@host/x",
        "https://host/x?X-Amz-Signature=hunter22",
        "https://host/a@b?X-Amz-Signature=hunter22",
        "s3://AKIA:hunter22@bucket/x",
        "s3://AKIA:hunter22/hunter22@bucket/x",
        "https://AKIA:x9/hunter22+@[bucket/x",
        "gs://AKIA:hunter22@bucket/x",
        "ftp://AKIA:hunter22@[host/x",
    ],
)
def test_an_address_with_credentials_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UserError, match="leave out what stands before @ and after") as error:
        parse_address(text)
    assert "hunter22" not in str(error.value)
    assert "AKIA" not in str(error.value)


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_a_corpus_elsewhere_is_the_one_that_was_packed(
    scheme: str, server: FaultServer, corpus: Path, tmp_path: Path
) -> None:
    address = f"{server.address}/bucket/tiny/" if scheme == "http" else "s3://bucket/tiny"
    local, opened = Corpus.open(corpus), Corpus.open(address, Cache(tmp_path / "cache", 10**9))
    assert opened.manifest == local.manifest
    assert opened.keys == local.keys
    assert str(opened.root) == address.rstrip("/")
    for number, shard in enumerate(local.manifest.shards):
        with os.fdopen(opened.open_shard(number), "rb") as file:
            assert file.read() == (corpus / shard.url).read_bytes()
    assert describe(parse_address(address)) == describe(corpus)
    asked = len(server.requests)
    Corpus.open(address, Cache(tmp_path / "cache", 10**9))
    assert len(server.requests) == asked + 1, "only the manifest is asked for again"


@pytest.mark.parametrize("digest", ["../victim.txt", "/VICTIM", "", "A" * 64])
def test_a_hostile_manifest_reaches_no_file_outside_of_the_cache(
    server: FaultServer, corpus: Path, tmp_path: Path, digest: str
) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("years of work")
    digest = digest.replace("/VICTIM", str(victim))
    hostile = corpus.parent / "hostile"
    hostile.mkdir(exist_ok=True)
    for change in (
        {"samples_sha256": digest},
        {"shards": (replace(Manifest.load(corpus).shards[0], sha256=digest),)},
    ):
        replace(Manifest.load(corpus), **change).save(hostile)
        for address in (f"{server.address}/bucket/hostile", "s3://bucket/hostile"):
            with pytest.raises(UserError, match=r"hostile/manifest\.json: not a corpus manifest .*; repack") as error:
                Corpus.open(address, Cache(tmp_path / "cache", 10**9))
            assert "\n" not in str(error.value)
            assert victim.read_text() == "years of work"


def test_a_manifest_damaged_on_the_way_is_fetched_again(server: FaultServer, tmp_path: Path) -> None:
    for fault in (
        Fault("flip", after=100, path=MANIFEST),
        Fault("short", after=300, path=MANIFEST),
        Fault("no-length", after=300, path=MANIFEST),
        Fault("close", after=300, path=MANIFEST),
        Fault("flip", after=100, path=SAMPLES),
    ):
        server.set(fault)
        assert len(Corpus.open("s3://bucket/tiny", Cache(tmp_path / fault.mode / fault.path, 10**9))) == 12
        assert server.fault is not None
        assert server.fault.times == 0
    server.set(Fault("flip", after=100, path=MANIFEST, times=-1))
    with pytest.raises(UserError, match=r"tiny/manifest\.json: (digest does not fit|not a corpus manifest)"):
        Corpus.open("s3://bucket/tiny")


def test_what_is_not_there_is_named(
    server: FaultServer, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "FIRST_PAUSE_S", 0.01)
    cache = Cache(tmp_path / "cache", 10**9)
    with pytest.raises(UserError, match=r"s3://bucket/other: no manifest\.json there, so it is not a corpus; check"):
        Corpus.open("s3://bucket/other", cache)
    server.set(Fault("no-bucket", times=-1))
    with pytest.raises(UserError, match="no bucket bucket at http://127"):
        Corpus.open("s3://bucket/tiny", cache)
    assert isinstance(server.backend, Path)
    server.set(None)
    shutil.copytree(corpus, server.backend / "bucket" / "holes", dirs_exist_ok=True)
    (server.backend / "bucket" / "holes" / SAMPLES).unlink()
    with pytest.raises(UserError, match=r"holes/samples\.jsonl\.zst: missing, though manifest\.json names it; upload"):
        Corpus.open("s3://bucket/holes", cache)
    shutil.copy(corpus / SAMPLES, server.backend / "bucket" / "holes")
    opened = Corpus.open("s3://bucket/holes", cache)
    (server.backend / "bucket" / "holes" / opened.manifest.shards[1].url).unlink()
    with pytest.raises(UserError, match=r"holes/tiny-000001\.tar: missing, though the manifest names it; upload"):
        opened.open_shard(1)


def test_without_credentials_a_public_bucket_is_read(
    server: FaultServer, s3_environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    s3_environment(server.address)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert len(Corpus.open("s3://bucket/tiny", Cache(tmp_path, 10**9))) == 12
    server.set(Fault("denied", times=-1))
    with pytest.raises(UserError, match="access denied; no credentials were found: set AWS_PROFILE"):
        Corpus.open("s3://bucket/tiny")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Credential=AKIAIOSFODNN7EXAMPLE/2026", "Credential=***/2026"),
        ("Signature:\nabcdef0123", "Signature:\n***"),
        ("b'AWS4-HMAC Credential=KEY/x, Signature=abc123'", "b'AWS4-HMAC Credential=***/x, Signature=***'"),
        ("'X-Amz-Security-Token': b'abc+/='", "'X-Amz-Security-Token': b'***'"),
        ("x-amz-security-token:abc+/=", "x-amz-security-token:***"),
        ("GET /a?X-Amz-Signature=12&b=1 HTTP", "GET /a?*** HTTP"),
        ("'Authorization': b'Bearer abc def', 'a': 1", "'Authorization': b'***', 'a': 1"),
        ("<SecretAccessKey>abc/+</SecretAccessKey>", "<SecretAccessKey>***</SecretAccessKey>"),
        ('"SessionToken" : "abc"', '"SessionToken" : "***"'),
        ("key ASIAIOSFODNN7EXAMPLE.", "key ASIA***."),
        ("https://me:word@host/x", "https://***@host/x"),
        ("nothing to hide: 1 = 2?", "nothing to hide: 1 = 2?"),
    ],
)
def test_what_looks_like_a_credential_is_blanked(text: str, left: str) -> None:
    assert redact(text) == left


def test_what_was_hidden_is_blanked_anywhere() -> None:
    hide("a-very-odd-secret", None, "")
    assert redact("x a-very-odd-secret y") == "x *** y"


def test_logs_at_any_level_hold_no_credentials(
    server: FaultServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    protect_logs()
    protect_logs()
    for name in ("", "botocore", "urllib3", "botocore.auth"):
        caplog.set_level(logging.DEBUG, logger=name)
    Corpus.open("s3://bucket/tiny", Cache(tmp_path, 10**9))
    logging.getLogger("botocore.some").error("token %s", TOKEN)
    try:
        raise ValueError(f"somesecret and {TOKEN}")
    except ValueError:
        logging.getLogger("urllib3.some").exception("failed")
    assert "Calculating signature" in caplog.text, "the signing was logged at all"
    assert "ValueError" in caplog.text
    for credential in ("SOMEKEYID", "somesecret", TOKEN, TOKEN.replace("/", "%2F")):
        assert credential not in caplog.text
