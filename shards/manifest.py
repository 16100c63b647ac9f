"""The corpus on disk, shard format version 1: what `manifest.json` and `samples.jsonl.zst` say, read and written.

Opening a corpus lives in `corpus.py`, writing shards in `tarshard.py`, packing in `pack.py`, checking in `lint.py`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import zstandard

from understudy.shards.checks import (
    DIGEST,
    INDEX,
    MOST_ROWS,
    NAME,
    SHARD,
    items,
    matching,
    rate,
    whole,
    words,
)
from understudy.shards.columns import read_rows
from understudy.shards.errors import UserError
from understudy.shards.fetch import read_address
from understudy.shards.files import write_atomic
from understudy.shards.kinds import KINDS, Codec, Kind
from understudy.shards.remote import Address, MissingError

FORMAT = 1
MANIFEST = "manifest.json"
SAMPLES = "samples.jsonl.zst"
REFUSED = "refused.jsonl"

# Members of a sample by codec, in the order in which they lie in the tar. The payload is all but the JSON.
MEMBERS: dict[Codec, tuple[str, ...]] = {"mjpeg": ("json", "mjpg", "off"), "h264": ("json", "mp4")}


@dataclass(frozen=True)
class Shard:
    """One tar of the corpus, as the manifest lists it. Sizes in bytes; `url` and `index` relative to it."""

    url: str
    nsamples: int
    filesize: int
    sha256: str
    index: str


@dataclass(frozen=True)
class Manifest:
    """The public face of a corpus; as JSON it reads as a wids-v1 shard index with keys of ours beside it."""

    name: str
    kind: Kind
    classes: tuple[str, ...]
    licence: str
    codec: Codec
    fps: float
    short_side: int
    shards: tuple[Shard, ...]
    samples_sha256: str
    samples_filesize: int
    frames: int
    refused: int
    per_class: tuple[int, ...]
    tool: str
    tool_version: str
    plan: str = ""  # keyed digest of the sources and settings, by which a packer knows its own work again

    @property
    def nsamples(self) -> int:
        """Samples in all shards."""
        return sum(shard.nsamples for shard in self.shards)

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 over everything here but the tool that made it: the identity of the corpus."""
        body = self._body()
        del body["made_by"]
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def _body(self) -> dict[str, Any]:
        return {
            "__kind__": "wids-shard-index-v1",
            "wids_version": 1,
            "format": FORMAT,
            "name": self.name,
            "kind": self.kind,
            "classes": list(self.classes),
            "licence": self.licence,
            "codec": self.codec,
            "fps": self.fps,
            "short_side": self.short_side,
            "counts": {
                "samples": self.nsamples,
                "frames": self.frames,
                "refused": self.refused,
                "per_class": list(self.per_class),
            },
            "shardlist": [
                {
                    "url": shard.url,
                    "nsamples": shard.nsamples,
                    "filesize": shard.filesize,
                    "sha256": shard.sha256,
                    "index": shard.index,
                }
                for shard in self.shards
            ],
            "samples": {"url": SAMPLES, "filesize": self.samples_filesize, "sha256": self.samples_sha256},
            "made_by": {"tool": self.tool, "version": self.tool_version, "plan": self.plan},
        }

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps({**self._body(), "digest": self.digest}, indent=1, ensure_ascii=False) + "\n"

    def save(self, root: Path) -> None:
        """Write `root/manifest.json`, which makes the corpus exist. Call it last."""
        write_atomic(root / MANIFEST, self.to_json().encode())

    @staticmethod
    def load(root: Address) -> Manifest:
        """Read and check `root/manifest.json`.

        Raises UserError where it is of another format version or its digest does not fit, MissingError without one.
        """
        path = root / MANIFEST
        try:
            text = read_address(path)
            try:
                return Manifest.parse(text, path)
            except UserError:
                if isinstance(path, Path):
                    raise
                # Nobody knew its size and digest before, so that damage on the way shows here only.
                return Manifest.parse(read_address(path), path)
        except (FileNotFoundError, MissingError):
            hint = "finish packing it" if isinstance(root, Path) and root.is_dir() else "check the path"
            raise MissingError(f"{root}: no {MANIFEST} there, so it is not a corpus; {hint}") from None

    @staticmethod
    def parse(text: bytes, path: Address) -> Manifest:
        """The manifest that `text` is, as it lies at `path`. Raises UserError as `load` does."""
        try:
            body: Any = json.loads(text)
            if body["format"] != FORMAT:
                raise UserError(f"{path}: shard format {body['format']!r:.80}, this version reads {FORMAT}; repack it")
            manifest = Manifest._from_body(body)
            digest = cast(str, body["digest"])
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: not a corpus manifest ({error!r}); repack the corpus") from None
        if manifest.digest != digest:
            raise UserError(f"{path}: digest does not fit its content, it was edited or damaged; repack the corpus")
        return manifest

    @staticmethod
    def _from_body(body: Any) -> Manifest:
        if body["kind"] not in KINDS or body["codec"] not in MEMBERS:
            raise ValueError(f"kind {body['kind']!r:.80}, codec {body['codec']!r:.80}")
        counts, samples, made_by = body["counts"], body["samples"], body["made_by"]
        if samples["url"] != SAMPLES:
            raise ValueError(f"a sample table {samples['url']!r:.80}")
        return Manifest(
            name=matching(NAME, body["name"]),
            kind=body["kind"],
            classes=tuple(map(words, items(body["classes"]))),
            licence=words(body["licence"]),
            codec=body["codec"],
            fps=rate(body["fps"]),
            short_side=whole(body["short_side"], least=1),
            shards=tuple(
                Shard(
                    url=matching(SHARD, entry["url"]),
                    nsamples=whole(entry["nsamples"], most=MOST_ROWS),
                    filesize=whole(entry["filesize"]),
                    sha256=matching(DIGEST, entry["sha256"]),
                    index=matching(INDEX, entry["index"]),
                )
                for entry in items(body["shardlist"])
            ),
            samples_sha256=matching(DIGEST, samples["sha256"]),
            samples_filesize=whole(samples["filesize"]),
            frames=whole(counts["frames"]),
            refused=whole(counts["refused"]),
            per_class=tuple(map(whole, items(counts["per_class"]))),
            tool=words(made_by["tool"]),
            tool_version=words(made_by["version"]),
            plan=words(made_by["plan"]),
        )


