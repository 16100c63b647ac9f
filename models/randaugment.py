"""RandAugment for clips, as PyTorchVideo defines it, on whole batches of uint8 on any device.

A clip's operations and strengths are the same on all of its frames. What happens to which row is drawn on the host, so
that nothing waits for the device; rows with the same operation go through it together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

FILL = 128.0  # what comes in from outside the picture: mid grey
GREY = (0.2989, 0.587, 0.114)  # ITU-R 601 luma, as torchvision rounds it
LEVELS = 10.0


def blend(x: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    """uint8 of factor * x + (1 - factor) * other, for floats in 0..255 and factors (n,)."""
    weight = factor.view(-1, 1, 1, 1, 1)
    return as_bytes(weight * x + (1 - weight) * other)


def as_bytes(x: Tensor) -> Tensor:
    """Floats rounded to the nearest uint8."""
    return x.round().clamp(0, 255).to(torch.uint8)


def grey(x: Tensor) -> Tensor:
    """Luma (n, 1, T, H, W) of floats (n, 3, T, H, W)."""
    return GREY[0] * x[:, :1] + GREY[1] * x[:, 1:2] + GREY[2] * x[:, 2:]


def brightness(clips: Tensor, factor: Tensor) -> Tensor:
    """Towards black, or away from it."""
    return blend(clips.float(), 0.0, factor)


def contrast(clips: Tensor, factor: Tensor) -> Tensor:
    """Towards each frame's mean grey, or away from it."""
    x = clips.float()
    return blend(x, grey(x).mean(dim=(1, 3, 4), keepdim=True), factor)


def saturation(clips: Tensor, factor: Tensor) -> Tensor:
    """Towards grey, or away from it."""
    x = clips.float()
    return blend(x, grey(x), factor)


def sharpness(clips: Tensor, factor: Tensor) -> Tensor:
    """Towards a 3 x 3 blur (centre 5, others 1, over 13), or away from it; the outermost pixels stay."""
    x = clips.float()
    blurred = x.clone()
    if min(x.shape[-2:]) > 2:
        mean = F.avg_pool2d(x.flatten(0, 1), 3, stride=1).view(*x.shape[:3], x.shape[3] - 2, x.shape[4] - 2)
        blurred[..., 1:-1, 1:-1] = (9 * mean + 4 * x[..., 1:-1, 1:-1]) / 13
    return blend(x, blurred, factor)


def autocontrast(clips: Tensor, _: Tensor) -> Tensor:
    """Each channel of each frame stretched to the full range; a flat one stays."""
    low, high = (m.float() for m in torch.aminmax(clips.flatten(3), dim=3))
    span = high - low
    scale = torch.where(span > 0, 255 / span.clamp(min=1), 1.0)
    low = torch.where(span > 0, low, 0.0)
    return as_bytes((clips.float() - low[..., None, None]) * scale[..., None, None])


