"""A small numpy rasteriser: a perspective camera, and round cones and flat plates drawn with soft edges.

All frames of a clip are drawn at once: every solid becomes a list of fragments (pixels with colour and coverage), and
the fragments are laid over the background from far to near. What is in a scene is the business of `scene.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.shards.solids import Array, Cone, Plate

F32 = NDArray[np.float32]
_FAINTEST = np.float32(1 / 64)  # coverage below this is not drawn
_BAND = np.float32(0.35)  # how much darker the bands on cloth are


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that keeps its direction and may move. Angles in radians, pixels from the top left.

    `position` (T, 3) in metres; `yaw` turns it around the scene (0 faces what faces +z), `pitch` looks down;
    `focal` (T,) in pixels; `centre` (T, 2), the pixel x, y on the optical axis.
    """

    position: Array
    yaw: float
    pitch: float
    focal: Array
    centre: Array
    height: int
    width: int

    @property
    def axes(self) -> Array:
        """(3, 3): the world directions of the screen's right, the screen's up, and towards the viewer."""
        sin, cos = np.sin(self.yaw), np.cos(self.yaw)
        down, level = np.sin(self.pitch), np.cos(self.pitch)
        return np.array([[cos, 0.0, -sin], [-sin * down, level, -cos * down], [sin * level, down, cos * level]])

    def project(self, points: Array) -> tuple[Array, Array, Array]:
        """Pixel x, pixel y and depth in metres, each (T, ...), of `points` (T, ..., 3)."""
        spread = (slice(None), *(None,) * (points.ndim - 2))
        relative = points - self.position[spread]
        right, up, back = np.einsum("...i,ki->k...", relative, self.axes)
        depth = np.maximum(-back, 0.05)
        scale = self.focal[spread] / depth
        return self.centre[:, 0][spread] + right * scale, self.centre[:, 1][spread] - up * scale, -back


@dataclass(frozen=True)
class Light:
    """`direction` (3,), the unit vector in the world towards the light; `ambient` and `direct` strengths."""

    direction: Array
    ambient: float
    direct: float


@dataclass(frozen=True)
class _Fragments:
    """The covered pixels of some solids, n of each: the pixel (flat over T, H, W), its frame, which of the solids
    covers it, how much of it (0..1), and how brightly it is lit.
    """

    pixel: NDArray[np.int64]
    frame: NDArray[np.int64]
    item: NDArray[np.int64]
    alpha: F32
    shade: F32


def _spread(
    low_x: Array, high_x: Array, low_y: Array, high_y: Array, camera: Camera, visible: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], F32, F32]:
    """All pixels of the bounding boxes (T, N): solid (flat over T, N), flat pixel over (T, H, W), x and y."""
    x0 = np.clip(np.floor(low_x), 0, camera.width).astype(np.int64)
    x1 = np.clip(np.ceil(high_x), 0, camera.width).astype(np.int64)
    y0 = np.clip(np.floor(low_y), 0, camera.height).astype(np.int64)
    y1 = np.clip(np.ceil(high_y), 0, camera.height).astype(np.int64)
    rows = np.where(visible, np.maximum(y1 - y0, 0), 0).ravel()
    columns = np.maximum(x1 - x0, 0).ravel()
    # First one entry for every row of every box, then one for every pixel of every row.
    row_solid = np.repeat(np.arange(len(rows)), rows)
    row_y = np.arange(len(row_solid)) - np.repeat(np.cumsum(rows) - rows, rows) + y0.ravel()[row_solid]
    row_length = columns[row_solid]
    row_frame = row_solid // low_x.shape[1]
    row_start = (row_frame * camera.height + row_y) * camera.width + x0.ravel()[row_solid]
    x_shift = np.repeat(x0.ravel()[row_solid] - (np.cumsum(row_length) - row_length), row_length)
    x = np.arange(len(x_shift)) + x_shift
    pixel = x + np.repeat(row_start - x0.ravel()[row_solid], row_length)
    solid = np.repeat(row_solid, row_length)
    return (
        solid,
        pixel,
        x.astype(np.float32) + np.float32(0.5),
        np.repeat(row_y, row_length).astype(np.float32) + np.float32(0.5),
    )


