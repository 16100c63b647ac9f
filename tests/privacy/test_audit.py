"""Audits of corpora whose truth is known, by a detector made for the test: what counts, is refused, is bounded."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from magenta import CONFIG, Magenta, packed, read_scene, run  # pyright: ignore[reportMissingImports]
from PIL import Image

from understudy.privacy.audit import look
from understudy.privacy.audit_clips import Clip, Shape, open_footage, tar_clips
from understudy.privacy.bounds import Clips, share_upper
from understudy.privacy.canary import canary_clips
from understudy.privacy.detect import Frames, Hit, parts, strongest
from understudy.privacy.independent import check_independent
from understudy.privacy.report import summary
from understudy.shards.audited import load_audit, require_audit, save_audit
from understudy.shards.corpus import Corpus
from understudy.shards.encode import encode
from understudy.shards.errors import UserError
from understudy.shards.manifest import Sample, Shard, encode_samples, read_samples
from understudy.shards.pack import pack
from understudy.shards.plan import PackConfig
from understudy.shards.sources import Source
from understudy.shards.tarshard import read_spans, write_shard


@pytest.mark.usefixtures("magenta")
def test_an_audit_counts_what_is_there_and_bounds_it(tmp_path: Path):
    root, known = packed(tmp_path / "c", 36, 4), tmp_path / "canaries"
    packed(known / "people", 0, 10, name="people")
    body = run(root, root, canaries=known)
    assert body["looked_at"] | {"seed": 0} == {
        "clips": 40, "of_clips": 40, "recordings": 40, "frames": 400, "every": 1, "fps": 6, "short_side": 48,
        "tiles": [1, 2], "seed": 0, "unread": 0, "passed_over": 0,
    }  # fmt: skip
    assert body["clips"]["found"] == 0.1 and body["frames"]["found"] == pytest.approx(0.05)
    assert body["canaries"] == {"people": {"clips": 10, "found": 10, "frames_seen": pytest.approx(0.5), "unread": 0}}
    half = Clips([0.5] * 10, range(10))
    # Half of the canaries' frames show nobody: what is seen of them, not how many, is what the bounds are divided by.
    assert body["clips"]["bound"] == pytest.approx(share_upper(4, 40, 0.025) / half.lower(0.025))
    assert body["frames"]["bound"] > body["frames"]["found_upper"] > 0.05
    assert body["clips"]["least"] == pytest.approx(share_upper(0, 40, 0.025) / half.lower(0.025))
    assert 0 < body["frames"]["least"] < body["frames"]["bound"]
    assert {row["key"] for row in body["worst"]} <= set(Corpus.open(root).keys) and len(body["worst"]) == 4
    assert body["findings"] == [] and "had nobody been seen" in summary(body)
    assert json.loads((root / "audit.json").read_text())["digest"] == Corpus.open(root).manifest.digest


@pytest.mark.usefixtures("magenta")
def test_the_page_stands_alone_and_shows_the_worst_frames(tmp_path: Path):
    root = packed(tmp_path / "c", 3, 2)
    run(root, root)
    assert not (root / "audit.html").exists()
    page = (tmp_path / "c-audit.html").read_text()
    assert page.count("<figure>") == 2 and page.count("<rect") == 2 and "no bound" in page
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page and "<link" not in page


def with_sidecars(root: Path, text: bytes) -> Path:
    """The corpus with this as the KEY.json of every sample, and all digests fitting."""
    corpus = Corpus.open(root)
    rows, shards = list[Sample](), list[Shard]()
    old = list(read_samples(corpus.read_table()))
    for number, shard in enumerate(corpus.manifest.shards):
        own = [row for row in old if row.shard == number]
        with (root / shard.url).open("rb") as file:
            spans = [list(row.members.values()) for row in own]
            members = [dict(zip(row.members, read_spans(file, span))) for row, span in zip(own, spans)]
        made, entries = write_shard(root / shard.url, [(row.key, {**m, "json": text}) for row, m in zip(own, members)])
        shards.append(made)
        places = {entry.name: (entry.offset, entry.size) for entry in entries}
        rows += [replace(row, members={ext: places[f"{row.key}.{ext}"] for ext in row.members}) for row in own]
    table = encode_samples(rows)
    (root / "samples.jsonl.zst").write_bytes(table)
    digest = hashlib.sha256(table).hexdigest()
    replace(corpus.manifest, shards=tuple(shards), samples_sha256=digest, samples_filesize=len(table)).save(root)
    return root


@pytest.mark.usefixtures("magenta")
@pytest.mark.parametrize(
    "text",
    [
        b'{"removal": "x"}',
        b'{"removal": ["x"]}',
        b'{"removal": {"models": 7}}',
        b"[]",
        b"7",
        b"{",
        b"[" * 10**5,
        b"\xff",
    ],
)
def test_a_sidecar_that_is_none_is_a_finding(tmp_path: Path, text: bytes):
    root = with_sidecars(packed(tmp_path / "c", 2, 0), text)
    assert [(row["what"], row["count"]) for row in run(root, root)["findings"]] == [("sidecar", 2)]


@pytest.mark.usefixtures("magenta")
@pytest.mark.parametrize("text", ["[]", "7", "{}", "[" * 10**5, '{"removal": "x"}', '{"removal": {"models": [[]]}}'])
def test_a_record_beside_videos_that_is_none_is_told(tmp_path: Path, text: str):
    root = packed(tmp_path / "c", 2, 0)
    (root / "removal.json").write_text(text)
    with pytest.raises(UserError, match=r"c/removal\.json: not as remove-people writes it") as error:
        run(root, root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("size", "headers"),
    [
        (-512, {}),
        (-1024, {}),
        (2**62, {}),
        (0, {"size": "-512"}),
        (0, {"size": "9" * 30}),
        (0, {"GNU.sparse.major": "0", "GNU.sparse.map": "0,x"}),
        (0, {"GNU.sparse.major": "0", "GNU.sparse.map": "0,1,2"}),
        (0, {"GNU.sparse.major": "0", "GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**50)}),
    ],
)
def test_a_tar_whose_headers_make_no_sense_is_told(tmp_path: Path, size: int, headers: dict[str, str]):
    member = tarfile.TarInfo("0.mp4")
    member.size, member.pax_headers = size, headers
    (tmp_path / "s.tar").write_bytes(member.tobuf(tarfile.PAX_FORMAT if headers else tarfile.GNU_FORMAT) + bytes(10240))
    with pytest.raises(UserError, match=r"s\.tar: not a plain tar .*; audit needs uncompressed Web") as error:
        open_footage(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("magenta")
def test_what_cannot_be_read_counts_as_found(tmp_path: Path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(3):
        made = encode(read_scene(Source(f"empty/{number}", 0)), "h264", fps=6, quality=85)
        (folder / f"{number}.mp4").write_bytes(made.members["mp4"])
    (folder / "broken.mp4").write_bytes(b"not a video at all")
    body = run(folder, tmp_path, short_side=48)
    assert body["looked_at"]["unread"] == 1 and body["clips"]["found"] == 0.25
    assert body["worst"][0]["key"] == "broken.mp4" and body["worst"][0]["unread"]
    said = summary(body)
    assert "1 clip could not be read" in said and "broken.mp4: " in said
    assert "faces" not in said and "text" not in said  # for which nobody looked


@pytest.mark.usefixtures("magenta")
def test_webdataset_shards_that_others_made(tmp_path: Path):
    """Videos and stills; the tar's owner and time and a telling key and sidecar are found beside the person."""
    video = encode(read_scene(Source("person/1", 0)), "h264", fps=6, quality=85).members["mp4"]
    still = io.BytesIO()
    exif = Image.Exif()
    exif[0x0110] = "a camera"
    Image.fromarray(next(read_scene(Source("empty/1", 0)))).save(still, "JPEG", exif=exif)
    with tarfile.open(tmp_path / "a-000.tar", "w") as archive:
        for name, data in (
            ("dQw4w9WgXcQ_12.mp4", video),
            ("dQw4w9WgXcQ_12.json", b'{"label": 1, "url": "https://example.org/v"}'),
            ("000001.jpg", still.getvalue()),
        ):
            member = tarfile.TarInfo(name)
            member.size, member.uname, member.mtime = len(data), "someone", 1_700_000_000
            archive.addfile(member, io.BytesIO(data))
    body = run(tmp_path, tmp_path, short_side=48)
    assert body["looked_at"]["clips"] == 2 and body["clips"]["found"] == 0.5 and body["leaks"] == {}
    found = {row["what"] for row in body["findings"]}
    assert {"tar owner", "tar time", "telling key", "sidecar", "EXIF"} <= found


