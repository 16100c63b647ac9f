"""Stage 1, masked autoencoding: random space-time masking, encoder on visible tokens, light decoder, pixel loss."""

# No `from __future__ import annotations` in this file: the Hub mixin reads the types of __init__ to rebuild configs.

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from understudy.models.vit import (
    VideoViT,
    ViTConfig,
    check_heads,
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
    """Share of tokens that are masked."""
    decoder_width: int = 384
    """Channels of the decoder's tokens."""
    decoder_depth: int = 4
    """Blocks of the decoder."""
    decoder_heads: int = 16
    """Attention heads per block of the decoder."""
    masking: Literal["random", "tube"] = "random"
    """random: anywhere in space-time (PPMA's); tube: the same places in every slice of time (VideoMAE's)."""
    decode_share: float = 1.0
    """What the decoder is asked for: 1, every masked token; 0.5, half of all tokens, in VideoMAE V2's running cells."""
    layout: Literal["ppma", "videomae"] = "ppma"
    """ppma: mask token and positions at the encoder's width, then the projection with its bias; targets divided by
    sqrt(variance + 1e-6). videomae: projection without bias, then mask token and positions at the decoder's width;
    targets divided by deviation + 1e-6. The second is what transformers' VideoMAE can load.
    """
    norm_latent: bool = True
    """The encoder's last norm before the decoder."""
    skip_holes: bool = False
    """No loss on tokens of which half or more was filled in where a person had been."""

    def __post_init__(self) -> None:
        """Refuse what was never defined."""
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio must be between 0 and 1, not {self.mask_ratio}")
        if self.decode_share not in (0.5, 1.0):
            raise ValueError(f"decode_share must be 1 or 0.5, not {self.decode_share}")
        check_heads("decoder_width", self.decoder_width, "decoder_heads", self.decoder_heads)
        if self.decoder_depth < 0:
            raise ValueError(f"decoder_depth must be 0 or more, not {self.decoder_depth}")


def visible_tokens(tokens: int, mask_ratio: float) -> int:
    """How many tokens the encoder sees: all but floor(mask_ratio * tokens)."""
    return tokens - int(mask_ratio * tokens)


def random_mask(rows: int, tokens: int, mask_ratio: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices of visible (rows, V) and of masked tokens (rows, tokens - V), int64, each uniform over space-time."""
    noise = torch.rand(rows, tokens, generator=generator, device=generator.device)
    order = noise.argsort(dim=1)
    seen = visible_tokens(tokens, mask_ratio)
    return order[:, :seen], order[:, seen:]


def tube_mask(
    rows: int, grid: tuple[int, int, int], mask_ratio: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The same with one mask of the height x width places for all of time (VideoMAE, arXiv 2203.12602)."""
    time, places = grid[0], grid[1] * grid[2]
    start = torch.arange(time, device=generator.device)[:, None] * places
    visible, masked = random_mask(rows, places, mask_ratio, generator)
    return (visible[:, None] + start).flatten(1), (masked[:, None] + start).flatten(1)


def running_cells(rows: int, grid: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Indices int64 (rows, tokens / 2) of the tokens to decode: of every 2 x 2 cell of places two, which move on by one
    from each slice of time to the next, from a random start (VideoMAE V2, arXiv 2303.16727).
    """
    height, width = grid[1:]
    if height % 2 or width % 2:
        raise ValueError(f"decoding half of the tokens needs an even grid, not {height} x {width}")
    kept = _cells_by_start(grid, generator.device)
    return kept[torch.randint(4, (rows,), generator=generator, device=kept.device)]


@cache
def _cells_by_start(grid: tuple[int, int, int], device: torch.device) -> Tensor:
    """Indices int64 (4, tokens / 2); made once, for to count them waits for the device."""
    t, y, x = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    turn = 2 * (y % 2) + x % 2 + t
    return torch.stack([((turn + start) % 4 < 2).flatten().nonzero().flatten() for start in range(4)]).to(device)


def draw_masks(
    rows: int, grid: tuple[int, int, int], config: MAEConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What the encoder sees (rows, V) and what the decoder is asked for (rows, M), int64 token indices."""
    tokens = grid[0] * grid[1] * grid[2]
    if config.masking == "tube":
        visible, asked = tube_mask(rows, grid, config.mask_ratio, generator)
    else:
        visible, asked = random_mask(rows, tokens, config.mask_ratio, generator)
    return visible, asked if config.decode_share == 1 else running_cells(rows, grid, generator)


def pixel_targets(patches: Tensor, layout: Literal["ppma", "videomae"] = "ppma") -> Tensor:
    """Targets (N, M, patch_values) of uint8 tube patches (N, M, 3, t, p, p): pixels in [0, 1], normalised per tube
    patch and channel by the unbiased variance, laid out (t, h, w, c) with c fastest.
    """
    # In levels of 0 to 255, of which the ratio is the same where the epsilon is scaled with them, and in place: these
    # are the largest tensors of stage 1 at `base`.
    x = patches.flatten(3).float()
    variance, mean = torch.var_mean(x, dim=3, keepdim=True)
    deviation = (variance + 1e-6 * 255**2).sqrt() if layout == "ppma" else variance.sqrt() + 1e-6 * 255
    return x.sub_(mean).div_(deviation).transpose(2, 3).flatten(2)


def filled_tokens(holes: Tensor, config: ViTConfig) -> Tensor:
    """Which tokens (N, tokens) were filled in to half or more, bool; `holes` uint8 (N, T, h, w), 255 for all of a part,
    has a part for every patch.
    """
    t, h, w = config.grid
    return holes.reshape(-1, t, config.tubelet, h, w).float().mean(dim=2).flatten(1) >= 127.5


class MaskedAutoencoder(nn.Module, PyTorchModelHubMixin, library_name="understudy"):
    """An encoder with a decoder that is thrown away after stage 1."""

    def __init__(self, vit: ViTConfig, mae: MAEConfig) -> None:
        super().__init__()
        self.config = mae
        self.encoder = VideoViT(vit)
        width, ppma = mae.decoder_width, mae.layout == "ppma"
        inner = vit.width if ppma else width  # where mask token and positions come in
        self.mask_token = nn.Parameter(torch.zeros(inner))
        self.register_buffer("positions", sinusoid_positions(vit.tokens, inner), persistent=False)
        self.positions: Tensor
        self.decoder_embed = nn.Linear(vit.width, width, bias=ppma)
        self.decoder_blocks = make_blocks(width, mae.decoder_depth, mae.decoder_heads, mlp_ratio=4.0, eps=vit.eps)
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6 if ppma else 1e-5)
        self.head = nn.Linear(width, vit.patch_values)
        if not mae.norm_latent:
            self.encoder.norm.requires_grad_(False)  # kept, at 1/0, for what comes after this stage
        init_xavier(self)
        nn.init.trunc_normal_(self.head.weight, std=0.02)

    def forward(self, clips: Tensor, visible: Tensor, asked: Tensor, ok: Tensor, holes: Tensor | None = None) -> Tensor:
        """Mean squared error on the tokens that were asked for and not seen, a scalar.

        `clips` uint8 (N, 3, T, H, W); `visible` (N, V) and `asked` (N, M) from `draw_masks`; `ok` bool (N,): other
        rows add nothing, and the mean is still over N, so that every sample weighs the same on any number of ranks.
        Tokens that were filled in, by `holes` (as in `filled_tokens`), add nothing to their row's mean either.
        """
        patches = to_patches(clips, self.encoder.config)
        latent = self.encoder.tokens(gather_tokens(patches, visible), visible)
        if self.config.norm_latent:
            latent = self.encoder.norm(latent)
        if self.config.layout == "ppma":
            seen, blank = latent + self.positions[visible], self.mask_token + self.positions[asked]
            x = self.decoder_embed(torch.cat([seen, blank], dim=1))
        else:
            seen = self.decoder_embed(latent) + self.positions[visible]
            x = torch.cat([seen, self.mask_token + self.positions[asked]], dim=1)
        x = self.decoder_blocks(x)
        # Visible tokens carry no loss: norm and head run on those asked for alone.
        predicted = self.head(self.decoder_norm(x[:, visible.shape[1] :]))
        target = pixel_targets(gather_tokens(patches, asked), self.config.layout)
        per_token = F.mse_loss(predicted.float(), target, reduction="none").mean(dim=2)
        if self.config.decode_share == 1 and holes is None:
            per_row = per_token.mean(dim=1)
        else:  # running cells hold tokens that the encoder saw
            counts = torch.ones(len(clips), self.encoder.config.tokens, device=clips.device).scatter_(1, visible, 0)
            if holes is not None:
                counts = counts.masked_fill(filled_tokens(holes, self.encoder.config), 0)
            weight = counts.gather(1, asked)
            per_row = (per_token * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
        return (per_row * ok).mean()
