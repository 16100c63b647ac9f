"""Intervals for accuracies: Wilson's for one, a paired bootstrap for a difference."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def wilson(successes: float, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for a proportion, 95 % by default (Wilson 1927). Both ends in [0, 1]."""
    if trials <= 0:
        raise ValueError("no trials")
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    # At 0 and 1 the ends are p itself, which rounding may miss.
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def paired_difference(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    groups: NDArray[np.int64] | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean of a - b over the same samples, and its 95 % bootstrap interval: (mean, low, high).

    `a` and `b` are float64 (n,): each sample's share of right answers, over probe seeds. With `groups`, int64 (n,),
    whole groups are drawn, since samples of one recording are right and wrong together (163 clips of 8 recordings are
    nearer to 8 independent samples than to 163).
    """
    difference = a - b
    labels = np.arange(len(difference)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums, sizes = np.bincount(labels, difference), np.bincount(labels)
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for draw in range(draws):  # one by one: all at once, UAV-Human's 6,191 x 10,000 indices take 500 MB
        picks = rng.integers(len(sums), size=len(sums))
        means[draw] = sums[picks].sum() / sizes[picks].sum()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def class_mean(correct: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Mean over classes of each class's share of right answers; classes without a sample don't count."""
    counts = np.bincount(labels)
    shares = np.bincount(labels, correct) / np.maximum(counts, 1)
    return float(shares[counts > 0].mean())
