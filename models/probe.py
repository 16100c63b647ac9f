"""Linear probe on cached features: the trunk is frozen by construction, since only its features come in here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ProbeConfig:
    """AdamW with a cosine rate on standardised features; seeds differ in initial weights and order of the rows."""

    epochs: int = 30
    batch_size: int = 128
    rate: float = 1e-2
    weight_decay: float = 1e-2
    seeds: int = 3


def linear_probe(features: Tensor, labels: Tensor, held_out: Tensor, classes: int, config: ProbeConfig) -> Tensor:
    """Train `config.seeds` linear classifiers side by side; returns logits float32 (seeds, M, classes) on `held_out`.

    `features` (N, D) float32 with `labels` int64 (N,), and `held_out` (M, D), are standardised with the mean and
    deviation of `features`. Deterministic on one device.
    """
    mean, std = features.mean(dim=0), features.std(dim=0) + 1e-6
    train, test = (features - mean) / std, (held_out - mean) / std
    generators = [torch.Generator().manual_seed(seed) for seed in range(config.seeds)]
    start = [torch.randn(train.shape[1], classes, generator=generator) * 0.01 for generator in generators]
    weight = torch.stack(start).to(train.device).requires_grad_()
    bias = torch.zeros(config.seeds, 1, classes, device=train.device, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=config.rate, weight_decay=config.weight_decay)
    for epoch in range(config.epochs):
        optimizer.param_groups[0]["lr"] = config.rate * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
        order = torch.stack([torch.randperm(len(train), generator=generator) for generator in generators])
        for rows in order.to(train.device).split(config.batch_size, dim=1):
            logits = train[rows] @ weight + bias
            loss = F.cross_entropy(logits.flatten(0, 1), labels[rows].flatten(), reduction="sum") / rows.shape[1]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return (test @ weight + bias).detach()
