"""The manifest and the sample table: what they say comes back, and what does not fit is told."""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.shards import columns
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.files import write_atomic
from understudy.shards.lint import lint
from understudy.shards.manifest import Manifest, Sample, Shard, encode_samples, read_samples

MANIFEST = Manifest(
    name="tiny",
    kind="no-human",
    classes=("gehen", "走る"),
    licence="CC0-1.0",
    codec="mjpeg",
    fps=6.0,
    short_side=256,
    shards=(Shard("tiny-000000.tar", 2, 20480, "ab" * 32, "tiny-000000.idx"),),
    samples_sha256="cd" * 32,
    samples_filesize=123,
    frames=30,
    refused=1,
    per_class=(1, 1),
    tool="understudy",
    tool_version="0.1.0",
    plan="ef" * 32,
)

numbers = st.integers(0, 2**40)
samples = st.builds(
    Sample,
    key=st.text("0123456789abcdef", min_size=32, max_size=32),
    shard=numbers,
    row=numbers,
    label=numbers,
    frames=numbers,
    width=numbers,
    height=numbers,
    members=st.dictionaries(st.sampled_from(["json", "mjpg", "off", "mp4"]), st.tuples(numbers, numbers)),
    crc32c=st.integers(0, 2**32 - 1),
)


small = st.integers(0, 2**31 - 1)
span = st.tuples(numbers, numbers)
storable = st.builds(
    Sample,
    key=st.text("0123456789abcdef", min_size=1, max_size=32),
    shard=small,
    row=small,
    label=numbers,
    frames=small,
    width=small,
    height=small,
    members=st.fixed_dictionaries({"json": span, "mjpg": span, "off": span}),
    crc32c=st.integers(0, 2**32 - 1),
    group=st.sampled_from(["", "", "b", "a", "0c"]),
)


def write_table(root: Path, data: bytes, rows: int) -> None:
    """A corpus of these bytes as its sample table, and without a shard."""
    write_atomic(root / "samples.jsonl.zst", data)
    shard = replace(MANIFEST.shards[0], nsamples=rows)
    digest = hashlib.sha256(data).hexdigest()
    replace(MANIFEST, shards=(shard,), samples_sha256=digest, samples_filesize=len(data)).save(root)


@settings(max_examples=50)
@given(table=st.lists(storable, max_size=20))
def test_the_columns_are_the_samples(table: list[Sample]) -> None:
    read = columns.read_columns(encode_samples(table), ("json", "mjpg", "off"), len(table))
    assert list(columns.Keys(read.keys)) == [sample.key for sample in table]
    for name, column in zip(columns.NUMBERS, read.numbers):
        assert column.tolist() == [getattr(sample, name) for sample in table]
    assert read.places.tolist() == [[list(sample.members[ext]) for ext in ("json", "mjpg", "off")] for sample in table]
    names = [sample.group or sample.key for sample in table]
    assert columns.number_groups(read.keys, read.groups).tolist() == [sorted(set(names)).index(name) for name in names]


def packed(seed: int, rows: int, members: tuple[str, ...], groups: float) -> bytes:
    """The text of a table as a packer writes it, of numbers of every length."""
    chance = random.Random(seed)

    def number(digits: int) -> int:
        return chance.choice([0, chance.randrange(10 ** chance.randint(1, digits))])

    def sample() -> Sample:
        key, group = (f"{chance.getrandbits(128):032x}" for _ in range(2))
        spans = {member: (number(15), number(9)) for member in members}
        shard, row, label, frames, width, height = (number(9) for _ in range(6))
        checksum, grouped = number(9), chance.random() < groups
        return Sample(key, shard, row, label, frames, width, height, spans, checksum, group if grouped else "")

    return zstandard.decompress(encode_samples(sample() for _ in range(rows)))


def same(a: columns.Columns, b: columns.Columns) -> bool:
    pairs = zip((a.keys, a.groups, a.places, *a.numbers), (b.keys, b.groups, b.places, *b.numbers))
    return all(np.array_equal(x, y) and x.dtype.kind == y.dtype.kind for x, y in pairs)


@pytest.mark.parametrize("members", [("json", "mjpg", "off"), ("json", "mp4")])
@pytest.mark.parametrize("groups", [0.0, 0.5, 1.0])
def test_many_rows_at_a_time_are_read_as_one_by_one(members: tuple[str, ...], groups: float) -> None:
    text = packed(0, 500, members, groups)
    quick = columns._quickly(text, members)
    assert quick is not None
    assert same(quick, columns._one_by_one(text, members))


