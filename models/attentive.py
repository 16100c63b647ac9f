"""The attentive probe on the tokens of a frozen encoder, after V-JEPA 2: some self-attention blocks, then one learned
query that attends to all tokens, then a linear classifier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.models.probe import probe_epochs
from understudy.models.vit import make_blocks


@dataclass(frozen=True)
class AttentiveConfig:
    """V-JEPA 2's probe has 4 blocks (the last one the query's) of 16 heads. AdamW with a short warm-up and a cosine."""

    blocks: int = 4
    """Blocks, the last one the query's."""
    heads: int = 16
    """Attention heads per block."""
    epochs: int = 20
    """Passes over the tokens."""
    batch_size: int = 64
    """Rows per step."""
    least_steps: int = 100
    """Least number of steps: few rows are passed over more than `epochs` times."""
    rates: tuple[float, ...] = (1e-3, 3e-4, 1e-4)
    """Peak learning rates to choose from on a held-out part of the training set; a single one is taken as it is."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    seeds: int = 3
    """Probes that differ in initial weights and row order."""

    def __post_init__(self) -> None:
        """Refuse what no probe can be made of."""
        if self.blocks < 1 or self.heads < 1 or self.seeds < 1 or not self.rates:
            raise ValueError(
                f"an attentive probe needs a block, a head, a seed and a rate at least; not {self.blocks}, "
                f"{self.heads}, {self.seeds} and {len(self.rates)}"
            )


class QueryBlock(nn.Module):
    """A learned query attends to all tokens, then passes an MLP; (N, M, width) to (N, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """What the query finds."""
        query = self.query.expand(len(tokens), -1, -1)
        q = self.q(query).unflatten(2, (self.heads, -1)).transpose(1, 2)
        keys_values = self.kv(self.norm1(tokens)).unflatten(2, (2, self.heads, -1))
        k, v = keys_values.transpose(1, 3).unbind(2)
        found = query + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return (found + self.mlp(self.norm2(found))).squeeze(1)


class AttentiveProbe(nn.Module):
    """Class logits (N, classes) of tokens (N, M, width), of any float dtype."""

    def __init__(self, width: int, classes: int, config: AttentiveConfig) -> None:
        super().__init__()
        if width % config.heads:
            raise ValueError(f"{config.heads} heads do not divide a width of {width}; give another number of heads")
        self.blocks = make_blocks(width, config.blocks - 1, config.heads, 4.0)
        self.pool = QueryBlock(width, config.heads)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        x = tokens.to(self.head.weight.dtype)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(self.pool(x)))


def attentive_probes(
    tokens: Tensor,
    labels: Tensor,
    rows: Tensor,
    held_out: Tensor,
    held_out_rows: Tensor,
    classes: int,
    config: AttentiveConfig,
    rates: tuple[float, ...],
    device: torch.device,
) -> Tensor:
    """Train an attentive probe for each of `rates` and `config.seeds` on some rows of `tokens`; returns their logits
    float32 (rates, seeds, M, classes) on the M `held_out_rows` of `held_out`.

    `tokens` and `held_out` (rows, T, D), with `labels` int64 of all rows of `tokens`, lie in main memory or are maps of
    files: only a batch at a time is read and comes to `device`, once for the probes of all rates. Weights are float32,
    and products bfloat16 where a GPU computes in it.
    """
    bf16 = _computes_in_bf16(device)
    epochs = probe_epochs(len(rows), config.epochs, config.batch_size, config.least_steps)
    steps = epochs * math.ceil(len(rows) / config.batch_size)
    results: list[Tensor] = []
    for seed in range(config.seeds):
        torch.manual_seed(seed)
        start = AttentiveProbe(tokens.shape[2], classes, config).state_dict()
        probes, optimizers = [], []
        for rate in rates:
            probe = AttentiveProbe(tokens.shape[2], classes, config).to(device)
            probe.load_state_dict(start)
            probes.append(probe)
            optimizers.append(torch.optim.AdamW(probe.parameters(), lr=rate, weight_decay=config.weight_decay))
        generator = torch.Generator().manual_seed(seed)
        step = 0
        for _ in range(epochs):
            for batch in rows[torch.randperm(len(rows), generator=generator)].split(config.batch_size):
                x, y = _batch_of(tokens, batch, device), _batch_of(labels, batch, device)
                for probe, optimizer, rate in zip(probes, optimizers, rates):
                    optimizer.param_groups[0]["lr"] = rate * _shape(step, steps)
                    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                        loss = F.cross_entropy(probe(x).float(), y)
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                step += 1
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            parts: list[Tensor] = []
            for batch in held_out_rows.split(config.batch_size):
                x = _batch_of(held_out, batch, device)
                parts.append(torch.stack([probe.eval()(x).float() for probe in probes]))
            results.append(torch.cat(parts, dim=1))
    return torch.stack(results, dim=1)


def _computes_in_bf16(device: torch.device) -> bool:
    """Whether it is a GPU that does, and does not emulate it."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _batch_of(values: Tensor, rows: Tensor, device: torch.device) -> Tensor:
    """Some rows of a tensor in main memory, on `device`; nothing waits for the copy to a GPU."""
    there = torch.empty((len(rows), *values.shape[1:]), dtype=values.dtype, pin_memory=device.type == "cuda")
    torch.index_select(values, 0, rows, out=there)
    return there.to(device, non_blocking=True)


def _shape(step: int, steps: int) -> float:
    """Share of the peak rate: up over the first 5 % of the steps, then down a cosine."""
    warmup = max(1, steps // 20)
    phase = max(0, step - warmup) / max(1, steps - warmup)
    return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * phase))
