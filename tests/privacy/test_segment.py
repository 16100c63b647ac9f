"""Segmenters: real loading code on small random models, masks of the user, what is said when something is missing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch

from understudy.privacy import segment_torch
from understudy.privacy.remove import Settings
from understudy.privacy.segment import Segmentation
from understudy.privacy.segment_mediapipe import TRIES, MediaPipe
from understudy.privacy.segmenters import MaskFiles, Recheck, load_segmenter
from understudy.privacy.weights import weights_folder
from understudy.shards.errors import UserError
from understudy.shards.sources import RefusedError

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8)


def check(found: Segmentation) -> None:
    assert found.probability.shape == (3, 48, 64)
    assert found.confidence.shape == found.presence.shape == (3,)
    for values in (found.probability, found.confidence, found.presence):
        assert values.dtype == np.float32
        assert values.min() >= 0 and values.max() <= 1


@pytest.mark.parametrize("name", ["maskrcnn", "transformers", "mediapipe"])
def test_missing_weights_say_where_to_get_them(name, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_WEIGHTS", str(tmp_path))
    for weights in (None, tmp_path / "nothing"):
        with pytest.raises(UserError, match="download"):
            load_segmenter(name, weights)


def test_maskrcnn_from_a_file(tmp_path: Path) -> None:
    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

    torch.manual_seed(0)
    path = tmp_path / "weights.pth"
    torch.save(maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=2).state_dict(), path)
    segmenter = segment_torch.load_maskrcnn(path, "cpu")
    (name,) = segmenter.models
    safetensors.torch.save_file(torch.load(path), tmp_path / "other-name.safetensors")
    assert segment_torch.load_maskrcnn(tmp_path / "other-name.safetensors", "cpu").models == (name,)
    torch.save({"other": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="not the weights"):
        segment_torch.load_maskrcnn(path, "cpu")
    path.write_bytes(b"not a file of weights")
    with pytest.raises(UserError, match="again"):
        segment_torch.load_maskrcnn(path, "cpu")


class OneBox(torch.nn.Module):
    """Answers like a torchvision Mask R-CNN: a sure person on the left, a doubtful one at `left`, and a dog."""

    def __init__(self, left: int, score: float) -> None:
        super().__init__()
        self.left, self.score = left, score

    def forward(self, pictures: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        masks = torch.zeros(3, 1, *pictures[0].shape[1:])
        masks[0, :, 10:30, :20], masks[1, :, 10:30, self.left :][..., :18], masks[2, :, :, 25:35] = 0.9, 0.9, 0.9
        one = {"scores": torch.tensor([0.95, self.score, 0.99]), "labels": torch.tensor([1, 1, 18]), "masks": masks}
        none = {"scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.long), "masks": masks[:0]}
        return [one if picture.mean() > 0 else none for picture in pictures]


@pytest.mark.parametrize(
    ("left", "score", "sure"),
    [(40, 0.299, 0.0), (40, 0.2, 1 / 3), (40, 0.05, 5 / 6), (1, 0.299, 1.0)],  # the last is part of who is masked
)
def test_which_of_the_instances_count(left: int, score: float, sure: float) -> None:
    people = segment_torch.maskrcnn_people(OneBox(left, score))
    segmenter = segment_torch.TorchSegmenter("maskrcnn", "none", (), people, "cpu")
    frames = FRAMES.copy()
    frames[1] = 0
    found = segmenter(frames)
    check(found)
    assert (found.probability[0, 12:28, 2:18] > 0.8).all()
    assert (found.probability[0, :, 25:] == 0).all()
    assert found.confidence == pytest.approx([sure, 1, sure], abs=0.01)
    assert (found.confidence[0] < Settings().least_confidence) == (sure < 0.5)
    assert found.presence == pytest.approx([0.95, 0, 0.95])
    assert not found.probability[1].any()
    assert [len(hits) for hits in Recheck(segmenter)(frames)] == [1, 0, 1]


def tiny_mask2former(folder: Path, label: str) -> None:
    transformers = pytest.importorskip("transformers")
    backbone = transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=5,
        id2label={0: label, 1: "dog"},
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    transformers.Mask2FormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)


def test_mask2former_from_a_folder(tmp_path: Path) -> None:
    tiny_mask2former(tmp_path / "tiny", "Person")
    segmenter = load_segmenter("transformers", tmp_path / "tiny")
    (tmp_path / "tiny").rename(tmp_path / "renamed")
    assert load_segmenter("transformers", tmp_path / "renamed").models == segmenter.models
    first, second = segmenter(FRAMES), segmenter(FRAMES)
    check(first)
    assert (first.probability == second.probability).all()


def test_a_model_without_people_is_refused(tmp_path: Path) -> None:
    tiny_mask2former(tmp_path / "tiny", "cat")
    with pytest.raises(UserError, match="person"):
        load_segmenter("transformers", tmp_path / "tiny")
    with pytest.raises(UserError, match="no segmentation model"):
        load_segmenter("transformers", tmp_path)


def test_masks_of_the_user(tmp_path: Path) -> None:
    for number in (0, 4):
        mask = np.zeros((24, 32), np.uint8)
        mask[:12] = 255
        cv2.imwrite(str(tmp_path / f"{number:06d}.png"), mask)
    found = MaskFiles(tmp_path, [0, 2, 4])(FRAMES)
    check(found)
    assert found.confidence.tolist() == [1, 0, 1]  # there is no 000002.png
    assert (found.probability[0, :24] == 1).all() and (found.probability[0, 24:] == 0).all()
    with pytest.raises(RefusedError, match="masks"):
        MaskFiles(tmp_path / "nothing", [0, 1, 2])(FRAMES)


def test_masks_of_another_video_are_refused(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number:06d}.png"), np.zeros((24, 32), np.uint8))
    MaskFiles(tmp_path).check_count(3)
    for frames in (2, 4):
        with pytest.raises(RefusedError, match=f"it has {frames} frames"):
            MaskFiles(tmp_path).check_count(frames)
    with pytest.raises(RefusedError, match="another shape"):
        MaskFiles(tmp_path, [0])(np.zeros((1, 64, 48, 3), np.uint8))


def test_masks_that_are_labels_are_refused(tmp_path: Path) -> None:
    """0 and 1, colours of a palette, or white for what is to be ignored: read as grey, people would be nobody."""
    file, people = tmp_path / "000000.png", np.zeros((24, 32), np.uint8)
    people[4:20, 8:20] = 1

    def given(mask: np.ndarray) -> tuple[float, bool]:
        cv2.imwrite(str(file), mask)
        found = MaskFiles(tmp_path, [0])(FRAMES[:1])
        return float(found.confidence[0]), bool((found.probability > 0.3).any())

    rim = cv2.dilate(people, np.ones((3, 3), np.uint8)) - people
    for labels in (people, 2 * people, people + 255 * rim):
        with pytest.raises(RefusedError, match="white, 255"):
            given(labels)
    for colour in ((0, 0, 128), (0, 128, 0)):  # blue, green, red
        both = people[..., None] * np.array(colour, np.uint8)
        both[:2] = 128  # a seventh instance, which is grey
        with pytest.raises(RefusedError, match="colours"):
            given(both)
    assert given(cv2.GaussianBlur(people * 255, (5, 5), 0)) == (1, True), "soft edges"
    assert given(people * 0) == (1, False), "nobody"
    sliver = np.zeros((240, 320), np.uint8)
    sliver[100:110, 0] = 60
    assert given(sliver) == (0, False), "of such a frame nothing is known"


def test_each_segmenter_says_from_when_somebody_is_there() -> None:
    class Unsure(OneBox):
        def forward(self, pictures: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            return [{**one, "scores": torch.full_like(one["scores"], 0.35)} for one in super().forward(pictures)]

    people = segment_torch.maskrcnn_people(Unsure(40, 0.3))
    assert [len(hits) for hits in Recheck(segment_torch.TorchSegmenter("x", "", (), people, "cpu"))(FRAMES)] == [1] * 3


class Detector:
    """Proposes ten squares, almost the same, with the hips in the middle of the whole frame; in its parts nobody."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, picture: np.ndarray) -> list[np.ndarray]:
        regressors, logits = np.zeros((2254, 12), np.float32), np.full((2254, 1), -50, np.float32)
        middle = 2 * (28 * 14 + 14)
        regressors[:, 7] = -60  # the rim is above the hips
        if self.calls % 5 == 0:
            logits[middle - 4 : middle + 6] = 3
        self.calls += 1
        return [regressors, logits]


