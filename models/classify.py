"""One encoder with one linear head: the model that is shared, and that timm makes by name."""

# No `from __future__ import annotations` in this file: the Hub mixin reads the types of __init__ to rebuild configs.

from typing import Any

from huggingface_hub import PyTorchModelHubMixin
from timm.models import register_model
from torch import Tensor, nn

from understudy.models.vit import BASE, MEAN, SMALL, STD, VideoViT, ViTConfig


class VideoClassifier(nn.Module, PyTorchModelHubMixin, library_name="understudy"):
    """Class logits of clips; with no classes, their features. Methods are named as timm's models name them."""

    def __init__(self, vit: ViTConfig, num_classes: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.encoder = VideoViT(vit, drop_path)
        self.num_features = vit.width
        self.pretrained_cfg = {
            "input_size": (3, vit.frames, vit.size, vit.size),
            "mean": MEAN,
            "std": STD,
            "num_classes": num_classes,
            "first_conv": "encoder.patch_embed.proj",
            "classifier": "head",
        }
        self.reset_classifier(num_classes)

    def forward_features(self, clips: Tensor) -> Tensor:
        """Features (N, width) of clips (N, 3, T, H, W), uint8 RGB or floats that are normalised already."""
        return self.encoder(clips)

    def forward(self, clips: Tensor) -> Tensor:
        """Logits (N, num_classes), or features (N, width) where there are no classes."""
        return self.head(self.forward_features(clips))

    def get_classifier(self) -> nn.Module:
        """The linear head, or an identity."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """A new head, weights N(0, 0.01) and biases 0, as PPMA's; none for 0 classes."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        if isinstance(self.head, nn.Linear):
            nn.init.normal_(self.head.weight, std=0.01)
            nn.init.zeros_(self.head.bias)


@register_model
def understudy_base(pretrained: bool = False, **kwargs: Any) -> VideoClassifier:
    """PPMA's ViT-B on 16 x 224 x 224: `timm.create_model("understudy_base", num_classes=0)`."""
    return _create(BASE, pretrained, **kwargs)


@register_model
def understudy_small(pretrained: bool = False, **kwargs: Any) -> VideoClassifier:
    """Its ViT-S sibling."""
    return _create(SMALL, pretrained, **kwargs)


def _create(
    vit: ViTConfig,
    pretrained: bool,
    *,
    num_classes: int = 1000,
    drop_path_rate: float = 0.0,
    pretrained_cfg: object = None,
    pretrained_cfg_overlay: object = None,
    cache_dir: object = None,
) -> VideoClassifier:
    if pretrained:
        raise ValueError("no weights are published under this name; load yours with understudy.models.load_encoder")
    return VideoClassifier(vit, num_classes, drop_path_rate)
