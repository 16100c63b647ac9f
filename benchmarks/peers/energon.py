"""Megatron-Energon, simplejpeg and OpenCV on the same mjpeg shards, in its loader's worker processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from peers.batches import Loaded, from_collated
from peers.jpegs import sample_clips
from spec import Spec

from understudy.shards.corpus import Corpus


def prepare(spec: Spec) -> None:
    """Have Energon index the shards, as links in a folder of its own."""
    folder, corpus = Path(spec.converted), Corpus.open(spec.corpus)
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(len(corpus.manifest.shards)):
        path = corpus.shard_path(shard)
        os.link(path, folder / path.name)
    energon = Path(sys.executable).with_name("energon")
    subprocess.run(
        [energon, "prepare", folder, "--non-interactive", "--split-ratio", "1,0,0", "--sample-type", "CrudeWebdataset"],
        check=True,
        stdout=2,
    )


def run(spec: Spec) -> Iterator[Loaded]:
    from megatron.energon import (
        Cooker,
        CrudeSample,
        DefaultTaskEncoder,
        Sample,
        WorkerConfig,
        basic_sample_keys,
        edataclass,
        get_loader,
        get_train_dataset,
        stateless,
    )

    number = {key: i for i, key in enumerate(Corpus.open(spec.corpus).keys)}
    clips = sample_clips(spec)

    @edataclass
    class Decoded(Sample):
        clips: torch.Tensor
        sample: int
        visit: int

    @stateless
    def decoded(crude: CrudeSample) -> Decoded:
        found = clips(number[crude["__key__"].rpartition("/")[2]], crude["mjpg"], crude["off"])
        return Decoded(**basic_sample_keys(crude), clips=found[0], sample=found[1], visit=found[2])

    class Encoder(DefaultTaskEncoder):
        cookers = (Cooker(decoded),)

        def batch(self, samples: list[Decoded]) -> list[torch.Tensor]:
            return torch.utils.data.default_collate([(item.clips, item.sample, item.visit) for item in samples])

    dataset = get_train_dataset(
        spec.converted,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=spec.threads),
        batch_size=spec.videos,
        shuffle_buffer_size=16,
        max_samples_per_sequence=None,
        task_encoder=Encoder(),
    )
    return map(from_collated, get_loader(dataset))
