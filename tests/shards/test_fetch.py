"""The body loop against a server that misbehaves, as a web server and as an S3 store."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from faults import Fault, FaultServer  # pyright: ignore[reportMissingImports]

from understudy.shards import fetch as fetching
from understudy.shards import remote as remotes
from understudy.shards import s3, web
from understudy.shards.errors import UserError
from understudy.shards.fetch import Blob, StoppedError, fetch, fetch_text
from understudy.shards.manifest import Manifest
from understudy.shards.remote import MissingError, Remote

SIZE = 3_000_000
CONTENT = np.random.default_rng(0).bytes(SIZE)
OTHER = np.random.default_rng(1).bytes(SIZE)

Store = Callable[[str], Remote]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultServer]:
    root = tmp_path_factory.mktemp("bucket-root")
    (root / "bucket").mkdir()
    (root / "bucket" / "a.tar").write_bytes(CONTENT)
    (root / "bucket" / "b.tar").write_bytes(OTHER)
    (root / "bucket" / "short.tar").write_bytes(CONTENT[:-1000])
    (root / "bucket" / "long.tar").write_bytes(CONTENT + b"more")
    (root / "bucket" / "empty").write_bytes(b"")
    with FaultServer(root) as running:
        yield running


@pytest.fixture(params=["http", "s3"])
def store(request: pytest.FixtureRequest, server: FaultServer, s3_environment: Callable[[str], None]) -> Store:
    """A function from an object's name to its address, in either dialect."""
    server.set(None)
    s3_environment(server.address)
    prefix = f"{server.address}/bucket" if request.param == "http" else "s3://bucket"
    return lambda name: Remote(f"{prefix}/{name}")


@pytest.fixture
def impatient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pauses a fraction as long, and the wait that the test's fault takes, but no other, for a loaded machine may
    fall silent for a while by itself.
    """
    call = getattr(request.node, "callspec", None)
    mode = call.params["fault"].mode if call and "fault" in call.params else ""
    if mode == "stall":
        for module in (web, s3, remotes):
            monkeypatch.setattr(module, "SILENCE_S", 1.0)
    if mode == "trickle":
        monkeypatch.setattr(fetching, "WATCHED_S", 0.4)
    monkeypatch.setattr(fetching, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(fetching, "LONGEST_PAUSE_S", 0.2)


@pytest.fixture
def soon_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A patience for what never ends."""
    monkeypatch.setattr(fetching, "PATIENCE_S", 1.0)


def blob(remote: Remote) -> Blob:
    return Blob(remote, SIZE, hashlib.sha256(CONTENT).hexdigest())


def fetched(remote: Remote) -> bytes:
    sink = io.BytesIO()
    fetch(blob(remote), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("fault", "resumed"),
    [
        (Fault("reset", after=1_000_000), True),
        (Fault("reset", after=700_000, times=-1), True),
        (Fault("close", after=1_000_000), True),
        (Fault("close", after=2_999_999), True),
        (Fault("503", times=3), False),
        (Fault("500", times=3), False),
        (Fault("stall", after=1_000_000), True),
        (Fault("stall", after=0), False),
        (Fault("slow", rate=4_000_000), False),
        (Fault("short", after=1_000_000), True),
        (Fault("no-length", after=1_000_000), True),
        (Fault("flip", after=1_234_567), False),
        (Fault("trickle"), True),
    ],
    ids=lambda value: f"{value.mode}-{value.after}-x{value.times}" if isinstance(value, Fault) else "",
)
@pytest.mark.usefixtures("impatient")
def test_what_can_be_recovered_is_and_resumes_in_the_middle(
    server: FaultServer, store: Store, fault: Fault, resumed: bool
) -> None:
    server.set(fault)
    assert fetched(store("a.tar")) == CONTENT
    first, *later = server.downloads()
    assert (first.range, first.if_match) == ("", "")
    if resumed:
        assert later, server.requests
        assert all(request.range and request.if_match for request in later)
        assert sum(request.sent for request in server.requests) < 1.3 * SIZE, "what had come was not sent again"