def equalize(clips: Tensor, _: Tensor) -> Tensor:
    """Each channel of each frame mapped so that its histogram is level, in Pillow's integer arithmetic."""
    planes = clips.reshape(-1, clips.shape[-2] * clips.shape[-1]).long()
    counts = torch.zeros(len(planes), 256, dtype=torch.long, device=clips.device)
    counts.scatter_add_(1, planes, torch.ones_like(planes))
    brightest = counts.gather(1, planes.amax(dim=1, keepdim=True))
    step = (planes.shape[1] - brightest) // 255
    before = counts.cumsum(dim=1) - counts
    table = ((before + step // 2) // step.clamp(min=1)).clamp(0, 255)
    return torch.where(step > 0, table.gather(1, planes), planes).to(torch.uint8).view_as(clips)


def invert(clips: Tensor, _: Tensor) -> Tensor:
    """The negative."""
    return 255 - clips


def posterize(clips: Tensor, bits: Tensor) -> Tensor:
    """Only the highest `bits` (whole numbers, 0 to 8) of every value kept."""
    keep = (256 - 2 ** (8 - bits)).to(torch.uint8).view(-1, 1, 1, 1, 1)
    return clips & keep


def solarize(clips: Tensor, threshold: Tensor) -> Tensor:
    """Values at or above `threshold` (of full scale) inverted."""
    return torch.where(clips >= 255 * threshold.view(-1, 1, 1, 1, 1), 255 - clips, clips)


def warp(clips: Tensor, matrix: Tensor) -> Tensor:
    """Bilinear resampling: what comes to (x, y), in pixels from the middle, lies at matrix (n, 2, 3) @ (x, y, 1)."""
    n, channels, frames, height, width = clips.shape
    x = torch.arange(width, device=clips.device) - (width - 1) / 2
    y = (torch.arange(height, device=clips.device) - (height - 1) / 2)[:, None]
    from_x, from_y = (
        row[:, 0, None, None] * x + row[:, 1, None, None] * y + row[:, 2, None, None] for row in matrix.unbind(dim=1)
    )
    grid = torch.stack([from_x * (2 / width), from_y * (2 / height)], dim=-1)
    planes = clips.view(n, channels * frames, height, width).float() - FILL
    # Outside is zero in these, which is FILL in the clips.
    return as_bytes(F.grid_sample(planes, grid, align_corners=False) + FILL).view_as(clips)


def _matrix(*rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def rotate(clips: Tensor, degrees: Tensor) -> Tensor:
    """Counter-clockwise about the middle."""
    angle = degrees * (math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return warp(clips, _matrix((cos, -sin, zero), (sin, cos, zero)))


def shear_x(clips: Tensor, factor: Tensor) -> Tensor:
    """Rows shifted in proportion to their distance from the upper edge."""
    one, zero = torch.ones_like(factor), torch.zeros_like(factor)
    return warp(clips, _matrix((one, factor, factor * clips.shape[-2] / 2), (zero, one, zero)))


def shear_y(clips: Tensor, factor: Tensor) -> Tensor:
    """Columns shifted in proportion to their distance from the left edge."""
    one, zero = torch.ones_like(factor), torch.zeros_like(factor)
    return warp(clips, _matrix((one, zero, zero), (factor, one, factor * clips.shape[-1] / 2)))


def translate_x(clips: Tensor, factor: Tensor) -> Tensor:
    """Shifted by a share of the width."""
    one, zero = torch.ones_like(factor), torch.zeros_like(factor)
    return warp(clips, _matrix((one, zero, factor * clips.shape[-1]), (zero, one, zero)))


def translate_y(clips: Tensor, factor: Tensor) -> Tensor:
    """Shifted by a share of the height."""
    one, zero = torch.ones_like(factor), torch.zeros_like(factor)
    return warp(clips, _matrix((one, zero, zero), (zero, one, factor * clips.shape[-2])))


@dataclass(frozen=True)
class Operation:
    """One of the fourteen: `apply(clips, arguments)`, and its argument at a `level` (0 to 10) with a `sign`."""

    apply: Callable[[Tensor, Tensor], Tensor]
    argument: Callable[[float, int], float] = lambda level, sign: 0.0


def _around(middle: float, reach: float) -> Callable[[float, int], float]:
    return lambda level, sign: middle + sign * reach * level / LEVELS


# The ranges are PyTorchVideo's.
OPERATIONS = (
    Operation(brightness, _around(1, 0.9)),
    Operation(contrast, _around(1, 0.9)),
    Operation(saturation, _around(1, 0.9)),
    Operation(sharpness, _around(1, 0.9)),
    Operation(autocontrast),
    Operation(equalize),
    Operation(invert),
    Operation(rotate, _around(0, 30)),
    Operation(posterize, lambda level, sign: 4 - int(4 * level / LEVELS)),
    Operation(solarize, lambda level, sign: 1 - level / LEVELS),
    Operation(shear_x, _around(0, 0.3)),
    Operation(shear_y, _around(0, 0.3)),
    Operation(translate_x, _around(0, 0.45)),
    Operation(translate_y, _around(0, 0.45)),
)


@dataclass(frozen=True)
class Draws:
    """For each round and row an operation, int64 (rounds, rows), -1 for none, and its argument, float32."""

    operation: NDArray[np.int64]
    argument: NDArray[np.float32]


def draw_operations(
    rows: int, count: int, magnitude: float, deviation: float, probability: float, rng: np.random.Generator
) -> Draws:
    """`count` distinct operations for each row in random order, each happening with `probability`, at a level drawn
    from a normal distribution around `magnitude` and cut to 0..10.
    """
    distinct = rng.random((rows, len(OPERATIONS))).argsort(axis=1)[:, :count].T
    levels = np.clip(rng.normal(magnitude, deviation, distinct.shape), 0, LEVELS)
    signs = np.where(rng.random(distinct.shape) < 0.5, 1, -1)
    arguments = np.zeros(distinct.shape, np.float32)
    for index in np.ndindex(distinct.shape):
        arguments[index] = OPERATIONS[distinct[index]].argument(float(levels[index]), int(signs[index]))
    return Draws(np.where(rng.random(distinct.shape) < probability, distinct, -1), arguments)


def randaugment(clips: Tensor, draws: Draws) -> Tensor:
    """New clips uint8 (N, 3, T, H, W), round after round."""
    order = draws.operation.argsort(axis=1, kind="stable")
    rows = to_device(torch.from_numpy(order), clips.device)
    arguments = to_device(torch.from_numpy(np.take_along_axis(draws.argument, order, axis=1)), clips.device)
    clips = clips.clone()
    for i, row_of in enumerate(order):
        sorted_operations = draws.operation[i, row_of]
        for number, operation in enumerate(OPERATIONS):
            start, stop = np.searchsorted(sorted_operations, [number, number + 1])
            if start < stop:
                chosen = rows[i, start:stop]
                clips[chosen] = operation.apply(clips[chosen], arguments[i, start:stop])
    return clips


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy there that nothing waits for."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
