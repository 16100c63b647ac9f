"""Which detectors there are, which suit an audit and which a removal's own gate, and getting one by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from understudy.privacy.detect import Detector
from understudy.privacy.weights import Packaged, what_is_missing
from understudy.shards.errors import UserError

# The first seven take weights that lie in packages, the others a file of weights that the user names.
NAMES = ("openimages", "body-parts", "mtcnn", "pose", "palm", "face", "text", "torchvision", "transformers")
# Sees people without the weights that the no-download removal works with, so that the two are independent.
AUDIT_DEFAULT = ("openimages", "mtcnn", "text")


def load_detector(spec: str, *, tiles: Sequence[int] = (1, 2), device: str = "cpu") -> Detector:
    """The detector `NAME` or `NAME:WEIGHTS`, weights being a file, a wheel or (transformers) a model folder.

    `tiles` are the scales: each n cuts the frame into n x n overlapping parts that are looked at one by one.
    Raises UserError where the name is unknown, the weights are missing (with the command that gets them), or a
    library is not installed.
    """
    name, weights = _parsed(spec)
    if name in ("torchvision", "transformers"):
        from understudy.privacy import detect_torch

        return detect_torch.load(name, weights, tiles, device)
    if name == "openimages":
        from understudy.privacy.detect_openimages import OpenImages

        return OpenImages.load(weights, tiles)
    if name == "mtcnn":
        from understudy.privacy.detect_mtcnn import Mtcnn

        return Mtcnn.load(weights, device)
    from understudy.privacy import detect_opencv

    return detect_opencv.load(name, weights, tiles)


def check_weights(specs: Iterable[str]) -> None:
    """Raise UserError where weights of the detectors `specs` are missing: of all of them, with all the commands that
    get them, and before the first is loaded.
    """
    needed: list[tuple[Packaged, Path | None]] = []
    told: list[str] = []
    for name, weights in map(_parsed, specs):
        if name in ("torchvision", "transformers"):
            from understudy.privacy import detect_torch

            told.append(detect_torch.what_is_missing(name, weights))
        else:
            needed += [(model, weights) for model in _packaged(name)]
    told = [words for words in (*told, what_is_missing(needed)) if words]
    if told:
        raise UserError("; ".join(told))


def _packaged(name: str) -> Sequence[Packaged]:
    if name == "openimages":
        from understudy.privacy.detect_openimages import MODEL

        return (MODEL,)
    if name == "mtcnn":
        from understudy.privacy.detect_mtcnn import STAGES

        return STAGES
    from understudy.privacy.detect_opencv import MODELS

    return (MODELS[name],)


def _parsed(spec: str) -> tuple[str, Path | None]:
    name, _, given = spec.partition(":")
    if name not in NAMES:
        raise UserError(f"detector {name!r}: there are {', '.join(NAMES)}")
    return name, Path(given).expanduser() if given else None
