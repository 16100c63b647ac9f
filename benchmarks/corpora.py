"""What the loaders are timed on: originals as Kinetics is distributed, and the same clips packed in both codecs.

Also what peers read in place of our shards: the h264 members as files, VP9 files, raw RGB. Everything is kept in a
folder and made only once.
"""

from __future__ import annotations

import csv
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from spec import SAMPLED_FPS

from understudy.loader.read import ShardReader
from understudy.shards.corpus import Corpus
from understudy.shards.demo import demo_sources, read_demo
from understudy.shards.errors import UserError
from understudy.shards.files import write_atomic
from understudy.shards.ingest import read_video
from understudy.shards.kinds import Codec
from understudy.shards.pack import pack
from understudy.shards.plan import PackConfig
from understudy.shards.scene import FPS as DEMO_FPS
from understudy.shards.sources import Source

FPS = 30
SHORT_SIDE = 256
SECONDS = 10
QUALITY = 85
SHARDS = 4  # so that readers which share out whole shards have some for each worker
SHORTEST = 6.0  # seconds of a video that is worth making a clip of: shorter ones would mostly be seen backwards
SLOWEST = 20.0  # frames a second of a video that may stand for one of 30

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Material:
    """What there is to load: packed corpora by codec, the original files, and where they came from."""

    packed: dict[Codec, Path]
    originals: tuple[Path, ...]
    made_from: str


