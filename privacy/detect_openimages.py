"""People, and shoes, by an SSD on MobileNetV2 with classes for them: what MediaPipe's Objectron looks for first.

It learnt from Open Images v4, which shows people from all sides and at any distance. The weights lie in Objectron's
npm package (Apache-2.0), which holds its files end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.privacy.detect import Frames, Hit, What, parts, strongest
from understudy.privacy.litert import Net
from understudy.privacy.opencv import opencv
from understudy.privacy.weights import Packaged, read_packaged
from understudy.shards.errors import UserError

MODEL = Packaged(
    package="@mediapipe/objectron",
    requirement="@mediapipe/objectron@0.4.1675468480",
    path="package/objectron_solution_packed_assets.data",
    licence="Apache-2.0",
)
NAME = "mediapipe-objectron/object_detection_ssd_mobilenetv2_oidv4_fp16.tflite"
PACKED = slice(184, 9_987_912)  # of that file, by its own table of contents
SIDE = 300
# Of its 24 classes those that mean somebody, and the least scores. Scores of people hardly go beyond 0.7; of what is
# nobody they seldom get here. Shoes show where no more of a person is in the picture than the feet.
PERSON, FOOTWEAR = 4, 19
LEAST = {PERSON: 0.5, FOOTWEAR: 0.55}
# SSD's anchors: on six maps, from 19 x 19 cells to one, boxes of sizes evenly from a fifth of the picture to 0.95.
CELLS = (19, 10, 5, 3, 2, 1)
SMALLEST, LARGEST = 0.2, 0.95
RATIOS = (1.0, 2.0, 0.5, 3.0, 1 / 3)  # width to height; and a square of the size between this map's and the next's
STEPS = (10.0, 10.0, 5.0, 5.0)  # what the regressed centre and size are divided by


@dataclass(frozen=True)
class OpenImages:
    """Looks at every frame in `tiles` x `tiles` parts, for each number of those."""

    net: Net
    tiles: tuple[int, ...]
    name: str = "openimages"
    what: What = "person"
    licence: str = MODEL.licence
    models: tuple[str, ...] = (NAME,)

    @staticmethod
    def load(weights: Path | None, tiles: Sequence[int]) -> OpenImages:
        """From the npm package, or from the .tflite file itself. Raises UserError where that is not to be had."""
        data = read_packaged(MODEL, weights)
        if data[4:8] != b"TFL3":
            data = data[PACKED]
        if data[4:8] != b"TFL3":
            raise UserError(f"{weights or MODEL.requirement}: not the weights {NAME}")
        return OpenImages(Net(data), tuple(tiles))

    def __call__(self, frames: Frames) -> list[list[Hit]]:
        """The people in each of `frames`, RGB uint8 (T, H, W, 3), or their shoes."""
        boxes = parts(frames.shape[1], frames.shape[2], self.tiles)
        return [strongest([hit for box in boxes for hit in self._look(frame, box)]) for frame in frames]

    def _look(self, frame: NDArray[np.uint8], part: tuple[int, int, int, int]) -> list[Hit]:
        cv2 = opencv()
        x0, y0, x1, y1 = part
        width, height = x1 - x0, y1 - y0
        method = cv2.INTER_AREA if min(width, height) > SIDE else cv2.INTER_LINEAR
        picture = cv2.resize(frame[y0:y1, x0:x1], (SIDE, SIDE), interpolation=method)
        regressed, logits = self.net(picture.astype(np.float32) / np.float32(127.5) - 1)
        scores = 1 / (1 + np.exp(-logits[:, list(LEAST)].clip(-80, 80)))
        scores = np.where(scores > list(LEAST.values()), scores, 0).max(1)
        found = np.flatnonzero(scores)
        y, x, h, w = (regressed[found] / np.array(STEPS, np.float32)).T
        centre_y, centre_x, anchor_h, anchor_w = anchors()[found].T
        middle_y, middle_x = y * anchor_h + centre_y, x * anchor_w + centre_x
        half_h, half_w = np.exp(h) * anchor_h / 2, np.exp(w) * anchor_w / 2
        ends = np.stack([middle_x - half_w, middle_y - half_h, middle_x + half_w, middle_y + half_h], 1).clip(0, 1)
        places = ends * np.array([width, height] * 2, np.float32) + np.array([x0, y0] * 2, np.float32)
        return [
            Hit("person", (left, top, right, bottom), float(score))
            for (left, top, right, bottom), score in zip(places.tolist(), scores[found])
        ]


@cache
def anchors() -> NDArray[np.float32]:
    """(1917, 4): y, x, height and width as fractions of the picture, in the network's order."""
    sizes = np.append(np.linspace(SMALLEST, LARGEST, len(CELLS)), 1.0)
    made: list[NDArray[np.float32]] = []
    for number, cells in enumerate(CELLS):
        shapes = [(sizes[number], ratio) for ratio in RATIOS] + [(np.sqrt(sizes[number] * sizes[number + 1]), 1.0)]
        if number == 0:
            shapes = [(SMALLEST / 2, 1.0), *shapes[1:3]]
        y, x = (np.mgrid[:cells, :cells] + 0.5) / cells
        for_each = [np.stack([y, x, 0 * y + size / np.sqrt(r), 0 * y + size * np.sqrt(r)], -1) for size, r in shapes]
        made.append(np.stack(for_each, 2).reshape(-1, 4).astype(np.float32))
    return np.concatenate(made)
