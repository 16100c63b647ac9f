"""Contact sheets: spread over classes, whole files, and pages that need nothing else."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from understudy.shards.errors import UserError
from understudy.shards.info import as_text, describe
from understudy.shards.preview import choose_samples, preview


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 20), st.integers(0, 3))
def test_samples_are_spread_over_classes(labels: list[int], count: int, seed: int) -> None:
    chosen = choose_samples(np.array(labels), count, seed)
    assert len(set(chosen)) == len(chosen) == min(count, len(labels))
    shown = [labels[i] for i in chosen]
    assert shown == sorted(shown)
    assert len(set(shown)) == min(count, len(set(labels)))
    # No class is shown twice more often than another that has samples left.
    for label in set(labels):
        left = labels.count(label) - shown.count(label)
        assert not left or all(shown.count(other) <= shown.count(label) + 1 for other in set(labels))


def test_another_seed_shows_other_samples() -> None:
    labels = np.arange(100) % 5
    assert choose_samples(labels, 10, 0) == choose_samples(labels, 10, 0) != choose_samples(labels, 10, 1)


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_a_picture_has_a_row_a_sample_and_a_column_a_frame(tmp_path: Path, make_corpus, codec: str) -> None:
    root = make_corpus(tmp_path / "tiny", 9, codec=codec, size=(64, 48))
    preview(root, tmp_path / "sheet.png", rows=3, columns=8, height=48, seed=0)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    white = (pixels == 255).all(axis=2)
    for row in range(3):
        bottom = white.shape[0] - row * (48 + 4)
        assert white[bottom - 4 : bottom, -8 * (64 + 4) :].all(), "a gap below the row"
        for column in range(8):
            right = white.shape[1] - column * (64 + 4)
            assert white[bottom - 52 : bottom, right - 4 : right].all(), "a gap beside the frame"
            assert not white[bottom - 52 : bottom - 4, right - 68 : right - 4].any(), "a frame"


def test_a_page_needs_nothing_else(tmp_path: Path, make_corpus) -> None:
    root = make_corpus(tmp_path / "tiny", 4, classes=("<script>alert(1)</script>", "walk & run"), frames=12)
    preview(root, tmp_path / "sheet.html", rows=4, columns=1, height=32, seed=0)
    page = (tmp_path / "sheet.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "walk &amp; run" in page
    assert not re.search(r'(src|href)="(?!data:)', page) and "url(" not in page
    clips = re.findall(r'src="data:image/webp;base64,([^"]+)"', page)
    assert len(clips) == 4
    with Image.open(io.BytesIO(base64.b64decode(clips[0]))) as clip:
        assert getattr(clip, "n_frames", 1) == 12 and clip.height == 32


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("sheet.jpg", {}, "one of these endings"),
        ("nowhere/sheet.png", {}, "no such folder"),
        ("sheet.png", {"rows": 0}, "at least 1 row"),
        ("sheet.png", {"height": 4}, "height from 16"),
    ],
)
def test_what_can_not_be_drawn_is_told(tmp_path: Path, name: str, options: dict[str, int], says: str) -> None:
    with pytest.raises(UserError, match=says):
        preview(tmp_path, tmp_path / name, **{"rows": 3, "columns": 3, "height": 32, "seed": 0, **options})
    assert not list(tmp_path.iterdir())


def test_a_damaged_corpus_leaves_no_picture(tmp_path: Path, make_corpus) -> None:
    root = make_corpus(tmp_path / "tiny", 2)
    shard = root / "tiny-000000.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[:2000] + bytes(len(data) - 2000))
    with pytest.raises(UserError, match="understudy lint"):
        preview(root, tmp_path / "sheet.png", rows=2, columns=2, height=32, seed=0)
    assert not (tmp_path / "sheet.png").exists()


def test_info_counts(tmp_path: Path, make_corpus) -> None:
    root = make_corpus(tmp_path / "tiny", 5, classes=("walk", "run", "wave"), samples_per_shard=2, frames=12)
    info = describe(root)
    assert (info.samples, info.frames, info.shards, info.classes) == (5, 60, 3, {"walk": 2, "run": 2, "wave": 1})
    assert info.hours == pytest.approx(60 / 6 / 3600)
    assert info.size == sum(path.stat().st_size for path in root.glob("*.tar"))
    assert len(info.digest) == 64
    text = as_text(info)
    assert "5 samples of 3 classes, 60 frames, 10.0 s" in text and "2  run" in text
