"""Faces by MTCNN (Zhang et al. 2016, arXiv 1604.02878): three small networks, each refining what the last proposed.

The weights are those that facenet-pytorch's wheel carries (MIT); that package itself is not used, as it pins old
versions of torch and numpy.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, roi_align

from understudy.privacy.detect import Frames, Hit, What
from understudy.privacy.weights import Packaged, read_packaged

STAGES = tuple(
    Packaged("facenet_pytorch", "facenet-pytorch==2.6.0", f"facenet_pytorch/data/{net}.pt", "MIT")
    for net in ("pnet", "rnet", "onet")
)
SMALLEST = 16  # pixels of the smallest face looked for; the paper's 20 suits larger pictures
STEP = 0.709  # between the scales of the pyramid, the square root of a half: half the area each time
BATCH = 32
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Mtcnn:
    """The three networks. `thresholds` are the least face probability to pass each, those of the authors' code."""

    stages: tuple[Weights, Weights, Weights]
    device: str
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    name: str = "mtcnn"
    what: What = "face"
    licence: str = "MIT"
    models: tuple[str, ...] = ("facenet_pytorch/mtcnn",)

    @staticmethod
    def load(wheel: Path | None, device: str) -> Mtcnn:
        """From facenet-pytorch's wheel, given or found."""
        first, second, third = (
            torch.load(io.BytesIO(read_packaged(model, wheel)), map_location=device, weights_only=True)
            for model in STAGES
        )
        return Mtcnn((first, second, third), device)

    @torch.inference_mode()
    def __call__(self, frames: Frames) -> list[list[Hit]]:
        """The faces in each of `frames`, RGB uint8 (T, H, W, 3), of SMALLEST pixels and more."""
        hits: list[list[Hit]] = []
        for start in range(0, len(frames), BATCH):
            pictures = torch.from_numpy(frames[start : start + BATCH]).to(self.device).permute(0, 3, 1, 2).float()
            hits += self._detect((pictures - 127.5) / 128)
        return hits

    def _detect(self, pictures: Tensor) -> list[list[Hit]]:
        """`pictures` (N, 3, H, W), normalised. Boxes below are (n, 4): x0, y0, x1, y1."""
        boxes, scores, frame = self._propose(pictures)
        for number, side in ((1, 24), (2, 48)):
            if len(boxes) == 0:
                break
            squares = _squared(boxes)
            crops = roi_align(pictures, torch.cat([frame[:, None].float(), squares], 1), side, aligned=True)
            probability, shift = _refine(self.stages[number], crops, number)
            good = probability > self.thresholds[number]
            squares, scores, frame = squares[good], probability[good], frame[good]
            boxes = squares + shift[good] * (squares[:, 2:] - squares[:, :2]).repeat(1, 2)
            kept = batched_nms(boxes, scores, frame, 0.7 if number == 1 else 0.5)
            boxes, scores, frame = boxes[kept], scores[kept], frame[kept]
        hits: list[list[Hit]] = [[] for _ in pictures]
        for box, score, index in zip(boxes.tolist(), scores.tolist(), frame.tolist()):
            hits[index].append(Hit("face", (box[0], box[1], box[2], box[3]), score))
        return hits

    def _propose(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The first network over a pyramid of scales: boxes, scores, and the picture that each is in."""
        height, width = pictures.shape[2:]
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        scale = 12 / SMALLEST
        while min(height, width) * scale >= 12:
            size = [round(height * scale), round(width * scale)]
            probability, shift = _first(
                self.stages[0], F.interpolate(pictures, size, mode="bilinear", antialias=True, align_corners=False)
            )
            frame, y, x = torch.nonzero(probability > self.thresholds[0], as_tuple=True)
            corner = torch.stack([x, y, x, y], 1) * 2  # the network's stride
            cell = torch.tensor([0, 0, 12, 12], device=pictures.device)
            box = (corner + cell + shift[frame, :, y, x] * 12) / scale
            scores = probability[frame, y, x]
            kept = batched_nms(box, scores, frame, 0.5)
            found.append((box[kept], scores[kept], frame[kept]))
            scale *= STEP
        if not found:
            empty = pictures.new_zeros(0)
            return empty.view(0, 4), empty, empty.long()
        boxes, scores, frame = (torch.cat(part) for part in zip(*found))
        kept = batched_nms(boxes, scores, frame, 0.7)
        return boxes[kept], scores[kept], frame[kept]


def _squared(boxes: Tensor) -> Tensor:
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) / 2
    return torch.cat([centre - half, centre + half], 1)


def _layer(weights: Weights, x: Tensor, number: int) -> Tensor:
    x = F.conv2d(x, weights[f"conv{number}.weight"], weights[f"conv{number}.bias"])
    return F.prelu(x, weights[f"prelu{number}.weight"])


def _pool(x: Tensor, size: int) -> Tensor:
    return F.max_pool2d(x, size, 2, ceil_mode=True)


def _first(weights: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    """Fully convolutional: face probability (N, h, w) and box shift (N, 4, h, w) at every second pixel."""
    x = _pool(_layer(weights, x, 1), 2)
    x = _layer(weights, _layer(weights, x, 2), 3)
    faces = F.conv2d(x, weights["conv4_1.weight"], weights["conv4_1.bias"]).softmax(1)[:, 1]
    return faces, F.conv2d(x, weights["conv4_2.weight"], weights["conv4_2.bias"])


def _refine(weights: Weights, crops: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The second (`number` 1) or third network: probability (n,) and box shift (n, 4) in sides of the crop."""
    x = _pool(_layer(weights, crops, 1), 3)
    x = _pool(_layer(weights, x, 2), 3)
    if number == 1:
        x = _layer(weights, x, 3)
        dense = 4
    else:
        x = _layer(weights, _pool(_layer(weights, x, 3), 2), 4)
        dense = 5
    x = x.permute(0, 3, 2, 1).flatten(1)  # the weights come from a column-major framework
    x = F.linear(x, weights[f"dense{dense}.weight"], weights[f"dense{dense}.bias"])
    x = F.prelu(x, weights[f"prelu{dense}.weight"])
    last = dense + 1

    def head(part: int) -> Tensor:
        return F.linear(x, weights[f"dense{last}_{part}.weight"], weights[f"dense{last}_{part}.bias"])

    return head(1).softmax(1)[:, 1], head(2)
