"""The video transformer, the masked autoencoder, alignment heads and probes, and the ways in which they are shared."""

from understudy.models.classify import VideoClassifier
from understudy.models.loading import load_encoder
from understudy.models.mae import MAEConfig, MaskedAutoencoder
from understudy.models.vit import BASE, DEMO, SMALL, VideoViT, ViTConfig
from understudy.models.whole import load_autoencoder, load_classifier

__all__ = [
    "BASE",
    "DEMO",
    "SMALL",
    "MAEConfig",
    "MaskedAutoencoder",
    "ViTConfig",
    "VideoClassifier",
    "VideoViT",
    "load_autoencoder",
    "load_classifier",
    "load_encoder",
]
