"""What a loader should have made, by the reference decoder from the same source, and how far from it one may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from spec import CLIP, Draws, Spec
from torchvision.transforms.v2 import functional

from understudy.loader.read import ShardReader
from understudy.loader.reference import decode_reference
from understudy.loader.request import Request
from understudy.shards.corpus import Corpus
from understudy.shards.manifest import MEMBERS

# The loader contract: mean absolute difference and 99th percentile, in 255ths.
MEAN, PERCENTILE_99 = 1.0, 4.0
CONVERSION = 3.0  # mean: the coarsest conversion to RGB is half as far off, a box moved by one pixel 1.6 times as far


class Agreement(NamedTuple):
    """How far clips are from the reference's, over all pixels, in 255ths; and whether they show the same frames.

    Libraries convert colours in different ways, so that the right frames may be further off than the tolerance. They
    are the same if they are not far off, and nearer to the reference's than to what it makes of the frames before or
    after.
    """

    mean: float
    percentile_99: float
    same_frames: bool

    @property
    def matches(self) -> bool:
        """Whether that is within the contract's tolerance."""
        return self.mean <= MEAN and self.percentile_99 <= PERCENTILE_99


def agreement(spec: Spec, tasks: Sequence[tuple[int, int]], clips: NDArray[np.uint8]) -> Agreement:
    """Compare `clips`, uint8 (n, K, 3, T, S, S), which a loader made for these (sample, visit)."""
    mean, percentile_99 = _difference(spec, tasks, clips, 0)
    found = Agreement(mean, percentile_99, same_frames=True)
    if not found.matches:
        others = [_difference(spec, tasks, clips, shift)[0] for shift in (-1, 1)]
        found = found._replace(same_frames=mean <= CONVERSION and mean < min(others))
    return found


def _difference(
    spec: Spec, tasks: Sequence[tuple[int, int]], clips: NDArray[np.uint8], shift: int
) -> tuple[float, float]:
    """Mean and 99th percentile of the absolute difference to the reference's clips of windows `shift` frames later."""
    counts = np.zeros(256, np.int64)
    # Raw frames are those of the JPEGs, decoded as the reference does.
    source = "mjpeg" if spec.source_format == "raw" else spec.source_format
    for (sample, visit), made in zip(tasks, clips):
        right = _expected(source, spec.corpus, spec.files, spec.draws, spec.antialias, sample, visit, shift)
        if made.shape != right.shape:
            raise ValueError(f"clips of shape {made.shape}, not {right.shape}")
        difference = np.abs(made.astype(np.int16) - right)
        counts += np.bincount(difference.ravel(), minlength=256)
    shares = np.cumsum(counts) / counts.sum()
    return float((counts * np.arange(256)).sum() / counts.sum()), float(np.searchsorted(shares, 0.99))


@lru_cache(maxsize=64)
def _expected(
    source: str, corpus: str, files: tuple[str, ...], draws: str, antialias: bool, sample: int, visit: int, shift: int
) -> NDArray[np.uint8]:
    table = _draws(draws)
    task = table.task(sample, visit)
    width, height = table.sizes[sample].tolist()
    request = Request(
        payload=_reader(corpus).read(sample)[0] if source in MEMBERS else (Path(files[sample]).read_bytes(),),
        codec="mjpeg" if source == "mjpeg" else "h264",  # for the reference, any video that libavcodec decodes
        frames=np.clip(task.window + shift, 0, table.frames[sample] - 1),
        crops=task.crops,
        flips=np.zeros(len(task.crops), np.bool_),
        width=width,
        height=height,
    )
    if not antialias:
        return _decoded(request, CLIP.size)
    frames = torch.from_numpy(_whole_frames(request))
    clips = [
        functional.resize(frames[..., y : y + h, x : x + w], [CLIP.size, CLIP.size], antialias=True).numpy()
        for x, y, w, h in task.crops.tolist()
    ]
    return np.stack(clips)


def _decoded(request: Request, size: int) -> NDArray[np.uint8]:
    out = np.empty((1, len(request.crops), 3, len(request.frames), size, size), np.uint8)
    [reason] = decode_reference([request], out)
    if reason is not None:
        raise ValueError(f"the reference can't decode a sample of its own corpus: {reason}")
    return out[0]


def _whole_frames(request: Request) -> NDArray[np.uint8]:
    """The frames of a request as they are, uint8 (3, T, H, W), put together of squares that need no resizing."""
    side = min(request.width, request.height)
    corners = [(min(x, request.width - side), 0) for x in range(0, request.width, side)]
    corners += [(0, min(y, request.height - side)) for y in range(side, request.height, side)]
    squares = np.array([(x, y, side, side) for x, y in corners], np.int32)
    tiles = _decoded(replace(request, crops=squares, flips=np.zeros(len(squares), np.bool_)), side)
    frames = np.empty((3, len(request.frames), request.height, request.width), np.uint8)
    for (x, y), tile in zip(corners, tiles):
        frames[..., y : y + side, x : x + side] = tile
    return frames


@lru_cache(maxsize=4)
def _draws(path: str) -> Draws:
    return Draws.load(path)


@lru_cache(maxsize=4)
def _reader(corpus: str) -> ShardReader:
    return ShardReader(Corpus.open(corpus))
