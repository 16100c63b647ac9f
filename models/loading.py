"""One function that reads an encoder from any checkpoint: ours, a training run's, VideoMAE's or transformers'."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from understudy.models import videomae
from understudy.models.vit import VideoViT, ViTConfig, sinusoid_positions

METADATA = "understudy.vit"  # key of the encoder's config in the header of a run's safetensors files
WEIGHTS = ("model.safetensors", "encoder.safetensors")  # what a folder's weights may be called
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}  # by width: ViT-Ti, S, B, L, H, and VideoMAE V2's g
PREFIXES = ("module.", "backbone.", "trunk.", "encoder.")


def load_encoder(path: str | Path, heads: int | None = None) -> tuple[VideoViT, ViTConfig]:
    """The encoder in `path`, float32 on the CPU in eval mode, and its config.

    `path` is one of: a folder that `save_pretrained` of VideoViT, MaskedAutoencoder or VideoClassifier made; a stage of
    a run (RUN/stage2), its `encoder.safetensors`, or one of its `step-NNNNNNNN` folders; a folder of transformers'
    VideoMAE; a state dict (.safetensors, .pth, .pt) with the names of VideoMAE's or timm's ViT, of which depth, width
    and tubelet are read from the shapes, and clips of 16 x 224 x 224 and sinusoid positions are taken for granted; one
    of several under `models`, as PPMA's ensemble has them, FILE#0 or FILE#1; or the name of such a folder on the Hub
    (ORG/NAME). A last norm that the weights lack starts at 1/0.

    `heads` is for state dicts of a width that no published model has; others' number of heads is known. Raises
    ValueError with one line that says what is wrong.
    """
    path, number = _numbered(path)
    found = _local(path)
    file, settings = _parts(found)
    try:
        tensors, metadata = _read(file, number)
        if settings.get("model_type") == "videomae":
            config = videomae.vit_config(settings)
            weights = videomae.encoder_from_videomae(tensors, config.depth, config.width)
        else:
            weights = _encoder_weights(tensors)
            stored = json.loads(metadata[METADATA]) if METADATA in metadata else settings.get("vit", settings)
            config = _config(stored) if stored else _guess_config(weights, heads)
        if heads not in (None, config.heads):
            raise ValueError(f"has {config.heads} heads, not {heads}")
    except KeyError as error:
        raise ValueError(f"{found}: not an encoder's weights, {error} is missing") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{found}: {error}") from None
    encoder = VideoViT(config)
    weights = {"norm.weight": torch.ones(config.width), "norm.bias": torch.zeros(config.width)} | weights
    load_strictly(encoder, weights, str(found))
    return encoder.eval(), config


def load_strictly(module: torch.nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """`load_state_dict`, raising a ValueError of one line that names `where` and the first of what does not fit."""
    own = module.state_dict()
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in own]
    problems += [
        f"{name} is {list(weights[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ValueError(f"{where}: weights of another model: {problems[0]}{more}")
    module.load_state_dict(weights)


def header(config: ViTConfig) -> dict[str, str]:
    """Metadata for a safetensors file of encoder weights, so that the file alone is enough to load it."""
    return {METADATA: json.dumps(asdict(config))}


def _numbered(path: str | Path) -> tuple[str | Path, int | None]:
    """FILE and N of FILE#N, unless that is a name itself."""
    name, _, number = str(path).rpartition("#")
    return (name, int(number)) if name and number.isdecimal() and not Path(path).exists() else (path, None)


