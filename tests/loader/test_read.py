from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from understudy.loader.read import ShardReader
from understudy.shards.errors import UserError
from understudy.shards.manifest import Corpus


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


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
    before = open_files()
    reader = ShardReader(corpus, 3)
    with ThreadPoolExecutor(8) as pool:
        assert all(reason is None for _, reason in pool.map(reader.read, list(range(40)) * 10))
    assert open_files() - before <= 3
    del reader
    assert open_files() == before


@pytest.mark.parametrize("member", [0, 1])
def test_a_changed_byte_in_any_member_is_noticed(build: Callable[..., Corpus], tmp_path: Path, member: int) -> None:
    corpus = build(tmp_path / "flip", [3])
    path = corpus.shard_path(0)
    data = bytearray(path.read_bytes())
    offset, size = corpus.spans[1, member].tolist()
    data[offset + size - 1] ^= 1
    path.write_bytes(data)
    assert [ShardReader(corpus).read(i)[1] for i in range(3)] == [None, "crc32c", None]


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
