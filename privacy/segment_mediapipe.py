"""The segmenter that needs no model hub: MediaPipe's person networks, read out of its wheel and run by LiteRT.

BlazePose's detector proposes people in the frame and in parts of it, its second network answers with a mask for each,
and the selfie network looks at the same places and at the whole frame. Anchors and crops are those of Bazarevsky et al.
2020, arXiv 2006.10204, and of the graphs in the mediapipe repository.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from understudy.privacy.detect import parts
from understudy.privacy.litert import Net
from understudy.privacy.opencv import opencv
from understudy.privacy.segment import Frames, Segmentation
from understudy.privacy.weights import Packaged, read_packaged

F32 = NDArray[np.float32]
Picture = NDArray[np.uint8]

# Later versions have no models in the wheel.
_DETECTOR, _LANDMARKS, _SELFIE = (
    Packaged("mediapipe", "mediapipe==0.10.21", f"mediapipe/modules/{path}.tflite", "Apache-2.0")
    for path in (
        "pose_detection/pose_detection",
        "pose_landmark/pose_landmark_full",
        "selfie_segmentation/selfie_segmentation",
    )
)
DETECTOR_SIDE, CROP_SIDE = 224, 256
PROPOSE = 0.3  # the graph's limit is 0.5: a wrong proposal costs time, a missed one a person
TILES_EVERY = 3  # frames; in between, people are looked for in the whole frame and where they were
ROI_SCALE = 1.25  # of the square around the detector's circle, as in the graph
PRESENT = 0.5  # the second network's own limit for "this is a person"
SAME = 0.6  # overlap from which two squares are taken for the same person
FOUND = 0.3  # the same where a person was found in one square, and the hips of the other are masked
TRIES = 3  # times that much the same square is looked at where nobody was found
WHOLE = 0.5  # what the selfie network's word counts where no person was found: it takes other things for people
MOST = 12  # squares looked at in a frame: where people were, then the strongest


@dataclass(frozen=True)
class Roi:
    """A square that should hold a person: centre and side in pixels, the angle it is turned by, and a score."""

    x: float
    y: float
    side: float
    angle: float
    score: float

    def overlap(self, other: Roi) -> float:
        """Intersection over union, as if neither were turned."""
        shared = 1.0
        for a, b in ((self.x, other.x), (self.y, other.y)):
            shared *= max(min(a + self.side / 2, b + other.side / 2) - max(a - self.side / 2, b - other.side / 2), 0)
        return shared / (self.side**2 + other.side**2 - shared)


@dataclass(frozen=True)
class Person:
    """Found when looking `at` a square; `now` is the square that fits, `present` the second network's word, 0..1."""

    at: Roi
    now: Roi
    present: float


