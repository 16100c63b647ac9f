"""Detectors with weights of over 100 MB, which the user brings: torchvision's and transformers' (DETR and its kin).

These are the ones whose word counts; the small networks in the other files miss people that are small or clothed oddly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy.privacy.detect import Frames, Hit, What, parts, strongest
from understudy.privacy.torch_weights import folder_name, read_state, weights_name
from understudy.shards.errors import UserError

PERSON_SCORE = 0.3  # recall first: a false alarm costs a look, a miss a person
BATCH = 8
# Least size that a part of a frame is enlarged to; COCO's people were learnt at short sides around this one.
SHORT_SIDE = 640

# Builders and their COCO file names, by the architecture that a file name begins with.
TORCHVISION = (
    "maskrcnn_resnet50_fpn_v2",
    "fasterrcnn_resnet50_fpn_v2",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
)

# From float pictures (N, 3, H, W) in 0..1 to (boxes (n, 4) in pixels, person scores (n,)) for each.
People = Callable[[Tensor], list[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class TorchDetector:
    """`people` finds them in a batch of equal pictures; it is asked for every part of every frame."""

    name: str
    licence: str
    models: tuple[str, ...]
    people: People
    tiles: tuple[int, ...]
    device: str
    what: What = "person"

    @torch.inference_mode()
    def __call__(self, frames: Frames) -> list[list[Hit]]:
        """The people in each of `frames`, RGB uint8 (T, H, W, 3)."""
        hits: list[list[Hit]] = [[] for _ in frames]
        for x0, y0, x1, y1 in parts(frames.shape[1], frames.shape[2], self.tiles):
            for start in range(0, len(frames), BATCH):
                part = torch.from_numpy(frames[start : start + BATCH, y0:y1, x0:x1]).to(self.device)
                pictures, scale = _enlarged(part.permute(0, 3, 1, 2).float() / 255)
                for offset, (boxes, scores) in enumerate(self.people(pictures)):
                    for box, score in zip((boxes / scale).tolist(), scores.tolist()):
                        if score > PERSON_SCORE:
                            place = (box[0] + x0, box[1] + y0, box[2] + x0, box[3] + y0)
                            hits[start + offset].append(Hit("person", place, score))
        return [strongest(found) for found in hits]


def load(name: str, weights: Path | None, tiles: Sequence[int], device: str) -> TorchDetector:
    """`torchvision` with a file of weights, or `transformers` with a model's folder. Raises UserError without."""
    if missing := what_is_missing(name, weights):
        raise UserError(missing)
    assert weights is not None
    people, model = _torchvision(weights, device) if name == "torchvision" else _transformers(weights, device)
    licence = "BSD-3-Clause (torchvision's COCO weights)" if name == "torchvision" else "see the model's card"
    return TorchDetector(name, licence, (model,), people, tuple(tiles), device)


def what_is_missing(name: str, weights: Path | None) -> str:
    """In words, what to do where there are no `weights`; empty where they are there."""
    if weights is not None and weights.exists():
        return ""
    what = "a .pth or .safetensors file from pytorch.org/vision" if name == "torchvision" else "a model folder"
    missing = "" if weights is None else f" ({weights} is not there)"
    return f"detector {name} needs weights: say {name}:PATH, {what}{missing}"


def _enlarged(pictures: Tensor) -> tuple[Tensor, float]:
    scale = max(1.0, SHORT_SIDE / min(pictures.shape[2:]))
    size = [round(side * scale) for side in pictures.shape[2:]]
    return nn.functional.interpolate(pictures, size, mode="bilinear", align_corners=False), scale


def _torchvision(weights: Path, device: str) -> tuple[People, str]:
    """A COCO detector of torchvision's, which one the file's name says, as those on pytorch.org do."""
    from torchvision.models import detection

    architecture = next((known for known in TORCHVISION if weights.name.startswith(known)), None)
    if architecture is None:
        raise UserError(f"{weights}: which network? its name must begin with one of {', '.join(TORCHVISION)}")
    model: nn.Module = getattr(detection, architecture)(weights=None, weights_backbone=None)
    state = read_state(weights)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{weights}: not the weights of {architecture} ({str(error).splitlines()[0]})") from None
    return torchvision_people(model.eval().to(device)), f"torchvision/{weights_name([state])}"


def torchvision_people(model: nn.Module) -> People:
    """For a torchvision detection model in evaluation mode; people are label 1."""

    def people(pictures: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = model(list(pictures))
        return [(each["boxes"][each["labels"] == 1], each["scores"][each["labels"] == 1]) for each in found]

    return people


def _transformers(folder: Path, device: str) -> tuple[People, str]:
    """Any object detector of transformers (DETR, RT-DETR, Deformable DETR ...) from its saved folder."""
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("detector transformers needs the library: pip install transformers") from None
    try:
        model = transformers.AutoModelForObjectDetection.from_pretrained(folder, local_files_only=True)
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no object detector of transformers ({str(error).splitlines()[0]})") from None
    labels = [index for index, label in model.config.id2label.items() if label.lower() == "person"]
    if not labels:
        raise UserError(f"{folder}: this model has no label `person`; take one trained on COCO")
    return transformers_people(model.eval().to(device), processor, labels), f"transformers/{folder_name(folder)}"


def transformers_people(model: Any, processor: Any, labels: Sequence[int]) -> People:
    """For a model with its image processor; `labels` are the classes that are people."""

    def people(pictures: Tensor) -> list[tuple[Tensor, Tensor]]:
        inputs = processor(images=list(pictures), do_rescale=False, return_tensors="pt").to(pictures.device)
        outputs = model(**inputs)
        sizes = [pictures.shape[2:]] * len(pictures)
        found = processor.post_process_object_detection(outputs, threshold=PERSON_SCORE, target_sizes=sizes)
        wanted = torch.tensor(labels, device=pictures.device)
        masks = [torch.isin(each["labels"], wanted) for each in found]
        return [(each["boxes"][mask], each["scores"][mask]) for each, mask in zip(found, masks)]

    return people
