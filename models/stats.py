"""Intervals for accuracies: Wilson's for one, a paired bootstrap for a difference, both as wide as few groups ask."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Z = 1.959964  # 97.5 % of a normal distribution lie below


def wilson(successes: float, trials: float, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval for a proportion, 95 % by default (Wilson 1927). Both ends in [0, 1]."""
    if trials <= 0:
        raise ValueError("no trials")
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    # At 0 and 1 the ends are p itself, which rounding may miss.
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def student(freedom: int) -> float:
    """Below it lie 97.5 % of Student's t with that many degrees of freedom: 12.71 for 1, 2.365 for 7, 1.96 for many.

    With the exact sums of Abramowitz and Stegun 26.7.3 and 26.7.4, since SciPy is no dependency.
    """
    low, high, odd = 0.0, math.pi / 2, freedom % 2
    for _ in range(60):
        angle = (low + high) / 2
        total, term = 0.0, math.cos(angle) if odd else 1.0
        for power in range(odd, freedom - 1, 2):
            total += term
            term *= (power + 1) / (power + 2) * math.cos(angle) ** 2
        within = math.sin(angle) * total
        if odd:
            within = 2 / math.pi * (angle + within)
        low, high = (angle, high) if within < 0.95 else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def accuracy_interval(correct: NDArray[np.float64], groups: NDArray[np.int64]) -> tuple[float, float]:
    """95 % interval for the mean of `correct` (n,), each sample's share of right answers, of which those of one group
    are right and wrong together.

    Wilson's, of as many independent samples as would spread the mean as the groups do, at most n, and with Student's t
    of the groups in the place of the normal distribution (Korn and Graubard 1998, Survey Methodology 24, with Wilson's
    interval for theirs, as Dean and Pagano 2015, J. Survey Statistics and Methodology 3). A single group says nothing.
    Where all are right, or all wrong, nothing tells how far a group's belong together: then it counts once. Of a mean
    near 0 or 1 few groups tell little of it, and the interval is too narrow: of 8 groups, whose answers agree with a
    correlation of 0.3, that of a mean of 0.95 holds it 81 times in 100.
    """
    labels = np.unique(groups, return_inverse=True)[1]
    sizes, n, mean = np.bincount(labels), len(correct), float(correct.mean())
    count = len(sizes)
    if count == n:
        return wilson(mean * n, n)
    if count == 1:
        return 0.0, 1.0
    if mean in (0.0, 1.0):
        return wilson(mean * count, count)
    beyond = np.bincount(labels, correct) - mean * sizes
    spread, alone = count / (count - 1) * float(beyond @ beyond) / n**2, mean * (1 - mean) / n
    effective = n * min(1.0, alone / spread if spread > 0 else 1.0) * (Z / student(count - 1)) ** 2
    return wilson(mean * effective, effective)


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

    The percentiles' distances from the mean are widened for n groups by t / 1.96 * sqrt(n / (n - 1)), t being Student's
    of n - 1 degrees of freedom: the bootstrap's deviation is short of the one factor, and its shape of the other
    (Hesterberg 2015, The American Statistician 69). Of 8 groups plain percentiles hold the truth 89 times in 100. A
    single group says nothing: -1 to 1.
    """
    difference = a - b
    labels = np.arange(len(difference)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums, sizes = np.bincount(labels, difference), np.bincount(labels)
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    mean, n = float(difference.mean()), len(sums)
    some = max(1, 2**20 // n)  # all at once, UAV-Human's 6,191 x 10,000 indices take 500 MB
    for first in range(0, draws, some):
        picks = rng.integers(n, size=(min(some, draws - first), n))
        means[first : first + some] = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    if n == 1:
        return mean, -1.0, 1.0
    wider = student(n - 1) / Z * math.sqrt(n / (n - 1))
    low, high = mean + wider * (np.quantile(means, [0.025, 0.975]) - mean)
    return mean, max(-1.0, float(low)), min(1.0, float(high))


def class_mean(correct: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Mean over classes of each class's share of right answers; classes without a sample don't count."""
    counts = np.bincount(labels)
    shares = np.bincount(labels, correct) / np.maximum(counts, 1)
    return float(shares[counts > 0].mean())