@pytest.mark.usefixtures("impatient")
def test_expired_credentials_are_looked_for_again_once(server: FaultServer, store: Store) -> None:
    if not store("").url.startswith("s3"):
        pytest.skip("https has no credentials")
    server.set(Fault("expired"))
    assert fetched(store("a.tar")) == CONTENT
    server.set(Fault("expired", times=-1))
    with pytest.raises(UserError, match=r"the credentials have expired; renew them"):
        fetched(store("a.tar"))
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("503", times=-1), "the server answers 503.*gave up after"),
        (Fault("500", times=-1), "the server answers 500.*gave up after"),
        (Fault("close", after=0, times=-1), "the connection .*gave up after"),
        (Fault("stall", after=0, times=-1), "no byte came for 1 s; gave up after"),
        (Fault("trickle", times=-1), "less than 20 kB a second came for . s; gave up"),
        (Fault("flip", after=5, times=-1), "its bytes do not fit the digest in the manifest, twice"),
        (
            Fault("replaced", after=10_000, replacement="/bucket/b.tar"),
            "its bytes do not fit the digest.*replaced: upload",
        ),
    ],
    ids=lambda value: value.mode if isinstance(value, Fault) else "",
)
@pytest.mark.usefixtures("impatient", "soon_over")
def test_what_can_not_be_recovered_ends_in_one_line(
    server: FaultServer, store: Store, fault: Fault, words: str
) -> None:
    server.set(fault)
    with pytest.raises(UserError, match=f"a.tar: {words}") as error:
        fetched(store("a.tar"))
    assert "\n" not in str(error.value)
    assert len(server.requests) <= 100, "pauses grow"


@pytest.mark.usefixtures("impatient")
def test_a_server_may_be_away_for_as_long_as_the_patience_lasts_however_often_it_is_asked(
    server: FaultServer, store: Store
) -> None:
    server.set(Fault("503", times=15))
    assert fetched(store("a.tar")) == CONTENT
    assert len(server.requests) == 16


def test_a_replaced_object_is_never_spliced(server: FaultServer, store: Store) -> None:
    server.set(Fault("replaced", after=1_000_000, replacement="/bucket/b.tar"))
    sink = io.BytesIO()
    digest = hashlib.sha256(OTHER).hexdigest()  # as if the new one were asked for: it must come whole
    fetch(Blob(store("a.tar"), SIZE, digest), sink)
    assert sink.getvalue() == OTHER
    assert [request.status for request in server.requests] == [200, 412, 200]


def test_a_server_without_ranges_is_read_from_the_start_again(server: FaultServer, store: Store) -> None:
    server.set(Fault("close", after=500_000, then=Fault("no-range", times=-1)))
    assert fetched(store("a.tar")) == CONTENT
    assert [request.sent for request in server.requests] == [500_000, SIZE]


@pytest.mark.parametrize("name", ["short.tar", "long.tar"])
@pytest.mark.usefixtures("impatient")
def test_an_object_of_another_size_is_refused(store: Store, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}: it (has \d+ bytes|is shorter).*, twice"):
        fetched(store(name))


def test_permanent_errors_are_not_tried_again(server: FaultServer, store: Store) -> None:
    with pytest.raises(MissingError, match=r"nothing\.tar: there is no such (file|object)"):
        fetched(store("nothing.tar"))
    assert len(server.requests) == 1
    s3_only = store("").url.startswith("s3")
    for mode, words in {
        "denied": "access denied; " + ("check AWS_PROFILE, the key" if s3_only else "https:// is read without"),
        **({"skewed": "clock is wrong by over 15 minutes; set it"} if s3_only else {}),
        **({"unknown-key": "does not know this key"} if s3_only else {}),
        **({"wrong-secret": "its secret is another"} if s3_only else {}),
        **({"no-bucket": "no bucket bucket at http://127"} if s3_only else {}),
    }.items():
        server.set(Fault(mode, times=-1))
        with pytest.raises(UserError, match=f"a.tar: .*{words}"):
            fetched(store("a.tar"))
        assert len(server.requests) == 1


