"""Small random models of `base`'s kind, and clips for them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from understudy.models.mae import MAEConfig
from understudy.models.vit import BASE, MEAN, STD, VideoViT, ViTConfig

# `base` in all that the formats care about, three blocks deep.
SMALL = replace(BASE, frames=4, size=64, width=192, depth=3, heads=3)
DECODER = MAEConfig(mask_ratio=0.75, decoder_width=96, decoder_depth=2, decoder_heads=4)


def shake(module: nn.Module) -> None:
    """Random numbers in place of the ones and zeros of fresh norms and biases, which would hide a mix-up."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def make_encoder(config: ViTConfig = SMALL) -> VideoViT:
    torch.manual_seed(0)
    encoder = VideoViT(config).eval()
    shake(encoder)
    return encoder


def make_clips(rows: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (rows, 3, SMALL.frames, SMALL.size, SMALL.size), generator=generator).byte()


def as_transformers_sees(clips: Tensor) -> Tensor:
    mean, std = torch.tensor(MEAN).view(3, 1, 1, 1), torch.tensor(STD).view(3, 1, 1, 1)
    return ((clips.float() / 255 - mean) / std).transpose(1, 2)
