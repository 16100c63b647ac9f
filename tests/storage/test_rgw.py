"""Against a real S3 server with a proxy in front that misbehaves: every fault x {fetch, cache, loader, main job}.

All of it with temporary credentials and DEBUG logs, which must not show them.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faults import ENDED, RECOVERED, Fault, FaultServer  # pyright: ignore[reportMissingImports]

from understudy.loader import Clip, ClipLoader, LoaderSource, Views
from understudy.shards import publish as publishing
from understudy.shards.cache import Cache
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.fetch import fetch
from understudy.shards.lint import lint
from understudy.shards.manifest import MANIFEST
from understudy.shards.publish import publish
from understudy.shards.redact import protect_logs
from understudy.shards.remote import Remote, parse_address

if TYPE_CHECKING:
    from s3_server import Gateway  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.s3

CLIP, VIEWS = Clip(4, 2, 16), Views(2, scale=(0.5, 1.0))
CORPUS = "s3://corpora/a/tiny"
NOWHERE = Remote("s3://corpora/a/other")


@pytest.fixture(scope="module", autouse=True)
def debug_log(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Everything that is logged in this file, at DEBUG; checked when all is over."""
    gateway: Gateway = request.getfixturevalue("gateway")
    protect_logs()  # for the fixtures' own client; ours sees to it itself
    path = tmp_path_factory.mktemp("log") / "debug.log"
    handler = logging.FileHandler(path)
    loggers = [logging.getLogger(name) for name in ("boto3", "botocore", "s3transfer", "urllib3", "understudy")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False  # or a failure would be told in thousands of lines
    yield path
    for logger in loggers:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
    handler.close()
    text = path.read_text()
    assert "Calculating signature" in text, "nothing was logged at DEBUG"
    for secret in (gateway.key, gateway.secret, gateway.token, gateway.token.replace("/", "%2F"), gateway.lasting_key):
        assert secret not in text


@pytest.fixture(scope="module")
def local(make_corpus: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("local") / "tiny", 40, samples_per_shard=8, size=(96, 80))


@pytest.fixture
def corpus(store: FaultServer, gateway: Gateway, local: Path) -> str:
    """Its address in the bucket."""
    publish(local, Remote(CORPUS), progress=False)
    store.set(None)
    return CORPUS


def ids_and_pixels(corpus: Corpus, steps: int = 6) -> str:
    sha = hashlib.sha256()
    with ClipLoader([LoaderSource(corpus)], CLIP, VIEWS, 16, 3, threads=2) as made:
        for _ in range(steps):
            batch = next(made)
            assert batch.ok.all()
            for part in (batch.ids, batch.labels, batch.clips):
                sha.update(part.numpy().tobytes())
    return sha.hexdigest()


@pytest.mark.parametrize("name", RECOVERED)
def test_recovered(
    store: FaultServer, corpus: str, local: Path, tmp_path: Path, name: str, shorten: Callable[[str], None]
) -> None:
    """Three columns of the table: fetch, cache, loader."""
    shorten(name)
    fault = replace(RECOVERED[name], path=r"\.tar$")
    opened = Corpus.open(corpus)
    blob, sink = opened.shard_blob(0), io.BytesIO()
    store.set(fault)
    fetch(blob, sink)
    assert sink.getvalue() == (local / blob.remote.name).read_bytes()
    assert any(request.fault for request in store.requests)
    store.set(fault)
    with os.fdopen(Cache(tmp_path / "another", 10**9).open(blob), "rb") as file:
        assert file.read() == sink.getvalue()
    assert any(request.fault for request in store.requests)
    store.set(fault)
    assert ids_and_pixels(Corpus.open(corpus)) == ids_and_pixels(Corpus.open(local))
    assert any(request.fault for request in store.requests)


@pytest.mark.parametrize("name", ENDED)
def test_ended_in_one_line(
    store: FaultServer, corpus: str, tmp_path: Path, name: str, shorten: Callable[[str], None]
) -> None:
    shorten(name)
    fault, words = ENDED[name]
    opened = Corpus.open(corpus)
    for attempt in (
        lambda: fetch(opened.shard_blob(0), io.BytesIO()),
        lambda: Cache(tmp_path / "another", 10**9).open(opened.shard_blob(0)),
        lambda: ids_and_pixels(opened),
    ):
        store.set(replace(fault, path=r"\.tar$"))
        with pytest.raises(UserError, match=words) as error:
            attempt()
        assert "\n" not in str(error.value)
        assert error.value.__cause__ is None
    assert not list((tmp_path / "another").glob("*.part"))


def test_an_object_that_is_replaced_while_it_is_read(store: FaultServer, gateway: Gateway, local: Path) -> None:
    publish(local, Remote("s3://corpora/a/changing"), progress=False)
    good = (local / "tiny-000000.tar").read_bytes()

    def put(body: bytes) -> object:
        return gateway.client.put_object(Bucket="corpora", Key="a/changing/tiny-000000.tar", Body=body)

    blob = Corpus.open("s3://corpora/a/changing").shard_blob(0)
    sink = io.BytesIO()
    store.set(Fault("reset", after=20_000, action=lambda: put(good)))
    fetch(blob, sink)
    assert sink.getvalue() == good, "the same again does no harm"
    assert [request.status for request in store.requests] == [200, 206]

    restored = Fault("slow", action=lambda: put(good))
    store.set(Fault("reset", after=20_000, action=lambda: put(good[::-1]), then=restored))
    with pytest.raises(UserError, match="do not fit the digest in the manifest, twice; it is damaged or was replaced"):
        fetch(blob, sink)
    assert [request.status for request in store.requests] == [200, 412, 200]
    fetch(blob, sink)
    assert sink.getvalue() == good


def test_a_bucket_key_or_clock_that_is_wrong_is_named(
    store: FaultServer,
    corpus: str,
    gateway: Gateway,
    s3_environment: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def said(address: str = corpus) -> str:
        with pytest.raises(UserError) as error:
            Corpus.open(address)
        assert gateway.secret not in str(error.value)
        assert gateway.token not in str(error.value)
        return str(error.value)

    assert "no bucket nobodys at http://127.0.0.1" in said("s3://nobodys/corpus")
    assert "no manifest.json there, so it is not a corpus; check the path" in said("s3://corpora/empty")
    assert "not a bucket name that S3 allows" in said("s3://Not_A_Bucket!/corpus")

    s3_environment(store.address, gateway.lasting_key, "another-secret")
    assert "access denied; check AWS_PROFILE, the key, its secret and its rights" in said()
    s3_environment(store.address, "NOSUCHKEY", "another-secret")
    assert re.search("access denied; check AWS_PROFILE|does not know this key", said())
    s3_environment(store.address)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "access denied; no credentials were found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID" in said()

    s3_environment(store.address, gateway.key, gateway.secret, gateway.token)
    import datetime

    import botocore.auth

    late = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=2)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda remove_tzinfo=True: late.replace(tzinfo=None))
    assert "this machine's clock is wrong by over 15 minutes; set it" in said()


