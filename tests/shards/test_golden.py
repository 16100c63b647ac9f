"""Shard format version 1 must not change unnoticed: packed again, the same sources have to give the same bytes.

A change here makes every corpus another one: it gets another digest, so that audits and checkpoints no longer fit it.
If it is meant, raise FORMAT in shards/manifest.py, name it in the change log, and put here what this prints:
python tests/shards/test_golden.py
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path

import zstandard

from understudy.shards.encode import Encoded
from understudy.shards.keys import sample_key
from understudy.shards.kinds import Codec
from understudy.shards.manifest import Manifest, Sample, Shard, encode_samples
from understudy.shards.pack import PackConfig, pack_shard
from understudy.shards.sources import Source

SECRET = bytes(range(32))
PAYLOADS: dict[Codec, dict[str, bytes]] = {
    "mjpeg": {"mjpg": bytes(range(256)) * 3, "off": b"".join(n.to_bytes(8, "little") for n in (0, 300, 768))},
    "h264": {"mp4": bytes(range(255, -1, -1)) * 2},
}

KEYS = {
    "walk/1.mp4": "4b09ad9806982b3a340b6371ae842d70",
    "group v_YoYo_g25": "35c427faf0cc206f570fcbeb249c7d06",
    "läuft/走る.mp4": "293cb04e3a129cdfffb30fc3e83cfcbf",
    "not UTF-8 \udcff.mp4": "98a41d8bb60bf713209c88cfd60b3e2f",
}
EXPECTED = {
    "mjpeg shard": "2ee941606e9a679c03f141f873dff9043e38305955f5030ff20399aff7da4a80",
    "mjpeg index": "1d475a352dc15c5b48c3d43c0122c522cf477db33733c3ac25ce9f79f9fa4e3b",
    "mjpeg rows": "154a00624a1affaef6cd1c4f4a7013a99706202735d75a0f91b073def163aabf",
    "mjpeg table": "3df82092514417378093c33bdfda9a897dda9ca666ab348e2490cafb1b08acd7",
    "mjpeg manifest": "420a92546346c69cc43063cd6b9472c57b2c82a5e1586aa64ac51c1c27c0911b",
    "h264 shard": "d1804dd62c6ec507852b603ecd50669fb397f95126701680852e65ae4874a593",
    "h264 index": "3372fc421f26524e5d20f3da15cf992006320edf166c174c13b17902e9b389db",
    "h264 rows": "544d4f708998be4b2d8f168dfd6ef15a3f6b41f982234596d6bc653fd46af407",
    "h264 table": "41c592536a38cc5ddd1193d25e7e37227ff91f71965ec8c6783f9eea967a3f24",
    "h264 manifest": "1b22d2dbe2ae01f21020df48b2f3512169945cc75a842f47957c671fc7ffe917",
}


def written(folder: Path, codec: Codec) -> dict[str, str]:
    """Hex SHA-256 of all that a corpus of two samples, in two shards, consists of."""
    rows, shards = list[Sample](), list[Shard]()
    for number, group in enumerate(("", "group 1")):
        source = Source(f"{number}.mp4", number, group=group)
        removal = {"models": ["a/b"], "filler": "median"} if number else None
        config = PackConfig(codec, "no-human", ("gehen", "走る"), "CC0-1.0", SECRET, codec, removal=removal)
        packed = pack_shard(
            folder / f"{codec}-{number:06d}.tar",
            [(sample_key(SECRET, source.id), source)],
            iter([Encoded(PAYLOADS[codec], 2, 64, 48)]),
            config,
        )
        assert packed.shard is not None
        shards.append(packed.shard)
        rows.append(replace(packed.samples[0], shard=number))
    table = encode_samples(rows)
    manifest = Manifest(
        name=codec,
        kind="no-human",
        classes=("gehen", "走る"),
        licence="CC0-1.0",
        codec=codec,
        fps=6.0,
        short_side=48,
        shards=tuple(shards),
        samples_sha256="ab" * 32,  # not the table's, which is looked at by itself
        samples_filesize=400,
        frames=4,
        refused=1,
        per_class=(1, 1),
        tool="understudy",
        tool_version="0.1.0",
        plan="cd" * 32,
    )
    parts = {
        "shard": (folder / shards[1].url).read_bytes(),
        "index": (folder / shards[1].index).read_bytes(),
        "rows": zstandard.decompress(table),
        "table": table,  # if this alone differs, another release of zstandard compresses in another way
        "manifest": manifest.to_json().encode(),
    }
    return {f"{codec} {name}": hashlib.sha256(data).hexdigest() for name, data in parts.items()}


def digests() -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        return {**written(Path(folder), "mjpeg"), **written(Path(folder), "h264")}


def test_the_bytes_of_a_corpus_are_those_of_before() -> None:
    assert digests() == EXPECTED


def test_the_keys_of_samples_are_those_of_before() -> None:
    assert {source: sample_key(SECRET, source) for source in KEYS} == KEYS


if __name__ == "__main__":
    print({source: sample_key(SECRET, source) for source in KEYS})
    print(digests())
