from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from understudy.loader.read import ShardReader
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError


def open_files(folder: Path) -> int:
    """Of this process, in `folder`."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own
            count += link.readlink().is_relative_to(folder)
    return count


def test_members_come_back_whole_and_in_order(corpus: Corpus) -> None:
    reader = ShardReader(corpus)
    for sample in range(len(corpus)):
        (stream, offsets), reason = reader.read(sample)
        assert reason is None
        assert bytes(stream[:2]) == b"\xff\xd8"
        assert len(offsets) == 8 * (12 + 1)
        data = corpus.shard_path(int(corpus.shard[sample])).read_bytes()
        for member, (offset, size) in zip((stream, offsets), corpus.spans[sample].tolist()):
            assert member == data[offset : offset + size]


def test_few_shards_stay_open_though_many_threads_read(build: Callable[..., Corpus], tmp_path: Path) -> None:
    corpus = build(tmp_path / "many", [1] * 40, frames=1)
    reader = ShardReader(corpus, 3)
    with ThreadPoolExecutor(8) as pool:
        assert all(reason is None for _, reason in pool.map(reader.read, list(range(40)) * 10))
    assert 1 <= open_files(tmp_path) <= 3
    del reader
    assert open_files(tmp_path) == 0


@pytest.mark.parametrize("member", [0, 1])
def test_a_changed_byte_in_any_member_is_noticed(build: Callable[..., Corpus], tmp_path: Path, member: int) -> None:
    corpus = build(tmp_path / "flip", [3])
    path = corpus.shard_path(0)
    data = bytearray(path.read_bytes())
    offset, size = corpus.spans[1, member].tolist()
    data[offset + size - 1] ^= 1
    path.write_bytes(data)
    assert [ShardReader(corpus).read(i)[1] for i in range(3)] == [None, "crc32c", None]


def test_reads_that_come_in_parts_are_put_together(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do beyond 2 GiB."""

    def twice() -> list[bytes]:  # whole, and then in part
        reader, wanted = ShardReader(corpus), np.array([3, 5], np.int32)
        return [bytes(member) for _ in range(2) for member in reader.read_frames(0, wanted)[0]]

    expected, read = twice(), os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, at: read(file, [buffers[0][:100]], at))
    assert twice() == expected and len(expected[0]) > len(expected[2]) > 100


def test_many_corpora_are_open_under_a_low_limit_of_files(build: Callable[..., Corpus], tmp_path: Path) -> None:
    build(tmp_path / "many", [1] * 40, frames=1)
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (128, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "from understudy.loader.read import ShardReader\n"
        "from understudy.shards.corpus import Corpus\n"
        "readers = [ShardReader(Corpus.open(sys.argv[1])) for _ in range(12)]\n"
        "assert all(reader.read(sample)[1] is None for reader in readers for sample in range(40))\n"
        "assert len(list(Path('/proc/self/fd').iterdir())) > 480\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "many")], check=True)


def test_a_shard_that_shrinks_while_open_is_noticed(build: Callable[..., Corpus], tmp_path: Path) -> None:
    corpus = build(tmp_path / "shrink", [3])
    reader = ShardReader(corpus)
    assert reader.read(0)[1] is None
    os.truncate(corpus.shard_path(0), 2000)
    assert reader.read(2) == ((), "read: the shard ends early")


def test_a_shard_of_another_length_is_refused_with_what_to_do(build: Callable[..., Corpus], tmp_path: Path) -> None:
    corpus = build(tmp_path / "long", [3])
    with corpus.shard_path(0).open("ab") as shard:
        shard.write(bytes(512))
    with pytest.raises(UserError, match=r"tiny-000000\.tar: \d+ bytes, the manifest says \d+; copy it again"):
        ShardReader(corpus).read(0)


def test_of_a_sample_found_whole_only_the_wanted_frames_are_read(
    build: Callable[..., Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = build(tmp_path / "part", [3])
    reader = ShardReader(corpus)
    (stream, offsets), _ = reader.read(1)
    numbers = np.frombuffer(offsets, "<i8").tolist()
    frames = np.array([[7, 3, 5], [4, 4, 6]], np.int32)
    whole, same, reason = reader.read_frames(1, frames)
    assert (whole[0], whole[1], reason) == (stream, offsets, None)
    np.testing.assert_array_equal(same, frames)

    read = []
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *arguments: read.append(preadv(*arguments)) or read[-1])
    (part, index), moved, reason = reader.read_frames(1, frames)
    assert reason is None
    np.testing.assert_array_equal(moved, frames - 3)
    assert len(index) == 8 * (5 + 1), "a length in bytes"
    own = np.frombuffer(index, "<i8").tolist()
    for wanted, there in zip(frames.ravel().tolist(), moved.ravel().tolist()):
        assert part[own[there] : own[there + 1]] == stream[numbers[wanted] : numbers[wanted + 1]]
    assert read == [numbers[8] - numbers[3]] == [len(part)] == [own[-1]]


@pytest.mark.parametrize("frames", [[0, 11], [11], [-1, 3], [3, 12]])
def test_frames_at_the_ends_and_beyond(corpus: Corpus, frames: list[int]) -> None:
    reader = ShardReader(corpus)
    wanted = np.array(frames, np.int32)
    for _ in range(2):
        (stream, index), moved, reason = reader.read_frames(4, wanted)
        assert reason is None
        if min(frames) < 0 or max(frames) > 11:  # that is for the decoder to find
            np.testing.assert_array_equal(moved, wanted)
            assert len(index) == 8 * 13
        else:
            offsets = np.frombuffer(index, "<i8")
            assert offsets[0] == 0
            assert offsets[-1] == len(stream)
            assert moved.max() < len(offsets) - 1


def test_an_index_that_broke_after_its_sample_was_found_whole_is_noticed(
    build: Callable[..., Corpus], tmp_path: Path
) -> None:
    corpus = build(tmp_path / "later", [3])
    reader = ShardReader(corpus)
    frames = np.arange(4, dtype=np.int32)
    assert [reader.read_frames(i, frames)[2] for i in range(3)] == [None] * 3
    with corpus.shard_path(0).open("r+b") as shard:  # in place: the reader has it open
        shard.seek(corpus.spans[1, 1, 0])
        shard.write(b"\xff" * 104)
    assert [reader.read_frames(i, frames)[2] for i in range(3)] == [None, "crc32c", None]
    os.truncate(corpus.shard_path(0), 2000)
    assert reader.read_frames(2, frames)[2] == "read: the shard ends early"


def test_damage_is_told_each_time(build: Callable[..., Corpus], tmp_path: Path) -> None:
    corpus = build(tmp_path / "flip", [3])
    with corpus.shard_path(0).open("r+b") as shard:
        shard.seek(corpus.spans[1, 0, 0] + 300)
        shard.write(b"\xff\xff\xff")
    reader = ShardReader(corpus)
    assert [reader.read_frames(1, np.array([0], np.int32))[2] for _ in range(3)] == ["crc32c"] * 3
