"""The things that go with people's actions: what they sit on, hold, climb and throw. All of them stay in the picture
when the person is taken out of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from understudy.shards.actions import RELEASE, TAU
from understudy.shards.figure import RIGHT, Body, Joints
from understudy.shards.solids import Array, Ink, Solid, ball, box, chain, rod, spot

GRAVITY = 9.81  # m/s²


def cascade(left: Array, right: Array, cycles: Array, height: float, radius: float, ink: Ink) -> list[Solid]:
    """Three balls that fly from hand to hand, (3,) each, up to `height` metres above them; two throws a cycle."""
    balls: list[Solid] = []
    for number in range(3):
        throw = (2 * cycles + number) * 2 / 3
        part = np.clip((throw % 1.0) / 0.75, 0, 1)[:, None]
        from_left = (np.floor(throw) % 2 == 0)[:, None]
        start, end = np.where(from_left, left, right), np.where(from_left, right, left)
        path = start + (end - start) * part + np.array([0, 4 * height, 0]) * part * (1 - part)
        balls.append(ball(path + np.array([0, 0.08, 0]), radius, ink()))
    return balls


def _chair(joints: Joints, body: Body, cycles: Array, ink: Ink) -> list[Solid]:
    frames, colour = len(cycles), ink()
    seat = 0.53 * body.leg + body.ankle - 0.14 * body.bulk
    back = -0.72 * body.leg
    legs = [(x, z) for x in (-0.2, 0.2) for z in (back + 0.03, -0.32 * body.leg)]
    return [
        *box(spot(frames, 0, seat, -0.5 * body.leg), (0.5, 0.06, 0.48), colour, behind=0.25),
        *box(spot(frames, 0, seat + 0.25, back), (0.5, 0.5, 0.05), colour, behind=0.3),
        *(rod(spot(frames, x, 0, z), spot(frames, x, seat, z), 0.03, colour) for x, z in legs),
    ]


def _ladder(joints: Joints, body: Body, cycles: Array, ink: Ink) -> list[Solid]:
    frames, colour, z, gap = len(cycles), ink(), 0.32 * body.leg, 0.3
    low = max(float(joints.pelvis[:, 1].min()) - 1.3, 0.0)
    high = float(joints.pelvis[:, 1].max()) + 1.7
    rungs = gap * np.arange(np.ceil(low / gap), high // gap + 1)
    return [
        *(rod(spot(frames, x, low, z), spot(frames, x, high, z), 0.035, colour) for x in (-0.3, 0.3)),
        *(rod(spot(frames, -0.3, y, z), spot(frames, 0.3, y, z), 0.025, colour) for y in rungs),
    ]


def _barbell(joints: Joints, body: Body, cycles: Array, ink: Ink) -> list[Solid]:
    grip, discs = joints.fingers.mean(axis=0), ink()
    end, half = np.array([0.75, 0, 0]), np.array([0.05, 0, 0])
    return [
        rod(grip - end, grip + end, 0.025, ink()),
        *(rod(grip + side * end - half, grip + side * end + half, 0.17, discs) for side in (-1, 1)),
    ]


def _thrown_ball(joints: Joints, body: Body, cycles: Array, ink: Ink) -> list[Solid]:
    phase = cycles % 1.0
    held = joints.fingers[RIGHT] + np.array([0, 0.04, 0.05])
    # It flies on from where the hand is in the frame nearest to the release.
    start = held[np.argmin(np.abs(phase - RELEASE))]
    seconds = 1.6 * np.maximum(phase - RELEASE, 0)[:, None]
    flown = start + seconds * np.array([0, 1.2, 6.0]) - seconds**2 * np.array([0, GRAVITY / 2, 0])
    gone = (phase >= RELEASE)[:, None]
    return [ball(held + gone * (flown - held), 0.10, ink())]


def _high_bar(joints: Joints, body: Body, cycles: Array, ink: Ink) -> list[Solid]:
    frames, colour = len(cycles), ink()
    _, y, z = joints.wrist.mean(axis=(0, 1))
    left, right = (spot(frames, x, y + 0.03, z) for x in (0.85, -0.85))
    ground = np.array([1, 0, 1])
    return chain([left * ground, left, right, right * ground], 0.035, colour)


def _club(joints: Joints, body: Body, cycles: Array, ink: Ink) -> list[Solid]:
    grip, colour = joints.fingers.mean(axis=0), ink()
    away = grip - joints.shoulder.mean(axis=0)
    head = grip + 0.75 * away / np.sqrt(np.einsum("ti,ti->t", away, away))[:, None]
    return [rod(grip, head, 0.025, colour), ball(head, 0.06, colour)]


def _rope(joints: Joints, body: Body, cycles: Array, ink: Ink) -> list[Solid]:
    left, right = joints.fingers
    # It passes under the feet when they are highest, at whole cycles.
    around = 1.25 * body.leg * spot(len(cycles), 0, -np.cos(TAU * cycles), np.sin(TAU * cycles))
    parts = np.linspace(0, 1, 11)
    return chain([left + (right - left) * part + around * np.sin(np.pi * part) ** 0.6 for part in parts], 0.022, ink())


def _rowing_machine(joints: Joints, body: Body, cycles: Array, ink: Ink) -> list[Solid]:
    frames, colour = len(cycles), ink()
    handle, wheel = joints.fingers.mean(axis=0), spot(frames, 0, 0.25, 0.95 * body.leg)
    wide = np.array([0.25, 0, 0])
    return [
        rod(spot(frames, 0, 0.06, -0.9 * body.leg), spot(frames, 0, 0.12, 0.7 * body.leg), 0.05, colour),
        rod(wheel - 0.2 * wide, wheel + 0.2 * wide, 0.15, colour),
        rod(handle - wide, handle + wide, 0.025, ink()),
        rod(handle, wheel, 0.012, ink()),
    ]


# By the name of the action; the others need nothing.
PROPS: dict[str, Callable[[Joints, Body, Array, Ink], list[Solid]]] = {
    "climb": _ladder,
    "jump rope": _rope,
    "lift": _barbell,
    "pull-up": _high_bar,
    "row": _rowing_machine,
    "sit": _chair,
    "swing": _club,
    "throw": _thrown_ball,
}
