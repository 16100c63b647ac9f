"""Shards beyond their payload: tar headers, keys, sidecars, names of sources. And every payload through `check.py`."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast

from tqdm import tqdm

from understudy.privacy.audit_clips import IMAGE, VIDEO
from understudy.privacy.check import Finding, check_jpeg, check_media
from understudy.shards.frames import split_jpegs
from understudy.shards.manifest import MANIFEST, REFUSED, Corpus
from understudy.shards.remote import Address, Remote

# Of KEY.json. Whatever else a sidecar holds, it came from somewhere.
SIDECAR = {"label", "frames", "fps", "size", "duration", "kind", "removal"}
# A keyed hash, or a number that says no more than where a sample lies.
_SILENT_KEY = re.compile(r"[0-9a-f]{32}|[0-9]{1,12}")
_PATH = re.compile(r"[/\\]|\.(?:mp4|avi|mkv|webm|mov|jpg|png)\b", re.IGNORECASE)
# Secrets that are no secret: none at all, and the demo corpora's.
_KNOWN_SECRETS = (b"", b"secret", b"understudy", b"demo keys hide nothing")


@dataclass
class Findings:
    """Findings of a kind are counted, and the first is kept as the example."""

    counts: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    examples: dict[str, str] = field(default_factory=dict[str, str])

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
    needles, linked = _needles(names), linkable_keys(names)
    if corpus is None:
        assert isinstance(root, Path)
        tars = sorted(root.glob("*.tar"))
        files = tars or [path for path in sorted(root.rglob("*")) if path.suffix[1:].lower() in VIDEO]
        for path in tqdm(files, desc="check", unit="file", disable=None if progress else True):
            if path.suffix == ".tar":
                with path.open("rb") as file:
                    _check_tar(path.name, file, findings, needles, linked)
            else:
                findings.add(path.name, check_media(path))
        return findings
    for number in tqdm(
        range(len(corpus.manifest.shards)), desc="check", unit="shard", disable=None if progress else True
    ):
        with os.fdopen(corpus.open_shard(number), "rb") as file:
            _check_tar(corpus.manifest.shards[number].url, file, findings, needles, linked)
    findings.add(MANIFEST, _names_in(corpus.manifest.to_json().encode(), needles))
    if not isinstance(root, Remote) and (root / REFUSED).exists() and (root / REFUSED).stat().st_size:
        findings.add(REFUSED, [Finding("source names", "lists refused sources; move it out of the corpus")])
    return findings


def _check_tar(
    name: str, file: BinaryIO, findings: Findings, needles: Sequence[bytes], linked: Mapping[str, str]
) -> None:
    members: dict[str, dict[str, bytes]] = {}
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            findings.add(f"{name}/{member.name}", _header(member))
            key, _, extension = member.name.rpartition("/")[2].partition(".")
            if members and key not in members:
                _check_sample(name, members, findings, needles)
                members.clear()
            handle = archive.extractfile(member)
            members.setdefault(key, {})[extension] = handle.read() if handle else b""
            if key in linked:
                findings.add(f"{name}/{key}", [Finding("linkable key", f"is {linked[key]}")])
    _check_sample(name, members, findings, needles)


def _header(member: tarfile.TarInfo) -> Iterator[Finding]:
    if member.uid or member.gid or member.uname or member.gname:
        yield Finding("tar owner", f"{member.uname or member.uid}:{member.gname or member.gid}")
    if member.mtime:
        yield Finding("tar time", f"{int(member.mtime)}")
    if member.pax_headers:
        yield Finding("tar header", f"extended header {', '.join(sorted(member.pax_headers))}")
    if not _SILENT_KEY.fullmatch(member.name.partition(".")[0]):
        yield Finding("telling key", f"{member.name!r} is neither a keyed hash nor a number")


def _check_sample(
    shard: str, members: dict[str, dict[str, bytes]], findings: Findings, needles: Sequence[bytes]
) -> None:
    for key, parts in members.items():
        where = f"{shard}/{key}"
        for extension, data in parts.items():
            last = extension.rpartition(".")[2].lower()
            if last == "json":
                findings.add(where, _sidecar(data))
            elif last == "mjpg" and "off" in parts:
                for jpeg in split_jpegs(parts, len(parts["off"]) // 8 - 1):
                    findings.add(where, check_jpeg(jpeg))
            elif last in VIDEO | IMAGE:
                findings.add(where, check_media(data) if last != "png" else ())
            elif last in ("txt", "csv", "srt", "vtt", "wav", "mp3", "flac", "npy"):
                findings.add(where, [Finding("side file", f"member .{extension}")])
            findings.add(where, _names_in(data, needles))


def _sidecar(data: bytes) -> Iterator[Finding]:
    try:
        body = cast("dict[str, Any]", json.loads(data))
        others = sorted(body.keys() - SIDECAR)
    except (ValueError, AttributeError):
        yield Finding("sidecar", "is no JSON object")
        return
    if others:
        yield Finding("sidecar", f"fields {', '.join(others)}")
    # Weights are named PACKAGE/FILE; nothing else in the record has a slash.
    record = body.get("removal") or {}
    told = {key: value for key, value in record.items() if key not in ("models", "gate")}
    if _PATH.search(json.dumps(told).replace("\\\\", "\\")):
        yield Finding("source names", "the removal record holds something like a path")


def _needles(names: Sequence[str]) -> list[bytes]:
    """What to look for in shards: names and their stems, if they are too long to come up by chance."""
    parts = {part for name in names for part in (PurePath(name).name, PurePath(name).stem)}
    return sorted(os.fsencode(part) for part in parts if len(part) >= 8)


def _names_in(data: bytes, needles: Sequence[bytes]) -> Iterator[Finding]:
    for needle in needles:
        if needle in data:
            yield Finding("source names", f"the bytes of {os.fsdecode(needle)!r}")


def linkable_keys(names: Sequence[str]) -> dict[str, str]:
    """Keys that anyone could make from these names without a secret, and how: plain hashes, whole or cut to 32 digits,
    and keyed ones with a secret that everybody knows.
    """
    keys: dict[str, str] = {}
    for name in names:
        for text in {name, PurePath(name).name, PurePath(name).stem}:
            raw = os.fsencode(text)
            keys[text] = f"the name {text!r}"
            keys[f"{zlib.crc32(raw):08x}"] = f"the CRC of {text!r}"
            for algorithm in ("md5", "sha1", "sha256", "sha512", "blake2b", "blake2s"):
                digest = hashlib.new(algorithm, raw, usedforsecurity=False).hexdigest()
                keys[digest] = keys[digest[:32]] = keys[digest[:16]] = f"the plain {algorithm} of {text!r}"
            for secret in _KNOWN_SECRETS:
                digest = hmac.new(secret, raw, hashlib.sha256).hexdigest()
                keys[digest] = keys[digest[:32]] = f"the hash of {text!r} keyed with a secret that is known"
    return keys
