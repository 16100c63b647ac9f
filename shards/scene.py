"""The demo's scenes: who or what moves, where, in which light, seen by which camera, all drawn from one generator.

Nothing but the motion and the things that go with it depends on the class; colours, place, size, view and
surroundings come from the same ranges for every class of a corpus.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.shards.actions import TAU, Action
from understudy.shards.backdrop import Backdrop, Surface, paint
from understudy.shards.figure import Clothes, Pose, flesh, random_body, solve
from understudy.shards.happenings import Happening
from understudy.shards.render import F32, Camera, Light, composite, shadow_of
from understudy.shards.solids import Array, Colour, Cone, Ink, Plate, Solid, ball, box, rod, spot
from understudy.shards.things import PROPS

Rng = np.random.Generator
FPS = 8
HEIGHT, WIDTH = 96, 128
SHADE = np.float32(0.45)  # how much light a shadow takes away


@dataclass(frozen=True)
class Look:
    """How a corpus looks. Pairs are ranges to draw from, chances are in 0..1, amplitudes in 0..1 of full scale."""

    bulk: tuple[float, float]
    """Thickness of bodies."""
    vivid: tuple[float, float]
    """Saturation of clothes and things."""
    skins: tuple[Colour, ...]
    bands: float
    """Chance of a banded shirt."""
    pattern: tuple[float, float]
    """Contrast of floors and walls."""
    direct: tuple[float, float]
    """Strength of the direct light; the rest is ambient."""
    cast: float
    """Amplitude of a tint over the picture."""
    vignette: float
    """How much darker the corners are."""
    grain: float
    """Amplitude of noise in every pixel."""
    shake: float
    """Amplitude in pixels of a hand-held camera's jitter."""


CLEAN = Look(
    bulk=(1.15, 1.4),
    vivid=(0.35, 0.85),
    skins=((0.95, 0.78, 0.62), (0.80, 0.60, 0.45), (0.62, 0.44, 0.32), (0.92, 0.92, 0.95), (0.98, 0.85, 0.35)),
    bands=0.0,
    pattern=(0.0, 0.025),
    direct=(0.35, 0.55),
    cast=0.0,
    vignette=0.0,
    grain=0.0,
    shake=0.0,
)
FOOTAGE = Look(
    bulk=(0.95, 1.25),
    vivid=(0.25, 0.65),
    skins=((0.93, 0.75, 0.64), (0.82, 0.62, 0.48), (0.66, 0.46, 0.34), (0.56, 0.39, 0.29)),
    bands=0.5,
    pattern=(0.01, 0.05),
    direct=(0.2, 0.45),
    cast=0.06,
    vignette=0.25,
    grain=0.025,
    shake=0.6,
)


@dataclass(frozen=True)
class Finish:
    """What the camera does to the picture: gains for red, green and blue, darker corners, grain, a mirror."""

    gains: Colour
    vignette: float
    grain: float
    grain_seed: int
    mirror: bool


@dataclass(frozen=True)
class Scene:
    """Everything that `film` draws. `things` stay when the person goes; `person` is empty where there is none."""

    camera: Camera
    backdrop: Backdrop
    light: Light
    things: tuple[Solid, ...]
    person: tuple[Cone, ...]
    finish: Finish


