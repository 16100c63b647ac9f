"""The demo's virtual person: random bodies, poses, and the kinematics from a pose to 3-D body parts.

A body faces +z, its left side is +x, up is +y and the ground is y = 0. What a person does lives in `actions.py`,
what it looks like on screen in `render.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from understudy.shards.solids import Array, Colour, Cone

PARTS = (
    "head", "neck", "chest", "pelvis",
    "left upper arm", "right upper arm", "left forearm", "right forearm", "left hand", "right hand",
    "left thigh", "right thigh", "left shin", "right shin", "left foot", "right foot",
)  # fmt: skip
LEFT, RIGHT = 0, 1


@dataclass(frozen=True)
class Clothes:
    """Colours (RGB in 0..1) and the cut: long sleeves or short, long trousers or short, bands on the shirt."""

    skin: Colour
    hair: Colour
    shirt: Colour
    trousers: Colour
    shoes: Colour
    long_sleeves: bool
    long_trousers: bool
    bands: float


@dataclass(frozen=True)
class Body:
    """Lengths in metres between joints, and a thickness factor for the radii."""

    thigh: float
    shin: float
    ankle: float
    upper_arm: float
    forearm: float
    waist: float
    chest: float
    neck: float
    head: float
    shoulders: float
    hips: float
    bulk: float
    clothes: Clothes

    @property
    def leg(self) -> float:
        """Hip joint to ankle of the straight leg: the unit of `Pose.hip` and `Pose.foot`."""
        return self.thigh + self.shin

    @property
    def arm(self) -> float:
        """Shoulder to wrist of the straight arm: the unit of `Pose.hand`."""
        return self.upper_arm + self.forearm

    @property
    def torso(self) -> float:
        """Centre of the pelvis to the line of the shoulders."""
        return self.waist + self.chest


def random_body(rng: np.random.Generator, clothes: Clothes, bulk: tuple[float, float]) -> Body:
    """A body 1.5 to 1.95 m tall, with limbs, shoulders and thickness varied on their own."""
    size = rng.uniform(0.86, 1.10)

    def length(metres: float, spread: float = 0.08) -> float:
        return float(metres * size * rng.uniform(1 - spread, 1 + spread))

    return Body(
        thigh=length(0.43),
        shin=length(0.42),
        ankle=length(0.08),
        upper_arm=length(0.30),
        forearm=length(0.27),
        waist=length(0.16),
        chest=length(0.34),
        neck=length(0.10),
        head=length(0.125),
        shoulders=length(0.19, 0.12),
        hips=length(0.10, 0.12),
        bulk=float(size * rng.uniform(*bulk)),
        clothes=clothes,
    )


class Pose:
    """What a body does over T frames; an action fills it in, and it starts as standing at ease.

    Vectors are (outwards, up, forwards) for limbs, where outwards is away from the body's middle, and (left, up,
    forwards) for `hip`. Angles in radians.

    hip     (T, 3)    centre of the pelvis over the standing spot, in leg lengths
    lean, tilt, turn  (T,) of the pelvis: forwards, to the left, about the vertical
    curl, twist       (T,) of the chest on top of the pelvis: forwards, about the spine
    nod     (T,)      of the head on top of the chest, forwards
    hand    (2, T, 3) wrist from its shoulder, in arm lengths, upright but turned with the chest
    foot    (2, T, 3) sole from the standing spot, in leg lengths, turned with the pelvis
    elbow, knee       (2, T, 3) the way in which the joint points
    toe     (2, T)    pitch of the foot, positive with the toes down
    root    (T, 3)    path of the standing spot through the world, in metres
    """

    def __init__(self, frames: int) -> None:
        self.hip = np.tile([0.0, 0.97, 0.0], (frames, 1))
        self.lean, self.tilt, self.turn, self.curl, self.twist, self.nod = np.zeros((6, frames))
        self.hand = np.tile([0.16, -0.96, 0.08], (2, frames, 1))
        self.foot = np.tile([0.14, 0.0, 0.0], (2, frames, 1))
        self.elbow = np.tile([0.35, -0.3, -1.0], (2, frames, 1))
        self.knee = np.tile([0.2, 0.0, 1.0], (2, frames, 1))
        self.toe = np.zeros((2, frames))
        self.root = np.zeros((frames, 3))


@dataclass(frozen=True)
class Joints:
    """Where the joints are, in metres: (T, 3) each, and (2, T, 3), left then right, for the pairs."""

    pelvis: Array
    waist: Array
    neck: Array
    head: Array
    shoulder: Array
    elbow: Array
    wrist: Array
    fingers: Array
    hip: Array
    knee: Array
    ankle: Array
    toes: Array
    face: Array
    """(T, 3), the unit vector in which the face looks."""


def _turned(angle: Array, axis: int) -> Array:
    """(T, 3, 3) rotations by `angle` (T,) about axis 0 (forwards lean), 1 (turn to the left) or 2 (tilt)."""
    cos, sin = np.cos(angle), np.sin(angle)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    rotation = np.zeros((len(angle), 3, 3))
    rotation[:, axis, axis] = 1.0
    rotation[:, i, i] = rotation[:, j, j] = cos
    rotation[:, i, j], rotation[:, j, i] = -sin, sin
    return rotation


def _then(*rotations: Array) -> Array:
    """The product of rotations (T, 3, 3), the last applied first."""
    product = rotations[0]
    for rotation in rotations[1:]:
        # Sums as einsum writes them, here and elsewhere: a BLAS may add in another order on another machine.
        product = np.einsum("tij,tjk->tik", product, rotation)
    return product


def _apply(rotation: Array, vector: ArrayLike) -> Array:
    """(T, 3, 3) rotations applied to vectors (..., T, 3) or one vector (3,)."""
    return np.einsum("tij,...tj->...ti", rotation, np.broadcast_to(vector, (*np.shape(vector)[:-2], len(rotation), 3)))


def _reach(start: Array, target: Array, pole: Array, first: float, second: float) -> tuple[Array, Array]:
    """Two-bone inverse kinematics: where the middle joint and the end are. Out of reach, the limb is straight.

    `start`, `target`, `pole` (..., T, 3); bone lengths in metres. The middle joint bends towards `pole`.
    """
    along = target - start
    distance = np.sqrt(np.einsum("...i,...i->...", along, along))[..., None] + 1e-9
    along = along / distance
    distance = np.clip(distance, abs(first - second) * 1.05 + 1e-3, (first + second) * 0.999)
    sideways = pole - np.einsum("...i,...i->...", pole, along)[..., None] * along
    sideways /= np.sqrt(np.einsum("...i,...i->...", sideways, sideways))[..., None] + 1e-9
    foot = (distance**2 + first**2 - second**2) / (2 * distance)
    height = np.sqrt(np.maximum(first**2 - foot**2, 0.0))
    return start + along * foot + sideways * height, start + along * distance


def solve(pose: Pose, body: Body) -> Joints:
    """Forward kinematics for the trunk, inverse kinematics for the limbs."""
    out = np.array([[1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]])[:, None, :]  # outwards is +x on the left, -x on the right
    heading = _turned(pose.turn, 1)
    hips = _then(heading, _turned(pose.lean, 0), _turned(-pose.tilt, 2))
    chest = _then(hips, _turned(pose.twist, 1), _turned(pose.curl, 0))
    skull = _then(chest, _turned(pose.nod, 0))
    arms = _turned(pose.turn + pose.twist, 1)

    def sides(rotation: Array, offset: ArrayLike) -> Array:
        return _apply(rotation, np.broadcast_to(offset, (2, len(pose.turn), 3)) * out)

    pelvis = pose.root + _apply(heading, pose.hip * body.leg) + np.array([0.0, body.ankle, 0.0])
    waist = pelvis + _apply(hips, np.array([0.0, body.waist, 0.0]))
    neck = waist + _apply(chest, np.array([0.0, body.chest, 0.0]))
    head = neck + _apply(skull, np.array([0.0, body.neck + body.head * 0.8, body.head * 0.15]))
    shoulder = neck + sides(chest, [body.shoulders, -0.02, 0.0])
    elbow, wrist = _reach(
        shoulder,
        shoulder + sides(arms, pose.hand * body.arm),
        sides(arms, pose.elbow),
        body.upper_arm,
        body.forearm,
    )
    hip = pelvis + sides(hips, [body.hips, -0.02, 0.0])
    sole = pose.root + sides(heading, pose.foot * body.leg)
    knee, ankle = _reach(hip, sole + np.array([0.0, body.ankle, 0.0]), sides(heading, pose.knee), body.thigh, body.shin)
    pointing = np.stack([np.zeros_like(pose.toe) + 0.15, -np.sin(pose.toe), np.cos(pose.toe)], axis=-1)
    toes = ankle + sides(heading, pointing * 0.19 * body.bulk) - np.array([0.0, 0.6, 0.0]) * body.ankle
    forearm = wrist - elbow
    forearm /= np.sqrt(np.einsum("sti,sti->st", forearm, forearm))[..., None]
    fingers = wrist + forearm * 0.09 * body.bulk
    face = _apply(skull, np.array([0.0, 0.0, 1.0]))
    return Joints(pelvis, waist, neck, head, shoulder, elbow, wrist, fingers, hip, knee, ankle, toes, face)


def flesh(joints: Joints, body: Body) -> list[Cone]:
    """The body's parts as cones, every one of PARTS at least once."""
    clothes, bulk = body.clothes, body.bulk
    cones: list[Cone] = []

    def add(part: str, a: Array, b: Array, ra: float, rb: float, colour: Colour, bands: float = 0.0) -> None:
        cones.append(Cone(a, b, ra * bulk, rb * bulk, colour, PARTS.index(part), bands))

    up = joints.head - joints.neck
    up = up / np.sqrt(np.einsum("ti,ti->t", up, up))[:, None]
    skull = body.head / bulk
    add("neck", joints.neck, joints.head, 0.06, 0.06, clothes.skin)
    add("head", joints.head - up * 0.03, joints.head + up * 0.03, skull * 0.85, skull, clothes.skin)
    crown = joints.head + up * 0.055 - joints.face * 0.05
    add("head", crown, crown - joints.face * 0.03, skull * 0.95, skull * 0.85, clothes.hair)
    nose = joints.head + joints.face * body.head * 0.95
    add("head", nose, nose - up * 0.02, 0.022, 0.028, clothes.skin)
    for left in (LEFT, RIGHT):
        yoke = joints.shoulder[left] * 0.72 + joints.neck * 0.28 - up * 0.05
        add("chest", yoke, joints.waist * 0.65 + joints.hip[left] * 0.35, 0.115, 0.10, clothes.shirt, clothes.bands)
    add("chest", joints.neck - up * 0.08, joints.waist, 0.125, 0.115, clothes.shirt, clothes.bands)
    add("pelvis", joints.hip[LEFT], joints.hip[RIGHT], 0.115, 0.115, clothes.trousers)
    for index, side in enumerate(("left", "right")):
        sleeve = clothes.shirt if clothes.long_sleeves else clothes.skin
        leg = clothes.trousers if clothes.long_trousers else clothes.skin
        add(f"{side} upper arm", joints.shoulder[index], joints.elbow[index], 0.075, 0.06, clothes.shirt)
        add(f"{side} forearm", joints.elbow[index], joints.wrist[index], 0.058, 0.045, sleeve)
        add(f"{side} hand", joints.wrist[index], joints.fingers[index], 0.055, 0.05, clothes.skin)
        add(f"{side} thigh", joints.hip[index], joints.knee[index], 0.105, 0.08, clothes.trousers)
        add(f"{side} shin", joints.knee[index], joints.ankle[index], 0.078, 0.055, leg)
        add(f"{side} foot", joints.ankle[index], joints.toes[index], 0.065, 0.05, clothes.shoes)
    return cones
