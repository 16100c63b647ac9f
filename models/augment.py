"""Augmentation of stage 2, on the device and on whole batches: RandAugment, erased boxes, mixup and CutMix.

Crops and mirroring happen where clips are decoded. What is drawn is drawn for the global batch, so that a rank's part
of it does not depend on how many ranks there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from understudy.models.randaugment import Draws, draw_operations, randaugment, to_device
from understudy.models.vit import MEAN, STD

Box = tuple[int, int, int, int]  # top, left, height, width
ERASED_AREA, ERASED_RATIO, ERASING_TRIES = (0.02, 1 / 3), (0.3, 1 / 0.3), 10


@dataclass(frozen=True)
class Augment:
    """Strength of each part; all are off by default. PPMA's are 4 operations, erasing 0.25, mixup 0.8, CutMix 1, mixed
    in groups of the rows that one of its processes has: 16, and 8 in fine-tuning.
    """

    operations: int = 0
    """RandAugment: distinct operations drawn for each clip."""
    magnitude: float = 7.0
    """Their mean level, of 10."""
    deviation: float = 0.5
    """Standard deviation of the level."""
    probability: float = 0.5
    """With which each drawn operation happens."""
    erasing: float = 0.0
    """Share of clips with one box of noise, the same box on all frames."""
    mixup: float = 0.0
    """Alpha of the Beta distribution that two clips are blended with."""
    cutmix: float = 0.0
    """Alpha of the one that gives the area of a box taken from another clip; where both are on, each has half of the
    groups.
    """
    group: int = 0
    """Rows that share one draw of mixup or CutMix; 0: all of the batch."""


@dataclass(frozen=True)
class Mix:
    """What mixup or CutMix does to a group of rows."""

    box: Box | None  # CutMix's, or None for mixup
    share: float  # of a row's own label; the rest is its partner's


@dataclass(frozen=True)
class Plan:
    """What happens to the rows of a global batch."""

    draws: Draws
    erased: tuple[tuple[Box, int] | None, ...]  # for each row a box and the seed of its noise, or nothing
    group: int  # rows that are mixed alike
    mixes: tuple[Mix, ...]  # of one group after the other; none where nothing is mixed

    def mixes_of(self, first: int, rows: int) -> Iterator[tuple[slice, Mix]]:
        """For `rows` rows from `first` on, which of them are of one group, counted from `first`, and its mix."""
        for number, mix in enumerate(self.mixes):
            start, end = max(number * self.group - first, 0), min((number + 1) * self.group - first, rows)
            if start < end:
                yield slice(start, end), mix


def draw_plan(rows: int, height: int, width: int, config: Augment, rng: np.random.Generator) -> Plan:
    """Draw for `rows` rows of frames of `height` x `width`."""
    draws = draw_operations(rows, config.operations, config.magnitude, config.deviation, config.probability, rng)
    erased = [
        (draw_erased(height, width, rng), int(rng.integers(2**62))) if rng.random() < config.erasing else None
        for _ in range(rows)
    ]
    if not config.mixup and not config.cutmix:
        return Plan(draws, tuple(erased), rows, ())
    group = config.group or rows
    assert rows % group == 0, "check_groups was not asked"
    return Plan(draws, tuple(erased), group, tuple(draw_mix(height, width, config, rng) for _ in range(rows // group)))


def draw_mix(height: int, width: int, config: Augment, rng: np.random.Generator) -> Mix:
    """Draw for a group: CutMix or mixup, and how much of it."""
    if not config.cutmix or (config.mixup and rng.random() >= 0.5):
        return Mix(None, float(rng.beta(config.mixup, config.mixup)))
    box = cutmix_box(height, width, float(rng.beta(config.cutmix, config.cutmix)), rng)
    return Mix(box, 1 - box[2] * box[3] / (height * width))  # of what is left after the edges cut the box


def check_groups(config: Augment, rows: int, views: int, ranks: int) -> None:
    """Raise ValueError where the groups of a global batch are not whole, or tear the pairs of `partners` apart, as
    ranks do whose part of it is an odd number of samples.
    """
    pair, group = 2 * views, config.group
    mixed = config.mixup or config.cutmix
    if group < 0 or (group and mixed and (rows % group or group % pair)):
        raise ValueError(
            f"groups of {group} rows don't fit a batch of {rows}: a group must divide it, and be a multiple of {pair}; "
            "augment.group 0 is one draw for the whole batch"
        )
    if mixed and ranks > 1 and rows % (pair * ranks):
        raise ValueError(
            f"a batch of {rows} on {ranks} ranks parts clips that are mixed with each other; give a multiple of "
            f"{pair * ranks}, or other ranks"
        )


def draw_erased(height: int, width: int, rng: np.random.Generator) -> Box:
    """A box of 2 to 33 % of the area and of log-uniform aspect, as in Random Erasing; of ten draws the first that fits,
    else nothing (an empty box).
    """
    low, high = (math.log(ratio) for ratio in ERASED_RATIO)
    for _ in range(ERASING_TRIES):
        area, ratio = height * width * rng.uniform(*ERASED_AREA), math.exp(rng.uniform(low, high))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < height and w < width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    return 0, 0, 0, 0


def cutmix_box(height: int, width: int, share: float, rng: np.random.Generator) -> Box:
    """A box of 1 - `share` of the area and of the frame's aspect around a uniform point, cut at the edges."""
    scale = math.sqrt(1 - share)
    half_height, half_width = int(height * scale) // 2, int(width * scale) // 2
    y, x = int(rng.integers(height)), int(rng.integers(width))
    top, left = max(0, y - half_height), max(0, x - half_width)
    return top, left, min(height, y + half_height) - top, min(width, x + half_width) - left


