"""Many videos: folders in, folders and a record out, resumed after a kill, packed with the record in every sample."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from make_videos import write_video  # pyright: ignore[reportMissingImports]
from painted import of_person, painted  # pyright: ignore[reportMissingImports]

from understudy.loader.read import ShardReader
from understudy.privacy.fill import Shot, flat
from understudy.privacy.removal import Removal, read_with_holes, read_without_people, remove_from_all, tools
from understudy.privacy.removal_record import CLIPS, RECORD, check_kept, keeps_holes, read_record
from understudy.privacy.remove import Limits, Settings
from understudy.shards.collect import folder_sources
from understudy.shards.corpus import Corpus
from understudy.shards.encode import encode
from understudy.shards.errors import UserError
from understudy.shards.ingest import native, read_video
from understudy.shards.lint import lint
from understudy.shards.pack import pack
from understudy.shards.plan import PackConfig
from understudy.shards.sources import RefusedError, Source

SECRET = b"a secret for tests, long enough"
EXACT = Settings(margin=0.5, belongings=False, exact=True)  # video codecs smear colours over the edge of the mask


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Source], Path]:
    """Three videos in two classes, and the folder of their masks; of the last one, most masks are missing."""
    root = tmp_path_factory.mktemp("clips")
    sources = []
    for number, (corpus, index) in enumerate((("demo-synthetic", 0), ("demo-actions-train", 3), ("demo-synthetic", 3))):
        clip, frames = painted(corpus, index)
        name = f"{'ab'[number % 2]}/clip{number}"
        path = root / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(iter(frames), "h264", fps=8, quality=95).members["mp4"])
        (root / "masks" / name).mkdir(parents=True)
        for frame, mask in enumerate(clip.person):
            if number < 2 or frame % 3 == 0 or frame == len(clip.person) - 1:
                cv2.imwrite(str(root / "masks" / name / f"{frame:06d}.png"), mask * np.uint8(255))
        sources.append(Source(f"{name}.mp4", number % 2, path))
    return sources, root / "masks"


def removal(masks: Path) -> Removal:
    return Removal(masks=masks, settings=EXACT, limits=Limits(seen=0))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_videos(clips: tuple[list[Source], Path], tmp_path: Path) -> None:
    sources, masks = clips
    out = tmp_path / "out"
    summary = remove_from_all(
        sources, ("a", "b"), out, removal(masks), SECRET, sheets=tmp_path / "sheets", progress=False
    )
    assert (summary.kept, summary.dropped, summary.refused) == (2, 1, 0)
    rows = [json.loads(line) for line in (out / CLIPS).read_text().splitlines()]
    assert [row["outcome"] for row in rows] == ["kept", "dropped", "kept"]
    assert "unsure" in rows[1]["reason"] and rows[1]["out"] is None
    assert (out / CLIPS).stat().st_mode & 0o077 == 0
    for row in rows:
        if row["out"]:
            assert "clip" not in row["out"]
            source = Source("x", 0, out / row["out"])
            assert native(source) == (8.0, 96)
            assert not of_person(np.stack(list(read_video(source, fps=8, short_side=96)))).any()
    assert len(list((tmp_path / "sheets").glob("*.png"))) == 3
    assert len(list(out.rglob("*.mp4"))) == 2


def test_what_the_gate_lacks_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match="run: ") as error:
        tools(Removal(masks=tmp_path, gate=("face", "openimages", "mtcnn")))
    assert all(package in str(error.value) for package in ("mediapipe", "facenet-pytorch", "objectron"))


def test_killed_and_run_again(clips: tuple[list[Source], Path], tmp_path: Path) -> None:
    sources, masks = clips
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    remove_from_all(sources, ("a", "b"), whole, removal(masks), SECRET, progress=False)
    remove_from_all(sources[:1], ("a", "b"), resumed, removal(masks), SECRET, progress=False)
    with (resumed / CLIPS).open("a") as file:
        file.write('{"path": "b/clip1.mp4", "lab')  # a kill in the middle of a line
    first = next(resumed.rglob("*.mp4"))
    before = first.stat().st_mtime_ns
    remove_from_all(sources, ("a", "b"), resumed, removal(masks), SECRET, workers=2, progress=False)
    assert first.stat().st_mtime_ns == before
    assert files(resumed) == files(whole)
    with pytest.raises(UserError, match="another removal"):
        remove_from_all(sources, ("a", "b"), resumed, Removal(masks=masks, settings=EXACT), SECRET, progress=False)


def test_what_changed_is_done_again(clips: tuple[list[Source], Path], tmp_path: Path) -> None:
    """A video, its masks or its class: what was made of them before is deleted first, and the rest stays."""
    sources, masks = clips
    copied, out = tmp_path / "masks", tmp_path / "out"
    shutil.copytree(masks, copied)
    (tmp_path / "a").mkdir()
    assert sources[0].path is not None
    first = replace(sources[0], path=Path(shutil.copy(sources[0].path, tmp_path / "a")))
    sources = [first, sources[1]]

    def run(sources: list[Source]) -> dict[str, Path]:
        """The video made of each source."""
        remove_from_all(sources, ("a", "b"), out, removal(copied), SECRET, progress=False)
        rows = [json.loads(line) for line in (out / CLIPS).read_text().splitlines()]
        assert {row["out"] for row in rows if row["out"]} == {str(p.relative_to(out)) for p in out.rglob("*.mp4")}
        return {row["path"]: out / row["out"] for row in rows if row["out"]}

    def times(videos: dict[str, Path]) -> list[int]:
        return [video.stat().st_mtime_ns for video in videos.values()]

    before = times(run(sources))
    assert times(run(sources)) == before
    os.utime(tmp_path / "a/clip0.mp4")
    again = times(run(sources))
    assert again[0] != before[0] and again[1] == before[1]
    moved = run([replace(first, label=1), sources[1]])
    assert moved[first.id].parent.name == "b" and times(moved)[1] == before[1]
    for mask in (copied / "a/clip0").iterdir():
        cv2.imwrite(str(mask), np.full_like(cv2.imread(str(mask), 0), 255))
    assert list(run([replace(first, label=1), sources[1]])) == [sources[1].id], "all of it is masked now"
    lines = [json.loads(line) for line in (out / CLIPS).read_text().splitlines()]
    (out / CLIPS).write_text("".join(json.dumps({k: line[k] for k in line if k != "made_of"}) + "\n" for line in lines))
    assert times(run(sources))[-1] != before[1], "listed by a version that took no fingerprints"


def test_the_list_is_for_its_owner_from_the_first_byte_on(
    clips: tuple[list[Source], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes, fsync = [], os.fsync

    def noted(descriptor: int) -> None:
        if "jsonl" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            modes.append(os.fstat(descriptor).st_mode & 0o777)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    sources, masks = clips
    remove_from_all(sources[:1], ("a", "b"), tmp_path / "out", removal(masks), SECRET, progress=False)
    assert modes and set(modes) == {0o600}


def test_of_sources_that_are_withdrawn_nothing_is_left(clips: tuple[list[Source], Path], tmp_path: Path) -> None:
    sources, masks = clips
    out = tmp_path / "out"
    keeping = replace(removal(masks), keep_holes=True)
    remove_from_all(sources[:2], ("a", "b"), out, replace(keeping, limits=Limits(1, 1, 0, 1)), SECRET, progress=False)
    by_hand = out / "a" / "untouched.mp4"
    by_hand.write_bytes(b"")
    remove_from_all(sources[:1], ("a", "b"), out, replace(keeping, limits=Limits(1, 1, 0, 1)), SECRET, progress=False)
    (row,) = [json.loads(line) for line in (out / CLIPS).read_text().splitlines()]
    made = {str(path.relative_to(out)) for path in out.rglob("*.mp4")}
    assert made == {row["out"], f".holes/{row['out']}", "a/untouched.mp4"}
    check_kept(out, [row["out"]])
    with pytest.raises(UserError, match=r"a/untouched\.mp4 is not listed as kept"):
        check_kept(out, [source.id for source in folder_sources(out, None)[0]])


def test_no_video_is_to_be_seen_before_it_is_listed(
    clips: tuple[list[Source], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between a video and its line leaves neither; one between the line and the video is made good."""
    sources, masks = clips
    out = tmp_path / "out"
    for place, visible in (("add_to_list", 0), ("write_list", 1)):

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f"understudy.privacy.removal.{place}", killed)
            remove_from_all(sources[:1], ("a", "b"), out, removal(masks), SECRET, progress=False)
        assert len(list(out.glob("[!.]*/*.mp4"))) == visible
    with pytest.raises(UserError, match="not removed from all"):
        read_record(out)
    (video,) = out.glob("a/*.mp4")
    (out / ".staged/a").mkdir(parents=True, exist_ok=True)
    video.rename(out / ".staged/a" / video.name)
    remove_from_all(sources[:1], ("a", "b"), out, removal(masks), SECRET, progress=False)
    assert video.is_file() and not (out / ".staged").exists()


