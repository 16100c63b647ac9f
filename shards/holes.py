"""Where a video was filled in: which cells of its frames, as the removal record of a sample's KEY.json can say it.

Optional: outlines of people tell what they do, so that they are kept only where it is asked for. Coarse, so that they
tell little more than the filling does.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

CELL = 16  # stored pixels: about a patch of the encoder
RECORD = "holes"  # in the removal record
LARGEST = 1 << 27  # cells of a clip; beyond it a record is damaged


def holes_of(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Cells (ceil(H / CELL), ceil(W / CELL)) in which anything of `mask` (H, W) is not 0."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % CELL), (0, -width % CELL)))
    cells: NDArray[np.bool_] = (padded.reshape(padded.shape[0] // CELL, CELL, -1, CELL) != 0).max(axis=(1, 3))
    return cells


def holes_record(cells: Sequence[NDArray[np.bool_]]) -> dict[str, Any]:
    """The cells of all frames as JSON."""
    stacked = np.stack(cells)
    packed = zlib.compress(np.packbits(stacked).tobytes(), 9)
    return {
        "cell": CELL,
        "rows": stacked.shape[1],
        "columns": stacked.shape[2],
        "bits": base64.urlsafe_b64encode(packed).decode(),  # no slash, by which an audit tells a path
    }


def read_holes(sidecar: bytes, frames: int, width: int, height: int) -> NDArray[np.bool_] | None:
    """Cells (frames, rows, columns) out of the bytes of a KEY.json, for frames of that size; None where it has none.

    Raises ValueError where it is damaged or does not fit the video.
    """
    try:
        body: Any = json.loads(sidecar)
    except RecursionError:
        raise ValueError("damaged (nested too deep)") from None
    removal: Any = cast("dict[str, Any]", body).get("removal") if isinstance(body, dict) else None
    if not isinstance(removal, dict) or RECORD not in removal:
        return None
    shape = (frames, -(-height // CELL), -(-width // CELL))
    size = int(np.prod(shape))
    if size > LARGEST:
        raise ValueError("of a video too large")
    try:
        record: Any = cast("dict[str, Any]", removal)[RECORD]
        told = record["cell"], record["rows"], record["columns"]
        inflate = zlib.decompressobj()
        packed = inflate.decompress(base64.urlsafe_b64decode(record["bits"]), -(-size // 8) + 1)
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise ValueError(f"damaged ({error!r})") from None
    if told != (CELL, *shape[1:]) or len(packed) != -(-size // 8) or not inflate.eof:
        raise ValueError("of another size than the video")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=size).astype(np.bool_).reshape(shape)
