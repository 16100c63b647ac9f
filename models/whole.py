"""All that a stage trained, in one file: what its header says, and reading the model again that it is of.

A masked autoencoder keeps its decoder so, and an aligned encoder the head of each corpus.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from understudy.models.align import SHARED, Aligner, head_name
from understudy.models.classify import VideoClassifier
from understudy.models.loading import METADATA, header, load_strictly
from understudy.models.mae import MAEConfig, MaskedAutoencoder
from understudy.models.vit import ViTConfig

MODEL = "model.safetensors"
DECODER, CLASSES = "understudy.mae", "understudy.classes"  # keys of the header, beside the encoder's own


def whole_header(module: MaskedAutoencoder | Aligner, classes: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Metadata for a safetensors file of all weights of `module`; `classes` are the class names of every corpus."""
    if isinstance(module, MaskedAutoencoder):
        own = {DECODER: json.dumps(asdict(module.config))}
    else:
        own = {CLASSES: json.dumps({corpus: list(names) for corpus, names in classes.items()})}
    return {**header(module.encoder.config), **own}


def load_autoencoder(stage: str | Path) -> MaskedAutoencoder:
    """The masked autoencoder that a stage of a run trained, its decoder included, in eval mode. Raises ValueError."""
    weights, about = _read(Path(stage))
    if DECODER not in about:
        raise ValueError(f"{stage}: not of masked autoencoding, so that it has no decoder; name a stage1")
    model = MaskedAutoencoder(ViTConfig(**json.loads(about[METADATA])), MAEConfig(**json.loads(about[DECODER])))
    load_strictly(model, weights, str(stage))
    return model.eval()


def load_classifier(stage: str | Path, corpus: str) -> tuple[VideoClassifier, list[str]]:
    """The encoder that a stage of a run aligned with its head for `corpus`, in eval mode, and the names of the classes.

    Of a head that all corpora share, the outputs that `corpus` has labels for. Raises ValueError.
    """
    weights, about = _read(Path(stage))
    classes: dict[str, list[str]] = json.loads(about.get(CLASSES, "{}"))
    if corpus not in classes:
        known = f"it has heads for {', '.join(classes)}" if classes else "it was not aligned, name a stage2"
        raise ValueError(f"{stage}: no head for a corpus {corpus!r}; {known}")
    model = VideoClassifier(ViTConfig(**json.loads(about[METADATA])), len(classes[corpus]))
    own = {name: tensor for name, tensor in weights.items() if name.startswith("encoder.")}
    head = f"heads.{SHARED}" if f"heads.{SHARED}.weight" in weights else f"heads.{head_name(corpus)}"
    if f"{head}.weight" not in weights:
        raise ValueError(f"{stage}: has no {head}, so that another version wrote it; train it again")
    for part in ("weight", "bias"):
        own[f"head.{part}"] = weights[f"{head}.{part}"][: len(classes[corpus])]
    load_strictly(model, own, str(stage))
    return model.eval(), classes[corpus]


def _read(stage: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    file = stage / MODEL if stage.is_dir() else stage
    try:
        with safe_open(file, "pt") as opened:
            about = opened.metadata() or {}
        if METADATA not in about:
            raise ValueError(f"{file}: not written by a stage of a run")
        return load_file(file), about
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file}: can't be read ({error}); name a finished stage of a run") from None
