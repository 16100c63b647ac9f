"""Detectors that OpenCV's network code runs, on weights read out of wheels: body parts, pose, palms, faces, text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.privacy.detect import Frames, Hit, What, parts, strongest
from understudy.privacy.opencv import opencv
from understudy.privacy.weights import Packaged, read_packaged

_MEDIAPIPE = "mediapipe==0.10.21"  # later ones have no models in the wheel
MODELS = {
    # The wheel's metadata says MIT, its licence file AGPL-3.0, which is also that of the YOLOv8 code behind the model.
    "body-parts": Packaged("nudenet", "nudenet==3.4.2", "nudenet/320n.onnx", "AGPL-3.0"),
    "pose": Packaged(
        "mediapipe", _MEDIAPIPE, "mediapipe/modules/pose_landmark/pose_landmark_full.tflite", "Apache-2.0"
    ),
    "palm": Packaged(
        "mediapipe", _MEDIAPIPE, "mediapipe/modules/palm_detection/palm_detection_full.tflite", "Apache-2.0"
    ),
    "face": Packaged(
        "mediapipe", _MEDIAPIPE, "mediapipe/modules/face_detection/face_detection_short_range.tflite", "Apache-2.0"
    ),
    "text": Packaged(
        "rapidocr_onnxruntime",
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "Apache-2.0",
    ),
}
Picture = NDArray[np.uint8]
Look = Callable[[Any, Picture], Iterator[tuple[tuple[float, float, float, float], float]]]


@dataclass(frozen=True)
class OpenCVDetector:
    """`look` yields (box, score) for one picture; it is asked for every part of every frame."""

    name: str
    what: What
    licence: str
    models: tuple[str, ...]
    net: Any
    look: Look
    tiles: tuple[int, ...]

    def __call__(self, frames: Frames) -> list[list[Hit]]:
        """The hits in each of `frames`, RGB uint8 (T, H, W, 3)."""
        boxes = parts(frames.shape[1], frames.shape[2], self.tiles)
        return [strongest(list(self._hits(frame, boxes))) for frame in frames]

    def _hits(self, frame: Picture, boxes: Sequence[tuple[int, int, int, int]]) -> Iterator[Hit]:
        for x0, y0, x1, y1 in boxes:
            for box, score in self.look(self.net, frame[y0:y1, x0:x1]):
                place = (float(box[0] + x0), float(box[1] + y0), float(box[2] + x0), float(box[3] + y0))
                yield Hit(self.what, place, score)


def load(name: str, weights: Path | None, tiles: Sequence[int]) -> OpenCVDetector:
    """The detector called `name` in `detectors.NAMES`. Raises UserError without OpenCV or the weights."""
    cv2 = opencv()
    model = MODELS[name]
    data = np.frombuffer(read_packaged(model, weights), np.uint8)
    net = cv2.dnn.readNetFromTFLite(data) if model.path.endswith(".tflite") else cv2.dnn.readNetFromONNX(data)
    looks: dict[str, tuple[What, Look]] = {
        "body-parts": ("person", _body_parts),
        "pose": ("person", _pose),
        "palm": ("person", _palms),
        "face": ("face", _faces),
        "text": ("text", _text),
    }
    what, look = looks[name]
    # Writing is sought in the whole frame, enlarged: in parts it would take four times as long as all else.
    scales = (1,) if name == "text" else tuple(tiles)
    return OpenCVDetector(name, what, model.licence, (model.name,), net, look, scales)


def _square(picture: Picture, side: int) -> tuple[Picture, float]:
    """`picture` scaled to fit into the top left of a black square, and the factor it was scaled by."""
    cv2 = opencv()
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas = np.zeros((side, side, 3), np.uint8)
    canvas[: size[1], : size[0]] = cv2.resize(picture, size, interpolation=method)
    return canvas, scale


def _blob(picture: Picture, low: float = 0.0, high: float = 1.0) -> NDArray[np.float32]:
    """(1, 3, H, W), 0..255 mapped to low..high."""
    return picture.transpose(2, 0, 1)[None].astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)


BODY_SCORE = 0.25


def _body_parts(net: Any, picture: Picture) -> Iterator[tuple[tuple[float, float, float, float], float]]:
    """YOLOv8's output: (1, 4 + 18 classes, candidates), boxes as centre and size in input pixels."""
    square, scale = _square(picture, 320)
    net.setInput(_blob(square))
    rows = net.forward()[0]
    scores = rows[4:].max(0)
    for index in np.flatnonzero(scores > BODY_SCORE):
        x, y, width, height = rows[:4, index] / scale
        yield (x - width / 2, y - height / 2, x + width / 2, y + height / 2), float(scores[index])