@pytest.mark.usefixtures("magenta")
def test_a_sample_of_clips_and_frames_is_drawn_and_stated(tmp_path: Path):
    root = packed(tmp_path / "c", 20, 0)
    config = replace(CONFIG, clips=5, every=3, seed=4)
    first = run(root, root, config=config)
    assert first["clips"]["bound"] is None
    assert first["looked_at"]["clips"] == 5 and first["looked_at"]["of_clips"] == 20
    assert 15 <= first["looked_at"]["frames"] <= 20 and first["looked_at"]["every"] == 3
    assert run(root, root, config=config) == first
    starts = set()
    for number in range(30):
        clip = Clip(str(number), "")
        seen: list[int] = []

        def note(frames: Frames, seen: list[int] = seen) -> list[list[Hit]]:
            seen.append(int(frames[0, 0, 0, 0]))
            return [[] for _ in frames]

        frames = (np.full((4, 4, 3), index, np.uint8) for index in range(9))
        spy = type("Spy", (Magenta,), {"__call__": lambda self, frames: note(frames)})()
        look(clip, frames, [spy], config, lambda: None)
        starts.add(seen[0])
    assert starts == {0, 1, 2}  # so that no frame is left out by design


def test_no_clip_is_too_short_to_be_looked_at():
    """One frame in 30 of clips of 16: each time one of them, and every one as often as the others."""
    chosen = []
    for number in range(400):
        seen: list[int] = []

        class Spy(Magenta):
            def __call__(self, frames: Frames, seen: list[int] = seen) -> list[list[Hit]]:
                seen.extend(frames[:, 0, 0, 0].tolist())
                return [[] for _ in frames]

        frames = (np.full((4, 4, 3), index, np.uint8) for index in range(16))
        one = look(Clip(str(number), ""), frames, [Spy()], replace(CONFIG, every=30), lambda: None)
        assert one.frames == 1 and not one.unread
        chosen += seen
    counts = np.bincount(chosen, minlength=16)
    assert counts.min() >= 8 and counts.max() <= 50


