from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cache_size import held  # pyright: ignore[reportMissingImports]
from faults import Fault, FaultServer  # pyright: ignore[reportMissingImports]

from understudy.shards import cache as caching
from understudy.shards.cache import Cache, default_cache, parse_size
from understudy.shards.errors import UserError
from understudy.shards.fetch import Blob, StoppedError
from understudy.shards.remote import MissingError, Remote

SIZE = 200_000
SHARDS = 12
HELPER = Path(__file__).parents[1] / "helpers" / "read_through_cache.py"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultServer]:
    root = tmp_path_factory.mktemp("shards")
    for i in range(SHARDS):
        (root / f"{i}.tar").write_bytes(np.random.default_rng(i).bytes(SIZE))
    with FaultServer(root) as server:
        yield server


@pytest.fixture
def blobs(bucket: FaultServer) -> list[Blob]:
    bucket.set(None)
    assert isinstance(bucket.backend, Path)
    digests = [hashlib.sha256((bucket.backend / f"{i}.tar").read_bytes()).hexdigest() for i in range(SHARDS)]
    return [Blob(Remote(f"{bucket.address}/{i}.tar"), SIZE, digest) for i, digest in enumerate(digests)]


def content(cache: Cache, blob: Blob) -> bytes:
    with os.fdopen(cache.open(blob), "rb") as file:
        return file.read()


def good(cache: Cache, blob: Blob) -> bool:
    return hashlib.sha256(content(cache, blob)).hexdigest() == blob.sha256