def _column(values: Array, solid: NDArray[np.int64]) -> F32:
    return values.astype(np.float32).ravel()[solid]


def _cone_fragments(cones: Sequence[Cone], camera: Camera, light: Light | None) -> tuple[_Fragments, Array]:
    """Fragments of the cones, and the depth (T, N) to sort them by. Without a light they are not shaded."""
    ax, ay, az = camera.project(np.stack([cone.a for cone in cones], axis=1))
    bx, by, bz = camera.project(np.stack([cone.b for cone in cones], axis=1))
    visible = (az > 0.3) & (bz > 0.3)
    scale = camera.focal[:, None]
    ra = np.array([cone.ra for cone in cones]) * scale / np.maximum(az, 0.3)
    rb = np.array([cone.rb for cone in cones]) * scale / np.maximum(bz, 0.3)
    reach = np.maximum(ra, rb) + 0.5
    solid, pixel, x, y = _spread(
        np.minimum(ax, bx) - reach, np.maximum(ax, bx) + reach, np.minimum(ay, by) - reach, np.maximum(ay, by) + reach,
        camera, visible,
    )  # fmt: skip
    dx, dy = bx - ax, by - ay
    length2 = dx * dx + dy * dy + 1e-6
    x -= _column(ax, solid)
    y -= _column(ay, solid)
    along = x * _column(dx / length2, solid)
    along += y * _column(dy / length2, solid)
    np.clip(along, 0, 1, out=along)
    x -= along * _column(dx, solid)
    y -= along * _column(dy, solid)
    radius = along * _column(rb - ra, solid)
    radius += _column(ra, solid)
    alpha = radius + np.float32(0.5)
    alpha -= np.sqrt(x * x + y * y)
    np.clip(alpha, 0, 1, out=alpha)
    kept = np.flatnonzero(alpha > _FAINTEST)
    frame, item = np.divmod(solid[kept], len(cones))
    shade = np.ones(len(kept), dtype=np.float32)
    if light is not None:
        inverse = 1 / np.maximum(radius[kept], 0.5)
        nx, ny = x[kept] * inverse, -y[kept] * inverse
        nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0))
        to_x, to_y, to_z = (np.float32(value) for value in np.einsum("ki,i->k", camera.axes, light.direction))
        shade *= light.ambient + light.direct * np.maximum(nx * to_x + ny * to_y + nz * to_z, 0)
        banded = np.array([cone.bands for cone in cones], dtype=np.float32)[item]
        shade *= 1 - _BAND * (np.sin(np.float32(2 * np.pi) * banded * along[kept]) > 0.2)
    return _Fragments(pixel[kept], frame, item, alpha[kept], shade), (az + bz) / 2


def _plate_fragments(plates: Sequence[Plate], camera: Camera) -> tuple[_Fragments, Array]:
    """Fragments of the plates, and the depth (T, N) to sort them by."""
    x4, y4, z4 = camera.project(np.stack([plate.corners for plate in plates], axis=1))
    visible = z4.min(axis=2) > 0.3
    solid, pixel, x, y = _spread(x4.min(2) - 0.5, x4.max(2) + 0.5, y4.min(2) - 0.5, y4.max(2) + 0.5, camera, visible)
    ex, ey = np.roll(x4, -1, axis=2) - x4, np.roll(y4, -1, axis=2) - y4
    turn = np.sign(np.sum(x4 * np.roll(y4, -1, axis=2) - np.roll(x4, -1, axis=2) * y4, axis=2))
    length = np.sqrt(ex * ex + ey * ey) + 1e-6
    nx, ny = ey / length * turn[..., None], -ex / length * turn[..., None]
    outside = np.full(len(solid), -1e9, dtype=np.float32)
    for corner in range(4):
        distance = nx[..., corner] * x4[..., corner] + ny[..., corner] * y4[..., corner]
        np.maximum(
            outside,
            x * _column(nx[..., corner], solid) + y * _column(ny[..., corner], solid) - _column(distance, solid),
            out=outside,
        )
    alpha = np.clip(np.float32(0.5) - outside, 0, 1)
    kept = np.flatnonzero(alpha > _FAINTEST)
    frame, item = np.divmod(solid[kept], len(plates))
    depth = z4.mean(axis=2) + np.array([plate.behind for plate in plates])
    return _Fragments(pixel[kept], frame, item, alpha[kept], np.ones(len(kept), dtype=np.float32)), depth