def test_a_frame_counts_for_as_many_as_it_stands_for():
    """The last of 17 frames, one in 16 looked at, is always looked at and stands for itself only."""
    scene = list(read_scene(Source("person/1", 0)))
    one = look(Clip("k", ""), iter([scene[-1]] * 16 + scene[:1]), [Magenta()], replace(CONFIG, every=16), lambda: None)
    assert (one.frames, one.with_hit["somebody"], one.share("somebody")) == (2, 1, pytest.approx(1 / 17))


@pytest.mark.usefixtures("magenta")
def test_what_is_hidden_or_no_video_by_its_name_is_not_footage(tmp_path: Path):
    made = encode(read_scene(Source("empty/1", 0)), "h264", fps=6, quality=85).members["mp4"]
    for place in ("v/a/k.mp4", "v/.holes/a/k.mp4", "v/a/.k.mp4", "v/a/k.m2ts", "v/removal.json", "c/.holes/k.mp4"):
        (tmp_path / place).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / place).write_bytes(made)
    (tmp_path / "v/removal.json").write_text('{"removal": {"models": []}}')
    body = run(tmp_path / "v", tmp_path, short_side=48)
    assert body["looked_at"]["clips"] == 1 and body["looked_at"]["passed_over"] == 1
    assert "1 file not looked at, by the name no video, such as a/k.m2ts" in summary(body)
    with pytest.raises(UserError, match="neither videos nor a corpus"):
        canary_clips(tmp_path / "c")