@pytest.mark.parametrize("members", [("json", "mjpg", "off"), ("json", "mp4")])
def test_whatever_is_changed_in_a_row_is_read_as_json_would_have_it_or_told(members: tuple[str, ...]) -> None:
    text, chance, taken = packed(1, 3, members, 0.5), random.Random(0), 0
    for _ in range(4000):
        changed = bytearray(text)
        place = chance.randrange(len(text))
        new = bytes([chance.choice(b'0123456789,:"[]{}-. ekg\n\\' + text[place : place + 1])])
        cut = chance.choice([place, place + 1, place + 2])
        changed[place:cut] = new * chance.randrange(3)
        if not changed:
            continue
        with suppress(ValueError):
            quick = columns._quickly(bytes(changed), members)
            if quick is not None:
                taken += 1
                assert same(quick, columns._one_by_one(bytes(changed), members)), bytes(changed)
    assert taken > 100


def test_blocks_of_text_end_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    members = ("json", "mjpg", "off")
    text = packed(2, 50, members, 0.5)
    whole = columns._one_by_one(text, members)
    data = zstandard.compress(text.removesuffix(b"\n"))
    for size in (1, 300, 1000, 10**6):
        monkeypatch.setattr(columns, "BLOCK", size)
        assert same(columns.read_columns(data, members, 50), whole)


ROW = Sample("ab", 0, 0, 0, 1, 2, 2, {"json": (0, 1), "mjpg": (1, 1), "off": (2, 1)}, 7)


@pytest.mark.parametrize(
    "row",
    [
        replace(ROW, members={"json": (0, 1), "mjpg": (1, 1)}),
        replace(ROW, members={**ROW.members, "off": (1, 2, 3)}),  # type: ignore[dict-item]
        replace(ROW, frames=2**31),
        replace(ROW, crc32c=2**32),
        replace(ROW, label=-1),
        replace(ROW, label=2**63),
        replace(ROW, width="wide"),  # type: ignore[arg-type]
        replace(ROW, width=2.0),  # type: ignore[arg-type]
        replace(ROW, key=7),  # type: ignore[arg-type]
        replace(ROW, key="a\0"),
    ],
)
def test_a_row_that_makes_no_sense_is_told(tmp_path: Path, row: Sample) -> None:
    write_table(tmp_path, encode_samples([ROW, row]), 2)
    with pytest.raises(UserError, match=r"samples\.jsonl\.zst: not a sample table .*; repack the corpus"):
        Corpus.open(tmp_path)


@pytest.mark.parametrize(("rows", "told"), [(0, "0 rows"), (1, "1 rows"), (3, "more than 2 rows")])
def test_a_table_of_another_length_is_told(tmp_path: Path, rows: int, told: str) -> None:
    write_table(tmp_path, encode_samples([ROW] * rows), 2)
    with pytest.raises(UserError, match=f"{told}, manifest.json says 2; repack the corpus"):
        Corpus.open(tmp_path)


END = MANIFEST.shards[0].filesize


