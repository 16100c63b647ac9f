"""The small detectors on real videos, where their weights are: people who sign are seen, a street without any is not.

With weights in another place, set UNDERSTUDY_WEIGHTS.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from understudy.privacy.audit import AuditConfig, look
from understudy.privacy.audit_clips import Shape, clip_frames, open_footage
from understudy.privacy.detectors import AUDIT_DEFAULT, load_detector
from understudy.shards.errors import UserError
from understudy.shards.ingest import read_video
from understudy.shards.sources import Source


def frames_of(path: Path, count: int = 3) -> np.ndarray:
    return np.stack(list(islice(read_video(Source("x", 0, path), fps=1, short_side=256), count)))


def detector(name: str):
    try:
        return load_detector(name)
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["body-parts", "mtcnn", "pose", "palm"])
def test_people_who_sign_are_seen_in_every_frame(videos: Path, name: str):
    for path in sorted((videos / "action" / "asl").iterdir())[:2]:
        frames = frames_of(path)
        hits = detector(name)(frames)
        height, width = frames.shape[1:3]
        assert all(hits), path.name
        for hit in (hit for found in hits for hit in found):
            x, y = (hit.box[0] + hit.box[2]) / 2, (hit.box[1] + hit.box[3]) / 2
            assert 0 <= x <= width and 0 <= y <= height, path.name


@pytest.mark.parametrize(
    "name", ["v_SoccerJuggling_g24_c01.avi", "SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi"]
)
def test_people_far_off_and_turned_away_are_seen(videos: Path, name: str):
    frames = frames_of(videos / "action" / name)
    best = [max(hits, key=lambda hit: hit.score).box for hits in detector("openimages")(frames) if hits]
    assert len(best) >= 2
    for x0, y0, x1, y1 in best:
        assert 0 <= x0 < x1 <= frames.shape[2] and 0 <= y0 < y1 <= frames.shape[1]
    assert any(y1 - y0 > 1.5 * (x1 - x0) for x0, y0, x1, y1 in best), "as tall as who stands there"


@pytest.mark.parametrize("name", ["openimages", "body-parts", "mtcnn"])
def test_cars_are_not_taken_for_people(videos: Path, name: str):
    assert not any(detector(name)(frames_of(videos / "nohuman" / "intel_car.mp4")))


@pytest.mark.slow
def test_the_default_finds_people_in_every_original(videos: Path):
    """The positive control, as docs/audit.md has it: 39 of 39, one of which can't be decoded and so counts."""
    looking = [detector(name) for name in AUDIT_DEFAULT if name != "text"]
    config = AuditConfig(AUDIT_DEFAULT)
    clips = open_footage(videos / "action").clips
    looked = [look(clip, clip_frames(clip, Shape(3.0, 360)), looking, config, lambda: None) for clip in clips]
    assert len(looked) == 39 and {one.clip.key for one in looked if one.share("somebody") == 0} == set()


def test_faces_of_the_two_face_networks_lie_on_each_other(videos: Path):
    frames = frames_of(videos / "action" / "asl" / "asl_book.mkv", 2)
    for one, other in zip(detector("mtcnn")(frames), detector("face")(frames)):
        a, b = (np.array(max(hits, key=lambda hit: hit.score).box) for hits in (one, other))
        assert np.abs((a[:2] + a[2:]) / 2 - (b[:2] + b[2:]) / 2).max() < 0.5 * (a[2] - a[0])


def test_the_default_detectors_all_load() -> None:
    assert {detector(name).what for name in AUDIT_DEFAULT} == {"person", "face", "text"}
