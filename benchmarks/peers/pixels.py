"""Crop and resize as a user of OpenCV would write it, with the frames decoded once for all views."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from peers.batches import Fill, ReadFrames
from spec import Spec, Task
from torchvision.transforms.v2 import functional

cv2.setNumThreads(1)  # the loaders have workers or threads of their own


def filler(spec: Spec, read: ReadFrames, *, bgr: bool = False) -> Fill:
    """A `Fill` from a function that decodes frames."""

    def fill(task: Task, out: NDArray[np.uint8]) -> None:
        crop = crop_antialiased if spec.antialias else crop_views
        crop(read(task.sample, task.window), task.crops.tolist(), out, bgr=bgr)

    return fill


def crop_views(
    frames: Sequence[NDArray[np.uint8]], crops: list[list[int]], out: NDArray[np.uint8], *, bgr: bool = False
) -> None:
    """Fill `out`, uint8 (K, 3, T, S, S), with the boxes (x, y, w, h) of `frames`, uint8 (H, W, 3) each."""
    size = out.shape[-1]
    small = np.empty((size, size, 3), np.uint8)
    colours = (2, 1, 0) if bgr else (0, 1, 2)
    for k, (x, y, w, h) in enumerate(crops):
        for t, frame in enumerate(frames):
            cv2.resize(frame[y : y + h, x : x + w], (size, size), dst=small, interpolation=cv2.INTER_LINEAR)
            cv2.split(small, [out[k, colour, t] for colour in colours])


def to_planes(frames: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Frames (T, S, S, 3) to (3, T, S, S)."""
    for t, frame in enumerate(frames):
        cv2.split(frame, [out[colour, t] for colour in range(3)])


def crop_antialiased(
    frames: Sequence[NDArray[np.uint8]], crops: list[list[int]], out: NDArray[np.uint8], *, bgr: bool = False
) -> None:
    """As `crop_views`, by torchvision with antialiasing, which OpenCV does not have."""
    video = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    for k, (x, y, w, h) in enumerate(crops):
        clip = functional.resize(video[:, :, y : y + h, x : x + w], list(out.shape[-2:]), antialias=True)
        out[k] = clip.flip(1).transpose(0, 1).numpy() if bgr else clip.transpose(0, 1).numpy()