def test_a_row_may_reach_to_the_end_of_its_shard_and_have_no_group(tmp_path: Path) -> None:
    last = replace(ROW, row=1, label=1, width=65535, members={**ROW.members, "off": (END - 9, 9)})
    write_table(tmp_path, encode_samples([ROW, last]), 2)
    corpus = Corpus.open(tmp_path)
    assert corpus.sidecars.tolist() == [[0, 1]] * 2
    assert corpus.spans.tolist() == [[[1, 1], [2, 1]], [[1, 1], [END - 9, 9]]]
    assert corpus.label.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"shard": 1}, "its rows are not the manifest's shards in order"),
        ({"shard": 2**31 - 1}, "its rows are not the manifest's shards in order"),
        ({"row": 2}, "its rows are not the manifest's shards in order"),
        ({"row": 0}, "its rows are not the manifest's shards in order"),
        ({"label": 2}, "a row has label 2, from 0 to 1 is possible"),
        ({"label": 2**62}, "a row has label"),
        ({"frames": 0}, "a row has frames 0"),
        ({"width": 0}, "a row has width 0"),
        ({"height": 0}, "a row has height 0"),
        ({"height": 65536}, "a row has height 65536, from 1 to 65535 is possible"),
        ({"members": {**ROW.members, "mjpg": (0, 2**50)}}, "a row lies beyond the end of its shard"),
        ({"members": {**ROW.members, "json": (END, 1)}}, "a row lies beyond the end of its shard"),
        ({"members": {**ROW.members, "off": (2**63 - 1, 2**63 - 1)}}, "a row lies beyond the end of its shard"),
    ],
)
def test_a_row_that_can_not_be_is_told(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    write_table(tmp_path, encode_samples([ROW, replace(ROW, **{"row": 1, **changes})]), 2)
    with pytest.raises(UserError, match=rf"samples\.jsonl\.zst: {told}.*; repack the corpus") as caught:
        Corpus.open(tmp_path)
    assert "\n" not in str(caught.value)


def test_shards_of_no_rows_and_of_many_are_told_apart(tmp_path: Path) -> None:
    table = [replace(ROW, shard=shard, row=row) for shard, rows in ((0, 2), (2, 3), (3, 1)) for row in range(rows)]
    write_table(tmp_path, encode_samples(table), 6)
    manifest = Manifest.load(tmp_path)
    for counts, sound in (((2, 0, 3, 1), True), ((2, 0, 1, 3), False), ((2, 3, 1), False), ((6,), False)):
        shards = tuple(replace(MANIFEST.shards[0], nsamples=count) for count in counts)
        replace(manifest, shards=shards).save(tmp_path)
        if sound:
            assert len(Corpus.open(tmp_path)) == 6
            continue
        with pytest.raises(UserError, match="not the manifest's shards in order"):
            Corpus.open(tmp_path)


@pytest.mark.parametrize("deep", [b"[" * 50_000, b'{"a":' * 10_000])
def test_a_row_nested_too_deep_is_told(tmp_path: Path, deep: bytes) -> None:
    write_table(tmp_path, zstandard.compress(deep), 1)
    with pytest.raises(UserError, match=r"not a sample table \(ValueError\('a row nested too deep'\)\)"):
        Corpus.open(tmp_path)
    assert any("a row nested too deep" in finding for finding in lint(tmp_path, progress=False).findings)


def read_pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the pieces of text that are decompressed from now on."""
    sizes: list[int] = []

    class Noting(io.BufferedReader):
        def read(self, size: int | None = -1, /) -> bytes:
            piece = super().read(size)
            sizes.append(len(piece))
            return piece

    plain = zstandard.ZstdDecompressor

    class Decompressor:
        def stream_reader(self, *arguments: Any, **settings: Any) -> io.BufferedReader:
            return Noting(plain().stream_reader(*arguments, **settings))  # type: ignore[arg-type]

    monkeypatch.setattr(zstandard, "ZstdDecompressor", Decompressor)
    return sizes


def test_of_a_table_without_lines_little_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path, zstandard.compress(bytes(60_000_000)), 1)
    read = read_pieces(monkeypatch)
    with pytest.raises(UserError, match=r"not a sample table .*a line of more than 65536 bytes"):
        Corpus.open(tmp_path)
    assert sum(read) <= 2 * columns.BLOCK
    assert any("a line of more than 65536 bytes" in finding for finding in lint(tmp_path, progress=False).findings)


def test_of_a_table_with_too_many_rows_few_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = zstandard.decompress(encode_samples([ROW] * 100_000))
    frames = zstandard.compress(text[: len(text) // 2]) + zstandard.compress(text[len(text) // 2 :])
    for data in (zstandard.compress(text), frames):
        write_table(tmp_path, data, 2)
        with monkeypatch.context() as patched:
            read = read_pieces(patched)
            with pytest.raises(UserError, match=r"more than 2 rows, manifest\.json says 2"):
                Corpus.open(tmp_path)
            assert sum(read) <= 2 * columns.BLOCK < len(text)
            read.clear()
            assert any("rows are not the manifest's" in finding for finding in lint(tmp_path, progress=False).findings)
            assert sum(read) <= 2 * columns.BLOCK


def test_rows_in_a_second_frame_count_and_what_follows_the_last_is_told(tmp_path: Path) -> None:
    first, second = encode_samples([ROW]), encode_samples([replace(ROW, row=1)])
    write_table(tmp_path, first + second, 2)
    assert len(Corpus.open(tmp_path)) == 2
    write_table(tmp_path, first + second + b"and more", 2)
    with pytest.raises(UserError, match="not a sample table"):
        Corpus.open(tmp_path)


@given(st.lists(samples, max_size=20))
def test_the_sample_table_comes_back(table: list[Sample]) -> None:
    assert list(read_samples(encode_samples(table))) == table


def test_the_manifest_comes_back(tmp_path: Path) -> None:
    MANIFEST.save(tmp_path)
    assert Manifest.load(tmp_path) == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_it_reads_as_a_wids_v1_index() -> None:
    # Loaded with webdataset 0.2.111's wids.ShardListDataset too; later releases have no wids any more.
    body = json.loads(MANIFEST.to_json())
    assert body["__kind__"] == "wids-shard-index-v1" and body["wids_version"] == 1
    assert isinstance(body["name"], str)
    for shard in body["shardlist"]:
        assert {"url", "nsamples", "filesize"} <= shard.keys()
        assert "/" not in shard["url"], "resolved against the place of the manifest"


def test_the_digest_is_of_the_corpus_not_of_its_maker() -> None:
    assert replace(MANIFEST, tool_version="9.9", plan="").digest == MANIFEST.digest
    others = [
        replace(MANIFEST, name="other"),
        replace(MANIFEST, fps=12.0),
        replace(MANIFEST, classes=("走る", "gehen")),
        replace(MANIFEST, samples_sha256="00" * 32),
        replace(MANIFEST, shards=(replace(MANIFEST.shards[0], sha256="00" * 32),)),
    ]
    assert len({manifest.digest for manifest in [MANIFEST, *others]}) == 1 + len(others)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"fps": 6.0', '"fps": 8.0', "edited or damaged"),
        ('"nsamples": 2', '"nsamples": 3', "edited or damaged"),
        ('"format": 1', '"format": 2', "shard format 2, this version reads 1"),
        ('"kind": "no-human"', '"kind": "unheard-of"', "not a corpus manifest"),
        ('"shardlist"', '"shardlost"', "not a corpus manifest"),
        ("{", "", "not a corpus manifest"),
    ],
)
def test_a_changed_manifest_is_told(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in MANIFEST.to_json()
    (tmp_path / "manifest.json").write_text(MANIFEST.to_json().replace(old, new, 1))
    with pytest.raises(UserError, match=says) as caught:
        Manifest.load(tmp_path)
    assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
HOSTILE = st.sampled_from(
    ["", ".", "..", "../victim", "a/b.tar", "/etc/passwd", "a\0.tar", "a.tar\n", "\ud800", -1, 2**70, 0.5, 1e400, True]
)


def places(body: Any, to: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is a value in JSON: the names and numbers that lead there."""
    yield to
    for name in body if isinstance(body, dict) else range(len(body)) if isinstance(body, list) else ():
        yield from places(body[name], (*to, name))


def sealed(body: dict[str, Any]) -> bytes:
    """A manifest with a digest that fits, whatever it says."""
    told = {name: value for name, value in body.items() if name not in ("digest", "made_by")}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return json.dumps({**body, "digest": digest}).encode()


def is_size(value: object, most: int = 2**63) -> bool:
    return type(value) is int and 0 <= value < most


PLACES = [place for place in places(json.loads(MANIFEST.to_json())) if place]


@settings(max_examples=500)
@given(place=st.sampled_from(PLACES), value=HOSTILE | JSON)
def test_whatever_a_manifest_says_it_is_sound_or_told(place: tuple[Any, ...], value: Any) -> None:
    body = json.loads(MANIFEST.to_json())
    parent = reduce(lambda inner, name: inner[name], place[:-1], body)
    parent[place[-1]] = value
    try:
        manifest = Manifest.parse(sealed(body), Path("manifest.json"))
    except UserError as error:
        assert str(error).startswith("manifest.json: ") and "repack" in str(error)
        assert "\n" not in str(error) and len(str(error)) < 300
        return
    digests = [manifest.samples_sha256, *(shard.sha256 for shard in manifest.shards)]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
    for shard in manifest.shards:
        assert all(re.fullmatch(r"[A-Za-z0-9_-]+\.(tar|idx)", name) for name in (shard.url, shard.index))
        assert is_size(shard.nsamples, 2**31) and is_size(shard.filesize)
    assert re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]{0,63}", manifest.name)
    assert math.isfinite(manifest.fps) and manifest.fps > 0 and is_size(manifest.short_side - 1)
    sizes = (manifest.samples_filesize, manifest.frames, manifest.refused, *manifest.per_class)
    assert all(map(is_size, sizes))
    assert manifest.to_json().encode()


@pytest.mark.parametrize("deep", [b"[" * 10**5, b'{"format":' * 10**5])
def test_a_manifest_nested_too_deep_is_told(deep: bytes) -> None:
    with pytest.raises(UserError, match="not a corpus manifest"):
        Manifest.parse(deep, Path("manifest.json"))


def test_no_manifest_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="finish packing it"):
        Corpus.open(tmp_path)
    with pytest.raises(UserError, match="check the path"):
        Corpus.open(tmp_path / "nowhere")


def test_a_table_that_does_not_fit_is_told(tmp_path: Path, make_corpus) -> None:
    root = make_corpus(tmp_path / "tiny", 4)
    assert len(Corpus.open(root)) == 4
    table = root / "samples.jsonl.zst"
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)
    with pytest.raises(UserError, match="does not fit the digest"):
        Corpus.open(root)
    table.unlink()
    with pytest.raises(UserError, match="missing"):
        Corpus.open(root)
