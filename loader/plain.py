"""The decoder where the native kernel could not be built: the fastest that was found in plain wheels.

Frames as the reference decodes them, by simplejpeg and libavcodec, then torch's resizing of bytes in place of NumPy's
of floats: it rounds differently, by 1/255 at the most, and takes a third of the time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from understudy.loader.reference import UndecodableError, decode_frames
from understudy.loader.request import Request


def decode_plain(requests: Sequence[Request], out: NDArray[np.uint8]) -> list[str | None]:
    """A `Decoder` (see request.py for the contract)."""
    return [_decode_one(request, out[i]) for i, request in enumerate(requests)]


def _decode_one(request: Request, out: NDArray[np.uint8]) -> str | None:
    try:
        frames, positions = decode_frames(request)
    except UndecodableError as error:
        out[:] = 0
        return str(error)
    for clip, crop, flip in zip(out, request.crops.tolist(), request.flips.tolist()):
        resized = resize_crop(frames, crop, out.shape[-1])
        resized = resized[:, :, ::-1] if flip else resized
        for t, position in enumerate(positions.tolist()):
            clip[:, t] = resized[position].transpose(2, 0, 1)
    return None


def resize_crop(frames: NDArray[np.uint8], crop: tuple[int, int, int, int], size: int) -> NDArray[np.uint8]:
    """The box `crop` (x, y, w, h) of `frames`, uint8 (T, H, W, 3), as uint8 (T, size, size, 3)."""
    x, y, w, h = crop
    # NumPy copies, before and after: torch would start threads of its own for that in each of the loader's.
    box = torch.as_tensor(np.ascontiguousarray(frames[:, y : y + h, x : x + w])).permute(0, 3, 1, 2)
    return interpolate(box, (size, size), mode="bilinear", antialias=False).permute(0, 2, 3, 1).numpy()
