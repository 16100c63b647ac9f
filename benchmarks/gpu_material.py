"""Corpora for gpu.py where none is given: demo scenes enlarged, with grain that makes them as large as real video.

With this grain ten seconds at 340 x 256 take 880 KB as JPEGs and 350 KB as H.264, like the real clips of loaders.py.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from spec import SAMPLED_FPS

from understudy.shards.corpus import Corpus
from understudy.shards.demo import demo_sources, read_demo
from understudy.shards.kinds import Codec
from understudy.shards.machine import usable_cores
from understudy.shards.pack import pack
from understudy.shards.plan import PackConfig
from understudy.shards.sources import Source

GRAIN = 4.0  # standard deviation, in steps of 255
DEMO = "demo-actions-train"
SCENES = 4  # of some 27 frames each, shown one after another
CODECS: tuple[Codec, ...] = ("mjpeg", "h264")


def read_grained(source: Source, *, width: int, height: int, frames: int) -> Iterator[NDArray[np.uint8]]:
    """`frames` frames uint8 (height, width, 3): scenes one after another under grain that stays in its place."""
    number = int(source.id)
    grain = np.random.default_rng(number).normal(0, GRAIN, (height, width, 1)).astype(np.float32)
    scenes = demo_sources(DEMO, SCENES * (number + 1))[-SCENES:]
    coarse = [frame for scene in scenes for frame in read_demo(scene, seed=0)]
    for i in range(frames):
        picture = av.VideoFrame.from_ndarray(coarse[i % len(coarse)], "rgb24").reformat(width, height).to_ndarray()
        yield np.rint(picture + grain).clip(0, 255).astype(np.uint8)


def make_corpora(folder: Path, clips: int, width: int, height: int, frames: int) -> dict[Codec, Corpus]:
    """`clips` clips in both codecs, in `folder` or found there."""
    packed: dict[Codec, Corpus] = {}
    for codec in CODECS:
        root = folder / f"{codec}-{clips}-{width}x{height}-{frames}"
        config = PackConfig(
            name=f"gpu-{codec}",
            kind="synthetic",
            classes=("clip",),
            licence="for measuring only",
            secret=b"these keys hide nothing",
            codec=codec,
            fps=SAMPLED_FPS,
            short_side=min(width, height),
            samples_per_shard=max(1, clips // 16),  # a worker packs a shard
        )
        read = functools.partial(read_grained, width=width, height=height, frames=frames)
        sources = [Source(f"{number:04d}", 0) for number in range(clips)]
        pack(sources, read, root, config, workers=usable_cores(), progress=False)
        packed[codec] = Corpus.open(root)
    return packed


def open_corpora(paths: Sequence[str]) -> dict[Codec, Corpus]:
    """Packed corpora by codec."""
    corpora = [Corpus.open(path) for path in paths]
    return {corpus.manifest.codec: corpus for corpus in corpora}