def shadow_of(cones: Sequence[Cone], camera: Camera, towards_light: Array) -> F32:
    """Coverage (T * H * W,) in 0..1 of the shadows that `cones` throw on the ground y = 0.

    `towards_light` (3,) is a world direction with a positive y.
    """

    def fall(points: Array) -> Array:
        return points - towards_light * (points[:, 1:2] / towards_light[1])

    shadow = np.zeros(len(camera.focal) * camera.height * camera.width, dtype=np.float32)
    if not cones:
        return shadow
    flat = [Cone(fall(cone.a), fall(cone.b), 0.7 * cone.ra, 0.7 * cone.rb, cone.colour) for cone in cones]
    fragments, _ = _cone_fragments(flat, camera, None)
    # Shadows do not add up: the darkest counts. Each cone's pixels are unique, so one cone at a time is exact.
    order, runs = _sorted_runs(fragments.item)
    pixel, alpha = fragments.pixel[order], fragments.alpha[order]
    for run in runs:
        where = pixel[run]
        shadow[where] = np.maximum(shadow[where], alpha[run])
    return shadow


def _sorted_runs(key: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[slice]]:
    """A stable order that sorts small integers, and the slices of it in which they are equal."""
    order = np.argsort(key.astype(np.uint16), kind="stable")
    ends = np.cumsum(np.bincount(key))
    return order, [slice(start, end) for start, end in zip((0, *ends), ends)]


def composite(canvas: F32, cones: Sequence[Cone], plates: Sequence[Plate], camera: Camera, light: Light) -> F32:
    """Draw the solids over `canvas` (3, T, H, W), in place. Returns the people's coverage (T * H * W,) in 0..1."""
    planes = list(canvas.reshape(3, -1))
    person = np.zeros_like(planes[0])
    pieces: list[tuple[_Fragments, Array]] = []
    if cones:
        pieces.append(_cone_fragments(cones, camera, light))
    if plates:
        pieces.append(_plate_fragments(plates, camera))
    if not pieces:
        return person
    # The rank of each solid in its frame, far to near: a frame's solids of one rank never share a pixel.
    depth = np.concatenate([depth for _, depth in pieces], axis=1)
    ranks = np.argsort(np.argsort(-depth, axis=1, kind="stable"), axis=1, kind="stable")
    first = (0, len(cones)) if cones else (0,)
    item = np.concatenate([fragments.item + start for (fragments, _), start in zip(pieces, first)])
    frame = np.concatenate([fragments.frame for fragments, _ in pieces])
    order, runs = _sorted_runs(ranks[frame, item])
    item = item[order]
    pixel = np.concatenate([fragments.pixel for fragments, _ in pieces])[order]
    alpha = np.concatenate([fragments.alpha for fragments, _ in pieces])[order]
    light_on = np.concatenate([fragments.shade for fragments, _ in pieces])[order] * alpha
    solids = (*cones, *plates)
    colours = np.array([solid.colour for solid in solids], dtype=np.float32)
    people = np.array([isinstance(solid, Cone) and solid.part >= 0 for solid in solids], dtype=np.float32)
    through = 1 - alpha
    layers = [(plane, colours[item, channel] * light_on) for channel, plane in enumerate(planes)]
    for plane, laid in [*layers, (person, people[item] * alpha)]:
        for run in runs:
            where = pixel[run]
            # In this form full coverage leaves no trace of what was below, not even in the last bit.
            plane[where] = plane[where] * through[run] + laid[run]
    return person
