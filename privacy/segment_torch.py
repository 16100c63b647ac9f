"""Segmenters with weights of over 100 MB, which the user brings: torchvision's Mask R-CNN, and transformers' models.

They run in batches on the device, a GPU if there is one. The ones whose masks count: see docs/removal.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.privacy.segment import Frames, Segmentation
from understudy.privacy.torch_weights import folder_name, read_state, weights_name
from understudy.shards.errors import UserError

BATCH = 4
SCORE = 0.3  # least score of a person whose mask counts: recall first
COVERED = 0.5  # share of a person's mask that others hold from which it is one of theirs, found a second time
# The file that torchvision itself would download.
MASKRCNN_FILE = "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth"
MASKRCNN_ADDRESS = f"https://download.pytorch.org/models/{MASKRCNN_FILE}"

# From float pictures (N, 3, H, W) in 0..1 on the device: scores (N, Q) and mask probabilities (N, Q, h, w) of people.
People = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TorchSegmenter:
    """The strongest of the people at each pixel. The nearer somebody whom no mask holds scored to SCORE, the less sure
    is a frame: at half of it, it is as likely as not that somebody was missed.
    """

    name: str
    licence: str
    models: tuple[str, ...]
    people: People
    device: str
    still_there: float = SCORE

    @torch.inference_mode()
    def __call__(self, frames: Frames) -> Segmentation:
        """The people in `frames`, RGB uint8 (T, H, W, 3)."""
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for start in range(0, len(frames), BATCH):
            part = torch.from_numpy(frames[start : start + BATCH]).to(self.device)
            scores, masks = self.people(part.permute(0, 3, 1, 2).float() / 255)
            counted = scores > SCORE
            shown = masks > 0.5
            held = (shown & counted[..., None, None]).any(1, keepdim=True)
            area = shown.sum((2, 3))
            uncovered = (shown & ~held).sum((2, 3)) > (1 - COVERED) * area
            left_out = torch.where(counted | (area > 0) & ~uncovered, 0.0, scores)
            masks = masks * counted[..., None, None]
            probability = masks.amax(1) if masks.shape[1] else masks.new_zeros(len(part), *masks.shape[2:])
            size = (frames.shape[1], frames.shape[2])
            probability = F.interpolate(probability[:, None], size, mode="bilinear", align_corners=False)[:, 0]
            parts.append((probability, 1 - _largest(left_out) / SCORE, _largest(scores)))
        probability, confidence, presence = (torch.cat(part).float().cpu().numpy() for part in zip(*parts))
        return Segmentation(probability, confidence, presence)


def _largest(scores: Tensor) -> Tensor:
    return scores.amax(1) if scores.shape[1] else scores.new_zeros(len(scores))


def load_maskrcnn(weights: Path | None, device: str) -> TorchSegmenter:
    """torchvision's Mask R-CNN v2 with a .pth or .safetensors file. Raises UserError where it is missing or another."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

    if weights is None or not weights.is_file():
        missing = "needs weights" if weights is None else f"finds no file {weights}"
        raise UserError(f"segmenter maskrcnn {missing}: download {MASKRCNN_ADDRESS} and say --weights {MASKRCNN_FILE}")
    state = read_state(weights)
    classes = state.get("roi_heads.box_predictor.cls_score.bias", torch.zeros(91)).numel()
    model = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=classes)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{weights}: not the weights of Mask R-CNN v2 ({str(error).strip().splitlines()[0]})") from None
    people = maskrcnn_people(model.eval().to(device))
    return TorchSegmenter("maskrcnn", "BSD-3-Clause", (f"torchvision/{weights_name([state])}",), people, device)


def maskrcnn_people(model: nn.Module) -> People:
    """For a torchvision Mask R-CNN in evaluation mode; people are label 1."""

    def people(pictures: Tensor) -> tuple[Tensor, Tensor]:
        found = [(each, each["labels"] == 1) for each in model(list(pictures))]
        most = max(int(person.sum()) for _, person in found)
        scores = pictures.new_zeros(len(pictures), most)
        masks = pictures.new_zeros(len(pictures), most, *pictures.shape[2:])
        for number, (each, person) in enumerate(found):
            count = int(person.sum())
            scores[number, :count], masks[number, :count] = each["scores"][person], each["masks"][person, 0]
        return scores, masks

    return people


def load_transformers(folder: Path | None, device: str) -> TorchSegmenter:
    """RF-DETR-Seg, Mask2Former, MaskFormer or EoMT from a model folder. Raises UserError where there is none."""
    try:
        import transformers
    except ImportError:
        raise UserError(
            'segmenter transformers needs the library; run in the checkout: pip install -e ".[transformers]"'
        ) from None
    if folder is None or not folder.is_dir():
        missing = "needs a model folder" if folder is None else f"finds no folder {folder}"
        raise UserError(
            f"segmenter transformers {missing}: run hf download facebook/mask2former-swin-large-coco-instance "
            "--local-dir FOLDER (or another model with a label `person`), and say --weights FOLDER"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        kind = (
            transformers.AutoModelForInstanceSegmentation
            if config.model_type == "rf_detr"
            else transformers.AutoModelForUniversalSegmentation
        )
        model = kind.from_pretrained(folder, local_files_only=True)
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{folder}: no segmentation model of transformers ({str(error).splitlines()[0]})") from None
    people = transformers_people(model.eval().to(device), processor, str(folder))
    models = (f"transformers/{folder_name(folder)}",)
    return TorchSegmenter("transformers", "see the model's card", models, people, device)


def transformers_people(model: Any, processor: Any, where: str) -> People:
    """For a model that answers with classes and masks of queries; `processor` says how large pictures are to be."""
    labels = [index for index, label in model.config.id2label.items() if label.lower() == "person"]
    if not labels:
        raise UserError(f"{where}: this model has no label `person`; take one trained on COCO")
    size = dict(processor.size)
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    no_object_is_a_class = model.config.model_type != "rf_detr"

    def people(pictures: Tensor) -> tuple[Tensor, Tensor]:
        height, width = pictures.shape[2:]
        if "shortest_edge" in size:
            scale = size["shortest_edge"] / min(height, width)
            # Whole strides, so that nothing has to be padded.
            height, width = (max(32, 32 * round(side * scale / 32)) for side in (height, width))
        else:
            height, width = size["height"], size["width"]
        pictures = F.interpolate(pictures, (height, width), mode="bilinear", align_corners=False, antialias=True)
        outputs = model(pixel_values=(pictures - mean.to(pictures)) / std.to(pictures))
        if no_object_is_a_class:
            classes, masks = outputs.class_queries_logits.softmax(-1), outputs.masks_queries_logits
        else:
            classes, masks = outputs.logits.sigmoid(), outputs.pred_masks
        return classes[..., labels].amax(-1), masks.sigmoid()

    return people