@pytest.mark.usefixtures("magenta")
def test_what_lies_behind_links_is_footage_too(tmp_path: Path):
    """As it is to pack and remove-people; a link to a folder above does not lead round and round."""
    made = encode(read_scene(Source("person/1", 0)), "h264", fps=6, quality=85).members["mp4"]
    for place in ("v/a/k.mp4", "elsewhere/b/l.mp4", "m.mp4"):
        (tmp_path / place).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / place).write_bytes(made)
    (tmp_path / "v/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "v/m.mp4").symlink_to(tmp_path / "m.mp4")
    (tmp_path / "v/a/up").symlink_to(tmp_path / "v")
    (tmp_path / "elsewhere/b/round").symlink_to(tmp_path / "elsewhere")
    body = run(tmp_path / "v", tmp_path, short_side=48)
    assert {row["key"] for row in body["worst"]} == {"a/k.mp4", "linked/b/l.mp4", "m.mp4"}
    assert body["looked_at"]["clips"] == 3


@pytest.mark.usefixtures("magenta")
def test_what_is_published_names_no_source(tmp_path: Path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("v_SoccerJuggling_g23_c01", "v_Wave_g01_c02"):
        made = encode(read_scene(Source("person/1", 0)), "h264", fps=6, quality=85).members["mp4"]
        (folder / f"{name}.mp4").write_bytes(made + f"SEFT {name}".encode())
    (folder / "v_Broken_g01_c01.mp4").write_bytes(b"no video")
    body = run(folder, tmp_path, short_side=48, names=["v_SoccerJuggling_g23_c01.mp4"])
    assert "SoccerJuggling" in summary(body) and len(body["worst"]) == 3
    assert not {"Soccer", "Wave", "Broken"} & set(re.findall("[A-Z][a-z]+", (tmp_path / "audit.json").read_text()))
    assert "SoccerJuggling" in (tmp_path / "audit.html").read_text()


def test_folders_of_a_tar_keep_pictures_apart(tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("vidA/000001.jpg", "vidB/000001.jpg", "000001.0.jpg", "000001.1.jpg"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert {clip.key: len(clip.members) for clip in tar_clips(tmp_path / "a.tar")} == {
        "vidA/000001": 1, "vidB/000001": 1, "000001": 2
    }  # fmt: skip


@pytest.mark.usefixtures("magenta")
def test_what_is_wrong_is_said_before_anything_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def look_at_all(*_: object, **__: object) -> None:
        raise AssertionError("hours of looking")

    monkeypatch.setattr("understudy.privacy.audit_run.look_at_all", look_at_all)
    root, known = packed(tmp_path / "c", 4, 0), tmp_path / "canaries"
    known.mkdir()
    (known / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"broken\.mp4: can't be read"):
        run(root, root, canaries=known)
    with pytest.raises(UserError, match="none of its keys"):
        run(root, root, attribute={"nobody": "x"})
    corpus = Corpus.open(root)
    data = bytearray(corpus.shard_path(0).read_bytes())
    for place, says in ((corpus.spans[0, 0, 0] + 99, "not the bytes that the manifest names"), (-1, "understudy lint")):
        data[place] ^= 1
        corpus.shard_path(0).write_bytes(data)
        with pytest.raises(UserError, match=says):
            run(root, root)


@pytest.mark.usefixtures("magenta")
def test_clips_of_one_recording_count_as_one(tmp_path: Path):
    sources = [Source(f"empty/{i}", i % 2, group=f"recording {i // 5}") for i in range(40)]
    config = PackConfig("c", "no-human", ("a", "b"), "CC0-1.0", b"sixteen bytes or more", short_side=48)
    pack(sources, read_scene, tmp_path / "c", config, workers=0, progress=False)
    body = run(tmp_path / "c", tmp_path / "c")
    assert body["looked_at"]["recordings"] == 8 and "8 recordings" in summary(body)
    assert body["frames"]["found_upper"] == pytest.approx(share_upper(0, 8, 0.025))


@pytest.mark.usefixtures("magenta")
def test_kept_outlines_are_probed_too(tmp_path: Path):
    def read(source: Source) -> Iterator[np.ndarray]:
        for time in range(10):
            frame = np.full((48, 64, 4), 110, np.uint8)
            frame[..., 3] = 0
            frame[16 * (time % 3 if source.label else 0) :, 16 * (0 if source.label else time % 4) :, 3][:16, :16] = 255
            yield frame

    sources = [Source(str(number), number % 2) for number in range(20)]
    config = PackConfig("c", "no-human", ("a", "b"), "CC0-1.0", b"sixteen bytes or more", short_side=48)
    pack(sources, read, tmp_path / "c", config, workers=0, progress=False)
    leaks = run(tmp_path / "c", tmp_path / "c")["leaks"]
    assert leaks["action by outlines"]["accuracy"] == 1.0
    assert "action by outlines" not in run(packed(tmp_path / "d", 20, 0), tmp_path / "d")["leaks"]


def test_detectors_that_took_part_in_the_removal_are_refused(tmp_path: Path, magenta: None):
    with pytest.raises(UserError, match=r"test/magenta.*took part in the removal"):
        check_independent([Magenta()], {"test/magenta", "other"})
    check_independent([Magenta()], {"other"})
    root = packed(tmp_path / "c", 2, 0)
    (root / "removal.json").write_text('{"removal": {"models": ["test/magenta"]}}')
    with pytest.raises(UserError, match="took part"):
        run(root, root)
    (root / "removal.json").unlink()
    run(root, root)
    recorded = packed(tmp_path / "recorded", 2, 0, removal={"models": ["test/magenta"], "gate": ["pose"]})
    with pytest.raises(UserError, match="took part"):
        run(recorded, recorded)
    assert not (recorded / "audit.json").exists()


@pytest.mark.usefixtures("magenta")
def test_a_corpus_without_a_sufficient_audit_is_refused(tmp_path: Path):
    root, known = packed(tmp_path / "c", 60, 0), tmp_path / "canaries"
    packed(known / "people", 0, 40, name="people")
    corpus = Corpus.open(root)
    with pytest.raises(UserError, match="understudy audit"):
        require_audit(corpus, 0.5)
    run(root, root)
    with pytest.raises(UserError, match="canaries"):
        require_audit(corpus, 0.5)
    run(root, root, canaries=known, config=replace(CONFIG, confidence=0.9))
    with pytest.raises(UserError, match="90% confidence only"):
        require_audit(corpus, 0.5)
    (root / "refused.jsonl").write_text('{"path": "a", "reason": "b"}\n')
    run(root, root, canaries=known)
    with pytest.raises(UserError, match=r"more than pixels \(source names\)"):
        require_audit(corpus, 0.5)
    (root / "refused.jsonl").unlink()
    body = run(root, root, canaries=known)
    bound = body["frames"]["bound"]
    require_audit(corpus, bound * 1.01)
    with pytest.raises(UserError, match="may show somebody"):
        require_audit(corpus, bound * 0.99)
    # Of another corpus, or edited: no.
    other = Corpus.open(packed(tmp_path / "other", 3, 0))
    (tmp_path / "other" / "audit.json").write_bytes((root / "audit.json").read_bytes())
    with pytest.raises(UserError, match="another digest"):
        require_audit(other, 0.5)
    text = (root / "audit.json").read_text()
    (root / "audit.json").write_text(text.replace('"unread": 0', '"unread": 1'))
    with pytest.raises(UserError, match="not an audit as it was written"):
        load_audit(root, corpus.manifest.digest)
    # Nor with figures that are none, however well they are sealed.
    for wrong in ({"findings": 1}, {"findings": ["x"]}, {"frames": None}, {"frames": {"bound": "low"}}):
        save_audit(root, body | wrong)
        with pytest.raises(UserError, match="not an audit as it is written"):
            require_audit(corpus, 0.5)
    for wrong in ({"frames": {"bound": float("nan")}}, {"confidence": float("nan")}):
        save_audit(root, body | wrong)
        with pytest.raises(UserError, match=r"may show somebody|confidence only"):
            require_audit(corpus, 0.5)
    # Virtual people are meant to be there.
    require_audit(Corpus.open(packed(tmp_path / "s", 2, 0, kind="synthetic")), 0.0)


@pytest.mark.usefixtures("magenta")
def test_clips_out_of_a_tar_touch_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A worker that is killed would leave them behind."""
    video = encode(read_scene(Source("person/1", 0)), "h264", fps=6, quality=85).members["mp4"]
    still = io.BytesIO()
    Image.fromarray(next(read_scene(Source("person/1", 0)))).save(still, "JPEG")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in (("0.mp4", video), ("1.jpg", still.getvalue())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    body = run(tmp_path, tmp_path, short_side=48)
    assert body["looked_at"]["unread"] == 0 and body["clips"]["found"] == 1.0


def test_a_detector_is_counted_apart_from_others_of_its_kind():
    """One that is called like what it looks for does not get the hits of another one of that kind."""
    blind = type("Blind", (Magenta,), {"__call__": lambda self, frames: [[] for _ in frames]})
    detectors = [Magenta(name="mtcnn", what="face"), blind(name="face", what="face")]
    one = look(Clip("k", ""), read_scene(Source("person/1", 0)), detectors, CONFIG, lambda: None)
    assert one.with_hit == {"face": 5, "by mtcnn": 5, "somebody": 5} and one.share("somebody") == 0.5
    assert [seen.detector for seen in one.strongest] == ["mtcnn"] * 5


def test_nothing_to_audit_is_said(tmp_path: Path):
    with pytest.raises(UserError, match="neither"):
        open_footage(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        open_footage(tmp_path / "nowhere")
    assert Shape(6, 256).codec is None


def test_parts_cover_a_frame_and_overlap():
    for size in ((240, 320), (97, 31), (8, 8)):
        covered = np.zeros(size, int)
        for x0, y0, x1, y1 in parts(*size, (3,)):
            assert 0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0]
            covered[y0:y1, x0:x1] += 1
        assert covered.min() >= 1 and covered.max() > 1
    assert parts(10, 20, (1,)) == [(0, 0, 20, 10)]


def test_of_hits_on_one_thing_the_strongest_stays():
    hits = [Hit("person", (0, 0, 10, 10), 0.5), Hit("person", (1, 0, 11, 10), 0.8), Hit("person", (30, 0, 40, 10), 0.2)]
    assert [hit.score for hit in strongest(hits)] == [0.8, 0.2]
