"""Linear probes on cached features: the trunk is frozen by construction, since only its features come in here.

Also the split of a training set by which a learning rate is chosen without a look at the validation set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

BETAS, EPSILON = (0.9, 0.999), 1e-8  # AdamW's usual ones


@dataclass(frozen=True)
class ProbeConfig:
    """AdamW with a cosine rate on standardised features; seeds differ in initial weights and order of the rows."""

    epochs: int = 30
    """Passes over the features."""
    batch_size: int = 128
    """Rows per step."""
    least_steps: int = 100
    """Least number of steps: few rows are passed over more than `epochs` times."""
    rates: tuple[float, ...] = (1e-2,)
    """Peak learning rates to choose from on a held-out part of the training set; a single one is taken as it is."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    seeds: int = 3
    """Probes that differ in initial weights and row order."""


def probe_epochs(rows: int, epochs: int, batch_size: int, least_steps: int) -> int:
    """How often to go through `rows` rows: `epochs` times, or as often as `least_steps` steps take."""
    return max(epochs, math.ceil(least_steps / math.ceil(rows / batch_size)))


def linear_probes(
    features: Tensor, labels: Tensor, held_out: Tensor, classes: int, config: ProbeConfig, rates: tuple[float, ...]
) -> Tensor:
    """Train a linear classifier for each of `rates` and each of `config.seeds`, all side by side; returns their logits
    float32 (rates, seeds, M, classes) on `held_out`.

    `features` (N, D) float32 with `labels` int64 (N,), and `held_out` (M, D), are standardised with the mean and
    deviation of `features`. A probe does not depend on which others are trained beside it. Deterministic on one device.
    """
    device, seeds = features.device, config.seeds
    mean, std = features.mean(dim=0), features.std(dim=0) + 1e-6
    train, test = (features - mean) / std, (held_out - mean) / std
    generators = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
    # One matrix a seed holds the classifiers of all rates next to each other: (seeds, D, rates * classes).
    start = [torch.randn(train.shape[1], classes, generator=generator) * 0.01 for generator in generators]
    weight = torch.stack(start).repeat(1, 1, len(rates)).to(device)
    bias = torch.zeros(seeds, 1, len(rates) * classes, device=device)
    peak = torch.tensor(rates, device=device).repeat_interleave(classes)
    moments = [torch.zeros_like(tensor) for tensor in (weight, weight, bias, bias)]
    epochs = probe_epochs(len(train), config.epochs, config.batch_size, config.least_steps)
    step = 0
    for epoch in range(epochs):
        rate = peak * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        order = torch.stack([torch.randperm(len(train), generator=generator) for generator in generators]).to(device)
        for rows in order.split(config.batch_size, dim=1):
            step += 1
            x = train[rows]
            logits = torch.baddbmm(bias, x, weight).unflatten(2, (len(rates), classes))
            # The gradient of cross-entropy with respect to logits: probabilities less the truth.
            error = logits.softmax(dim=3).sub_(F.one_hot(labels[rows], classes).unsqueeze(2)).div_(rows.shape[1])
            error = error.flatten(2)
            weight.mul_(1 - rate * config.weight_decay)
            _adam(weight, x.transpose(1, 2) @ error, moments[0], moments[1], rate, step)
            _adam(bias, error.sum(dim=1, keepdim=True), moments[2], moments[3], rate, step)
    logits = torch.baddbmm(bias, test.expand(seeds, -1, -1), weight)
    return logits.unflatten(2, (len(rates), classes)).permute(2, 0, 1, 3)


def _adam(parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, rate: Tensor, step: int) -> None:
    """One step of Adam in place, with a rate for each column, which torch.optim has not."""
    first.lerp_(gradient, 1 - BETAS[0])
    second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    deviation = (second / (1 - BETAS[1] ** step)).sqrt_().add_(EPSILON)
    parameter.sub_(rate / (1 - BETAS[0] ** step) * first / deviation)


def group_split(
    labels: NDArray[np.int64], groups: NDArray[np.int64], share: float = 0.2, seed: int = 0
) -> NDArray[np.bool_]:
    """Which samples of a training set to hold out for tuning, bool (N,): about `share` of each class, no group torn
    apart, every class left in training.

    Groups are taken in a random order, each for the class that it has most of; of a class whose groups are all larger
    than its share, the smallest. Raises ValueError where no group can be held out, as when every class is of one.
    """
    remaining = np.bincount(labels)
    wanted = share * remaining
    taken = np.zeros(len(remaining))
    held_out = np.zeros(len(labels), np.bool_)
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(row)
    drawn: list[int] = np.random.default_rng(seed).permutation(sorted(members)).tolist()
    within = [(group, False) for group in drawn]
    beyond = [(group, True) for group in sorted(drawn, key=lambda group: len(members[group]))]
    for group, first in within + beyond:
        counts = np.bincount(labels[members[group]], minlength=len(remaining))
        main = int(counts.argmax())
        fits = taken[main] == 0 if first else taken[main] + counts[main] <= wanted[main]
        if fits and (counts[counts > 0] < remaining[counts > 0]).all():
            held_out[members[group]] = True
            remaining, taken = remaining - counts, taken + counts
    if not held_out.any():
        raise ValueError("no part of the training set can be held out to choose a rate by; give a single rate")
    return held_out