def test_a_download_that_only_just_begins_is_no_orphan(
    tmp_path: Path, blobs: list[Blob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread makes room between the creation of a `.part` file and its lock, where it can."""
    cache, locked, sweeps = Cache(tmp_path, 100 * SIZE), caching._locked, list[threading.Thread]()

    def sweep_first(descriptor: int, path: Path) -> bool:
        if path.name == f"{blobs[0].sha256}.part" and not sweeps:
            sweeps.append(threading.Thread(target=cache.prepare, args=(blobs[1], threading.Event())))
            sweeps[0].start()
            sweeps[0].join(1.0)  # in vain, as it has to wait
        return locked(descriptor, path)

    monkeypatch.setattr(caching, "_locked", sweep_first)
    cache.prepare(blobs[0], threading.Event())
    sweeps[0].join()
    assert {path.name for path in tmp_path.iterdir()} == {blobs[0].sha256, blobs[1].sha256, "accounts"}


def test_a_second_opening_reads_no_network_also_under_another_address(
    tmp_path: Path, bucket: FaultServer, blobs: list[Blob]
) -> None:
    cache = Cache(tmp_path / "cache", 10 * SIZE)
    assert good(cache, blobs[0])
    assert good(Cache(tmp_path / "cache", 10 * SIZE), blobs[0])
    assert good(cache, Blob(Remote("https://nowhere.invalid/moved.tar"), SIZE, blobs[0].sha256))
    assert len(bucket.requests) == 1


def test_many_that_want_the_same_shard_download_it_once(tmp_path: Path, bucket: FaultServer, blobs: list[Blob]) -> None:
    bucket.set(Fault("slow", rate=1_000_000, times=-1))
    caches = [Cache(tmp_path, 10 * SIZE) for _ in range(4)]
    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(good, caches * 3, [blobs[0]] * 12))
    assert len(bucket.requests) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([blobs[0].sha256, "accounts"])


def test_the_least_recently_used_goes_first_and_the_limit_holds(
    tmp_path: Path, bucket: FaultServer, blobs: list[Blob]
) -> None:
    cache = Cache(tmp_path, 3 * SIZE)
    for i in (0, 1, 2, 0, 3):
        assert good(cache, blobs[i])
        assert held(tmp_path) <= 3 * SIZE
        for path in tmp_path.iterdir():  # a minute goes by, which is more than any file system's clock rounds to
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 60))
    assert {path.name for path in tmp_path.iterdir()} == {blobs[i].sha256 for i in (0, 2, 3)} | {"accounts"}


def test_what_is_open_and_what_is_not_its_own_is_never_evicted(tmp_path: Path, blobs: list[Blob]) -> None:
    (tmp_path / "notes.txt").write_bytes(bytes(10 * SIZE))
    (tmp_path / "data.part").write_bytes(b"mine")
    cache = Cache(tmp_path, 2 * SIZE)
    descriptor = cache.open(blobs[0])
    for blob in blobs[1:]:
        assert good(cache, blob)
    assert (tmp_path / blobs[0].sha256).exists()
    assert hashlib.sha256(os.pread(descriptor, SIZE, 0)).hexdigest() == blobs[0].sha256
    os.close(descriptor)
    assert (tmp_path / "notes.txt").exists()
    assert (tmp_path / "data.part").exists()


def test_with_all_of_it_in_use_it_waits_then_says_so(
    tmp_path: Path, blobs: list[Blob], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path, 2 * SIZE)
    first, second = cache.open(blobs[0]), cache.open(blobs[1])
    words = r"no room for 2\.tar, all of the 0\.0004 GB is in use; set UNDERSTUDY_CACHE_LIMIT"
    with monkeypatch.context() as patch, pytest.raises(UserError, match=words):
        patch.setattr(caching, "PATIENCE_S", 0.5)
        cache.open(blobs[2])
    cache.prepare(blobs[2], threading.Event())  # gives way at once
    threading.Timer(0.2, os.close, [first]).start()
    assert good(cache, blobs[2])
    os.close(second)


def test_who_waits_for_room_has_patience_while_others_are_downloading(
    tmp_path: Path, bucket: FaultServer, blobs: list[Blob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they read in the meantime can only go when they have the next."""
    monkeypatch.setattr(caching, "PATIENCE_S", 0.3)
    cache = Cache(tmp_path, 2 * SIZE)
    first = cache.open(blobs[0])
    bucket.set(Fault("slow", rate=SIZE / 1.5, path="1.tar"))

    def next_one() -> None:
        second = cache.open(blobs[1])
        os.close(first)
        os.close(second)

    with ThreadPoolExecutor() as pool:
        other = pool.submit(next_one)
        while not list(tmp_path.glob("*.part")):
            time.sleep(0.01)
        assert good(cache, blobs[2])
        other.result()


def test_what_another_finished_at_the_last_moment_is_taken_however_long_that_took(
    tmp_path: Path, blobs: list[Blob], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = Cache._lock_part

    def lock_late(self: Cache, blob: Blob) -> int | None:
        monkeypatch.undo()
        assert good(Cache(tmp_path, 2 * SIZE), blob)
        monkeypatch.setattr(caching, "PATIENCE_S", 1e-9)
        return lock(self, blob)

    monkeypatch.setattr(caching, "PATIENCE_S", 1e-9)
    monkeypatch.setattr(Cache, "_lock_part", lock_late)
    assert good(Cache(tmp_path, 2 * SIZE), blobs[0])
    assert [path.name for path in tmp_path.glob("*.part")] == []


def test_a_limit_below_what_is_needed_is_refused_with_the_figure(tmp_path: Path, blobs: list[Blob]) -> None:
    cache = Cache(tmp_path, SIZE - 1)
    with pytest.raises(UserError, match=r"0\.0002 GB, but 0\.tar take 0\.0002 GB .*UNDERSTUDY_CACHE_LIMIT"):
        cache.open(blobs[0])
    with pytest.raises(UserError, match=r"but the 40 shards read at once take 3 GB at once; set UNDERSTUDY_CACHE_LI"):
        cache.require(3 * 10**9, "the 40 shards read at once")


def test_a_failed_download_leaves_nothing_and_all_who_wait_hear_of_it_at_once(
    tmp_path: Path, bucket: FaultServer, blobs: list[Blob]
) -> None:
    cache = Cache(tmp_path, 10 * SIZE)
    with pytest.raises(MissingError):
        cache.open(Blob(Remote(f"{bucket.address}/none.tar"), SIZE, "0" * 64))
    bucket.set(Fault("slow", rate=1_000_000, times=-1))
    other = Blob(blobs[0].remote, SIZE, "1" * 64)
    all_there = threading.Barrier(6)

    def fail(_: int) -> str:
        all_there.wait(60)  # who came after the first had failed would rightly try again
        with pytest.raises(UserError) as error:
            cache.open(other)
        return str(error.value)

    with ThreadPoolExecutor(6) as pool:
        assert all("do not fit the digest" in words for words in pool.map(fail, range(6)))
    assert len(bucket.downloads("/0.tar")) == 2, "not each of them tried by itself"
    assert [path.name for path in tmp_path.iterdir()] == ["accounts"]
    with pytest.raises(UserError, match="do not fit the digest"):
        cache.open(other)
    assert len(bucket.downloads("/0.tar")) == 4, "what failed once may be tried again later"


def test_orphans_are_removed_and_parts_in_work_are_not(tmp_path: Path, bucket: FaultServer, blobs: list[Blob]) -> None:
    (tmp_path / ("a" * 64 + ".part")).write_bytes(bytes(SIZE))
    cache = Cache(tmp_path, 2 * SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["accounts"]
    asked, answer = threading.Event(), threading.Event()
    bucket.set(Fault("slow", action=lambda: (asked.set(), answer.wait(60))))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(good, cache, blobs[0])
        assert asked.wait(60)
        assert (tmp_path / f"{blobs[0].sha256}.part").stat().st_size == SIZE
        for blob in blobs[1:4]:
            assert good(cache, blob)
            assert held(tmp_path) <= 2 * SIZE
        answer.set()
        assert slow.result()
    assert len(bucket.downloads("/0.tar")) == 1


def test_a_cut_file_is_fetched_again_and_a_damaged_one_when_asked(
    tmp_path: Path, bucket: FaultServer, blobs: list[Blob]
) -> None:
    cache = Cache(tmp_path, 2 * SIZE)
    assert good(cache, blobs[0])
    os.truncate(tmp_path / blobs[0].sha256, 1000)
    assert good(cache, blobs[0])
    assert len(bucket.requests) == 2
    assert not cache.discard_if_damaged(blobs[0])
    with (tmp_path / blobs[0].sha256).open("r+b") as file:
        file.write(b"rotten")
    assert cache.discard_if_damaged(blobs[0])
    assert good(cache, blobs[0])
    assert len(bucket.requests) == 3


def test_a_full_disk_evicts_and_then_says_so(
    tmp_path: Path, blobs: list[Blob], monkeypatch: pytest.MonkeyPatch
) -> None:
    allocate = os.posix_fallocate

    def small_disk(descriptor: int, offset: int, length: int) -> None:
        if sum(path.stat().st_size for path in tmp_path.iterdir()) + length > 1.5 * SIZE:
            raise OSError(errno.ENOSPC, "No space left on device")
        allocate(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", small_disk)
    cache = Cache(tmp_path, 100 * SIZE)
    for blob in blobs[:4]:
        assert good(cache, blob)
    (tmp_path / "others").write_bytes(bytes(SIZE))
    (tmp_path / blobs[3].sha256).unlink()
    with pytest.raises(UserError, match="the disk of the cache is full; make room, or set UNDERSTUDY_CACHE"):
        cache.open(blobs[5])


def test_who_waits_for_a_shard_does_not_queue_behind_those_fetched_ahead(
    tmp_path: Path, bucket: FaultServer, blobs: list[Blob]
) -> None:
    cache, stop, released = Cache(tmp_path, 100 * SIZE, downloads=3), threading.Event(), threading.Event()
    bucket.set(Fault("slow", times=-1, path="[0-5].tar", action=lambda: released.wait(60)))
    with ThreadPoolExecutor(6) as pool:
        ahead = [pool.submit(cache.prepare, blob, stop) for blob in blobs[:6]]
        try:
            while len(bucket.requests) < 2:
                time.sleep(0.01)
            assert good(cache, blobs[6])
            assert len(bucket.downloads()) == 3
        finally:
            released.set()
        for future in ahead:
            future.result()


def test_a_stop_ends_the_wait_for_another(tmp_path: Path, bucket: FaultServer, blobs: list[Blob]) -> None:
    asked = threading.Event()
    bucket.set(Fault("slow", rate=25_000, times=-1, action=asked.set))  # 8 s
    cache, stop = Cache(tmp_path, 2 * SIZE), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(cache.open, blobs[0], stop) for _ in range(2)]
        assert asked.wait(60)
        stop.set()
        for future in waiting:
            with pytest.raises(StoppedError):
                future.result()
    assert [path.name for path in tmp_path.iterdir()] == ["accounts"]


@pytest.mark.parametrize("folder", ["a-file/cache", "a-file", "/proc/understudy"])
def test_a_folder_that_can_not_be_used_is_refused_in_words(tmp_path: Path, folder: str) -> None:
    (tmp_path / "a-file").touch()
    with pytest.raises(UserError, match=r"can't be used as the cache \(.*\); set UNDERSTUDY_CACHE to a folder"):
        Cache(tmp_path / folder, SIZE)


def test_the_environment_says_where_and_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_CACHE", str(tmp_path / "here"))
    monkeypatch.setenv("UNDERSTUDY_CACHE_LIMIT", "1.5 GB")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    cache = default_cache()
    assert (cache.folder, cache.limit, cache.downloads) == (tmp_path / "here", 1_500_000_000, 8)
    assert default_cache() is cache
    for text, downloads in {"40": 20, "1": 2}.items():
        monkeypatch.setenv("UNDERSTUDY_DOWNLOADS", text)
        assert default_cache().downloads == downloads
    for text in ("0", "many", "-3"):
        monkeypatch.setenv("UNDERSTUDY_DOWNLOADS", text)
        with pytest.raises(UserError, match=f"UNDERSTUDY_DOWNLOADS: '{text}' is no number of downloads; use 16"):
            default_cache()
    assert [parse_size(text) for text in ("5", "2k", "3MB", "4gb", "2T")] == [5, 2000, 3 * 10**6, 4 * 10**9, 2 * 10**12]
    with pytest.raises(UserError, match="'lots' is no size; write it as 500GB"):
        parse_size("lots")


@pytest.mark.parametrize("kills", [8, pytest.param(60, marks=pytest.mark.slow)])
def test_processes_that_are_killed_leave_a_sound_cache(
    tmp_path: Path, bucket: FaultServer, blobs: list[Blob], kills: int
) -> None:
    """6 processes share room for 5 shards; one is killed at least every second (in the short run, every half)."""
    bucket.set(Fault("slow", rate=4_000_000, times=-1))
    folder, limit = tmp_path / "cache", 5 * SIZE
    listed = tmp_path / "blobs.json"
    listed.write_text(json.dumps([(str(blob.remote), blob.size, blob.sha256) for blob in blobs]))
    outputs: list[Path] = []

    def start() -> subprocess.Popen[bytes]:
        outputs.append(tmp_path / f"out-{len(outputs)}")
        command = [sys.executable, str(HELPER), str(folder), str(limit), str(len(outputs)), str(listed)]
        with outputs[-1].open("wb") as out:
            return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def bytes_said() -> int:
        return sum(path.stat().st_size for path in outputs)

    processes = [start() for _ in range(6)]
    chance, peak = random.Random(0), 0
    pause = 1.0 if kills > 10 else 0.5
    try:
        while not bytes_said():  # until there is a cache
            assert all(process.poll() is None for process in processes), outputs
            time.sleep(0.05)
        for _ in range(kills):
            until, enough = time.monotonic() + pause, bytes_said() + 5 * len("ok\n")  # however slow the machine is
            while time.monotonic() < until or bytes_said() < enough:
                assert all(process.poll() is None for process in processes), outputs
                peak = max(peak, held(folder))
                time.sleep(0.002)
            which = chance.randrange(6)
            processes[which].send_signal(signal.SIGKILL)
            processes[which].wait()
            processes[which] = start()
    finally:
        for process in processes:
            process.kill()
            process.wait()
    lines = [line for path in outputs for line in path.read_text().splitlines()]
    print(f"{len(lines)} reads, {len(bucket.downloads())} downloads, {kills} kills, peak {peak} of {limit} bytes")
    assert set(lines) == {"ok"}, set(lines)
    assert peak <= limit
    Cache(folder, limit)  # the next user tidies up what a kill left
    assert not list(folder.glob("*.part"))
    assert held(folder) <= limit
