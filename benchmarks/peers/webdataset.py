"""webdataset, simplejpeg and OpenCV on the same mjpeg shards, in its loader's worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import webdataset
from peers.batches import Loaded, from_collated, quiet_worker
from peers.jpegs import sample_clips
from spec import Spec

from understudy.shards.corpus import Corpus


def run(spec: Spec) -> Iterator[Loaded]:
    corpus = Corpus.open(spec.corpus)
    number = {key: i for i, key in enumerate(corpus.keys)}
    shards = [str(corpus.shard_path(shard)) for shard in range(len(corpus.manifest.shards))]

    clips = sample_clips(spec)

    def decoded(sample: dict[str, Any]) -> tuple[torch.Tensor, int, int]:
        return clips(number[sample["__key__"]], sample["mjpg"], sample["off"])

    dataset = webdataset.WebDataset(shards, resampled=True, shardshuffle=False).shuffle(16).map(decoded)
    loader = webdataset.WebLoader(
        dataset.batched(spec.videos, collation_fn=torch.utils.data.default_collate),
        batch_size=None,
        num_workers=spec.threads,
        worker_init_fn=quiet_worker,
        multiprocessing_context="fork",
    )
    return map(from_collated, loader)