def break_one(shot: Shot) -> np.ndarray:
    if shot.frames[0, 0, 0, 0] > 128:
        raise ZeroDivisionError("no such luck")
    return flat(shot)


def test_a_clip_that_breaks_the_filler_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    for name, grey in (("dark", 40), ("light", 200)):
        frames = np.full((8, 64, 96, 3), grey, np.uint8)
        (tmp_path / f"{name}.mp4").write_bytes(encode(iter(frames), "h264", fps=8, quality=95).members["mp4"])
        (tmp_path / "masks" / name).mkdir(parents=True)
        for number in range(8):
            cv2.imwrite(str(tmp_path / "masks" / name / f"{number:06d}.png"), np.eye(64, 96, dtype=np.uint8) * 255)
    sources = [Source(f"{name}.mp4", 0, tmp_path / f"{name}.mp4") for name in ("light", "dark")]
    mine = Removal(masks=tmp_path / "masks", filler=f"{__name__}:break_one", limits=Limits(1, 1, 0, 1))
    done = remove_from_all(sources, ("a",), tmp_path / "out", mine, SECRET, progress=False)
    assert (done.kept, done.refused) == (1, 1)
    assert done.reasons[0][0] == "removing its people failed: ZeroDivisionError", "the words may name somebody"


def test_other_masks_or_weights_are_not_mixed_in(clips: tuple[list[Source], Path], tmp_path: Path) -> None:
    sources, masks = clips
    out = tmp_path / "out"
    remove_from_all(sources[:1], ("a", "b"), out, removal(masks), SECRET, progress=False)
    (tmp_path / "masks").mkdir()
    with pytest.raises(UserError, match="another masks"):
        remove_from_all(sources, ("a", "b"), out, removal(tmp_path / "masks"), SECRET, progress=False)
    assert str(masks) not in (out / RECORD).read_text()
    (tmp_path / "weights").write_bytes(b"some")
    with pytest.raises(UserError, match="another weights"):
        given = replace(removal(masks), weights=tmp_path / "weights")
        remove_from_all(sources, ("a", "b"), out, given, SECRET, progress=False)


