"""What a removal gives away though nobody is to be seen: can a plain classifier tell the action from its traces?

Outlines of masks, where they were kept, and the traces of filling, from the pictures alone. docs/audit.md says how to
read the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.privacy.bounds import share_interval

F32 = NDArray[np.float32]
GRID = 8  # cells across and down
SPANS = 4  # of time
FOLDS = 5
BY_OUTLINES = " by outlines"  # ends the name of a leak that is told from the holes in the removal records


@dataclass(frozen=True)
class Leak:
    """How well a label is told: `accuracy` over `clips`, the share of the commonest label as `chance`, and the exact
    95 % interval of the accuracy over clips. The label leaks where `low` is above `chance`.
    """

    clips: int
    labels: int
    accuracy: float
    low: float
    high: float
    chance: float

    @property
    def over_chance(self) -> float:
        """Accuracy less chance."""
        return self.accuracy - self.chance


def outline_features(masks: NDArray[np.bool_]) -> F32:
    """Where a mask (T, H, W) is, pooled over GRID x GRID cells and SPANS of time, and its area and motion over time."""
    shown = masks.astype(np.float32)
    for axis in (1, 2):  # kept holes are cells, of small videos fewer than GRID
        shown = np.repeat(shown, -(-GRID // shown.shape[axis]), axis)
    area = shown.mean((1, 2))
    y, x = np.linspace(0, 1, shown.shape[1]), np.linspace(0, 1, shown.shape[2])
    total = np.maximum(shown.sum((1, 2)), 1e-6)
    centre = np.stack([(shown.sum(2) @ y) / total, (shown.sum(1) @ x) / total], 1)
    steps = np.abs(np.diff(centre, axis=0, prepend=centre[:1])).sum(1)
    curves = [np.interp(np.linspace(0, 1, 8), np.linspace(0, 1, len(area)), curve) for curve in (area, steps)]
    return np.concatenate([_pooled(shown).ravel(), *curves]).astype(np.float32)


def artefact_features(frames: Iterable[NDArray[np.uint8]]) -> F32:
    """Where and when a clip's fine grain is missing or frozen, as it is where pixels were filled in.

    `frames` are RGB (H, W, 3). Two maps pooled over GRID x GRID cells and SPANS of time: the grain of each frame (what
    a 3 x 3 mean takes away), and its change from frame to frame, both as logarithms relative to the clip's own mean, so
    that neither colours nor the overall sharpness count. Coarse shapes are not in them; fine texture of the scene is.
    """
    grains: list[F32] = []
    changes: list[F32] = []
    before: F32 | None = None
    for frame in frames:
        grey = frame.mean(2, dtype=np.float32)
        grain = grey[1:-1, 1:-1] - _mean3(grey)
        grains.append(_cells(np.abs(grain)))
        changes.append(_cells(np.abs(grain - before)) if before is not None else np.zeros_like(grains[0]))
        before = grain
    maps = [np.stack(grains), np.stack(changes)]
    relative = [np.log((values + 0.1) / (values.mean() + 0.1)) for values in maps]
    return np.concatenate([_in_time(values).ravel() for values in relative]).astype(np.float32)


def _mean3(picture: F32) -> F32:
    rows = picture[:-2] + picture[1:-1] + picture[2:]
    return ((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9).astype(np.float32)


def _edges(length: int, count: int) -> NDArray[np.int64]:
    return np.linspace(0, length, count + 1).round().astype(np.int64)[:-1]


def _cells(picture: F32) -> F32:
    """Mean of each cell, (GRID, GRID)."""
    rows, columns = _edges(picture.shape[0], GRID), _edges(picture.shape[1], GRID)
    sums = np.add.reduceat(np.add.reduceat(picture, rows, 0), columns, 1)
    sizes = np.outer(np.diff([*rows, picture.shape[0]]), np.diff([*columns, picture.shape[1]]))
    return (sums / sizes).astype(np.float32)


def _in_time(maps: F32) -> F32:
    """Mean over each of SPANS parts of the first axis; a clip of fewer frames repeats them."""
    if len(maps) < SPANS:
        maps = maps[np.arange(SPANS) * len(maps) // SPANS]
    return np.stack([part.mean(0) for part in np.array_split(maps, SPANS)])


def _pooled(maps: F32) -> F32:
    return np.stack([_cells(picture) for picture in _in_time(maps)])


def probe(features: F32, labels: Sequence[object], groups: Sequence[object], seed: int = 0) -> Leak | None:
    """Cross-validated accuracy of a ridge classifier that tells `labels` from `features` (clips, numbers).

    Clips of one group (the same recording, the same person) are never on both sides of a split. None where there are
    not at least two labels with as many groups as folds. Folds share training clips, so that the interval, which
    takes the clips' outcomes for independent, is a little too narrow.
    """
    per_label: dict[object, set[object]] = {}
    for label, group in zip(labels, groups):
        per_label.setdefault(label, set()).add(group)
    usable = {label for label, found in per_label.items() if len(found) >= FOLDS}
    if len(usable) < 2:
        return None
    kept = [index for index, label in enumerate(labels) if label in usable]
    names = sorted({str(labels[index]) for index in kept})
    truth = np.array([names.index(str(labels[index])) for index in kept])
    fold = _folds([groups[index] for index in kept], truth, seed)
    x = features[kept].astype(np.float64)
    right = 0
    for number in range(FOLDS):
        test = fold == number
        right += int((_ridge(x[~test], truth[~test], x[test], len(names)) == truth[test]).sum())
    low, high = share_interval(right, len(kept))
    commonest = Counter(truth.tolist()).most_common(1)[0][1]
    return Leak(len(kept), len(names), right / len(kept), low, high, commonest / len(kept))


def _folds(groups: Sequence[object], truth: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The fold of each clip: groups dealt out in random order, those of one label after the other."""
    members: dict[object, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    order = np.random.default_rng(seed).permutation(len(members))
    dealt = sorted((list(members.values())[index] for index in order), key=lambda clips: int(truth[clips[0]]))
    fold = np.empty(len(groups), np.int64)
    for turn, clips in enumerate(dealt):
        fold[clips] = turn % FOLDS
    return fold


def _ridge(
    x: NDArray[np.float64], truth: NDArray[np.int64], unseen: NDArray[np.float64], labels: int
) -> NDArray[np.int64]:
    """Predicted labels of `unseen`: least squares onto one-hot labels, standardised, in the dual form."""
    mean, spread = x.mean(0), x.std(0) + 1e-6
    x, unseen = (x - mean) / spread, (unseen - mean) / spread
    targets = np.eye(labels)[truth]
    centre = targets.mean(0)
    kernel = x @ x.T
    # The number of features: a prior under which all of them together tell as much as the noise hides.
    penalty = x.shape[1]
    weights = np.linalg.solve(kernel + penalty * np.eye(len(x)), targets - centre)
    return np.argmax(unseen @ x.T @ weights + centre, 1)
