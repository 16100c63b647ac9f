"""Stage 1, masked autoencoding: random space-time masking, encoder on visible tokens, light decoder, pixel loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.models.vit import (
    VideoViT,
    ViTConfig,
    gather_tokens,
    init_xavier,
    make_blocks,
    sinusoid_positions,
    to_patches,
)


@dataclass(frozen=True)
class MAEConfig:
    """Masking and decoder; the defaults are the paper's (1,411 of 1,568 tokens masked, 157 visible)."""

    mask_ratio: float = 0.9
    decoder_width: int = 384
    decoder_depth: int = 4
    decoder_heads: int = 16


def visible_tokens(tokens: int, mask_ratio: float) -> int:
    """How many tokens the encoder sees: all but floor(mask_ratio * tokens)."""
    return tokens - int(mask_ratio * tokens)


def random_mask(rows: int, tokens: int, mask_ratio: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices of visible (rows, V) and of masked tokens (rows, tokens - V), int64, each uniform over space-time."""
    noise = torch.rand(rows, tokens, generator=generator, device=generator.device)
    order = noise.argsort(dim=1)
    seen = visible_tokens(tokens, mask_ratio)
    return order[:, :seen], order[:, seen:]


def pixel_targets(patches: Tensor) -> Tensor:
    """Targets (N, M, patch_values) of uint8 tube patches (N, M, 3, t, p, p): pixels in [0, 1], normalised per tube
    patch and channel with the unbiased variance plus 1e-6, laid out (t, h, w, c) with c fastest. As in VideoMAE.
    """
    x = patches.float().div(255).flatten(3)
    x = (x - x.mean(dim=3, keepdim=True)) / (x.var(dim=3, keepdim=True) + 1e-6).sqrt()
    return x.transpose(2, 3).flatten(2)


class MaskedAutoencoder(nn.Module):
    """An encoder with a decoder that is thrown away after stage 1."""

    def __init__(self, vit: ViTConfig, config: MAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VideoViT(vit)
        self.mask_token = nn.Parameter(torch.zeros(vit.width))
        self.register_buffer("positions", sinusoid_positions(vit.tokens, vit.width), persistent=False)
        self.positions: Tensor
        self.decoder_embed = nn.Linear(vit.width, config.decoder_width)
        self.decoder_blocks = make_blocks(
            config.decoder_width, config.decoder_depth, config.decoder_heads, mlp_ratio=4.0, drop_path=0.0
        )
        self.decoder_norm = nn.LayerNorm(config.decoder_width, eps=1e-6)
        self.head = nn.Linear(config.decoder_width, vit.patch_values)
        init_xavier(self)
        nn.init.trunc_normal_(self.head.weight, std=0.02)

    def forward(self, clips: Tensor, visible: Tensor, masked: Tensor, ok: Tensor) -> Tensor:
        """Mean squared error on masked patches, a scalar.

        `clips` uint8 (N, 3, T, H, W); `visible` (N, V) and `masked` (N, M) from `random_mask`; `ok` bool (N,): other
        rows add nothing, and the mean is still over N, so that every sample weighs the same on any number of ranks.
        """
        patches = to_patches(clips, self.encoder.config)
        latent = self.encoder.norm(self.encoder.tokens(gather_tokens(patches, visible), visible))
        tokens = torch.cat(
            [
                latent + self.positions[visible],
                self.mask_token + self.positions[masked],
            ],
            dim=1,
        )
        x = self.decoder_embed(tokens)
        for block in self.decoder_blocks:
            x = block(x)
        # Visible tokens carry no loss: norm and head run on the masked ones alone.
        predicted = self.head(self.decoder_norm(x[:, visible.shape[1] :]))
        target = pixel_targets(gather_tokens(patches, masked))
        per_row = F.mse_loss(predicted.float(), target, reduction="none").mean(dim=(1, 2))
        return (per_row * ok).mean()
