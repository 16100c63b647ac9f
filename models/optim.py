"""Learning rate as a function of the step, and parameter groups. No scheduler objects: nothing to save or prepare."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

Halved = Literal["no", "whole", "rest"]


def learning_rate(
    step: int, steps: int, peak: float, warmup: int, start: float = 1e-6, end: float = 0.0, *, halved: Halved = "no"
) -> float:
    """Rate at `step` (0-based) of `steps`: linear from `start` to `peak` over `warmup` steps, then a continuous
    cosine from `peak` to `end`.

    With `halved` it is as in the released PPMA code, which divides the rate by its scale factor of 2 twice once warm-up
    is over, so that the cosine falls from half the peak. "whole": the cosine is one of all steps, and is entered at the
    phase that warm-up has come to (masked autoencoding); "rest": it begins when warm-up ends (alignment, fine-tuning).
    """
    if step < warmup:
        return start + (peak - start) * step / warmup
    top = peak if halved == "no" else peak / 2
    phase = step / steps if halved == "whole" else (step - warmup) / max(1, steps - warmup)
    return end + (top - end) * 0.5 * (1 + math.cos(math.pi * phase))


def layer_of(name: str, depth: int) -> int:
    """Layer index for layer-wise decay: 0 the embedding, i + 1 block i, depth + 1 the last norm and the heads."""
    name = name.removeprefix("encoder.")
    if name.startswith("patch_embed."):
        return 0
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return depth + 1


def parameter_groups(
    model: nn.Module, *, weight_decay: float, layer_decay: float = 1.0, depth: int = 0
) -> list[dict[str, Any]]:
    """Groups for AdamW, each with `lr_scale`: no weight decay on biases, norms and other vectors; the rate of layer i
    of `layer_of` is scaled by layer_decay^(depth + 2 - i), so norm and heads get layer_decay, as in PPMA.
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer, decays = layer_of(name, depth), parameter.ndim > 1
        group = groups.setdefault(
            (layer if layer_decay != 1.0 else 0, decays),
            {
                "params": [],
                "weight_decay": weight_decay if decays else 0.0,
                "lr_scale": 1.0 if layer_decay == 1.0 else layer_decay ** (depth + 2 - layer),
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


@torch.no_grad()
def update_average(average: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    """Exponential moving average of a module's parameters, in place: average = decay * average + (1 - decay) * now."""
    now = dict(module.named_parameters())
    for name, value in average.items():
        value.lerp_(now[name], 1 - decay)
