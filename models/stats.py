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
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(
    a: NDArray[np.float64], b: NDArray[np.float64], draws: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of a - b over the same samples, and its 95 % bootstrap interval: (mean, low, high).

    `a` and `b` are float64 (n,): each sample's share of right answers, over probe seeds.
    """
    difference = a - b
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(difference), size=(draws, len(difference)))
    low, high = np.quantile(difference[picks].mean(axis=1), [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)
