"""One shard: a plain USTAR tar of samples, and DALI's index v1.2 beside it. Writing, listing, reading back.

What goes into a shard is decided in `pack.py`; whether one is sound, in `lint.py`.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from understudy.shards.files import atomic_file, write_atomic
from understudy.shards.kinds import Kind
from understudy.shards.manifest import Sample, Shard

BLOCK = tarfile.BLOCKSIZE
MODE = 0o444
# Plain USTAR holds names of up to 100 bytes; a longer one would need a second header, which readers trip over.
LONGEST_NAME = 99


@dataclass(frozen=True)
class Entry:
    """One member of a tar: its name, and the byte offset and size of its content."""

    name: str
    offset: int
    size: int

    @property
    def key(self) -> str:
        """The name up to the first dot: members with the same key make a sample."""
        return self.name.partition(".")[0]

    @property
    def extension(self) -> str:
        """The name after the first dot."""
        return self.name.partition(".")[2]


def write_shard(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> tuple[Shard, list[Entry]]:
    """Write the tar `path` and its index, each whole or not at all.

    `samples` are (key, members by extension), drawn one at a time; there must be at least one. Returns what the
    manifest says of the shard, and its entries in order. The same samples give the same bytes.
    """
    from webdataset.writer import TarWriter  # imports torch: over a second

    count = 0
    with atomic_file(path) as file:
        sink = _HashingSink(file)
        with TarWriter(cast("BinaryIO", sink), encoder=False, mode=MODE, mtime=0, user="", group="") as writer:
            for key, members in samples:
                assert key and "." not in key and "/" not in key, f"not a sample key: {key!r}"
                writer.write({"__key__": key, **members})
                count += 1
        assert count, "a shard without samples"
    with path.open("rb") as written:
        entries = read_entries(written)
    index = path.with_suffix(".idx")
    write_atomic(index, index_text(entries).encode())
    return Shard(path.name, count, sink.size, sink.sha256.hexdigest(), index.name), entries


def sidecar(sample: Sample, fps: float, kind: Kind, removal: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """KEY.json: these fields and no others, so that nothing else about a source gets into a corpus."""
    return {
        "label": sample.label,
        "frames": sample.frames,
        "fps": fps,
        "size": [sample.width, sample.height],
        "duration": sample.frames / fps,
        "kind": kind,
        "removal": removal,
    }


class _HashingSink:
    """A file opened for writing that hashes and counts what passes."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self._file.write(data)


def index_text(entries: Sequence[Entry]) -> str:
    """DALI's index v1.2 of a shard with these entries, as its `wds2idx` writes it."""
    lines: list[list[Entry]] = []
    for entry in entries:
        if lines and lines[-1][0].key == entry.key:
            lines[-1].append(entry)
        else:
            lines.append([entry])
    rows = (" ".join(f"{e.extension} {e.offset} {e.size} {e.name}" for e in line) + "\n" for line in lines)
    return f"v1.2 {len(lines)}\n" + "".join(rows)


def read_entries(file: BinaryIO) -> list[Entry]:
    """The entries of the tar in `file`, a seekable file or a memory map, from its headers alone.

    Raises ValueError at the first header that the shard format does not allow: anything but a plain USTAR file
    entry without owner, time or path, padded with zeros to whole blocks, and zeros after the last entry.
    """
    entries: list[Entry] = []
    position = 0
    while True:
        file.seek(position)
        header = file.read(BLOCK)
        if header.count(0) == len(header):
            break
        entry = _parse_header(header, position)
        end = entry.offset + entry.size
        position = end + -end % BLOCK
        file.seek(end)
        padding = file.read(position - end)
        if len(padding) != position - end:
            raise ValueError(f"{entry.name}: cut off, {entry.size} bytes were to follow byte {entry.offset}")
        if any(padding):
            raise ValueError(f"{entry.name}: the padding after its content holds something")
        entries.append(entry)
    file.seek(position)
    blocks = 0
    while piece := file.read(1 << 20):
        if piece.count(0) != len(piece):
            raise ValueError(f"something follows the last entry, after byte {position}")
        blocks += len(piece) // BLOCK
    if blocks < 2:
        raise ValueError("cut off before the two empty blocks that end a tar")
    return entries


def _parse_header(header: bytes, position: int) -> Entry:
    try:
        info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise ValueError(f"no tar header at byte {position} ({error})") from None
    found = {
        "type": info.type,
        "mode": info.mode,
        "uid": info.uid,
        "gid": info.gid,
        "mtime": info.mtime,
        "owner": info.uname,
        "group": info.gname,
        "link": info.linkname,
        "device": (info.devmajor, info.devminor),
        "magic": header[257:265],
        "prefix": header[345:500].rstrip(b"\0"),
        "tail": header[500:].rstrip(b"\0"),
    }
    if info.size < 0:
        raise ValueError(f"{info.name}: tar header with size {info.size}")
    for field, value in _PLAIN.items():
        if found[field] != value:
            raise ValueError(f"{info.name}: tar header with {field} {found[field]!r}, {value!r} is the format's")
    key, dot, extension = info.name.partition(".")
    if len(info.name) > LONGEST_NAME or not (key and dot and extension.isalnum() and "/" not in key):
        raise ValueError(f"{info.name!r}: not a member name of the form KEY.extension")
    return Entry(info.name, position + BLOCK, info.size)


_PLAIN: dict[str, object] = {
    "type": tarfile.REGTYPE,
    "mode": MODE,
    "uid": 0,
    "gid": 0,
    "mtime": 0,
    "owner": "",
    "group": "",
    "link": "",
    "device": (0, 0),
    "magic": b"ustar\x0000",
    "prefix": b"",
    "tail": b"",
}


def read_spans(file: BinaryIO, spans: Iterable[tuple[int, int]]) -> list[bytes]:
    """The bytes at each (offset, size) of an open shard. Raises ValueError where it ends too soon."""
    pieces: list[bytes] = []
    for offset, size in spans:
        file.seek(offset)
        piece = file.read(size)
        if len(piece) != size:
            raise ValueError(f"it ends before byte {offset + size}")
        pieces.append(piece)
    return pieces