def test_what_lies_in_the_way_is_left_alone(clips: tuple[list[Source], Path], tmp_path: Path) -> None:
    sources, masks = clips
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="other files"):
        remove_from_all(sources, ("a", "b"), tmp_path, removal(masks), SECRET, progress=False)
    assert files(tmp_path) == {"file": b"mine"}
    with pytest.raises(UserError, match="no such folder"):
        remove_from_all(sources, ("a", "b"), tmp_path / "x", removal(tmp_path / "none"), SECRET, progress=False)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("fps", [None, 7.0, 50.0])
def test_masks_are_of_the_frames_that_are_stored_however_long_each_is_shown(tmp_path: Path, fps: float | None) -> None:
    """Thirty frames a second, then fifteen, as phones do in the dark."""
    times = np.cumsum([0] + [3000 if not 20 <= number < 40 else 6000 for number in range(59)])
    frames = np.full((60, 64, 160, 3), 90, np.uint8)
    (tmp_path / "masks/walk").mkdir(parents=True)
    for number, time in enumerate(times):
        mask = np.zeros((64, 160), np.uint8)
        mask[10:50, (left := int(130 * time / times[-1])) : left + 12] = 255
        frames[number][mask > 0] = (255, 0, 255)
        wide = cv2.dilate(mask, np.ones((5, 5), np.uint8))  # the codec smears colours
        cv2.imwrite(str(tmp_path / f"masks/walk/{number:06d}.png"), wide)
    path = write_video(tmp_path / "walk.mp4", frames, pts=times.tolist(), time_base=Fraction(1, 90000))
    mine = Removal(masks=tmp_path / "masks", settings=replace(EXACT, margin=0), limits=Limits(1, 1, 0, 1))
    out = tmp_path / "out"
    remove_from_all([Source("walk.mp4", 0, path)], ("a",), out, mine, SECRET, fps=fps, progress=False)
    (video,) = out.glob("a/*.mp4")
    assert not of_person(np.stack(list(read_video(Source("x", 0, video), fps=30, short_side=64)))).any()
    (tmp_path / "masks/walk/000059.png").unlink()
    with pytest.raises(RefusedError, match="it has 60 frames"):
        list(read_without_people(Source("walk.mp4", 0, path), fps=6, short_side=64, removal=mine))