def test_a_missing_shard_and_a_useless_cache_are_named(
    store: FaultServer, gateway: Gateway, local: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    publish(local, Remote("s3://corpora/a/holes"), progress=False)
    gateway.client.delete_object(Bucket="corpora", Key="a/holes/tiny-000002.tar")
    with pytest.raises(
        UserError, match=r"s3://corpora/a/holes/tiny-000002\.tar: missing, though the manifest names it"
    ):
        ids_and_pixels(Corpus.open("s3://corpora/a/holes"))
    assert any("holes/tiny-000002.tar" in finding for finding in lint(Remote("s3://corpora/a/holes")).findings)
    (tmp_path / "file").touch()
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"can't be used as the cache \(Not a directory\); set UNDERSTUDY_CACHE to"):
        Corpus.open("s3://corpora/a/holes")


def test_publishing_puts_the_manifest_last_goes_on_and_overwrites_nobody(
    store: FaultServer, local: Path, make_corpus: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, sent = publishing._send, list[str]()

    def stop_before_the_table(path: Path, remote: Remote) -> None:
        if path.name == "samples.jsonl.zst":
            raise KeyboardInterrupt
        send(path, remote)

    monkeypatch.setattr(publishing, "_send", stop_before_the_table)
    with pytest.raises(KeyboardInterrupt):
        publish(local, NOWHERE, progress=False)
    with pytest.raises(UserError, match="not a corpus"):
        Corpus.open(NOWHERE)
    monkeypatch.setattr(publishing, "_send", lambda path, remote: (sent.append(path.name), send(path, remote)))
    store.set(None)
    publish(local, NOWHERE, progress=False)
    assert sent[-1] == MANIFEST
    puts = [request.path.rpartition("/")[2] for request in store.requests if request.method == "PUT"]
    assert sorted(puts) == [MANIFEST, "samples.jsonl.zst"], "what was there was not sent again"
    assert lint(NOWHERE).findings == ()
    store.set(None)
    publish(local, NOWHERE, progress=False)
    assert not [request for request in store.requests if request.method == "PUT"]
    with pytest.raises(UserError, match="another corpus lies there; give another OUT, or delete it"):
        publish(make_corpus(tmp_path / "else", 4), NOWHERE, progress=False)
    with pytest.raises(UserError, match="no bucket nobodys"):
        publish(local, Remote("s3://nobodys/x"), progress=False)


def test_pack_to_a_bucket_from_the_command_line(
    store: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from make_videos import grey_frames, write_video  # pyright: ignore[reportMissingImports]

    for i, label in enumerate(("walk", "run")):
        (tmp_path / "videos" / label).mkdir(parents=True)
        write_video(tmp_path / "videos" / label / f"{i}.mp4", grey_frames(30))
    (tmp_path / "videos" / "run" / "broken.mp4").write_bytes(b"no video")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    command = [
        *(sys.executable, "-c", "from understudy.cli.main import main; main()"),
        *("pack", str(tmp_path / "videos"), "s3://corpora/b/mine"),
        *("--kind", "real", "--secret-file", str(tmp_path / "secret"), "--workers", "1"),
    ]
    first = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert first.returncode == 0, first.stderr
    assert "s3://corpora/b/mine: 2 samples in 1 shard, 1 refused (see" in first.stdout
    listed = Path(first.stdout.partition("(see ")[2].strip().rstrip(")"))
    assert "broken.mp4" in listed.read_text()
    assert [path.name for path in listed.parent.iterdir()] == [listed.name], "nothing else is left behind"
    assert lint(parse_address("s3://corpora/b/mine")).findings == ()
    again = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "s3://corpora/b/mine: already packed, 2 samples" in again.stdout
    command[command.index("real")] = "synthetic"
    other = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (other.returncode, other.stdout) == (2, "")
    assert "another corpus lies there" in other.stderr
