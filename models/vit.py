"""The video transformer encoder: tubelet embedding, fixed sinusoid positions, timm's blocks, pool then norm.

Its objectives live in `mae.py`, `align.py` and `classify.py`; nothing here knows where clips come from.
"""

# No `from __future__ import annotations` in this file: the Hub mixin reads the types of __init__ to rebuild a config.

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# ImageNet statistics on [0, 1] RGB, the normalisation of VideoMAE and PPMA.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def check_heads(width_name: str, width: int, heads_name: str, heads: int) -> None:
    """Raise ValueError where so many attention heads don't divide a width."""
    if width < 1 or heads < 1 or width % heads:
        raise ValueError(f"{heads_name} {heads} must divide {width_name} {width}; change one of the two")


@dataclass(frozen=True)
class ViTConfig:
    """Shape of the encoder. A clip is 3 x `frames` x `size` x `size`; a token covers `tubelet` x `patch` x `patch`.

    The last three fields are PPMA's unless weights of another origin need others: see `videomae.py`.
    """

    frames: int = 16
    """Frames of a clip."""
    size: int = 224
    """Side of a clip in pixels."""
    tubelet: int = 2
    """Frames per token."""
    patch: int = 16
    """Side of a token in pixels."""
    width: int = 768
    """Channels of a token."""
    depth: int = 12
    """Transformer blocks."""
    heads: int = 12
    """Attention heads per block."""
    mlp_ratio: float = 4.0
    """Width of the blocks' MLPs, in units of `width`."""
    pool: Literal["mean", "first"] = "mean"
    """Features of a clip: the norm of the tokens' mean, or the first token of the normed ones."""
    eps: float = 1e-6
    """Epsilon of the blocks' LayerNorms."""
    final_eps: float = 1e-6
    """Epsilon of the last LayerNorm."""

    def __post_init__(self) -> None:
        """Refuse shapes that do not divide."""
        if min(self.frames, self.size, self.tubelet, self.patch, self.width, self.heads) < 1:
            raise ValueError(f"numbers of frames, pixels, channels and heads must be 1 or more: {self}")
        if self.frames % self.tubelet or self.size % self.patch or self.width % 2:
            raise ValueError(f"frames/tubelet and size/patch must divide, and width be even: {self}")
        check_heads("width", self.width, "heads", self.heads)

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
    # Bytes are moved in eights where they can be: one at a time takes several times as long.
    wide = clips.dtype == torch.uint8 and config.patch % 8 == 0 and clips.is_contiguous()
    x, along = (clips.view(torch.int64), config.patch // 8) if wide else (clips, config.patch)
    x = x.reshape(-1, 3, t, config.tubelet, h, config.patch, w, along).permute(0, 2, 4, 6, 1, 3, 5, 7)
    return x.reshape(-1, config.tokens, 3, config.tubelet, config.patch, along).view(clips.dtype)


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Pick tokens `index` (N, M) out of `x` (N, tokens, ...); result (N, M, ...)."""
    rows = (index + torch.arange(len(x), device=x.device)[:, None] * x.shape[1]).flatten()
    flat = x.flatten(0, 1).flatten(1)
    wide = x.dtype == torch.uint8 and flat.shape[1] % 8 == 0 and flat.is_contiguous()
    picked = (flat.view(torch.int64) if wide else flat).index_select(0, rows)
    return picked.view(x.dtype).view(*index.shape, *x.shape[2:])


class Blocks(nn.ModuleList):
    """Transformer blocks in a row. With `recomputed` only what goes into each is kept for the backward pass, where the
    rest is computed again, drop path as it was drawn.
    """

    recomputed = False

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, M, width) after all blocks."""
        for block in self:
            x = cast(Tensor, checkpoint(block, x, use_reentrant=False)) if self.recomputed else block(x)
        return x


def checkpoint_activations(module: nn.Module) -> None:
    """Let all blocks in `module` compute their activations again instead of keeping them: a third more arithmetic."""
    for part in module.modules():
        if isinstance(part, Blocks):
            part.recomputed = True


def make_blocks(
    width: int, depth: int, heads: int, mlp_ratio: float, drop_path: float = 0.0, eps: float = 1e-6
) -> Blocks:
    """timm's pre-norm blocks with q, k, v biases, drop path rising linearly to `drop_path`."""
    norm = cast("type[nn.Module]", partial(nn.LayerNorm, eps=eps))
    rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
    return Blocks(Block(width, heads, mlp_ratio, qkv_bias=True, drop_path=rate, norm_layer=norm) for rate in rates)


class VideoViT(nn.Module, PyTorchModelHubMixin, library_name="understudy"):
    """ViT over tube patches without a class token. Parameter names follow timm (`patch_embed.proj`, `blocks.0`,
    `norm`); the convolution's weight is applied as a matrix product, so that only visible patches are embedded.
    `save_pretrained`, `from_pretrained` and `push_to_hub` are the Hub mixin's: safetensors and a config.json.
    """

    def __init__(self, config: ViTConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        self.config = config
        kernel = (config.tubelet, config.patch, config.patch)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, config.width, kernel, stride=kernel)})
        self.register_buffer("positions", sinusoid_positions(config.tokens, config.width), persistent=False)
        self.positions: Tensor
        # ImageNet's statistics on the device, where making them anew in every step would wait for it.
        self.register_buffer("pixel_mean", 255 * torch.tensor(MEAN).view(3, 1, 1, 1), persistent=False)
        self.pixel_mean: Tensor
        self.register_buffer("pixel_std", 255 * torch.tensor(STD).view(3, 1, 1, 1), persistent=False)
        self.pixel_std: Tensor
        self.blocks = make_blocks(config.width, config.depth, config.heads, config.mlp_ratio, drop_path, config.eps)
        self.norm = nn.LayerNorm(config.width, eps=config.final_eps)

    def tokens(self, patches: Tensor, index: Tensor | None = None) -> Tensor:
        """Run tube patches (N, M, 3, t, p, p), uint8 or normalised floats, through the blocks; result (N, M, width),
        before the last norm. `index` (N, M) says which tokens of the clip they are; None means all of them in order.
        """
        proj = self.patch_embed["proj"]
        assert isinstance(proj, nn.Conv3d)
        if not patches.is_floating_point():
            patches = (patches.float() - self.pixel_mean) / self.pixel_std
        x = F.linear(patches.flatten(2), proj.weight.flatten(1), proj.bias)
        del patches  # a gigabyte of floats in stage 2 of `base`, which would live as long as the blocks run
        x = x + (self.positions if index is None else self.positions[index])
        return self.blocks(x)

    def forward(self, clips: Tensor) -> Tensor:
        """Features (N, width) of clips (N, 3, T, H, W), uint8 RGB or floats that are normalised already."""
        tokens = self.tokens(to_patches(clips, self.config))
        return self.norm(tokens.mean(dim=1)) if self.config.pool == "mean" else self.norm(tokens)[:, 0]


def init_xavier(module: nn.Module) -> None:
    """Initialisation for masked pre-training, as PPMA's: Xavier-uniform weights, zero biases; of the tubelet embedding
    the weights too, but its bias stays as PyTorch draws it.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Conv3d):
            nn.init.xavier_uniform_(part.weight.view(part.out_channels, -1))
