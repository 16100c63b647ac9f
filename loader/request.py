"""What stands between encoded bytes and uint8 clips: the request, and the one function that every decoder is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from understudy.shards.kinds import Codec

Payload = tuple[bytes | memoryview, ...]


@dataclass(frozen=True)
class Request:
    """One stored video and what to make of it.

    `payload` holds the sample's payload members in the order of `MEMBERS[codec]`. `frames` int32 (T,) are indices
    of stored frames, in any order and perhaps repeated. `crops` int32 (K, 4) are boxes (x, y, w, h) in stored
    pixels, each inside the frame; `flips` bool (K,) mirrors the crop left to right. `width` and `height` are what
    the stored frames must have.
    """

    payload: Payload
    codec: Codec
    frames: NDArray[np.int32]
    crops: NDArray[np.int32]
    flips: NDArray[np.bool_]
    width: int
    height: int


# Fills `out`, uint8 (n, K, 3, T, S, S) RGB, one entry for each of the n requests, which share K and T. Answers for
# each with None, or with the reason why it failed; a failed request's entry is zeros. No bytes, however bad, make it
# raise. It may be called from several threads at once.
Decoder = Callable[[Sequence[Request], NDArray[np.uint8]], list[str | None]]


@dataclass(frozen=True)
class BatchDecoder:
    """A decoder that is asked for whole batches, and makes them on `device`.

    `decode` is as a `Decoder`, but for this: `out` is a contiguous tensor on `device`, filled in the order of the
    current stream; a request that is None stands for zeros and no reason; one thread calls it at a time. With each
    request comes what `check` said of it, which may be asked in any thread before: it looks at headers only.
    """

    device: torch.device
    check: Callable[[Request], str | None]
    decode: Callable[[Sequence[Request | None], Sequence[str | None], torch.Tensor], list[str | None]]
