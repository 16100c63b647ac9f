"""Lint: silent on what is good, and not one flipped bit, cut byte or broken rule passes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from understudy.shards import lint as linting
from understudy.shards.corpus import Corpus
from understudy.shards.errors import UserError
from understudy.shards.lint import lint
from understudy.shards.manifest import MEMBERS, Manifest, Sample, encode_samples, read_samples
from understudy.shards.tarshard import read_spans, write_shard

Members = dict[str, bytes]


@pytest.fixture(scope="module", params=["mjpeg", "h264"])
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_corpus) -> Path:
    return make_corpus(tmp_path_factory.mktemp("lint") / request.param, 5, codec=request.param, samples_per_shard=3)


@pytest.fixture
def copy(corpus: Path, tmp_path: Path) -> Path:
    return shutil.copytree(corpus, tmp_path / "copy")


def flip(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def test_a_good_corpus_has_no_findings(corpus: Path) -> None:
    for decode in (False, True):
        report = lint(corpus, decode=decode)
        assert report.findings == () and report.notes == ()
        assert report.summary.startswith("good: 5 samples, 60 frames")


def test_a_flipped_bit_in_any_region_is_found(copy: Path) -> None:
    samples = list(read_samples((copy / "samples.jsonl.zst").read_bytes()))
    first = samples[0]
    shard = copy / "tiny-000000.tar"
    at = {extension: offset + size // 2 for extension, (offset, size) in first.members.items()}
    regions = {f"member {extension}": (shard, position, first.key) for extension, position in at.items()}
    regions |= {
        "header name": (shard, 3, "tiny-000000.tar"),
        "header size": (shard, 130, "tiny-000000.tar"),
        "header checksum": (shard, 150, "tiny-000000.tar"),
        "padding": (shard, first.members["json"][0] + first.members["json"][1], "tiny-000000.tar"),
        "end of the tar": (shard, shard.stat().st_size - 1, "tiny-000000.tar"),
        "index": (copy / "tiny-000000.idx", 20, "tiny-000000.idx"),
        "sample table": (copy / "samples.jsonl.zst", 40, "samples.jsonl.zst"),
        "manifest": (copy / "manifest.json", 200, "manifest.json"),
    }
    for region, (path, position, named) in regions.items():
        flip(path, position)
        findings = lint(copy, progress=False).findings
        assert findings and any(named in finding for finding in findings), region
        assert not any("\n" in finding for finding in findings)
        flip(path, position)
    assert lint(copy, progress=False).findings == ()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_flipped_bit_of_a_shard_or_an_index_is_found(copy: Path, data: st.DataObject) -> None:
    path = copy / data.draw(st.sampled_from(["tiny-000000.tar", "tiny-000001.tar", "tiny-000001.idx"]))
    position, bit = data.draw(st.integers(0, path.stat().st_size - 1)), data.draw(st.integers(0, 7))
    flip(path, position, bit)
    assert lint(copy, progress=False).findings
    flip(path, position, bit)


def test_any_truncation_is_found(copy: Path) -> None:
    for name in ("tiny-000001.tar", "tiny-000001.idx", "samples.jsonl.zst"):
        whole = (copy / name).read_bytes()
        for size in (0, 1, 511, len(whole) // 2, len(whole) - 1):
            (copy / name).write_bytes(whole[: min(size, len(whole) - 1)])
            assert any(name in finding for finding in lint(copy, progress=False).findings), (name, size)
        (copy / name).unlink()
        assert any(name in finding for finding in lint(copy, progress=False).findings), name
        (copy / name).write_bytes(whole)


def test_what_does_not_belong_is_found(copy: Path) -> None:
    (copy / "tiny-000009.tar").touch()
    (copy / ".tiny-000000.tar.tmp").touch()
    (copy / ".packing").mkdir()
    findings = lint(copy, progress=False).findings
    assert len(findings) == 3 and all(any(name in f for f in findings) for name in ("tiny-000009", ".tmp", ".packing"))


def test_refusals_are_noted(copy: Path) -> None:
    (copy / "refused.jsonl").write_text('{"path": "secret-name.mp4", "reason": "no video"}\n')
    report = lint(copy, progress=False)
    assert report.findings == () and "move it out before you publish" in report.notes[0]


def test_no_corpus_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no manifest\.json"):
        lint(tmp_path)


def rewrite(root: Path, change: Callable[[Sample, Members], Sample]) -> None:
    """Change samples and write the corpus anew with digests, indexes and checksums that all fit."""
    corpus = Corpus.open(root)
    manifest = corpus.manifest
    rows = list(read_samples((root / "samples.jsonl.zst").read_bytes()))
    table: list[Sample] = []
    shards = []
    order = MEMBERS[manifest.codec]
    for number, shard in enumerate(manifest.shards):
        contents: list[tuple[str, Members]] = []
        own = [row for row in rows if row.shard == number]
        for i, row in enumerate(own):
            with (root / shard.url).open("rb") as file:
                members = dict(zip(order, read_spans(file, [row.members[ext] for ext in order])))
            own[i] = change(row, members)
            contents.append((own[i].key, members))
        written, entries = write_shard(root / shard.url, contents)
        spans = {entry.name: (entry.offset, entry.size) for entry in entries}
        for row, (key, members) in zip(own, contents):
            checksum = crc32c.crc32c(b"".join(members[ext] for ext in order if ext != "json"))
            where = {ext: spans[f"{key}.{ext}"] for ext in order}
            table.append(replace(row, members=where, crc32c=checksum))
        shards.append(written)
    data = encode_samples(table)
    (root / "samples.jsonl.zst").write_bytes(data)
    replace(
        manifest,
        shards=tuple(shards),
        samples_sha256=hashlib.sha256(data).hexdigest(),
        samples_filesize=len(data),
        frames=sum(row.frames for row in table),
    ).save(root)


def edit_json(**fields: object) -> Callable[[Members], None]:
    def edit(members: Members) -> None:
        members["json"] = json.dumps({**json.loads(members["json"]), **fields}).encode()

    return edit


def edit_first_jpeg(edit: Callable[[bytes], bytes]) -> Callable[[Members], None]:
    def apply(members: Members) -> None:
        offsets = np.frombuffer(members["off"], "<i8")
        first = edit(members["mjpg"][: offsets[1]])
        members["mjpg"] = first + members["mjpg"][offsets[1] :]
        members["off"] = np.concatenate([[0], offsets[1:] - offsets[1] + len(first)]).astype("<i8").tobytes()

    return apply


def reencoded(subsampling: str = "420", scale: int = 1) -> Callable[[bytes], bytes]:
    import simplejpeg

    def edit(jpeg: bytes) -> bytes:
        picture = np.repeat(simplejpeg.decode_jpeg(jpeg), scale, axis=1)
        return simplejpeg.encode_jpeg(np.ascontiguousarray(picture), colorsubsampling=subsampling)

    return edit


def drop_last_offset(members: Members) -> None:
    members["off"] = members["off"][:-8]


def swap_offsets(members: Members) -> None:
    offsets = np.frombuffer(members["off"], "<i8").copy()
    offsets[[3, 4]] = offsets[[4, 3]]
    members["off"] = offsets.tobytes()


COMMENT = b"\xff\xfe\x00\x09filmed"
EXIF = b"\xff\xe1\x00\x08Exif\0\0"


def test_a_group_that_is_no_keyed_hash_is_found(copy: Path) -> None:
    hashed = "0123456789abcdef" * 2
    cases = {hashed: True, "": True, "v_YoYo_g25": False, hashed.upper(): False, hashed + "\n": False}
    for group, good in cases.items():

        def with_group(row: Sample, members: Members, group: str = group) -> Sample:
            return replace(row, group=group if row.row == 0 else "")

        rewrite(copy, with_group)
        findings = lint(copy, progress=False).findings
        assert not findings if good else findings and all(repr(group) in finding for finding in findings), group


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (edit_json(source="dQw4w9WgXcQ.mp4"), "not on the allow-list: source"),
        (edit_json(label=2), "json says label 2"),
        (edit_json(duration=1.0), "json says duration 1.0"),
        (edit_json(removal="by hand"), "removal record"),
        (lambda members: members.update(json=b"[]"), "no JSON object"),
        (lambda members: members.update(json=b"\xff"), "no JSON object"),
        (drop_last_offset, "off has 96 bytes"),
        (swap_offsets, "off does not cut mjpg"),
        (edit_first_jpeg(lambda jpeg: jpeg[:2] + COMMENT + jpeg[2:]), "frame 0: a JPEG segment FFFE"),
        (edit_first_jpeg(lambda jpeg: jpeg[:2] + EXIF + jpeg[2:]), "frame 0: a JPEG segment FFE1"),
        (
            edit_first_jpeg(lambda jpeg: jpeg[:-2] + COMMENT + jpeg[-2:]),
            "frame 0: a JPEG whose only scan is not followed",
        ),
        (edit_first_jpeg(lambda jpeg: jpeg + jpeg), "frame 0: a JPEG whose only scan is not followed"),
        (edit_first_jpeg(lambda jpeg: jpeg + b"GPS"), "not one whole JPEG"),
        (edit_first_jpeg(lambda jpeg: jpeg[1:]), "not one whole JPEG"),
        (edit_first_jpeg(reencoded(subsampling="444")), "not an 8-bit 4:2:0"),
        (edit_first_jpeg(reencoded(scale=2)), "128x48 pixels, 64x48 were to be"),
    ],
)
def test_rules_beyond_the_digests(tmp_path: Path, make_corpus, edit: Callable[[Members], None], says: str) -> None:
    root = make_corpus(tmp_path / "tiny", 3, classes=("walk", "run"))
    key = list(read_samples((root / "samples.jsonl.zst").read_bytes()))[1].key

    def change(row: Sample, members: Members) -> Sample:
        if row.key == key:
            edit(members)
        return row

    rewrite(root, change)
    findings = lint(root, progress=False).findings
    assert len(findings) == 1 and key in findings[0] and says in findings[0]


def test_only_empty_space_is_left_free_in_an_mp4(tmp_path: Path, make_corpus) -> None:
    root = make_corpus(tmp_path / "tiny", 3, codec="h264")

    def with_free(content: bytes) -> Callable[[Sample, Members], Sample]:
        def change(row: Sample, members: Members) -> Sample:
            members["mp4"] += (8 + len(content)).to_bytes(4, "big") + b"free" + content
            return row

        return change

    rewrite(root, with_free(bytes(20)))
    assert lint(root, decode=True, progress=False).findings == ()
    rewrite(root, with_free(bytes(20) + b"filmed by"))
    findings = lint(root, progress=False).findings
    assert len(findings) == 3 and all("free' that is not empty" in finding for finding in findings)


def test_the_rewriting_itself_breaks_no_rule(copy: Path) -> None:
    rewrite(copy, lambda row, members: row)
    assert lint(copy, decode=True, progress=False).findings == ()


def test_keys_that_are_no_keyed_hashes_are_found(copy: Path) -> None:
    rewrite(copy, lambda row, members: replace(row, key=f"v_WalkingWithDog_g23_c{row.shard}{row.row}"))
    findings = lint(copy, progress=False).findings
    assert len(findings) == 5 and "is not a keyed hash" in findings[0]


def test_decoding_finds_what_structure_does_not_show(tmp_path: Path, make_corpus) -> None:
    root = make_corpus(tmp_path / "tiny", 1)

    def cut_scan(row: Sample, members: Members) -> Sample:
        edit_first_jpeg(lambda jpeg: jpeg[:-42] + jpeg[-2:])(members)
        return row

    rewrite(root, cut_scan)
    assert lint(root, progress=False).findings == ()
    assert len(lint(root, decode=True, progress=False).findings) == 1


def test_counts_that_do_not_add_up_are_found(copy: Path) -> None:
    manifest = Manifest.load(copy)
    replace(manifest, per_class=(5, 0, 0)).save(copy)
    assert any("counts per class" in finding for finding in lint(copy, progress=False).findings)
    replace(manifest, frames=61).save(copy)
    assert any("frames do not add up" in finding for finding in lint(copy, progress=False).findings)


@pytest.mark.parametrize("twice", [True, False])
def test_rows_out_of_order_and_keys_that_come_twice_are_found(copy: Path, twice: bool) -> None:
    rows = list(read_samples((copy / "samples.jsonl.zst").read_bytes()))
    rows = [replace(row, key=rows[0].key) if row is rows[-1] else row for row in rows] if twice else rows[::-1]
    data = encode_samples(rows)
    (copy / "samples.jsonl.zst").write_bytes(data)
    manifest = Manifest.load(copy)
    digest = hashlib.sha256(data).hexdigest()
    replace(manifest, samples_sha256=digest, samples_filesize=len(data)).save(copy)
    findings = lint(copy, progress=False).findings
    words = "the same key twice" if twice else "its rows are not the manifest's shards in order"
    assert any(words in finding for finding in findings)
    assert len(findings) == 1 + twice, "a shard's own rows are compared with it where they can be told"


def test_the_rows_of_few_shards_are_in_memory_at_a_time(
    tmp_path: Path, make_corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_corpus(tmp_path / "many", 60, samples_per_shard=1, frames=1)
    ahead: list[int] = []
    by_shard, lint_shard, done = linting._by_shard, linting._lint_shard, list[int]()

    def counted(table: bytes, shards: int) -> Iterator[list[Sample]]:
        for number, rows in enumerate(by_shard(table, shards)):
            ahead.append(number - len(done))
            yield rows

    def noted(*arguments: Any) -> Iterator[str]:
        yield from lint_shard(*arguments)
        done.append(1)

    monkeypatch.setattr(linting, "_by_shard", counted)
    monkeypatch.setattr(linting, "_lint_shard", noted)
    assert lint(root, progress=False).findings == ()
    assert len(ahead) == len(done) == 60
    assert max(ahead) <= 2 * linting.THREADS + 1