@pytest.mark.usefixtures("impatient", "soon_over")
def test_a_server_that_is_not_there_is_named(s3_environment: Callable[[str], None]) -> None:
    s3_environment("http://127.0.0.1:9")
    for address in ("http://127.0.0.1:9/a.tar", "s3://bucket/a.tar"):
        with pytest.raises(UserError, match=r"a\.tar: nobody listens at .*127\.0\.0\.1:9; gave up"):
            fetched(Remote(address))
    with pytest.raises(UserError, match=r"the name of nowhere\.invalid is not known"):
        fetched(Remote("http://nowhere.invalid/a.tar"))


def test_a_stop_ends_it_soon(server: FaultServer, store: Store) -> None:
    server.set(Fault("slow", rate=200_000, times=-1))
    stop = threading.Event()
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(StoppedError):
        fetch(blob(store("a.tar")), io.BytesIO(), stop)
    assert time.monotonic() - began < 8, "the whole takes 15 s"
    server.set(Fault("503", times=-1))  # while it waits for another try
    with pytest.raises(StoppedError):
        fetch(blob(store("a.tar")), io.BytesIO(), stop)


def test_small_objects_of_unknown_size(server: FaultServer, store: Store) -> None:
    assert fetch_text(store("empty")) == b""
    server.set(Fault("close", after=1_000_000))
    assert fetch_text(store("a.tar")) == CONTENT
    server.set(Fault("replaced", after=1_000_000, replacement="/bucket/b.tar"))
    assert fetch_text(store("a.tar")) == OTHER


def test_an_object_of_unknown_size_has_a_largest_one(server: FaultServer, store: Store) -> None:
    assert fetch_text(store("a.tar"), SIZE) == CONTENT
    server.set(Fault("close", after=1_000_000))
    assert fetch_text(store("a.tar"), SIZE) == CONTENT
    server.set(None)
    with pytest.raises(UserError, match=r"bucket/a\.tar: more than 1\.5 MB, so not what it should be") as error:
        fetch_text(store("a.tar"), 1_500_000)
    assert "\n" not in str(error.value)


def test_of_a_manifest_without_end_a_part_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read, pieces = list[int](), iter(lambda: b" " * remotes.PIECE, b"")

    class Endless:
        start, length, total, etag = 0, None, None, None

        def read(self) -> bytes:
            read.append(remotes.PIECE)
            return next(pieces)

        def close(self) -> None:
            read.append(0)

    monkeypatch.setattr(web, "get", lambda *_: Endless())
    with pytest.raises(UserError, match=r"hostile/manifest\.json: more than 268 MB"):
        Manifest.load(Remote("https://host/hostile"))
    assert 268_000_000 < sum(read) < 270_000_000
    assert read[-1] == 0, "the connection is closed"


def test_connections_are_used_again(server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    accept = server._server.get_request
    monkeypatch.setattr(server._server, "get_request", lambda: (made.append(0), accept())[1])
    for _ in range(5):
        fetched(store("a.tar"))
    assert len(made) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["503", "stall", "trickle"])
def test_as_patient_as_it_is_in_earnest_the_end_comes_within_a_minute(
    server: FaultServer, store: Store, mode: str
) -> None:
    server.set(Fault(mode, times=-1, seconds=120))
    began = time.monotonic()
    with pytest.raises(UserError, match="gave up"):
        fetched(store("a.tar"))
    assert time.monotonic() - began < 60


def test_the_digest_is_of_what_was_written(tmp_path: Path, server: FaultServer, store: Store) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (SIZE + 5000))  # longer, from an attempt before
    with path.open("r+b") as file:
        fetch(blob(store("a.tar")), file)
    assert path.read_bytes() == CONTENT
    assert sum(request.sent for request in server.requests) == SIZE
