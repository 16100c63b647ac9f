"""The adaptive average: one encoder whose weights are a learned mixture of those of several frozen ones.

PPMA averages the encoder that was aligned on synthetic videos with the one aligned on videos without humans, and
learns the mixture together with the head of the downstream task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from understudy.models.vit import VideoViT

Mixing = Literal["tensor", "model"]


class AdaptiveAverage(nn.Module):
    """Features of clips from weights sum_k softmax(m)_k * theta_k, where theta_k are the encoders' and m is learned.

    `mixing` "model" learns a single m, as PPMA's script does, "tensor" one for every parameter tensor; both start as
    the plain average. Paths are dropped in training, up to `drop_path`. The state dict holds m alone.
    """

    def __init__(self, encoders: Sequence[VideoViT], mixing: Mixing = "model", drop_path: float = 0.0) -> None:
        super().__init__()
        self.config = encoders[0].config
        if any(encoder.config != self.config for encoder in encoders):
            raise ValueError("encoders of different shapes can't be averaged")
        states = [dict(encoder.named_parameters()) for encoder in encoders]
        self.names = tuple(states[0])
        self._single = mixing == "model"
        self.mixing = nn.Parameter(torch.ones(1 if self._single else len(self.names), len(encoders)))
        # In a list, so as not to be a part of this.
        self._template = [VideoViT(self.config, drop_path).requires_grad_(False)]
        for number, name in enumerate(self.names):
            stacked = torch.stack([state[name].detach() for state in states])
            self.register_buffer(f"theta{number}", stacked, persistent=False)

    def weights(self) -> dict[str, Tensor]:
        """The mixture's parameters by name, differentiable in `mixing`, in their own precision also under autocast."""
        with torch.autocast(self.mixing.device.type, enabled=False):
            shares = self.mixing.softmax(dim=1).expand(len(self.names), -1)
            thetas: list[Tensor] = [getattr(self, f"theta{number}") for number in range(len(self.names))]
            return {name: torch.tensordot(share, theta, 1) for name, share, theta in zip(self.names, shares, thetas)}

    def forward(self, clips: Tensor) -> Tensor:
        """Features (N, width) of clips (N, 3, T, H, W), with gradients for `mixing` alone."""
        template = self._template[0].to(clips.device).train(self.training)
        return functional_call(template, self.weights(), (clips,))

    @torch.no_grad()
    def merged(self) -> VideoViT:
        """The mixture as an encoder of its own, on the CPU."""
        encoder = VideoViT(self.config)
        encoder.load_state_dict({name: tensor.cpu() for name, tensor in self.weights().items()})
        return encoder.eval()
