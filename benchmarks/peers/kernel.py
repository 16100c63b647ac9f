"""The native decoder in a bare loop: bytes in memory, requests made before, one output that is used again and again.

What the loader costs is the difference between this row and that of the loader.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import torch
from peers.batches import RING, Loaded, clip_shape
from spec import Draws, Spec, order

from understudy.loader.native import decode_native, set_threads
from understudy.loader.read import ShardReader
from understudy.loader.request import Request
from understudy.shards.corpus import Corpus

BATCHES = 64


def run(spec: Spec) -> Iterator[Loaded]:
    corpus, draws = Corpus.open(spec.corpus), Draws.load(spec.draws)
    reader, stream = ShardReader(corpus), order(len(draws))
    payloads = [reader.read(sample)[0] for sample in range(len(corpus))]
    turns = [[next(stream) for _ in range(spec.videos)] for _ in range(BATCHES)]
    requests = [[_request(corpus, draws, payloads[sample], sample, visit) for sample, visit in turn] for turn in turns]
    clips = torch.empty((RING, spec.videos, *clip_shape(spec.views)), dtype=torch.uint8)
    set_threads(spec.threads)
    with ThreadPoolExecutor(spec.threads) as pool:
        for number in count():
            turn, out = number % BATCHES, clips[number % RING]
            if corpus.manifest.codec == "mjpeg":  # the kernel has threads of its own
                reasons = decode_native(requests[turn], out.numpy())
            else:
                rows = [out.numpy()[i : i + 1] for i in range(spec.videos)]
                reasons = [reason for [reason] in pool.map(decode_native, [[one] for one in requests[turn]], rows)]
            if any(reasons):
                raise RuntimeError(f"the kernel refused good samples: {reasons}")
            yield Loaded(out.flatten(0, 1), turns[turn])


def _request(corpus: Corpus, draws: Draws, payload: tuple[bytes | memoryview, ...], sample: int, visit: int) -> Request:
    task = draws.task(sample, visit)
    return Request(
        payload=payload,
        codec=corpus.manifest.codec,
        frames=task.window,
        crops=task.crops,
        flips=np.zeros(len(task.crops), np.bool_),
        width=int(corpus.width[sample]),
        height=int(corpus.height[sample]),
    )
