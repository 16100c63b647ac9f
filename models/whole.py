"""All that a stage trained, in one file: what its header says, and reading the model again that it is of.

A masked autoencoder keeps its decoder so, an aligned encoder the head of each corpus, a fine-tuned one its head.
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


def classifier_header(config: ViTConfig, corpus: str, classes: Sequence[str]) -> dict[str, str]:
    """Metadata for a safetensors file of the weights of a classifier that was trained on `corpus` alone."""
    return {**header(config), CLASSES: json.dumps({corpus: list(classes)})}


def load_autoencoder(stage: str | Path) -> MaskedAutoencoder:
    """The masked autoencoder that a stage of a run trained, its decoder included, in eval mode. Raises ValueError."""
    weights, about = _read(Path(stage))
    if DECODER not in about:
        raise ValueError(f"{stage}: not of masked autoencoding, so that it has no decoder; name a stage1")
    model = MaskedAutoencoder(ViTConfig(**json.loads(about[METADATA])), MAEConfig(**json.loads(about[DECODER])))
    load_strictly(model, weights, str(stage))
    return model.eval()


def load_classifier(stage: str | Path, corpus: str | None = None) -> tuple[VideoClassifier, list[str]]:
    """An encoder with its head for `corpus`, in eval mode, and the names of the classes: of a stage2, or fine-tuned by
    transfer.py, which has a head for one corpus only, so that `corpus` may be left out.

    Of a head that all corpora share, the outputs that `corpus` has labels for. Raises ValueError.
    """
    weights, about = _read(Path(stage))
    classes: dict[str, list[str]] = json.loads(about.get(CLASSES, "{}"))
    if corpus is None and len(classes) == 1:
        (corpus,) = classes
    if corpus not in classes:
        known = f"it has heads for {', '.join(classes)}" if classes else "it was not aligned, name a stage2"
        raise ValueError(f"{stage}: no head for a corpus {corpus!r}; {known}")
    model = VideoClassifier(ViTConfig(**json.loads(about[METADATA])), len(classes[corpus]))
    own = {name: tensor for name, tensor in weights.items() if name.startswith("encoder.")}
    names = ("head", f"heads.{SHARED}", f"heads.{head_name(corpus)}")
    head = next((name for name in names if f"{name}.weight" in weights), None)
    if head is None:
        raise ValueError(f"{stage}: has no {names[-1]}, so that another version wrote it; train it again")
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
