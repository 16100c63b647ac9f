"""SPDL: a pipeline of plain functions in threads. simplejpeg and OpenCV on mjpeg shards, its own decoder on video."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import spdl.io
import torch
from numpy.typing import NDArray
from peers.batches import RING, Loaded, ReadFrames, clip_shape
from peers.jpegs import shard_frames
from peers.pixels import filler
from spdl.pipeline import PipelineBuilder
from spec import Draws, Spec, Task, tasks


class _Job(NamedTuple):
    task: Task
    clips: torch.Tensor
    row: int


def run(spec: Spec) -> Iterator[Loaded]:
    fill = filler(spec, shard_frames(spec) if spec.source_format == "mjpeg" else _video_frames(spec))

    def jobs() -> Iterator[_Job]:
        stream = tasks(Draws.load(spec.draws))
        ring = torch.empty((2 * RING, spec.videos, *clip_shape(spec.views)), dtype=torch.uint8)
        number = 0
        while True:
            for row in range(spec.videos):
                yield _Job(next(stream), ring[number % len(ring)], row)
            number += 1

    def work(job: _Job) -> _Job:
        fill(job.task, job.clips[job.row].numpy())
        return job

    pipeline = (
        PipelineBuilder()
        .add_source(jobs())
        .pipe(work, concurrency=spec.threads, output_order="input")
        .aggregate(spec.videos)
        .add_sink(2)
        .build(num_threads=spec.threads, max_failures=0)
    )
    with pipeline.auto_stop():
        for done in pipeline.get_iterator():
            yield Loaded(done[0].clips.flatten(0, 1), [(job.task.sample, job.task.visit) for job in done])


def _video_frames(spec: Spec) -> ReadFrames:
    fps = spec.options["fps"]

    def read(sample: int, window: NDArray[np.int32]) -> list[NDArray[np.uint8]]:
        first, last, rate = int(window.min()), int(window.max()), fps[sample]
        # Half a frame around the window, so that rounding moves no frame across its edges.
        span = (max(0.0, (first - 0.5) / rate), (last + 0.5) / rate)
        wanted = "+".join(rf"eq(n\,{number - first})" for number in sorted(set(window.tolist())))
        packets = spdl.io.demux_video(spec.files[sample], timestamp=span)
        chain = spdl.io.get_video_filter_desc(timestamp=span, filter_desc=f"select='{wanted}'")
        frames = spdl.io.to_numpy(spdl.io.convert_frames(spdl.io.decode_packets(packets, filter_desc=chain)))
        place = {number: i for i, number in enumerate(sorted(set(window.tolist())))}
        if len(frames) != len(place):
            raise RuntimeError(f"{spec.files[sample]}: {len(frames)} frames, {len(place)} were asked for")
        return [frames[place[number]] for number in window.tolist()]

    return read
