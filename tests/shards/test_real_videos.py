"""Every real video behaves as the manifest beside it says: so many upright frames, or refused for that reason.

The frame counts expected come from the manifest's own columns, or from a plain pass over the stamps: not from the
code under test.
"""

from __future__ import annotations

import csv
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from understudy.shards.container import open_container
from understudy.shards.ingest import read_video
from understudy.shards.sources import RefusedError, Source

VIDEOS = Path(__file__).parents[3] / "shared" / "videos"
FPS = 6
Row = dict[str, str]


def rows() -> list[Row]:
    if not (VIDEOS / "manifest.csv").is_file():
        return []
    with (VIDEOS / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def params(verdict: str) -> list[object]:
    """The rows with that verdict; of the 140 synthetic clips, all alike, every tenth unless slow tests run."""
    chosen = [row for row in rows() if row["expect"].startswith(verdict)]
    alike = [row["file"] for row in chosen if row["file"].startswith("synthetic/")]
    slow = set(alike) - set(alike[::10])
    return [
        pytest.param(row, id=row["file"], marks=[pytest.mark.slow] if row["file"] in slow else []) for row in chosen
    ] or [pytest.param({}, marks=pytest.mark.skip(reason=f"the real videos are not there ({VIDEOS})"))]


def read(row: Row, short_side: int = 256) -> list[np.ndarray]:
    return list(read_video(Source(row["file"], 0, VIDEOS / row["file"]), fps=FPS, short_side=short_side))


def expected_counts(row: Row) -> set[int]:
    """How many frames the displayed duration holds; both counts where stamps in milliseconds leave it open."""
    constant = row["fps"] != "0/0" and Fraction(row["fps"]) <= 120 and not row["vfr"]
    if constant:
        return {max(1, math.ceil(int(row["frames"]) / Fraction(row["fps"]) * FPS))}
    with open_container(f"file:{VIDEOS / row['file']}") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stamps = sorted({frame.pts * stream.time_base for frame in container.decode(stream)})
    usual = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
    duration = float(stamps[-1] - stamps[0]) + usual
    return {max(1, math.ceil((duration + slip) * FPS)) for slip in (-0.001, 0.0, 0.001)}


@pytest.mark.parametrize("row", params("ok"))
def test_videos_that_are_whole(row: Row):
    frames = read(row)
    assert len(frames) in expected_counts(row)
    (shape,) = {frame.shape for frame in frames}
    assert min(shape[:2]) == 256 and shape[0] % 2 == shape[1] % 2 == 0 and frames[0].dtype == np.uint8
    width, height = map(int, row["size"].split("x"))
    if row["rotation"] in ("90", "-90"):
        width, height = height, width
    if width != height:
        assert (shape[1] > shape[0]) == (width > height)


@pytest.mark.parametrize("row", params("refuse: "))
def test_videos_that_are_not(row: Row):
    reason = row["expect"].removeprefix("refuse: ")
    meaning = "damaged after" if reason.startswith("damaged") else reason
    with pytest.raises(RefusedError) as caught:
        read(row)
    assert str(caught.value).startswith(meaning)


def test_the_same_pattern_looks_the_same_in_every_format(videos: Path):
    """One test pattern in H.264 and HEVC of 10 bits, HEVC 4:4:4 of 12 and VP9 of odd size: the same bars."""
    names = ["h264_10bits", "h265_10bits", "testsrc2_444_12bit_hevc", "testsrc2_odd_height_and_width_vp9_10bit"]
    bars = []
    for name in names:
        frame = next(read_video(Source(name, 0, videos / f"torture/torchcodec_{name}.mp4"), fps=6, short_side=256))
        height, width = frame.shape[:2]
        bars.append([frame[height * 11 // 12, width * (2 * i + 1) // 12].astype(int) for i in range(6)])
    pure = [(255, 0, 0), (0, 255, 0), (255, 255, 0), (0, 0, 255), (255, 0, 255), (0, 255, 255)]
    for seen in bars:
        assert np.abs(np.array(seen) - pure).max() <= 12
