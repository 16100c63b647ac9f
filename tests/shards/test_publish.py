"""Into a bucket by way of a work folder: killed at any moment and run again, it leaves nothing but the corpus."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from fake_readers import read_by_name

from understudy.shards import publish, s3
from understudy.shards.manifest import MANIFEST, Manifest
from understudy.shards.pack import PackConfig
from understudy.shards.publish import pack_into_bucket, refused_list
from understudy.shards.remote import Remote
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


def test_another_folder_is_left_alone(bucket: dict[str, bytes], tmp_path: Path) -> None:
    run(tmp_path / "work")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    run(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()
