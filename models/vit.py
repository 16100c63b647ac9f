"""The video transformer encoder: tubelet embedding, fixed sinusoid positions, timm's blocks, pool then norm.

Its objectives live in `mae.py` and `align.py`; nothing here knows where clips come from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

# ImageNet statistics on [0, 1] RGB, the normalisation of VideoMAE and PPMA.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ViTConfig:
    """Shape of the encoder. A clip is 3 x `frames` x `size` x `size`; a token covers `tubelet` x `patch` x `patch`."""

    frames: int = 16
    size: int = 224
    tubelet: int = 2
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        """Refuse shapes that do not divide."""
        if self.frames % self.tubelet or self.size % self.patch or self.width % self.heads or self.width % 2:
            raise ValueError(f"frames/tubelet, size/patch and width/heads must divide, and width be even: {self}")

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along time, height and width."""
        return self.frames // self.tubelet, self.size // self.patch, self.size // self.patch

    @property
    def tokens(self) -> int:
        """Tokens of a whole clip (1,568 for `base`)."""
        t, h, w = self.grid
        return t * h * w

    @property
    def patch_values(self) -> int:
        """Values in one tube patch (1,536 for `base`)."""
        return 3 * self.tubelet * self.patch * self.patch


# `base` is the paper's; `small` its ViT-S sibling; `demo` trains on two CPU cores in minutes.
BASE = ViTConfig()
SMALL = replace(BASE, width=384, heads=6)
DEMO = ViTConfig(frames=8, size=48, tubelet=2, patch=12, width=128, depth=4, heads=2)


def sinusoid_positions(tokens: int, width: int) -> Tensor:
    """Fixed position table, float32 (tokens, width): angle pos / 10000^(2*floor(j/2)/width), sine on even j,
    cosine on odd j, over the flattened (t, h, w) index. As in VideoMAE.
    """
    position = torch.arange(tokens, dtype=torch.float64)[:, None]
    j = torch.arange(width, dtype=torch.float64)
    angle = position / 10000 ** (2 * (j // 2) / width)
    return torch.where(j.long() % 2 == 0, angle.sin(), angle.cos()).float()


def to_patches(clips: Tensor, config: ViTConfig) -> Tensor:
    """Cut clips (N, 3, T, H, W) into tube patches (N, tokens, 3, tubelet, patch, patch) of the same dtype,
    tokens t-major, then h, then w.
    """
    t, h, w = config.grid
    x = clips.reshape(-1, 3, t, config.tubelet, h, config.patch, w, config.patch)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(-1, config.tokens, 3, config.tubelet, config.patch, config.patch)


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Pick tokens `index` (N, M) out of `x` (N, tokens, ...); result (N, M, ...)."""
    return x[torch.arange(len(x), device=x.device)[:, None], index]


def normalise(patches: Tensor) -> Tensor:
    """uint8 tube patches (..., 3, t, p, p) to float32 with ImageNet mean and deviation."""
    mean = torch.tensor(MEAN, device=patches.device)[:, None, None, None] * 255
    std = torch.tensor(STD, device=patches.device)[:, None, None, None] * 255
    return (patches.float() - mean) / std


def make_blocks(width: int, depth: int, heads: int, mlp_ratio: float, drop_path: float) -> nn.ModuleList:
    """timm's pre-norm blocks with q, k, v biases, epsilon 1e-6, drop path rising linearly to `drop_path`."""
    norm = cast("type[nn.Module]", partial(nn.LayerNorm, eps=1e-6))
    rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
    return nn.ModuleList(
        Block(width, heads, mlp_ratio, qkv_bias=True, drop_path=rate, norm_layer=norm) for rate in rates
    )


class VideoViT(nn.Module):
    """ViT over tube patches without a class token. Parameter names follow timm (`patch_embed.proj`, `blocks.0`,
    `norm`); the convolution's weight is applied as a matrix product, so that only visible patches are embedded.
    """

    def __init__(self, config: ViTConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        self.config = config
        kernel = (config.tubelet, config.patch, config.patch)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, config.width, kernel, stride=kernel)})
        self.register_buffer("positions", sinusoid_positions(config.tokens, config.width), persistent=False)
        self.positions: Tensor
        self.blocks = make_blocks(config.width, config.depth, config.heads, config.mlp_ratio, drop_path)
        self.norm = nn.LayerNorm(config.width, eps=1e-6)

    def tokens(self, patches: Tensor, index: Tensor | None = None) -> Tensor:
        """Run uint8 tube patches (N, M, 3, t, p, p) through the blocks; result (N, M, width), before the last norm.

        `index` (N, M) says which tokens of the clip they are; None means all of them in order.
        """
        proj = self.patch_embed["proj"]
        assert isinstance(proj, nn.Conv3d)
        x = F.linear(normalise(patches).flatten(2), proj.weight.flatten(1), proj.bias)
        x = x + (self.positions if index is None else self.positions[index])
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, clips: Tensor) -> Tensor:
        """Features (N, width) of uint8 clips (N, 3, T, H, W): mean over tokens, then LayerNorm."""
        return self.norm(self.tokens(to_patches(clips, self.config)).mean(dim=1))


def init_xavier(module: nn.Module) -> None:
    """Initialisation for masked pre-training: Xavier-uniform weights, zero biases, also for the tubelet embedding."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Conv3d):
            nn.init.xavier_uniform_(part.weight.view(part.out_channels, -1))