def film(scene: Scene, with_person: bool = True) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Frames (T, H, W, 3) uint8 RGB, and (T, H, W) bool: what the person changes, the shadow included."""
    camera = scene.camera
    canvas = paint(scene.backdrop, camera)
    shape = canvas.shape[1:]
    cones = [thing for thing in scene.things if isinstance(thing, Cone)]
    plates = [thing for thing in scene.things if isinstance(thing, Plate)]
    bright = 1 - SHADE * shadow_of(cones, camera, scene.light.direction)
    touched = np.zeros(len(bright), dtype=np.bool_)
    if with_person and scene.person:
        shadow = shadow_of(scene.person, camera, scene.light.direction)
        bright *= 1 - SHADE * shadow
        touched |= shadow > 0
        cones += scene.person
    canvas *= bright.reshape(shape)
    touched |= composite(canvas, cones, plates, camera, scene.light) > 0
    touched = touched.reshape(shape)
    frames = _finished(canvas, scene.finish)
    if scene.finish.mirror:
        frames, touched = frames[:, :, ::-1], touched[:, :, ::-1]
    return np.ascontiguousarray(frames), np.ascontiguousarray(touched)


def _finished(canvas: F32, finish: Finish) -> NDArray[np.uint8]:
    """What the camera makes of `canvas` (3, T, H, W): frames (T, H, W, 3) uint8. Overwrites the canvas."""
    _, frames, height, width = canvas.shape
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    gain = 255 * (1 - finish.vignette * (x * x + y * y) / 2) * np.array(finish.gains)[:, None, None]
    canvas *= gain.astype(np.float32)[:, None]
    noise = np.float32(0.5)
    if finish.grain:
        rng = np.random.Generator(np.random.Philox(finish.grain_seed))
        grains = rng.integers(0, 256, size=(frames, height, width), dtype=np.uint8).astype(np.float32)
        noise = noise + (grains - np.float32(127.5)) * np.float32(2 * finish.grain)
    canvas += noise
    np.clip(canvas, 0, 255, out=canvas)
    return np.moveaxis(canvas.astype(np.uint8), 0, -1)


def human_scene(rng: Rng, action: Action, look: Look) -> Scene:
    """A person who does `action`, with the things that belong to it."""
    frames = int(rng.integers(20, 29))
    backdrop = _random_backdrop(rng, look)
    ink = _ink(rng, look, backdrop)
    clothes = Clothes(
        skin=look.skins[rng.integers(len(look.skins))],
        hair=_hsv(rng, (0.0, 0.12), (0.1, 0.7), (0.1, 0.6)),
        shirt=ink(),
        trousers=ink(),
        shoes=ink(),
        long_sleeves=bool(rng.random() < 0.5),
        long_trousers=bool(rng.random() < 0.6),
        bands=float(rng.integers(2, 5)) if rng.random() < look.bands else 0.0,
    )
    body = random_body(rng, clothes, look.bulk)
    cycles = _cycles(rng, frames, action.period)
    pose = Pose(frames)
    action.move(pose, cycles, body)
    _loosen(rng, pose)
    pose.root -= pose.root[0]
    joints = solve(pose, body)
    person = flesh(joints, body)
    belongings = PROPS[action.name](joints, body, cycles, ink) if action.name in PROPS else []
    camera = _random_camera(rng, look, _outline(person), pose.root, (20, 65))
    things = [*belongings, *_bystanders(rng, look, camera, backdrop)]
    return Scene(camera, backdrop, _random_light(rng, look), tuple(things), tuple(person), _random_finish(rng, look))


def empty_scene(rng: Rng, happening: Happening, look: Look) -> Scene:
    """What goes on in a scene whose person was removed."""
    frames = int(rng.integers(20, 29))
    backdrop = _random_backdrop(rng, look)
    ink = _ink(rng, look, backdrop)
    main = happening.make(_cycles(rng, frames, happening.period), ink)
    camera = _random_camera(rng, look, _outline(main), np.zeros((frames, 3)), (5, 50))
    things = [*main, *_bystanders(rng, look, camera, backdrop)]
    return Scene(camera, backdrop, _random_light(rng, look), tuple(things), (), _random_finish(rng, look))


def _outline(solids: Sequence[Solid]) -> Array:
    """Points (T, N, 3) that, all in the picture, put the solids in it."""
    points: list[Array] = []
    for solid in solids:
        if isinstance(solid, Plate):
            points += list(np.moveaxis(solid.corners, 1, 0))
        else:
            for end, radius in ((solid.a, solid.ra), (solid.b, solid.rb)):
                points += [end + radius * np.array(way) for way in ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0))]
    return np.stack(points, axis=1)


def _cycles(rng: Rng, frames: int, period: tuple[float, float]) -> Array:
    return rng.random() + np.arange(frames) / FPS / rng.uniform(*period)


def _loosen(rng: Rng, pose: Pose) -> None:
    """Nobody moves exactly like anybody else: constant offsets, and a slow sway."""
    sway = np.sin(TAU * (rng.random() + np.linspace(0, rng.uniform(0.3, 1.0), len(pose.lean))))
    pose.lean += rng.normal(0, 0.04) + 0.03 * sway
    pose.tilt += rng.normal(0, 0.03)
    pose.turn += rng.normal(0, 0.10) + 0.05 * sway
    pose.nod += rng.normal(0, 0.08) + 0.05 * sway
    pose.hand += rng.normal(0, 0.03, size=(2, 1, 3))


def _hsv(rng: Rng, hue: tuple[float, float], vivid: tuple[float, float], value: tuple[float, float]) -> Colour:
    return colorsys.hsv_to_rgb(rng.uniform(*hue) % 1.0, rng.uniform(*vivid), rng.uniform(*value))


def _random_backdrop(rng: Rng, look: Look) -> Backdrop:
    def surface(value: tuple[float, float], waves: float) -> Surface:
        hue = rng.random()
        colour, far = (_hsv(rng, (hue, hue + 0.08), (0.05, 0.35), value) for _ in range(2))
        direction = rng.uniform(0, np.pi)
        count = waves * rng.uniform(0.6, 1.6)
        return Surface(
            colour,
            far,
            float(rng.uniform(*look.pattern)),
            (float(count * np.cos(direction)), float(count * np.sin(direction))),
            bool(rng.random() < 0.4),
        )

    value = rng.uniform(0.15, 0.45)
    band = (value - 0.06, value + 0.06)
    return Backdrop(surface(band, 7.0), surface(band, 3.0), rng.uniform(2.0, 6.0), rng.uniform(2.5, 4.0))


def _ink(rng: Rng, look: Look, backdrop: Backdrop) -> Ink:
    """Bright colours that stand out from the backdrop and from each other."""
    taken = [backdrop.floor.colour, backdrop.floor.far, backdrop.wall.colour, backdrop.wall.far]

    def apart(rgb: Colour) -> float:
        return float(np.abs(np.array(taken) - np.array(rgb)).sum(axis=1).min())

    def colour() -> Colour:
        taken.append(max((_hsv(rng, (0, 1), look.vivid, (0.8, 1.0)) for _ in range(8)), key=apart))
        return taken[-1]

    return colour


def _random_light(rng: Rng, look: Look) -> Light:
    around, height = rng.uniform(0, TAU), rng.uniform(0.7, 1.2)
    direction = np.array([np.cos(around) * np.cos(height), np.sin(height), np.sin(around) * np.cos(height)])
    direct = float(rng.uniform(*look.direct))
    return Light(direction, 1.08 - direct, direct * 1.1)


def _random_finish(rng: Rng, look: Look) -> Finish:
    red, green, blue = 1 + look.cast * rng.uniform(-1, 1, size=3)
    return Finish(
        (float(red), float(green), float(blue)),
        float(look.vignette * rng.random()),
        float(look.grain * rng.uniform(0.4, 1.0)),
        int(rng.integers(2**32)),
        bool(rng.random() < 0.5),
    )


def _random_camera(rng: Rng, look: Look, subject: Array, path: Array, yaws: tuple[float, float]) -> Camera:
    """A camera that follows `path` (T, 3) and holds `subject` (T, N, 3) in the frame, at a size and place of its own.

    `yaws` is the range of its yaw in degrees; that it is positive leaves the other half to the mirror.
    """
    frames = len(path)
    yaw = float(np.radians(rng.uniform(*yaws)))
    pitch = float(np.radians(rng.uniform(4, 18)))
    middle = (subject.reshape(-1, 3).min(axis=0) + subject.reshape(-1, 3).max(axis=0)) / 2
    follow = path - path.mean(axis=0)
    follow = follow * rng.uniform(0.85, 1.0)
    aim = Camera(np.zeros((frames, 3)), yaw, pitch, np.ones(frames), np.zeros((frames, 2)), HEIGHT, WIDTH)
    position = middle + follow + aim.axes[2] * rng.uniform(4.0, 7.0)
    position[:, 1] = np.maximum(position[:, 1], 0.25)
    x, y, _ = Camera(position, yaw, pitch, aim.focal, aim.centre, HEIGHT, WIDTH).project(subject)
    width, height = x.max() - x.min(), y.max() - y.min()
    size = rng.uniform(0.8, 0.97)
    focal = size * min(HEIGHT / height, WIDTH / width)
    # A place of its own, but inside the square in the middle, which is what most crops keep.
    slack = np.maximum(min(HEIGHT, WIDTH) - focal * np.array([width, height]), 0)
    offset = slack * rng.uniform(-0.5, 0.5, size=2)
    moment = np.linspace(0, 1, frames)
    drift = rng.uniform(-3, 3, size=2) * (moment[:, None] - 0.5)
    drift += look.shake * rng.normal(0, 1, size=(frames, 2)) * 0.5
    centre = np.array([WIDTH, HEIGHT]) / 2 + offset - focal * np.array([x.max() + x.min(), y.max() + y.min()]) / 2
    zoom = 1 + rng.uniform(-0.04, 0.04) * (moment - 0.5)
    return Camera(position, yaw, pitch, focal * zoom, centre + drift, HEIGHT, WIDTH)


def _bystanders(rng: Rng, look: Look, camera: Camera, backdrop: Backdrop) -> list[Solid]:
    """Things that have nothing to do with what goes on: some stand about, some drift or bob past behind it."""
    frames = len(camera.focal)
    right, _, back = camera.axes
    ahead = -np.array([back[0], 0, back[2]]) / np.cos(camera.pitch)
    moment = np.arange(frames) / FPS

    def ink() -> Colour:
        red, green, blue = _hsv(rng, (0, 1), look.vivid, (0.6, 1.0))
        wall = backdrop.wall.colour
        return 0.7 * wall[0] + 0.3 * red, 0.7 * wall[1] + 0.3 * green, 0.7 * wall[2] + 0.3 * blue

    solids: list[Solid] = []
    for _ in range(rng.integers(0, 3)):
        place = right * rng.uniform(-2.2, 2.2) + ahead * rng.uniform(1.0, 1.8)
        height = rng.uniform(0.3, 1.3)
        centre = spot(frames, place[0], height / 2, place[2])
        if rng.random() < 0.5:
            solids += box(centre, (rng.uniform(0.3, 0.7), height, rng.uniform(0.3, 0.7)), ink())
        else:
            solids.append(
                rod(spot(frames, place[0], 0, place[2]), spot(frames, place[0], height, place[2]), 0.06, ink())
            )
    for _ in range(rng.integers(0, 2)):
        start = right * rng.uniform(-2.5, 2.5) + ahead * rng.uniform(1.0, 1.8)
        speed = right * rng.uniform(-0.8, 0.8)
        path = start + speed * moment[:, None]
        path[:, 1] = rng.uniform(0.3, 2.2) + rng.uniform(0, 0.25) * np.sin(
            TAU * (rng.random() + moment / rng.uniform(1, 3))
        )
        solids.append(ball(path, rng.uniform(0.06, 0.16), ink()))
    return solids
