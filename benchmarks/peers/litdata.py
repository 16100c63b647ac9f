"""LitData, simplejpeg and OpenCV: the samples of an mjpeg corpus in its chunks, in its loader's worker processes."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peers.batches import Loaded, from_collated, quiet_worker
from peers.jpegs import sample_clips
from spec import Spec

from understudy.loader.read import ShardReader
from understudy.shards.corpus import Corpus

REPEATS = 64  # the corpus is small, and an epoch's end costs time: one epoch here is so many times the corpus


def prepare(spec: Spec) -> None:
    """Write the corpus in LitData's format; its chunks are listed again and again, under links, as one long epoch."""
    import litdata

    folder = Path(spec.converted)
    numbers = list(range(len(Corpus.open(spec.corpus))))
    sample = functools.partial(_sample, spec.corpus)
    litdata.optimize(sample, numbers, str(folder), chunk_bytes="16MB", num_workers=1, mode="overwrite", verbose=False)
    index = json.loads((folder / "index.json").read_bytes())
    chunks = list(index["chunks"])
    for turn in range(1, REPEATS):
        for chunk in chunks:
            name = f"again-{turn}-{chunk['filename']}"
            os.link(folder / chunk["filename"], folder / name)
            index["chunks"].append({**chunk, "filename": name})
    (folder / "index.json").write_text(json.dumps(index))


def _sample(corpus: str, number: int) -> dict[str, Any]:
    stream, offsets = ShardReader(Corpus.open(corpus)).read(number)[0]
    return {"number": number, "mjpg": bytes(stream), "off": bytes(offsets)}


def run(spec: Spec) -> Iterator[Loaded]:
    import litdata

    clips = sample_clips(spec)

    def decoded(sample: dict[str, Any]) -> tuple[torch.Tensor, int, int]:
        return clips(sample["number"], sample["mjpg"], sample["off"])

    dataset = litdata.StreamingDataset(spec.converted, shuffle=True, transform=decoded)
    loader = litdata.StreamingDataLoader(
        dataset,
        batch_size=spec.videos,
        num_workers=spec.threads,
        worker_init_fn=quiet_worker,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    while True:
        yield from map(from_collated, loader)