def test_the_reader_for_packing(clips: tuple[list[Source], Path]) -> None:
    sources, masks = clips
    frames = np.stack(list(read_without_people(sources[0], fps=4, short_side=64, removal=removal(masks))))
    plain = np.stack(list(read_video(sources[0], fps=4, short_side=64)))
    assert frames.shape == plain.shape
    assert of_person(plain).any() and not of_person(frames).any()
    with pytest.raises(RefusedError, match="unsure"):
        list(read_without_people(sources[2], fps=8, short_side=64, removal=removal(masks)))


def test_packing_keeps_the_record(clips: tuple[list[Source], Path], tmp_path: Path) -> None:
    sources, masks = clips
    out = tmp_path / "out"
    remove_from_all(sources, ("a", "b"), out, removal(masks), SECRET, progress=False)
    record = read_record(out)
    assert record is not None and record["segmenter"] == "masks" and record["models"] == []
    assert "secret" not in record and str(tmp_path) not in json.dumps(record)
    assert read_record(tmp_path) is None
    videos = [Source(str(path.relative_to(out)), 0, path) for path in sorted(out.rglob("*.mp4"))]
    config = PackConfig("x", "no-human", ("a",), "none", SECRET, fps=8, short_side=96, removal=record)
    pack(videos, partial(read_video, fps=8, short_side=96), tmp_path / "corpus", config, workers=0, progress=False)
    with tarfile.open(Corpus.open(tmp_path / "corpus").shard_path(0)) as shard:
        sidecars = [json.load(shard.extractfile(member)) for member in shard if member.name.endswith(".json")]  # type: ignore[arg-type]
    assert [sidecar["removal"] for sidecar in sidecars] == [record] * 2
    body = json.loads((out / RECORD).read_text())
    del body["counts"]
    (out / RECORD).write_text(json.dumps(body))
    with pytest.raises(UserError, match="again"):
        read_record(out)


def test_where_it_was_filled_in_is_kept_only_if_asked_for(clips: tuple[list[Source], Path], tmp_path: Path) -> None:
    sources, masks = clips
    sources, keeping = [sources[0], sources[2]], replace(removal(masks), keep_holes=True, limits=Limits(1.0, 1.0, 0.0))
    out = tmp_path / "out"
    remove_from_all(sources, ("a", "b"), out, keeping, SECRET, progress=False)
    assert keeps_holes(out) and not keeps_holes(tmp_path)
    assert folder_sources(out, None)[1] == ("a",), "the masks are no videos to pack"
    videos = [Source(str(path.relative_to(out)), 0, path) for path in sorted((out / "a").glob("*.mp4"))]
    read = partial(read_with_holes, fps=4, short_side=64, folder=out)
    config = PackConfig("x", "no-human", ("a",), "none", SECRET, fps=4, short_side=64, removal=read_record(out))
    pack(videos, read, tmp_path / "afterwards", config, workers=0, progress=False)
    direct = partial(read_without_people, fps=4, short_side=64, removal=keeping)
    pack(sources, direct, tmp_path / "at-once", replace(config, classes=("a", "b")), workers=0, progress=False)
    assert not lint(tmp_path / "afterwards", progress=False).findings
    assert not lint(tmp_path / "at-once", progress=False).findings
    for name in ("afterwards", "at-once"):
        corpus = Corpus.open(tmp_path / name)
        reader = ShardReader(corpus)
        whole = 0
        for sample in range(len(corpus)):
            cells, reason = reader.read_holes(sample)
            assert cells is not None and reason is None and cells.any(axis=(1, 2)).all()
            whole += cells.all(axis=(1, 2)).any()
            if not cells.all(axis=(1, 2)).any():
                assert cells.mean() < 0.6
        assert whole == 1, "of the clip whose masks are missing, frames are made up whole"
    plain = replace(config, name="plain")
    pack(videos, partial(read_video, fps=4, short_side=64), tmp_path / "plain", plain, workers=0, progress=False)
    assert ShardReader(Corpus.open(tmp_path / "plain")).read_holes(0) == (None, None)
    (out / ".holes" / videos[0].id).unlink()
    with pytest.raises(RefusedError, match=r"not in \.holes"):
        list(read(videos[0]))
