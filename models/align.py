"""Stage 2, supervised label alignment: the encoder with one linear head a source, or one head shared by all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.models.loading import load_strictly
from understudy.models.vit import VideoViT, ViTConfig

SHARED = "all-corpora"  # no corpus's head is called so


def head_name(source: str) -> str:
    """Module name of a source's head: without a dot, and none of ModuleDict's own names, as `train` would be."""
    return "corpus-" + source.replace("%", "%25").replace(".", "%2E")


class Aligner(nn.Module):
    """Encoder and heads. With `shared_head`, label ids of all sources go to one head and collide, as in PPMA's
    released configuration; else each source has its own.
    """

    def __init__(
        self, vit: ViTConfig, classes: Mapping[str, int], *, drop_path: float = 0.1, shared_head: bool = False
    ) -> None:
        super().__init__()
        self.shared_head = shared_head
        self.encoder = VideoViT(vit, drop_path)
        for part in self.encoder.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
        sizes = {SHARED: max(classes.values())} if shared_head else {head_name(s): n for s, n in classes.items()}
        self.heads = nn.ModuleDict({name: nn.Linear(vit.width, n) for name, n in sizes.items()})
        for head in self.heads.values():
            assert isinstance(head, nn.Linear)
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)

    def load_encoder(self, weights: Mapping[str, Tensor], *, fresh_norm: bool = False) -> None:
        """Take a stage-1 encoder; with `fresh_norm` all but its last norm, as the released PPMA code does."""
        norm = {
            "norm.weight": torch.ones(self.encoder.config.width),
            "norm.bias": torch.zeros(self.encoder.config.width),
        }
        load_strictly(self.encoder, {**weights, **norm} if fresh_norm else weights, "the encoder to align")

    def forward(
        self,
        clips: Tensor,
        labels: Tensor,
        ok: Tensor,
        source: str,
        smoothing: float,
        other: Tensor | None = None,
        share: Tensor | float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of clips (N, 3, T, H, W), uint8 or normalised floats, all of `source`, a scalar; and what
        `right_answers` counts. The other arguments are `mixed_cross_entropy`'s.
        """
        head = self.heads[SHARED if self.shared_head else head_name(source)]
        logits = head(self.encoder(clips))
        loss = mixed_cross_entropy(logits, labels, ok, smoothing, other, share)
        return loss, right_answers(logits, labels, ok, other, share)


def mixed_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    ok: Tensor,
    smoothing: float,
    other: Tensor | None = None,
    share: Tensor | float = 1.0,
) -> Tensor:
    """Cross-entropy with label smoothing, a scalar: logits (N, classes), `labels` int64 (N,), `ok` bool (N,).

    Where clips were mixed with the rows `other` (N,), their own labels count for `share` (N,), others' for the rest.
    Rows that are not `ok`, or mixed with one that is not, add nothing; the mean is over all N nevertheless.
    """
    logits = logits.float()
    loss = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    if other is not None:
        partner = F.cross_entropy(logits, labels[other], reduction="none", label_smoothing=smoothing)
        loss, ok = share * loss + (1 - share) * partner, ok & ok[other]
    return (loss * ok).mean()


@torch.no_grad()
def right_answers(
    logits: Tensor, labels: Tensor, ok: Tensor, other: Tensor | None = None, share: Tensor | float = 1.0
) -> Tensor:
    """How many rows are right, and of how many, float32 (2,), on the device; arguments as in `mixed_cross_entropy`.

    A mixed row is right for `share` where its own label is called, and for the rest where its partner's is.
    """
    best = logits.argmax(dim=1)
    right = (best == labels).float()
    if other is not None:
        right, ok = share * right + (1 - share) * (best == labels[other]).float(), ok & ok[other]
    return torch.stack([(right * ok).sum(), ok.sum().float()])