def partners(rows: int, views: int, device: torch.device | str = "cpu") -> Tensor:
    """For each row the one that it is mixed with, int64 (rows,): the same view of the neighbouring sample, which is as
    random as any, and on the same rank on any number of ranks that `check_groups` lets pass. The last of an odd number
    of samples stays alone.
    """
    row = torch.arange(rows, device=device)
    partner = (row // views ^ 1) * views + row % views
    return torch.where(partner < rows, partner, row)


def augment_batch(
    clips: Tensor, config: Augment, generator: torch.Generator, views: int, rank: int = 0, ranks: int = 1
) -> tuple[Tensor, Tensor | None, Tensor | float]:
    """What a step does to a rank's part of its batch, clips (N, 3, T, H, W) uint8: the clips after all of `config`, the
    rows int64 (N,) that they were mixed with, and the share float32 (N,) of their own labels. Where nothing is mixed,
    these are None and 1.

    Drawn from the generator's seed for the `ranks` * N rows of all ranks, whatever was drawn with it before.
    """
    rows = len(clips)
    rng = np.random.default_rng(generator.initial_seed())
    plan = draw_plan(ranks * rows, clips.shape[-2], clips.shape[-1], config, rng)
    clips = augment(clips, plan, rank * rows, views)
    if not plan.mixes:
        return clips, None, 1.0
    shares = np.repeat([mix.share for mix in plan.mixes], plan.group)[rank * rows : (rank + 1) * rows]
    return clips, partners(rows, views, clips.device), to_device(torch.from_numpy(shares).float(), clips.device)


def augment(clips: Tensor, plan: Plan, first: int, views: int) -> Tensor:
    """Clips (N, 3, T, H, W) uint8, which are the rows from `first` on of the plan's, after all of it.

    The result is uint8 where nothing is erased or mixed, else float32 with ImageNet's mean and deviation, since the
    noise that boxes are erased with is N(0, 1) in those units. Mixing is with `partners(N, views)`.
    """
    rows = slice(first, first + len(clips))
    if (plan.draws.operation[:, rows] >= 0).any():
        clips = randaugment(clips, Draws(plan.draws.operation[:, rows], plan.draws.argument[:, rows]))
    if not any(plan.erased) and not plan.mixes:
        return clips
    x = normalised(clips)
    for i, erased in enumerate(plan.erased[rows]):
        if erased is not None:
            (top, left, height, width), seed = erased
            generator = torch.Generator(x.device).manual_seed(seed)
            inside = x[i, :, :, top : top + height, left : left + width]
            inside.copy_(torch.randn(inside.shape, generator=generator, device=x.device))
    other = partners(len(x), views, x.device)
    for part, mix in plan.mixes_of(first, len(x)):
        top, left, height, width = mix.box or (0, 0, *x.shape[-2:])
        patch = x[..., top : top + height, left : left + width]
        # Indexing copies, so that no row reads what another has written.
        patch[part].lerp_(patch[other[part]], 1.0 if mix.box else 1 - mix.share)
    return x


def normalised(clips: Tensor) -> Tensor:
    """float32 (N, 3, T, H, W) with ImageNet's mean and deviation, of uint8."""
    x = clips.float()
    for channel, (mean, deviation) in enumerate(zip(MEAN, STD)):
        x[:, channel].sub_(255 * mean).div_(255 * deviation)
    return x