def make_material(folder: Path, clips: int, videos: Path | None) -> Material:
    """Make, or find made, `clips` originals of 10 seconds in `folder` and the same packed as mjpeg and as h264.

    From the real videos in the folder `videos`, which has a manifest.csv; from the demo's generator where that is None.
    """
    folder = folder / f"{'videos' if videos else 'demo'}-{clips}"
    originals = [folder / "originals" / f"{number:04d}.mp4" for number in range(clips)]
    if not all(path.exists() for path in originals):
        originals[0].parent.mkdir(parents=True, exist_ok=True)
        recipes = _real_clips(videos, clips) if videos else _demo_clips(clips)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # the codecs release the GIL
            list(pool.map(_write_original, originals, recipes))
    packed: dict[Codec, Path] = {}
    codecs: tuple[Codec, ...] = ("mjpeg", "h264")
    for codec in codecs:
        packed[codec] = folder / codec
        config = PackConfig(
            name=f"bench-{codec}",
            kind="real" if videos else "synthetic",
            classes=("clip",),
            licence="for measuring only",
            secret=b"these keys hide nothing",
            codec=codec,
            fps=SAMPLED_FPS,
            short_side=SHORT_SIDE,
            quality=QUALITY,
            samples_per_shard=max(1, clips // SHARDS),
        )
        sources = [Source(path.name, 0, path) for path in originals]
        read = functools.partial(read_video, fps=SAMPLED_FPS, short_side=SHORT_SIDE)
        pack(sources, read, packed[codec], config, workers=os.cpu_count() or 1, progress=False)
    return Material(packed, tuple(originals), "videos" if videos else "demo")


def _write_original(path: Path, frames: Callable[[], Iterator[Frames]]) -> None:
    write_video(path, frames(), FPS, "libx264")


def _real_clips(videos: Path, clips: int) -> list[Callable[[], Iterator[Frames]]]:
    """Clips of the longer ones of the real videos, used about equally often: as they are, mirrored, backwards, both."""
    with (videos / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["expect"] == "ok"]
    usable: list[tuple[Path, float]] = []
    for row in rows:
        frames, _, per = (row["fps"] or "0").partition("/")
        rate = int(frames) / max(1, int(per or 1))
        seconds = int(row["frames"] or 0) / rate if rate else 0.0
        folder = row["file"].split("/")[0]
        if folder in ("action", "nohuman", "edge") and rate >= SLOWEST and seconds >= SHORTEST:
            usable.append((videos / row["file"], seconds))
    if not usable:
        raise UserError(f"{videos}: no video there is {SHORTEST:g} seconds long at {SLOWEST:g} frames a second")
    chosen: list[Callable[[], Iterator[Frames]]] = []
    for turn in range(clips):
        path, seconds = usable[turn % len(usable)]
        lap, variant = divmod(turn // len(usable), 4)
        start = SECONDS * lap % max(1, int(seconds) - SECONDS + 1)
        chosen.append(functools.partial(_real_clip, path, start, mirror=variant % 2 == 1, backwards=variant >= 2))
    return chosen


def _real_clip(path: Path, start: int, *, mirror: bool, backwards: bool) -> Iterator[Frames]:
    """Ten seconds of a video from `start` on; one that ends before is played back and forth."""
    source = Source(path.name, 0, path)
    count = FPS * SECONDS
    frames = list(islice(read_video(source, fps=FPS, short_side=SHORT_SIDE), FPS * start, FPS * start + count))
    if backwards:
        frames.reverse()
    there_and_back = frames + frames[-2:0:-1]
    for i in range(count):
        frame = there_and_back[i % len(there_and_back)]
        yield np.ascontiguousarray(frame[:, ::-1]) if mirror else frame


def _demo_clips(clips: int) -> list[Callable[[], Iterator[Frames]]]:
    needed = -(-SECONDS * DEMO_FPS // 16) + 1
    sources = demo_sources("demo-actions-train", clips * needed)
    return [functools.partial(_demo_clip, sources[i * needed : (i + 1) * needed]) for i in range(clips)]


def _demo_clip(scenes: Sequence[Source]) -> Iterator[Frames]:
    """Ten seconds of demo scenes one after another, enlarged, frames in between blended of their neighbours."""
    coarse = [frame for scene in scenes for frame in read_demo(scene, seed=0)]
    height, width = coarse[0].shape[:2]
    size = (2 * round(SHORT_SIDE * width / height / 2), SHORT_SIDE)
    large = [
        av.VideoFrame.from_ndarray(frame, "rgb24").reformat(*size).to_ndarray().astype(np.float32) for frame in coarse
    ]
    for i in range(FPS * SECONDS):
        at = i * DEMO_FPS / FPS % (len(large) - 1)
        before = int(at)
        yield np.rint(large[before] + (large[before + 1] - large[before]) * (at - before)).astype(np.uint8)


def write_video(
    path: Path, frames: Iterator[Frames], fps: int, codec: str, options: dict[str, str] | None = None
) -> None:
    """Encode RGB frames with the encoder's defaults but for `options`; the file appears whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    with av.open(str(temporary), "w", format=path.suffix[1:]) as container:
        stream = None
        for frame in frames:
            if stream is None:
                stream = container.add_stream(codec, rate=fps)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.thread_count = 1
                stream.codec_context.options = options or {}
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        if stream is None:
            raise UserError(f"{path}: nothing to encode")
        container.mux(stream.encode(None))
    temporary.rename(path)


def h264_files(corpus: Corpus, folder: Path) -> tuple[Path, ...]:
    """The mp4 members of an h264 corpus as files, in the order of its samples."""
    reader = ShardReader(corpus)

    def write(sample: int, path: Path) -> None:
        payload, reason = reader.read(sample)
        if reason is not None:
            raise UserError(f"{corpus.root}: sample {sample} can't be read ({reason})")
        write_atomic(path, bytes(payload[0]))

    return _once_each(corpus, folder, "mp4", write)


def vp9_files(corpus: Corpus, folder: Path) -> tuple[Path, ...]:
    """The videos of an mjpeg corpus as VP9, groups of 16 pictures: the video codec that DALI decodes on CPU."""
    options = {"crf": "31", "b": "0", "g": "16", "deadline": "realtime", "cpu-used": "5", "lag-in-frames": "0"}

    def write(sample: int, path: Path) -> None:
        write_video(path, iter(jpeg_frames(corpus, sample)), round(corpus.manifest.fps), "libvpx-vp9", options)

    return _once_each(corpus, folder, "webm", write)


def raw_map(corpus: Corpus, folder: Path) -> Path:
    """The decoded frames of an mjpeg corpus end to end, RGB bytes, in the order of its samples."""
    path = folder / "raw" / corpus.manifest.digest[:16] / "frames.rgb"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            for sample in range(len(corpus)):
                for frame in jpeg_frames(corpus, sample):
                    file.write(frame)
        temporary.rename(path)
    return path


def jpeg_frames(corpus: Corpus, sample: int) -> list[Frames]:
    """All frames of a sample of an mjpeg corpus, decoded as the reference does."""
    (stream, index), reason = ShardReader(corpus).read(sample)
    if reason is not None:
        raise UserError(f"{corpus.root}: sample {sample} can't be read ({reason})")
    offsets = np.frombuffer(index, "<i8").tolist()
    return [simplejpeg.decode_jpeg(stream[start:end]) for start, end in pairwise(offsets)]


def _once_each(corpus: Corpus, folder: Path, extension: str, write: Callable[[int, Path], None]) -> tuple[Path, ...]:
    folder = folder / extension / corpus.manifest.digest[:16]
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(folder / f"{sample:06d}.{extension}" for sample in range(len(corpus)))
    missing = [(sample, path) for sample, path in enumerate(paths) if not path.exists()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda item: write(*item), missing))
    return paths


@dataclass(frozen=True)
class Probed:
    """Of video files the frames (N,), sizes (N, 2), width first, and frames a second (N,)."""

    frames: NDArray[np.int32]
    sizes: NDArray[np.int32]
    fps: NDArray[np.float64]


def probe(files: Sequence[Path]) -> Probed:
    """Count the frames of each file; nothing is decoded."""
    rows: list[tuple[int, int, int, float]] = []
    for path in files:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            packets = sum(packet.pts is not None for packet in container.demux(stream))
            rows.append((packets, stream.width, stream.height, float(stream.average_rate or FPS)))
    table = np.array(rows, np.float64)
    return Probed(table[:, 0].astype(np.int32), table[:, 1:3].astype(np.int32), table[:, 3])
