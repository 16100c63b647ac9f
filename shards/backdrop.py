"""The demo's surroundings: a floor with a pattern, and a wall or a sky behind it, both plain and of low contrast."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from understudy.shards.render import F32, Camera
from understudy.shards.solids import Array, Colour


@dataclass(frozen=True)
class Surface:
    """A colour that blends into `far` (up the wall, or away over the floor), with a pattern of stripes or tiles.

    `contrast` is the pattern's amplitude in 0..1, `waves` (2,) its wave numbers in radians a metre along the two
    axes of the surface; `tiled` crosses it with a second one.
    """

    colour: Colour
    far: Colour
    contrast: float
    waves: tuple[float, float]
    tiled: bool


@dataclass(frozen=True)
class Backdrop:
    """A floor at y = 0 and a wall `distance` metres behind the origin, square to the camera."""

    floor: Surface
    wall: Surface
    distance: float
    wall_height: float


def paint(backdrop: Backdrop, camera: Camera) -> F32:
    """The empty surroundings as the camera sees them: (3, T, H, W) in 0..1, red, green, blue."""
    right, _, back = camera.axes
    ahead = -np.array([back[0], 0.0, back[2]]) / np.cos(camera.pitch)
    sideways, advance = (np.einsum("ti,i->t", camera.position, way)[:, None] for way in (right, ahead))
    eye, focal = camera.position[:, 1:2], camera.focal[:, None]
    up = (camera.centre[:, 1:] - np.arange(camera.height) - 0.5) / focal
    across = (np.arange(camera.width) + 0.5 - camera.centre[:, :1]) / focal
    down, level = np.sin(camera.pitch), np.cos(camera.pitch)
    # A ray through row `up` climbs `slope` and goes `forth` ahead, for each metre along the optical axis.
    slope, forth = up * level - down, up * down + level
    to_wall = backdrop.distance - advance
    on_floor = (eye * forth + to_wall * slope < 0).astype(np.float64)

    def pick(on_the_floor: Array | float, on_the_wall: Array | float) -> Array:
        return on_the_wall + on_floor * (on_the_floor - on_the_wall)

    def rows(values: Array) -> F32:
        return values.astype(np.float32)[:, :, None]

    floor, wall = backdrop.floor, backdrop.wall
    length = pick(eye / np.maximum(-slope, 1e-4), to_wall / forth)
    ground = length * forth
    # Pattern coordinates: metres to the right, and metres ahead on the floor or up the wall.
    first = across.astype(np.float32)[:, None, :] * rows(length) + rows(sideways)
    second = pick(ground + advance, eye + length * slope)
    kx, ky = rows(pick(floor.waves[0], wall.waves[0])), rows(pick(floor.waves[1], wall.waves[1]))
    tone = np.cos(kx * first + ky * rows(second))
    if floor.tiled or wall.tiled:
        crossed = np.cos(kx * rows(second) - ky * first)
        tone *= 1 + rows(pick(floor.tiled, wall.tiled)) * (crossed - 1)
    # Far rows of the floor hold more than a wave a pixel: fade the pattern out before it turns into moire.
    pixel = ground**2 / (focal * eye)
    fade = np.clip(1.6 - pixel * np.hypot(*floor.waves), 0, 1)
    tone *= rows(pick(floor.contrast * fade, wall.contrast))
    mix = np.clip(pick(ground / to_wall, second / backdrop.wall_height), 0, 1)
    base = [
        pick(near[0] + mix * (near[1] - near[0]), far[0] + mix * (far[1] - far[0]))
        for near, far in zip(zip(floor.colour, floor.far), zip(wall.colour, wall.far))
    ]
    return np.stack(base).astype(np.float32)[..., None] + tone
