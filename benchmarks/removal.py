"""How fast people are removed: frames a second for each stage and in total, on this machine.

    python benchmarks/removal.py --out removal.json [--segmenter mediapipe] [--weights PATH] [--videos FILE ...]

Each stage is timed by itself, one thread, on the same frames; then whole clips go through `remove_from_all`, a process
a core. Without --videos the clips are the demo's, enlarged to 320x240: their figures are people to the networks too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from understudy.privacy.background import behind, belongings
from understudy.privacy.fill import Shot, background
from understudy.privacy.masks import solid, widened
from understudy.privacy.removal import Removal, Summary, remove_from_all, tools
from understudy.privacy.remove import BATCH, REACH, SURE
from understudy.privacy.stabilise import camera_motion
from understudy.privacy.track import follow
from understudy.shards.demo import demo_sources, read_demo
from understudy.shards.encode import encode
from understudy.shards.ingest import native, read_video
from understudy.shards.sources import Source

HEIGHT = 240
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON with the results")
    parser.add_argument("--segmenter", default="mediapipe", choices=("mediapipe", "maskrcnn", "transformers"))
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--videos", type=Path, nargs="*", help="default: clips of the demo")
    parser.add_argument("--frames", type=int, default=48, help="frames for the stages")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    removal = Removal(segmenter=options.segmenter, weights=options.weights, device=options.device)
    with tempfile.TemporaryDirectory(prefix="removal-") as work:
        videos = options.videos or _demo_videos(Path(work), 2 * options.workers)
        result = {
            "machine": {"cpu": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0))},
            "versions": {name: version(name) for name in ("understudy", "opencv-python-headless", "numpy")},
            "segmenter": options.segmenter,
            "device": options.device,
            "stages": _stages(videos[0], removal, options.frames),
            "total": _total(videos, removal, options.workers, Path(work)),
        }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, stage in result["stages"].items():
        print(f"{name:12} {stage['frames_per_second']:8.1f} frames/s on one core")
    total = result["total"]
    print(f"{'total':12} {total['frames_per_second']:8.1f} frames/s with {total['workers']} processes, {total['size']}")


def _demo_videos(folder: Path, count: int) -> list[Path]:
    paths = []
    for number, source in enumerate(demo_sources("demo-actions-train", count)):
        frames = [
            cv2.resize(frame, (320, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
            for frame in read_demo(source, seed=0)
        ]
        paths.append(folder / f"{number}.mp4")
        paths[-1].write_bytes(encode(iter(frames), "h264", fps=8, quality=90).members["mp4"])
    return paths


def _stages(video: Path, removal: Removal, count: int) -> dict[str, Any]:
    """Median frames a second of each stage over ROUNDS, and the share of a frame's time that it takes."""
    segment, _, _ = tools(removal)
    assert segment is not None
    source = Source("video", 0, video)
    rate, short_side = native(source)
    frames = np.stack([frame for _, frame in zip(range(count), read_video(source, fps=rate, short_side=short_side))])
    found = [segment(frames[start : start + BATCH]) for start in range(0, len(frames), BATCH)]
    probability = np.concatenate([part.probability for part in found])
    people = solid(probability > removal.settings.threshold)
    holes, zone = widened(people), widened(people, REACH)
    motion = camera_motion(frames, holes)
    seen_behind, seen = behind(frames, zone, ~zone, people, motion)
    stages: dict[str, Callable[[], object]] = {
        "read": lambda: list(read_video(source, fps=rate, short_side=short_side)),
        "segment": lambda: [segment(frames[start : start + BATCH]) for start in range(0, len(frames), BATCH)],
        "masks": lambda: (solid(people), widened(people), widened(people, REACH)),
        "camera": lambda: camera_motion(frames, holes),
        "follow": lambda: follow(people, people & (probability > SURE), frames, motion, rate),
        "background": lambda: behind(frames, zone, ~zone, people, motion),
        "belongings": lambda: belongings(frames, holes, seen_behind, seen),
        "fill": lambda: background(Shot(frames, holes, seen_behind, seen & holes, motion)),
        "encode": lambda: encode(iter(frames), "h264", fps=rate, quality=98),
    }
    times: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(ROUNDS):
        for name, stage in stages.items():
            start = time.perf_counter()
            stage()
            times[name].append(time.perf_counter() - start)
    read = len(list(read_video(source, fps=rate, short_side=short_side)))
    return {
        name: {"frames_per_second": (read if name == "read" else len(frames)) / statistics.median(seconds)}
        for name, seconds in times.items()
    }


def _total(videos: list[Path], removal: Removal, workers: int, work: Path) -> dict[str, Any]:
    """Whole clips, workers already started being part of it: frames a second by the wall clock."""
    sources = [Source(f"{number}{video.suffix}", 0, video) for number, video in enumerate(videos)]
    sizes = {
        f"{(frame := next(read_video(s, fps=1, short_side=native(s)[1]))).shape[1]}x{frame.shape[0]}" for s in sources
    }
    rounds, frames, summary = [], 0, Summary(0, 0, 0, ())
    for _ in range(ROUNDS):
        out = work / "out"
        start = time.perf_counter()
        summary = remove_from_all(sources, ("x",), out, removal, b"a secret of a benchmark", workers=workers)
        wall = time.perf_counter() - start
        frames = sum(json.loads(line)["frames"] for line in (out / "removal.jsonl").read_text().splitlines())
        rounds.append(frames / wall)
        shutil.rmtree(out)
    return {
        "frames_per_second": statistics.median(rounds),
        "rounds": rounds,
        "frames": frames,
        "workers": workers,
        "size": ", ".join(sorted(sizes)),
        "kept": summary.kept,
        "dropped": summary.dropped,
    }


if __name__ == "__main__":
    sys.exit(main())
