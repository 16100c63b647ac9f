"""Shards: plain tars that stock readers take, with the index that DALI's own tool would write."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.shards.tarshard import read_entries, read_spans, write_shard

SAMPLES = [(f"{i:032x}", {"off": bytes(8 * i), "mjpg": bytes([i]) * (100 * i + 1), "json": b"{}"}) for i in range(5)]


def entries_of(path: Path):
    with path.open("rb") as file:
        return read_entries(file)


def test_index_is_what_wds2idx_writes(tmp_path: Path) -> None:
    wds2idx = pytest.importorskip("wds2idx", reason="DALI is not installed on this machine")
    write_shard(tmp_path / "a.tar", SAMPLES)
    with wds2idx.IndexCreator(str(tmp_path / "a.tar"), str(tmp_path / "dali.idx"), verbose=False) as creator:
        creator.create_index()
    assert (tmp_path / "a.idx").read_text() == (tmp_path / "dali.idx").read_text()


def test_headers_are_plain_and_anonymous(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", SAMPLES)
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
    assert [member.name for member in members[:3]] == [f"{0:032x}.{ext}" for ext in ("json", "mjpg", "off")]
    for member in members:
        assert (member.uid, member.gid, member.mtime, member.uname, member.gname) == (0, 0, 0, "", "")
        assert member.type == tarfile.REGTYPE and not member.pax_headers and len(member.name) < 100
    assert b"ustar\x0000" in (tmp_path / "a.tar").read_bytes()[:512]


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", SAMPLES)
    previous = os.umask(0o077)
    try:
        shard, _ = write_shard(tmp_path / "b.tar", iter(SAMPLES))
    finally:
        os.umask(previous)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert (tmp_path / "a.idx").read_bytes() == (tmp_path / "b.idx").read_bytes()
    assert (shard.nsamples, shard.filesize) == (len(SAMPLES), (tmp_path / "b.tar").stat().st_size)


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def failing():
        yield SAMPLES[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_shard(tmp_path / "a.tar", failing())
    assert not list(tmp_path.iterdir())


@given(st.lists(st.lists(st.binary(max_size=2000), min_size=2, max_size=2), min_size=1, max_size=6))
def test_members_come_back_from_their_spans(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[list[bytes]]
) -> None:
    path = tmp_path_factory.mktemp("spans") / "a.tar"
    samples = [(f"{i:032x}", {"mp4": mp4, "json": sidecar}) for i, (mp4, sidecar) in enumerate(payloads)]
    _, entries = write_shard(path, samples)
    assert entries == entries_of(path)
    assert [entry.name for entry in entries] == [f"{key}.{ext}" for key, _ in samples for ext in ("json", "mp4")]
    expected = [members[ext] for _, members in samples for ext in ("json", "mp4")]
    with path.open("rb") as file:
        assert read_spans(file, [(entry.offset, entry.size) for entry in entries]) == expected


def test_spans_past_the_end_raise(tmp_path: Path) -> None:
    shard, _ = write_shard(tmp_path / "a.tar", SAMPLES)
    with (tmp_path / "a.tar").open("rb") as file, pytest.raises(ValueError, match="ends before"):
        read_spans(file, [(shard.filesize - 4, 5)])


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("mtime", 1, "mtime"),
        ("uid", 1000, "uid"),
        ("gid", 1000, "gid"),
        ("mode", 0o644, "mode"),
        ("uname", "someone", "owner"),
        ("gname", "staff", "group"),
        ("type", tarfile.SYMTYPE, "type"),
        ("linkname", "elsewhere", "link"),
        ("name", "no-extension", "member name"),
        ("name", "folder/name.json", "member name"),
        ("name", "name.0001.jpg", "member name"),
        ("name", "k" * 95 + ".json", "member name"),
    ],
)
def test_every_field_that_could_tell_is_checked(tmp_path: Path, field: str, value: object, says: str) -> None:
    info = tarfile.TarInfo("name.json")
    info.mode = 0o444
    info.mtime = 0
    setattr(info, field, value)
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    with pytest.raises(ValueError, match=says):
        entries_of(tmp_path / "a.tar")


@pytest.mark.parametrize("size", [-1, -512, -1024])
def test_a_size_below_nothing_is_told(tmp_path: Path, size: int) -> None:
    """An entry that ends where it begins would come again for ever."""
    info = tarfile.TarInfo("name.json")
    info.mode, info.size = 0o444, size
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[257:265] = b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(header + bytes(1024))
    with pytest.raises(ValueError, match=f"name.json: tar header with size {size}"):
        entries_of(tmp_path / "a.tar")


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_only_plain_ustar_passes(tmp_path: Path, tar_format: int) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tar_format) as tar:
        info = tarfile.TarInfo("k" * 120 + ".json")
        info.mode = 0o444
        tar.addfile(info)
    with pytest.raises(ValueError):
        entries_of(tmp_path / "a.tar")


def test_hidden_bytes_are_found(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", SAMPLES)
    good = (tmp_path / "a.tar").read_bytes()
    entries = entries_of(tmp_path / "a.tar")
    for position in (entries[1].offset + entries[1].size, len(good) - 1):
        (tmp_path / "b.tar").write_bytes(good[:position] + b"x" + good[position + 1 :])
        with pytest.raises(ValueError, match=r"padding|follows"):
            entries_of(tmp_path / "b.tar")


def test_every_truncation_is_found(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", SAMPLES)
    good = (tmp_path / "a.tar").read_bytes()
    last = entries_of(tmp_path / "a.tar")[-1]
    needed = last.offset + last.size + -last.size % 512 + 1024
    for size in range(0, needed, 256):
        (tmp_path / "b.tar").write_bytes(good[:size])
        with pytest.raises(ValueError):
            entries_of(tmp_path / "b.tar")
