"""The camera's motion: found where there is texture, harmless where there is none, broken off where nothing matches."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from understudy.privacy.stabilise import camera_motion

RNG = np.random.default_rng(0)
WORLD = cv2.GaussianBlur(cv2.resize(RNG.integers(0, 256, (100, 150, 3), np.uint8), (600, 400)), (0, 0), 1.5)


def view(matrix: np.ndarray, size: tuple[int, int] = (320, 240)) -> np.ndarray:
    return cv2.warpPerspective(WORLD, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def path(count: int) -> list[np.ndarray]:
    """From pixels of each frame to those of WORLD: a pan with a zoom and a turn."""
    out = []
    for step in range(count):
        angle, zoom = 0.01 * step, 1 + 0.01 * step
        cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
        out.append(np.array([[cos, -sin, 60 + 6 * step], [sin, cos, 60 + 2 * step], [0, 0, 1]]))
    return out


def test_pan_zoom_and_turn_with_someone_in_front() -> None:
    true = path(20)
    frames = np.stack([view(matrix) for matrix in true])
    people = np.zeros(frames.shape[:3], np.bool_)
    for number in range(20):
        people[number, 60:200, 40 + 8 * number : 100 + 8 * number] = True
        frames[number, 60:200, 40 + 8 * number : 100 + 8 * number] = RNG.integers(0, 256, (140, 60, 3), np.uint8)
    motion = camera_motion(frames, people)
    assert (motion.group == 0).all()
    corners = np.array([[[0, 0], [319, 0], [0, 239], [319, 239]]], np.float64)
    for source, target in ((0, 19), (19, 0), (3, 12)):
        found = motion.between(source, target)
        assert found is not None
        truth = np.linalg.inv(true[source]) @ true[target]
        difference = cv2.perspectiveTransform(corners, found) - cv2.perspectiveTransform(corners, truth)
        assert np.abs(difference).max() < 1.5


def test_a_camera_that_stands_still_is_exactly_still() -> None:
    frames = np.stack([view(path(1)[0])] * 8).astype(np.int16)
    frames = np.clip(frames + RNG.normal(0, 3, frames.shape), 0, 255).astype(np.uint8)
    motion = camera_motion(frames, np.zeros(frames.shape[:3], np.bool_))
    assert all(np.array_equal(motion.between(0, number), np.eye(3)) for number in range(8))


def test_frames_of_another_scene_are_not_matched() -> None:
    other = WORLD[::-1, ::-1, ::-1].copy()
    frames = np.stack([WORLD[:240, :320]] * 4 + [other[:240, :320]] * 4)
    motion = camera_motion(frames, np.zeros(frames.shape[:3], np.bool_))
    assert motion.between(3, 4) is None
    assert motion.between(4, 7) is not None


@pytest.mark.parametrize("value", [0, 120, 255])
def test_a_picture_without_anything_in_it(value: int) -> None:
    frames = np.full((5, 48, 64, 3), value, np.uint8)
    motion = camera_motion(frames, np.zeros(frames.shape[:3], np.bool_))
    found = motion.between(0, 4)
    assert found is not None and np.abs(found - np.eye(3)).max() < 1e-3
    everything = camera_motion(frames, np.ones(frames.shape[:3], np.bool_))
    assert len(everything.group) == 5
