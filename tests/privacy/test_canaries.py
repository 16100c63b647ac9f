"""Canaries: shown as the corpus is, none left out without a word, and those that nobody saw counted as missed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from magenta import CONFIG, Magenta, packed, read_scene, run  # pyright: ignore[reportMissingImports]

from understudy.privacy.audit import Looked, conclude
from understudy.privacy.audit_clips import Clip, Footage, Shape, halved
from understudy.privacy.canary import canary_clips
from understudy.privacy.quality import packed_quality
from understudy.privacy.report import summary
from understudy.shards.corpus import Corpus
from understudy.shards.encode import Encoded, encode
from understudy.shards.errors import UserError
from understudy.shards.kinds import Codec
from understudy.shards.pack import pack
from understudy.shards.plan import PackConfig
from understudy.shards.sources import Source


@pytest.mark.usefixtures("magenta")
def test_canaries_that_nobody_could_look_at_count_as_missed():
    """A look may still die where a canary could be decoded; that must not make the detectors look better."""
    seen = {"somebody": 1.0}
    own = [Looked(Clip(str(number), ""), 50) for number in range(400)]
    lost = [Looked(Clip(f"c/{number}", "", group="hard"), 0, unread="the decoder crashed") for number in range(20)]
    good = [Looked(Clip(f"d/{number}", "", group="hard"), 50, {"somebody": 50}, seen) for number in range(20)]
    footage = Footage(tuple(one.clip for one in own), "0" * 64, None)

    def told(*canaries: Looked) -> dict[str, Any]:
        return conclude(footage, own, canaries, Shape(6, 48), CONFIG)

    assert told(*lost)["frames"]["bound"] == told(*lost)["clips"]["bound"] == 1.0
    body = told(*good, *lost)
    assert body["canaries"]["hard"] == {"clips": 40, "found": 20, "frames_seen": 0.5, "unread": 20}
    assert body["frames"]["bound"] > 1.5 * told(*good)["frames"]["bound"]
    extra = {"name": "c", "leaks": {}, "findings": [], "passed_over": (), "names": {"sought": 0, "too_short": 0}}
    assert "50% of frames; 20 could not be looked at, counted as not seen" in summary(body | extra)


def test_canaries_in_groups_and_at_half_size(tmp_path: Path):
    made = encode(read_scene(Source("person/1", 0)), "h264", fps=6, quality=85).members["mp4"]
    for place in ("a.mp4", "small/b.mp4", "small/deep/c.mp4"):
        (tmp_path / place).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / place).write_bytes(made)
    groups = sorted(clip.group for clip in canary_clips(tmp_path, halves=True))
    assert groups == ["canaries", "canaries, half size", *["small"] * 2, *["small, half size"] * 2]
    picture = next(read_scene(Source("person/1", 0)))
    (before,), (after,) = Magenta()(picture[None]), Magenta()(halved(picture)[None])
    assert after[0].box[2] - after[0].box[0] == pytest.approx((before[0].box[2] - before[0].box[0]) / 2, abs=2)
    with pytest.raises(UserError, match="canaries"):
        canary_clips(tmp_path / "none")


@pytest.mark.parametrize(
    ("codec", "quality", "coded"), [("mjpeg", 30, 30), ("mjpeg", 85, 85), ("mjpeg", 97, 97), ("h264", 30, 26)]
)
@pytest.mark.usefixtures("magenta")
def test_canaries_are_shown_as_the_corpus_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: Codec, quality: int, coded: int
):
    """At its short side and as strongly compressed, whether they are videos or a corpus themselves."""
    root, known = packed(tmp_path / "c", 3, 0, codec=codec, quality=quality), tmp_path / "canaries"
    large = PackConfig("l", "real", ("a",), "CC0-1.0", b"sixteen bytes or more", short_side=96)
    pack([Source("person/1", 0)], read_large, known / "large", large, workers=0, progress=False)
    made = encode(read_large(Source("person/1", 0)), "h264", fps=6, quality=85).members["mp4"]
    (known / "v.mp4").write_bytes(made)
    shown: list[tuple[tuple[int, ...], int]] = []

    def note(frames: Iterator[np.ndarray], codec: Codec, *, fps: float, quality: int) -> Encoded:
        pictures = list(frames)
        shown.extend((picture.shape, quality) for picture in pictures)
        return encode(iter(pictures), codec, fps=fps, quality=quality)

    monkeypatch.setattr("understudy.privacy.audit_clips.encode", note)
    body = run(root, root, canaries=known, halves=True)
    assert len(body["canaries"]) == 4 and {canary["found"] for canary in body["canaries"].values()} == {1}
    assert set(shown) == {((48, 64, 3), coded)}


def read_large(source: Source) -> Iterator[np.ndarray]:
    """As `read_scene`, twice as large."""
    return (np.repeat(np.repeat(frame, 2, 0), 2, 1) for frame in read_scene(source))


def test_a_corpus_without_a_first_clip_to_measure_is_told(tmp_path: Path):
    root = packed(tmp_path / "c", 2, 0)
    corpus = Corpus.open(root)
    data = bytearray(corpus.shard_path(0).read_bytes())
    offset, size = corpus.spans[0, 0].tolist()
    data[offset : offset + size] = bytes(size)
    corpus.shard_path(0).write_bytes(data)
    with pytest.raises(UserError, match="its first clip is damaged"):
        packed_quality(corpus)


def test_no_canary_is_left_out_without_a_word(tmp_path: Path):
    made = encode(read_scene(Source("person/1", 0)), "h264", fps=6, quality=85).members["mp4"]
    for place in ("whole/a.mp4", "whole/removal.json", "b.mp4"):
        (tmp_path / place).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / place).write_bytes(made)
    assert len(canary_clips(tmp_path)) == 2
    for place in ("whole/c.m2ts", "d.m2ts", "hard/x.tar"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(made)
        with pytest.raises(UserError, match=f"{place}: by its name no video"):
            canary_clips(tmp_path)
        (tmp_path / place).unlink()
    with pytest.raises(UserError, match="hard: neither videos nor a corpus"):
        canary_clips(tmp_path)
