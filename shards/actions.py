"""What the demo's virtual people do: each action turns cycles of time into a `Pose`.

Units are those of `Pose`: leg and arm lengths, so that one motion fits every body. The things people hold or stand
on are in `scene.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from understudy.shards.figure import LEFT, RIGHT, Body, Pose
from understudy.shards.solids import Array

TAU = 2 * np.pi
SIDES = (LEFT, RIGHT)


def keys(cycles: Array, *points: tuple[float, ArrayLike]) -> Array:
    """Periodic key frames with smooth steps between them.

    `cycles` (T,), any real; points are (moment in 0..1, value), moments rising, values numbers or 3-vectors.
    Returns (T,) or (T, 3).
    """
    first = points[0][0]
    moments = np.array([moment for moment, _ in points] + [first + 1.0])
    values = np.array([value for _, value in points] + [points[0][1]], dtype=np.float64)
    now = (cycles - first) % 1.0 + first
    index = np.clip(np.searchsorted(moments, now, side="right") - 1, 0, len(points) - 1)
    part = (now - moments[index]) / (moments[index + 1] - moments[index])
    part = part * part * (3.0 - 2.0 * part)
    if values.ndim == 2:
        part = part[:, None]
    return values[index] + part * (values[index + 1] - values[index])


def _wave_of(cycles: Array, shift: float = 0.0) -> Array:
    return np.sin(TAU * (cycles + shift))


def _walk(pose: Pose, cycles: Array, body: Body) -> None:
    for side in SIDES:
        ahead, back = np.cos(TAU * (cycles + 0.5 * side)), _wave_of(cycles, 0.5 * side)
        pose.foot[side] = np.stack([0.1 + 0 * ahead, 0.16 * np.maximum(-back, 0), 0.38 * ahead], axis=-1)
        pose.toe[side] = 0.15 - 0.4 * ahead
        pose.hand[side] = np.stack([0.2 + 0 * ahead, -0.88 + 0 * ahead, -0.42 * ahead], axis=-1)
    pose.hip[:, 1] = 0.94 + 0.02 * np.cos(2 * TAU * cycles)
    pose.root[:, 2] = 1.2 * body.leg * cycles


def _run(pose: Pose, cycles: Array, body: Body) -> None:
    for side in SIDES:
        own = cycles + 0.5 * side
        pose.foot[side] = keys(
            own,
            (0.0, (0.1, 0.14, 0.5)),
            (0.15, (0.1, 0.0, 0.2)),
            (0.4, (0.1, 0.03, -0.5)),
            (0.62, (0.1, 0.5, -0.5)),
            (0.85, (0.1, 0.36, 0.35)),
        )
        pose.toe[side] = keys(own, (0.0, 0.0), (0.4, 0.7), (0.62, 1.2), (0.85, 0.1))
        pose.hand[side] = keys(own, (0.0, (0.25, -0.6, -0.4)), (0.5, (0.05, -0.15, 0.55)))
    pose.lean[:] = 0.25
    pose.twist[:] = 0.2 * np.cos(TAU * cycles)
    pose.hip[:, 1] = 0.92 + 0.06 * np.cos(2 * TAU * (cycles - 0.05))
    pose.root[:, 2] = 2.6 * body.leg * cycles


def _jump(pose: Pose, cycles: Array, body: Body) -> None:
    air = keys(cycles, (0.0, 0.0), (0.4, 0.0), (0.6, 0.4), (0.8, 0.0))
    pose.hip[:, 1] = air + keys(cycles, (0.0, 0.95), (0.28, 0.55), (0.42, 0.98), (0.6, 0.9), (0.8, 0.95), (0.88, 0.75))
    for side in SIDES:
        pose.foot[side, :, 1] = air
        pose.hand[side] = keys(
            cycles,
            (0.0, (0.2, -0.95, 0.1)),
            (0.28, (0.25, -0.65, -0.65)),
            (0.5, (0.3, 0.9, 0.3)),
            (0.65, (0.35, 0.85, 0.25)),
            (0.88, (0.25, -0.7, 0.4)),
        )
        pose.toe[side] = keys(cycles, (0.0, 0.0), (0.38, 0.0), (0.5, 0.9), (0.7, 0.6), (0.82, 0.0))
    pose.lean[:] = keys(cycles, (0.0, 0.05), (0.28, 0.7), (0.45, 0.0), (0.8, 0.05), (0.88, 0.35))


def _jumping_jack(pose: Pose, cycles: Array, body: Body) -> None:
    spread = keys(cycles, (0.0, 0.0), (0.45, 1.0), (0.55, 1.0))
    hop = 0.06 * np.abs(np.sin(TAU * cycles))
    angle = -1.35 + spread * 2.75
    for side in SIDES:
        pose.foot[side] = np.stack([0.1 + 0.42 * spread, hop, 0 * hop], axis=-1)
        pose.hand[side] = np.stack([np.cos(angle) * 0.97, np.sin(angle) * 0.97, 0 * hop + 0.05], axis=-1)
        pose.elbow[side] = (0.5, -0.5, -0.5)
    pose.hip[:, 1] = 0.97 - 0.08 * spread + hop


def _wave(pose: Pose, cycles: Array, body: Body) -> None:
    side_to_side = _wave_of(2 * cycles)
    pose.hand[RIGHT] = np.stack([0.38 + 0.34 * side_to_side, 0.78 - 0.1 * side_to_side**2, 0 * cycles + 0.15], axis=-1)
    pose.elbow[RIGHT] = (1.0, -0.4, -0.1)
    pose.tilt[:] = 0.04 * side_to_side


def _clap(pose: Pose, cycles: Array, body: Body) -> None:
    for side in SIDES:
        pose.hand[side] = keys(cycles, (0.0, (-0.3, -0.05, 0.62)), (0.1, (-0.3, -0.05, 0.62)), (0.55, (0.55, 0.0, 0.6)))
        pose.elbow[side] = (0.8, -1.0, -0.2)


def _kick(pose: Pose, cycles: Array, body: Body) -> None:
    pose.foot[RIGHT] = keys(
        cycles,
        (0.0, (0.12, 0.0, -0.1)),
        (0.25, (0.12, 0.3, -0.6)),
        (0.5, (0.05, 0.75, 0.85)),
        (0.6, (0.05, 0.78, 0.85)),
        (0.85, (0.12, 0.05, 0.1)),
    )
    pose.toe[RIGHT] = keys(cycles, (0.0, 0.0), (0.25, 0.9), (0.5, -0.4), (0.85, 0.0))
    pose.foot[LEFT] = (0.1, 0.0, 0.0)
    pose.lean[:] = keys(cycles, (0.0, 0.0), (0.25, 0.2), (0.55, -0.35), (0.9, 0.0))
    pose.hand[LEFT] = keys(cycles, (0.0, (0.4, -0.7, 0.1)), (0.25, (0.5, -0.4, 0.5)), (0.55, (0.6, -0.4, -0.5)))
    pose.hand[RIGHT] = keys(cycles, (0.0, (0.4, -0.7, 0.1)), (0.25, (0.6, -0.4, -0.4)), (0.55, (0.6, -0.2, 0.4)))


def _squat(pose: Pose, cycles: Array, body: Body) -> None:
    depth = keys(cycles, (0.0, 0.0), (0.45, 1.0), (0.55, 1.0))
    pose.hip[:, 1] = 0.97 - 0.5 * depth
    pose.hip[:, 2] = -0.28 * depth
    pose.lean[:] = 0.65 * depth
    for side in SIDES:
        pose.foot[side, :, 0] = 0.26
        pose.knee[side] = (0.6, 0.0, 1.0)
        pose.hand[side] = np.stack([0.05 + 0 * depth, -0.9 + 0.85 * depth, 0.15 + 0.8 * depth], axis=-1)


def _sit(pose: Pose, cycles: Array, body: Body) -> None:
    down = keys(cycles, (0.0, 0.0), (0.15, 0.0), (0.45, 1.0), (0.7, 1.0))
    pose.hip[:, 1] = 0.97 - 0.44 * down
    pose.hip[:, 2] = -0.08 - 0.42 * down
    pose.lean[:] = keys(cycles, (0.0, 0.0), (0.15, 0.05), (0.3, 0.7), (0.45, 0.0), (0.7, 0.0), (0.85, 0.7))
    for side in SIDES:
        pose.hand[side] = np.stack([0.1 + 0 * down, -0.95 + 0.3 * down, 0.1 + 0.45 * down], axis=-1)


def _bow(pose: Pose, cycles: Array, body: Body) -> None:
    deep = keys(cycles, (0.0, 0.0), (0.1, 0.0), (0.45, 1.0), (0.6, 1.0))
    pose.lean[:] = 1.15 * deep
    pose.curl[:] = 0.35 * deep
    pose.hip[:, 2] = -0.22 * deep
    for side in SIDES:
        pose.foot[side, :, 0] = 0.08
        pose.hand[side] = np.stack([0.08 + 0 * deep, -0.95 + 0.1 * deep, 0.05 - 0.35 * deep], axis=-1)


RELEASE = 0.5  # the moment of the cycle in which a thrown ball leaves the hand


def _throw(pose: Pose, cycles: Array, body: Body) -> None:
    pose.hand[RIGHT] = keys(
        cycles,
        (0.0, (0.2, -0.3, 0.4)),
        (0.3, (0.55, 0.45, -0.65)),
        (0.42, (0.35, 0.9, 0.0)),
        (RELEASE, (0.15, 0.55, 0.8)),
        (0.62, (-0.3, -0.5, 0.8)),
    )
    pose.elbow[RIGHT] = (1.0, -0.6, 0.3)
    pose.hand[LEFT] = keys(cycles, (0.0, (0.1, -0.3, 0.4)), (0.3, (0.2, 0.2, 0.9)), (0.6, (0.5, -0.6, -0.4)))
    pose.twist[:] = keys(cycles, (0.0, 0.0), (0.3, -0.8), (RELEASE, 0.5), (0.65, 0.7))
    pose.foot[LEFT] = keys(
        cycles, (0.0, (0.12, 0, 0.1)), (0.2, (0.12, 0.3, 0.3)), (0.4, (0.12, 0, 0.5)), (0.8, (0.12, 0, 0.4))
    )
    pose.foot[RIGHT, :, 2] = -0.2
    pose.hip[:, 2] = keys(cycles, (0.0, 0.0), (0.25, -0.15), (0.55, 0.25))
    pose.hip[:, 1] = 0.92
    pose.lean[:] = keys(cycles, (0.0, 0.0), (0.3, -0.2), (0.6, 0.45))


def _crawl(pose: Pose, cycles: Array, body: Body) -> None:
    hip = 0.93 * body.thigh + 0.02
    shoulder = 0.95 * body.arm + 0.05
    pose.hip[:, 1] = (hip - body.ankle + 0.08) / body.leg
    pose.lean[:] = np.arccos(np.clip((shoulder - hip) / body.torso, -0.9, 0.9))
    pose.nod[:] = -0.7
    for side in SIDES:
        hand, knee = cycles + 0.5 * side, cycles + 0.5 * (1 - side) + 0.1
        pose.hand[side] = np.stack(
            [0.05 + 0 * hand, -0.9 + 0.3 * np.maximum(-_wave_of(hand), 0), 0.35 * np.cos(TAU * hand)], axis=-1
        )
        shin = body.shin / body.leg
        forth = 0.24 * np.cos(TAU * knee)
        lift = 0.07 * np.maximum(-_wave_of(knee), 0)
        pose.foot[side] = np.stack([0.1 + 0 * knee, 0.0 + lift, forth - 0.9 * shin], axis=-1)
        pose.knee[side] = (0.1, -1.0, 0.35)
        pose.elbow[side] = (0.5, 0.0, -1.0)
        pose.toe[side] = 1.4
    pose.root[:, 2] = 0.9 * body.leg * cycles


def _climb(pose: Pose, cycles: Array, body: Body) -> None:
    rise = 0.55  # leg lengths in a cycle
    pose.root[:, 1] = rise * body.leg * cycles
    pose.hip[:] = (0.0, 0.9, 0.0)
    pose.lean[:] = 0.12
    pose.nod[:] = -0.35
    for side in SIDES:
        own = (cycles + 0.5 * side) % 1.0
        # Holding on, a hand sinks as fast as the body rises; then it reaches for the next rung.
        held = np.where(own < 0.7, own / 0.7, 1 - keys(own, (0.7, 0.0), (1.0, 1.0)))
        fall = 0.7 * rise
        pose.hand[side] = np.stack([0.0 * own, 0.88 - held * fall * body.leg / body.arm * 1.6, 0.45 + 0 * own], axis=-1)
        other = (own + 0.5) % 1.0
        sunk = np.where(other < 0.7, other / 0.7, 1 - keys(other, (0.7, 0.0), (1.0, 1.0)))
        pose.foot[side] = np.stack([0.14 + 0 * own, 0.42 - sunk * fall, 0.30 + 0 * own], axis=-1)
        pose.elbow[side] = (0.8, -1.0, -0.3)
        pose.knee[side] = (0.5, 0.0, 1.0)
    pose.tilt[:] = 0.1 * _wave_of(cycles)


def _spin(pose: Pose, cycles: Array, body: Body) -> None:
    pose.turn[:] = TAU * cycles
    for side in SIDES:
        pose.hand[side] = (0.93, 0.05, 0.0)
        pose.elbow[side] = (0.0, -0.3, -1.0)
        pose.foot[side] = np.stack(
            [0.13 + 0 * cycles, 0.1 * np.maximum(_wave_of(2 * cycles, 0.5 * side), 0), 0 * cycles], axis=-1
        )


def _lift(pose: Pose, cycles: Array, body: Body) -> None:
    pose.hip[:, 1] = keys(cycles, (0.0, 0.5), (0.05, 0.5), (0.3, 0.95), (0.75, 0.95))
    pose.hip[:, 2] = keys(cycles, (0.0, -0.25), (0.05, -0.25), (0.3, 0.0), (0.75, 0.0))
    pose.lean[:] = keys(cycles, (0.0, 0.75), (0.05, 0.75), (0.3, 0.0), (0.75, 0.0))
    for side in SIDES:
        pose.foot[side, :, 0] = 0.24
        pose.knee[side] = (0.5, 0.0, 1.0)
        pose.elbow[side] = (0.5, -0.8, 0.2)
        pose.hand[side] = keys(
            cycles,
            (0.0, (0.15, -0.93, 0.15)),
            (0.25, (0.15, -0.9, 0.2)),
            (0.38, (0.15, -0.15, 0.3)),
            (0.55, (0.15, 0.95, 0.05)),
            (0.65, (0.15, 0.95, 0.05)),
            (0.8, (0.15, -0.15, 0.3)),
        )


def _dance(pose: Pose, cycles: Array, body: Body) -> None:
    sway = _wave_of(cycles)
    pose.hip[:, 0] = 0.16 * sway
    pose.hip[:, 1] = 0.92 - 0.06 * np.cos(2 * TAU * cycles)
    pose.tilt[:] = -0.22 * sway
    pose.twist[:] = 0.35 * _wave_of(cycles, 0.25)
    for side in SIDES:
        own = cycles + 0.5 * side
        pose.hand[side] = keys(own, (0.0, (0.5, -0.4, 0.35)), (0.5, (0.35, 0.85, 0.1)))
        pose.elbow[side] = (1.0, -0.4, -0.3)
        pose.foot[side] = np.stack([0.22 + 0 * own, 0.16 * np.maximum(_wave_of(own), 0), 0 * own], axis=-1)


def _punch(pose: Pose, cycles: Array, body: Body) -> None:
    pose.foot[LEFT] = (0.1, 0.0, 0.28)
    pose.foot[RIGHT] = (0.16, 0.0, -0.28)
    pose.hip[:, 1] = 0.88 + 0.02 * np.cos(2 * TAU * cycles)
    pose.lean[:] = 0.15
    pose.twist[:] = 0.45 * np.cos(TAU * cycles)
    for side in SIDES:
        guard, jab = (-0.12, 0.02, 0.42), (0.22, 0.12, 0.95)
        own = cycles + 0.5 * side
        pose.hand[side] = keys(own, (0.0, guard), (0.15, guard), (0.4, jab), (0.55, jab), (0.8, guard))
        pose.elbow[side] = (0.5, -1.0, -0.2)


def _jump_rope(pose: Pose, cycles: Array, body: Body) -> None:
    hop = 0.16 * np.maximum(np.cos(TAU * cycles), 0.0)
    pose.hip[:, 1] = 0.93 + hop
    for side in SIDES:
        pose.foot[side] = np.stack([0.07 + 0 * hop, hop, 0 * hop], axis=-1)
        pose.toe[side] = 4 * hop
        turn = TAU * cycles
        pose.hand[side] = np.stack([0.55 + 0 * hop, -0.5 - 0.1 * np.cos(turn), 0.25 + 0.1 * np.sin(turn)], axis=-1)
        pose.elbow[side] = (0.1, -0.5, -1.0)


def _lunge(pose: Pose, cycles: Array, body: Body) -> None:
    for side in SIDES:
        own = cycles + 0.5 * side
        reach = keys(own, (0.0, 0.0), (0.12, 0.0), (0.25, 1.0), (0.33, 1.0), (0.47, 0.0))
        pose.foot[side, :, 2] += 0.85 * reach
        pose.foot[side, :, 1] += keys(
            own, (0.0, 0.0), (0.05, 0.0), (0.13, 0.25), (0.22, 0.0), (0.36, 0.0), (0.42, 0.15), (0.5, 0.0)
        )
        pose.hip[:, 1] -= 0.38 * reach
        pose.hip[:, 2] += 0.42 * reach
        pose.toe[1 - side] += 0.9 * reach
        pose.hand[side] = (0.15, -0.52, 0.08)
        pose.elbow[side] = (1.0, 0.0, -0.5)


def _march(pose: Pose, cycles: Array, body: Body) -> None:
    for side in SIDES:
        up = np.maximum(_wave_of(cycles, 0.5 * side), 0.0)
        pose.foot[side] = np.stack([0.1 + 0 * up, 0.52 * up, 0.22 * up], axis=-1)
        pose.toe[side] = 0.5 * up
        pose.hand[side] = np.stack([0.1 + 0 * up, -0.95 * np.cos(1.3 * up), -0.95 * np.sin(-0.45 + 0 * up)], axis=-1)
        other = np.maximum(_wave_of(cycles, 0.5 * (1 - side)), 0.0)
        angle = 1.6 * other - 0.5 * up
        pose.hand[side] = np.stack([0.1 + 0 * up, -0.95 * np.cos(angle), 0.95 * np.sin(angle)], axis=-1)
    pose.hip[:, 1] = 0.97


def _push_up(pose: Pose, cycles: Array, body: Body) -> None:
    shoulder = body.arm * keys(cycles, (0.0, 0.93), (0.45, 0.4), (0.55, 0.4)) + 0.05
    slope = np.arcsin((shoulder - body.ankle) / (body.leg + body.torso))
    pose.hip[:, 1] = 0.98 * np.sin(slope) + 0.06
    pose.hip[:, 2] = 0.98 * np.cos(slope)
    pose.lean[:] = np.pi / 2 - slope - 0.04
    pose.nod[:] = -0.5
    for side in SIDES:
        pose.foot[side] = (0.08, 0.05, 0.0)
        pose.toe[side] = 1.3
        pose.hand[side] = np.stack([0.25 + 0 * slope, -(shoulder - 0.05) / body.arm, 0.1 + 0 * slope], axis=-1)
        pose.elbow[side] = (1.0, 0.3, -0.6)


def _pull_up(pose: Pose, cycles: Array, body: Body) -> None:
    rise = keys(cycles, (0.0, 0.0), (0.4, 1.0), (0.55, 1.0))
    pose.hip[:, 1] = 1.25 + 0.62 * rise * body.arm / body.leg
    for side in SIDES:
        pose.hand[side] = np.stack([0.25 + 0.08 * rise, 0.93 - 0.62 * rise, 0.1 + 0.1 * rise], axis=-1)
        pose.elbow[side] = (1.0, -0.6, 0.1)
        pose.foot[side] = np.stack([0.08 + 0 * rise, pose.hip[:, 1] - 0.86, -0.3 - 0.12 * rise], axis=-1)
        pose.toe[side] = 0.8
    pose.nod[:] = -0.3


def _swing(pose: Pose, cycles: Array, body: Body) -> None:
    turn = keys(cycles, (0.0, 0.0), (0.3, -1.0), (0.4, -1.0), (0.62, 1.15), (0.75, 1.15))
    pose.twist[:] = 0.85 * turn
    pose.lean[:] = 0.4 - 0.15 * np.abs(turn)
    pose.hip[:, 1] = 0.9
    pose.hip[:, 2] = -0.1
    height = -0.85 + 1.15 * turn**2
    for side in SIDES:
        # Both hands grip one club: each shoulder reaches across to the same point.
        grip = body.shoulders / body.arm
        pose.hand[side] = np.stack([-grip + 0 * turn, height, 0.62 + 0 * turn], axis=-1)
        pose.foot[side, :, 0] = 0.24
        pose.elbow[side] = (0.6, -1.0, -0.1)


def _stretch(pose: Pose, cycles: Array, body: Body) -> None:
    bend = keys(cycles, (0.0, -1.0), (0.1, -1.0), (0.5, 1.0), (0.6, 1.0))
    pose.tilt[:] = 0.5 * bend
    pose.hip[:, 0] = -0.12 * bend
    for side in SIDES:
        pose.foot[side, :, 0] = 0.3
        outwards = bend if side == LEFT else -bend
        pose.hand[side] = np.stack([0.62 * outwards - 0.1, 0.8 + 0 * bend, 0.05 + 0 * bend], axis=-1)
        pose.elbow[side] = (1.0, 0.2, 0.0)


def _row(pose: Pose, cycles: Array, body: Body) -> None:
    back = keys(cycles, (0.0, 0.0), (0.1, 0.0), (0.45, 1.0), (0.6, 1.0))
    pose.hip[:, 1] = 0.28
    pose.hip[:, 2] = -0.1 - 0.42 * back
    pose.lean[:] = 0.5 - 0.85 * back
    for side in SIDES:
        pose.foot[side] = (0.1, 0.14, 0.42)
        pose.toe[side] = -0.7
        pose.knee[side] = (0.15, 1.0, 0.3)
        pose.hand[side] = np.stack([-0.05 + 0.1 * back, -0.25 - 0.2 * back, 0.9 - 0.65 * back], axis=-1)
        pose.elbow[side] = (0.6, -0.5, -1.0)


@dataclass(frozen=True)
class Action:
    """A class of the demo: its name, its motion, and the range of its period in seconds."""

    name: str
    move: Callable[[Pose, Array, Body], None]
    period: tuple[float, float]


SYNTHETIC_ACTIONS = (
    Action("bow", _bow, (1.6, 2.4)),
    Action("clap", _clap, (0.8, 1.3)),
    Action("climb", _climb, (1.2, 2.0)),
    Action("crawl", _crawl, (1.0, 1.8)),
    Action("dance", _dance, (0.9, 1.6)),
    Action("jump", _jump, (1.2, 1.9)),
    Action("kick", _kick, (1.1, 1.9)),
    Action("lift", _lift, (1.8, 2.6)),
    Action("push-up", _push_up, (1.2, 2.0)),
    Action("row", _row, (1.3, 2.1)),
    Action("run", _run, (0.75, 1.1)),
    Action("sit", _sit, (1.8, 2.6)),
    Action("spin", _spin, (1.2, 2.0)),
    Action("squat", _squat, (1.3, 2.1)),
    Action("throw", _throw, (1.3, 2.0)),
    Action("walk", _walk, (1.0, 1.5)),
    Action("wave", _wave, (1.0, 1.8)),
)
DOWNSTREAM_ACTIONS = (
    Action("jump rope", _jump_rope, (0.8, 1.2)),
    Action("jumping jack", _jumping_jack, (0.9, 1.4)),
    Action("lunge", _lunge, (2.0, 3.0)),
    Action("march", _march, (0.9, 1.4)),
    Action("pull-up", _pull_up, (1.3, 2.2)),
    Action("punch", _punch, (0.8, 1.4)),
    Action("stretch", _stretch, (1.4, 2.4)),
    Action("swing", _swing, (1.4, 2.2)),
)