POSE_SCORE = 0.5


def _pose(net: Any, picture: Picture) -> Iterator[tuple[tuple[float, float, float, float], float]]:
    """Whether the picture is that of a person, who must fill much of it; the box is the whole picture."""
    square, _ = _square(picture, 256)
    net.setInput(_blob(square))
    score = float(net.forward("Identity_1").ravel()[0])
    if score > POSE_SCORE:
        yield (0.0, 0.0, float(picture.shape[1]), float(picture.shape[0])), score


@cache
def _anchors(side: int) -> NDArray[np.float32]:
    """Centres, as fractions, of MediaPipe's anchors: 2 a cell at stride 8, then 6 a cell at stride 16."""
    centres: list[NDArray[np.float32]] = []
    for cells, each in ((side // 8, 2), (side // 16, 6)):
        y, x = np.mgrid[:cells, :cells]
        centres.append(np.repeat((np.stack([x, y], -1).reshape(-1, 2) + 0.5) / cells, each, 0).astype(np.float32))
    return np.concatenate(centres)


def _ssd(
    outputs: tuple[Any, Any], side: int, scale: float, least: float
) -> Iterator[tuple[tuple[float, float, float, float], float]]:
    """MediaPipe's detectors: regressors (1, n, 4 + points), logits (1, n, 1); boxes around their anchors."""
    regressors, logits = outputs[0][0], outputs[1][0, :, 0]
    scores = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    anchors = _anchors(side)
    for index in np.flatnonzero(scores > least):
        x, y = (regressors[index, :2] + anchors[index] * side) / scale
        width, height = regressors[index, 2:4] / scale
        yield (x - width / 2, y - height / 2, x + width / 2, y + height / 2), float(scores[index])


PALM_SCORE = 0.6


def _palms(net: Any, picture: Picture) -> Iterator[tuple[tuple[float, float, float, float], float]]:
    square, scale = _square(picture, 192)
    net.setInput(_blob(square))
    yield from _ssd((net.forward("Identity"), net.forward("Identity_1")), 192, scale, PALM_SCORE)


FACE_SCORE = 0.6


def _faces(net: Any, picture: Picture) -> Iterator[tuple[tuple[float, float, float, float], float]]:
    square, scale = _square(picture, 128)
    net.setInput(_blob(square, -1, 1))
    yield from _ssd((net.forward("regressors"), net.forward("classificators")), 128, scale, FACE_SCORE)


TEXT_SCORE = 0.6
TEXT_SIDE = 480
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _text(net: Any, picture: Picture) -> Iterator[tuple[tuple[float, float, float, float], float]]:
    """PP-OCR's map of text probability: a box around each connected piece, by its mean probability."""
    cv2 = opencv()
    square, scale = _square(picture, TEXT_SIDE)
    normalised = (square[..., ::-1] / np.float32(255) - _IMAGENET_MEAN) / _IMAGENET_STD
    net.setInput(normalised.transpose(2, 0, 1)[None].astype(np.float32))
    probability = net.forward()[0, 0]
    count, pieces, stats, _ = cv2.connectedComponentsWithStats((probability > 0.3).astype(np.uint8))
    for index in range(1, count):
        x, y, width, height, area = stats[index].tolist()
        if min(width, height) < 4 or area < 40:
            continue
        score = float(probability[pieces == index].mean())
        if score > TEXT_SCORE:
            yield (x / scale, y / scale, (x + width) / scale, (y + height) / scale), score