class Landmarks:
    """Says how sure it is of a person from a list, look by look, and puts the person where the square is."""

    def __init__(self, present: list[float]) -> None:
        self.present, self.looks = present, 0

    def __call__(self, picture: np.ndarray) -> list[np.ndarray]:
        points, mask = np.zeros((39, 5), np.float32), np.full((256, 256, 1), -9, np.float32)
        points[33, :2], points[34, :2] = (128, 128), (128, 26)
        mask[40:216, 100:156] = 9
        self.looks += 1
        return [points.ravel(), np.float32([self.present[min(self.looks, len(self.present)) - 1]]), mask]


def nothing(picture: np.ndarray) -> list[np.ndarray]:
    return [np.zeros((*picture.shape[:2], 1), np.float32)]


@pytest.mark.parametrize(
    ("present", "looks", "sure"),
    [([0.9], 1, True), ([0.1, 0.1, 0.9], 3, True), ([0.1], TRIES, False)],
)
def test_mediapipe_looks_again_where_it_found_nobody_but_not_where_it_did(present, looks: int, sure: bool) -> None:
    landmarks = Landmarks(present)
    found = MediaPipe(Detector(), landmarks, nothing)(np.zeros((1, 224, 224, 3), np.uint8))  # pyright: ignore[reportArgumentType]
    assert landmarks.looks == looks
    assert (found.confidence[0] > 0.5) == sure
    assert bool((found.probability > 0.5).any()) == sure
    assert (found.presence[0] > 0.5) == sure


def test_mediapipe_on_a_person(videos: Path) -> None:
    """With its weights, where they were downloaded: someone is found in the middle of a real video."""
    try:
        segmenter = load_segmenter("mediapipe")
    except UserError as error:
        pytest.skip(f"{error} ({weights_folder()})")
    capture = cv2.VideoCapture(str(videos / "action/asl/asl_book.mkv"))
    frames = np.stack([cv2.resize(capture.read()[1], (320, 240))[..., ::-1] for _ in range(4)])
    found = segmenter(np.ascontiguousarray(frames))
    assert (found.probability[:, 100:200, 130:190] > 0.5).mean() > 0.9
    assert (found.probability[:, :30, 100:160] < 0.5).all()
    assert (found.presence > 0.5).all()