@dataclass(frozen=True)
class MediaPipe:
    """The three networks. Looks for people in the whole frame, and in every TILES_EVERY-th in four parts of it too."""

    detector: Net
    landmarks: Net
    selfie: Net
    name: str = "mediapipe"
    licence: str = "Apache-2.0"
    models: tuple[str, ...] = (_DETECTOR.name, _LANDMARKS.name, _SELFIE.name)
    still_there: float = 0.4  # smears come to 0.33, people in the open to 0.47 and more

    @staticmethod
    def load(wheel: Path | None) -> MediaPipe:
        """From mediapipe's wheel, given or found, or the installed package."""
        detector, landmarks, selfie = (Net(read_packaged(model, wheel)) for model in (_DETECTOR, _LANDMARKS, _SELFIE))
        return MediaPipe(detector, landmarks, selfie)

    def __call__(self, frames: Frames) -> Segmentation:
        """The people in `frames`, RGB uint8 (T, H, W, 3)."""
        probability = np.zeros(frames.shape[:3], np.float32)
        confidence, presence = np.ones(len(frames), np.float32), np.zeros(len(frames), np.float32)
        known: list[Roi] = []
        for number, frame in enumerate(frames):
            proposals = self._propose(frame, (1, 2) if number % TILES_EVERY == 0 else (1,))
            covered = probability[number]
            people: list[Person] = []
            nobody: list[Roi] = []
            # Where people were is looked at first, as those squares fit better.
            for roi in [*known, *sorted(proposals, key=lambda roi: -roi.score)]:
                hips = _around_hips(covered, roi).any()
                same = [each for each in people if each.at.overlap(roi) > SAME]
                same += [each for each in people if hips and each.now.overlap(roi) > FOUND]
                if not same and sum(other.overlap(roi) > SAME for other in nobody) < TRIES:
                    if len(people) + len(nobody) == MOST:
                        continue
                    present, now = self._look(frame, roi, covered)
                    if present > PRESENT:
                        people.append(Person(roi, now, present))
                        same = people[-1:]
                    else:
                        nobody.append(roi)
                        presence[number] = max(presence[number], roi.score * present)
                for person in same:
                    presence[number] = max(presence[number], roi.score * person.present)
            known = [person.now for person in people]
            np.maximum(covered, WHOLE * self._selfie_whole(frame), out=covered)
            # Someone proposed in this frame where nothing is masked may have been missed. Who was only followed from
            # the frame before is not proposed: whether they were lost is for track.py to tell.
            missed = [roi.score for roi in proposals if not _around_hips(covered, roi).any()]
            confidence[number] -= max(missed, default=0.0)
        return Segmentation(probability, confidence, presence)

    def _propose(self, frame: Picture, tiles: Sequence[int]) -> list[Roi]:
        cv2 = opencv()

        found: list[Roi] = []
        for x0, y0, x1, y1 in parts(frame.shape[0], frame.shape[1], tiles):
            side = max(x1 - x0, y1 - y0)
            most = ROI_SCALE * side if side < max(frame.shape) else np.inf
            turn = _into_square((x0 + x1) / 2, (y0 + y1) / 2, side, 0.0, DETECTOR_SIDE)
            crop = cv2.warpAffine(np.ascontiguousarray(frame), turn, (DETECTOR_SIDE, DETECTOR_SIDE))
            regressors, logits = self.detector(crop / np.float32(127.5) - 1)
            scores = 1 / (1 + np.exp(-np.clip(logits[:, 0], -80, 80)))
            for index in np.flatnonzero(scores > PROPOSE):
                points = regressors[index, 4:8].reshape(2, 2) / DETECTOR_SIDE + _anchors()[index] - 0.5
                (hip_x, hip_y), (rim_x, rim_y) = points * side + [(x0 + x1) / 2, (y0 + y1) / 2]
                roi = _around(hip_x, hip_y, rim_x, rim_y, float(scores[index]))
                # Who doesn't fit into a part is for the whole frame; what parts see of them is mostly not there.
                if roi.side <= most:
                    found.append(roi)
        return found

    def _look(self, frame: Picture, roi: Roi, covered: F32) -> tuple[float, Roi]:
        """Write the masks of the person in `roi` into `covered` (H, W); whether there is one, and where next."""
        cv2 = opencv()

        turn = _into_square(roi.x, roi.y, roi.side, roi.angle, CROP_SIDE)
        crop = cv2.warpAffine(frame, turn, (CROP_SIDE, CROP_SIDE)) / np.float32(255)
        points, present, mask, *_ = self.landmarks(crop)
        present = float(present[0])
        if present <= PRESENT:
            return present, roi
        mask = 1 / (1 + np.exp(-np.clip(mask[..., 0], -80, 80)))
        # The selfie network knows people who are upright in front of something; black corners and turned scenes make
        # it mask half of the background.
        upright = _into_square(roi.x, roi.y, roi.side, 0.0, CROP_SIDE)
        crop = cv2.warpAffine(frame, upright, (CROP_SIDE, CROP_SIDE), borderMode=cv2.BORDER_REPLICATE)
        selfie = self.selfie(crop / np.float32(255))[0][..., 0]
        for found, way in ((mask, turn), (selfie, upright)):
            back = cv2.warpAffine(found, way, covered.shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
            np.maximum(covered, present * back, out=covered)
        # The last but few landmarks are the hips' centre and the rim of the circle, in pixels of the crop.
        hips_and_rim = points.reshape(-1, 5)[33:35, :2]
        (hip_x, hip_y), (rim_x, rim_y) = cv2.transform(hips_and_rim[None], cv2.invertAffineTransform(turn))[0]
        return present, _around(hip_x, hip_y, rim_x, rim_y, roi.score)

    def _selfie_whole(self, frame: Picture) -> F32:
        cv2 = opencv()

        crop = cv2.resize(frame, (CROP_SIDE, CROP_SIDE), interpolation=cv2.INTER_AREA) / np.float32(255)
        return cv2.resize(self.selfie(crop)[0][..., 0], frame.shape[1::-1])


def _into_square(x: float, y: float, side: float, angle: float, size: int) -> NDArray[np.float64]:
    """(2, 3): from pixels of the frame to those of a picture of `size`, for the square around (x, y)."""
    cos, sin = np.cos(angle) * size / side, np.sin(angle) * size / side
    return np.array([[cos, sin, size / 2 - cos * x - sin * y], [-sin, cos, size / 2 + sin * x - cos * y]])


def _around(hip_x: float, hip_y: float, rim_x: float, rim_y: float, score: float) -> Roi:
    """The square around the circle at the hips that a point on the rim, above the head, belongs to."""
    side = 2 * ROI_SCALE * float(np.hypot(rim_x - hip_x, rim_y - hip_y))
    angle = float(np.arctan2(rim_x - hip_x, hip_y - rim_y))
    return Roi(float(hip_x), float(hip_y), max(side, 8.0), angle, score)


def _around_hips(covered: F32, roi: Roi) -> NDArray[np.bool_]:
    """Whether the pixels in the middle of `roi` are rather of a person than not."""
    reach = roi.side / 8
    rows, columns = (slice(max(int(at - reach), 0), max(int(at + reach) + 1, 0)) for at in (roi.y, roi.x))
    return covered[rows, columns] > 0.5


@cache
def _anchors() -> F32:
    """Centres as fractions: 2 a cell at stride 8, 2 at 16, 6 at 32."""
    centres: list[F32] = []
    for stride, each in ((8, 2), (16, 2), (32, 6)):
        y, x = np.mgrid[: DETECTOR_SIDE // stride, : DETECTOR_SIDE // stride]
        centres.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2) + 0.5, each, 0).astype(np.float32))
        centres[-1] *= stride / DETECTOR_SIDE
    return np.concatenate(centres)
