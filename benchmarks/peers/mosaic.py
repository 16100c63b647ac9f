"""Mosaic Streaming, simplejpeg and OpenCV: the samples of an mjpeg corpus in its shards, in worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peers.batches import Loaded, from_collated, quiet_worker
from peers.jpegs import sample_clips
from spec import Spec

from understudy.loader.read import ShardReader
from understudy.shards.corpus import Corpus

REPEATS = 64  # the corpus is small, and an epoch's end costs time: one epoch here is so many times the corpus


def prepare(spec: Spec) -> None:
    """Write the corpus in Mosaic's format."""
    from streaming import MDSWriter

    corpus = Corpus.open(spec.corpus)
    reader = ShardReader(corpus)
    columns = {"number": "int", "mjpg": "bytes", "off": "bytes"}
    with MDSWriter(out=spec.converted, columns=columns, size_limit=1 << 24) as writer:
        for number in range(len(corpus)):
            stream, offsets = reader.read(number)[0]
            writer.write({"number": number, "mjpg": bytes(stream), "off": bytes(offsets)})


def run(spec: Spec) -> Iterator[Loaded]:
    from streaming import StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    clips = sample_clips(spec)

    class Clips(StreamingDataset):
        def __getitem__(self, at: Any) -> tuple[torch.Tensor, int, int]:
            sample = super().__getitem__(at)
            return clips(sample["number"], sample["mjpg"], sample["off"])

    epoch = REPEATS * len(Corpus.open(spec.corpus))
    dataset = Clips(local=spec.converted, shuffle=True, batch_size=spec.videos, epoch_size=epoch)
    loader = StreamingDataLoader(
        dataset,
        batch_size=spec.videos,
        num_workers=spec.threads,
        worker_init_fn=quiet_worker,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    try:
        while True:
            yield from map(from_collated, loader)
    finally:
        clean_stale_shared_memory()