@dataclass(frozen=True)
class Sample:
    """One row of `samples.jsonl.zst`. `members` maps an extension to (byte offset in the shard, size in bytes);
    `crc32c` is over the payload members, in the order of MEMBERS; `width` and `height` are of the stored frames.
    Samples with the same `group`, a keyed hash, are of one origin; it is empty where the packer knew of none.
    """

    key: str
    shard: int
    row: int
    label: int
    frames: int
    width: int
    height: int
    members: dict[str, tuple[int, int]]
    crc32c: int
    group: str = ""


def encode_samples(samples: Iterable[Sample]) -> bytes:
    """The bytes of `samples.jsonl.zst`: one JSON object a line, in shard and row order."""
    lines = (
        json.dumps(
            {
                "key": sample.key,
                "shard": sample.shard,
                "row": sample.row,
                "label": sample.label,
                "frames": sample.frames,
                "width": sample.width,
                "height": sample.height,
                "members": {ext: list(span) for ext, span in sample.members.items()},
                "crc32c": sample.crc32c,
                **({"group": sample.group} if sample.group else {}),
            },
            separators=(",", ":"),
        )
        + "\n"
        for sample in samples
    )
    text = io.BytesIO()  # whole, for its size is in what comes of it
    text.writelines(line.encode() for line in lines)
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(text.getbuffer())


def read_samples(data: bytes) -> Iterator[Sample]:
    """What `encode_samples` made bytes of, one at a time. Raises as `sample_from_row` does, or zstandard.ZstdError."""
    return map(sample_from_row, read_rows(data))


def sample_from_row(row: dict[str, Any]) -> Sample:
    """A Sample from its fields as JSON has them. Raises TypeError, KeyError or ValueError where they aren't such."""
    spans = {extension: (offset, size) for extension, (offset, size) in dict(row["members"]).items()}
    fields: dict[str, Any] = {**row, "members": spans}
    return Sample(**fields)