def _local(path: str | Path) -> Path:
    """`path` itself where it exists, else what the Hub has by that name."""
    if Path(path).exists():
        return Path(path)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        raise ValueError(f"{path}: no such file or folder")
    try:
        return Path(snapshot_download(str(path), allow_patterns=["config.json", "*.safetensors"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path}: no such folder here, and the Hub can't be asked for it ({reason})") from None


def _parts(found: Path) -> tuple[Path, dict[str, Any]]:
    """The file of weights, and what config.json beside it says, if there is one."""
    if found.is_file():
        return found, {}
    file = next((found / name for name in WEIGHTS if (found / name).is_file()), None)
    if file is None:
        raise ValueError(f"{found}: no weights in this folder; looked for {' and '.join(WEIGHTS)}")
    config = found / "config.json"
    return file, json.loads(config.read_text()) if config.is_file() else {}


def _read(file: Path, number: int | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a file of weights, or of model `number` in a file of several."""
    single = f"holds a single model; leave out #{number}"
    if file.suffix == ".safetensors":
        if number is not None:
            raise ValueError(single)
        try:
            with safe_open(file, "pt") as opened:
                metadata = opened.metadata() or {}
            return load_file(file), metadata
        except SafetensorError as error:
            raise ValueError(f"can't be read as safetensors ({error})") from None
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # a trainer's settings, beside the weights
            saved = torch.load(file, map_location="cpu", weights_only=True)  # the safe loader: tensors, no code
    except Exception as error:  # whatever a file that is no checkpoint makes of it
        if other := re.search(r"Unsupported global: GLOBAL ([\w.]+)", str(error)):
            raise ValueError(
                f"holds a {other[1]}, and to read one might run code of the file's; where you trust it, save its state "
                "dict alone: torch.save({'model': torch.load(FILE, weights_only=False)['model']}, NEW)"
            ) from None
        raise ValueError(f"can't be read as a PyTorch file ({str(error).splitlines()[0]})") from None
    for key in ("model", "module", "state_dict"):
        if isinstance(saved, dict) and isinstance(saved.get(key), dict):
            saved = saved[key]
    several = saved.get("models") if isinstance(saved, dict) else None
    if isinstance(several, list) and several:
        if number is None or number >= len(several):
            raise ValueError(f"holds {len(several)} models; say which with #0 to #{len(several) - 1} after the name")
        saved = several[number]
    elif number is not None:
        raise ValueError(single)
    if not isinstance(saved, dict) or not all(isinstance(value, Tensor) for value in saved.values()):
        raise ValueError("holds no state dict")
    return saved, {}


def _encoder_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of ours for the encoder's part of a state dict of ours, VideoMAE's or timm's; the rest is left out."""
    names = {name: name for name in tensors}
    for prefix in PREFIXES:  # of all that start with a prefix, the others (decoder, heads) are not the encoder
        if any(name.startswith(f"{prefix}blocks.") for name in names.values()):
            names = {k: name.removeprefix(prefix) for k, name in names.items() if name.startswith(prefix)}
    # OmniMAE, and PPMA after it, have a padding layer before the convolution.
    stored = {name.replace("patch_embed.proj.1.", "patch_embed.proj."): tensors[k] for k, name in names.items()}
    _check_tokens(stored)
    named = {name: tensor.float() for name, tensor in stored.items()}
    weights = {name: t for name, t in named.items() if name.startswith(("patch_embed.proj.", "blocks."))}
    norm = "fc_norm" if "fc_norm.weight" in named else "norm"
    weights |= {f"norm.{part}": named[f"{norm}.{part}"] for part in ("weight", "bias") if f"{norm}.{part}" in named}
    for name in [name for name in weights if name.endswith(".attn.q_bias")]:  # VideoMAE: keys have no bias
        query, value = weights.pop(name), weights.pop(name.replace("q_bias", "v_bias"))
        weights[name.replace("q_bias", "qkv.bias")] = torch.cat([query, torch.zeros_like(query), value])
    if "patch_embed.proj.weight" not in weights:
        raise KeyError("patch_embed.proj.weight")
    return weights


def _check_tokens(stored: Mapping[str, Tensor]) -> None:
    """Refuse a class token or learned positions: without them the features would be others, without a word."""
    if "cls_token" in stored:
        raise ValueError("has a class token; only encoders without one can be taken over")
    table = stored.get("pos_embed")
    if table is not None:
        tokens, width = table.shape[-2:]
        rounding = max(1e-4, torch.finfo(table.dtype).eps)  # of float32 as others computed it, or of what is stored
        ours = sinusoid_positions(tokens, width)
        if not torch.allclose(table.float().reshape(tokens, width), ours, rtol=0, atol=rounding):
            raise ValueError("has learned positions; only fixed sinusoids can be taken over")


def _config(stored: Mapping[str, Any]) -> ViTConfig:
    """A config from its JSON; unknown keys are an error, since they would be another model."""
    unknown = set(stored) - {field.name for field in fields(ViTConfig)}
    if unknown:
        raise ValueError(f"config has unknown keys {', '.join(sorted(unknown))}")
    return ViTConfig(**stored)


def _guess_config(weights: Mapping[str, Tensor], heads: int | None) -> ViTConfig:
    """A config from the shapes of the weights, of which the number of heads does not show."""
    patches = weights["patch_embed.proj.weight"]
    if patches.ndim != 5:
        raise ValueError(f"patch_embed.proj.weight has {patches.ndim} dimensions: an image model, not a video one")
    width, _, tubelet, patch, _ = patches.shape
    if heads is None and width not in HEADS:
        raise ValueError(
            f"no published model is {width} wide, and weights don't tell the number of heads: give it once, "
            "load_encoder(PATH, heads=N)[0].save_pretrained(FOLDER), and use FOLDER"
        )
    return ViTConfig(
        tubelet=tubelet,
        patch=patch,
        width=width,
        depth=1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks.")),
        heads=HEADS[width] if heads is None else heads,
        mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] / width,
    )
