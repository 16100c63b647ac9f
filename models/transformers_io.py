"""Models handed to and taken from transformers: VideoMAEForVideoClassification and VideoMAEForPreTraining.

Needs `pip install -e ".[transformers]"` in the checkout. Names and shapes are in `videomae.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification

from understudy.models import videomae
from understudy.models.classify import VideoClassifier
from understudy.models.loading import load_strictly
from understudy.models.mae import MaskedAutoencoder


def classifier_to_transformers(
    model: VideoClassifier, class_names: Sequence[str] | None = None
) -> VideoMAEForVideoClassification:
    """The same function of normalised clips (N, T, 3, H, W): logits agree to rounding.

    transformers always builds the norm after mean pooling with epsilon 1e-5. The model that is returned has ours set
    on it; saved and loaded again it has 1e-5, which scales its features by sqrt((v + 1e-6) / (v + 1e-5)) for pooled
    tokens of variance v. Set `model.fc_norm.eps = 1e-6` after `from_pretrained` to be rid of that.
    """
    if not isinstance(model.head, nn.Linear):
        raise ValueError("a classifier without classes has no equal in transformers; give it some first")
    names = list(class_names) if class_names else [str(i) for i in range(model.num_classes)]
    if len(names) != model.num_classes:
        raise ValueError(f"{len(names)} class names for {model.num_classes} classes")
    config = model.encoder.config
    theirs = VideoMAEForVideoClassification(
        VideoMAEConfig(
            **videomae.videomae_config(config),
            id2label=dict(enumerate(names)),
            label2id={name: i for i, name in enumerate(names)},
        )
    )
    norm = "fc_norm" if config.pool == "mean" else "videomae.layernorm"
    weights = videomae.encoder_to_videomae(model.encoder.state_dict(), config.depth, norm)
    head = {"classifier.weight": model.head.weight.detach(), "classifier.bias": model.head.bias.detach()}
    _fill(theirs, weights | head)
    if config.pool == "mean":
        assert theirs.fc_norm is not None
        theirs.fc_norm.eps = config.final_eps
    elif config.final_eps != config.eps:
        raise ValueError("transformers has one epsilon for the blocks and the last norm when it pools the first token")
    return theirs.eval()


def classifier_from_transformers(theirs: VideoMAEForVideoClassification) -> VideoClassifier:
    """The same function, with or without mean pooling: logits agree to rounding."""
    config = videomae.vit_config(theirs.config.to_dict())
    found = theirs.state_dict()
    model = VideoClassifier(config, len(found["classifier.bias"]))
    encoder = videomae.encoder_from_videomae(found, config.depth, config.width)
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    head = {"head.weight": found["classifier.weight"], "head.bias": found["classifier.bias"]}
    load_strictly(model, weights | head, "import from transformers")
    return model.eval()


def autoencoder_to_transformers(model: MaskedAutoencoder) -> VideoMAEForPreTraining:
    """The same loss for the same masks; only for `MAEConfig(layout="videomae", decode_share=1)`."""
    config = model.encoder.config
    theirs = VideoMAEForPreTraining(VideoMAEConfig(**videomae.videomae_config(config, model.config)))
    own = model.state_dict()
    encoder = {name.removeprefix("encoder."): tensor for name, tensor in own.items() if name.startswith("encoder.")}
    norm = "videomae.layernorm" if model.config.norm_latent else None
    weights = videomae.encoder_to_videomae(encoder, config.depth, norm)
    weights |= videomae.decoder_to_videomae(own, model.config.decoder_depth)
    _fill(theirs, weights)
    return theirs.eval()


def autoencoder_from_transformers(theirs: VideoMAEForPreTraining, mask_ratio: float = 0.9) -> MaskedAutoencoder:
    """The same loss for the same masks, with or without mean pooling (that is, without or with the last norm)."""
    settings = theirs.config.to_dict()
    vit, mae = videomae.vit_config(settings), videomae.mae_config(settings, mask_ratio)
    model = MaskedAutoencoder(vit, mae)
    found = theirs.state_dict()
    encoder = videomae.encoder_from_videomae(found, vit.depth, vit.width)
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    weights |= videomae.decoder_from_videomae(found, mae.decoder_depth)
    load_strictly(model, weights, "import from transformers")
    return model.eval()


def _fill(theirs: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load `weights`, whose names are those of transformers 5.23, into any transformers 5."""
    wanted = theirs.state_dict()
    for name in list(weights):
        earlier = name.replace("query.bias", "q_bias").replace("value.bias", "v_bias")
        if earlier != name and earlier in wanted:
            weights[earlier] = weights.pop(name)
    for name in wanted:
        if name.endswith("key.bias") and name not in weights:
            weights[name] = torch.zeros_like(wanted[name])
    load_strictly(theirs, weights, "export to transformers")
