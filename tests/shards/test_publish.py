"""Into a bucket by way of a work folder: killed at any moment and run again, it leaves nothing but the corpus."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from fake_readers import read_by_name  # pyright: ignore[reportMissingImports]

from understudy.shards import fetch, publish, s3
from understudy.shards.errors import UserError
from understudy.shards.manifest import MANIFEST, Manifest
from understudy.shards.pack import PackConfig, pack
from understudy.shards.plan import refused_list
from understudy.shards.publish import pack_into_bucket
from understudy.shards.remote import PassingError, Remote
from understudy.shards.sources import Source

CONFIG = PackConfig("tiny", "real", ("walk", "run"), "CC0-1.0", secret=bytes(range(32)), samples_per_shard=2)
SOURCES = [Source(name, 0) for name in ("clip 1", "clip 2", "refuse clip", "clip 3")]
REMOTE = Remote("s3://bucket/tiny")


class Killed(BaseException):
    pass


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What was put, by address."""
    store: dict[str, bytes] = {}

    def published(remote: Remote) -> Manifest | None:
        place = remote / MANIFEST
        return Manifest.parse(store[str(place)], place) if str(place) in store else None

    monkeypatch.setattr(publish, "published", published)
    monkeypatch.setattr(s3, "size_and_etag", lambda remote: None)
    monkeypatch.setattr(s3, "put", lambda remote, path, md5: store.__setitem__(str(remote), path.read_bytes()))
    return store


def kill_at(deadly: int, bucket: dict[str, bytes], patched: pytest.MonkeyPatch) -> None:
    """Instead of step `deadly`, from 0, of those that move or delete files once the manifest is in the bucket."""
    steps = count()

    def deadly_for(step: Callable[..., object]) -> Callable[..., object]:
        def killing(path: Path, *arguments: object, **settings: object) -> object:
            if str(REMOTE / MANIFEST) in bucket and next(steps) == deadly:
                raise Killed
            return step(path, *arguments, **settings)

        return killing

    for name in ("replace", "rename", "unlink"):
        patched.setattr(Path, name, deadly_for(getattr(Path, name)))


def run(work: Path) -> Manifest:
    return pack_into_bucket(SOURCES, read_by_name, REMOTE, work, CONFIG, workers=0, progress=False)


def test_killed_at_any_step_after_the_last_copy_and_run_again(
    bucket: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    for deadly in count():
        bucket.clear()
        refused_list(work).unlink(missing_ok=True)
        with monkeypatch.context() as patched:
            kill_at(deadly, bucket, patched)
            try:
                run(work)
            except Killed:
                assert work.exists()
            else:
                assert deadly > 4
                break
        run(work)
        assert [path.name for path in tmp_path.iterdir()] == [refused_list(work).name]
        assert '"refuse clip"' in refused_list(work).read_text()


def test_a_list_of_what_an_earlier_corpus_refused_goes(bucket: dict[str, bytes], tmp_path: Path) -> None:
    work = tmp_path / "work"
    refused_list(work).write_text('{"path": "of another corpus", "reason": "no frames"}\n')
    pack_into_bucket(SOURCES[:2], read_by_name, REMOTE, work, CONFIG, workers=0, progress=False)
    assert str(REMOTE / MANIFEST) in bucket and not list(tmp_path.iterdir())


def test_what_was_in_the_folder_before_stays(bucket: dict[str, bytes], tmp_path: Path) -> None:
    work = tmp_path / "mine"
    pack(SOURCES, read_by_name, work, CONFIG, workers=0, progress=False)  # finished, and of the same plan
    (work / "audit.json").write_text("hours of looking")
    (work / "notes").mkdir()
    (work / "notes" / "thesis.tex").write_text("years of work")
    before = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
    for _ in range(2):
        run(work)
        assert {path: path.read_bytes() for path in work.rglob("*") if path.is_file()} == before
        assert bucket[str(REMOTE / MANIFEST)] == before[work / MANIFEST]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", refused_list(work).name]


def test_a_file_is_no_folder_to_work_in(bucket: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file: is a file; give a folder to work in"):
        run(tmp_path / "file")
    assert not bucket


def test_another_folder_is_left_alone(bucket: dict[str, bytes], tmp_path: Path) -> None:
    run(tmp_path / "work")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    run(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "PATIENCE_S", 1.0)
    monkeypatch.setattr(fetch, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(fetch, "LONGEST_PAUSE_S", 0.1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("seconds", "failures"), [(0.0, 8), (1.2, 3)])  # quickly, or later than a download may
def test_an_upload_that_fails_is_tried_again(
    bucket: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, failures: int
) -> None:
    put, tries = s3.put, count()

    def put_at_last(remote: Remote, path: Path, md5: bytes) -> None:
        if next(tries) < failures:
            time.sleep(seconds)
            raise PassingError("the connection broke")
        put(remote, path, md5)

    monkeypatch.setattr(s3, "put", put_at_last)
    (tmp_path / "a.tar").write_bytes(b"a shard")
    publish._send(tmp_path / "a.tar", REMOTE / "a.tar")
    assert bucket == {f"{REMOTE}/a.tar": b"a shard"}


@pytest.mark.usefixtures("impatient", "bucket")
@pytest.mark.parametrize(("seconds", "most"), [(0.0, 100), (0.4, 6)])
def test_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, most: int) -> None:
    tries = count()

    def fail(*_: object) -> None:
        next(tries)
        time.sleep(seconds)
        raise PassingError("the connection broke")

    monkeypatch.setattr(s3, "put", fail)
    (tmp_path / "a.tar").write_bytes(b"a shard")
    with pytest.raises(UserError, match=r"s3://bucket/tiny/a\.tar: the connection broke; gave up after \d+ tries"):
        publish._send(tmp_path / "a.tar", REMOTE / "a.tar")
    assert next(tries) <= most


def test_a_shard_that_is_too_large_for_the_store_is_told_when_it_is_packed_and_before_anything_is_sent(
    bucket: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "fits")
    bucket.clear()
    monkeypatch.setattr(s3, "LARGEST_PUT", 5000)
    with pytest.raises(UserError, match=r"tiny-000000\.tar: .* GiB at once; delete .*fewer --samples-per-shard"):
        run(tmp_path / "work")
    assert not list((tmp_path / "work").glob("*-000001.tar")), "the next was not packed any more"
    packed = tmp_path / "packed"
    publish.pack(SOURCES, read_by_name, packed, CONFIG, workers=0, progress=False)
    with pytest.raises(UserError, match=r"tiny-000000\.tar: .* GiB at once"):
        publish.publish(packed, REMOTE, progress=False)
    assert bucket == {}
