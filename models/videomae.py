"""Names and shapes of transformers' VideoMAE, both ways: state dicts and configs, as plain dictionaries.

Nothing here imports transformers; `transformers_io.py` does, and makes its models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from understudy.models.mae import MAEConfig
from understudy.models.vit import ViTConfig

# One transformer block, ours -> theirs; q, k and v are one matrix here and three there.
BLOCK = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
PATCHES = "embeddings.patch_embeddings.projection"
POOL_EPS = 1e-5  # of fc_norm and of the decoder's norm there, whatever the config says


def vit_config(config: Mapping[str, Any]) -> ViTConfig:
    """Our encoder's config from the JSON of a VideoMAE. Raises ValueError where it has what ours can't express."""
    known = {
        "num_channels": 3,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    for key, value in known.items():
        if config.get(key, value) != value:
            raise ValueError(f"this VideoMAE has {key} {config[key]!r}; only {value!r} can be taken over")
    for key in ("image_size", "patch_size"):
        if not isinstance(config.get(key, 0), int):
            raise ValueError(
                f"this VideoMAE has {key} {config[key]}; only squares, given as one number, can be taken over"
            )
    pooled, eps = config.get("use_mean_pooling", True), config.get("layer_norm_eps", 1e-12)
    width = config.get("hidden_size", 768)
    return ViTConfig(
        frames=config.get("num_frames", 16),
        size=config.get("image_size", 224),
        tubelet=config.get("tubelet_size", 2),
        patch=config.get("patch_size", 16),
        width=width,
        depth=config.get("num_hidden_layers", 12),
        heads=config.get("num_attention_heads", 12),
        mlp_ratio=config.get("intermediate_size", 3072) / width,
        pool="mean" if pooled else "first",
        eps=eps,
        final_eps=POOL_EPS if pooled else eps,
    )


def mae_config(config: Mapping[str, Any], mask_ratio: float = 0.9) -> MAEConfig:
    """Our autoencoder's config from the JSON of a VideoMAE, which doesn't say how much was masked."""
    width = config.get("decoder_hidden_size", 384)
    if config.get("decoder_intermediate_size", 1536) != 4 * width or not config.get("norm_pix_loss", True):
        raise ValueError("only a decoder with an MLP of 4 x its width and normalised targets can be taken over")
    return MAEConfig(
        mask_ratio=mask_ratio,
        decoder_width=width,
        decoder_depth=config.get("decoder_num_hidden_layers", 4),
        decoder_heads=config.get("decoder_num_attention_heads", 6),
        layout="videomae",
        norm_latent=not config.get("use_mean_pooling", True),
    )


def videomae_config(vit: ViTConfig, mae: MAEConfig | None = None, classes: int = 0) -> dict[str, Any]:
    """Keyword arguments of transformers' VideoMAEConfig. Raises ValueError where it can't express ours."""
    config: dict[str, Any] = {
        "num_frames": vit.frames,
        "image_size": vit.size,
        "tubelet_size": vit.tubelet,
        "patch_size": vit.patch,
        "hidden_size": vit.width,
        "num_hidden_layers": vit.depth,
        "num_attention_heads": vit.heads,
        "intermediate_size": round(vit.mlp_ratio * vit.width),
        "layer_norm_eps": vit.eps,
        "use_mean_pooling": vit.pool == "mean" if mae is None else not mae.norm_latent,
    }
    if classes:
        config["num_labels"] = classes
    if mae is not None:
        if mae.layout != "videomae":
            raise ValueError(
                "transformers' decoder adds positions after its projection, PPMA's before: only an autoencoder with "
                "MAEConfig(layout='videomae') has an equal there; share the encoder instead"
            )
        config |= {
            "decoder_hidden_size": mae.decoder_width,
            "decoder_num_hidden_layers": mae.decoder_depth,
            "decoder_num_attention_heads": mae.decoder_heads,
            "decoder_intermediate_size": 4 * mae.decoder_width,
        }
    return config


def encoder_from_videomae(theirs: Mapping[str, Tensor], depth: int, width: int) -> dict[str, Tensor]:
    """State dict of our VideoViT from theirs, of VideoMAEModel or of a model around it. A missing last norm is 1/0."""
    inner = {name.removeprefix("videomae."): tensor for name, tensor in theirs.items()}
    ours = _renamed(inner, PATCHES, "patch_embed.proj")
    for i in range(depth):
        ours |= block_from_videomae(inner, f"encoder.layer.{i}.", f"blocks.{i}.")
    norm = next((name for name in ("fc_norm", "layernorm") if f"{name}.weight" in inner), None)
    ours |= (
        {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
        if norm is None
        else _renamed(inner, norm, "norm")
    )
    return ours


def decoder_from_videomae(theirs: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The rest of our MaskedAutoencoder's state dict, from that of VideoMAEForPreTraining."""
    ours = {"mask_token": theirs["mask_token"].flatten(), "decoder_embed.weight": theirs["encoder_to_decoder.weight"]}
    for i in range(depth):
        ours |= block_from_videomae(theirs, f"decoder.decoder_layers.{i}.", f"decoder_blocks.{i}.")
    return ours | _renamed(theirs, "decoder.norm", "decoder_norm") | _renamed(theirs, "decoder.head", "head")


