"""Confidence bounds that hold for any sample size: of a share, of a mean of shares, and of what a detector missed.

Recordings are the unit, or clips where nobody knows which of them are of one recording; never frames. What is of one
recording shows the same thing, and treating it as independent would make every bound look better by the number of clips
in it. docs/audit.md has the assumptions in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# The mixture over betting fractions in `mean_upper`: most of it on the one that is best where nothing was found.
_FRACTIONS = np.concatenate([[1.0], np.geomspace(0.001, 0.9, 24)])
_LOG_WEIGHTS = np.log(np.concatenate([[0.8], np.full(24, 0.2 / 24)]))


def binomial_cdf(successes: int, trials: int, share: float) -> float:
    """P(X <= successes) for X binomial."""
    if share <= 0 or successes >= trials:
        return 1.0
    if share >= 1 or successes < 0:
        return 0.0
    counts = np.arange(successes + 1)
    log_choose = np.array(
        [math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in counts.tolist()]
    )
    terms = log_choose + counts * math.log(share) + (trials - counts) * math.log1p(-share)
    return float(min(1.0, np.exp(terms - terms.max()).sum() * math.exp(terms.max())))


def share_upper(successes: int, trials: int, alpha: float) -> float:
    """One-sided upper Clopper-Pearson bound: the largest share under which so few successes have probability `alpha`.

    Exact for independent trials. For a sample drawn without replacement, or trials of unequal chances with that mean,
    it is on the safe side (Hoeffding 1956, Annals of Mathematical Statistics 27). 1 where there were no trials.
    """
    if successes >= trials:
        return 1.0
    return _largest(lambda share: binomial_cdf(successes, trials, share) >= alpha, successes / trials)


def share_lower(successes: int, trials: int, alpha: float) -> float:
    """One-sided lower Clopper-Pearson bound; 0 where there were no trials."""
    return 1 - share_upper(trials - successes, trials, alpha)


def share_interval(successes: int, trials: int, alpha: float = 0.05) -> tuple[float, float]:
    """Two-sided Clopper-Pearson interval."""
    return share_lower(successes, trials, alpha / 2), share_upper(successes, trials, alpha / 2)


def mean_upper(values: Sequence[float] | Floats, alpha: float) -> float:
    """Upper bound of the mean of which `values`, independent and in 0..1, are draws. Assumes nothing else of them.

    By betting (Waudby-Smith and Ramdas 2024, JRSS B 86): were the mean m, a gambler who stakes the share c / (1 - m) on
    each value being smaller would not multiply his money by 1 / alpha but with probability alpha; the bound is the
    largest m at which a mixture of such gamblers has not. With all values 0 it is within 0.23 / n of Clopper-Pearson.
    """
    drawn = np.asarray(values, np.float64)
    if len(drawn) == 0 or drawn.mean() >= 1:
        return 1.0
    # Equal values count once: audits have a great many zeros.
    distinct, counts = np.unique(drawn, return_counts=True)

    def in_doubt(mean: float) -> bool:
        if mean >= 1:
            return False
        growth = 1 + _FRACTIONS[:, None] * (mean - distinct) / (1 - mean)
        with np.errstate(divide="ignore"):
            money = _LOG_WEIGHTS + (np.log(np.maximum(growth, 0)) * counts).sum(1)
        return float(np.logaddexp.reduce(money)) < -math.log(alpha)

    return _largest(in_doubt, float(drawn.mean()))


def _largest(holds: Callable[[float], bool], low: float) -> float:
    """The largest share at which `holds`, which does at `low` and stops doing so somewhere up to 1 for good."""
    high = 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return high


@dataclass(frozen=True)
class Clips:
    """A value in 0..1 for each clip of a group, and the recording that each is of."""

    values: Sequence[float]
    recordings: Sequence[object]

    def upper(self, alpha: float) -> float:
        """Upper bound of the mean over clips, recordings being independent; 1 without clips."""
        units, scale = self._units(self.values)
        whole = len(units) > 0 and bool(np.isin(units, (0, 1)).all())
        bound = share_upper(int(units.sum()), len(units), alpha) if whole else mean_upper(units, alpha)
        return min(1.0, scale * bound)

    def lower(self, alpha: float) -> float:
        """Lower bound of the mean over clips; 0 without clips."""
        return 1 - replace(self, values=[1 - value for value in self.values]).upper(alpha)

    def _units(self, values: Sequence[float]) -> tuple[Floats, float]:
        """A value in 0..1 for each recording, and what their mean is to be multiplied by to be that over clips."""
        if not values:
            return np.zeros(0), 1.0
        _, number, sizes = np.unique([str(name) for name in self.recordings], return_inverse=True, return_counts=True)
        largest = int(sizes.max())
        sums = np.bincount(number, np.asarray(values, np.float64), len(sizes))
        return sums / largest, largest * len(sizes) / len(values)


@dataclass(frozen=True)
class Residual:
    """How much is left, at most: `found` as counted, `seen` at least that share of what there is (by the worst group
    of canaries), so at most `bound` is left; None where no canaries say how much is seen. `least` is what the bound
    would be had nothing been found: with so many clips and such canaries no audit can show less.
    """

    found: float
    found_upper: float
    seen_lower: float | None
    bound: float | None
    least: float | None


def residual(shares: Clips, canaries: Mapping[str, Clips], alpha: float) -> Residual:
    """What chance a frame drawn from a clip drawn at random has to show somebody, with confidence 1 - `alpha`.

    `shares` is, for every clip, the share of its frames with a hit; `canaries` the same by group, of frames that all
    show somebody. With s the chance that a frame with somebody in it is found and p = s * (share with somebody) that of
    a find: p <= upper(shares) but for alpha / 2, and s >= lower(canaries) but for alpha / 2, over all k groups, so that
    each gets alpha / 2k. Both hold with 1 - alpha, and then the share is at most upper / lower. False alarms only add.

    The same bounds the share of clips that show somebody, if `shares` are 1 for clips with a hit and 0 for the others:
    of such a clip a single frame may show somebody, so that it is found with at least the chance of a frame, not of a
    canary. This takes every frame to be looked at.
    """
    upper, least = shares.upper(alpha / 2), replace(shares, values=[0.0] * len(shares.values)).upper(alpha / 2)
    found = float(np.mean(shares.values)) if shares.values else 0.0
    seen = min((group.lower(alpha / 2 / len(canaries)) for group in canaries.values()), default=None)
    if seen is None:
        return Residual(found, upper, None, None, None)
    bound, least = (min(1.0, share / seen) if seen > 0 else 1.0 for share in (upper, least))
    return Residual(found, upper, seen, bound, least)
