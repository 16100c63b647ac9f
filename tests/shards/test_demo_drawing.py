"""The demo's kinematics and its rasteriser, held to geometry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.shards.actions import DOWNSTREAM_ACTIONS, SYNTHETIC_ACTIONS, Action, keys
from understudy.shards.figure import Body, Clothes, Pose, random_body, solve
from understudy.shards.render import Camera, Light, composite
from understudy.shards.solids import ball, plate, spot

ACTIONS = SYNTHETIC_ACTIONS + DOWNSTREAM_ACTIONS
RED, GREEN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
FLAT = Light(np.array([0.0, 1.0, 0.0]), ambient=1.0, direct=0.0)


def somebody(seed: int) -> Body:
    white = (1.0, 1.0, 1.0)
    clothes = Clothes(white, white, white, white, white, True, True, 0.0)
    return random_body(np.random.default_rng(seed), clothes, (0.9, 1.4))


def straight_ahead(frames: int = 1) -> Camera:
    """At the origin's height, 10 m before it: a metre at the origin is 20 pixels."""
    return Camera(spot(frames, 0, 0, 10), 0.0, 0.0, np.full(frames, 200.0), np.tile([64.0, 48.0], (frames, 1)), 96, 128)


def bones(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    return np.sqrt(((end - start) ** 2).sum(axis=-1))


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_bodies_keep_together(action: Action, seed: int):
    body = somebody(seed)
    pose = Pose(400)
    action.move(pose, np.linspace(0.0, 2.0, 400), body)
    joints = solve(pose, body)
    assert np.allclose(bones(joints.shoulder, joints.elbow), body.upper_arm, rtol=1e-6)
    assert np.allclose(bones(joints.elbow, joints.wrist), body.forearm, rtol=1e-6)
    assert np.allclose(bones(joints.hip, joints.knee), body.thigh, rtol=1e-6)
    assert np.allclose(bones(joints.knee, joints.ankle), body.shin, rtol=1e-6)
    assert np.allclose(bones(joints.pelvis, joints.waist), body.waist)
    assert np.allclose(bones(joints.waist, joints.neck), body.chest)
    lowest = min(float(part[..., 1].min()) for part in (joints.head, joints.wrist, joints.knee, joints.ankle))
    assert lowest > -0.1, "somebody sinks into the ground"
    # No joint jumps: at 200 steps a cycle even a fast hand moves little from one to the next.
    for part in (joints.head, joints.elbow, joints.wrist, joints.knee, joints.ankle):
        step = bones(part[..., 1:, :] - pose.root[1:], part[..., :-1, :] - pose.root[:-1])
        assert step.max() < 0.12


def test_standing_at_ease_is_upright_and_symmetric():
    body = somebody(0)
    joints = solve(Pose(1), body)
    assert joints.head[0, 1] > joints.neck[0, 1] > joints.pelvis[0, 1] > joints.knee[0, 0, 1] > joints.ankle[0, 0, 1]
    mirrored = np.array([-1.0, 1.0, 1.0])
    for pair in (joints.shoulder, joints.wrist, joints.knee, joints.toes):
        assert np.allclose(pair[0], pair[1] * mirrored)
        assert (pair[0, :, 0] > 0).all(), "the left is at +x"
    assert joints.toes[0, 0, 2] > joints.ankle[0, 0, 2], "the toes point forwards"


def test_leaning_goes_forwards_tilting_to_the_left_and_turning_too():
    body = somebody(1)
    pose = Pose(3)
    pose.lean[0], pose.tilt[1], pose.turn[2] = 0.5, 0.5, np.pi / 2
    joints = solve(pose, body)
    assert joints.head[0, 2] > 0.2 and abs(joints.head[0, 0]) < 1e-9
    assert joints.head[1, 0] > 0.2
    assert np.allclose(joints.face[2], [1, 0, 0])


@given(st.floats(-5, 5))
def test_keys_are_periodic_and_hit_their_values(shift: float):
    moments = np.array([0.2, 0.5, 0.9])
    points = [(0.2, 1.0), (0.5, -2.0), (0.9, 4.0)]
    assert np.allclose(keys(moments, *points), [1, -2, 4])
    assert np.allclose(keys(np.array([shift]), *points), keys(np.array([shift + 1]), *points), atol=1e-6)
    assert -2 - 1e-9 <= float(keys(np.array([shift]), *points)[0]) <= 4 + 1e-9


def test_the_camera_sees_right_up_and_far():
    camera = straight_ahead()
    points = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, -10]]], dtype=np.float64)
    x, y, depth = camera.project(points)
    assert np.allclose(x[0], [64, 84, 64, 74])
    assert np.allclose(y[0], [48, 48, 28, 38])
    assert np.allclose(depth[0], [10, 10, 10, 20])


@settings(max_examples=25, deadline=None)
@given(x=st.floats(-1, 1), y=st.floats(-1, 1), radius=st.floats(0.15, 1.0))
def test_a_ball_covers_its_disc(x: float, y: float, radius: float):
    canvas = np.zeros((3, 1, 96, 128), dtype=np.float32)
    composite(canvas, [ball(spot(1, x, y, 0), radius, RED)], [], straight_ahead(), FLAT)
    red = canvas[0, 0]
    assert red.sum() == pytest.approx(np.pi * (20 * radius) ** 2, rel=0.03)
    rows, columns = np.mgrid[:96, :128] + 0.5
    assert (red * columns).sum() / red.sum() == pytest.approx(64 + 20 * x, abs=0.05)
    assert (red * rows).sum() / red.sum() == pytest.approx(48 - 20 * y, abs=0.05)


def test_a_plate_covers_its_outline_whichever_way_round():
    corners = [spot(1, *corner, 0) for corner in ((-1, -1), (1, -0.5), (1, 1), (-1, 0.5))]
    for order in (corners, corners[::-1]):
        canvas = np.zeros((3, 1, 96, 128), dtype=np.float32)
        composite(canvas, [], [plate(order, RED)], straight_ahead(), FLAT)
        assert canvas[0].sum() == pytest.approx(3.0 * 400, rel=0.02)


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_near_hides_what_is_far_and_people_are_told_from_things(order: int):
    near, far = ball(spot(2, 0, 0, 1), 0.8, RED), ball(spot(2, 0, 0, -1), 0.3, GREEN)
    canvas = np.zeros((3, 2, 96, 128), dtype=np.float32)
    composite(canvas, [near, far][::order], [], straight_ahead(2), FLAT)
    assert np.array_equal(canvas[:, :, 48, 64].T, [RED, RED])
    assert not canvas[1].any(), "what is hidden whole leaves no trace"


def test_what_is_outside_the_picture_or_behind_the_camera_is_not_drawn():
    canvas = np.zeros((3, 1, 96, 128), dtype=np.float32)
    solids = [ball(spot(1, 50, 0, 0), 1.0, RED), ball(spot(1, 0, 0, 12), 1.0, RED)]
    composite(canvas, solids, [], straight_ahead(), FLAT)
    assert not canvas.any()
