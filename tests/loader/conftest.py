"""Small mjpeg corpora whose pixels say where they are from: red is 10 x frame, green is the sample's number."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import crc32c
import numpy as np
import pytest
import simplejpeg

from understudy.shards.corpus import Corpus
from understudy.shards.manifest import SAMPLES, Manifest, Sample, encode_samples
from understudy.shards.tarshard import write_shard

CLASSES = ("a", "b", "c")


def join_jpegs(jpegs: list[bytes]) -> dict[str, bytes]:
    """The payload members of an mjpeg sample."""
    offsets = np.concatenate([[0], np.cumsum([len(jpeg) for jpeg in jpegs])]).astype("<i8")
    return {"mjpg": b"".join(jpegs), "off": offsets.tobytes()}


def flat_jpeg(red: int, green: int, width: int, height: int) -> bytes:
    image = np.empty((height, width, 3), np.uint8)
    image[:] = (red, green, 128)
    return simplejpeg.encode_jpeg(image, quality=95, colorsubsampling="420")


def build_corpus(
    root: Path,
    counts: list[int],
    *,
    name: str = "tiny",
    frames: int = 12,
    width: int = 40,
    height: int = 32,
    payload: Callable[[int], dict[str, bytes]] | None = None,
) -> Corpus:
    """A corpus of `counts[i]` samples in shard i. `payload(sample)` overrides what a sample's members hold."""
    root.mkdir(parents=True, exist_ok=True)
    rows: list[Sample] = []
    shards = []
    for number, count in enumerate(counts):
        members = []
        for row in range(count):
            i = len(rows) + row
            made = payload(i) if payload else None
            if made is None:
                made = join_jpegs([flat_jpeg(10 * f, i % 250, width, height) for f in range(frames)])
            members.append((f"{name}{i:06d}", {"json": b"{}", **made}))
        shard, entries = write_shard(root / f"{name}-{number:06d}.tar", members)
        shards.append(shard)
        spans = {entry.name: (entry.offset, entry.size) for entry in entries}
        for row, (key, made) in enumerate(members):
            rows.append(
                Sample(
                    key=key,
                    shard=number,
                    row=row,
                    label=len(rows) % len(CLASSES),
                    frames=frames,
                    width=width,
                    height=height,
                    members={ext: spans[f"{key}.{ext}"] for ext in made},
                    crc32c=crc32c.crc32c(made["mjpg"] + made["off"]),
                )
            )
    data = encode_samples(rows)
    (root / SAMPLES).write_bytes(data)
    Manifest(
        name=name,
        kind="synthetic",
        classes=CLASSES,
        licence="none",
        codec="mjpeg",
        fps=6.0,
        short_side=min(width, height),
        shards=tuple(shards),
        samples_sha256=hashlib.sha256(data).hexdigest(),
        samples_filesize=len(data),
        frames=frames * len(rows),
        refused=0,
        per_class=tuple(sum(r.label == c for r in rows) for c in range(len(CLASSES))),
        tool="test",
        tool_version="0",
    ).save(root)
    return Corpus.open(root)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """50 samples in 7 uneven shards."""
    return build_corpus(tmp_path_factory.mktemp("corpus"), [5, 9, 8, 7, 10, 3, 8])


@pytest.fixture(scope="session")
def build() -> Callable[..., Corpus]:
    """`build_corpus` for tests that need one of their own."""
    return build_corpus


@pytest.fixture(scope="session")
def other_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """30 samples in 3 shards, under another name and of another size, with frames that are all shorter videos."""
    root = tmp_path_factory.mktemp("other")
    return build_corpus(root, [10, 12, 8], name="other", frames=5, width=32, height=48)
