"""Shards beyond their payload: tar headers, keys, sidecars, names of sources. And every payload through `check.py`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import zstandard
from tqdm import tqdm

from understudy.privacy.audit_clips import IMAGE, VIDEO
from understudy.privacy.check import check_media
from understudy.privacy.check_pictures import Finding, check_jpeg
from understudy.privacy.names import Linkable, Needles
from understudy.privacy.removal_record import CLIPS, HOLES, models_of
from understudy.shards.beside import strangers, visible_files
from understudy.shards.columns import read_rows
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.frames import split_jpegs
from understudy.shards.manifest import MANIFEST, REFUSED, SAMPLES, Manifest, Sample
from understudy.shards.remote import Address, Remote

# Of KEY.json. Whatever else a sidecar holds, it came from somewhere.
SIDECAR = {"label", "frames", "fps", "size", "duration", "kind", "removal"}
# A keyed hash, or a number that says no more than where a sample lies.
SILENT_KEY = re.compile(r"[0-9a-f]{32}|[0-9]{1,12}")
_KEYED = re.compile(r"[0-9a-f]{32}")
# Of a sample: what is looked into here, and nothing else. A name in two parts may hold a word.
MEMBER = {*VIDEO, *IMAGE, "json", "mjpg", "off"}
PAGE = "audit.html"
PIECE = 1 << 24
_PATH = re.compile(r"[/\\]|\.(?:mp4|avi|mkv|webm|mov|jpg|png)\b", re.IGNORECASE)


@dataclass
class Findings:
    """Findings of a kind are counted, and the first is kept as the example. `names_too_short` were not sought."""

    counts: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    examples: dict[str, str] = field(default_factory=dict[str, str])
    names_too_short: int = 0

    def add(self, where: str, found: Iterable[Finding]) -> None:
        """Note what was found at `where`."""
        for finding in found:
            self.counts[finding.what] += 1
            self.examples.setdefault(finding.what, f"{where}: {finding.detail}")

    def rows(self) -> list[dict[str, Any]]:
        """As in `audit.json`: what, count, example."""
        return [
            {"what": what, "count": self.counts[what], "example": self.examples[what]} for what in sorted(self.counts)
        ]


def check_footage(root: Address, corpus: Corpus | None, names: Sequence[str], *, progress: bool = True) -> Findings:
    """All that is in a corpus, a folder of tars or a folder of videos besides pixels.

    `names` are names of sources, if known: none of them may lie in a shard, or be what a key is a plain hash of.
    """
    findings = Findings()
    needles, linked = Needles(names), Linkable(names)
    findings.names_too_short = needles.too_short
    if corpus is None:
        assert isinstance(root, Path)
        tars = sorted(root.glob("*.tar"))
        files = tars or [path for path in visible_files(root) if path.suffix[1:].lower() in VIDEO]
        for name, finding in findings_beside(root, None):
            findings.add(name, [finding])
        for path in tqdm(files, desc="check", unit="file", disable=None if progress else True):
            with path.open("rb") as file:
                _raw(path.name, file, findings, needles)
                if path.suffix == ".tar":
                    _check_tar(path.name, file, findings, linked)
                else:
                    findings.add(path.name, check_media(path))
        return findings
    for number in tqdm(
        range(len(corpus.manifest.shards)), desc="check", unit="shard", disable=None if progress else True
    ):
        with os.fdopen(corpus.open_shard(number), "rb") as file:
            shard = corpus.manifest.shards[number]
            if _raw(shard.url, file, findings, needles) != shard.sha256:
                raise UserError(
                    f"{root / shard.url}: not the bytes that the manifest names; run: understudy lint {root}"
                )
            _check_tar(shard.url, file, findings, linked)
    findings.add(MANIFEST, _names_in(corpus.manifest.to_json().encode(), needles))
    findings.add(SAMPLES, _check_rows(corpus.read_table(), needles, linked))
    if not isinstance(root, Remote):
        for name, finding in findings_beside(root, corpus.manifest):
            findings.add(name, [finding])
        for path in visible_files(root):
            if path.suffix in (".idx", ".json", ".md", ".csv") and path.name != MANIFEST:
                findings.add(path.name, _names_in(path.read_bytes(), needles))
    return findings


def findings_beside(root: Path, manifest: Manifest | None) -> Iterator[tuple[str, Finding]]:
    """What a packer, a removal and an audit leave for their owner's eyes, by name, and whatever else lies in a corpus's
    folder. Told without opening any of it.
    """
    told = set[Path]()
    for path in sorted(root.iterdir()):
        if (path.name == CLIPS or path.name.endswith(REFUSED)) and path.stat().st_size:
            yield path.name, Finding("source names", "names sources; move it out of what you publish")
        elif path.name == HOLES or path.name.endswith(PAGE):
            yield path.name, Finding("frames", "shows where people were, or may be; move it out of what you publish")
        else:
            continue
        told.add(path)
    for path in strangers(root, manifest) if manifest else ():
        if path not in told:
            name = str(path.relative_to(root))
            yield name, Finding("other files", "is not of the corpus; move it out of what you publish")


def _raw(name: str, file: BinaryIO, findings: Findings, needles: Needles) -> str:
    """Look for names in all bytes of a file, whatever they are, and leave it as it was; its SHA-256."""
    digest, overlap, before = hashlib.sha256(), max(needles.longest, 1) - 1, b""
    found: dict[Finding, None] = {}
    file.seek(0)
    while piece := file.read(PIECE):
        digest.update(piece)
        found |= dict.fromkeys(_names_in(before + piece, needles))
        before = piece[-overlap:] if overlap else b""
    findings.add(name, found)
    file.seek(0)
    return digest.hexdigest()


def _check_rows(data: bytes, needles: Needles, linked: Linkable) -> Iterator[Finding]:
    """The sample table: its fields, keys and groups."""
    fields = {item.name for item in dataclasses.fields(Sample)}
    for row in read_rows(data):
        if others := row.keys() - fields:
            yield Finding("sample table", f"fields {', '.join(sorted(others))}")
        for what, allowed in (("key", SILENT_KEY), ("group", _KEYED)):
            value = str(row.get(what, ""))
            if how := linked.how(value):
                yield Finding(f"linkable {what}", f"is {how}")
            elif value and not allowed.fullmatch(value):
                yield Finding(f"telling {what}", f"{value!r} is no keyed hash")
    text = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    yield from _names_in(text + data, needles)


def _check_tar(name: str, file: BinaryIO, findings: Findings, linked: Linkable) -> None:
    members: dict[str, dict[str, bytes]] = {}
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            findings.add(f"{name}/{member.name}", _header(member))
            if not member.isfile():
                continue
            folder, slash, base = member.name.rpartition("/")
            key, _, extension = base.partition(".")
            key = f"{folder}{slash}{key}"
            if members and key not in members:
                _check_sample(name, members, findings)
                members.clear()
            content = archive.extractfile(member)
            assert content is not None  # of a file
            members.setdefault(key, {})[extension] = content.read()
            if how := linked.how(key):
                findings.add(f"{name}/{key}", [Finding("linkable key", f"is {how}")])
        end = archive.offset
    _check_sample(name, members, findings)
    file.seek(end)
    while piece := file.read(PIECE):
        if any(piece):
            findings.add(name, [Finding("trailing bytes", "bytes after the tar's end")])
            break


def _header(member: tarfile.TarInfo) -> Iterator[Finding]:
    if member.uid or member.gid or member.uname or member.gname:
        yield Finding("tar owner", f"{member.uname or member.uid}:{member.gname or member.gid}")
    if member.mtime:
        yield Finding("tar time", f"{member.mtime:.0f}")
    if member.pax_headers:
        yield Finding("tar header", f"extended header {', '.join(sorted(member.pax_headers))}")
    if not member.isfile():
        yield Finding("tar member", "a link or folder" + (f" to {member.linkname!r}" if member.linkname else ""))
    elif member.name.partition(".")[2].lower() not in MEMBER:
        yield Finding("tar member", f"{member.name!r}: neither video, nor picture, nor KEY.json")
    if not SILENT_KEY.fullmatch(member.name.partition(".")[0]):
        yield Finding("telling key", f"{member.name!r} is neither a keyed hash nor a number")


def _check_sample(shard: str, members: dict[str, dict[str, bytes]], findings: Findings) -> None:
    for key, parts in members.items():
        where = f"{shard}/{key}"
        for extension, data in parts.items():
            last = extension.rpartition(".")[2].lower()
            if last == "json":
                findings.add(where, _sidecar(data))
            elif last == "mjpg":
                findings.add(where, _check_jpegs(data, parts.get("off", b"")))
            elif last in VIDEO | IMAGE:
                findings.add(where, check_media(data))
            elif last == "off" and len(data) % 8:
                findings.add(where, [Finding("tar member", "an index that is none")])


def _check_jpegs(joined: bytes, index: bytes) -> Iterator[Finding]:
    try:
        for jpeg in split_jpegs({"mjpg": joined, "off": index}, max(0, len(index) // 8 - 1)):
            yield from check_jpeg(jpeg)
    except ValueError as error:
        yield Finding("tar member", f"pictures that can't be told apart: {error}")


def _sidecar(data: bytes) -> Iterator[Finding]:
    try:
        body = cast("dict[str, Any]", json.loads(data))
        others, record = sorted(body.keys() - SIDECAR), body.get("removal")
        # Weights are named PACKAGE/FILE; nothing else in the record has a slash.
        told = json.dumps(
            {key: value for key, value in record.items() if key not in ("models", "gate")}
            if isinstance(record, dict)
            else record
        )
    except (ValueError, AttributeError, RecursionError):
        yield Finding("sidecar", "is no JSON object")
        return
    if others:
        yield Finding("sidecar", f"fields {', '.join(others)}")
    try:
        models_of(record)
    except ValueError:
        yield Finding("sidecar", "what it says of the removal is no removal record")
    if _PATH.search(told.replace("\\\\", "\\")):
        yield Finding("source names", "the removal record holds something like a path")


def _names_in(data: bytes, needles: Needles) -> Iterator[Finding]:
    for needle in needles.found_in(data):
        yield Finding("source names", f"the bytes of {os.fsdecode(needle)!r}")