def encoder_to_videomae(ours: Mapping[str, Tensor], depth: int, norm: str | None) -> dict[str, Tensor]:
    """The inverse of `encoder_from_videomae`; the last norm goes by the name `norm` there, or nowhere."""
    theirs = _renamed(ours, "patch_embed.proj", f"videomae.{PATCHES}")
    for i in range(depth):
        theirs |= block_to_videomae(ours, f"blocks.{i}.", f"videomae.encoder.layer.{i}.")
    return theirs if norm is None else theirs | _renamed(ours, "norm", norm)


def decoder_to_videomae(ours: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The inverse of `decoder_from_videomae`."""
    theirs = {
        "mask_token": ours["mask_token"].view(1, 1, -1),
        "encoder_to_decoder.weight": ours["decoder_embed.weight"],
    }
    for i in range(depth):
        theirs |= block_to_videomae(ours, f"decoder_blocks.{i}.", f"decoder.decoder_layers.{i}.")
    return theirs | _renamed(ours, "decoder_norm", "decoder.norm") | _renamed(ours, "head", "decoder.head")


def block_from_videomae(theirs: Mapping[str, Tensor], prefix: str, target: str) -> dict[str, Tensor]:
    """One block. Keys have no bias there; where queries and values have none either, ours are zero."""
    attention = f"{prefix}attention.attention."
    weight = torch.cat([theirs[f"{attention}{part}.weight"] for part in ("query", "key", "value")])
    zeros = weight.new_zeros(len(weight) // 3)
    # Files made before transformers 5 name the biases q_bias and v_bias.
    query = theirs.get(f"{attention}query.bias", theirs.get(f"{attention}q_bias", zeros))
    value = theirs.get(f"{attention}value.bias", theirs.get(f"{attention}v_bias", zeros))
    ours = {f"{target}attn.qkv.weight": weight, f"{target}attn.qkv.bias": torch.cat([query, zeros, value])}
    for own, their in BLOCK.items():
        ours |= _renamed(theirs, prefix + their, target + own)
    return ours


def block_to_videomae(ours: Mapping[str, Tensor], prefix: str, target: str) -> dict[str, Tensor]:
    """One block. Dropping the keys' bias changes nothing: it adds the same to a query's scores of all keys, and the
    softmax is blind to that.
    """
    attention = f"{target}attention.attention."
    weight, bias = ours[f"{prefix}attn.qkv.weight"].chunk(3), ours[f"{prefix}attn.qkv.bias"].chunk(3)
    theirs = {f"{attention}{part}.weight": weight[i] for i, part in enumerate(("query", "key", "value"))}
    theirs |= {f"{attention}query.bias": bias[0], f"{attention}value.bias": bias[2]}
    for own, their in BLOCK.items():
        theirs |= _renamed(ours, prefix + own, target + their)
    return theirs


def _renamed(tensors: Mapping[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    """The weight and the bias of one layer under another name."""
    return {f"{new}.{part}": tensors[f"{old}.{part}"] for part in ("weight", "bias")}
