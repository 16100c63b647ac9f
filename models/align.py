"""Stage 2, supervised label alignment: the encoder with one linear head a source, or one head shared by all."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from understudy.models.vit import VideoViT, ViTConfig

SHARED = "shared"


def head_name(source: str) -> str:
    """Module name of a source's head; a module name can't hold a dot."""
    return source.replace(".", "_")


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

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Take a stage-1 encoder, its last norm excepted: PPMA's alignment starts with a fresh one."""
        kept = {name: tensor for name, tensor in weights.items() if not name.startswith("norm.")}
        missing, unexpected = self.encoder.load_state_dict(kept, strict=False)
        if unexpected or set(missing) - {"norm.weight", "norm.bias"}:
            raise ValueError(f"not this encoder's weights: missing {missing}, unexpected {unexpected}")

    def forward(self, clips: Tensor, labels: Tensor, ok: Tensor, source: str, smoothing: float) -> Tensor:
        """Cross-entropy with label smoothing, a scalar; `clips` uint8 (N, 3, T, H, W), `labels` int64 (N,), all of
        `source`; rows that are not `ok` add nothing.
        """
        head = self.heads[SHARED if self.shared_head else head_name(source)]
        logits = head(self.encoder(clips))
        per_row = F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)
        return (per_row * ok).mean()
