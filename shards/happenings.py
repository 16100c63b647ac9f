"""The scenes of the corpus without people: what goes on around an action, the person removed.

`cycles` (T,) counts periods of the motion. The things lie along x, so that a camera sees them from the front.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from understudy.shards.actions import TAU, keys
from understudy.shards.solids import Array, Cone, Ink, Solid, ball, box, chain, plate, rod, shaded, spot
from understudy.shards.things import cascade


def _blowing_bubbles(cycles: Array, ink: Ink) -> list[Solid]:
    frames, ring = len(cycles), np.linspace(0, TAU, 8)
    bubbles: list[Solid] = []
    for number in range(11):
        age = (0.4 * cycles + number * 0.382) % 1.0
        radius = 0.08 + 0.11 * ((number * 0.618) % 1.0)
        drift = 0.10 * np.sin(TAU * (2 * age + number * 0.3))
        x = -0.5 + (0.5 + 1.4 * ((number * 0.27) % 1.0)) * age + drift
        z = 0.5 * ((number * 0.71) % 1.0) - 0.25
        bubbles.append(ball(spot(frames, x, 0.75 + 1.6 * age, z), radius, ink()))
    return [
        *bubbles,
        rod(spot(frames, -0.9, 0.1, 0), spot(frames, -0.65, 0.6, 0), 0.035, ink()),
        *chain([spot(frames, -0.58 + 0.14 * np.cos(a), 0.72 + 0.14 * np.sin(a), 0) for a in ring], 0.025, ink()),
    ]


def _cycling(cycles: Array, ink: Ink) -> list[Solid]:
    frames, frame, tyre = len(cycles), ink(), ink()
    radius = 0.42
    x = 0.45 * TAU * radius * (cycles - cycles.mean())  # slower than the wheels turn, to stay in the picture
    rear, front = (spot(frames, x + side, radius + 0.03, 0) for side in (-0.62, 0.62))
    saddle, head, pedal = (
        spot(frames, x - 0.25, 1.05, 0),
        spot(frames, x + 0.42, 1.05, 0),
        spot(frames, x - 0.05, 0.42, 0),
    )
    solids: list[Solid] = []
    for hub in (rear, front):

        def rim(turn: ArrayLike, hub: Array = hub) -> Array:
            return hub + spot(frames, radius * np.cos(turn), radius * np.sin(turn), 0)

        solids += chain([rim(a) for a in np.linspace(0, TAU, 13)], 0.035, tyre)
        for spoke in range(3):
            turn = -TAU * cycles + spoke * np.pi / 3
            solids.append(rod(rim(turn), rim(turn + np.pi), 0.02, frame))
    solids += chain([front, head, saddle, rear, pedal, saddle], 0.03, frame)
    solids.append(rod(pedal, head, 0.03, frame))
    solids.append(rod(saddle + np.array([-0.12, 0.06, 0]), saddle + np.array([0.1, 0.06, 0]), 0.06, tyre))
    solids.append(rod(head, head + np.array([0.1, 0.2, 0]), 0.03, tyre))
    return solids


def _dribbling(cycles: Array, ink: Ink) -> list[Solid]:
    frames, phase = len(cycles), cycles % 1.0
    x, y = 0.15 * np.sin(TAU * cycles / 4), 0.22 + 4.4 * phase * (1 - phase)
    foot = spot(frames, -0.9, 0, -0.6)
    board = [foot + np.array(corner) for corner in ((-0.3, 1.9, 0), (0.4, 1.9, 0), (0.4, 2.35, 0), (-0.3, 2.35, 0))]
    return [
        ball(spot(frames, x, y, 0), 0.22, ink()),
        rod(foot, foot + np.array([0, 1.9, 0]), 0.04, ink()),
        plate(board, ink()),
    ]


def _flying_kite(cycles: Array, ink: Ink) -> list[Solid]:
    frames = len(cycles)
    x, y = 0.65 * np.sin(TAU * cycles), 1.75 + 0.25 * np.sin(2 * TAU * cycles)
    cos, sin = np.cos(0.5 * np.cos(TAU * cycles)), np.sin(0.5 * np.cos(TAU * cycles))

    def at(dx: float, dy: float) -> Array:
        return spot(frames, x + dx * cos - dy * sin, y + dx * sin + dy * cos, 0)

    tail = [
        spot(frames, x + part * (0.13 * np.sin(TAU * (2 * cycles - 0.25 * part)) - 0.12), y - 0.45 - 0.17 * part, 0)
        for part in range(5)
    ]
    return [
        plate([at(0, 0.45), at(-0.32, 0.1), at(0, -0.5), at(0.32, 0.1)], ink()),
        *chain(tail, 0.03, ink()),
        rod(spot(frames, 0.9, 0, 0.1), at(0, 0), 0.015, ink()),
    ]


def _hammering(cycles: Array, ink: Ink) -> list[Solid]:
    frames = len(cycles)
    angle = keys(cycles, (0.0, 0.05), (0.1, 0.05), (0.6, 1.35), (0.8, 1.45))
    pivot = spot(frames, 0.95, 0.85, 0)
    head = pivot + 1.15 * spot(frames, -np.cos(angle), np.sin(angle), 0)
    along = spot(frames, np.sin(angle), np.cos(angle), 0)
    nail = 0.86 - 0.08 * (np.floor(cycles - cycles[0]) % 3)
    return [
        *box(spot(frames, -0.2, 0.3, 0), (1.2, 0.6, 0.7), ink(), behind=0.5),
        rod(spot(frames, -0.2, 0.55, 0), spot(frames, -0.2, nail, 0), 0.035, ink()),
        rod(pivot, head, 0.05, ink()),
        rod(head - along * 0.22, head + along * 0.22, 0.13, ink()),
    ]


def _juggling(cycles: Array, ink: Ink) -> list[Solid]:
    left, right = np.array([0.42, 0.55, 0]), np.array([-0.42, 0.55, 0])
    return cascade(left, right, cycles, 1.2, 0.15, ink)


def _lifting_weights(cycles: Array, ink: Ink) -> list[Solid]:
    frames, disc = len(cycles), ink()
    y = keys(cycles, (0.0, 0.32), (0.08, 0.32), (0.4, 1.9), (0.6, 1.9))
    tip = 0.1 * np.sin(2 * TAU * cycles)
    return [
        rod(spot(frames, -0.95, y - tip, 0), spot(frames, 0.95, y + tip, 0), 0.04, ink()),
        *(
            rod(spot(frames, x - 0.06, y + tip * x, 0), spot(frames, x + 0.06, y + tip * x, 0), 0.3, disc)
            for x in (-0.85, 0.85)
        ),
        *box(spot(frames, 0, 0.05, -0.6), (1.8, 0.1, 0.8), ink(), behind=1.0),
    ]


def _opening_door(cycles: Array, ink: Ink) -> list[Solid]:
    frames, frame = len(cycles), ink()
    angle = keys(cycles, (0.0, 0.0), (0.1, 0.0), (0.45, 1.7), (0.6, 1.7))

    def at(along: float, y: float) -> Array:
        return spot(frames, -0.5 + along * np.cos(angle), y, along * np.sin(angle))

    def post(x: float, y: float) -> Array:
        return spot(frames, x, y, -0.02)

    return [
        plate([post(-0.5, 0), post(0.45, 0), post(0.45, 2), post(-0.5, 2)], (0.08, 0.08, 0.1), behind=2.0),
        *chain([post(-0.55, 0), post(-0.55, 2.06), post(0.5, 2.06), post(0.5, 0)], 0.06, frame),
        plate([at(0, 0.02), at(0.95, 0.02), at(0.95, 2), at(0, 2)], ink()),
        ball(at(0.82, 1.0) + np.array([0.02, 0, 0.06]), 0.06, frame),
    ]


def _punching_bag(cycles: Array, ink: Ink) -> list[Solid]:
    frames, post = len(cycles), ink()
    since = cycles % 1.0
    angle = 0.75 * np.exp(-2.0 * since) * np.sin(1.5 * TAU * since)
    hook, corner, foot = spot(frames, 0, 2.35, 0), spot(frames, 1.0, 2.4, -0.2), spot(frames, 1.0, 0, -0.2)
    down = spot(frames, np.sin(angle), -np.cos(angle), 0)
    return [
        *chain([foot, corner, hook], 0.06, post),
        rod(hook, hook + down * 0.6, 0.025, post),
        Cone(hook + down * 0.85, hook + down * 1.75, 0.24, 0.24, ink(), bands=2.0),
    ]


def _riding_seesaw(cycles: Array, ink: Ink) -> list[Solid]:
    frames, stand, handles = len(cycles), ink(), ink()
    angle = 0.38 * np.sin(TAU * cycles)
    pivot = spot(frames, 0, 0.62, 0)
    end = 1.5 * spot(frames, np.cos(angle), np.sin(angle), 0)
    up = np.array([0, 0.28, 0])
    return [
        *(rod(spot(frames, x, 0, 0), pivot, 0.06, stand) for x in (-0.3, 0.3)),
        rod(pivot - end, pivot + end, 0.08, ink()),
        *(rod(pivot + end * part, pivot + end * part + up, 0.04, handles) for part in (-0.75, 0.75)),
    ]


def _shooting_hoops(cycles: Array, ink: Ink) -> list[Solid]:
    frames, phase = len(cycles), cycles % 1.0
    along = np.minimum(phase / 0.75, 1.0)
    x = -1.1 + 2.0 * along
    y = 0.6 + 0.8 * along + 3.2 * along * (1 - along) - 5.0 * np.maximum(phase - 0.75, 0)
    ring = [spot(frames, 0.9 + 0.32 * np.cos(a), 1.35, 0.32 * np.sin(a)) for a in np.linspace(0, TAU, 9)]
    board = [spot(frames, 1.3, y, z) for y, z in ((1.2, -0.4), (1.2, 0.4), (1.9, 0.4), (1.9, -0.4))]
    return [
        ball(spot(frames, x, np.maximum(y, 0.18), 0), 0.18, ink()),
        rod(spot(frames, 1.35, 0, 0), spot(frames, 1.35, 1.3, 0), 0.06, ink()),
        plate(board, ink()),
        *chain(ring, 0.035, ink()),
    ]


def _skipping_rope(cycles: Array, ink: Ink) -> list[Solid]:
    frames, posts = len(cycles), ink()
    cos, sin = np.cos(TAU * cycles), np.sin(TAU * cycles)
    rope: list[Array] = []
    for part in np.linspace(0, 1, 13):
        sag = 0.95 * np.sin(np.pi * part)
        rope.append(spot(frames, 2.2 * part - 1.1, 1.05 + sag * cos, sag * sin))
    return [
        *chain(rope, 0.045, ink()),
        *(rod(spot(frames, x, 0, 0), spot(frames, x, 1.05, 0), 0.06, posts) for x in (-1.15, 1.15)),
    ]


def _surfing(cycles: Array, ink: Ink) -> list[Solid]:
    frames, tint = len(cycles), ink()
    water = (0.1 + 0.25 * tint[0], 0.4 + 0.25 * tint[1], 0.7 + 0.25 * tint[2])
    edges, near, far = np.linspace(-1.7, 1.7, 17), 0.7, -0.7

    def level(x: float) -> Array:
        return 0.75 + 0.38 * np.sin(TAU * (x / 2.4 - cycles))

    def at(x: float, z: float) -> Array:
        return spot(frames, x, level(x), z)

    def foot(x: float, z: float) -> Array:
        return spot(frames, x, 0, z)

    solids: list[Solid] = []
    for number, (x, on) in enumerate(itertools.pairwise(edges)):
        crest = shaded(water, 1.0 - 0.1 * (number % 2))
        solids.append(plate([at(x, near), at(on, near), at(on, far), at(x, far)], crest, behind=0.4))
        front = [foot(x, near), foot(on, near), at(on, near), at(x, near)]
        solids.append(plate(front, shaded(water, 0.6), behind=0.4))
    end = float(edges[-1])
    cap = [foot(end, near), at(end, near), at(end, far), foot(end, far)]
    tail, nose = spot(frames, -0.6, level(-0.6) + 0.08, 0), spot(frames, 0.6, level(0.6) + 0.12, 0)
    return [*solids, plate(cap, shaded(water, 0.5), behind=0.4), Cone(tail, nose, 0.14, 0.07, ink())]


def _sweeping(cycles: Array, ink: Ink) -> list[Solid]:
    frames, dust = len(cycles), ink()
    x = 0.75 * np.sin(TAU * cycles)
    foot, top = spot(frames, x, 0.25, 0), spot(frames, 0.25 * x, 1.75, -0.25)
    swept: list[Solid] = []
    for place in np.linspace(-1.1, 1.1, 6):
        push, hop = 0.2 * np.tanh(3 * (x - place)), 0.12 * np.exp(-((x - place) ** 2) / 0.05)
        swept.append(ball(spot(frames, place + push, 0.06 + hop, 0.25), 0.06, dust))
    return [
        *swept,
        rod(foot, top, 0.045, ink()),
        Cone(foot, spot(frames, 1.12 * x, 0.08, 0.05), 0.10, 0.22, ink(), bands=3.0),
    ]


def _swinging(cycles: Array, ink: Ink) -> list[Solid]:
    frames, frame, ropes = len(cycles), ink(), ink()
    angle = 0.85 * np.sin(TAU * cycles)
    hooks = [spot(frames, x, 2.1, 0) for x in (-0.28, 0.28)]
    seats = [hook + 1.55 * spot(frames, 0, -np.cos(angle), np.sin(angle)) for hook in hooks]
    left, right = spot(frames, -0.75, 2.1, 0), spot(frames, 0.75, 2.1, 0)
    legs = [
        rod(spot(frames, 1.1 * x, 0, z), top, 0.05, frame)
        for x, top in ((-0.75, left), (0.75, right))
        for z in (-0.65, 0.65)
    ]
    return [
        *legs,
        rod(left, right, 0.05, frame),
        *(rod(hook, seat, 0.025, ropes) for hook, seat in zip(hooks, seats)),
        rod(seats[0], seats[1], 0.09, ink()),
    ]


@dataclass(frozen=True)
class Happening:
    """A class of the corpus without people: its name, its motion, and the range of its period in seconds."""

    name: str
    make: Callable[[Array, Ink], list[Solid]]
    period: tuple[float, float]


HAPPENINGS = (
    Happening("blowing bubbles", _blowing_bubbles, (0.9, 1.5)),
    Happening("cycling", _cycling, (1.0, 1.8)),
    Happening("dribbling", _dribbling, (0.6, 1.0)),
    Happening("flying kite", _flying_kite, (1.5, 2.5)),
    Happening("hammering", _hammering, (0.8, 1.4)),
    Happening("juggling", _juggling, (0.9, 1.4)),
    Happening("lifting weights", _lifting_weights, (1.5, 2.4)),
    Happening("opening door", _opening_door, (1.6, 2.6)),
    Happening("punching bag", _punching_bag, (1.0, 1.8)),
    Happening("riding seesaw", _riding_seesaw, (1.3, 2.2)),
    Happening("shooting hoops", _shooting_hoops, (1.2, 2.0)),
    Happening("skipping rope", _skipping_rope, (0.7, 1.2)),
    Happening("surfing", _surfing, (1.2, 2.0)),
    Happening("sweeping", _sweeping, (1.0, 1.8)),
    Happening("swinging", _swinging, (1.4, 2.2)),
)
